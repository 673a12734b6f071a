"""Replies remembered: for one client, and as a form for all strangers of its kind."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.dhcp import Reply, client_of, respond
from pixieboot.leases import Leases
from pixieboot.memo import Form, Memo, Own, Remembered, form_of
from pixieboot.model import Arrival, Assignment, Client, Group, Lease, Mac, Site
from pixieboot.wire.dhcp import Message, decode, encode
from pixieboot.wire.frame import BROADCAST_MAC, PAYLOAD, udp_frame
from tests.test_dhcp import (
    ASSIGNED,
    BIOS,
    DISCOVER,
    HTTP,
    IPXE,
    LINUX,
    NOW,
    OURS,
    PI,
    REQUEST,
    UEFI,
    Lan,
    a_message,
    a_site,
    aton,
)

FACTS = ("facts",)
CARD = bytes.fromhex("525400000001")
KINDS = {
    "BIOS": BIOS,
    "UEFI": UEFI,
    "UEFI asks for 66 and 67": {**UEFI, 55: bytes((1, 3, 66, 67, 43))},
    "UEFI HTTP Boot": HTTP,
    "iPXE": IPXE,
    "an operating system": LINUX,
    "behind a relay": {**BIOS, 82: b"\1\4port"},
    "a vendor class with a percent sign": {**BIOS, 60: b"PXEClient:Arch:00000:%b%s%%"},
}


def asked(kind: int, options: dict[int, bytes], number: int, **fields: Any) -> Message:
    """A message of one of many strangers: the number tells MAC, GUID and client-id."""
    own = {code: value for code, value in options.items() if code != 97}
    if 97 in options:
        own[97] = b"\0" + (number * 7919 + 77).to_bytes(16, "big")
    if 61 in options:
        own[61] = options[61][:1] + number.to_bytes(6, "big")
    if 12 in options:
        own[12] = b"host%03d" % (number % 1000)
    chaddr = b"\x02\x11" + (number * 65_537 + 1).to_bytes(4, "big")
    giaddr = {"giaddr": "10.77.0.9"} if 82 in options else {}
    return a_message(kind, own, **{"chaddr": chaddr, "xid": 0x25000000 + number, **giaddr, **fields})


def framed(datagram: bytes, reply: Reply) -> bytes | None:
    """As it goes out to a card without an address, or to all."""
    to = reply.destination
    if not to.chaddr and to.address != "255.255.255.255":
        return None
    return udp_frame(to.chaddr or BROADCAST_MAC, CARD, OURS, 67, to.address, to.port, datagram)


class Shop:
    """A server beside a memo, as the service uses the two: by respond the first two times, then by the form."""

    def __init__(self, site: Site, assignment: Assignment = ASSIGNED) -> None:
        self.site, self.assignment = site, assignment
        self.memo, self.leases = Memo[Any](), Leases()

    def plainly(self, message: Message) -> tuple[bytes, Reply, Client]:
        client = client_of(message)
        reply = respond(message, client, Arrival(67, ("0.0.0.0", 68), 2, OURS, NOW), self.assignment, self.site, self.leases)
        assert isinstance(reply, Reply), reply
        return encode(reply.message, reply.limit), reply, client

    def learn(self, message: Message) -> bytes:
        encoded, reply, client = self.plainly(message)
        told, frame = Remembered(FACTS, client, reply, encoded), framed(encoded, reply)
        self.memo.learn(encode(message), "", lambda: form_of(message, told, frame, self.site, 2))
        return encoded

    def form(self, message: Message) -> tuple[Form, Own, Mac]:
        found = self.memo.form(encode(message), "")
        assert found is not None
        return *found, Mac.of(message.chaddr)


@pytest.mark.parametrize("mode", ["server", "proxy"])
@pytest.mark.parametrize("identify_by", ["mac", "client-id"])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("more", [{}, {61: b"\1------", 12: b"-------"}, {61: b"\0------"}], ids=["", "with 61", "odd 61"])
def test_a_form_says_to_the_next_stranger_what_respond_would(
    mode: str, identify_by: str, options: dict[int, bytes], more: dict[int, bytes]
) -> None:
    if mode == "proxy" and (options is LINUX or identify_by == "client-id"):
        return
    group = Group("all", options={17: b"100%", 67: b"other.efi"}) if options is BIOS else None
    site = a_site(mode, identify_by=identify_by)
    by_form, plain = (Shop(site, replace(ASSIGNED, group=group)) for _ in range(2))
    options = {**options, **more}
    for kind in (DISCOVER, REQUEST) if mode == "server" else (DISCOVER,):
        for number in (1, 2, 3, 4):
            extra = {50: aton(f"10.77.0.{99 + number}"), 54: aton(OURS)} if kind == REQUEST else {}
            message = asked(kind, {**options, **extra}, number)
            expected, reply, client = plain.plainly(message)
            if number < 3:
                assert by_form.learn(message) == expected
                continue
            form, own, mac = by_form.form(message)
            who = form.holder(own, mac)
            lease = form.claim(own, who, by_form.leases, NOW) if who else None
            assert not isinstance(lease, str)
            address = lease.address if lease else "0.0.0.0"
            assert form.answer(own, address, mac.dashed) == (framed(expected, reply) or expected)
            assert form.destination(address, own.chaddr) == reply.destination
            assert form.detail(own, address, mac.dashed) == reply.detail(client)
            assert list(form.detail(own, address, mac.dashed)) == list(reply.detail(client))
            if who:
                told = form.told(own, who, address)
                assert (told.deed, told.destination, told.message.yiaddr) == (reply.deed, reply.destination, address)
                assert by_form.leases.at(address) == plain.leases.at(address) == lease
                assert (reply.lease or lease) == lease
    assert by_form.leases.all() == plain.leases.all()


def test_a_form_is_made_for_the_second_of_a_kind_and_for_no_other_kind() -> None:
    shop = Shop(a_site("proxy"))
    shop.learn(asked(DISCOVER, BIOS, 1))
    assert shop.memo.form(encode(asked(DISCOVER, BIOS, 2)), "") is None, "one may be the only one"
    shop.learn(asked(DISCOVER, BIOS, 2))
    assert shop.memo.form(encode(asked(DISCOVER, BIOS, 3)), "")
    assert shop.memo.form(encode(asked(DISCOVER, BIOS, 3)), "binl") is None, "another style was learned for it"
    for other in (UEFI, {**BIOS, 57: b"\5\xc0"}, {**BIOS, 55: b"\1"}, {**BIOS, 82: b"\1\1a"}):
        assert shop.memo.form(encode(asked(DISCOVER, other, 3)), "") is None
    assert shop.memo.form(encode(asked(DISCOVER, BIOS, 3, flags=0x8000)), "") is None
    assert shop.memo.form(encode(asked(DISCOVER, BIOS, 3, giaddr="10.77.0.9")), "") is None


@pytest.mark.parametrize(
    "message",
    [
        a_message(DISCOVER, PI),
        asked(DISCOVER, BIOS, 1, ciaddr="10.77.0.5"),
        asked(DISCOVER, {**BIOS, 61: b"\1"}, 1, hlen=5, chaddr=b"abcde"),
    ],
    ids=["a Raspberry Pi goes by its MAC", "with an address", "no Ethernet"],
)
def test_who_gets_no_form(message: Message) -> None:
    shop = Shop(a_site("server"))
    shop.learn(message)
    shop.learn(message)
    assert shop.memo.form(encode(message), "") is None


def test_no_form_where_more_of_the_answer_is_the_clients_own() -> None:
    message = asked(DISCOVER, BIOS, 1)
    shop = Shop(a_site("proxy"), replace(ASSIGNED, group=Group("odd", options={43: b"for " + message.chaddr})))
    shop.learn(message)
    shop.learn(message)
    assert shop.memo.form(encode(message), "") is None


def test_an_address_that_cannot_be_had_is_said_by_the_form_too() -> None:
    shop = Shop(a_site("server"))
    for number in (1, 2):
        shop.learn(asked(REQUEST, {**BIOS, 50: aton(f"10.77.0.{99 + number}"), 54: aton(OURS)}, number))
    form, own, mac = shop.form(asked(REQUEST, {**BIOS, 50: aton("10.77.0.100"), 54: aton(OURS)}, 3))
    who = form.holder(own, mac)
    assert who
    assert "10.77.0.100 is bound to" in str(form.claim(own, who, shop.leases, NOW))


@given(st.binary(min_size=6, max_size=6), st.binary(min_size=17, max_size=17), st.integers(0, 2**32 - 1))
def test_whatever_a_stranger_calls_itself(chaddr: bytes, guid: bytes, xid: int) -> None:
    shop = Shop(a_site("proxy"))
    for number in (1, 2):
        shop.learn(asked(DISCOVER, BIOS, number))
    message = a_message(DISCOVER, {**asked(DISCOVER, BIOS, 1).options, 97: guid}, chaddr=chaddr, xid=xid)
    form, own, mac = shop.form(message)
    if client_of(message).loader is form.client.loader:  # the service asks whether it is a Raspberry Pi
        expected, reply, _ = shop.plainly(message)
        assert form.answer(own, "0.0.0.0", mac.dashed) == (framed(expected, reply) or expected)


def test_datagrams_out_of_the_ordinary_teach_nothing() -> None:
    memo, message = Memo[Any](), asked(DISCOVER, BIOS, 1)
    plain = encode(message)
    for datagram in (plain[:240], plain[:236] + b"\x63\x82\x53\x63" + b"\x35\1\1\x35\1\1\xff", plain[:240] + b"\x34\1\1\xff"):
        memo.learn(datagram, "", lambda: pytest.fail("never asked"))
        memo.learn(datagram, "", lambda: pytest.fail("never asked"))
    assert not memo._cuts


def test_the_same_question_gets_the_same_bytes_but_for_xid_and_secs() -> None:
    lan, memo = Lan("proxy"), Memo[Any](size=2)
    first, again = a_message(DISCOVER, UEFI), a_message(DISCOVER, UEFI, xid=0xAABBCCDD, secs=9)
    answer = lan.reply(first)
    datagram = encode(first)
    assert memo.find(datagram) is None
    memo.keep(datagram, Remembered(FACTS, client_of(first), answer, encode(answer.message, answer.limit)))
    found = memo.find(encode(again))
    assert found is not None and found.facts == FACTS
    fresh = lan.reply(again)
    assert memo.again(found, encode(again)) == encode(fresh.message, fresh.limit)
    assert memo.find(encode(a_message(DISCOVER, BIOS))) is None


def test_what_a_client_asks_next_takes_the_place_of_what_began_alike() -> None:
    lan, memo = Lan("proxy"), Memo[Any]()
    first, second = (a_message(DISCOVER, UEFI, flags=flags) for flags in (0, 0x8000))
    for message, other in ((first, second), (second, first)):
        memo.keep(encode(message), Remembered((), client_of(message), lan.reply(message), b""))
        assert memo.find(encode(message)) and not memo.find(encode(other))


def test_what_two_relays_hand_on_of_one_client_is_remembered_for_both() -> None:
    lan, memo = Lan("proxy"), Memo[Any]()
    messages = [a_message(DISCOVER, UEFI, giaddr=relay) for relay in ("10.77.0.8", "10.77.0.9")]
    for message in messages:
        memo.keep(encode(message), Remembered((), client_of(message), lan.reply(message), b""))
    assert all(memo.find(encode(message)) for message in messages)


def test_a_memo_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    lan, memo = Lan("proxy"), Memo[Any](size=2)
    monkeypatch.setattr(Memo, "CUTS", 3)
    monkeypatch.setattr(Memo, "FORMS", 3)
    for number in range(9):
        message = a_message(DISCOVER, {**UEFI, 55: bytes((number, 1)), 60: b"PXEClient" + bytes(number)})
        answer = lan.reply(message)
        memo.keep(encode(message), Remembered((), client_of(message), answer, b""))
        assert len(memo._held) <= 2
        memo.learn(encode(message), "", lambda: None)
        memo.learn(encode(replace(message, flags=number)), "", lambda: None)
        cuts = [cut for found in memo._cuts.values() for cut in found]
        assert len(cuts) <= 3 and all(len(cut.forms) <= 3 for cut in cuts)


def test_a_full_memo_has_room_for_what_it_holds() -> None:
    lan, memo = Lan("proxy"), Memo[Any](size=2)
    first, second, third = (asked(DISCOVER, UEFI, number) for number in range(3))

    def keep(message: Message) -> None:
        memo.keep(encode(message), Remembered((), client_of(message), lan.reply(message), b""))

    for message in (first, second, first):
        assert memo.has_room(encode(message))
        keep(message)
    assert memo.find(encode(second)) and not memo.has_room(encode(third))
    keep(third)
    assert memo.find(encode(third)) and not memo.find(encode(second))


def test_a_lease_by_form_is_a_lease() -> None:
    shop = Shop(a_site("server"))
    for number in (1, 2):
        shop.learn(asked(DISCOVER, BIOS, number))
    form, own, mac = shop.form(asked(DISCOVER, BIOS, 3))
    who = form.holder(own, mac)
    assert who
    lease = form.claim(own, who, shop.leases, NOW)
    assert isinstance(lease, Lease) and lease.client == mac
    assert decode(form.answer(own, lease.address, mac.dashed)[PAYLOAD:]).yiaddr == lease.address == "10.77.0.102"
