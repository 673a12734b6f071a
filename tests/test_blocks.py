"""DATA packets laid out ahead: right to the octet, shared, bounded, and never in the way of the loop."""

import asyncio
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.serve import blocks
from pixieboot.serve.blocks import CHUNK_OCTETS, Blocks, Chunk, Content
from pixieboot.serve.files import File, in_memory
from pixieboot.wire.tftp import Data, decode


def opened(path: Path) -> File:
    fd = os.open(path, os.O_RDONLY)
    status = os.fstat(fd)
    return File(fd, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1_000_003))
    return path


def found(store: Blocks, content: Content, blksize: int, block: int, last: int | None = None, now: float = 0.0) -> Chunk:
    chunk = store.find(content, blksize, block, last or block, now)
    assert chunk and chunk.first <= block <= chunk.last
    return chunk


def packets(chunk: Chunk, blksize: int) -> list[Data]:
    stride = blksize + 4
    octets = bytes(chunk.packets)
    data = [decode(octets[at : at + stride]) for at in range(0, len(octets), stride)]
    assert all(isinstance(packet, Data) for packet in data) and len(data) == chunk.last - chunk.first + 1
    return [packet for packet in data if isinstance(packet, Data)]


def all_packets(store: Blocks, content: Content, blksize: int) -> list[Data]:
    result: list[Data] = []
    while len(result) < content.size // blksize + 1:
        result += packets(found(store, content, blksize, len(result) + 1), blksize)
    return result


@pytest.mark.parametrize("blksize", [8, 511, 512, 1468, 65464])
def test_packets_of_a_file(path: Path, blksize: int) -> None:
    content, octets = Content(opened(path)), path.read_bytes()
    data = all_packets(Blocks(), content, blksize)
    assert b"".join(packet.payload for packet in data) == octets
    assert [packet.block for packet in data] == [number & 0xFFFF for number in range(1, len(data) + 1)]
    assert all(len(packet.payload) == blksize for packet in data[:-1]) and len(data[-1].payload) < blksize
    content.release()


@given(st.binary(max_size=3000), st.sampled_from([8, 100, 512, 1000]))
@settings(max_examples=60)
def test_packets_of_rendered_octets(octets: bytes, blksize: int) -> None:
    data = all_packets(Blocks(), Content(octets), blksize)
    assert b"".join(packet.payload for packet in data) == octets
    assert len(data[-1].payload) < blksize


def test_a_chunk_is_shared_while_the_file_is_the_same(path: Path) -> None:
    store, one, two = Blocks(), Content(opened(path)), Content(opened(path))
    assert found(store, one, 1468, 1) is found(store, two, 1468, 100)
    assert found(store, one, 1468, 1) is not found(store, one, 512, 1)
    os.utime(path, (1, 1))
    three = Content(opened(path))
    assert found(store, three, 1468, 1) is not found(store, one, 1468, 1)
    for content in (one, two, three):
        content.release()


def test_windows_end_where_chunks_end(path: Path) -> None:
    content = Content(opened(path))
    chunk = found(Blocks(), content, 1468, 1)
    assert (chunk.last - chunk.first + 1) % 64 == 0 and len(chunk.packets) <= CHUNK_OCTETS
    content.release()


def test_memory_is_counted_and_bounded(path: Path) -> None:
    """Above the limit nothing is kept that nobody holds, and whoever comes then gets no more than its window."""
    store, content = Blocks(limit=600_000), Content(opened(path))
    held = [found(store, content, 512, block, block + 3) for block in (1, 500, 1000)]
    assert store.octets == sum(len(chunk.packets) for chunk in held)
    more = [found(store, content, 512, block, block + 3) for block in range(1, 1900, 100)]
    assert store.octets <= 600_000 + 20 * 4 * 516 + CHUNK_OCTETS
    small = [chunk for chunk in more if chunk.last - chunk.first == 3]
    assert small and all(bytes(chunk.packets[:1]) == b"\0" for chunk in small)
    del held, more, small
    found(store, content, 8, 1)
    store.sweep(1.0)
    assert store.octets == 0
    content.release()


