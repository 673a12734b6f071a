"""Registry directories: what files mean; what is parsed again after an edit."""

import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pixieboot.errors import Faults
from pixieboot.model import Arch, Group, Mac, Machine, Profile, Variant
from pixieboot.registry import yamldir
from pixieboot.registry.strictyaml import parse
from pixieboot.registry.yamldir import YamlDirectory


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return root


def faults_of(root: Path, files: dict[str, str]) -> list[str]:
    try:
        YamlDirectory(tree(root, files)).load(1)
    except Faults as error:
        return [str(fault).replace(str(root), "$") for fault in error.faults]
    return []


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
          options: {ntp-servers: [10.0.0.1], 224: "0x0102"}
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
        options={42: bytes([10, 0, 0, 1]), 224: b"\x01\x02"},
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


def test_files_of_one_and_of_many(tmp_path: Path) -> None:
    files = {
        "machines.yaml": "a: {mac: 00:00:00:00:00:01}\n",
        "machines/b.yaml": "mac: 00:00:00:00:00:02\n",
        "machines/.c.yaml.swp": "rubbish: [",
        "machines/d.yaml~": "rubbish: [",
        "profiles/p.yaml": "local: true\n",
        "README": "not ours",
    }
    inventory = YamlDirectory(tree(tmp_path, files)).load(1)
    assert set(inventory.machines) == {"a", "b"}
    assert set(inventory.profiles) == {"menu", "local", "p"}


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a name that is taken": (
        {"machines.yaml": "a: {mac: 00:00:00:00:00:01}\n", "machines/a.yaml": "mac: 00:00:00:00:00:02\n"},
        "$/machines/a.yaml:1: there is a machine a already at $/machines.yaml:1. Rename one of the two.",
    ),
    "a name that cannot be": (
        {"machines.yaml": "web 1: {mac: 00:00:00:00:00:01}\n"},
        "$/machines.yaml:1: 'web 1' cannot be the name of a machine. Use letters, digits, dots, dashes and underscores.",
    ),
    "a file of the wrong suffix": (
        {"machines.yml": "a: {mac: 00:00:00:00:00:01}\n"},
        "$/machines.yml: this file is not read. Rename it to machines.yaml.",
    ),
    "a file of the wrong suffix in its directory": (
        {"machines/a.json": "{}"},
        "$/machines/a.json: this file is not read: a file of machines/ ends in .yaml. Rename it to a.yaml, or move it away.",
    ),
    "a list of machines": (
        {"machines.yaml": "- mac: 00:00:00:00:00:01\n"},
        "$/machines.yaml:1: the file holds a list, not a mapping of names to machines. "
        "Write `NAME:` and below it, indented, the keys of the machine.",
    ),
    "a machine that is no mapping": (
        {"machines.yaml": "a: 00:00:00:00:00:01\n"},
        "$/machines.yaml:1: machine a is '00:00:00:00:00:01', not a mapping. Write its keys indented below it: "
        "address, boot, hostname, loader, local_boot, mac, macs, options, profile, reply_delay, reply_style, serial, uuid, vars.",
    ),
    "mac and macs": (
        {"machines.yaml": "a: {mac: 00:00:00:00:00:01, macs: [00:00:00:00:00:02]}\n"},
        "$/machines.yaml:1: mac and macs are both there. Keep macs, with all addresses in it.",
    ),
    "a serial number twice, in another case": (
        {"machines.yaml": "a: {serial: AB1}\nb: {serial: ab1}\n"},
        "$/machines.yaml:2: machine b has the serial number ab1 of machine a ($/machines.yaml:1). Correct one of the two.",
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
    "a group's profile": (
        {"groups.yaml": "g:\n  match: {rack: 1}\n  profile: nothing\n"},
        "$/groups.yaml:3: profile 'nothing' does not exist. Profiles live in $/profiles.yaml and $/profiles/.",
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
    "a script that is not there": (
        {"profiles.yaml": "p:\n  script: s.ipxe.j2\n", "templates/t.ipxe.j2": ""},
        "$/profiles.yaml:2: script of profile p names the template 's.ipxe.j2', which does not exist. "
        "Did you mean 't.ipxe.j2'? Templates live in $/templates.",
    ),
    "a document of another name that is not there": (
        {"profiles.yaml": "p:\n  kernel: k\n  files:\n    a: b\n    preseed: zzz\n", "templates/b": ""},
        "$/profiles.yaml:5: preseed of profile p names the template 'zzz', which does not exist. Templates live in $/templates.",
    ),
    "an include that is not there": (
        {"templates/a": "x\n{% include 'pixieboot/done.preseed.j2' %}\n{% include 'bb' %}\n", "templates/b": ""},
        "$/templates/a:3: the template 'bb' does not exist. Did you mean 'b'? Templates live in $/templates.",
    ),
    "Ignition that is no JSON": (
        {"profiles.yaml": "p: {kernel: k, ignition: a.ign}\n", "templates/a.ign": "{\n  a: 1\n}"},
        "$/templates/a.ign:2: this Ignition configuration is not JSON: Expecting property name enclosed in double quotes. "
        "Correct it, or call it NAME.bu if it is Butane.",
    ),
    "a template that is no text": (
        {"templates/a": "\udcff"},
        "$/templates/a:1: this is not UTF-8 text. Save the file as plain UTF-8 text.",
    ),
}


@pytest.mark.parametrize("files, message", WRONG.values(), ids=WRONG)
def test_wrong_files(tmp_path: Path, files: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda path, text: path.write_bytes(text.encode(errors="surrogateescape")))
    assert faults_of(tmp_path, files) == [message]


def test_an_include_that_may_be_missing_or_has_no_fixed_name(tmp_path: Path) -> None:
    files = {"templates/a": "{% include 'zzz' ignore missing %}{% include vars.name %}{% import 'b' as b %}", "templates/b": ""}
    assert faults_of(tmp_path, files) == []


@pytest.mark.parametrize("installed", [True, False])
def test_butane_that_is_not_installed_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr("pixieboot.registry.butane.program", lambda: "butane" if installed else None)
    files = {"profiles.yaml": "p: {kernel: k, ignition: a.bu}\n", "templates/a.bu": "variant: fcos\n"}
    directory = YamlDirectory(tree(tmp_path, files))
    directory.load(1)
    assert [note.where for note in directory.notes] == ([] if installed else [f"{tmp_path}/templates/a.bu"])


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    os.mkfifo(tmp_path / "machines" / "web1.yaml")
    assert faults_of(tmp_path, {}) == ["$/machines/web1.yaml: this is no file. Move it away."]


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines/web1.yaml").symlink_to("nowhere")
    assert faults_of(tmp_path, {})[0].startswith("$/machines/web1.yaml: it cannot be read (No such file or directory). ")


# --- edits ---------------------------------------------------------------------------------------------------------------


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parsed: list[str] = []

    def counted(text: str, name: str, *rest: Any) -> Any:
        parsed.append(text)
        return parse(text, name, *rest)

    monkeypatch.setattr("pixieboot.registry.yamldir.parse", counted)
    return parsed


def machines(count: int) -> str:
    return "# a fleet\n\n" + "".join(f"m{n}:\n  mac: {Mac.of(n.to_bytes(6))}\n  vars: {{n: {n}}}\n\n# next\n" for n in range(count))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[YamlDirectory, Path, list[str]]:
    """A directory whose machines.yaml is large enough to be remembered entry by entry, loaded once."""
    monkeypatch.setattr(yamldir, "_MANY", 100)
    directory = YamlDirectory(tree(tmp_path, {"machines.yaml": machines(20)}))
    directory.load(1)
    return directory, tmp_path / "machines.yaml", count_parses(monkeypatch)


def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = YamlDirectory(tree(tmp_path, {f"machines/m{n}.yaml": f"mac: {Mac.of(n.to_bytes(6))}\n" for n in range(5)}))
    first = directory.load(1)
    parsed = count_parses(monkeypatch)
    (tmp_path / "machines/m3.yaml").write_text("serial: x\n")
    (tmp_path / "machines/m4.yaml").unlink()
    second = directory.load(2)
    assert parsed == ["serial: x\n"]
    assert second.machines["m1"] is first.machines["m1"]
    assert set(second.machines) == {"m0", "m1", "m2", "m3"}


EDITS = {
    "a value": ("vars: {n: 7}", "vars: {n: 700}", 1),
    "a new first line": ("# a fleet", "# a fleet\n# of many", 0),
    "an entry more": ("m9:\n", "new: {serial: x}\nm9:\n", 1),
    "an entry less": (f"m9:\n  mac: {Mac.of((9).to_bytes(6))}\n  vars: {{n: 9}}\n\n# next\n", "", 0),
    "a comment": ("m5:\n", "m5:  # the fifth\n", 1),
    "a comment at the margin": ("  vars: {n: 5}\n", "# at the margin\n  vars: {n: 5, m: 1}\n", 1),
    "an anchor: the whole file": ("vars: {n: 7}", "vars: &v {n: 7}", 1),
}


@pytest.mark.parametrize("old, new, parses", EDITS.values(), ids=EDITS)
def test_an_edit_of_a_large_file_costs_its_own_entry(
    large: tuple[YamlDirectory, Path, list[str]], old: str, new: str, parses: int
) -> None:
    directory, path, parsed = large
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    edited = directory.load(2)
    assert len(parsed) == parses
    assert edited.machines == YamlDirectory(path.parent).load(2).machines  # lines and all


BAD_EDITS = {
    "a name twice": ("m9:\n", "m8:\n", "there is a machine m8 already|the key 'm8' is there already"),
    "a bad value": ("vars: {n: 7}", "boot: never", "boot is 'never'"),
    "an open bracket": ("vars: {n: 7}", "vars: {n: 7", "this is not YAML"),
}


@pytest.mark.parametrize("old, new, message", BAD_EDITS.values(), ids=BAD_EDITS)
def test_a_bad_edit_of_a_large_file_reads_as_if_it_were_small(
    large: tuple[YamlDirectory, Path, list[str]], old: str, new: str, message: str
) -> None:
    directory, path, _ = large
    good = path.read_text()
    path.write_text(good.replace(old, new, 1))
    with pytest.raises(Faults, match=message) as raised:
        directory.load(2)
    with pytest.raises(Faults) as afresh:
        YamlDirectory(path.parent).load(1)
    assert [str(fault) for fault in raised.value.faults] == [str(fault) for fault in afresh.value.faults]
    path.write_text(good)
    assert len(directory.load(3).machines) == 20


def test_templates_stay_the_same_object_until_one_changes(tmp_path: Path) -> None:
    directory = YamlDirectory(tree(tmp_path, {"templates/a": "x", "machines.yaml": "a: {serial: 1}\n"}))
    first = directory.load(1)
    (tmp_path / "machines.yaml").write_text("b: {serial: 1}\n")
    assert directory.load(2).templates is first.templates
    (tmp_path / "templates/a").write_text("yy")
    assert directory.load(3).templates == {"a": "yy"}
    assert first.templates == {"a": "x"}


def test_the_signature_differs_after_any_edit(tmp_path: Path) -> None:
    files = {"machines.yaml": "a: {serial: 1}\n", "machines/b.yaml": "serial: 2\n", "templates/sub/t": "x"}
    directory = YamlDirectory(tree(tmp_path, files))
    seen = [directory.signature()]
    for name in files:
        (tmp_path / name).write_text(f"{files[name]}# edited\n")
        seen.append(directory.signature())
    (tmp_path / "machines/b.yaml").unlink()
    seen.append(directory.signature())
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])
