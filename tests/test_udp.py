"""UDP with the arrival interface known, the source address chosen, and the holder of a taken port named."""

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from pixieboot.errors import OperatorError
from pixieboot.serve import udp
from pixieboot.serve.ports import Holder, others
from pixieboot.serve.udp import UdpPort
from tests.netns import Host, Network

HOLD = "import socket, sys, time; s = socket.socket(2, 2); s.bind(('', int(sys.argv[1]))); time.sleep(60)"
Seen = list[tuple[bytes, tuple[str, int], int, str]]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """A server with two interfaces on two networks (10.1.0.1, 10.2.0.1), and one client on both."""
    with Network("udp") as network:
        server, client = network.host("server"), network.host("client")
        for number in (1, 2):
            network.cable(server, f"eth{number}", client, f"eth{number}")
            server.add_address(f"eth{number}", f"10.{number}.0.1/24")
            client.add_address(f"eth{number}", f"10.{number}.0.2/24")
        yield server, client


def listen(server: Host, port: int = 67) -> UdpPort:
    with server.entered():
        taken = UdpPort(port)
        taken.bind()
    return taken


def wait_for_holder(port: int) -> list[Holder]:
    deadline = time.monotonic() + 5
    while not (found := others(port)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def receive(port: UdpPort, client: Host, *datagrams: tuple[bytes, str, str]) -> Seen:
    """What the port hands on when the client sends datagrams (payload, destination, interface)."""
    seen: Seen = []

    async def work() -> None:
        done = asyncio.Event()

        def on_datagram(datagram: bytes, peer: tuple[str, int], ifindex: int, local: str) -> None:
            seen.append((datagram, peer, ifindex, local))
            if len(seen) == len(datagrams):
                done.set()
            if datagram == b"trip":
                raise ZeroDivisionError("tripped")

        port.start(on_datagram)
        with client.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for payload, target, interface in datagrams:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                sender.sendto(payload, (target, port.port))
            await asyncio.wait_for(done.wait(), 5)
        port.close()

    asyncio.run(work())
    return seen


@pytest.mark.needs_root
def test_the_arrival_interface_and_our_address_there_are_known(hosts: tuple[Host, Host]) -> None:
    server, client = hosts
    with server.entered():
        index = {name: socket.if_nametoindex(name) for name in ("eth1", "eth2")}
    seen = receive(
        listen(server), client, (b"one", "255.255.255.255", "eth1"), (b"two", "10.2.0.255", "eth2"), (b"three", "10.2.0.1", "eth2")
    )
    assert [(datagram, ifindex, local) for datagram, _, ifindex, local in seen] == [
        (b"one", index["eth1"], "10.1.0.1"),
        (b"two", index["eth2"], "10.2.0.1"),
        (b"three", index["eth2"], "10.2.0.1"),
    ]


@pytest.mark.needs_root
@pytest.mark.parametrize("target", ["255.255.255.255", "10.2.0.2"], ids=["broadcast", "unicast"])
def test_a_reply_leaves_by_the_interface_and_from_the_address_asked_for(hosts: tuple[Host, Host], target: str) -> None:
    server, client = hosts
    port = listen(server)
    with client.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth2")
        receiver.bind(("", 68))
    with server.entered():
        index = socket.if_nametoindex("eth2")
    with receiver:
        receiver.settimeout(5)
        port.send(b"answer", (target, 68), index, "10.2.0.1")
        assert receiver.recvfrom(100) == (b"answer", ("10.2.0.1", 67))
    port.close()


@pytest.mark.needs_root
def test_an_exception_in_the_handler_is_logged_with_the_datagram_and_the_loop_goes_on(
    hosts: tuple[Host, Host], caplog: pytest.LogCaptureFixture
) -> None:
    server, client = hosts
    port = listen(server)
    with caplog.at_level(logging.ERROR):
        seen = receive(port, client, (b"trip", "10.1.0.1", "eth1"), (b"fine", "10.1.0.1", "eth1"))
    assert [datagram for datagram, *_ in seen] == [b"trip", b"fine"]
    assert b"trip".hex() in caplog.text and "tripped" in caplog.text and port.failures == 1


@pytest.mark.needs_root
def test_a_taken_port_is_refused_with_the_name_of_its_holder(hosts: tuple[Host, Host]) -> None:
    server, _ = hosts
    holder = server.start(sys.executable, "-c", HOLD, "4011")
    try:
        with server.entered():
            wait_for_holder(4011)
            with pytest.raises(OperatorError, match=f"UDP port 4011: .* \\(process {holder.pid}\\) holds it") as refused:
                UdpPort(4011).bind()
        assert "PXE boot server cannot share the port with it." in refused.value.mend
    finally:
        server.stop(holder)


@pytest.mark.needs_root
def test_a_daemon_that_shares_the_port_is_named(hosts: tuple[Host, Host]) -> None:
    server, _ = hosts
    dnsmasq = server.start(
        *(
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth1",
            "--bind-interfaces",
            "--user=root",
        ),
        *("--dhcp-range=10.1.0.50,10.1.0.60", "--dhcp-leasefile=/dev/null", "--pid-file=", "--log-facility=/dev/null"),
    )
    try:
        with server.entered():
            found = wait_for_holder(67)
            port = UdpPort(67)
            port.bind()
            port.close()
            eth1 = socket.if_nametoindex("eth1")
        assert found == [Holder(dnsmasq.pid, "dnsmasq", "0.0.0.0", eth1)]  # --bind-interfaces with one: it hears no other
    finally:
        server.stop(dnsmasq)


@pytest.mark.needs_root
def test_a_port_for_one_alone_is_refused_even_where_the_other_would_share_it(hosts: tuple[Host, Host]) -> None:
    server, _ = hosts
    with server.entered():
        shared, alone = UdpPort(0), UdpPort(0, alone=True)
        shared.bind()
        assert shared._socket is not None
        alone.port = shared._socket.getsockname()[1]
        with pytest.raises(OperatorError):
            alone.bind()
        shared.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("target, answered", [("10.1.0.1", True), ("10.1.0.255", False), ("255.255.255.255", False)])
def test_rfc1123_4_2_3_4_a_port_for_one_alone_ignores_broadcasts(hosts: tuple[Host, Host], target: str, answered: bool) -> None:
    async def work() -> list[bytes]:
        server, client = hosts
        with server.entered():
            port = UdpPort(6970, alone=True)
            port.bind()
        heard: list[bytes] = []
        port.start(lambda datagram, *_: heard.append(datagram))
        with client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
            sock.sendto(b"asked", (target, 6970))
            sock.sendto(b"end", ("10.1.0.1", 6970))
            async with asyncio.timeout(5):
                while b"end" not in heard:
                    await asyncio.sleep(0.01)
        port.close()
        return heard

    assert (b"asked" in asyncio.run(work())) == answered


def test_ports_that_close_in_their_own_handler_stop_reading() -> None:
    async def work() -> int:
        port = UdpPort(0)
        port.bind()
        assert port._socket is not None
        target = port._socket.getsockname()[1]
        seen: list[bytes] = []
        port.start(lambda datagram, *_: (seen.append(datagram), port.close()))  # type: ignore[func-returns-value]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"1", ("127.0.0.1", target))
            sender.sendto(b"2", ("127.0.0.1", target))
            await asyncio.sleep(0.1)
        port.send(b"late", ("127.0.0.1", 9), 0, "0.0.0.0")
        return len(seen)

    assert asyncio.run(work()) == 1
    assert udp.BATCH == 64


def test_what_comes_in_faster_than_the_loop_turns_is_taken_all_the_same() -> None:
    handled: list[bytes] = []
    port = UdpPort(0)
    port.bind()
    assert port._socket is not None
    address = ("127.0.0.1", port._socket.getsockname()[1])

    async def work() -> None:
        port.start(lambda datagram, *_: handled.append(datagram))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for turn in range(1, 21):
                for _ in range(3):
                    sender.sendto(b"x", address)
                port._readable()
                assert 3 * turn - len(handled) < 6
        port.close()

    asyncio.run(work())


class Told:
    """A Batch that notes what it hears, between the datagrams.  left: what its flush answers."""

    def __init__(self, left: bool = udp.DONE) -> None:
        self.heard: list[str] = []
        self._left = left

    def begin(self) -> None:
        self.heard.append("begin")

    def flush(self) -> bool:
        self.heard.append("flush")
        return self._left


def test_datagrams_that_come_together_are_a_batch_and_a_lone_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "TRUST", 2)
    told = Told()

    def on_datagram(datagram: bytes, *_: object) -> bool:
        told.heard.append(datagram.decode())
        if datagram == b"trip":
            raise ZeroDivisionError("tripped")
        return udp.DONE

    async def work() -> None:
        port = UdpPort(0)
        port.bind()
        assert port._socket is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in ("1", "2", "3", "trip", "5"):
                sender.sendto(datagram.encode(), ("127.0.0.1", port._socket.getsockname()[1]))
            port.start(on_datagram, told)
            async with asyncio.timeout(5):
                while told.heard.count("flush") < 2:
                    await asyncio.sleep(0.01)
        port.close()

    asyncio.run(work())
    assert told.heard[:9] == ["1", "2", "begin", "3", "trip", "flush", "begin", "5", "flush"]


