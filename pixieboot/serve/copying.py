"""Files into sockets by a thread of its own: `os.sendfile` moves gigabytes a second, and the loop, which has DHCP to answer,
does not wait for a byte of them.

All downloads share that thread, so it must not wait for a disk either: what is not in the page cache is read by others first.
Not `loop.sendfile`: `transport.abort()` while it runs leaves it hanging for ever (Python 3.11), and it blocks on a cold file.
"""

import asyncio
import errno
import logging
import os
import resource
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import lru_cache

from pixieboot.serve.files import in_memory

PIECE = 8 << 20  # bytes per sendfile at most, and as many as the socket takes; then the next transfer has its turn
ROUND = 64 << 20  # bytes that all transfers with room get in a turn, some milliseconds: hundreds get smaller pieces
SMALLEST = 256 << 10
PAGE = 4096
PROBE = 4 << 20  # bytes between looks whether a piece is in the page cache; a gap that none of them meets costs one stall
AHEAD = 1 << 20  # bytes that a thread reads at a time from a cold file
STALL = 0.01  # seconds that one sendfile may take; a slower one waited for the disk although the probe found the page
READERS = 4  # threads for cold files

_BYTE = [bytearray(1)]  # where probes read to

log = logging.getLogger(__name__)


class _Next(Enum):
    """What a transfer needs after a piece."""

    PIECE = 1
    DISK = 2
    NOTHING = 3


class Copy:
    """One range of a file on its way into a socket.  Await `done`, on the loop that it was made on."""

    def __init__(self, connection: socket.socket, file: int, offset: int, count: int) -> None:
        """connection: a non-blocking one.  Both descriptors are duplicated, so that their owners may close theirs."""
        self._in, self._out = os.dup(file), connection.dup()
        self._offset, self._left = offset, count
        self._warm_to = offset  # the file is in the page cache up to here
        self._in_memory = self._slow = False
        self._loop = asyncio.get_running_loop()
        # Else each sendfile ends in a packet of its own, though more follows: a quarter of the rate to a quick reader.
        self._cork(True)
        self.descriptor = self._out.fileno()
        self.sent = 0  # bytes that the kernel has taken
        self.done: asyncio.Future[None] = self._loop.create_future()
        _sender().take(self)

    def cancel(self) -> None:
        """The connection is gone, or nobody waits any more: the half-sent answer ends it."""
        if self.done.done() and not self.done.cancelled():
            return
        with suppress(OSError):  # ENOTCONN: the thread has its wake-up already
            self._out.shutdown(socket.SHUT_RDWR)
        self._tell(ConnectionResetError(errno.ECONNRESET, "the connection was closed during the transfer"))

    def send(self, most: int) -> _Next:
        """In the sender's thread: one piece, as far as the socket has room.  Raises OSError."""
        piece = min(most - self._offset % PAGE, self._left)  # from page to page: what begins within one costs a little more
        if self._offset + piece > self._warm_to and not self._warm(piece):
            piece = self._warm_to - self._offset
            if piece <= 0:
                return _Next.DISK
        start = time.perf_counter()
        try:
            sent = os.sendfile(self.descriptor, self._in, self._offset, piece)
        except BlockingIOError:
            return _Next.PIECE
        if not sent:
            raise OSError(errno.ENODATA, "the file became shorter during the transfer")
        self._offset += sent
        self._left -= sent
        self.sent += sent
        # The probe found the pages, and yet it waited for the disk: too little memory, or holes.  A busy CPU is not that.
        if time.perf_counter() - start > STALL and _sender().waited_for_a_disk():
            self._slow = True
        return _Next.PIECE if self._left else _Next.NOTHING

    def read_on(self) -> None:
        """In a reader's thread: bring what comes next into the page cache; the connection rests meanwhile."""
        try:
            found, self._slow = _read(self._in, self._offset, min(AHEAD, self._left))
        except Exception as error:
            self.end(error)
        else:
            self._warm_to = self._offset + max(1, found)
            _sender().take(self)

    def end(self, error: BaseException | None) -> None:
        """In whichever thread has it: nothing more will be sent."""
        self._cork(False)
        os.close(self._in)
        self._out.close()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._tell, error)

    def _cork(self, corked: bool) -> None:
        with suppress(OSError):  # not TCP, or gone
            self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)

    def _tell(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
            self.done.exception()  # is seen: who waits for it may be cancelled before
        else:
            self.done.set_result(None)

    def _warm(self, piece: int) -> bool:
        """Is the piece in the page cache, by its first byte, its last, and some between?"""
        last = self._offset + piece - 1
        if self._slow:
            return False
        try:
            if not self._in_memory:
                for at in range(self._offset, last, PROBE):
                    os.preadv(self._in, _BYTE, at, os.RWF_NOWAIT)
                os.preadv(self._in, _BYTE, last, os.RWF_NOWAIT)
        except OSError as error:  # EAGAIN: not there; EOPNOTSUPP (tmpfs, vfat, NFS): it does not tell
            self._in_memory = error.errno == errno.EOPNOTSUPP and in_memory(os.fstat(self._in).st_dev)
            if not self._in_memory:
                return False
        self._warm_to = last + 1
        return True


class _Sender(threading.Thread):
    """Gives every transfer whose socket has room its turn."""

    def __init__(self) -> None:
        super().__init__(name="sendfile", daemon=True)
        self._epoll = select.epoll()
        self._copies: dict[int, Copy] = {}
        self._disk_reads = 0
        self.start()

    def take(self, copy: Copy) -> None:
        """From any thread: send this as its socket has room."""
        self._copies[copy.descriptor] = copy
        self._epoll.register(copy.descriptor, select.EPOLLOUT)

    def run(self) -> None:
        self._disk_reads = disk_reads()
        while True:
            ready = self._epoll.poll()
            most = min(PIECE, max(SMALLEST, ROUND // len(ready)))
            for descriptor, _ in ready:
                self._turn(self._copies[descriptor], most)

    def waited_for_a_disk(self) -> bool:
        """Has this thread, since it was last asked?"""
        before, self._disk_reads = self._disk_reads, disk_reads()
        return self._disk_reads != before

    def _turn(self, copy: Copy, most: int) -> None:
        error: Exception | None = None
        try:
            wanted = copy.send(most)
            if wanted is _Next.PIECE:
                return
        except Exception as fault:
            error = fault
            if not isinstance(fault, OSError):
                log.exception("HTTP: bug while a file was sent")
        # Before its descriptor is closed: the next connection may get the same.
        self._epoll.unregister(copy.descriptor)
        del self._copies[copy.descriptor]
        if error or wanted is _Next.NOTHING:
            copy.end(error)
        else:
            _readers().submit(copy.read_on)


def _read(file: int, offset: int, count: int) -> tuple[int, bool]:
    """In a thread: bring this part of the file into the page cache, and ask for what follows.

    The bytes found there, and whether the disk was needed.
    """
    before = disk_reads()
    os.posix_fadvise(file, offset, 2 * count, os.POSIX_FADV_WILLNEED)
    buffer, found = bytearray(AHEAD // 4), 0
    while found < count and (got := os.preadv(file, [buffer], offset + found)):
        found += got
    return found, disk_reads() != before


def disk_reads() -> int:
    """How often this thread has had to wait for a disk, on file systems that count it."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


@lru_cache(1)
def _sender() -> _Sender:
    return _Sender()


@lru_cache(1)
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, "cold-file")
