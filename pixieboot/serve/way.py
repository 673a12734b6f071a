"""The machine's way: when the time of an installation is up, and which way to the local disk is the right one.

What is learned goes into the state store, and from there to the heart as `assignment.state`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from pixieboot.inventory import HOLD
from pixieboot.journal import Journal
from pixieboot.model import Assignment, Event, Mac, Profile
from pixieboot.policy import LOCAL_WAYS
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore

BACK_AT_ONCE = 60.0  # seconds: who asks again this soon did not start from its disk
SAME_BOOT = 3.0  # seconds: who asks again this soon asks twice in one boot
REMEMBERED = 4096  # machines that were sent to their disk


@dataclass(slots=True)
class _Sent:
    """A machine that was sent to its disk: when last, how often it was back at once, how many ways led nowhere."""

    at: float
    back: int = 0
    tried: int = 0


class Way:
    """Follows machines from one boot to the next."""

    def __init__(self, registry: Registry, store: StateStore, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._registry, self._store, self._journal, self._clock = registry, store, journal, clock
        self._sent: OrderedDict[Mac, _Sent] = OrderedDict()
        self._changed = asyncio.Event()

    def begins(self, key: str, assignment: Assignment, profile: Profile) -> None:
        """The machine boots this profile now.  Under `once`, the time begins in which it must report done."""
        state = self._store.state(key)
        if assignment.order != "once" or not profile.once_timeout or profile is HOLD or state.deadline or state.done:
            return
        if assignment.machine or self._store.has_room(key):
            self._store.set_state(key, replace(state, deadline=self._clock() + profile.once_timeout))
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

    def back_from_disk(self, key: str, mac: Mac, assignment: Assignment, how: str) -> bool:
        """The machine asks, and is to be sent to its local disk in this way.  True: another way is in force from now on.

        A way that led to the disk before gets a second chance: somebody may just have pressed a button.
        """
        now = self._clock()
        sent = self._sent.pop(mac, None)
        away = now - sent.at if sent else 0.0
        self._sent[mac] = sent or _Sent(now)
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        if sent is None or away < SAME_BOOT:
            self._sent[mac].at = min(now, self._sent[mac].at)  # a clock may be set back
            return False
        sent.at = now
        machine, state = assignment.machine, self._store.state(key)
        if (machine and machine.local_boot != "auto") or not (machine or self._store.has_room(key)):
            return False
        if away >= BACK_AT_ONCE:
            sent.back = sent.tried = 0
            if not state.local_boot_works:
                self._store.set_state(key, replace(state, local_boot=how, local_boot_works=True))
            return False
        sent.back += 1
        if sent.back < (2 if state.local_boot_works else 1):
            return False
        sent.back, sent.tried = 0, sent.tried + 1
        follower = LOCAL_WAYS[(LOCAL_WAYS.index(how) + 1) % len(LOCAL_WAYS)]
        self._store.set_state(key, replace(state, local_boot=follower, local_boot_works=False))
        why = f"it was back {away:.0f} s after {how}: {follower} is tried"
        exhausted = sent.tried % len(LOCAL_WAYS) == 0
        if exhausted:
            why += "; no way has led to its disk, which may hold nothing that starts"
        detail = {"machine": key, "local_boot": follower, "why": why}
        self._journal.record(Event(now, mac, "http", "local way", detail, "alarm" if exhausted else "warning"))
        return True
