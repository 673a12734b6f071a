"""The hooks into uvicorn: they work, their loss is noticed, and no reader, slow, stalled or gone, costs the others anything."""

import asyncio
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pixieboot.serve import parsers, zerocopy
from pixieboot.serve.zerocopy_h11 import ZeroCopyH11
from tests.httphost import Host, Wire, serving

HTTPTOOLS = getattr(parsers, "ZeroCopyHttpTools", None)
PROTOCOLS: list[type[asyncio.Protocol]] = [ZeroCopyH11] if HTTPTOOLS is None else [HTTPTOOLS, ZeroCopyH11]
BIG = os.urandom(1 << 20) * 8


@pytest.fixture(params=PROTOCOLS, ids=lambda protocol: protocol.__name__)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/big").write_bytes(BIG)
    (tmp_path / "assets/small").write_bytes(BIG[:5000])
    with serving(tmp_path, request.param) as running:
        yield running


def test_files_go_by_sendfile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    sendfile = os.sendfile

    def counted(*args: Any) -> int:
        pieces.append(args[3])
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", counted)
    assert host.get("/assets/big").body == BIG
    assert max(pieces) <= zerocopy.PIECE and len(pieces) >= len(BIG) / zerocopy.PIECE
    pieces.clear()
    assert host.get("/assets/small").body == BIG[:5000]
    assert host.get("/assets/big", Range="bytes=100-50000").body == BIG[100:50001]
    assert not pieces  # small ones leave with their head


# --- cold files ----------------------------------------------------------------------------------------------------------


def test_a_cold_file_is_read_by_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """sendfile may only be called for what a thread has brought into the page cache."""
    ready, threads = set[int](), set[int]()
    read, sendfile, preadv = zerocopy._read, os.sendfile, os.preadv

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

    monkeypatch.setattr(zerocopy, "_read", reading)
    monkeypatch.setattr(os, "sendfile", sending)
    monkeypatch.setattr(os, "preadv", probing)
    monkeypatch.setattr(zerocopy, "in_memory", lambda device: False)  # wherever the test's files lie
    assert host.get("/assets/big").body == BIG
    assert host.get("/assets/big", Range="bytes=5-3000000").body == BIG[5:3000001]
    assert host.get("/assets/small").body == BIG[:5000]
    assert threads and threading.get_ident() not in threads


