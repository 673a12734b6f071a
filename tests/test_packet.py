"""Frames to clients without an address, ARP questions, and the tap on what servers say."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pixieboot.errors import OperatorError
from pixieboot.serve import packet
from pixieboot.serve.links import Link, read_links
from pixieboot.serve.packet import SERVER_ANSWERS, Arp, Frames, Tap
from pixieboot.wire.frame import ETH_IP, udp_frame
from tests.netns import Host, Network

CLIENT = bytes.fromhex("525400123456")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with Network("packet") as network:
        switch = network.switch()
        yield switch.host("server", "10.5.0.1/24"), switch.host("client", "10.5.0.9/24", mac="52:54:00:12:34:56")


def eth0(host: Host) -> Link:
    with host.entered():
        return next(link for link in read_links() if link.name == "eth0")


@pytest.mark.needs_root
def test_a_frame_reaches_a_client_that_nobody_has_in_its_arp_cache(hosts: tuple[Host, Host]) -> None:
    server, client = hosts
    with client.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 68))
        receiver.settimeout(5)
    link = eth0(server)
    with server.entered():
        frames = Frames()
        frames.bind()
        frames.send(link, udp_frame(CLIENT, link.mac, "10.5.0.1", 67, "10.5.0.9", 68, b"offer"))
        assert "10.5.0.9" not in server.run("ip", "neighbour").stdout
    with receiver:
        assert receiver.recvfrom(100) == (b"offer", ("10.5.0.1", 67))
    frames.close()
    with pytest.raises(OSError, match="not open"):
        frames.send(link, b"")


def arrived(listener: socket.socket) -> bytes:
    """The payload of the next frame that comes in, broadcasts of IP only."""
    with listener:
        listener.settimeout(5)
        return listener.recv(100)[42:]


def listening(host: Host, interface: str) -> socket.socket:
    with host.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_IP))
        listener.bind((interface, ETH_IP))
    return listener


@pytest.mark.needs_root
def test_a_card_that_comes_back_under_its_number_is_served_again() -> None:
    with Network("again") as network:
        server, peer = network.host("server"), network.host("peer")
        with server.entered():
            frames = Frames()
            frames.bind()
            for payload in (b"before", b"after"):
                server.ip("link", "add", "eth0", "index", "77", "type", "veth", "peer", "name", "peer0", "netns", peer.namespace)
                peer.ip("link", "set", "peer0", "up")
                server.ip("link", "set", "eth0", "up")
                listener, link = listening(peer, "peer0"), eth0(server)
                frame = udp_frame(b"\xff" * 6, link.mac, "10.5.0.1", 67, "255.255.255.255", 68, payload)
                if payload == b"after":
                    with pytest.raises(OSError, match="No such device"):  # goes by the kernel
                        frames.send(link, frame)
                frames.send(link, frame)
                assert arrived(listener) == payload
                server.ip("link", "delete", "eth0")
            frames.close()


@pytest.mark.needs_root
def test_a_card_whose_name_another_took_is_not_mistaken_for_that() -> None:
    with Network("names") as network:
        server, first, second = network.host("server"), network.host("first"), network.host("second")
        network.cable(server, "eth0", first, "eth0")
        network.cable(server, "eth1", second, "eth0")
        with server.entered():
            frames = Frames()
            frames.bind()
            before = eth0(server)
            for old, new in (("eth0", "eth2"), ("eth1", "eth0")):
                server.ip("link", "set", old, "down")
                server.ip("link", "set", old, "name", new)
                server.ip("link", "set", new, "up")
            frame = udp_frame(b"\xff" * 6, before.mac, "10.5.0.1", 67, "255.255.255.255", 68, b"first's")
            with pytest.raises(OSError, match="eth0"):  # goes by the kernel
                frames.send(before, frame)
            listener = listening(first, "eth0")
            frames.send(replace(before, name="eth2"), frame)
            assert arrived(listener) == b"first's"
            frames.close()


@pytest.mark.needs_root
def test_arp_tells_who_has_an_address_and_hears_nothing_of_a_free_one(hosts: tuple[Host, Host]) -> None:
    server, client = hosts
    link = eth0(server)
    heard: list[tuple[str, bytes, str]] = []

    async def work() -> None:
        with server.entered():
            arp = Arp()
            arp.bind()
        arp.start(lambda address, mac, interface: heard.append((address, mac, interface)))
        with server.entered():
            arp.ask(link, "10.5.0.77")
            arp.ask(link, "10.5.0.9")
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        arp.close()

    asyncio.run(work())
    assert heard == [("10.5.0.9", CLIENT, "eth0")]
    assert "10.5.0.1" not in client.run("ip", "neighbour").stdout  # a probe leaves no trace in caches (RFC 5227)


@pytest.mark.needs_root
def test_the_tap_lets_only_servers_answers_through(hosts: tuple[Host, Host]) -> None:
    server, client = hosts
    seen: list[bytes] = []

    async def work() -> None:
        with server.entered():
            tap = Tap(ETH_IP, SERVER_ANSWERS)
            tap.bind()
        tap.start(lambda frame, interface: seen.append(frame[42:]))
        link = eth0(client)
        with client.entered():
            frames = Frames()
            frames.bind()
            for source, target, payload in ((68, 67, b"discover"), (53, 68, b"dns"), (67, 68, b"offer"), (67, 67, b"relayed")):
                frames.send(link, udp_frame(b"\xff" * 6, link.mac, "10.5.0.9", source, "255.255.255.255", target, payload))
            frames.close()
        async with asyncio.timeout(5):
            while not seen:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        tap.close()

    asyncio.run(work())
    assert seen == [b"offer"]


@pytest.mark.needs_root
def test_an_exception_in_the_handler_does_not_stop_the_tap(hosts: tuple[Host, Host], caplog: pytest.LogCaptureFixture) -> None:
    server, client = hosts
    seen: list[bytes] = []

    def trip(frame: bytes, interface: str) -> None:
        seen.append(frame)
        raise ZeroDivisionError("tripped")

    async def work() -> None:
        with server.entered():
            tap = Tap(ETH_IP, SERVER_ANSWERS)
            tap.bind()
        tap.start(trip)
        link = eth0(client)
        with client.entered():
            frames = Frames()
            frames.bind()
            for _ in range(2):
                frames.send(link, udp_frame(b"\xff" * 6, link.mac, "10.5.0.9", 67, "255.255.255.255", 68, b"offer"))
            frames.close()
        async with asyncio.timeout(5):
            while len(seen) < 2:
                await asyncio.sleep(0.01)
        tap.close()

    asyncio.run(work())
    assert caplog.text.count("bug while handling") == 2


def test_a_missing_right_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.socket", refuse)
    with pytest.raises(OperatorError, match="CAP_NET_RAW"):
        packet.open_packet_socket(0)
