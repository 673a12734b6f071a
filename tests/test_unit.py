"""The daemon as systemd starts it by our unit: as the service user, with two capabilities, told to say when it is ready."""

import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import Network

TOP = Path(__file__).parent.parent
CAPABILITIES = "+net_bind_service,+net_raw"


def service_user() -> pwd.struct_passwd:
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("pixieboot") or names["nobody"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the service user can read, with a copy of the program; pytest's own are for root alone."""
    directory = Path(tempfile.mkdtemp(prefix="pixieboot-unit-"))
    try:
        shutil.copytree(TOP / "pixieboot", directory / "pixieboot", ignore=shutil.ignore_patterns("__pycache__"))
        (directory / "etc").mkdir()
        (directory / "state").mkdir()
        directory.chmod(0o755)
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.chown(directory / "state", service_user().pw_uid, service_user().pw_gid)
        yield directory
    finally:
        shutil.rmtree(directory)


def as_the_unit_does(user: pwd.struct_passwd, *command: str) -> list[str]:
    # fmt: off
    return [
        "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs",
        f"--inh-caps=-all,{CAPABILITIES}", f"--ambient-caps=-all,{CAPABILITIES}", f"--bounding-set=-all,{CAPABILITIES}",
        "--", *command,
    ]
    # fmt: on


@pytest.mark.needs_root
def test_it_starts_without_root_says_that_it_is_ready_and_keeps_no_capability(place: Path) -> None:
    user = service_user()
    if subprocess.run(as_the_unit_does(user, sys.executable, "-c", ""), capture_output=True, timeout=30).returncode:
        pytest.skip(f"{sys.executable} lies where the user {user.pw_name} cannot read it")
    (place / "etc/pixieboot.yaml").write_text(
        f"networks: [{{interface: eth0}}]\nregistry: {place}/etc\nstate: sqlite:{place}/state/state.db\n"
    )
    with Network("unit") as network, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(place / "state/notify"))
        shutil.chown(place / "state/notify", user.pw_uid, user.pw_gid)
        notify.settimeout(20)
        host = network.switch().host("server", "10.77.0.2/24")
        command = as_the_unit_does(user, sys.executable, "-m", "pixieboot", "serve", "-c", str(place / "etc/pixieboot.yaml"))
        environment = {
            "PYTHONPATH": str(place),
            "NOTIFY_SOCKET": str(place / "state/notify"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        daemon = host.start(*command, cwd=place, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            assert notify.recv(100) == b"READY=1"
        except TimeoutError:
            daemon.kill()
            pytest.fail(f"it never said that it is ready:\n{daemon.communicate()[1]}")
        pid = next(path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes().find(str(place).encode()) > 0)
        status = dict(re.findall(r"^(\w+):\t(.*)$", (pid / "status").read_text(), re.MULTILINE))
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert {status[name] for name in ("CapEff", "CapPrm", "CapAmb", "CapInh")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        began = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert notify.recv(100) == b"STOPPING=1"
        _, said = daemon.communicate(timeout=10)
        assert daemon.returncode == 0, said
        assert time.monotonic() - began < 2
