"""What doctor says of hosts that are well and of hosts that are not."""

import json
import os
import pwd
import sys
import time
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from pixieboot import doctor
from pixieboot.cli import main
from pixieboot.config import Settings, TftpSettings
from pixieboot.doctor import Check, check_clock, check_link, check_loaders, judge_neighbours
from pixieboot.model import Arch, Mac, Network, Pool, Site
from pixieboot.registry import Registry
from pixieboot.serve.links import Link, Sites
from pixieboot.serve.neighbours import Neighbour
from pixieboot.serve.ports import Holder
from tests.netns import Network as Hosts
from tests.test_bootprogram import image


def levels(checks: object) -> list[str]:
    return [check.level for check in checks]  # type: ignore[attr-defined]


def a_link(name: str = "eth0", mtu: int = 1500, kind: int = 1, index: int = 2, address: str = "10.0.0.1/24") -> Link:
    return Link(index, name, b"\2\0\0\0\0\1", mtu, 0x43, kind, (IPv4Interface(address),))


def test_loaders(tmp_path: Path) -> None:
    (tmp_path / "x64.efi").write_bytes(image(0x8664, signature=b"PKCS7", text=b"iPXE/2.0.0\0"))
    (tmp_path / "old.efi").write_bytes(image(0xAA64, text=b"iPXE/1.0.0+git-20190125.36a4c85\0"))
    (tmp_path / "wrong.efi").write_bytes(image(0x8664))
    loaders = {
        Arch.X64_EFI: "x64.efi",
        Arch.ARM64_EFI: "old.efi",
        Arch.X86_EFI: "wrong.efi",
        Arch.X86_BIOS: "none.kpxe",
        Arch.RISCV64_EFI: "none.efi",
    }
    found = list(check_loaders(Settings(tftp=TftpSettings(root=tmp_path), loaders=loaders)))
    assert levels(found) == ["ok", "warning", "fault", "warning", "warning"], "the operator named the last one"
    assert "iPXE 2.0.0, signed" in found[0].what and "made for x64-efi" in found[2].what


def test_what_is_not_there_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.files.LOADER_DIRECTORIES", ())
    found = {check.what.partition(":")[0]: check for check in check_loaders(Settings(tftp=TftpSettings(root=tmp_path)))}
    assert {arch: check.level for arch, check in found.items()} == {
        "x86-bios": "warning", "x86-efi": "note", "x64-efi": "warning", "arm64-efi": "note",
    }  # fmt: skip
    assert "only such machines need it" in found["arm64-efi"].what and "ipxe" in found["arm64-efi"].mend
    settings = Settings(tftp=TftpSettings(root=tmp_path / "none"), assets=tmp_path, state=f"sqlite:{tmp_path}/none/state.db")
    monkeypatch.setattr("pixieboot.doctor.pwd.getpwnam", lambda name: pwd.getpwuid(0))
    missing = [check for check in doctor.check_user(settings) if "does not exist" in check.what]
    assert {"tftp.root", "state"} <= {check.name for check in missing} and {check.level for check in missing} == {"note"}


LINKS: dict[str, tuple[Link, dict[str, str], list[str]]] = {
    "well": (a_link(), {"carrier": "1"}, []),
    "no cable": (a_link(), {"carrier": "0"}, ["fault"]),
    "a tunnel": (a_link(mtu=1400), {}, ["warning"]),
    "jumbo frames": (a_link(mtu=9000), {}, ["warning"]),
    "a bridge with spanning tree": (a_link(), {"bridge/stp_state": "1", "bridge/forward_delay": "1500"}, ["warning"]),
    "Wi-Fi": (a_link(), {"wireless/x": ""}, ["warning"]),
    "no Ethernet": (a_link(kind=65534), {}, ["warning"]),
}


@pytest.mark.parametrize("link, files, expected", LINKS.values(), ids=LINKS)
def test_links(tmp_path: Path, link: Link, files: dict[str, str], expected: list[str]) -> None:
    for name, text in files.items():
        path = tmp_path / link.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = list(check_link(link, tmp_path))
    assert levels(found) == expected
    assert all(check.mend for check in found)