@pytest.mark.parametrize(
    ("answers", "flushed", "left"),
    [((udp.DONE, udp.DONE), udp.DONE, False), ((None, udp.DONE), udp.DONE, True), ((udp.DONE, udp.DONE), True, True)],
)
def test_what_a_datagram_or_the_end_of_its_batch_left_to_the_loop_is_told_to_it(
    answers: tuple[object, ...], flushed: bool, left: bool
) -> None:
    async def work() -> bool:
        port, coming = UdpPort(0), iter(answers)
        port.bind()
        assert port._socket is not None
        port.start(lambda *_: next(coming), Told(flushed))
        port._likely = len(answers)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in answers:
                sender.sendto(b"asked", ("127.0.0.1", port._socket.getsockname()[1]))
        found = port._readable()
        port.close()
        return found

    assert asyncio.run(work()) == left


def test_who_is_answered_and_asks_again_at_once_is_heard_in_the_same_wake_up() -> None:
    class Asking(Told):
        """Each batch makes its clients ask again, so many times."""

        def flush(self) -> bool:
            if again:
                sender.sendto(again.pop(), target)
                sender.sendto(b"too", target)
            return super().flush()

    async def work() -> None:
        port.start(lambda datagram, *_: told.heard.append(datagram.decode() + " crowded" * port.crowded), told)
        port._likely, port.crowded = 8, True
        port._readable()

    again, told, port = [b"once", b"twice"], Asking(), UdpPort(0)
    port.bind()
    assert port._socket is not None
    target = ("127.0.0.1", port._socket.getsockname()[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in (b"1", b"2"):
            sender.sendto(datagram, target)
        asyncio.run(work())
    port.close()
    assert " ".join(told.heard) == "begin 1 crowded 2 crowded flush begin twice too flush begin once too flush begin flush"
    assert port._likely == 4, "less came than a whole batch"


def crowding(server: Host, client: Host, until_over: bool) -> list[bool]:
    """What `crowded` was with each of 300 datagrams that waited when the port began to read, four at a time."""
    port = listen(server)
    seen: list[bool] = []

    async def work() -> None:
        with client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(300):
                sender.sendto(bytes(300), ("10.1.0.1", 67))
        port.start(lambda *_: seen.append(port.crowded))
        async with asyncio.timeout(5):
            while len(seen) < 300 or (until_over and port.crowded):  # the kernel may count what was read till all is
                await asyncio.sleep(0.01)
        port.close()

    asyncio.run(work())
    return seen


def test_a_port_is_crowded_from_a_deep_queue_until_it_is_empty(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "BATCH", 4)
    monkeypatch.setattr(udp, "CROWDED", 200)  # octets, and some 40 of such datagrams
    seen = crowding(*hosts, until_over=True)
    assert not seen[0] and seen.count(True) > 100, "what is waiting is found out with the first whole batches"


def test_few_datagrams_crowd_nobody(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "BATCH", 4)
    assert not any(crowding(*hosts, until_over=False))
