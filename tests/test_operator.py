"""The operator's commands against a daemon's API on its UNIX socket, run as in a pipe."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner, Result

from pixieboot.cli import ELSEWHERE, main
from pixieboot.client import Daemon, Unreachable
from pixieboot.model import Event, Mac
from pixieboot.operator import ago, complete_machine, stamp, table, until
from pixieboot.serve import access
from pixieboot.serve.asgi import Server
from tests.test_api import Served
from tests.test_boots import FILES, MAC, UEFI, later

STRANGER = Mac("02:00:00:00:00:09")


class Running(Served):
    """An API on its UNIX socket and on a TCP port, in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.applications()
        self.config = directory / "pixieboot.yaml"
        self.config.write_text(f"registry: {directory}/reg\nstate: sqlite:{directory}/state.db\n")
        self._unix = access.listen(directory / "api.sock")
        self._loop = asyncio.new_event_loop()
        self._servers = [
            Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none", http="h11")) for app in (self.unix, self.tcp)
        ]
        import socket

        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def applications(self) -> None:
        """Where another application is to be served."""

    def in_loop(self, call: Callable[[], object]) -> None:
        """Call this in the server's own thread, where the daemon records its events; wait for its end."""
        done = threading.Event()

        def called() -> None:
            call()
            done.set()

        self._loop.call_soon_threadsafe(called)
        assert done.wait(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def both() -> None:
            await asyncio.gather(self._servers[0].serve([self._unix]), self._servers[1].serve([self._tcp]))

        self._loop.run_until_complete(both())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self.feed.stop)
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.end)
        self._thread.join()
        self._loop.close()
        self._unix.close()
        super().close()

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, [words[0], *words[1:], "-c", str(self.config)])


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.close()


def test_machines(daemon: Running) -> None:
    daemon.happen(*later([*UEFI, *FILES], time.time() - 30))
    daemon.store.see(STRANGER, None, "x64-efi", "PXEClient", 1.0)
    lines = daemon.run("machines").output.splitlines()
    assert lines[0].split() == ["machine", "MAC", "address", "boots", "order", "heard", "stage", "verdict"]
    assert lines[1].split()[:5] == ["web1", MAC, "10.0.0.50", "linux", "always"] and lines[1].endswith("handed-over")
    assert "(not described)" in lines[2]
    assert [each["name"] for each in json.loads(daemon.run("machines", "list", "--json").output)["machines"]] == ["web1", STRANGER]
    before = CliRunner().invoke(
        main, ["machines", "--json", "-c", str(daemon.config), "list"], env={"PIXIEBOOT_CONFIG": "/nowhere"}
    )
    assert json.loads(before.output)["machines"], "options may stand before the subcommand too"
    shown = daemon.run("machines", "show", "web1")
    assert "machines.yaml:1" in shown.output and "10.0.0.50" in shown.output
    assert json.loads(daemon.run("machines", "show", "web1", "--json").output)["name"] == "web1"


def test_a_hostile_name_is_shown_escaped(daemon: Running) -> None:
    daemon.happen(Event(time.time(), STRANGER, "dhcp", "offered", {"arch": "x64-efi", "why": "\x1b[2J\u202egpj.exe"}))
    for words in (["why", STRANGER], ["events"], ["machines"]):
        assert "\x1b" not in daemon.run(*words).output and "\u202e" not in daemon.run(*words).output


def test_boot(daemon: Running) -> None:
    assert daemon.run("boot", "web1").output.startswith("web1 boots linux at every start (")
    assert daemon.run("boot", "web1", "menu", "--once").output.startswith("web1 boots menu once, until it reports done (")
    assert daemon.run("boot", MAC, "--local").output.startswith("web1 boots its local disk (")
    assert json.loads(daemon.run("boot", "web1", "--always", "--json").output)["order"]["boot"] == "always"
    wrong = daemon.run("boot", "web1", "nope")
    assert wrong.exit_code == 2 and "profile nope: there is no such profile" in wrong.output


def test_why_a_machine_that_was_heard_did_not_boot(daemon: Running) -> None:
    for kind, why in (("ignored", "Apple's BSDP is not spoken"), ("acked", "an ordinary DHCP client")):
        daemon.happen(Event(time.time(), STRANGER, "dhcp", kind, {"why": why}))
        told = daemon.run("why", STRANGER)
        assert told.exit_code == 1 and f"{STRANGER} was heard, but" in told.output and why in " ".join(told.output.split())


def test_why(daemon: Running) -> None:
    silent = daemon.run("why", "web1")
    assert silent.exit_code == 1 and "Nothing was heard of web1." in silent.output and "Next: " in silent.output
    now = time.time() - 2000
    daemon.happen(*later([*UEFI, *FILES], now), *later(UEFI, now + 1000))
    told = daemon.run("why", "web1")
    assert told.exit_code == 1 and "asked for nothing after it" in told.output
    assert "12.0 s  http  asked for its script: flatcar: its own profile" in told.output
    earlier = daemon.run("why", "web1", "-n", "2")
    assert earlier.exit_code == 0 and "its kernel has taken over" in earlier.output
    assert json.loads(daemon.run("why", "web1", "--json").output)["verdict"]["name"] == "script-stopped"
    assert [line.split()[-1] for line in daemon.run("why", "web1", "--all").output.splitlines()[1:]]
    assert len(json.loads(daemon.run("why", "web1", "--all", "--json").output)["boots"]) == 2
    too_far = daemon.run("why", "web1", "-n", "9")
    assert too_far.exit_code == 2 and "only 2 boots" in too_far.output