def a_site(mode: str = "proxy", force: bool = False) -> Site:
    network = Network("eth0", mode=mode, force=force, pools=(Pool(1, 2),))
    return Site(network, "eth0", 2, "10.0.0.1", IPv4Network("10.0.0.0/24"), "http://10.0.0.1:8080", {})


ROUTER = Neighbour("eth0", 2, "10.0.0.254", Mac("02:00:00:00:00:fe"), leases=True, pxe=False, heard=0.0)
RIVAL = Neighbour("eth0", 2, "10.0.0.253", None, leases=False, pxe=True, heard=0.0)
NEIGHBOURS = {
    "proxy beside a router": (a_site(), [ROUTER], ["ok"]),
    "proxy beside nobody": (a_site(), [], ["warning"]),
    "server beside nobody": (a_site("server"), [], ["ok"]),
    "server beside a router": (a_site("server"), [ROUTER], ["fault"]),
    "server beside a router, on purpose": (a_site("server", True), [ROUTER], ["warning"]),
    "another PXE server": (a_site(), [ROUTER, RIVAL], ["ok", "warning"]),
}


@pytest.mark.parametrize("site, found, expected", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_neighbours(site: Site, found: list[Neighbour], expected: list[str]) -> None:
    assert levels(judge_neighbours(site, found)) == expected


def test_clock() -> None:
    assert check_clock(0.0, True).level == "fault"
    assert check_clock(time.time(), False).level == "warning"
    assert check_clock(time.time(), None).level == "ok"


def test_networks() -> None:
    settings = Settings(networks=(Network("eth0", mode="server"), Network("eth9")))
    found = list(doctor.check_networks(settings, Sites(settings, lambda: [a_link()])))
    assert levels(found) == ["ok", "warning", "warning"]
    assert "eth9" in found[1].what and "without pools" in found[2].what
    found = list(doctor.check_networks(Settings(), Sites(Settings(), list)))
    assert levels(found) == ["fault"] and "--network host" in found[0].mend


def test_reverse_path() -> None:
    links = [a_link(), a_link("wlan0", index=3, address="10.0.0.2/24")]
    settings = Settings(networks=(Network("eth0"), Network("wlan0")))
    sites = Sites(settings, lambda: links)
    assert levels(doctor.check_reverse_path(sites, lambda name: "1")) == ["warning", "warning"]
    assert levels(doctor.check_reverse_path(sites, lambda name: "2")) == []


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state=f"sqlite:{tmp_path}/new/state.db", assets=tmp_path)
    assert levels(doctor.check_space(settings)) == ["ok", "ok"]
    monkeypatch.setattr(doctor, "FREE_OCTETS", 1 << 60)
    assert levels(doctor.check_space(settings)) == ["warning", "warning"]


