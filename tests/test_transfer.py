"""One transfer on the wire: segments where the kernel has them, disks that are slow, files that do not behave."""

import os
import socket
import threading
import time
from pathlib import Path
from typing import cast

import pytest

from pixieboot.config import TftpSettings
from pixieboot.model import Arrival
from pixieboot.serve import transfer
from pixieboot.serve.transfer import Line
from pixieboot.wire.tftp import Ack, Data, Error, OptionAck
from tests import tftphost
from tests.netns import Network
from tests.tftphost import CONTENT, Client, Server

MIB = 1 << 20
root, server, client = tftphost.root, tftphost.server, tftphost.client


def test_without_segmentation_each_packet_has_its_own_send(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "segment", lambda self, octets: False)
    with Server(root) as server, Client(server.address) as client:
        assert client.fetch("file", blksize=512, windowsize=16) == CONTENT


@pytest.mark.needs_root
def test_a_kernel_that_refuses_segments_gets_single_packets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments longer than the MTU: EINVAL at the first window, which then goes out packet by packet, in fragments."""
    monkeypatch.setattr(transfer, "HEADERS", -1000)
    wished: list[int] = []
    segment = Line.segment

    def wish(line: Line, octets: int) -> bool:
        wished.append(octets)
        return segment(line, octets)

    monkeypatch.setattr(Line, "segment", wish)
    with Network("tftp") as network:
        switch = network.switch(mtu=1280)
        here, there = switch.host("here", "10.77.0.2/24"), switch.host("there", "10.77.0.3/24")
        with here.entered():
            server = Server(root, TftpSettings(max_blksize=1468))
            server.context.sites.at = lambda ifindex: "site"
            server.__enter__()
        try:
            with there.entered():
                client = Client(("10.77.0.2", server.port), local="10.77.0.3")
            with client:
                assert client.fetch("file", blksize=1468, windowsize=4) == CONTENT
        finally:
            server.__exit__()
    assert wished == [1472, 0]


def test_a_cold_disk_is_read_in_a_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def cold(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        time.sleep(0.02)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cold)
    content = os.urandom(MIB)
    (root / "cold").write_bytes(content)
    with Server(root) as server, Client(server.address) as client, Client(server.address) as other:
        assert client.fetch("cold", blksize=1468, windowsize=4) == content
        assert other.fetch("small") == b"small"
        assert server.event("sent").detail["path"] == "cold"


def test_an_ack_overtakes_a_repetition_that_waits_for_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window lies on both sides of a chunk's end; the first of the two chunks had to give way."""
    preadv, cold, asked, answered = os.preadv, threading.Event(), threading.Event(), threading.Event()

    def read(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if cold.is_set():
            if flags:
                raise BlockingIOError
            asked.set()
            assert answered.wait(5)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", read)
    monkeypatch.setattr("pixieboot.serve.blocks.in_memory", lambda device: False)
    content = os.urandom(MIB)
    (root / "large").write_bytes(content)
    with Server(root) as server, Client(server.address) as client:

        def window(final: int) -> None:
            for block in range(final - 4, final + 1):
                assert client.hear() == Data(block, content[(block - 1) * 512 : block * 512])

        client.ask("large", blksize=512, windowsize=5)
        client.hear()
        for final in range(0, 256, 5):
            client.send(Ack(final))
            window(final + 5)
        server.loop.call_soon_threadsafe(server.service.blocks._chunks.clear)
        cold.set()
        assert asked.wait(5)
        client.send(Ack(260))
        window(265)
        answered.set()
        window(260)
        client.send(Ack(265))
        window(270)


def test_a_file_that_becomes_shorter_ends_with_a_word(root: Path, server: Server, client: Client) -> None:
    (root / "shrinks").write_bytes(os.urandom(4 * MIB))
    client.ask("shrinks", blksize=1468, windowsize=1)
    client.hear()
    client.send(Ack(0))
    packet = client.hear()
    os.truncate(root / "shrinks", 1000)
    while isinstance(packet, Data):
        client.send(Ack(packet.block))
        packet = client.hear()
    assert isinstance(packet, Error) and "shorter" in packet.message
    assert "shorter" in server.event("failed").detail["why"]


def test_a_file_that_is_replaced_is_sent_as_it_was(root: Path, client: Client, server: Server) -> None:
    client.ask("file", blksize=1000)
    client.hear()
    (root / "new").write_bytes(b"new" * 5000)
    os.rename(root / "new", root / "file")
    client.send(Ack(0))
    assert client.rest(1000) == CONTENT
    assert client.fetch("file") == b"new" * 5000


def test_an_oack_longer_than_a_segment_is_one_packet(client: Client) -> None:
    client.ask("file", blksize=8, windowsize=8, tsize=0)
    assert client.hear() == OptionAck({"blksize": "8", "windowsize": "8", "tsize": str(len(CONTENT))})
    assert client.hear_all(0.1) == []
    client.send(Ack(0))
    assert client.hear_all(0.1) == [Data(block, CONTENT[block * 8 - 8 : block * 8]) for block in range(1, 9)]


def test_the_word_of_an_abort_is_one_packet(root: Path) -> None:
    with Server(root) as server, Client(server.address) as client:
        client.ask("file", blksize=8, windowsize=8)
        client.hear()
        client.send(Ack(0))
        client.hear_all(0.1)
        server.stop(0)
        assert client.hear() == Error(0, "the server is being stopped")


@pytest.mark.parametrize("windowsize", [1, 4])
def test_silence_in_the_middle_is_counted_from_the_last_packet(client: Client, windowsize: int) -> None:
    """Also when the shell went ahead by itself (ReadTransfer.resume)."""
    client.ask("file", blksize=512, windowsize=windowsize, timeout=1)
    client.hear()
    client.send(Ack(0))
    for block in range(1, 9):
        client.hear()
        if block % windowsize == 0:
            client.send(Ack(block))
            heard = time.monotonic()
    first = [client.hear() for _ in range(windowsize)]
    again = [client.hear() for _ in range(windowsize)]
    assert 0.9 < time.monotonic() - heard < 1.5
    assert first == again == [Data(9 + ahead, CONTENT[(8 + ahead) * 512 : (9 + ahead) * 512]) for ahead in range(windowsize)]


def test_with_windows_a_lost_last_block_comes_again_soon(client: Client) -> None:
    """Long before the second that lockstep waits: also after windows that the shell sent by itself."""
    client.ask("file", blksize=512, windowsize=4)
    client.hear()
    for final in (0, 4, 8):
        client.send(Ack(final))
        for block in range(final + 1, final + 5):
            assert client.hear() == Data(block, CONTENT[(block - 1) * 512 : block * 512])
    assert [client.hear(0.8) for _ in range(4)] == [Data(block, CONTENT[(block - 1) * 512 : block * 512]) for block in range(9, 13)]


def test_a_client_with_windows_that_asks_three_times_is_answered_soon(client: Client) -> None:
    """The timer on the loop follows when the deadline is brought forward."""
    client.ask("file", blksize=512, windowsize=4, timeout=1)
    client.hear()
    client.send(Ack(0))
    first = client.hear_all(0.1)
    assert len(first) == 4
    client.send(Ack(0))
    assert client.hear_all(0.1) == []
    client.send(Ack(0))
    assert client.hear_all(0.2) == first


def test_a_transfer_speaks_of_its_trouble(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that cannot be sent (a firewall) are lost packets, and the reason is in the end's event."""
    monkeypatch.setattr("pixieboot.tftp.WAIT", 0.02)
    monkeypatch.setattr("pixieboot.tftp.LONGEST_WAIT", 0.05)

    def firewalled(arrival: Arrival, ports: list[int]) -> Line:
        line = Line(arrival, ports)
        line.socket = cast(socket.socket, _Refusing(line.socket))
        return line

    monkeypatch.setattr("pixieboot.serve.tftpd.Line", firewalled)
    client.ask("file")
    assert client.hear(0.3) is None
    assert "Operation not permitted" in server.event("failed").detail["why"]


class _Refusing:
    """A socket whose packets a firewall drops."""

    def __init__(self, sock: object) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, _: object) -> int:
        raise PermissionError(1, "Operation not permitted")
