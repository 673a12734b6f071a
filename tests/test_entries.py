"""Machines, groups and profiles: what each key of an entry means, and what is no value of it."""

from pathlib import Path

import pytest

from pixieboot.model import Arch, Group, Mac, Machine, Profile, Variant
from pixieboot.registry.yamldir import YamlDirectory
from tests.registryfiles import faults_of, tree


def test_a_machine_with_every_key(tmp_path: Path) -> None:
    text = """
        web1:
          macs: [52:54:00:12:34:56, 52-54-00-12-34-57, 5254.0012.3458, 525400123459]
          uuid: 4C4C4544-0042-3510-8052-B4C04F4E3732
          serial: 0123
          address: 192.168.77.10
          hostname: web1
          profile: local
          boot: once
          vars: {role: controller, port: 8080, version: 1.10, on: [no, true]}
          local_boot: exit0
          loader: {x64-efi: shimx64.efi}
          options: {ntp-servers: [10.0.0.1], 224: "0x0102", ipxe: {no-pxedhcp: 1}, 43: {6: 8}}
          reply_delay: 2s
          reply_style: binl
        """
    inventory = YamlDirectory(tree(tmp_path, {"machines.yaml": text})).load(7)
    assert inventory.version == 7
    assert inventory.machines["web1"] == Machine(
        name="web1",
        macs=tuple(Mac(f"52:54:00:12:34:{last}") for last in ("56", "57", "58", "59")),
        uuid="4c4c4544-0042-3510-8052-b4c04f4e3732",
        serial="0123",
        address="192.168.77.10",
        hostname="web1",
        profile="local",
        boot="once",
        vars={"role": "controller", "port": 8080, "version": "1.10", "on": ["no", True]},
        local_boot="exit0",
        loader={"x64-efi": "shimx64.efi"},
        options={42: bytes([10, 0, 0, 1]), 224: b"\x01\x02", 175: b"\xb0\1\1", 43: b"\6\1\x08\xff"},
        reply_delay=2.0,
        reply_style="binl",
        where=f"{tmp_path}/machines.yaml:2",
    )


def test_a_group_with_every_key(tmp_path: Path) -> None:
    text = """
        workers:
          match: {arch: 7, mac: 52-54-00-12-34-56, subnet: 192.168.77.0/24, platform: efi, rack: 012, uuid: 4C4C454400423510805 2}
          profile: menu
          vars: {role: worker}
          loader: snponly.efi
          options: {domain-name: lab.example}
        default: {profile: local}
        """.replace(", uuid: 4C4C454400423510805 2", ", uuid: 4C4C4544-0042-3510-8052-B4C04F4E3732")
    inventory = YamlDirectory(tree(tmp_path, {"groups.yaml": text})).load(1)
    assert inventory.groups["workers"] == Group(
        name="workers",
        match={
            "arch": "x64-efi",
            "mac": "52:54:00:12:34:56",
            "subnet": "192.168.77.0/24",
            "platform": "efi",
            "rack": "012",
            "uuid": "4c4c4544-0042-3510-8052-b4c04f4e3732",
        },
        profile="menu",
        vars={"role": "worker"},
        loader={"*": "snponly.efi"},
        options={15: b"lab.example"},
        where=f"{tmp_path}/groups.yaml:2",
    )
    assert inventory.groups["default"].match == {}


def test_a_profile_whose_files_this_host_fetches(tmp_path: Path) -> None:
    text = "p:\n  kernel: https://h/vmlinuz\n  initrd: [local.gz, 'http://h:8000/i?x=1']\n  cache: true\n"
    loaded = YamlDirectory(
        tree(tmp_path, {"profiles.yaml": text + f"  sha256: {{vmlinuz: {'AB' * 32}, 'http://h:8000/i?x=1': {'cd' * 32}}}\n"})
    ).load(1)
    profile = loaded.profiles["p"]
    assert profile.cache == "once" and profile.sha256 == {"vmlinuz": "ab" * 32, "http://h:8000/i?x=1": "cd" * 32}
    loose = "p: {kernel: 'http://h/{{ vars.k }}', cache: true, sha256: {k: " + "0" * 64 + "}}\n"
    assert YamlDirectory(tree(tmp_path, {"profiles.yaml": loose})).load(1).profiles["p"].cache == "once"


