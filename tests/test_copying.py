"""Files into sockets: by sendfile, never with the loop waiting, neither for the socket nor for a disk; nothing is left behind."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pixieboot.serve import copying
from tests.httphost import Host, Wire, descriptors, serving, settle

BIG = os.urandom(1 << 20) * 8


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/big").write_bytes(BIG)
    (tmp_path / "assets/small").write_bytes(BIG[:5000])
    with serving(tmp_path) as running:
        yield running


def test_files_go_by_sendfile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    sendfile = os.sendfile

    def counted(*args: Any) -> int:
        pieces.append(args[3])
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", counted)
    assert host.get("/assets/big").body == BIG
    assert max(pieces) <= copying.PIECE and len(pieces) >= len(BIG) / copying.PIECE
    pieces.clear()
    assert host.get("/assets/small").body == BIG[:5000]
    assert host.get("/assets/big", Range="bytes=100-50000").body == BIG[100:50001]
    assert not pieces  # small ones leave with their head


def test_the_loop_does_not_wait_for_a_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """DHCP is answered on it, however long the kernel takes to move a piece."""
    began, go_on, sendfile = threading.Event(), threading.Event(), os.sendfile

    def slowly(*args: Any) -> int:
        began.set()
        go_on.wait(20)
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", slowly)
    with host.connect() as wire:
        wire.send("GET /assets/big HTTP/1.1\nHost: x")
        assert began.wait(5)
        assert host.get("/healthz").status == 200
        go_on.set()
        assert wire.response().body == BIG


def test_transfers_take_turns(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader as quick as the sender does not keep the others waiting until its file is through."""
    sockets: list[int] = []
    sendfile = os.sendfile

    def counted(out: int, file: int, offset: int, count: int) -> int:
        sockets.append(out)
        return sendfile(out, file, offset, min(count, 1 << 16))

    monkeypatch.setattr(os, "sendfile", counted)
    with host.connect() as one, host.connect() as other:
        for wire in (one, other):
            wire.send("GET /assets/big HTTP/1.1\nHost: x")
        with ThreadPoolExecutor(2) as readers:
            assert all(response.body == BIG for response in readers.map(Wire.response, (one, other)))
    first = sockets.index(next(found for found in sockets if found != sockets[0]))
    assert sockets[0] in sockets[first:], "the second began when the first was through"


# --- cold files ----------------------------------------------------------------------------------------------------------


def test_a_cold_file_is_read_by_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """sendfile may only be called for what a thread has brought into the page cache."""
    ready, threads = set[int](), set[int]()
    read, sendfile, preadv = copying._read, os.sendfile, os.preadv

    def reading(file: int, offset: int, count: int) -> tuple[int, bool]:
        threads.add(threading.get_ident())
        ready.update(range(offset & ~4095, offset + count, 4096))
        return read(file, offset, count)

    def sending(out: int, file: int, offset: int, count: int) -> int:
        assert set(range(offset & ~4095, offset + count, 4096)) <= ready, f"{count} cold bytes at {offset}"
        return sendfile(out, file, offset, count)

    def probing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError
        return preadv(file, buffers, offset, flags)

    monkeypatch.setattr(copying, "_read", reading)
    monkeypatch.setattr(os, "sendfile", sending)
    monkeypatch.setattr(os, "preadv", probing)
    monkeypatch.setattr(copying, "in_memory", lambda device: False)  # wherever the test's files lie
    assert host.get("/assets/big").body == BIG
    assert host.get("/assets/big", Range="bytes=5-3000000").body == BIG[5:3000001]
    assert host.get("/assets/small").body == BIG[:5000]
    assert threads and threading.get_ident() not in threads