def test_explain(daemon: Running) -> None:
    told = daemon.run("explain", "web1", "--arch", "x64-efi")
    assert told.exit_code == 0
    for words in ("machine   web1 (", "profile   linux (", "=> efi", "platform is efi", "iPXE's DHCP: fetch", "    kernel "):
        assert words in told.output
    assert "platform is bios, not efi" in daemon.run("explain", "web1", "--arch", "x86-bios").output
    assert json.loads(daemon.run("explain", "web1", "--json").output)["machine"] == "web1"
    assert daemon.run("explain", "web1", "--arch", "z80").exit_code == 2
    (daemon.config.parent / "reg" / "profiles.yaml").write_text("linux: {kernel: vmlinuz, args: ['{{ vars.nothing }}']}\n")
    daemon.context.registry.load()
    broken = daemon.run("explain", "web1")
    assert broken.exit_code == 1 and "nothing" in broken.output


def test_leases(daemon: Running) -> None:
    lines = daemon.run("leases").output.splitlines()
    assert lines[1].split() == ["10.0.0.50", "reserved", MAC, "web1", "always"]
    assert lines[2].split()[:4] == ["10.0.0.77", "bound", STRANGER, "pc"]
    assert len(json.loads(daemon.run("leases", "--all", "--json").output)["leases"]) == 2


def test_events(daemon: Running) -> None:
    daemon.happen(*later(UEFI, time.time()), Event(time.time(), STRANGER, "dhcp", "ignored", {"why": "x"}, "warning"))
    assert len(daemon.run("events").output.splitlines()) == len(UEFI) + 1
    assert len(daemon.run("events", "web1", "-n", "3").output.splitlines()) == 3
    assert json.loads(daemon.run("events", "-n", "1", "--json").output)["kind"] == "ignored"
    assert daemon.run("events", "-n", "0").output == ""


def test_token(daemon: Running) -> None:
    assert daemon.run("token").exit_code == 2
    token = access.make_token(daemon.context.settings)
    assert daemon.run("token").output == token + "\n"


def test_machine_files_from_the_shell(daemon: Running) -> None:
    added = daemon.run("machines", "add", "web2", "mac=52:54:00:12:34:57", "profile=linux")
    assert added.exit_code == 0, added.output
    assert daemon.run("machines", "set", "web2", "boot=once").exit_code == 0
    daemon.context.registry.load()
    assert "web2" in daemon.run("machines").output
    assert daemon.run("machines", "remove", "web2").exit_code == 0
    refused = daemon.run("machines", "set", "web1", "boot=once")
    assert refused.exit_code == 2 and "machines.yaml:1: machine web1 stands among others" in refused.output


def test_nobody_there(tmp_path: Path) -> None:
    config = tmp_path / "pixieboot.yaml"
    config.write_text(f"registry: {tmp_path}\nstate: sqlite:{tmp_path}/state.db\n")
    for words in (["machines"], ["why", "web1"], ["leases"], ["events", "-f"], ["boot", "web1", "--once"], ["explain", "web1"]):
        result = CliRunner().invoke(main, [*words, "-c", str(config)])
        assert result.exit_code == 3, words
        assert "no pixieboot answers there" in result.output and "Traceback" not in result.output
    config.write_text("netwroks: []\n")
    assert CliRunner().invoke(main, ["machines", "-c", str(config)]).exit_code == 2
    found = Daemon(None, ("127.0.0.1", 1), "token")
    with pytest.raises(Unreachable):
        next(found.follow())


@pytest.mark.parametrize("name", ELSEWHERE)
def test_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0 and "Example: " in result.output


def test_names_for_the_shell(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    context = main.make_context("pixieboot", ["why", "web1"], resilient_parsing=True)
    monkeypatch.setenv("PIXIEBOOT_API", f"http://127.0.0.1:{daemon.port}")
    assert complete_machine(context, main.params[0], "w") == []
    monkeypatch.setenv("PIXIEBOOT_TOKEN", "correct-horse-battery-staple")
    assert [item.value for item in complete_machine(context, main.params[0], "w")] == ["web1"]


def test_times() -> None:
    now = time.time()
    assert ago(now - 5) == "5 s ago" and until(None) == "always"
    assert until(now + 60.4) == "in 60 s" and until(now - 5) == "5 s ago"
    assert len(stamp(now)) == 8 and len(stamp(0)) == 19


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table(["machine", "verdict"], [["web1", ("failed", "red")], ["[bold]x", "\x1b[2J"]], "none")
    said = capsys.readouterr().out
    assert "web1" in said and "[bold]x" in said and "\\x1b" in said
    table(["machine"], [], "none")
    assert capsys.readouterr().out == "none\n"
