"""One boot and what its witnesses said of it; boots that run two at a time."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import pytest

from pixieboot.client import Daemon
from pixieboot.errors import OperatorError
from pixieboot.lab import Firmware, Lab, Outcome

MACHINES_AT_ONCE = 2
SLOTS = BoundedSemaphore(MACHINES_AT_ONCE)
TIMEOUT = 300.0
SECONDS: dict[str, float] = {}

Stage = tuple[str, str, Mapping[str, Any]]  # service, kind, details: values or predicates


@dataclass(frozen=True, slots=True)
class Case:
    """A machine and a network; overlays as Lab takes them.

    stages are what the journal must tell and screens what the console must show, each in its order; sentence is what `why` says
    at the end (a regular expression).  verdict: of a machine that will not boot; its power is cut once the daemon came to that
    verdict and the last screen was shown.  blocked: an nftables match whose packets do not reach the daemon.
    """

    firmware: Firmware
    mode: str
    stages: Callable[["Boot"], Sequence[Stage]]
    screens: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[], Mapping[str, Path | str]] = dict
    keys: Sequence[tuple[str, str]] = ()
    memory: int = 512
    timeout: float = TIMEOUT
    sentence: str = r"^It reported done, .* after its first packet\.$"
    verdict: str = ""
    blocked: str = ""


@dataclass(frozen=True, slots=True)
class Boot:
    """What the witnesses said of one boot.

    why: what `pixieboot why` printed after it, and its exit code; verdicts: all verdicts that the daemon came to on the way, as
    name and outcome.
    """

    outcome: Outcome
    lab: Lab
    why: "subprocess.CompletedProcess[str]"
    verdicts: Sequence[tuple[str, str]]

    @property
    def guest(self) -> dict[str, str]:
        """What the guest said of itself: kernel, mac, address, router, server, hostname."""
        words = (self.lab.said("USERSPACE") or "").split()
        return dict(word.partition("=")[::2] for word in words)

    @property
    def address(self) -> str:
        return self.guest.get("address", "").partition("/")[0]

    @property
    def condemned(self) -> set[str]:
        """The verdicts of a boot that fails."""
        return {name for name, outcome in self.verdicts if outcome in ("failed", "ignored")}

    def expect_stages(self, wanted: Sequence[Stage]) -> None:
        """Fail unless the journal has these entries in this order."""
        position = 0
        for service, kind, detail in wanted:
            places = [self.lab.events.index(event) for event in self.lab.happened(service, kind, **detail)]
            later = [place for place in places if place >= position]
            if not later:
                pytest.fail(f"the journal has no {service} {kind} {detail} in its place\n{self.told()}", pytrace=False)
            position = later[0] + 1

    def expect_screens(self, wanted: Sequence[str]) -> None:
        """Fail unless the serial console showed these texts in this order."""
        text, position = "\n".join(self.lab.console), 0
        for want in wanted:
            found = text.find(want, position)
            if found < 0:
                pytest.fail(f"the console never showed {want!r} in its place\n{self.told()}", pytrace=False)
            position = found + len(want)

    def expect_sentence(self, wanted: str) -> None:
        """Fail unless `pixieboot why` prints a line that fits."""
        if not re.search(wanted, self.why.stdout, re.MULTILINE):
            pytest.fail(f"`pixieboot why` does not say {wanted!r}\n{self.told()}", pytrace=False)

    def told(self) -> str:
        journal = "\n".join(json.dumps(event) for event in self.lab.events)
        return (
            f"{self.outcome}\n--- why\n{self.why.stdout}{self.why.stderr}{self.verdicts}\n--- journal\n{journal}\n--- daemon\n"
            + (
                "\n".join(
                    [*self.lab.daemon_output, "--- router", *self.lab.router_output[-20:], "--- console", *self.lab.console[-60:]]
                )
            )
        )


class Verdicts:
    """What the daemon says of the machine, asked every second while it boots.  True when there is nothing more to wait for."""

    def __init__(self, lab: Lab, case: Case) -> None:
        self._lab, self._case, self._next = lab, case, 0.0
        self._daemon = Daemon.find(lab.directory / "pixieboot.yaml", {})
        self.seen: list[tuple[str, str]] = []

    def __call__(self) -> bool:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            with suppress(OperatorError):  # a stranger before its first packet
                told = self._daemon.get(f"/machines/{self._lab.mac}/timeline")
                found = told["verdict"]["name"], told["verdict"]["outcome"]
                if told["boots"] and found not in self.seen[-1:]:
                    self.seen.append(found)
        screen = self._case.screens[-1]
        return bool(self.seen) and self.seen[-1][0] == self._case.verdict and any(screen in line for line in self._lab.console)


def why(lab: Lab) -> "subprocess.CompletedProcess[str]":
    """`pixieboot why` of the lab's machine, as an operator runs it on the boot host."""
    command = [sys.executable, "-m", "pixieboot", "why", lab.mac, "-c", str(lab.directory / "pixieboot.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def boot(case: Case) -> Boot:
    lab = Lab(
        case.firmware,
        case.mode,
        memory=case.memory,
        settings=case.settings,
        machine=case.machine,
        profile=case.profile,
        files=case.files(),
        keys=case.keys,
        owner="e2e",
    )
    with SLOTS, lab:
        if case.blocked:
            lab.server.run("nft", "add table inet lab; add chain inet lab in { type filter hook input priority 0; }")
            lab.server.run("nft", f"add rule inet lab in {case.blocked} drop")
        verdicts = Verdicts(lab, case)
        outcome = lab.boot(case.timeout, verdicts)
        return Boot(outcome, lab, why(lab), verdicts.seen)


class Boots:
    """Boots by name.  The first demand starts all that the chosen tests will want."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._pool = ThreadPoolExecutor(MACHINES_AT_ONCE, thread_name_prefix="lab")
        self._futures: dict[str, Future[Boot]] = {name: self._pool.submit(boot, case) for name, case in cases.items()}

    def __getitem__(self, name: str) -> Boot:
        found = self._futures[name].result()
        SECONDS[name] = found.outcome.seconds
        return found

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
