"""schemathesis makes requests out of the description, right and wrong ones, and every answer must be one that is described."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_api import JSON, TOKEN
from tests.test_operator import Running, daemon

__all__ = ["daemon"]
CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.mark.slow
def test_schemathesis_finds_nothing(daemon: Running, tmp_path: Path) -> None:
    made = daemon.ask("/api/v1/machines/web9", JSON, "PUT", {"macs": ["02:00:00:00:00:99"]})
    assert made.status == 201  # the one that is changed
    url = f"http://127.0.0.1:{daemon.port}"
    done = subprocess.run(
        [
            f"{Path(sys.executable).parent}/schemathesis", "--config-file", CONFIG, "run", f"{url}/openapi.json", "--header",
            f"Authorization: Bearer {TOKEN}", "--max-examples", "20", "--phases", "examples,coverage,fuzzing", "--seed", "7",
            "--generation-database", "none", "--no-color", "--continue-on-failure",
        ],
        cwd=tmp_path, env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "hypothesis")}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    print(done.stdout)
