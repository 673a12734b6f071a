"""Installations that must report done in time (once_timeout), from a machine's first script of that profile on.

What is noted goes into the state store, and from there to the heart as `assignment.state`.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from pixieboot.inventory import HOLD
from pixieboot.journal import Journal
from pixieboot.model import Assignment, Event, Mac, Profile
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore

SET = 5.0  # seconds: by more than this the time of day is set, less is the drift that NTP corrects


class Deadlines:
    """Follows installations, and tells of those whose time is up."""

    def __init__(
        self,
        registry: Registry,
        store: StateStore,
        journal: Journal,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: the time of day, which outlives a restart; steady: seconds that nobody sets."""
        self._registry, self._store, self._journal = registry, store, journal
        self._clock, self._steady = clock, steady
        self._ahead = clock() - steady()
        self._begun: set[str] = set()  # since the start: these deadlines were reckoned by the clock as it goes now
        self._changed = asyncio.Event()

    def begins(self, key: str, assignment: Assignment, profile: Profile) -> None:
        """The machine boots this profile now.  Under `once`, the time begins in which it must report done."""
        state = self._store.state(key)
        if assignment.order != "once" or not profile.once_timeout or profile is HOLD or state.deadline or state.done:
            return
        if assignment.machine or self._store.has_room(key):
            self._follow_clock()
            self._store.set_state(key, replace(state, deadline=self._clock() + profile.once_timeout))
            self._begun.add(key)
            self._changed.set()

    async def run(self) -> None:
        """Tell of installations whose time is up, until cancelled."""
        while True:
            self._changed.clear()
            following = self.expire()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if following is None else max(0.0, following - self._clock())):
                    await self._changed.wait()

    def expire(self) -> float | None:
        """Note each installation whose time is up.  When the next one's will be; None: there is none."""
        self._follow_clock()
        now, following = self._clock(), None
        for key, state in list(self._store.states().items()):
            if state.deadline > now:
                following = min(following or state.deadline, state.deadline)
            elif state.deadline:
                self._store.set_state(key, replace(state, deadline=0.0, overdue=state.deadline))
                found = self._registry.current.find(key)
                mac = next(iter(found.macs), None) if found else None
                if found is None:
                    with suppress(ValueError):  # a machine that was described once
                        mac = Mac.parse(key)
                why = "its installation did not report done in time (once_timeout): on_timeout of its profile applies"
                self._journal.record(Event(now, mac, "boot", "overdue", {"machine": key, "why": why}, "alarm"))
        return following

    def _follow_clock(self) -> None:
        """Who sets the clock of this host neither ends an installation nor gives it more time: its deadline moves along.

        Not one of before the start: a host without a battery is set right to the time that it was reckoned by.
        """
        ahead = self._clock() - self._steady()
        if abs(moved := ahead - self._ahead) < SET:
            return
        self._ahead = ahead
        for key in self._begun:
            state = self._store.state(key)
            if state.deadline:
                self._store.set_state(key, replace(state, deadline=state.deadline + moved))
