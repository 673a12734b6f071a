"""Settings: defaults, every key, the options above them, and ten broken configurations with what `check` says of them."""
# ruff: noqa: E501  (messages are kept whole: they are what an operator reads)

from ipaddress import IPv4Network
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pixieboot import config
from pixieboot.config import HttpSettings, LogSettings, Settings, TftpSettings, check, load
from pixieboot.errors import Faults
from pixieboot.model import Arch, Network, Pool, Profile

POOL = Pool(0xC0A84D64, 0xC0A84DC7)  # 192.168.77.100-192.168.77.199


def written(directory: Path, text: str) -> Path:
    path = directory / "pixieboot.yaml"
    path.write_text(dedent(text))
    return path


def faults_of(path: Path | None, overrides: dict[str, Any] | None = None) -> list[str]:
    try:
        load(path, overrides or {})
    except Faults as error:
        return [str(fault) for fault in error.faults]
    return []


def test_without_a_file_the_defaults_hold() -> None:
    settings = load(None, {})
    assert settings == Settings()
    assert settings.networks == () and settings.unknown is None and settings.registry == "/etc/pixieboot"
    assert settings.loaders == {
        Arch.X86_BIOS: "undionly.kpxe",
        Arch.X86_EFI: "ipxe-i386.efi",
        Arch.X64_EFI: "ipxe.efi",
        Arch.ARM64_EFI: "ipxe-arm64.efi",
    }


def test_every_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        networks:
          - interface: eth0
            dhcp: off
          - interface: eth1
            dhcp: server
            pools: [192.168.77.100-192.168.77.199, 192.168.77.250]
            routers: [192.168.77.1]
            dns: 192.168.77.1
            domain: lab.example
            lease_time: 2h
            min_lease_time: 10m
            max_lease_time: 7d
            authoritative: true
            identify_by: client-id
            probe: false
            options: {ntp-servers: [192.168.77.1], 224: "0x0102"}
            force: true
          - subnet: 10.20.0.0/24
            dhcp: server
            pools: [10.20.0.50-10.20.0.250]
        answer: known
        unknown: local
        tftp: {root: boot, port: 6969, single_port: true, ports: 30000-30999, max_blksize: 1024, max_windowsize: 8, follow_links: true}
        http: {port: 80, base_url: "http://boot.example:8080/"}
        api: {listen: 127.0.0.1:8081}
        assets: /srv/assets
        registry: registry
        state: sqlite:state.db
        loaders: {x64-efi: snponly.efi, 10: arm32.efi}
        cache: {size: 2GiB}
        log: {level: debug, format: json}
        """,
    )
    settings = load(path, {})
    first, second, third = settings.networks
    assert (first.interface, first.mode) == ("eth0", "off")
    assert second == Network(
        interface="eth1",
        mode="server",
        pools=(POOL, Pool(0xC0A84DFA, 0xC0A84DFA)),
        routers=("192.168.77.1",),
        dns=("192.168.77.1",),
        domain="lab.example",
        lease_time=7200,
        min_lease_time=600,
        max_lease_time=604800,
        authoritative=True,
        identify_by="client-id",
        probe=False,
        options={42: bytes([192, 168, 77, 1]), 224: b"\x01\x02"},
        force=True,
        where=f"{path}:5",
    )
    assert (third.interface, third.subnet, third.mode) == (None, IPv4Network("10.20.0.0/24"), "server")
    assert (settings.answer, settings.unknown, settings.assets) == ("known", "local", Path("/srv/assets"))
    assert settings.tftp == TftpSettings(tmp_path / "boot", 6969, True, (30000, 30999), 1024, 8, True)
    assert settings.http == HttpSettings(80, "http://boot.example:8080")
    assert settings.api.listen == "127.0.0.1:8081"
    assert settings.registry == str(tmp_path / "registry")
    assert settings.state == f"sqlite:{tmp_path}/state.db"
    assert settings.loaders[Arch.X64_EFI] == "snponly.efi" and settings.loaders[Arch.ARM32_EFI] == "arm32.efi"
    assert settings.cache.size == 2 << 30
    assert settings.log == LogSettings("debug", "json")
    assert settings.path == path


def test_a_long_lease_moves_the_limit_that_is_not_set(tmp_path: Path) -> None:
    path = written(tmp_path, "networks: [{interface: eth0, lease_time: 30d}, {interface: eth1, lease_time: 60s}]")
    first, second = load(path, {}).networks
    assert (first.lease_time, first.max_lease_time) == (30 * 86400, 30 * 86400)
    assert (second.lease_time, second.min_lease_time) == (60, 60)


TWO = """
networks:
  - interface: eth0
    domain: home.example
  - interface: eth1
    dhcp: server
    pools: [192.168.77.100-192.168.77.199]