def test_a_slow_disk_does_not_hold_up_the_loop(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    read, preadv = zerocopy._read, os.preadv

    def slowly(file: int, offset: int, count: int) -> tuple[int, bool]:
        time.sleep(0.1)
        return read(file, offset, count)

    def probing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT and buffers is zerocopy._BYTE:
            raise BlockingIOError
        return preadv(file, buffers, offset, flags)

    monkeypatch.setattr(zerocopy, "_read", slowly)
    monkeypatch.setattr(os, "preadv", probing)
    monkeypatch.setattr(zerocopy, "in_memory", lambda device: False)  # wherever the test's files lie
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
    read, began, go_on = zerocopy._read, threading.Event(), threading.Event()

    def slowly(file: int, offset: int, count: int) -> tuple[int, bool]:
        began.set()
        go_on.wait(5)
        return read(file, offset, count)

    monkeypatch.setattr(zerocopy, "_read", slowly)
    monkeypatch.setattr(zerocopy.Copy, "_warm", lambda self, piece: False)
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
    monkeypatch.setattr(zerocopy, "_read", lambda file, offset, count: read.append(offset))
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
            copy = zerocopy.Copy(ours.fileno(), file.fileno(), 0, len(BIG), lambda: None)
            copy.done.cancel()
            copy.cancel()
            assert descriptors() == before

    asyncio.run(work())


# --- readers that do not read --------------------------------------------------------------------------------------------


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


def test_500_stalled_readers_and_a_good_client(host: Host) -> None:
    """A good client is served within a second; what the stalled ones took comes back."""
    (host.context.settings.assets / "huge").write_bytes(BIG * 8)
    host.get("/assets/big")
    before, rss = descriptors(), resident()
    stalled: list[Wire] = []
    try:
        for _ in range(500):
            wire = host.connect()
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.send("GET /assets/huge HTTP/1.1\nHost: x")
            stalled.append(wire)
        settle(lambda: len(host.service.connections) == 500)
        for target in ("/assets/big", "/boot.ipxe", "/ipxe?mac=52:54:00:12:34:56"):
            assert min(seconds(host, target) for _ in range(3)) < 1
        assert resident() - rss < 50 << 20
        assert all(connection.transport.get_write_buffer_size() == 0 for connection in host.service.connections)
    finally:
        for wire in stalled:
            wire.socket.close()
    settle(lambda: descriptors() <= before)
    assert resident() - rss < 20 << 20


def test_pipelining_without_reading_takes_no_memory(host: Host) -> None:
    """Answers wait until the client takes them: neither they nor its requests pile up here."""
    rss = resident()
    with host.connect() as wire:
        wire.socket.settimeout(0.5)
        request = b"GET /ipxe?mac=52:54:00:12:34:56 HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        with pytest.raises(TimeoutError):
            for _ in range(400):  # 20 MB of requests, for 400 MB of answers
                wire.socket.sendall(request)
        assert resident() - rss < 30 << 20
        assert host.get("/healthz").status == 200


@pytest.mark.parametrize(
    "limit, begin",
    [
        ("IDLE_SECONDS", ""),
        ("IDLE_SECONDS", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("IDLE_SECONDS", "GET /boot.ipxe HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("HEAD_SECONDS", "GET /healthz HTT"),
        ("STALL_SECONDS", "GET /assets/huge HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
    ids=["nothing said", "idle after an answer", "idle after a quick answer", "half a request", "a stalled reader"],
)
def test_who_stands_still_is_dropped(host: Host, monkeypatch: pytest.MonkeyPatch, limit: str, begin: str) -> None:
    (host.context.settings.assets / "huge").write_bytes(BIG * 8)
    monkeypatch.setattr(zerocopy, limit, 0.5)
    with host.connect() as wire:
        wire.socket.sendall(begin.encode())
        start = time.monotonic()
        settle(lambda: not host.service.connections, begin=lambda: bool(host.service.connections))
        assert 0.4 < time.monotonic() - start < 3


def test_dribbling_does_not_extend_the_time_for_a_head(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zerocopy, "HEAD_SECONDS", 0.5)
    with host.connect() as wire:
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            for octet in b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 1000:
                wire.socket.sendall(bytes([octet]))
                time.sleep(0.05)
        assert time.monotonic() - start < 3


@pytest.mark.slow
def test_a_slow_reader_that_keeps_reading_is_not_dropped(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zerocopy, "STALL_SECONDS", 1.0)
    with host.connect() as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.send("GET /assets/big HTTP/1.1\nHost: x")
        got = 0
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            got += len(wire.socket.recv(65536))
            time.sleep(0.05)
        while got < len(BIG):
            piece = wire.socket.recv(1 << 20)
            assert piece
            got += len(piece)


def test_too_many_connections_cost_the_greediest_source_its_laziest(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zerocopy, "CONNECTIONS", 20)
    monkeypatch.setattr(zerocopy, "HEAD_SECONDS", 600.0)  # however busy the machine is
    with socket.create_connection(("127.0.0.1", host.port), source_address=("127.0.0.2", 0)) as modest:
        modest.sendall(b"GET /heal")
        settle(lambda: len(host.service.connections) == 1)
        greedy = []
        for number in range(30):
            greedy.append(host.connect())
            settle(lambda: len(host.service.connections) >= min(20, number + 2))  # noqa: B023
        settle(lambda: len(host.service.connections) == 20)
        modest.sendall(b"thz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert modest.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert greedy[0].closed()
        assert host.get("/healthz").status == 200
        for wire in greedy:
            wire.socket.close()


def test_connections_that_come_all_at_once_are_too_many_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aborted one is lost a turn later: the same was dropped again and again, and 3000 cost the loop six seconds."""
    monkeypatch.setattr(zerocopy, "CONNECTIONS", 20)
    host.loop.call_soon_threadsafe(time.sleep, 0.5)  # all of them wait in the backlog
    greedy = [host.connect() for _ in range(60)]
    settle(lambda: sum(wire.closed(0.01) for wire in greedy) >= 40)
    assert len(host.service.connections) == 20
    for wire in greedy:
        wire.socket.close()


# --- helpers -------------------------------------------------------------------------------------------------------------


def settle(condition: Any, within: float = 20, begin: Any = None) -> None:
    """Wait until condition holds; begin: which must have held before."""
    end = time.monotonic() + within
    while begin and not begin() and time.monotonic() < end:
        time.sleep(0.002)
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def seconds(host: Host, target: str) -> float:
    start = time.monotonic()
    assert host.get(target).status == 200
    return time.monotonic() - start


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
