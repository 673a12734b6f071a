"""The software machine over a wire between namespaces: every kind boots, and each fault gets its name on both sides."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pixieboot.client import Daemon
from pixieboot.errors import OperatorError
from pixieboot.simulate import KINDS, Wire, _target
from tests.netns import Host, Network
from tests.test_bootprogram import image

pytestmark = pytest.mark.needs_root

MAC = "52:54:00:12:34:56"
PI = "dc:a6:32:00:00:01"
BIOS_PROGRAM = b"\xea\x05\x00\xc0\x07" + bytes(3000)


class Lab:
    """A server with the daemon, a machine beside it, and (in proxy mode) a router that leases."""

    def __init__(self, network: Network, directory: Path, mode: str) -> None:
        self.directory = directory
        self.switch = switch = network.switch()
        self.server = switch.host("server", "10.77.0.2/24")
        self.client = switch.host("client", "10.77.0.9/24")
        for name in ("reg", "tftp", "assets"):
            (directory / name).mkdir()
        self._files()
        self.config = directory / "pixieboot.yaml"
        pools = ", pools: [10.77.0.100-10.77.0.150], probe: false, force: true" if mode == "server" else ""
        self.config.write_text(
            f"networks: [{{interface: eth0, dhcp: {mode}{pools}}}]\ntftp: {{root: {directory}/tftp}}\nassets: {directory}/assets\n"
            f"registry: {directory}/reg\nstate: sqlite:{directory}/state/state.db\nunknown: linux\n"
            "loaders: {x86-bios: undionly.kpxe, x64-efi: ipxe.efi, arm64-efi: ipxe-arm64.efi, x86-efi: wrong.efi}\n"
        )
        if mode == "proxy":
            router = switch.host("router", "10.77.0.1/24")
            router.start(
                "dnsmasq", "--keep-in-foreground", "--port=0", "--dhcp-range=10.77.0.50,10.77.0.60", "--conf-file=/dev/null",
                f"--dhcp-leasefile={directory}/leases", "--user=root",
            )  # fmt: skip
        with open(directory / "log", "wb") as log:
            self.daemon = self.server.start(
                sys.executable, "-m", "pixieboot", "serve", "-c", str(self.config), stdout=log, stderr=log
            )
        self._wait()

    def _files(self) -> None:
        tftp, assets = self.directory / "tftp", self.directory / "assets"
        (tftp / "undionly.kpxe").write_bytes(BIOS_PROGRAM)
        (tftp / "ipxe.efi").write_bytes(image(0x8664, text=bytes(5000)))
        (tftp / "signed.efi").write_bytes(image(0x8664, signature=b"PKCS7"))
        (tftp / "ipxe-arm64.efi").write_bytes(image(0xAA64))
        (tftp / "wrong.efi").write_bytes(image(0x8664))
        (tftp / "start4.elf").write_bytes(bytes(1000))
        (tftp / "config.txt").write_text("kernel=kernel8.img\n")
        (tftp / "kernel8.img").write_bytes(bytes(1000))
        (assets / "vmlinuz").write_bytes(bytes(300_000))
        (assets / "initrd.gz").write_bytes(bytes(200_000))
        (self.directory / "reg" / "machines.yaml").write_text(
            "web1: {mac: '52:54:00:12:34:56', profile: linux}\n"
            "gone: {mac: '52:54:00:12:34:57', profile: gone}\n"
            "broken: {mac: '52:54:00:12:34:58', profile: broken}\n"
            "disk: {mac: '52:54:00:12:34:59', boot: local}\n"
            "shim: {mac: '52:54:00:12:34:5a', profile: linux, loader: signed.efi}\n"
        )
        (self.directory / "reg" / "profiles.yaml").write_text(
            "linux: {kernel: vmlinuz, initrd: [initrd.gz], args: [console=ttyS0]}\n"
            "gone: {kernel: no-such-kernel}\n"
            "broken: {kernel: vmlinuz, args: ['role={{ vars.role }}']}\n"
        )

    def _wait(self) -> None:
        for _ in range(100):
            if (self.directory / "state" / "api.sock").exists():
                time.sleep(0.3)
                return
            time.sleep(0.1)
        raise AssertionError((self.directory / "log").read_text())

    def simulate(self, *words: str, host: Host | None = None) -> dict[str, object]:
        interface = [] if host else ["-i", "eth0"]
        command = [sys.executable, "-m", "pixieboot", "simulate", "--json", *interface, *words]
        done = (host or self.client).run(*command, "-c", str(self.config), check=False, timeout=60)
        assert done.returncode in (0, 1), done.stderr
        told: dict[str, object] = json.loads(done.stdout)
        assert (told["verdict"]["outcome"] in ("failed", "ignored")) == bool(done.returncode)  # type: ignore[index]
        return told

    def why(self, machine: str) -> str:
        """The server's own verdict on the last boot."""
        told = Daemon.find(self.config, {}).get(f"/machines/{machine}/timeline")
        name: str = told["boots"][-1]["verdict"]["name"]
        return name

    def leases(self) -> list[str]:
        return [each["address"] for each in Daemon.find(self.config, {}).all("leases")]


@contextmanager
def running(mode: str) -> Iterator[Lab]:
    """A Lab in a directory that the daemon's user can read: pytest's own are root's alone."""
    with TemporaryDirectory(prefix="pixieboot-simulate-") as directory, Network("simulate") as network:
        os.chmod(directory, 0o755)
        yield Lab(network, Path(directory), mode)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running("server") as found:
        yield found