"""
OVERRIDES: dict[str, tuple[str, dict[str, Any], list[tuple[str | None, str, int]]]] = {  # interface, mode, number of pools
    "-i replaces networks": (TWO, {"interfaces": ("eth2",)}, [("eth2", "proxy", 0)]),
    "-i keeps what the file says of the interface": (TWO, {"interfaces": ("eth1",)}, [("eth1", "server", 1)]),
    "-i twice": (TWO, {"interfaces": ("eth1", "eth2", "eth1")}, [("eth1", "server", 1), ("eth2", "proxy", 0)]),
    "--dhcp is for all": (TWO, {"dhcp": "proxy"}, [("eth0", "proxy", 0), ("eth1", "proxy", 0)]),
    "a whole server by options": (
        "",
        {"interfaces": ("eth3",), "dhcp": "server", "pool": "192.168.77.100-192.168.77.199"},
        [("eth3", "server", 1)],
    ),
    "--pool replaces the file's": (
        TWO,
        {"pool": "192.168.77.2-192.168.77.3,192.168.77.9"},
        [("eth0", "proxy", 0), ("eth1", "server", 2)],
    ),
    "--dhcp proxy without networks says what holds anyway": ("", {"dhcp": "proxy"}, []),
}


@pytest.mark.parametrize("text, overrides, networks", OVERRIDES.values(), ids=OVERRIDES)
def test_options_win_over_the_file(
    tmp_path: Path, text: str, overrides: dict[str, Any], networks: list[tuple[str | None, str, int]]
) -> None:
    settings = load(written(tmp_path, text), overrides)
    assert [(network.interface, network.mode, len(network.pools)) for network in settings.networks] == networks


def test_the_other_options_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "http: {port: 80}\ntftp: {root: /a, port: 6969}\nassets: /b\nstate: sqlite:/c\n")
    settings = load(path, {"http_port": 8088, "tftp_root": Path("/d"), "assets": Path("/e"), "state": "sqlite:/f"})
    assert (settings.http.port, settings.tftp.root, settings.tftp.port) == (8088, Path("/d"), 6969)
    assert (settings.assets, settings.state) == (Path("/e"), "sqlite:/f")


WRONG_OPTIONS = {
    "a server nowhere": (
        {"dhcp": "server"},
        "--dhcp (PIXIEBOOT_DHCP): it is not said on which network. Name the interface, such as -i eth1.",
    ),
    "a pool nowhere": (
        {"pool": "10.0.0.1-10.0.0.2"},
        "--pool (PIXIEBOOT_POOL): it is not said on which network. Name the interface, such as -i eth1.",
    ),
    "a mode that there is not": (
        {"interfaces": ("eth0",), "dhcp": "servr"},
        "--dhcp (PIXIEBOOT_DHCP): 'servr' is no mode. Did you mean 'server'?",
    ),
    "a pool that is none": (
        {"interfaces": ("eth0",), "dhcp": "server", "pool": "192.168.77.300"},
        "--pool (PIXIEBOOT_POOL): '192.168.77.300' is not a range of IPv4 addresses. "
        "Write the first and the last address, such as 192.168.77.100-192.168.77.199.",
    ),
    "a pool in proxy mode": (
        {"interfaces": ("eth0",), "pool": "10.0.0.1-10.0.0.2"},
        "--pool (PIXIEBOOT_POOL): 0 networks lease addresses, and a pool belongs to one. Add --dhcp server.",
    ),
    "a pool for two": (
        {"interfaces": ("eth0", "eth1"), "dhcp": "server", "pool": "10.0.0.1-10.0.0.2"},
        "--pool (PIXIEBOOT_POOL): 2 networks lease addresses, and a pool belongs to one. "
        "Name the one interface: -i eth1 --dhcp server --pool A-B.",
    ),
    "a server without a pool": (
        {"interfaces": ("eth0",), "dhcp": "server"},
        "--dhcp (PIXIEBOOT_DHCP): a server without a pool has no address to lease. "
        "Add --pool. Write the first and the last address, such as 192.168.77.100-192.168.77.199.",
    ),
    "no interface's name": (
        {"interfaces": ("eth0 up",)},
        "--interface (PIXIEBOOT_INTERFACE): 'eth0 up' is no name of an interface. Write a name that `ip link` shows, such as eth0.",
    ),
    "a command line without a kernel": (
        {"cmdline": "quiet"},
        "--cmdline (PIXIEBOOT_CMDLINE): it is not said with which kernel. Add --kernel FILE or URL.",
    ),
    "a kernel that is not there": (
        {"kernel": "/nowhere/vmlinuz"},
        "--kernel (PIXIEBOOT_KERNEL): /nowhere/vmlinuz is no file. Name a file of this host, or a URL.",
    ),
    "a kernel by another protocol": (
        {"kernel": "tftp://h/vmlinuz"},
        "--kernel (PIXIEBOOT_KERNEL): tftp://h/vmlinuz is neither a file nor an http or https address. Name one of these.",
    ),
    "an initrd that is a directory": (
        {"kernel": "http://h/k", "initrds": ("/etc",)},
        "--initrd (PIXIEBOOT_INITRD): /etc is no file. Name a file of this host, or a URL.",
    ),
    "an expression that is none": (
        {"kernel": "http://h/k", "cmdline": "a={{ url( }}"},
        "--cmdline (PIXIEBOOT_CMDLINE): unexpected '}', expected ')'. Correct the expression between {{ and }}.",
    ),
    "a store that there is not": (
        {"state": "postgresql://db/pixieboot"},
        "--state (PIXIEBOOT_STATE): state is 'postgresql://db/pixieboot', which is no store that pixieboot has. "
        "Write sqlite: and a path, such as sqlite:/var/lib/pixieboot/state.db.",
    ),
}


def test_what_every_machine_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("vmlinuz", "my initrd", "cfg"):
        (tmp_path / name).write_text("x")
    given = {
        "kernel": "vmlinuz",
        "initrds": ("my initrd", "https://h/i"),
        "cmdline": 'a="b c" done={{ url(\'done\') }} cfg={{ ID "./cfg" }}',
        "message": "Hello",
    }
    settings = load(None, given)
    kernel, initrd, extra = (f"file://{tmp_path}/{name}" for name in ("vmlinuz", "my%20initrd", "cfg"))
    assert settings.boot == Profile(
        "command-line",
        "vmlinuz",
        kernel,
        (initrd, "https://h/i"),
        ('a="b c"', "done={{ url('done') }}", f'cfg={{{{ asset("{extra}") }}}}'),
        message="Hello",
        cache="fresh",
        where="--kernel",
    )
    assert settings.file_of(initrd) == (Path("/"), f"{tmp_path}/my initrd") and settings.file_of(extra)
    assert settings.file_of("file:///etc/passwd") is None


def test_a_registry_that_is_asked(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "registry: pixiecore+https://h:8443/api\npixiecore: {files: images}\n"), {})
    assert (settings.registry, settings.unknown) == ("pixiecore+https://h:8443/api", "ignore")
    assert settings.file_of(f"file://{tmp_path}/images/a/k%201") == (tmp_path / "images", "a/k 1")
    assert settings.file_of(f"file://{tmp_path}/other") is None
    assert load(written(tmp_path, "registry: pixiecore+http://h\nunknown: menu\n"), {}).unknown == "menu"
    (fault,) = faults_of(written(tmp_path, "registry: http://h/api\n"))
    assert "registry is 'http://h/api', which is no registry that pixieboot has. Write a directory, or pixiecore+http" in fault


@pytest.mark.parametrize("overrides, message", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_wrong_options(overrides: dict[str, Any], message: str) -> None:
    assert message in faults_of(None, overrides)


WRONG_SETTINGS = {  # one line or two of a file, what is said of it (without the file's name)
    "no mapping": ("- a\n", "1: the settings is a list, not a mapping. Write its keys indented below it: "),
    "an unknown key": ("netwroks: []\n", "1: unknown key 'netwroks' in the settings. Did you mean 'networks'?"),
    "a key like no other": ("zzz: 1\n", "1: unknown key 'zzz' in the settings. Known keys: answer, api, assets, cache, http, key_ring, "
                            "loaders, log, networks, pixiecore, registry, state, tftp, unknown."),
    "an unknown key in a section": ("tftp:\n  rot: x\n", "2: unknown key 'rot' in tftp. Did you mean 'root'?"),
    "a section that is none": ("http: 80\n", "1: http is '80', not a mapping. Write its keys indented below it: base_url, port."),
    "networks that are no list": ("networks: {interface: eth0}\n", "1: networks is a mapping, not a list. "
                                  "Begin each network with a dash: `- interface: eth0`."),
    "a network of nowhere": ("networks: [{dhcp: proxy}]\n", "1: the network names neither an interface nor a subnet. "
                             "Add `interface: eth0`, or the subnet behind a relay."),
    "a network twice": ("networks:\n- interface: a\n- interface: a\n", "3: a is described already at $:2. Make one network of the two."),
    "pools without a server": ("networks: [{interface: a, pools: [10.0.0.1-10.0.0.2]}]\n",
                               "1: pools are there, but dhcp is proxy. Write `dhcp: server`, or remove the pools."),
    "a server without pools": ("networks: [{interface: a, dhcp: server}]\n", "1: dhcp: server without pools has no address to lease. "
                               "Add `pools: [192.168.77.100-192.168.77.199]`, or `pools: []` if only reservations are to be leased."),
    "a pool that is upside down": ("networks: [{interface: a, dhcp: server, pools: [10.0.0.9-10.0.0.2]}]\n",
                                   "1: the pool 10.0.0.9-10.0.0.2 ends before it begins. "
                                   "Write the first and the last address, such as 192.168.77.100-192.168.77.199."),
    "a pool outside": ("networks: [{subnet: 10.0.0.0/24, dhcp: server, pools: [10.0.1.1-10.0.1.2]}]\n",
                       "1: the pool 10.0.1.1-10.0.1.2 does not lie in 10.0.0.0/24. Correct the pool or the subnet."),
    "pools that overlap": ("networks:\n- {interface: a, dhcp: server, pools: [10.0.0.1-10.0.0.9]}\n"
                           "- {interface: b, dhcp: server, pools: [10.0.0.9-10.0.0.19]}\n",
                           "3: the pool 10.0.0.9-10.0.0.19 overlaps one of the network at $:2. Give every address to one network only."),
    "a subnet with host bits": ("networks: [{subnet: 10.0.0.1/24}]\n", "1: '10.0.0.1/24' is not an IPv4 network. "
                                "Write the network's own address, such as 10.20.0.0/24."),
    "a name of an interface": ("networks: [{interface: an/interface}]\n", "1: 'an/interface' is no name of an interface. "
                               "Write a name that `ip link` shows, such as eth0."),
    "a router": ("networks: [{interface: a, routers: [10.0.0]}]\n", "1: routers is '10.0.0', not an IPv4 address. "
                 "Write four numbers from 0 to 255, such as 192.168.77.10."),
    "a domain": ("networks: [{interface: a, domain: -x.y}]\n", "1: '-x.y' is not a domain name. Write for example lab.example."),
    "a time without its unit": ("networks: [{interface: a, lease_time: 3600}]\n",
                                "1: lease_time is '3600', want a time such as 90s, 15m, 12h or 7d. Write `lease_time: 3600s` for seconds."),
    "a time that is none": ("networks: [{interface: a, lease_time: long}]\n",
                            "1: lease_time is 'long', want a time such as 90s, 15m, 12h or 7d. Write for example `lease_time: 12h`."),
    "a time that is too short": ("networks: [{interface: a, lease_time: 1s}]\n", "1: lease_time is 1s, which is too short. The least is 2s."),
    "a lease beyond its limit": ("networks: [{interface: a, lease_time: 2d, max_lease_time: 1d}]\n",
                                 "1: lease_time of 172800 s does not lie between 120 and 86400 s. "
                                 "Let min_lease_time <= lease_time <= max_lease_time."),
    "yes for true": ("tftp: {single_port: yes}\n", "1: single_port is 'yes', want true or false. Write `single_port: true`."),
    "a mode": ("networks: [{interface: a, dhcp: false}]\n", "1: dhcp is 'false', want proxy, server or off. Write proxy, server or off."),
    "an option": ("networks: [{interface: a, options: {ntp-servrs: [10.0.0.1]}}]\n", "1: "),
    "an option without a value": ("networks: [{interface: a, options: {42: }}]\n",
                                  "1: the DHCP option 42 is empty. Give it a value, a list of values, or sub-options."),
    "an option with no sub-options": ("networks: [{interface: a, options: {43: {}}}]\n",
                                      "1: the DHCP option 43 is empty. Give it a value, a list of values, or sub-options."),
    "an option that has no sub-options": ("networks: [{interface: a, options: {ntp-servers: {6: 8}}}]\n",
                                          "1: option ntp-servers (42): {'6': 8} is not an IPv4 address such as 192.168.77.1. "
                                          'Write options by name or number: `{ntp-servers: [192.168.77.1], 224: "0x0102"}`.'),
    "an option twice": ("networks: [{interface: a, options: {42: 10.0.0.1, ntp-servers: 10.0.0.2}}]\n",
                        "1: the DHCP option ntp-servers is there twice, by name and by number. Keep one of the two."),
    "a port": ("http: {port: 0}\n", "1: port is '0', want a number from 1 to 65535. Write for example `port: 8080`."),
    "ports of 5,000 digits": (f"tftp: {{ports: 1-{'9' * 5000}}}\n", f"1: ports is '1-{'9' * 5000}', want a range such as 30000-30999. "
                              "Write the first and the last port, such as 30000-30999."),
    "ports": ("tftp: {ports: 900-1}\n", "1: ports is '900-1', want a range such as 30000-30999. "
              "Write the first and the last port, such as 30000-30999."),
    "a size": ("tftp: {max_blksize: 1.5KiB}\n", "1: max_blksize is '1.5KiB', want a size from 8 to 65464 bytes. "
               "Write bytes, or KiB as in 64KiB."),
    "a base_url": ("http: {base_url: boot.example}\n", "1: base_url is 'boot.example', not the address of a web server. "
                   "Write auto, or for example http://192.168.77.1:8080."),
    "an address to listen on": ("api: {listen: 8081}\n", "1: listen is '8081', want ADDRESS:PORT. "
                                "Write same, or for example 127.0.0.1:8081."),
    "another address to listen on": ("api: {listen: '1.2.3.400:80'}\n", "1: listen is '1.2.3.400:80', want ADDRESS:PORT. "
                                     "Write same, or for example 127.0.0.1:8081."),
    "a store": ("state: state.db\n", "1: state is 'state.db', which is no store that pixieboot has. "
                "Write sqlite: and a path, such as sqlite:/var/lib/pixieboot/state.db."),
    "an architecture": ("loaders: {x86_64: ipxe.efi}\n", "1: 'x86_64' is not an architecture. Did you mean 'x64-efi'?"),
    "another architecture": ("loaders: {x64-uefi: ipxe.efi}\n", "1: 'x64-uefi' is not an architecture. Did you mean 'x64-efi'?"),
    "a number of no architecture": ("loaders: {99: ipxe.efi}\n", "1: '99' is not an architecture. Write x86-bios, x86-efi, x64-efi, "
                                    "arm64-efi or another name of the table, or IANA's number."),
    "a loader outside": ("loaders: {x64-efi: ../ipxe.efi}\n", "1: loaders for x64-efi is '../ipxe.efi', which does not lie below its root. "
                         "Write the path as it is below that directory."),
    "a loader that is no file": ("loaders: {x64-efi: [a]}\n", "1: loaders for x64-efi is a list, not a file name. Write `x64-efi: FILE`."),
    "a list where one value belongs": ("assets: [a]\n", "1: assets is a list, not a text. Write one value: `assets: VALUE`."),
    "a mapping in a list of texts": ("networks: [{interface: a, dns: [{a: b}]}]\n", "1: dns holds a mapping where a text is wanted. "
                                     "Put the text in quotes if it holds : { } [ ] or #."),
    "no mapping of loaders": ("loaders: ipxe.efi\n", "1: loaders of the settings is 'ipxe.efi', not a mapping. "
                              "Write `loaders: {NAME: VALUE}`."),
    "a level": ("log: {level: verbose}\n", "1: level is 'verbose', want debug, info, warning or error. "
                "Write debug, info, warning or error."),
}  # fmt: skip


@pytest.mark.parametrize("text, message", WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    told = faults_of(path)
    expected = f"{path}:{message.replace('$', str(path))}"
    assert any(line.startswith(expected) if message.endswith(" ") else line == expected for line in told), told


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "answr: all\nunknown: menu\ntftp: {port: x}\nnetworks: [{interface: a, dhcp: no}]\n")
    assert [line.split(": ")[0] for line in faults_of(path)] == [f"{path}:1", f"{path}:4", f"{path}:3"]


# --- check: settings and registry together -----------------------------------------------------------------------------------

PROFILES = "flatcar:\n  kernel: flatcar/vmlinuz\n"
BROKEN: dict[str, tuple[dict[str, str], list[str]]] = {  # files, all that check says ($ is the directory)
    "a profile misspelt": (
        {"machines/web1.yaml": "mac: 52:54:00:12:34:56\nhostname: web1\nprofile: flatcra\n", "profiles.yaml": PROFILES},
        [
            "$/machines/web1.yaml:3: profile 'flatcra' does not exist. Did you mean 'flatcar'? "
            "Profiles live in $/profiles.yaml and $/profiles/."
        ],
    ),
    "two machines with one MAC address": (
        {"machines.yaml": "web1: {mac: 52:54:00:12:34:56}\n", "machines/web2.yaml": "# web2\nmacs: [5254.0012.3456]\n"},
        ["$/machines/web2.yaml:2: machine web2 has the MAC address 52:54:00:12:34:56 of machine web1 ($/machines.yaml:1). Correct one of the two."],
    ),
    "a key misspelt, another twice": (
        {"machines.yaml": "web1:\n  mac: 52:54:00:12:34:56\n  profle: menu\n  vars: {a: 1}\n  vars: {b: 2}\n"},
        [
            "$/machines.yaml:3: unknown key 'profle' in machine web1. Did you mean 'profile'?",
            "$/machines.yaml:5: the key 'vars' is there already on line 4. Keep one of the two.",
        ],
    ),
    "a MAC address that is none": (
        {"machines.yaml": "web1: {mac: 52:54:00:12:34}\n"},
        [
            "$/machines.yaml:1: '52:54:00:12:34' is not a MAC address such as 52:54:00:12:34:56. "
            "Write six pairs of hexadecimal digits, such as 52:54:00:12:34:56."
        ],
    ),
    "a template with a syntax error, and one that is not there": (
        {
            "profiles.yaml": "a:\n  kernel: k\n  ignition: wrker.ign.j2\n  cloud: cloud.j2\n",
            "templates/worker.ign.j2": "{}\n",
            "templates/cloud.j2": "#cloud-config\n{% if vars.x %}\nx: 1\n",
        },
        [
            "$/profiles.yaml:3: ignition of profile a names the template 'wrker.ign.j2', which does not exist. "
            "Did you mean 'worker.ign.j2'? Templates live in $/templates.",
            "$/templates/cloud.j2:3: Unexpected end of template. Jinja was looking for the following tags: 'elif' or 'else' or 'endif'. "
            "The innermost block that needs to be closed is 'if'. Correct the template.",
        ],
    ),
    "tabs in one file, no YAML in another": (
        {"groups.yaml": "default:\n\tprofile: menu\n", "profiles.yaml": "a: [\n"},
        [
            "$/groups.yaml:2: this is not YAML: found character that cannot start any token. "
            "Indent with spaces: YAML does not allow tabs there.",
            "$/profiles.yaml:2: this is not YAML: did not find expected node content. "
            "Check indentation, quotes and brackets on this line and the one before.",
        ],
    ),
    "unknown names no profile": (
        {"pixieboot.yaml": "registry: .\nanswer: all\nunknown: flatcra\n", "profiles.yaml": PROFILES},
        ["$/pixieboot.yaml:3: unknown names the profile 'flatcra', which does not exist. Did you mean 'flatcar'?"],
    ),
    "a group on an architecture that there is not": (
        {"groups.yaml": "workers:\n  match:\n    arch: x86_64\n    subnet: 192.168.77.1/24\n    mac: zz\n  profile: menu\n"},
        [
            "$/groups.yaml:3: 'x86_64' is not an architecture. Did you mean 'x64-efi'?",
            "$/groups.yaml:4: subnet is '192.168.77.1/24', not an IPv4 network. Write the network's own address, such as 192.168.77.0/24.",
            "$/groups.yaml:5: 'zz' is not a MAC address such as 52:54:00:12:34:56. "
            "Write six pairs of hexadecimal digits, such as 52:54:00:12:34:56.",
        ],
    ),
    "profiles of two minds, and of none": (
        {"profiles.yaml": "a: {kernel: k, chain: 'http://x/'}\nb: {title: B}\nc: {kernel: /boot/k}\n"},
        [
            "$/profiles.yaml:1: profile a has kernel and chain. Keep one of them.",
            "$/profiles.yaml:2: profile b boots nothing. Give it a kernel, a script, a chain, or `local: true`.",
            "$/profiles.yaml:3: kernel is '/boot/k', which does not lie below its root. Write the path as it is below that directory.",
        ],
    ),
    "settings and registry wrong at the same time": (
        {
            "pixieboot.yaml": "registry: .\nhttp: {prot: 80}\n",
            "machines.yaml": "web1: {hostname: web1}\nweb2: {uuid: 03000200-0400-0500-0006-000700080009}\n",
        },
        [
            "$/pixieboot.yaml:2: unknown key 'prot' in http. Did you mean 'port'?",
            "$/machines.yaml:1: machine web1 has neither a MAC address nor a UUID nor a serial number: nothing can be known to be it. "
            "Add for example `mac: 52:54:00:12:34:56`.",
            "$/machines.yaml:2: '03000200-0400-0500-0006-000700080009' is no UUID that tells one machine from another. "
            "Write it as `dmidecode -s system-uuid` prints it, or remove it.",
        ],
    ),
    "an address reserved twice, a UUID in both byte orders": (
        {
            "machines.yaml": "a: {mac: 00:00:00:00:00:01, address: 10.0.0.1, uuid: 4c4c4544-0042-3510-8052-b4c04f4e3732}\n"
            "b: {mac: 00:00:00:00:00:02, address: 10.0.0.1, uuid: 44454c4c-4200-1035-8052-b4c04f4e3732}\n",
        },
        [
            "$/machines.yaml:2: machine b has the UUID (in either byte order) 44454c4c-4200-1035-8052-b4c04f4e3732 of machine a "
            "($/machines.yaml:1). Correct one of the two.",
            "$/machines.yaml:2: machine b has the address 10.0.0.1 of machine a ($/machines.yaml:1). Correct one of the two.",
        ],
    ),
    "no registry at all": (
        {"pixieboot.yaml": "registry: nowhere\n"},
        ["$/nowhere: the registry is no directory. Make it, or correct `registry` in pixieboot.yaml."],
    ),
}  # fmt: skip


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"pixieboot.yaml": "registry: .\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "pixieboot.yaml"


@pytest.mark.parametrize("files, messages", BROKEN.values(), ids=BROKEN)
def test_check_on_broken_configurations(tmp_path: Path, files: dict[str, str], messages: list[str]) -> None:
    with pytest.raises(Faults) as raised:
        check(tree(tmp_path, files))
    assert [str(fault) for fault in raised.value.faults] == [message.replace("$", str(tmp_path)) for message in messages]


def test_check_says_what_it_read(tmp_path: Path) -> None:
    path = tree(tmp_path, {"machines.yaml": "web1: {mac: 52:54:00:12:34:56}\n", "profiles.yaml": PROFILES})
    assert check(path) == f"{path}, {tmp_path}: 1 machines, 0 groups, 3 profiles, 0 templates; no faults."


GRUBS = {  # networks, a machine's keys, whether the file's name says GRUB
    "shim beside a router": ("[{interface: eth0}]", "loader: shimx64.efi", True),
    "shim on all interfaces, which is proxy": ("", "loader: {x64-efi: EFI/shimx64.efi.signed}", True),
    "shim beside a router and where we lease": (
        "[{interface: eth0, dhcp: server, pools: [10.0.0.5-10.0.0.9]}, {interface: eth1}]",
        "loader: shimaa64.efi",
        True,
    ),
    "GRUB itself": ("[{interface: eth0}]", "loader: grubnetx64.efi", True),
    "shim where we lease": ("[{interface: eth0, dhcp: server, pools: [10.0.0.5-10.0.0.9]}]", "loader: shimx64.efi", False),
    "iPXE": ("[{interface: eth0}]", "loader: snponly.efi", False),
    "no loader of its own": ("", "profile: local", False),
}


@pytest.mark.parametrize("networks, keys, said", GRUBS.values(), ids=GRUBS)
def test_check_says_that_grub_asks_the_router(tmp_path: Path, networks: str, keys: str, said: bool) -> None:
    path = tree(tmp_path, {"machines.yaml": f"web1: {{mac: 52:54:00:12:34:56, {keys}}}\n"})
    path.write_text(path.read_text() + (f"networks: {networks}\n" if networks else ""))
    read, *cautions = check(path).splitlines()
    assert read.endswith("; no faults.") and bool(cautions) == said
    for caution in cautions:
        assert (
            caution.startswith(f"{tmp_path}/machines.yaml:1: machine web1: ") and "GRUB asks the router, not this host" in caution
        )
        assert "`dhcp: server`" in caution and "`pixieboot router-help`" in caution


def test_a_settings_file_that_is_not_there(tmp_path: Path) -> None:
    told = faults_of(tmp_path / "x.yaml")
    assert told == [
        f"{tmp_path}/x.yaml: the file cannot be read (No such file or directory). Put it there, or correct the path that names it."
    ]


def test_the_default_registry_need_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pixieboot.registry.DEFAULT", str(tmp_path / "none"))
    path = written(tmp_path, f"registry: {tmp_path}/none\n")
    assert "0 machines" in config.check(path)


def test_a_foreign_registry_brings_its_assets(tmp_path: Path) -> None:
    files = {"groups/g.json": '{"id": "g", "profile": "p"}', "profiles/p.json": '{"id": "p", "generic_id": "x"}', "assets/k": ""}
    path = tree(tmp_path, files)
    assert load(path, {}).assets == tmp_path / "assets"
    with pytest.raises(Faults, match=r"profiles/p\.json: generic_id names 'x', which does not exist\. Put it into "):
        check(path)
    path.write_text("registry: .\nassets: /srv\n")
    assert load(path, {}).assets == Path("/srv")


def test_bootcfg_called_them_images(tmp_path: Path) -> None:
    path = tree(tmp_path, {"boot/default": "{}", "images/k": ""})
    assert load(path, {}).assets == tmp_path / "images"


def test_a_registry_that_cannot_even_be_looked_at_is_left_to_its_loading(tmp_path: Path) -> None:
    name = "x" * 300  # as for one below a directory that must not be entered: OSError, and no fault of the settings
    assert faults_of(written(tmp_path, f"registry: {name}")) == []
    with pytest.raises(Faults, match="the registry is no directory"):
        check(written(tmp_path, f"registry: {name}"))


def test_check_looks_for_the_key_ring(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    path = tmp_path / "pixieboot.yaml"
    path.write_text("registry: registry\nkey_ring: secring.gpg\n")
    with pytest.raises(Faults, match=r"key_ring .*/secring\.gpg: there is no such file\. Write it with"):
        config.check(path)
    (tmp_path / "secring.gpg").touch()
    assert config.check(path).endswith("no faults.")
    assert config.load(path, {"key_ring": "/elsewhere.gpg"}).key_ring == Path("/elsewhere.gpg")