def test_missing_assets(tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text(
        "linux: {kernel: vmlinuz, initrd: [http://elsewhere/initrd], arch: {arm64-efi: {kernel: arm}}}\n"
    )
    (tmp_path / "vmlinuz").touch()
    registry = Registry(str(tmp_path))
    registry.load()
    found = list(doctor.check_assets(Settings(assets=tmp_path), registry))
    assert levels(found) == ["note"] and "names arm: not below" in found[0].what, "nobody boots it"
    (tmp_path / "machines.yaml").write_text("web1: {mac: 52:54:00:12:34:56, profile: linux}\n")
    registry.load()
    found = list(doctor.check_assets(Settings(assets=tmp_path), registry))
    assert levels(found) == ["warning"] and "404" in found[0].mend


def test_rights_of_the_daemons_user() -> None:
    status = os.stat_result((0o750, 0, 0, 1, 10, 20, 0, 0, 0, 0))
    assert doctor.permits(status, 10, set(), 7)
    assert doctor.permits(status, 4242, {20}, 5) and not doctor.permits(status, 4242, {20}, 7)
    assert not doctor.permits(status, 4242, {21}, 5)


def test_wrong_settings_are_faults_among_others(tmp_path: Path) -> None:
    path = tmp_path / "pixieboot.yaml"
    path.write_text("netwroks: []\ntftp: {port: 99999}\n")
    result = CliRunner().invoke(main, ["doctor", "--no-probe", "--json", "-c", str(path)])
    told = json.loads(result.output)
    assert result.exit_code == 1 and told["ok"] is False
    assert [check["what"].partition(":")[0] for check in told["checks"][:2]] == [str(path), str(path)]
    assert {"daemon", "network", "port", "loader", "clock"} <= {check["name"] for check in told["checks"]}, (
        "the rest is checked too"
    )


def test_firewall_is_asked_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: dict[str, str | None] = {}
    monkeypatch.setattr(doctor, "_output", lambda *command: printed.get(" ".join(command)))
    settings = Settings(networks=(Network("eth0"),))
    sites = Sites(settings, lambda: [a_link()])

    def check() -> list[Check]:
        return list(doctor.check_firewall(settings, sites))

    assert levels(check()) == ["ok" if os.geteuid() == 0 else "warning"]
    printed["iptables-save"] = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
    printed["iptables-save -t nat"] = "-A POSTROUTING -s 10.0.0.0/24 -j MASQUERADE\n"
    assert levels(check()) == ["warning", "ok"]
    printed["iptables-save"] = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n"
    assert levels(check()) == ["warning", "fault", "warning"] and "iptables -I INPUT -i eth0" in check()[1].mend
    printed["ufw status"] = "Status: active\n"
    assert "ufw allow in on eth0" in check()[1].mend
    printed["firewall-cmd --state"] = "running\n"
    assert "firewall-cmd --permanent --add-port=69/udp" in check()[1].mend
    printed["nft -j list ruleset"] = "no JSON"
    assert levels(check())[1] == "fault", "what nft prints is not understood: iptables is asked"


def test_who_is_not_root_cannot_tell_whose_a_port_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.doctor.others", lambda port, protocol: [Holder(0, "", "0.0.0.0")])
    for uid, levels, mend in ((0, {"warning", "fault"}, "Stop it"), (1000, {"warning"}, "Run doctor as root")):
        monkeypatch.setattr("pixieboot.doctor.os.geteuid", lambda uid=uid: uid)
        checks = list(doctor.check_ports(Settings(), 0))
        assert {check.level for check in checks} == levels and all(check.mend.startswith(mend) for check in checks)


@pytest.mark.slow
@pytest.mark.needs_root
def test_on_a_host_with_another_dhcp_server_and_a_firewall(tmp_path: Path) -> None:
    """A namespace with dnsmasq on the wire, a port that is taken and a firewall: all are named, and the exit code is 1."""
    with Hosts("doctor") as network:
        switch = network.switch()
        server, router = switch.host("server", "10.77.0.2/24"), switch.host("router", "10.77.0.1/24")
        router.start(
            "dnsmasq", "--keep-in-foreground", "--port=0", "--dhcp-range=10.77.0.50,10.77.0.60", "--conf-file=/dev/null",
            f"--dhcp-leasefile={tmp_path}/leases", "--user=root",
        )  # fmt: skip
        server.run("nft", "add table inet filter")
        server.run("nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }")
        server.run("nft", "add rule inet filter input udp dport { 67, 68, 4011 } accept")
        server.start(sys.executable, "-c", "import socket,time; s=socket.create_server(('0.0.0.0',8080)); time.sleep(60)")
        config = tmp_path / "pixieboot.yaml"
        config.write_text(
            f"networks: [{{interface: eth0, dhcp: server, pools: [10.77.0.100-10.77.0.110]}}]\n"
            f"registry: {tmp_path}\nstate: sqlite:{tmp_path}/state.db\nassets: {tmp_path}\n"
        )
        time.sleep(0.5)
        done = server.run(sys.executable, "-m", "pixieboot", "doctor", "--json", "-c", str(config), check=False)
        faults = {check["name"]: check["what"] for check in json.loads(done.stdout)["checks"] if check["level"] == "fault"}
        assert done.returncode == 1
        assert "tcp 8080 (HTTP) is held by" in faults["port"]
        assert "udp 69 on eth0" in faults["firewall"] and "udp 67" not in faults["firewall"]
        assert "10.77.0.1" in faults["neighbours"]