@pytest.fixture(scope="module")
def proxy() -> Iterator[Lab]:
    with running("proxy") as found:
        yield found


def verdict(told: dict[str, object]) -> str:
    name: str = told["verdict"]["name"]  # type: ignore[index]
    return name


SLOW = pytest.mark.slow
ALL = [kind for kind in KINDS if kind not in ("x86-efi", "x86-http", "raspberry-pi")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_boots_from_a_server_that_leases(lab: Lab, kind: str) -> None:
    told = lab.simulate("--arch", kind, "--whole")
    assert verdict(told) == "handed-over", json.dumps(told, indent=1)
    assert any("leased 10.77.0.1" in line for line in told["lines"])  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["x86-bios", "x64-efi", "x64-http", "ipxe-x64"])
def test_boots_beside_a_router(proxy: Lab, kind: str) -> None:
    told = proxy.simulate("--arch", kind)
    assert verdict(told) == "handed-over", json.dumps(told, indent=1)


@pytest.mark.slow
def test_a_raspberry_pi(lab: Lab, proxy: Lab) -> None:
    for each in (lab, proxy):
        told = each.simulate("--arch", "raspberry-pi", "--mac", PI)
        assert verdict(told) == "handed-over" == each.why(PI)
        assert "/assets/initrd.gz: 195" in json.dumps(told["lines"])  # its profile's, not those of the shared config.txt


@pytest.mark.parametrize("kind", ["x86-bios", pytest.param("x64-http", marks=SLOW), pytest.param("ipxe-x64", marks=SLOW)])
def test_on_the_daemons_own_host(lab: Lab, kind: str) -> None:
    before = lab.leases()
    assert verdict(lab.simulate("--arch", kind, host=lab.server)) == "handed-over"
    assert lab.leases() == before


def test_a_known_machine_gets_its_own_boot_and_the_server_agrees(lab: Lab) -> None:
    assert verdict(lab.simulate("--mac", MAC)) == "handed-over"
    assert lab.why("web1") == "handed-over"


@pytest.mark.slow
def test_the_local_disk(lab: Lab) -> None:
    told = lab.simulate("--mac", "52:54:00:12:34:59", "--arch", "ipxe-x64")
    assert verdict(told) in ("stopped", "local-disk", "nothing-heard", "going", "interrupted")


# --- five ways to fail, each with its verdict on the machine's side and on the server's ---


def test_failure_kernel_missing(lab: Lab) -> None:
    assert verdict(lab.simulate("--mac", "52:54:00:12:34:57")) == "file-missing"
    assert lab.why("gone") == "file-missing"


def test_failure_script_error(lab: Lab) -> None:
    told = lab.simulate("--mac", "52:54:00:12:34:58")
    assert verdict(told) == "script-error" and "role" in json.dumps(told["verdict"])
    assert lab.why("broken") == "script-error"


def test_failure_wrong_loader(lab: Lab) -> None:
    assert verdict(lab.simulate("--arch", "x86-efi", "--mac", "02:00:00:00:00:31")) == "wrong-loader-arch"
    assert lab.why("02:00:00:00:00:31") in ("loader-silent", "loading", "going", "wrong-loader-arch")


def test_failure_secure_boot(lab: Lab) -> None:
    assert verdict(lab.simulate("--secure-boot", "--mac", "02:00:00:00:00:32")) == "secure-boot"
    assert lab.why("02:00:00:00:00:32") == "secure-boot"
    assert verdict(lab.simulate("--secure-boot", "--mac", "52:54:00:12:34:5a")) == "handed-over", "a signed one is run"


@pytest.mark.slow
def test_failure_tftp_blocked(lab: Lab) -> None:
    lab.server.run("nft", "add table inet simulate")
    lab.server.run("nft", "add chain inet simulate input { type filter hook input priority 0; policy accept; }")
    lab.server.run("nft", "add rule inet simulate input udp dport 69 drop")
    try:
        told = lab.simulate("--mac", "02:00:00:00:00:33")
        assert verdict(told) in ("tftp-data-blocked", "tftp-lossy", "tftp-refused", "tftp-not-asked", "stopped")
        assert "firewall" in json.dumps(told["lines"])
        time.sleep(16)
        assert lab.why("02:00:00:00:00:33") == "tftp-not-asked"
    finally:
        lab.server.run("nft", "delete table inet simulate")


@pytest.mark.slow
def test_failure_no_server(lab: Lab) -> None:
    lonely = ["--arch", "ipxe-x64", "-i", "lo"]
    done = lab.client.run(sys.executable, "-m", "pixieboot", "simulate", *lonely, check=False, timeout=60)
    assert done.returncode == 1 and "nobody offered an address or boot data" in done.stdout


def test_wrong_interface() -> None:
    with pytest.raises(OperatorError, match="no-such: no interface"):
        Wire("no-such")


def test_targets_of_ipxe_commands() -> None:
    assert _target(["kernel", "--name", "kernel", "--timeout", "5", "http://a/k", "quiet"]) == "http://a/k"
    assert _target(["chain", "--autofree", "x"]) == "x"
    assert _target(["boot"]) == ""


def test_root_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr("pixieboot.simulate.socket.socket", refuse)
    with pytest.raises(OperatorError, match="need root"):
        Wire("lo")
