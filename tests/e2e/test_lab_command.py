"""`pixieboot lab` as an operator runs it: verdicts on good and bad boots, and nothing left however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pixieboot.lab import Firmware, Lab
from tests.e2e.boots import TIMEOUT
from tests.netns import NETNS

pytestmark = pytest.mark.usefixtures("slot")
ROOT = Path(__file__).parents[2]


def start(*options: str) -> "subprocess.Popen[str]":
    """The command, in a process group of its own as a shell would have it."""
    command = [sys.executable, "-m", "pixieboot", "lab", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def remains(pid: int) -> list[str]:
    """What is left of the lab of a process: namespaces, files, processes."""
    names = [path.name for path in NETNS.glob(f"pxb-lab-{pid}-*")]
    files = [str(path) for path in Path("/tmp").glob(f"pixieboot-lab-{pid}-*")]
    return names + files + list(processes(f"pixieboot-lab-{pid}-").values())


def processes(mark: str) -> dict[int, str]:
    """Processes with this in their command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if mark in (line := path.read_text().replace("\0", " ")):
                found[int(path.parent.name)] = line
    return found


def wait_for_machine(pid: int) -> int:
    """The process of the machine that this lab starts."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for machine, line in processes(f"pixieboot-lab-{pid}-").items():
            if line.startswith("qemu-system"):
                return machine
        time.sleep(0.05)
    pytest.fail("no machine was started")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while remains(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert remains(pid) == []


def test_it_tells_the_stages_and_keeps_the_logs(tmp_path: Path) -> None:
    with start("--firmware", "bios", "--mode", "server", "--keep-log", str(tmp_path)) as process:
        output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    assert "It booted: Linux userspace" in output.splitlines()[-1]
    stages = [
        output.find(stage) for stage in ("power on", "dhcp    offered", "http    script", "guest   userspace", "http    done")
    ]
    assert -1 not in stages and stages == sorted(stages), output
    kinds = {json.loads(line)["kind"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()}
    assert {"offered", "acked", "script", "sent", "done"} <= kinds
    assert "PIXIEBOOT-LAB-USERSPACE" in (tmp_path / "console.log").read_text()
    assert json.loads((tmp_path / "pixieboot.yaml").read_text())["networks"][0]["dhcp"] == "server"
    wait_until_gone(process.pid)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_lab_leaves_nothing(ending: signal.Signals) -> None:
    with start("--firmware", "bios") as process:
        assert process.stdout is not None
        while "power on" not in (line := process.stdout.readline()):
            assert line, "it ended before the machine was switched on"
        wait_for_machine(process.pid)
        os.kill(process.pid, ending)
        process.communicate(timeout=30)
    assert process.returncode == 128 + ending
    wait_until_gone(process.pid)


def test_a_machine_that_is_killed_is_told(tmp_path: Path) -> None:
    with start("--firmware", "bios") as process:
        assert process.stdout is not None
        while "power on" not in (line := process.stdout.readline()):
            assert line, "it ended before the machine was switched on"
        os.kill(wait_for_machine(process.pid), signal.SIGKILL)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "It did not boot: QEMU ended with status -9." in output
    wait_until_gone(process.pid)


def test_the_next_lab_sweeps_up_after_a_killed_one() -> None:
    with start("--firmware", "bios") as process:
        assert process.stdout is not None
        while "power on" not in (line := process.stdout.readline()):
            assert line, "it ended before the machine was switched on"
        process.kill()
        process.communicate(timeout=30)
    with Lab(Firmware.BIOS, "server", owner="e2e"):
        wait_until_gone(process.pid)
