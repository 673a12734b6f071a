"""The daemon as its operator meets it: a process with options, files and signals, on hosts of its own."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest

from pixieboot.lab.hosts import Host, Network
from pixieboot.serve import privilege

pytestmark = pytest.mark.usefixtures("network")
START = 15.0  # seconds that a busy test machine may take for a start


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("daemon") as network:
        yield network


@pytest.fixture(scope="module")
def host(network: Network) -> Host:
    """A boot host with two legs."""
    host = network.switch("home").host("server", "10.71.0.2/24")
    network.switch("rack").plug(host, "eth1", "10.72.0.1/24")
    return host


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directories that the daemon's own user can read: pytest's are root's alone."""
    path = Path(f"/tmp/pxb-daemon-{os.getpid()}-{time.monotonic_ns()}")
    for name in ("registry", "assets", "tftproot"):
        (path / name).mkdir(parents=True)
    (path / "registry/profiles.yaml").write_text("disk: {local: true}\n")
    (path / "pixieboot.yaml").write_text(settings(path))
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


def settings(path: Path, *more: str) -> str:
    lines = [
        f"registry: {path}/registry",
        f"assets: {path}/assets",
        f"state: sqlite:{path}/state/state.db",
        f"tftp: {{root: {path}/tftproot}}",
        "log: {format: json}",
        *(more or ["networks: [{interface: eth0}]"]),
    ]
    return "\n".join(lines) + "\n"


