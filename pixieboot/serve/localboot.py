"""Which way to the local disk a machine understands: who is back at once is sent there in another, and what works is kept.

What is learned goes into the state store, and from there to the heart as `assignment.state`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pixieboot.journal import Journal
from pixieboot.model import Assignment, Event, Mac
from pixieboot.policy import DiskTries, back_from_disk
from pixieboot.registry.sqlite import StateStore

SAME_BOOT = 3.0  # seconds: who asks again this soon asks twice in one boot
REMEMBERED = 4096  # machines that were sent to their disk


@dataclass(slots=True)
class _Sent:
    """A machine that was sent to its disk: when last, and what came of it before."""

    at: float
    tries: DiskTries


class LocalBoot:
    """Machines that were sent to their disk, and whether they stayed away."""

    def __init__(self, store: StateStore, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that nobody sets; a host without a battery is given the time of day amid the first boots."""
        self._store, self._journal, self._clock = store, journal, clock
        self._sent: OrderedDict[Mac, _Sent] = OrderedDict()

    def back_from_disk(self, key: str, mac: Mac, assignment: Assignment, how: str) -> bool:
        """The machine asks, and is to be sent to its local disk in this way.  True: another way is in force from now on."""
        now = self._clock()
        sent = self._sent.pop(mac, None)
        away = now - sent.at if sent else 0.0
        self._sent[mac] = sent or _Sent(now, DiskTries())
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        if sent is None or away < SAME_BOOT:
            return False
        sent.at = now
        if not (assignment.machine or self._store.has_room(key)):
            return False
        sent.tries, learned, why = back_from_disk(away, how, sent.tries, assignment)
        self._store.set_state(key, learned)
        if why:
            detail = {"machine": key, "local_boot": learned.local_boot, "why": why}
            level = "alarm" if sent.tries.exhausted else "warning"
            self._journal.record(Event(time.time(), mac, "http", "local way", detail, level))
        return bool(why)
