"""Two networks on one wire, as after a renumbering: the first is full, and machines belong to either (RFC 2131 §4.3.1, §4.3.2)."""

from collections.abc import Iterator

import pytest

from tests.wire.client import ACK, DISCOVER, IPXE, NAK, OFFER, RELEASE, REQUEST, Client, mac
from tests.wire.servers import ADDRESS, POOL, SECOND_ADDRESS, Lan, lan, ours
from tests.wire.test_server import QUIET, aton

pytestmark = [pytest.mark.needs_root, ours]
SECOND_MAC, SECOND_RESERVED = mac(0x11), "10.78.0.10"
_numbers = iter(range(0x1000, 0xFFFF))


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan("shared") as it:
        it.registry = {"machines.yaml": f"second: {{mac: '{SECOND_MAC.hex(':')}', address: {SECOND_RESERVED}}}\n"}
        it.start()  # which asks for the one address of the first pool
        yield it


@pytest.fixture
def client(net: Lan) -> Client:
    return net.client


@pytest.fixture
def who() -> bytes:
    return mac(next(_numbers))


def test_who_finds_the_first_network_full_is_leased_an_address_of_the_second(client: Client, who: bytes) -> None:
    ack = client.lease(who).message
    assert ack.yiaddr.startswith("10.78.0.1") and ack.options[54] == aton(SECOND_ADDRESS)
    (renewed,) = client.ask(client.message(REQUEST, who, ciaddr=ack.yiaddr), source=ack.yiaddr)
    assert (renewed.type, renewed.source, renewed.address(54)) == (ACK, SECOND_ADDRESS, SECOND_ADDRESS)
    (again,) = client.ask(client.message(REQUEST, who, {50: aton(ack.yiaddr)}))
    assert (again.type, again.message.yiaddr) == (ACK, ack.yiaddr)
    assert client.discover(who)[0].message.yiaddr == ack.yiaddr


def test_a_reservation_chooses_the_network(client: Client) -> None:
    assert client.lease(SECOND_MAC).message.yiaddr == SECOND_RESERVED


def test_the_address_asked_for_chooses_the_network(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {50: aton("10.78.0.150")})
    assert offer.message.yiaddr == "10.78.0.150"


def test_who_is_of_neither_network_is_refused_and_who_is_unknown_is_left_alone(client: Client, who: bytes) -> None:
    assert client.ask(client.message(REQUEST, who, {50: aton("10.78.0.160")}), wait=QUIET) == []
    (nak,) = client.ask(client.message(REQUEST, who, {50: aton("192.168.9.9")}))
    assert nak.type == NAK


def test_a_free_address_of_the_first_network_is_given_before_those_of_the_second(client: Client, who: bytes) -> None:
    holder = mac(0xFFFFFF)  # whom the start of the server asked for
    assert client.lease(holder).message.yiaddr == POOL[0]
    client.ask(client.message(RELEASE, holder, {54: aton(ADDRESS)}, ciaddr=POOL[0]), source=POOL[0], wait=QUIET)
    assert client.discover(who)[0].message.yiaddr == POOL[0]
    (offer,) = client.ask(client.message(DISCOVER, mac(next(_numbers)), IPXE))
    assert offer.type == OFFER and offer.message.yiaddr.startswith("10.78.0.1")
    assert offer.message.siaddr == SECOND_ADDRESS and SECOND_ADDRESS in offer.message.file.decode()
