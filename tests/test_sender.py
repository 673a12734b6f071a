"""Answers leave at once, or with all of their batch, and by the kernel where no frame can."""

import asyncio
from ipaddress import IPv4Interface

import pytest

from pixieboot import config
from pixieboot.dhcp import Destination
from pixieboot.serve.links import Link, Sites
from pixieboot.serve.sender import Sender
from pixieboot.wire.frame import PAYLOAD

ETH0 = Link(2, "eth0", b"\x52\x54\0\0\0\2", 1500, 0x43, 1, (IPv4Interface("10.5.0.1/24"),))
TUNNEL = Link(3, "tun0", b"", 1500, 0x43, 65534, ())
CLIENT = Destination("10.5.0.9", 68, b"\x52\x54\0\0\0\x09")


class Out:
    """What leaves, by a card or by the kernel; a card that is gone takes nothing, nor does a kernel without a route."""

    def __init__(self) -> None:
        self.left: list[object] = []
        self.gone = self.unreachable = False
        self.failures: list[tuple[str, str]] = []
        self.sender = Sender({67: self}, Sites(config.load(None, {}), lambda: [ETH0, TUNNEL], bytes(32)), self._failed)  # type: ignore[dict-item]
        self.sender._frames = self  # type: ignore[assignment]

    def send(self, *sent: object) -> None:
        match sent:
            case Link(), _ if self.gone:
                raise OSError(6, "No such device or address")
            case Link(), frame:
                self.left.append(frame)
            case _ if self.unreachable:
                raise OSError(101, "Network is unreachable")
            case _:
                self.left.append(sent)

    def _failed(self, address: str, why: str) -> None:
        self.failures.append((address, why))

    def answer(self, frame: bytes) -> None:
        self.sender.send(frame, ETH0, CLIENT, 67, 2, "10.5.0.1")


@pytest.fixture
def out() -> Out:
    return Out()


def test_without_a_batch_each_leaves_at_once(out: Out) -> None:
    out.answer(b"1")
    assert out.left == [b"1"]
    assert not out.sender.flush() and out.left == [b"1"]


def test_those_of_a_batch_leave_at_its_end_in_their_order(out: Out) -> None:
    out.sender.begin()
    out.answer(b"1")
    out.answer(b"2")
    assert not out.left
    assert not out.sender.flush() and out.left == [b"1", b"2"]
    out.answer(b"3")
    assert out.left == [b"1", b"2", b"3"], "the batch is over"


def test_who_begins_while_answers_are_gathered_already_loses_none(out: Out) -> None:
    for answer in (b"1", b"2"):
        out.sender.begin()
        out.answer(answer)
    assert not out.left
    assert not out.sender.flush() and out.left == [b"1", b"2"]


def test_what_the_card_does_not_take_is_broadcast_by_the_kernel(out: Out) -> None:
    out.gone = True
    out.answer(bytes(PAYLOAD) + b"payload")
    assert out.left == [(b"payload", ("255.255.255.255", 68), 2, "10.5.0.1")] and not out.failures


def test_one_that_cannot_leave_is_told_and_holds_up_no_other(out: Out) -> None:
    out.unreachable = True
    out.sender.begin()
    out.sender.send(b"lost", None, Destination("10.9.0.9", 67), 67, 0, "10.5.0.1")
    out.answer(b"2")
    assert out.sender.flush(), "the loop has something to do: who listens to the journal hears of it"
    assert (out.left, out.failures) == ([b"2"], [("10.9.0.9", "Network is unreachable")])


def test_only_what_leaves_at_once_is_told_again_without_its_delay(out: Out) -> None:
    async def work() -> None:
        assert out.sender.reply(CLIENT, 0.0, b"now", 67, 2, "10.5.0.1") == (ETH0, out.left.pop())
        assert out.sender.reply(CLIENT, 0.001, b"late", 67, 2, "10.5.0.1") is None and not out.left
        async with asyncio.timeout(5):
            while not out.left:
                await asyncio.sleep(0.001)

    asyncio.run(work())


@pytest.mark.parametrize(
    ("to", "link", "framed"),
    [
        (CLIENT, 2, True),
        (Destination("255.255.255.255", 68), 2, True),
        (Destination("10.5.0.9", 68), 2, False),  # it has that address, and answers ARP
        (CLIENT, 3, False),  # no Ethernet
        (CLIENT, 9, False),  # no such interface
    ],
)
def test_who_is_sent_a_frame(to: Destination, link: int, framed: bool, out: Out) -> None:
    found = out.sender.framed(to, b"payload", 67, link, "10.5.0.1")
    assert (found is not None) == framed
    if found:
        card, frame = found
        assert card is ETH0 and frame[PAYLOAD:] == b"payload" and frame[:6] == (to.chaddr or b"\xff" * 6)