def test_a_slow_disk_does_not_hold_up_the_loop(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    read, preadv = copying._read, os.preadv

    def slowly(file: int, offset: int, count: int) -> tuple[int, bool]:
        time.sleep(0.1)
        return read(file, offset, count)

    def probing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT and buffers is copying._BYTE:
            raise BlockingIOError
        return preadv(file, buffers, offset, flags)

    monkeypatch.setattr(copying, "_read", slowly)
    monkeypatch.setattr(os, "preadv", probing)
    monkeypatch.setattr(copying, "in_memory", lambda device: False)  # wherever the test's files lie
    with host.connect() as cold, host.connect() as quick:
        cold.send("GET /assets/big HTTP/1.1\nHost: x")
        longest, done = 0.0, time.monotonic() + 0.7
        while time.monotonic() < done:
            start = time.monotonic()
            quick.send("GET /healthz HTTP/1.1\nHost: x")
            quick.response()
            longest = max(longest, time.monotonic() - start)
            time.sleep(0.005)
        assert longest < 0.05
        assert cold.response().body == BIG


def test_a_connection_that_goes_away_while_its_file_is_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    read, began, go_on = copying._read, threading.Event(), threading.Event()

    def slowly(file: int, offset: int, count: int) -> tuple[int, bool]:
        began.set()
        go_on.wait(5)
        return read(file, offset, count)

    monkeypatch.setattr(copying, "_read", slowly)
    monkeypatch.setattr(copying.Copy, "_warm", lambda self, piece: False)
    before = descriptors()
    with host.connect() as wire:
        wire.send("GET /assets/big HTTP/1.1\nHost: x")
        assert began.wait(5)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing resets
    time.sleep(0.05)
    go_on.set()
    settle(lambda: descriptors() <= before)
    assert host.get("/assets/small").body == BIG[:5000]


def test_a_file_system_in_memory_is_never_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("/dev/shm is not mounted here")
    read: list[int] = []
    monkeypatch.setattr(copying, "_read", lambda file, offset, count: read.append(offset))
    with TemporaryDirectory(dir="/dev/shm") as name:
        (Path(name) / "assets").mkdir()
        (Path(name) / "assets/big").write_bytes(BIG)
        with serving(Path(name)) as host:
            assert host.get("/assets/big").body == BIG
    assert not read


def test_a_transfer_whose_task_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BIG)

    async def work() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs, open(tmp_path / "file", "rb") as file:
            before = descriptors()
            copy = copying.Copy(ours, file.fileno(), 0, len(BIG))
            copy.done.cancel()
            copy.cancel()
            settle(lambda: descriptors() == before)

    asyncio.run(work())


# --- what ends a transfer early ------------------------------------------------------------------------------------------


def test_a_file_that_shrinks_ends_the_connection(host: Host) -> None:
    path = host.context.settings.assets / "shrinking"
    path.write_bytes(BIG * 8)
    with host.connect() as wire:
        wire.send("GET /assets/shrinking HTTP/1.1\nHost: x")
        wire.socket.recv(1000)
        os.truncate(path, 1 << 20)
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.rest = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(BIG) * 8)
            wire.response()
    event = next(event for event in host.heard(2) if event.kind == "failed")
    assert event.detail["why"] == "the file became shorter during the transfer"


def test_a_reader_that_goes_away_is_told_of_and_leaves_nothing(host: Host) -> None:
    (host.context.settings.assets / "huge").write_bytes(BIG * 8)
    before = descriptors()
    for _ in range(5):
        with host.connect() as wire:
            wire.send("GET /assets/huge HTTP/1.1\nHost: x")
            wire.socket.recv(1000)
    settle(lambda: descriptors() <= before)
    settle(lambda: host.context.journal.counts.get(("http", "failed")) == 5)


def test_a_bug_ends_one_transfer_only(host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with monkeypatch.context() as broken, host.connect() as wire:
        broken.setattr(os, "sendfile", lambda *args: 1 // 0)
        wire.send("GET /assets/big HTTP/1.1\nHost: x")
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.response()
    assert "bug while a file was sent" in caplog.text
    assert host.get("/assets/big").body == BIG
