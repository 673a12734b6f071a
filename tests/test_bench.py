"""bench/run: its figures come from answers that were checked, and it says what it lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


def run(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BENCH / "run"), "--cache", str(cache), "--pixieboot", f"{sys.executable} -m pixieboot", *arguments]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, cwd=BENCH.parent, check=False)


def test_a_measurement_that_is_none_is_refused(tmp_path: Path) -> None:
    done = run("http3", cache=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bench/run: http3 is not a measurement. `bench/run --list` names them.\n"


@pytest.mark.slow
@pytest.mark.needs_root
def test_every_protocol_is_measured_and_every_answer_is_right(reached: Path) -> None:
    done = run("--rounds", "1", "--seconds", "0.5", "proxy", "lease-known", "tftp-50", "together", "start", cache=reached)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:5]] == [
        "proxyDHCP, as fast as it goes",
        "DHCP, machines that have a lease",
        "TFTP lockstep, 50 clients",
    ]
    for row in rows[2:5]:
        ours, theirs, rate, cpu = (cell.strip() for cell in row.split("|")[2:6])
        assert ours.startswith("pixieboot ") and theirs.startswith("dnsmasq ")
        assert float(rate) > 0 and float(cpu) > 0
    assert rows[5].startswith("DHCP answers, 200 asked for a second: alone p50 ")
    assert rows[6].startswith("Start to the first answer, and idle memory: pixieboot ")
    assert "faults" not in done.stdout


@pytest.fixture
def reached(tmp_path: Path) -> Path:
    """A cache that the daemon can read when it has given up root."""
    tmp_path.chmod(0o755)
    return tmp_path
