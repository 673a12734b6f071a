"""`pixieboot lab`: a real machine in QEMU, from power-on to Linux through the daemon, in a private network.

    with Lab(Firmware.UEFI, mode="proxy") as lab:
        outcome = lab.boot()
    assert outcome.booted and lab.happened("tftp", "sent")

Two witnesses tell what happened: the daemon's journal and the machine's serial console.  A boot counts only if both say so.
"""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

from pixieboot import verdict
from pixieboot.boots import split
from pixieboot.errors import OperatorError
from pixieboot.lab.guest import MARK, make_guest, signed_loaders
from pixieboot.lab.hosts import Host, Network, Switch
from pixieboot.lab.machine import Firmware, Machine, command_line, require_tools
from pixieboot.model import Event, Mac

__all__ = ["Fact", "Firmware", "Lab", "Outcome", "run"]

ROUTER, BOOT_HOST, POOL = "10.77.0.1", "10.77.0.2", ("10.77.0.100", "10.77.0.199")
HTTP_PORT = 8080
START_PATIENCE = 20.0  # seconds for the daemon to start: it looks for other DHCP servers first
KEY_SECONDS = 0.1  # between two keys: SeaBIOS's serial keyboard drops what comes faster than it is read
LINGER = 5.0  # seconds that a machine gets to switch itself off after its last word
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][0-9A-Za-z]|.)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]")
_KEYS = re.compile(r"\x1b\[.|.", re.DOTALL)
# The console's last words when the firmware found nothing to boot.
GAVE_UP = (
    "No bootable device",
    "UEFI Interactive Shell",
    "No bootable option or device",
    "Kernel panic",
    "grub>",
    "No more network devices",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One line that the lab heard.  at: seconds since power-on; source: daemon | console | router | lab."""

    at: float
    source: str
    text: str
    event: Mapping[str, Any] | None = None  # the daemon's journal entry


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a boot ended.  seconds: from power-on to the userspace line on the console, or to the end if there was none."""

    booted: bool
    seconds: float
    verdict: str
    next_step: str = ""


class Lab:
    """A network with the daemon and a machine.  A context manager: nothing of it stays, however it is left."""

    def __init__(
        self,
        firmware: Firmware = Firmware.UEFI,
        mode: str = "proxy",
        *,
        mac: str = "52:54:00:b0:07:01",
        memory: int = 512,
        kvm: bool = False,
        on_fact: Callable[[Fact], None] = lambda fact: None,
        settings: Mapping[str, Any] | None = None,
        machine: Mapping[str, Any] | None = None,
        profile: Mapping[str, Any] | None = None,
        profiles: Mapping[str, Any] | None = None,
        files: Mapping[str, Path | str] | None = None,
        keys: Sequence[tuple[str, str]] = (),
        beside: "Lab | None" = None,
        address: str = "",
        owner: str = "lab",
    ) -> None:
        """mode: proxy (beside a router that knows nothing of PXE) | server.

        settings, machine and profile are laid over those that the lab writes, profiles are more of them; files are files (or
        their text) below assets/, registry/ or tftproot/.  keys: what is typed when the console shows something, one after the
        other.  beside: another lab, whose wire and router this one shares; its daemon then needs an address of its own.
        """
        self.mode, self.mac, self.firmware = mode, Mac.parse(mac), firmware
        self.uuid = f"b0070000-0000-4000-8000-{self.mac.replace(':', '')}"
        self.address = address or (BOOT_HOST if mode == "proxy" else ROUTER)
        self.url = f"http://{self.address}:{HTTP_PORT}"
        self.events: list[Mapping[str, Any]] = []
        self.console: list[str] = []
        self.daemon_output: list[str] = []
        self.router_output: list[str] = []
        self._machine = Machine(firmware, self.mac, self.uuid, memory, kvm)
        self._on_fact, self._owner = on_fact, owner
        self._overlay = (settings or {}, machine or {}, profile or {}, profiles or {}, files or {})
        self._beside = beside
        self._keys = tuple(keys)
        self._lines: queue.Queue[tuple[float, str, str]] = queue.Queue()
        self._readers: list[threading.Thread] = []
        self._began = time.monotonic()
        self._stack = ExitStack()
        self.server: Host
        self.router: Host | None = None
        self.directory: Path
        self._switch: Switch

    # ------------------------------------------------------------------ the network

    def __enter__(self) -> Self:
        require_tools(self.firmware, router=self.mode == "proxy")
        with ExitStack() as stack:
            prefix = f"pixieboot-lab-{os.getpid()}-"
            place = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
            self.directory = Path(stack.enter_context(place))
            sweep_files(self.directory.parent)
            self.directory.chmod(0o755)  # the daemon reads it as the user it becomes
            self._lay_out()
            self._switch = self._beside._switch if self._beside else stack.enter_context(Network(self._owner)).switch()
            self.server = self._switch.host(f"server{self.address.rpartition('.')[2]}", f"{self.address}/24")
            stack.callback(self.server.close)
            if self.mode == "proxy" and not self._beside:
                self.router = self._switch.host("router", f"{ROUTER}/24")
                self._start_router(self.router)
            self.start_daemon()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
        for reader in self._readers:
            reader.join(1)

    def _lay_out(self) -> None:
        """Settings, registry, kernel and initramfs, all in the lab's own directory."""
        settings, machine, profile, profiles, files = self._overlay
        make_guest(_made(self.directory / "assets"))
        network: dict[str, Any] = {"interface": "eth0", "dhcp": self.mode}
        if self.mode == "server":
            network |= {"pools": ["-".join(POOL)], "routers": [ROUTER], "dns": [ROUTER], "lease_time": "1h"}
        self.settings = {
            "networks": [network],
            "http": {"port": HTTP_PORT},
            "tftp": {"root": str(_made(self.directory / "tftproot"))},
            "assets": str(self.directory / "assets"),
            "registry": str(_made(self.directory / "registry")),
            "state": f"sqlite:{self.directory / 'state' / 'state.db'}",
            "log": {"level": "debug", "format": "json"},
            **settings,
        }
        args = ["console=ttyS0", "panic=5", "pixieboot.done={{ url('done') }}"]
        entry = {"title": "The lab's guest", "kernel": "vmlinuz", "initrd": ["initrd.img"], "args": args}
        # JSON is YAML: what is written here needs no other quoting rules.
        loader = {"loader": "shimx64.efi"} if self.firmware.secure else {}
        lab = {"macs": [self.mac], "profile": "lab", "boot": "once", "hostname": "lab", **loader, **machine}
        for name, value in {
            "pixieboot.yaml": self.settings,
            "registry/machines.yaml": {"lab": lab},
            "registry/profiles.yaml": {"lab": {**entry, **profile}, **profiles},
        }.items():
            (self.directory / name).write_text(json.dumps(value, indent=2) + "\n")
        signed = signed_loaders() if self.firmware.secure else {}
        for name, source in {**{f"tftproot/{name}": file for name, file in signed.items()}, **files}.items():
            target = self.directory / name
            _made(target.parent)
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                target.write_text(source)

    def _start_router(self, router: Host) -> None:
        """The home router of mode proxy: leases and nothing else."""
        # fmt: off
        process = router.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--port=0",
            "--user=root", "--pid-file=", "--interface=eth0", "--bind-interfaces", "--dhcp-authoritative",
            f"--dhcp-range={POOL[0]},{POOL[1]},255.255.255.0,1h", f"--dhcp-option=option:router,{ROUTER}",
            f"--dhcp-leasefile={self.directory / 'router.leases'}", "--log-dhcp", "--log-facility=-",
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        # fmt: on
        self._read(process.stderr, "router")
        self.wait_for(lambda: any("DHCP, IP range" in line for line in self.router_output), 10, "the router does not start")

    def start_daemon(self) -> None:
        """Start the daemon, or start it again with the state that the one before it left."""
        self.events.clear()
        self.daemon = self.server.start(
            *self.daemon_command(),
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._read(self.daemon.stdout, "daemon")
        self.wait_for(lambda: self.happened("serve", "started"), START_PATIENCE, "the daemon does not start")

    def kill_daemon(self) -> None:
        """What a power cut does to it: SIGKILL, and nothing of it goes on."""
        self.daemon.kill()
        self.daemon.wait()
        self.server.stop(self.daemon)

    def neighbour(self, name: str, address: str) -> Host:
        """One more host on this wire, with nothing on it yet."""
        return self._switch.host(name, f"{address}/24")

    def daemon_command(self) -> list[str]:
        return [sys.executable, "-m", "pixieboot", "serve", "-c", str(self.directory / "pixieboot.yaml")]

    # ------------------------------------------------------------------ what is heard

    def _read(self, pipe: IO[bytes] | None, source: str) -> None:
        """Hand every line of a pipe on, from a thread of its own."""
        assert pipe is not None

        def run() -> None:
            with suppress(ValueError):  # the pipe was closed with the process
                for line in pipe:
                    self._lines.put((time.monotonic(), source, line.decode(errors="replace")))

        self._readers.append(threading.Thread(target=run, daemon=True))
        self._readers[-1].start()

    def _read_console(self, machine: "subprocess.Popen[bytes]") -> None:
        """The same for the machine's serial port, whose last line waits for an answer: type it when it is there."""
        screen, keyboard = machine.stdout, machine.stdin
        assert screen is not None and keyboard is not None

        def run() -> None:
            waiting, line, shown = list(self._keys), "", ""
            with suppress(ValueError, OSError):
                while octets := os.read(screen.fileno(), 65536):
                    text = octets.decode(errors="replace")
                    *lines, line = (line + text).split("\n")
                    for whole in lines:
                        self._lines.put((time.monotonic(), "console", whole))
                    shown += text
                    if waiting and waiting[0][0] in _ESCAPES.sub("", shown):
                        for key in _KEYS.findall(waiting.pop(0)[1]):
                            os.write(keyboard.fileno(), key.encode())
                            time.sleep(KEY_SECONDS)
                        shown = ""
            if line:
                self._lines.put((time.monotonic(), "console", line))

        self._readers.append(threading.Thread(target=run, daemon=True))
        self._readers[-1].start()

    def listen(self, seconds: float) -> None:
        """Take in what is said within so many seconds; returns after the first line."""
        try:
            at, source, raw = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return
        for line in _ESCAPES.sub("", raw).splitlines():
            if line := line.rstrip():
                self._take(at - self._began, source, line)

    def _take(self, at: float, source: str, line: str) -> None:
        event = None
        match source:
            case "daemon":
                with suppress(json.JSONDecodeError):
                    found = json.loads(line)
                    event = found if isinstance(found, dict) and "service" in found else None
                if event is None:
                    self.daemon_output.append(line)
                else:
                    self.events.append(event)
            case "console":
                self.console.append(line)
            case "router":
                self.router_output.append(line)
        self._on_fact(Fact(at, source, line, event))

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Listen until the condition holds.  Raises LabError, with the daemon's last lines, when it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = getattr(self, "daemon", None) is not None and self.daemon.poll() is not None
            if time.monotonic() > deadline or (ended and self._lines.empty()):
                raise LabError(
                    f"{what}{f': status {self.daemon.returncode}' if ended else ''}", [*self.router_output, *self.daemon_output]
                )
            self.listen(0.1)

    def happened(self, service: str, kind: str, **detail: Any) -> list[Mapping[str, Any]]:
        """The journal's entries of this service and kind; detail: values they must have, or functions that must say yes."""

        def fits(event: Mapping[str, Any]) -> bool:
            return all(want(event.get(key)) if callable(want) else event.get(key) == want for key, want in detail.items())

        return [event for event in self.events if event["service"] == service and event["kind"] == kind and fits(event)]

    def said(self, mark: str) -> str | None:
        """What the guest printed after MARK-mark on its console, such as USERSPACE; None if it never did."""
        start = f"{MARK}-{mark}"
        return next((line.partition(start)[2].strip() for line in self.console if line.startswith(start)), None)

    # ------------------------------------------------------------------ the machine

    def boot(self, timeout: float = 240.0, until: Callable[[], object] = lambda: False) -> Outcome:
        """Switch the machine on and watch it until it switches itself off, gives up, or the time is over.

        until: its power is cut as soon as this holds.
        """
        self.events.clear()
        self.console.clear()
        tap = self._switch.tap()
        with tempfile.TemporaryDirectory(dir=self.directory, prefix="machine-") as place:
            argv = command_line(self._machine, tap, Path(place))
            self._began = time.monotonic()
            self._on_fact(Fact(0.0, "lab", f"power on: {self.firmware.value}, {self.mac}, {self._machine.memory} MiB"))
            machine = self._switch.at.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self._read_console(machine)
            try:
                end = self._watch(machine, timeout, until)
            finally:
                machine.kill()
                self._switch.at.stop(machine)
                self._switch.at.ip("link", "delete", tap)
        return end

    def _watch(self, machine: "subprocess.Popen[bytes]", timeout: float, until: Callable[[], object]) -> Outcome:
        deadline, userspace, why = self._began + timeout, 0.0, f"it took longer than {timeout:.0f} s"
        while (now := time.monotonic()) < deadline:
            seen = len(self.console)
            self.listen(min(0.2, deadline - now))
            fresh = self.console[seen:]
            if any(line.startswith(f"{MARK}-USERSPACE") for line in fresh):
                userspace = time.monotonic() - self._began
            if any(line.startswith(f"{MARK}-OFF") for line in fresh):
                deadline = min(deadline, time.monotonic() + LINGER)
            if hint := next((hint for line in fresh for hint in GAVE_UP if hint in line), None):
                why, deadline = f"it gave up ({hint})", min(deadline, time.monotonic() + 1)
            if until():
                why = "its power was cut"
                break
            if self.daemon.poll() is not None and self._lines.empty():
                why = f"the daemon ended with status {self.daemon.returncode}"
                break
            if (status := machine.poll()) is not None and self._lines.empty():
                why = f"QEMU ended with status {status}" if status else "it switched itself off"
                time.sleep(0.2)  # the daemon's last lines
                while not self._lines.empty():
                    self.listen(0)
                break
        return self._judge(userspace, why)

    def _judge(self, userspace: float, why: str) -> Outcome:
        seconds = userspace or time.monotonic() - self._began
        if userspace and self.said("DONE") is not None and self.happened("http", "done", mac=self.mac):
            return Outcome(True, seconds, f"It booted: Linux userspace {seconds:.1f} s after power-on, and it reported done.")
        if userspace:
            told = self.said("NOT-DONE")
            missing = f"its call to /done failed: {told}" if told is not None else "the daemon's journal has no call to /done"
            return Outcome(False, seconds, f"Linux runs, but {missing}.")
        if any(line.startswith("Traceback") for line in self.daemon_output):
            why += "; the daemon's output has a traceback"
        boots = split(_events_of(self.events, self.mac))
        # What was written by now is all there will be: the machine is off.
        found = verdict.judge(boots[-1], time.time() + 3600) if boots else verdict.nothing_heard(self.mac)
        return Outcome(False, seconds, f"It did not boot: {why}. {found.sentence}", found.next_step)

    def keep_logs(self, directory: Path) -> None:
        """Copy what was heard and how the daemon was set up into a directory."""
        _made(directory)
        shutil.copytree(self.directory / "registry", directory / "registry", dirs_exist_ok=True)
        shutil.copyfile(self.directory / "pixieboot.yaml", directory / "pixieboot.yaml")
        for name, lines in {
            "journal.jsonl": [json.dumps(event) for event in self.events],
            "console.log": self.console,
            "daemon.log": self.daemon_output,
            "router.log": self.router_output,
        }.items():
            (directory / name).write_text("".join(f"{line}\n" for line in lines))


class LabError(Exception):
    """The lab itself does not come up.  Not the operator's fault, so with what its parts said last."""

    def __init__(self, what: str, output: list[str]) -> None:
        super().__init__("\n".join([what, *output[-30:]]))
        self.what = what


def _events_of(entries: list[Mapping[str, Any]], mac: Mac) -> list[Event]:
    """The journal's lines as the events they were."""
    own = ("at", "mac", "service", "kind", "level")
    return [
        Event(
            entry["at"],
            mac,
            entry["service"],
            entry["kind"],
            {k: v for k, v in entry.items() if k not in own},
            entry.get("level", "info"),
        )
        for entry in entries
        if entry.get("mac") == mac
    ]


def sweep_files(directory: Path) -> None:
    """Remove the files of labs that were killed before they could."""
    for left in directory.glob("pixieboot-lab-*-*"):
        pid = left.name.split("-")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and left.lstat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


# ---------------------------------------------------------------------- the command


def run(
    firmware: str,
    mode: str,
    mac: str,
    memory: int,
    timeout: float,
    kvm: bool = False,
    keep_log: Path | None = None,
    verbose: bool = False,
) -> int:
    """Boot one machine, telling the stages as they happen; the exit code.  Raises OperatorError."""
    if os.geteuid() != 0:
        raise OperatorError("lab", "it makes network namespaces, which needs root", "Run: sudo pixieboot lab")
    try:
        Mac.parse(mac)
    except ValueError as error:
        raise OperatorError("--mac", str(error), "Name one, or leave it out.") from None

    def tell(fact: Fact) -> None:
        if verbose or (line := stage_line(fact)):
            print(f"{max(0.0, fact.at):7.1f} s  {line if not verbose else f'{fact.source:8}{fact.text}'}", flush=True)

    with _ended_by_signals():
        lab = Lab(Firmware(firmware), mode, mac=mac, memory=memory, kvm=kvm, on_fact=tell)
        try:
            with lab:
                try:
                    outcome = lab.boot(timeout)
                finally:
                    if keep_log:
                        lab.keep_logs(keep_log)
        except LabError as error:
            print(f"pixieboot lab: {error.what}", file=sys.stderr)  # the rest was told when it was heard
            return 1
    print(outcome.verdict)
    if outcome.next_step:
        print(outcome.next_step)
    return 0 if outcome.booted else 1


def stage_line(fact: Fact) -> str:
    """A fact as a stage of the boot, in one line; empty if it is none."""
    if fact.source == "lab":
        return fact.text
    if fact.source == "console":
        return f"guest   {fact.text.removeprefix(MARK + '-').lower()}" if fact.text.startswith(MARK) else ""
    if fact.event is None or fact.event.get("level") == "debug":
        return fact.text if fact.source == "daemon" and fact.event is None else ""
    own = ("at", "mac", "service", "kind", "level", "peer")
    words = [f"{key}={value}" for key, value in fact.event.items() if key not in own and value not in (None, "")]
    return f"{fact.event['service']:8}{fact.event['kind']} {' '.join(words)}"[:200]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the lab through every clean-up, which a second one does not disturb."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
