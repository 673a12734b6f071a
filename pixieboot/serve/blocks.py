"""Content laid out as TFTP DATA packets, ready to be sent by the window, and shared by all who fetch the same file.

A chunk is a run of packets with their headers in one piece of memory: a window is a slice of it, and with UDP GSO one system call.
What a thousand machines fetch at once is read and laid out once; what is laid out at any time is bounded, whatever is asked for.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pixieboot.serve.files import File, in_memory
from pixieboot.wire.tftp import acknowledgement

HEADER = 4
CHUNK_OCTETS = 256 << 10  # of one chunk; its number of blocks is a power of two, so that windows end where chunks end
CHUNK_BLOCKS = 512  # one preadv takes 1,024 pieces
WINDOW_OCTETS = 300  # what a Window takes in memory beside its packets
LIMIT = 32 << 20  # octets of all chunks in memory; above it a transfer gets no more than its window
READERS = 4  # threads that wait for a disk, so that the loop does not

_LOW = bytes(range(256)) * 3

Key = tuple[object, int, int]
Window = tuple[bytes, memoryview]
"""The ACK of its last block, and its packets."""
Done = Callable[["Chunk | OSError"], None]


class Content:
    """What a transfer sends: an open file, or octets that were rendered.  Closed when its last user releases it."""

    __slots__ = ("_file", "_on_close", "identity", "octets", "size", "users")

    def __init__(self, source: File | bytes, on_close: Callable[[object], object] = lambda identity: None) -> None:
        """on_close is called with the identity."""
        self._on_close = on_close
        self.octets = source if isinstance(source, bytes) else None
        self._file = None if isinstance(source, bytes) else source
        self.size = len(source) if isinstance(source, bytes) else source.size
        self.identity: object = None if isinstance(source, bytes) else source.identity
        self.users = 1

    @property
    def fd(self) -> int:
        assert self._file is not None
        return self._file.fd

    @property
    def flags(self) -> int:
        """For preadv: not to wait for a disk, where there is one."""
        assert self._file is not None
        return 0 if in_memory(self._file.device) else os.RWF_NOWAIT

    def release(self) -> None:
        self.users -= 1
        if not self.users and self._file:
            self._on_close(self.identity)
            self._file.close()


class Chunk:
    """DATA packets first to last.  All but the last packet of the content are stride octets long."""

    __slots__ = ("_blocks", "_held", "_windows", "first", "last", "packets", "used")

    def __init__(self, blocks: "Blocks", first: int, count: int, packets: bytearray) -> None:
        self.first, self.last, self.packets, self.used = first, first + count - 1, memoryview(packets), 0.0
        self._blocks, self._held = blocks, len(packets)
        self._windows: dict[tuple[int, int], list[Window]] = {}  # by windowsize, and how many blocks come before the first
        blocks.octets += len(packets)

    def __del__(self) -> None:
        self._blocks.octets -= self._held

    def windows(self, block: int, windowsize: int, stride: int) -> Iterator[Window]:
        """The whole windows from this block on."""
        skipped, lead = divmod(block - self.first, windowsize)
        windows = self._windows.get((windowsize, lead))
        if windows is None:  # all who fetch alike share them: making one costs as much as sending it should
            windows = self._windows[windowsize, lead] = list(self._cut(lead, windowsize, stride))
            octets = len(windows) * WINDOW_OCTETS
            self._blocks.octets += octets
            self._held += octets
        return iter(windows[skipped:])

    def _cut(self, lead: int, windowsize: int, stride: int) -> Iterator[Window]:
        step = windowsize * stride
        for final in range(self.first + lead + windowsize - 1, self.last + 1, windowsize):
            end = (final + 1 - self.first) * stride
            yield acknowledgement(final), self.packets[end - step : end]


class Blocks:
    """All chunks in memory.  octets counts them, those that only a transfer still holds included."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.octets = 0
        self._limit = limit
        self._chunks: OrderedDict[Key, Chunk] = OrderedDict()
        self._waiting: dict[Key, list[Done]] = {}
        self._readers = ThreadPoolExecutor(READERS, "tftp-read")

    def find(self, content: Content, blksize: int, block: int, last: int, now: float) -> Chunk | None:
        """The chunk that holds this block, if that takes no waiting: None means that a disk has to be asked (`fetch`).

        last: up to which block one is wanted at once.  Raises OSError.
        """
        first, count, key = self._place(content, blksize, block, last)
        if chunk := self._chunks.get(key):
            self._chunks.move_to_end(key)
            chunk.used = now
            return chunk
        packets, views, octets = _layout(content.size, blksize, first, count)
        offset = (first - 1) * blksize
        if content.octets is not None:
            for at, view in enumerate(views):
                start = offset + at * blksize
                view[:] = content.octets[start : start + len(view)]
        else:
            try:
                if os.preadv(content.fd, views, offset, content.flags) != octets:
                    return None
            except OSError:  # cold (EAGAIN), or a file system that cannot tell (vfat, NFS)
                return None
        return self._keep(key, Chunk(self, first, count, packets), now)

    def fetch(self, content: Content, blksize: int, block: int, last: int, now: float, done: Done) -> None:
        """The same from the disk, in a thread; done is called on the loop, with the chunk or the reason why there is none."""
        first, count, key = self._place(content, blksize, block, last)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(done)
        if len(waiting) > 1:
            return
        packets, views, octets = _layout(content.size, blksize, first, count)
        loop = asyncio.get_running_loop()
        content.users += 1

        def finish(future: "Future[int]") -> None:
            content.release()
            error = future.exception()
            outcome: Chunk | OSError
            if isinstance(error, OSError):
                outcome = error
            elif future.result() != octets:
                outcome = OSError("the file became shorter while it was sent")
            else:
                outcome = self._keep(key, Chunk(self, first, count, packets), now)
            for call in self._waiting.pop(key):
                call(outcome)

        reading = self._readers.submit(_read, content.fd, views, (first - 1) * blksize, octets)
        reading.add_done_callback(lambda future: loop.call_soon_threadsafe(finish, future))

    def sweep(self, before: float) -> None:
        """Let go of what nobody has asked for since then."""
        while self._chunks and next(iter(self._chunks.values())).used < before:
            self._chunks.popitem(last=False)

    def close(self) -> None:
        self._chunks.clear()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _place(self, content: Content, blksize: int, block: int, last: int) -> tuple[int, int, Key]:
        """First block and number of blocks of the chunk that this block belongs to."""
        stride = blksize + HEADER
        count = min(CHUNK_BLOCKS, 1 << (CHUNK_OCTETS // stride).bit_length() - 1)
        first = (block - 1) // count * count + 1
        key = (content.identity, blksize, first)
        if key not in self._chunks and not self._room(count * stride):
            first, count = block, last - block + 1
            key = (content.identity, -blksize, first)
        return first, min(count, content.size // blksize + 2 - first), key

    def _room(self, octets: int) -> bool:
        while self.octets + octets > self._limit and self._chunks:
            self._chunks.popitem(last=False)
        return self.octets + octets <= self._limit

    def _keep(self, key: Key, chunk: Chunk, now: float) -> Chunk:
        chunk.used = now
        if key[0] is not None and key[1] > 0:
            self._chunks[key] = chunk
        return chunk


def _layout(size: int, blksize: int, first: int, count: int) -> tuple[bytearray, list[memoryview], int]:
    """Memory for these DATA packets with their headers in place; where their payloads go; how many octets those are in all."""
    stride = blksize + HEADER
    octets = min(count * blksize, size - (first - 1) * blksize)
    packets = bytearray(octets + count * HEADER)
    packets[1::stride] = b"\3" * count
    low = first & 0xFF
    packets[3::stride] = _LOW[low : low + count]
    high = b"".join(bytes([(first >> 8) + step & 0xFF]) * 256 for step in range((low + count + 255) >> 8))
    packets[2::stride] = high[low : low + count]
    view = memoryview(packets)
    return packets, [view[at + HEADER : at + stride] for at in range(0, len(packets), stride)], octets


def _read(fd: int, views: list[memoryview], offset: int, octets: int) -> int:
    """Fill the views; fewer octets than wanted only at the end of the file."""
    done = 0
    while done < octets:
        got = os.preadv(fd, views, offset + done)
        if not got:
            break
        done += got
        if done < octets:
            views = _after(views, got)
    return done


def _after(views: list[memoryview], octets: int) -> list[memoryview]:
    """What is still empty when the first octets have been filled."""
    for at, view in enumerate(views):
        if octets < len(view):
            return [view[octets:], *views[at + 1 :]]
        octets -= len(view)
    return []