def test_a_profile_with_every_key(tmp_path: Path) -> None:
    files = {
        "profiles/flatcar.yaml": """
            title: Flatcar stable
            kernel: flatcar/vmlinuz
            initrd: [flatcar/a.cpio.gz, http://x/b.cpio.gz, "flatcar/{{ vars.version }}/c"]
            args: [a=1, "b={{ vars.b }}", 7]
            arch: {arm64-efi: {kernel: arm/vmlinuz, initrd: []}, 0: {args: [c]}}
            ignition: worker.ign.j2
            cloud: c.j2
            generic: c.j2
            files: {preseed: sub/p.j2}
            message: "Installing {{ machine.name }}"
            loader: ipxe.efi
            once_timeout: 2h
            on_timeout: hold
            """,
        "templates/worker.ign.j2": "{}",
        "templates/c.j2": "",
        "templates/sub/p.j2": "",
    }
    directory = YamlDirectory(tree(tmp_path, files))
    profile = directory.load(1).profiles["flatcar"]
    assert profile == Profile(
        name="flatcar",
        title="Flatcar stable",
        kernel="flatcar/vmlinuz",
        initrd=("flatcar/a.cpio.gz", "http://x/b.cpio.gz", "flatcar/{{ vars.version }}/c"),
        args=("a=1", "b={{ vars.b }}", "7"),
        arch={Arch.ARM64_EFI: Variant("arm/vmlinuz", ()), Arch.X86_BIOS: Variant(args=("c",))},
        documents={"ignition": "worker.ign.j2", "cloud": "c.j2", "generic": "c.j2", "preseed": "sub/p.j2"},
        message="Installing {{ machine.name }}",
        loader={"*": "ipxe.efi"},
        once_timeout=7200.0,
        on_timeout="hold",
        where=f"{tmp_path}/profiles/flatcar.yaml:2",
    )
    assert set(directory.load(2).templates) == {"worker.ign.j2", "c.j2", "sub/p.j2"}


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a machine that is no mapping": (
        {"machines.yaml": "a: 00:00:00:00:00:01\n"},
        "$/machines.yaml:1: machine a is '00:00:00:00:00:01', not a mapping. Write its keys indented below it: "
        "address, boot, hostname, loader, local_boot, mac, macs, options, profile, reply_delay, reply_style, serial, uuid, vars.",
    ),
    "mac and macs": (
        {"machines.yaml": "a: {mac: 00:00:00:00:00:01, macs: [00:00:00:00:00:02]}\n"},
        "$/machines.yaml:1: mac and macs are both there. Keep macs, with all addresses in it.",
    ),
    "a host name": (
        {"machines.yaml": "a: {serial: 1, hostname: web_1}\n"},
        "$/machines.yaml:1: 'web_1' is not a host name. Use letters, digits and dashes.",
    ),
    "a label that is a list": (
        {"groups.yaml": "g: {match: {rack: [1, 2]}}\n"},
        "$/groups.yaml:1: the label rack is a list, not one value. Write one value, such as `rack: VALUE`.",
    ),
    "a label that cannot be": (
        {"groups.yaml": "g: {match: {'a b': 1}}\n"},
        "$/groups.yaml:1: 'a b' cannot be a label. Use letters, digits, dots, dashes and underscores.",
    ),
    "a platform": (
        {"groups.yaml": "g: {match: {platform: uefi}}\n"},
        "$/groups.yaml:1: platform is 'uefi', want bios or efi. Did you mean 'efi'?",
    ),
    "an expression that is none": (
        {"profiles.yaml": "p:\n  kernel: k\n  args:\n    - a\n    - b={{ vars. }}\n"},
        "$/profiles.yaml:5: args: expected name or number. Correct the expression between {{ and }}.",
    ),
    "a checksum that is none": (
        {"profiles.yaml": "p:\n  kernel: http://h/k\n  cache: true\n  sha256:\n    k: 12ab\n"},
        "$/profiles.yaml:5: the checksum of k is no SHA-256. Write the 64 digits that `sha256sum` prints.",
    ),
    "a checksum of another file": (
        {"profiles.yaml": f"p:\n  kernel: http://h/vmlinuz\n  cache: true\n  sha256:\n    vmlinux: {'a' * 64}\n"},
        "$/profiles.yaml:5: sha256 names 'vmlinux', which is no file that profile p fetches. Did you mean 'vmlinuz'?",
    ),
    "a checksum that nobody looks at": (
        {"profiles.yaml": f"p:\n  kernel: http://h/k\n  sha256:\n    k: {'a' * 64}\n"},
        "$/profiles.yaml:4: sha256 is there without cache, and only what this host fetches is looked at. Add `cache: true`.",
    ),
    "nothing to fetch": (
        {"profiles.yaml": "p:\n  kernel: k\n  cache: true\n"},
        "$/profiles.yaml:3: profile p names no URL to fetch. Take `cache` out: files below assets are here already.",
    ),
    "what cannot be fetched": (
        {"profiles.yaml": "p:\n  kernel: tftp://h/k\n  cache: true\n"},
        "$/profiles.yaml:3: tftp://h/k cannot be fetched by this host. "
        "Write http:// or https:// without a user, or put the file below assets.",
    ),
    "a document twice": (
        {"profiles.yaml": "p: {kernel: k, cloud: a, files: {cloud: a}}\n", "templates/a": ""},
        "$/profiles.yaml:1: cloud is there twice, below files and beside it. Keep one of the two.",
    ),
    "a document without a name": (
        {"profiles.yaml": "p:\n  kernel: k\n  files:\n    preseed:\n"},
        "$/profiles.yaml:4: files: preseed is empty, not the name of a template. Write `KIND: FILE` below files.",
    ),
}


@pytest.mark.parametrize("files, message", WRONG.values(), ids=WRONG)
def test_wrong_entries(tmp_path: Path, files: dict[str, str], message: str) -> None:
    assert faults_of(tmp_path, files) == [message]
