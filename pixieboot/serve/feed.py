"""The newest events with numbers of their own, for those who listen live (SSE) and come back where they left off."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from itertools import islice
from typing import Any

from pixieboot.journal import Journal, event_json
from pixieboot.model import Event, Mac

KEPT = 5000
LOOK = 0.2  # seconds between two looks at what is new: no event waits for those who listen
BEHIND = 1000  # events that a slow listener may lag before it is sent away; it comes back with Last-Event-ID
PORTION = 100  # events that one listener is given at once: others have their turn in between
KEEP_ALIVE = 15.0


class Feed:
    """A reader of the journal.  Ids are "EPOCH-NUMBER": those of an earlier run of the daemon are told from ours."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._epoch = f"{int(time.time()):x}"
        self._ended = False

    def latest(self, limit: int, macs: Collection[Mac] | None = None, before: str = "") -> list[dict[str, Any]]:
        """The newest events, oldest first; of one machine only, or only those before an id, if that is asked."""
        last = self._parse(before)
        found = (
            self.as_json(number, event)
            for number, event in reversed(self._kept())
            if (macs is None or event.mac in macs) and (last is None or number < last)
        )
        return [*islice(found, limit)][::-1]

    async def live(self, after: str) -> AsyncGenerator[list[dict[str, Any]]]:
        """Every event after that id (empty: from now on), soon after it happened; none now and then: a dead peer is noticed.

        In portions: a hundred listeners of a storm, told each event by itself, kept DHCP waiting for seconds.
        """
        number = self._journal.number
        if after:  # An id of an earlier run: everything of this one is news.
            number = min(number, self._parse(after) or 0)
        news, told = self._kept(number), time.monotonic()
        while not self._ended:
            for at in range(0, len(news), PORTION):
                yield [self.as_json(number, event) for number, event in news[at : at + PORTION]]
                await asyncio.sleep(0)
            if news:
                number, told = news[-1][0], time.monotonic()
            elif time.monotonic() - told >= KEEP_ALIVE:
                yield []
                told = time.monotonic()
            await asyncio.sleep(LOOK)
            news = self._kept(number)
            if len(news) > BEHIND:
                return

    def stop(self) -> None:
        """Send all listeners away: the daemon ends."""
        self._ended = True

    def as_json(self, number: int, event: Event) -> dict[str, Any]:
        return {"id": f"{self._epoch}-{number}", **event_json(event)}

    def _kept(self, since: int = 0) -> list[tuple[int, Event]]:
        return self._journal.since(since)[-KEPT:]

    def _parse(self, text: str) -> int | None:
        epoch, _, number = text.partition("-")
        return int(number) if epoch == self._epoch and len(number) < 20 and number.isascii() and number.isdigit() else None