class Running:
    """A daemon that was started; `said` holds its start-up lines, `events` what its journal printed so far."""

    def __init__(self, host: Host, site: Path, *options: str) -> None:
        self.host, self._site = host, site
        self._out: IO[Any] = (site / "stdout").open("w+")
        self._err: IO[Any] = (site / "stderr").open("w+")
        argv = [sys.executable, "-m", "pixieboot", "serve", "-c", str(site / "pixieboot.yaml"), *options]
        self.process = host.start(*argv, stdout=self._out, stderr=self._err, cwd=Path(__file__).parent.parent)

    @property
    def said(self) -> str:
        return (self._site / "stdout").read_text()

    @property
    def complained(self) -> str:
        return (self._site / "stderr").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.complained.splitlines() if line.startswith("{")]

    def until(self, reached: Callable[[], object], seconds: float = START) -> None:
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None and time.monotonic() < end, f"{self.said}\n{self.complained}"
            time.sleep(0.05)

    def until_event(self, kind: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found[:] = [event for event in self.events if event["kind"] == kind]
            return bool(found)

        self.until(seen)
        return found[-1]

    def pid(self) -> int:
        """Of the daemon itself: `ip netns exec` and setpriv become it by exec."""
        return self.process.pid

    def end(self) -> int:
        code = self.host.stop(self.process)
        self._out.close()
        self._err.close()
        return code


@pytest.fixture
def start(host: Host, site: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*options: str) -> Running:
        started.append(Running(host, site, *options))
        return started[-1]

    yield start
    for running in started:
        running.end()


def test_start_up_lines_say_where_how_and_with_what(start: Callable[..., Running]) -> None:
    daemon = start()
    daemon.until_event("started")
    assert re.search(r"^eth0: proxy, 10\.71\.0\.2/24, DHCP 67, PXE 4011, TFTP 69, HTTP 8080$", daemon.said, re.M)
    assert re.search(r"^loader x86-bios: undionly\.kpxe (/|missing)", daemon.said, re.M)
    assert re.search(r"^registry .*: 0 machines, 0 groups, 3 profiles; unknown machines: menu$", daemon.said, re.M)
    assert "web http://10.71.0.2:8080/" in daemon.said and "eth1" not in daemon.said


def test_root_and_every_capability_are_gone(start: Callable[..., Running]) -> None:
    daemon = start()
    daemon.until_event("started")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{daemon.pid()}/status").read_text().splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split() and "0" not in status["Gid"].split()
    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1"


def test_sigterm_ends_it_within_two_seconds(start: Callable[..., Running]) -> None:
    daemon = start()
    daemon.until_event("started")
    began = time.monotonic()
    os.kill(daemon.pid(), signal.SIGTERM)
    assert daemon.process.wait(5) == 0, daemon.complained
    assert time.monotonic() - began < 2
    assert daemon.events[-1]["kind"] == "stopped" and "Traceback" not in daemon.complained


def test_a_bad_edit_leaves_the_last_good_registry_in_force(start: Callable[..., Running], site: Path) -> None:
    daemon = start()
    daemon.until_event("started")
    machines = site / "registry/machines.yaml"
    machines.write_text("web1: {mac: 52:54:00:00:00:01, profile: disc}\n")
    error = daemon.until_event("rejected")["error"]
    assert error.startswith(f"{machines}:1: ") and "Did you mean 'disk'?" in error
    machines.write_text("web1: {mac: 52:54:00:00:00:01, profile: disk}\n")
    assert daemon.until_event("loaded")["machines"] == 1


def test_sighup_puts_new_settings_in_force_and_names_what_needs_a_restart(start: Callable[..., Running], site: Path) -> None:
    daemon = start()
    daemon.until_event("started")
    (site / "pixieboot.yaml").write_text(settings(site, "networks: [{interface: eth1}]", "http: {port: 8081}"))
    os.kill(daemon.pid(), signal.SIGHUP)
    assert daemon.until_event("restart needed")["settings"] == "http.port"
    assert "eth1: proxy, 10.72.0.1/24" in daemon.until_event("networks")["networks"]


@pytest.mark.slow
def test_once_and_the_way_to_the_disk_survive_power_cuts(start: Callable[..., Running], host: Host, site: Path) -> None:
    (site / "registry/machines.yaml").write_text("web1: {mac: 02:00:00:00:00:01, profile: linux, boot: once}\n")
    (site / "registry/profiles.yaml").write_text("linux: {kernel: vmlinuz, once_timeout: 1h}\n")

    def ask(path: str) -> str:
        return host.run("curl", "-sS", "--max-time", "5", f"http://10.71.0.2:8080{path}?mac=02:00:00:00:00:01&platform=efi").stdout

    def cut(daemon: Running) -> Running:
        os.kill(daemon.pid(), signal.SIGKILL)
        daemon.process.wait(5)
        again = start()
        again.until_event("started")
        return again

    daemon = start()
    daemon.until_event("started")
    for _ in range(3):
        assert "assets/vmlinuz" in ask("/ipxe")
    daemon = cut(daemon)
    assert "assets/vmlinuz" in ask("/ipxe")
    assert ask("/done") == "done\n"
    daemon = cut(daemon)  # at once: it was on disk before the answer
    assert "sanboot" in ask("/ipxe")
    daemon.until(lambda: "sanboot" not in ask("/ipxe"))  # as a machine that comes back from its disk
    assert daemon.until_event("local way")["local_boot"] == "exit1"
    assert ask("/done") == "done\n"  # and whatever was learned before is on disk too
    cut(daemon)
    assert "exit 1" in ask("/ipxe") and "sanboot" not in ask("/ipxe")


class Writer(threading.Thread):
    """Describes, changes and forgets machines through the API as fast as it can, until nobody answers any more."""

    def __init__(self, site: Path, name: str) -> None:
        super().__init__()
        self._socket, self.name, self.answered = str(site / "state/api.sock"), name, threading.Event()
        # What it knows to be so; and what may be so too, because it was under way.
        self.last, self.pending = 0, 0
        self.there, self.unsure = False, False

    def ask(self, method: str, path: str, body: Any = None) -> int:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(self._socket)
            connection.request(method, f"/api/v1/machines/{path}", json.dumps(body), {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def run(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            while True:
                self.pending = self.last + 1
                assert self.ask("PATCH", "shared", {"vars": {self.name: self.pending}}) == 200
                self.last, self.unsure = self.pending, True
                if self.there:
                    assert self.ask("DELETE", self.name) == 204
                else:
                    assert self.ask("PUT", self.name, {"serial": self.name, "vars": {"much": "x" * 20_000}}) == 201
                self.there, self.unsure = not self.there, False
                self.answered.set()


@pytest.mark.slow
def test_power_cuts_amid_writes_leave_what_was_answered_and_nothing_by_half(start: Callable[..., Running], site: Path) -> None:
    from pixieboot.client import Daemon

    daemon = start()
    daemon.until_event("started")
    writers = [Writer(site, f"writer{number}") for number in range(3)]
    assert writers[0].ask("PUT", "shared", {"serial": "shared"}) == 201
    for _ in range(4):
        for writer in writers:
            writer.start()
        assert all(writer.answered.wait(START) for writer in writers)
        os.kill(daemon.pid(), signal.SIGKILL)
        for writer in writers:
            writer.join(START)
        daemon = start()
        daemon.until_event("started")
        told = Daemon.find(site / "pixieboot.yaml", {})
        kept = told.get("/machines/shared")["description"]["vars"]
        there = {machine["name"] for machine in told.all("machines")}
        again = []
        for writer in writers:
            assert kept[writer.name] in (writer.last, writer.pending)
            assert writer.unsure or (writer.name in there) == writer.there
            again.append(Writer(site, writer.name))
            again[-1].last, again[-1].there = kept[writer.name], writer.name in there
        writers = again


@pytest.mark.slow
def test_scripts_are_signed_without_root(
    start: Callable[..., Running], host: Host, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, ring, temporary = site / "gpg", site / "secring.gpg", site / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(temporary))
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
    subprocess.run([*gpg, "--quick-generate-key", "test", "ed25519", "sign", "never"], check=True)
    ring.write_bytes(subprocess.run([*gpg, "--export-secret-keys"], check=True, capture_output=True).stdout)
    (site / "pixieboot.yaml").write_text(settings(site, "networks: [{interface: eth0}]", f"key_ring: {ring}"))
    daemon = start()
    daemon.until_event("started")

    def got(path: str) -> bool:
        fetching = ("curl", "-sSf", "--max-time", "5", "-o", str(site / path), f"http://10.71.0.2:8080/{path}")
        return host.run(*fetching, check=False).returncode == 0

    daemon.until(lambda: got("boot.ipxe") and got("boot.ipxe.sig"))
    subprocess.run([*gpg, "--verify", str(site / "boot.ipxe.sig"), str(site / "boot.ipxe")], check=True)
    user = Path(f"/proc/{daemon.pid()}").stat().st_uid
    assert [path.stat().st_uid for path in temporary.iterdir()] == [user] and user
    assert daemon.end() == 0
    assert not list(temporary.iterdir())
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=True)


def test_wrong_settings_while_running_change_nothing(start: Callable[..., Running], site: Path) -> None:
    daemon = start()
    daemon.until_event("started")
    (site / "pixieboot.yaml").write_text("netwroks: []\n")
    assert "Did you mean 'networks'?" in daemon.until_event("rejected")["error"]
    assert daemon.process.poll() is None


def test_shim_beside_a_router_is_said_at_start(start: Callable[..., Running], site: Path) -> None:
    (site / "registry/machines.yaml").write_text("web1: {mac: 52:54:00:00:00:01, loader: shimx64.efi}\n")
    daemon = start()
    daemon.until_event("started")
    assert re.search(
        r"^.*machines\.yaml:1: machine web1: shimx64\.efi does not boot beside a router \(eth0: proxy\)", daemon.said, re.M
    )
    assert "GRUB asks the router" in daemon.until_event("caution")["why"]


@pytest.mark.slow
def test_a_second_daemon_with_a_state_of_its_own_serves_other_interfaces_only(start: Callable[..., Running], site: Path) -> None:
    first = start()
    first.until_event("started")
    for folder, interface in (("second", "eth0"), ("third", "eth1")):
        (site / folder).mkdir()
        apart = [f"state: sqlite:{site}/{folder}/state/state.db", "http: {port: 8090}", "api: {listen: 127.0.0.1:8091}"]
        pool = "10.71.0.100-10.71.0.110" if interface == "eth0" else "10.72.0.100-10.72.0.110"
        apart.append(f"networks: [{{interface: {interface}, dhcp: server, pools: [{pool}], force: true}}]")
        text = settings(site, *apart).replace("tftproot}", "tftproot, port: 6999}")
        text = "".join(line for line in text.splitlines(True) if f"{site}/state" not in line)
        (site / "pixieboot.yaml").write_text(text)
        daemon = start()
        if interface == "eth0":
            assert daemon.process.wait(START) == 2
            assert f"interface eth0: another pixieboot (process {first.pid()}) answers DHCP there already" in daemon.complained
        else:
            daemon.until_event("started")
    assert first.process.poll() is None


def test_two_interfaces_with_different_modes(start: Callable[..., Running], site: Path) -> None:
    server = "{interface: eth1, dhcp: server, pools: [10.72.0.100-10.72.0.110], force: true}"
    (site / "pixieboot.yaml").write_text(settings(site, f"networks: [{{interface: eth0}}, {server}]"))
    daemon = start()
    daemon.until_event("started")
    assert "eth0: proxy, 10.71.0.2/24" in daemon.said and "eth1: server, 10.72.0.1/24" in daemon.said


REFUSED = {
    "an unknown option value": (["--pool", "10.71.0.9-10.71.0.1", "-i", "eth0", "--dhcp", "server"], "ends before it begins"),
    "an interface that no name can be": (["-i", "eth/0"], "is no name of an interface"),
    "settings that are not there": (["-c", "/nonexistent/pixieboot.yaml"], "/nonexistent/pixieboot.yaml: "),
}


@pytest.mark.parametrize("options, sentence", REFUSED.values(), ids=REFUSED)
def test_wrong_input_is_one_sentence_and_exit_2(start: Callable[..., Running], options: list[str], sentence: str) -> None:
    daemon = start(*options)
    assert daemon.process.wait(START) == 2
    assert sentence in daemon.complained and "Traceback" not in daemon.complained


@pytest.mark.slow
def test_a_second_daemon_is_told_who_holds_the_port(start: Callable[..., Running], site: Path) -> None:
    first = start()
    first.until_event("started")
    twin = start()
    assert twin.process.wait(START) == 2
    assert "state.db: another process uses it. " in twin.complained
    second = start("--state", f"sqlite:{site}/other/state.db")
    assert second.process.wait(START) == 2
    assert f"interface eth0: another pixieboot (process {first.pid()}) answers DHCP there already" in second.complained
    assert first.process.poll() is None


def test_unreadable_settings_name_the_chmod(start: Callable[..., Running], site: Path) -> None:
    (site / "pixieboot.yaml").chmod(0o600)
    daemon = start()
    assert daemon.process.wait(START) == 2
    assert "chmod" in daemon.complained and "Traceback" not in daemon.complained


def test_a_state_directory_of_somebody_else_names_the_chown(start: Callable[..., Running], site: Path) -> None:
    (site / "state").mkdir(mode=0o755)
    daemon = start()
    assert daemon.process.wait(START) == 2
    assert "chown" in daemon.complained and "Traceback" not in daemon.complained


@pytest.mark.slow
def test_another_dhcp_server_on_the_wire_is_named_and_not_fought(
    start: Callable[..., Running], site: Path, network: Network
) -> None:
    router = network.switch("office").host("router", "10.73.0.1/24")
    network.cable(router, "wan0", host := network.host("elsewhere"), "eth0")
    router.add_address("wan0", "10.74.0.1/24")
    host.add_address("eth0", "10.74.0.2/24")
    leases = ["--interface=wan0", "--dhcp-range=10.74.0.50,10.74.0.60", "--leasefile-ro"]
    rival = router.start("dnsmasq", "-k", "-C", "/dev/null", "--port=0", "--pid-file=", "--user=root", "-8", "/dev/null", *leases)
    server = "{interface: eth0, dhcp: server, pools: [10.74.0.100-10.74.0.110]}"
    (site / "pixieboot.yaml").write_text(settings(site, f"networks: [{server}]"))
    daemon = Running(host, site)
    try:
        assert daemon.process.wait(START) == 2
        assert "10.74.0.1" in daemon.complained and "force: true" in daemon.complained and "Traceback" not in daemon.complained
    finally:
        daemon.end()
        router.stop(rival)


def test_systemd_is_told_when_it_is_ready(host: Host, site: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(site / "notify"))
        (site / "notify").chmod(0o666)
        supervisor.settimeout(START)
        os.environ["NOTIFY_SOCKET"] = str(site / "notify")
        try:
            daemon = Running(host, site)
        finally:
            del os.environ["NOTIFY_SOCKET"]
        try:
            assert supervisor.recv(100) == b"READY=1"
            os.kill(daemon.pid(), signal.SIGTERM)
            assert supervisor.recv(100) == b"STOPPING=1"
            assert daemon.process.wait(5) == 0
        finally:
            daemon.end()


@pytest.mark.slow
def test_secrets_go_to_the_card_of_their_machine_alone(
    start: Callable[..., Running], network: Network, host: Host, site: Path
) -> None:
    yard = network.switch("yard")
    yard.plug(host, "eth2", "10.73.0.1/24")
    machine = yard.host("machine", "10.73.0.10/24", "02:00:00:00:00:01")
    other = yard.host("other", "10.73.0.11/24", "02:00:00:00:00:02")
    registry = site / "registry"
    for name in ("templates", "secrets"):
        (registry / name).mkdir()
    (registry / "machines.yaml").write_text("web1: {mac: 02:00:00:00:00:01, profile: linux}\n")
    (registry / "profiles.yaml").write_text("linux: {kernel: k, args: [\"c={{ url('ignition') }}\"], ignition: i.j2}\n")
    (registry / "templates/i.j2").write_text('{"p": "{{ secret("password") }}"}')
    (registry / "secrets/password").write_text("hunter2\n")
    user = privilege.service_user()
    assert user
    os.chown(registry / "secrets/password", user.pw_uid, user.pw_gid)
    (registry / "secrets/password").chmod(0o600)
    (site / "pixieboot.yaml").write_text(settings(site, "networks: [{interface: eth2}]"))
    daemon = start()
    daemon.until_event("started")

    def ask(who: Host, path: str) -> str:
        return who.run("curl", "-sS", "--max-time", "5", f"http://10.73.0.1:8080{path}").stdout

    def address(who: Host) -> str:
        return str(re.findall(r" c=http://10\.73\.0\.1:8080(\S+)", ask(who, "/ipxe?mac=02-00-00-00-00-01"))[0])

    # Who pretends by the query alone gets an address that is of no use to it, be it its own or the machine's.
    for path in (address(other), address(machine)):
        assert "10.73.0.11 is 02:00:00:00:00:02, which is no card of web1" in ask(other, path)
    refused = daemon.until_event("refused")
    assert (refused["level"], refused["path"], refused["mac"]) == ("alarm", "/ignition", "02:00:00:00:00:01")
    path = address(machine)
    assert ask(machine, path) == '{"p": "hunter2"}'
    os.kill(daemon.pid(), signal.SIGKILL)
    daemon.process.wait(5)
    said = daemon.complained
    daemon = start()
    daemon.until_event("started")
    machine.ip("address", "add", "10.73.0.12/24", "dev", "eth0")
    again = machine.run("curl", "-sS", "--interface", "10.73.0.12", f"http://10.73.0.1:8080{path}").stdout
    assert "its address was used by 10.73.0.10 before" in again, "the note of its use was on disk"
    for text in (said, daemon.complained, daemon.said):
        assert "hunter2" not in text and path.split("/")[2] not in text
