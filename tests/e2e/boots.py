"""One boot and what both witnesses said of it; boots that run two at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import pytest

from pixieboot.lab import Firmware, Lab, Outcome

MACHINES_AT_ONCE = 2
SLOTS = BoundedSemaphore(MACHINES_AT_ONCE)
TIMEOUT = 300.0
SECONDS: dict[str, float] = {}

Stage = tuple[str, str, Mapping[str, Any]]  # service, kind, details: values or predicates


@dataclass(frozen=True, slots=True)
class Case:
    """A machine and a network; overlays as Lab takes them.

    stages are what the journal must tell and screens what the console must show, each in its order.
    """

    firmware: Firmware
    mode: str
    stages: Callable[["Boot"], Sequence[Stage]]
    screens: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    tftp_files: Callable[[], Mapping[str, Path | str]] = dict
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Boot:
    """What both witnesses said of one boot."""

    outcome: Outcome
    lab: Lab

    @property
    def guest(self) -> dict[str, str]:
        """What the guest said of itself: kernel, mac, address, router, server, hostname."""
        words = (self.lab.said("USERSPACE") or "").split()
        return dict(word.partition("=")[::2] for word in words)

    @property
    def address(self) -> str:
        return self.guest.get("address", "").partition("/")[0]

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

    def told(self) -> str:
        journal = "\n".join(json.dumps(event) for event in self.lab.events)
        return f"{self.outcome}\n--- journal\n{journal}\n--- daemon\n" + "\n".join(
            [*self.lab.daemon_output, "--- router", *self.lab.router_output[-20:], "--- console", *self.lab.console[-60:]]
        )


def boot(name: str, case: Case) -> Boot:
    lab = Lab(
        case.firmware,
        case.mode,
        settings=case.settings,
        machine=case.machine,
        tftp_files=case.tftp_files(),
        keys=case.keys,
        owner="e2e",
    )
    with SLOTS, lab:
        outcome = lab.boot(TIMEOUT)
    SECONDS[name] = outcome.seconds
    return Boot(outcome, lab)


class Boots:
    """Boots by name.  The first demand starts all that the chosen tests will want."""

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._pool = ThreadPoolExecutor(MACHINES_AT_ONCE, thread_name_prefix="lab")
        self._futures: dict[str, Future[Boot]] = {name: self._pool.submit(boot, name, case) for name, case in cases.items()}

    def __getitem__(self, name: str) -> Boot:
        return self._futures[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
