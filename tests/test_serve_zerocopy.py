"""The hooks into uvicorn: they work, their loss is noticed, and no reader, slow, stalled or gone, costs the others anything."""

import asyncio
import ctypes
import gc
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pixieboot.serve import httpd, parsers, zerocopy
from pixieboot.serve.zerocopy_h11 import ZeroCopyH11
from tests.httphost import Host, Wire, descriptors, serving, settle

HTTPTOOLS = getattr(parsers, "ZeroCopyHttpTools", None)
PROTOCOLS: list[type[asyncio.Protocol]] = [ZeroCopyH11] if HTTPTOOLS is None else [HTTPTOOLS, ZeroCopyH11]
BIG = os.urandom(1 << 20) * 8


@pytest.fixture(params=PROTOCOLS, ids=lambda protocol: protocol.__name__)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(httpd, "SWEEP", 0.05)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/big").write_bytes(BIG)
    with (tmp_path / "assets/huge").open("wb") as huge:
        huge.truncate(len(BIG) * 8)
    (tmp_path / "assets/small").write_bytes(BIG[:5000])
    with serving(tmp_path, request.param) as running:
        yield running


# --- readers that do not read --------------------------------------------------------------------------------------------


def test_500_stalled_readers_and_a_good_client(host: Host) -> None:
    """A good client is served within a second; what the stalled ones took comes back."""
    host.get("/assets/big")
    before, rss = descriptors(), resident()
    stalled: list[Wire] = []
    try:
        for _ in range(500):
            wire = host.connect()
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.send("GET /assets/huge HTTP/1.1\nHost: x")
            stalled.append(wire)
        for target in ("/assets/big", "/boot.ipxe", "/ipxe?mac=52:54:00:12:34:56"):  # at once: each of the 500 gets its first piece
            assert seconds(host, target) < 1
        settle(lambda: len(host.service.connections) == 500)
        assert resident() - rss < 50 << 20
        assert all(connection.transport.get_write_buffer_size() == 0 for connection in host.service.connections)
    finally:
        for wire in stalled:
            wire.socket.close()
    settle(lambda: descriptors() <= before)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, but is kept for the next who asks, is not the service's
    settle(lambda: resident() - rss < 20 << 20)


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
    monkeypatch.setattr(zerocopy, limit, 0.25)
    with host.connect() as wire:
        wire.socket.sendall(begin.encode())
        start = time.monotonic()
        settle(lambda: not host.service.connections, begin=lambda: bool(host.service.connections))
        assert 0.2 < time.monotonic() - start < 3


def test_dribbling_does_not_extend_the_time_for_a_head(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zerocopy, "HEAD_SECONDS", 0.25)
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
    host.loop.call_soon_threadsafe(time.sleep, 0.2)  # all of them wait in the backlog
    greedy = [host.connect() for _ in range(60)]
    settle(lambda: sum(wire.closed(0.01) for wire in greedy) >= 40)
    assert len(host.service.connections) == 20
    for wire in greedy:
        wire.socket.close()


# --- helpers -------------------------------------------------------------------------------------------------------------


def seconds(host: Host, target: str) -> float:
    """How long an answer takes, but for what other processes on this machine add to it."""
    start = time.monotonic() - waited_for_a_cpu()
    assert host.get(target).status == 200
    return time.monotonic() - waited_for_a_cpu() - start


def waited_for_a_cpu() -> float:
    """Seconds that threads of this process could have run, and did not (proc_schedstat)."""
    nanoseconds = 0
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # ended, or a kernel that does not count
            nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
