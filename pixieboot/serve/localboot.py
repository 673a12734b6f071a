"""Which way to the local disk a machine understands: who is back at once is sent there in another, and what works is kept.

What is learned goes into the state store, and from there to the heart as `assignment.state`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from pixieboot.journal import Journal
from pixieboot.model import Assignment, Event, Mac
from pixieboot.policy import LOCAL_WAYS
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


class LocalBoot:
    """Machines that were sent to their disk, and whether they stayed away."""

    def __init__(self, store: StateStore, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that nobody sets; a host without a battery is given the time of day amid the first boots."""
        self._store, self._journal, self._clock = store, journal, clock
        self._sent: OrderedDict[Mac, _Sent] = OrderedDict()

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
        self._journal.record(Event(time.time(), mac, "http", "local way", detail, "alarm" if exhausted else "warning"))
        return True
