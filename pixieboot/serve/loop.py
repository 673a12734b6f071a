"""The daemon's event loop: asyncio's own, with a short way for sockets that get one small packet after the other.

asyncio spends more on each event (a key, a handle, a context, a turn of the loop) than a TFTP block costs in all.  A direct
reader is called from inside the wait for events, and the wait goes on when it says that it has left nothing for the loop to do.
"""

import asyncio
import os
import select
import selectors
import time
from collections.abc import Callable
from typing import Any

MOST_EVENTS = 128  # taken from the kernel at once


class Clock:
    """now: when the events that direct readers are being called for were noticed (loop.time())."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0


DirectReader = Callable[[], object]
"""Called when its socket is readable.  A true answer: it may have left callbacks or timers for the loop."""


class DirectLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on epoll, with direct readers beside the ordinary ones."""

    def __init__(self) -> None:
        self._waiter = DirectSelector()
        super().__init__(self._waiter)
        self._waiter.on_error = self.call_exception_handler
        self.clock = self._waiter.clock

    def add_direct_reader(self, fd: int, reader: DirectReader) -> None:
        """Call reader whenever fd can be read."""
        self._waiter.add(fd, reader)

    def remove_direct_reader(self, fd: int) -> None:
        """Before fd is closed."""
        self._waiter.remove(fd)


class DirectSelector(selectors.EpollSelector):
    """selectors.EpollSelector whose `select` serves the direct readers itself and answers with the others."""

    def __init__(self) -> None:
        super().__init__()
        self.on_error: Callable[[dict[str, Any]], object] = lambda context: None
        self.clock = Clock()
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))
        self._direct: list[DirectReader | None] = []  # by descriptor
        self._ordinary: dict[int, selectors.SelectorKey] = {}

    def add(self, fd: int, reader: DirectReader) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._make_place(fd)
        self._direct[fd] = reader

    def remove(self, fd: int) -> None:
        if self._direct[fd]:
            self._direct[fd] = None
            self._epoll.unregister(fd)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        self._make_place(key.fd)
        self._ordinary[key.fd] = key
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().modify(fileobj, events, data)
        self._ordinary[key.fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._ordinary.pop(key.fd, None)
        return key

    def _make_place(self, fd: int) -> None:
        self._direct += [None] * (fd + 1 - len(self._direct))

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As selectors.EpollSelector.select; an early [] when a direct reader has left something for the loop to do."""
        poll, direct, ordinary, clock = self._epoll.poll, self._direct, self._ordinary, self.clock
        wait = timeout if timeout is None or timeout > 0 else 0
        end = time.monotonic() + wait if wait else 0.0
        while True:
            events = poll(wait, MOST_EVENTS)
            clock.now = time.monotonic()
            ready: list[tuple[selectors.SelectorKey, int]] = []
            leave = wait == 0 or not events
            for fd, mask in events:
                reader = direct[fd]
                if reader:
                    try:
                        if reader():
                            leave = True
                    except Exception as error:
                        self.on_error({"message": "bug in a direct reader", "exception": error, "reader": reader})
                        leave = True
                elif key := ordinary.get(fd):
                    interest = (mask & ~select.EPOLLIN and selectors.EVENT_WRITE) | (
                        mask & ~select.EPOLLOUT and selectors.EVENT_READ
                    )
                    if interest := interest & key.events:
                        ready.append((key, interest))
            if ready or leave:
                return ready
            if wait is not None:
                wait = end - clock.now
                if wait <= 0:
                    return []
