"""Butane configurations -> Ignition, by the program `butane` if it is installed."""

import shutil
import subprocess
from functools import cache, lru_cache

MEND = "Install butane (https://coreos.github.io/butane/), or write the configuration as Ignition (.ign)."
TIME_LIMIT = 5.0  # seconds; a translation takes milliseconds


@cache
def program() -> str | None:
    """Where the program is; None if it is not installed."""
    return shutil.which("butane")


@lru_cache(256)
def translated(text: str) -> bytes:
    """The Ignition configuration of a Butane configuration.  Raises ValueError with what butane says."""
    path = program()
    if path is None:
        raise ValueError("a Butane configuration needs the program butane, which is not installed")
    try:
        done = subprocess.run(
            [path, "--strict"], input=text.encode("utf-8", "surrogateescape"), capture_output=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"butane took longer than {TIME_LIMIT:g} s") from None
    if done.returncode:
        raise ValueError("butane refuses it: " + " ".join(done.stderr.decode(errors="replace").split()))
    return done.stdout.rstrip(b"\n")