def test_what_is_in_use_stays_and_the_rest_is_forgotten(path: Path) -> None:
    store, content = Blocks(), Content(opened(path))
    found(store, content, 512, 1, now=1.0)
    kept = found(store, content, 512, 600, now=5.0)
    store.sweep(3.0)
    assert store.octets == len(kept.packets)
    assert found(store, content, 512, 600, now=6.0) is kept
    content.release()


def test_a_cold_file_is_fetched_once_for_all_who_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, reads = os.preadv, []

    def cold(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        reads.append(offset)
        time.sleep(0.05)
        return preadv(fd, [buffers[0]], offset)  # as short as a read may be

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(blocks, "in_memory", lambda device: False)  # wherever the test's files lie
    content, octets = Content(opened(path)), path.read_bytes()

    async def main() -> list[Chunk | OSError]:
        store, outcomes = Blocks(), list[Chunk | OSError]()
        assert store.find(content, 65464, 1, 1, 0.0) is None
        turns = 0
        for _ in range(3):
            store.fetch(content, 65464, 1, 1, 0.0, outcomes.append)
        content.release()  # the reading holds it
        while len(outcomes) < 3:
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 5, "the loop stood still while the file was read"
        store.close()
        return outcomes

    outcomes = asyncio.run(main())
    chunk = outcomes[0]
    assert isinstance(chunk, Chunk) and outcomes == [chunk] * 3
    assert len(reads) == chunk.last
    assert b"".join(packet.payload for packet in packets(chunk, 65464)) == octets[: 65464 * chunk.last]
    with pytest.raises(OSError):
        os.fstat(content.fd)


FAULTS = {"an error of the disk": OSError(5, "Input/output error"), "fewer octets than there were": 0}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fetch_that_fails_says_why(path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError | int) -> None:
    def broken(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if isinstance(fault, OSError):
            raise fault
        return fault

    monkeypatch.setattr(os, "preadv", broken)
    content = Content(opened(path))

    async def main() -> Chunk | OSError:
        store, outcome = Blocks(), asyncio.get_running_loop().create_future()
        assert store.find(content, 512, 1, 1, 0.0) is None
        store.fetch(content, 512, 1, 1, 0.0, outcome.set_result)
        try:
            result: Chunk | OSError = await outcome
            return result
        finally:
            store.close()

    error = asyncio.run(main())
    assert isinstance(error, OSError)
    assert str(error) == (
        "[Errno 5] Input/output error" if isinstance(fault, OSError) else "the file became shorter while it was sent"
    )
    content.release()


def test_after_a_short_read_the_rest_is_read() -> None:
    views = [memoryview(bytearray(4)) for _ in range(3)]
    assert blocks._after(views, 0) == views
    assert [len(view) for view in blocks._after(views, 5)] == [3, 4]
    assert blocks._after(views, 12) == []


def test_a_file_system_in_memory_is_never_cold() -> None:
    """It refuses RWF_NOWAIT, and yet nothing has to be fetched."""
    if not in_memory(os.stat("/dev/shm").st_dev):
        pytest.skip("/dev/shm is no tmpfs here")
    with TemporaryDirectory(dir="/dev/shm") as name:
        (Path(name) / "file").write_bytes(b"octets" * 1000)
        content = Content(opened(Path(name) / "file"))
        assert b"".join(packet.payload for packet in all_packets(Blocks(), content, 512)) == b"octets" * 1000
        content.release()


def test_a_content_closes_when_its_last_user_goes(path: Path) -> None:
    closed: list[object] = []
    content = Content(opened(path), closed.append)
    content.users += 1
    content.release()
    assert closed == [] and os.fstat(content.fd)
    content.release()
    assert closed == [content.identity]
