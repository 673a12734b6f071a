"""The daemon's event loop: asyncio's own, with a short way for sockets that get one small packet after the other.

asyncio spends more on each event (a key, a handle, a context, a turn of the loop) than a TFTP block costs in all.  Dialogues and
direct readers are served from inside the wait for events, and the wait goes on when they have left nothing for the loop to do.
"""

import asyncio
import os
import select
import selectors
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

MOST_EVENTS = 128  # taken from the kernel at once
LONGEST_DATAGRAM = 400  # octets of one in a dialogue; what is beyond them is cut off
LONG = 3600.0  # seconds: who waits without end looks up once in so many

DirectReader = Callable[[], object]
"""Called when its socket is readable.  A true answer: it may have left callbacks or timers for the loop."""


class Dialogue(Protocol):
    """A connected socket whose peer says what was foreseen, and gets what lies ready: one receive, one comparison, one send.

    A datagram that equals `awaited` is answered with the next of `following`, which also brings what is awaited then; `since` is
    when that was (loop.time()).  All else goes to `heard`: another datagram, and the one that nothing follows.
    """

    awaited: bytes
    following: Iterator[tuple[bytes, memoryview]]
    since: float

    def heard(self, datagram: bytes) -> object:
        """As a DirectReader."""

    def broken(self, error: OSError) -> object:
        """The socket has told this.  As a DirectReader."""


class DirectLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on epoll, with dialogues and direct readers beside the ordinary ones."""

    def __init__(self) -> None:
        self._waiter = DirectSelector()
        super().__init__(self._waiter)
        self._waiter.on_error = self.call_exception_handler

    def add_dialogue(self, fd: int, dialogue: Dialogue) -> None:
        """Let it answer what comes by fd."""
        self._waiter.add_dialogue(fd, dialogue)

    def add_direct_reader(self, fd: int, reader: DirectReader) -> None:
        """Call reader whenever fd can be read."""
        self._waiter.add_reader(fd, reader)

    def remove_direct_reader(self, fd: int) -> None:
        """Or the dialogue.  Before fd is closed."""
        self._waiter.remove(fd)


class DirectSelector(selectors.EpollSelector):
    """selectors.EpollSelector whose `select` serves dialogues and direct readers itself and answers with the others."""

    def __init__(self) -> None:
        super().__init__()
        self.on_error: Callable[[dict[str, Any]], object] = lambda context: None
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))
        self._dialogues: dict[int, Dialogue] = {}  # by descriptor, as those below
        self._readers: dict[int, DirectReader] = {}
        self._ordinary: dict[int, selectors.SelectorKey] = {}

    def add_dialogue(self, fd: int, dialogue: Dialogue) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._dialogues[fd] = dialogue

    def add_reader(self, fd: int, reader: DirectReader) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = reader

    def remove(self, fd: int) -> None:
        if self._dialogues.pop(fd, None) or self._readers.pop(fd, None):
            self._epoll.unregister(fd)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
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

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As selectors.EpollSelector.select; an early [] when one of its own has left something for the loop to do."""
        poll, read, write, monotonic = self._epoll.poll, os.read, os.write, time.monotonic
        dialogue_of, reader_of, ordinary_of = self._dialogues.get, self._readers.get, self._ordinary.get
        wait = LONG if timeout is None else max(timeout, 0)
        end = monotonic() + wait
        ready: list[tuple[selectors.SelectorKey, int]] = []
        leave: object = False
        while True:
            events = poll(wait, MOST_EVENTS)
            now = monotonic()
            for fd, mask in events:
                try:
                    if dialogue := dialogue_of(fd):
                        # read and write of the system, not recv and send of a socket: their arguments are parsed without a tuple.
                        try:
                            datagram = read(fd, LONGEST_DATAGRAM)
                            if datagram == dialogue.awaited and (step := next(dialogue.following, None)):
                                dialogue.awaited, packets = step
                                dialogue.since = now
                                write(fd, packets)
                                continue
                        except BlockingIOError:  # a wake-up for nothing, or a full send buffer: that is lost, like on the wire
                            continue
                        except OSError as error:
                            leave = True
                            dialogue.broken(error)
                        else:
                            leave = dialogue.heard(datagram) or leave
                    elif reader := reader_of(fd):
                        leave = reader() or leave
                    elif key := ordinary_of(fd):
                        ready += _interest(key, mask)
                except Exception as error:
                    leave = True
                    self.on_error({"message": "bug in a direct reader", "exception": error, "reader": dialogue or reader_of(fd)})
            wait = end - now
            if leave or ready or wait <= 0:
                return ready


def _interest(key: selectors.SelectorKey, mask: int) -> list[tuple[selectors.SelectorKey, int]]:
    """What of an event its owner wants to know."""
    events = (mask & ~select.EPOLLIN and selectors.EVENT_WRITE) | (mask & ~select.EPOLLOUT and selectors.EVENT_READ)
    return [(key, events & key.events)] if events & key.events else []
