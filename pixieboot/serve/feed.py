"""The newest events with numbers of their own, for those who listen live (SSE) and come back where they left off."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from typing import Any

from pixieboot.journal import Journal, event_json
from pixieboot.model import Event, Mac

KEPT = 5000
BEHIND = 1000  # events that a slow listener may lag before it is sent away; it comes back with Last-Event-ID
KEEP_ALIVE = 15.0


class Feed:
    """A listener of the journal.  Ids are "EPOCH-NUMBER": those of an earlier run of the daemon are told from ours."""

    def __init__(self, journal: Journal) -> None:
        self._epoch = f"{int(time.time()):x}"
        self._number = 0
        self._events: deque[Event] = deque(maxlen=KEPT)  # the last of them is that of _number
        self._queues: set[asyncio.Queue[tuple[int, Event] | None]] = set()
        self.close = journal.listen(self._on_event)

    def _on_event(self, event: Event) -> None:
        self._number += 1
        self._events.append(event)
        for queue in tuple(self._queues):
            try:
                queue.put_nowait((self._number, event))
            except asyncio.QueueFull:
                self._queues.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)

    def latest(self, limit: int, macs: Collection[Mac] | None = None, before: str = "") -> list[dict[str, Any]]:
        """The newest events, oldest first; of one machine only, or only those before an id, if that is asked."""
        last = self._parse(before)
        found = [
            entry for entry in self._numbered() if (macs is None or entry[1].mac in macs) and (last is None or entry[0] < last)
        ]
        return [self.as_json(entry) for entry in found[-limit:]]

    async def live(self, after: str) -> AsyncGenerator[dict[str, Any] | None]:
        """Every event after that id (empty: from now on), as it happens; None now and then, so that a dead peer is noticed."""
        queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue(BEHIND)
        missed = list(self._after(after))
        self._queues.add(queue)
        try:
            for entry in missed:
                yield self.as_json(entry)
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        entry_or_end = await queue.get()
                except TimeoutError:
                    yield None
                    continue
                if entry_or_end is None:
                    return
                yield self.as_json(entry_or_end)
        finally:
            self._queues.discard(queue)

    def stop(self) -> None:
        """Send all listeners away: the daemon ends."""
        for queue in tuple(self._queues):
            self._queues.discard(queue)
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    def as_json(self, entry: tuple[int, Event]) -> dict[str, Any]:
        number, event = entry
        return {"id": f"{self._epoch}-{number}", **event_json(event)}

    def _numbered(self) -> Iterator[tuple[int, Event]]:
        return enumerate(self._events, self._number - len(self._events) + 1)

    def _after(self, last: str) -> Iterator[tuple[int, Event]]:
        if not last:
            return iter(())
        number = self._parse(last)
        # An id of an earlier run: everything of this one is news.
        return (entry for entry in self._numbered() if number is None or entry[0] > number)

    def _parse(self, text: str) -> int | None:
        epoch, _, number = text.partition("-")
        return int(number) if epoch == self._epoch and number.isascii() and number.isdigit() else None
