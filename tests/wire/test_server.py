"""A DHCP server over a real wire, case by case after its rule (RFC 2131, 2132, 3011, 3046, 3396, 3527, 5107, 6842)."""

import random
import re
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from pixieboot.wire.dhcp import Message, encode
from tests.wire.client import (
    ACK,
    ANY,
    DECLINE,
    DISCOVER,
    EVERYBODY,
    HTTP,
    INFORM,
    IPXE,
    NAK,
    OFFER,
    PRL,
    PXE,
    RELEASE,
    REQUEST,
    UEFI,
    Answer,
    Client,
    mac,
)
from tests.wire.servers import (
    ADDRESS,
    LEASE,
    MAX_LEASE,
    MIN_LEASE,
    POOL,
    RELAY,
    RELAYED_GATEWAY,
    RELAYED_POOL,
    RESERVED_ADDRESS,
    RESERVED_MAC,
    TAKEN,
    Lan,
    lan,
    missing,
    ours,
)

pytestmark = [pytest.mark.needs_root, missing]
QUIET = 0.4  # seconds without an answer that count as silence
WORDY = mac(0x30)  # has more options than its packets have room for
UUID, BLADE = "4c4c4544-0042-3510-8052-b4c04f4e3732", "10.77.0.11"
OTHER_UUID, OTHER_BLADE = "4c4c4544-0042-3510-8052-b4c04f4e3733", "10.77.0.12"
_numbers = iter(range(0x1000, 0xFFFF))
aton = socket.inet_aton


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan("server") as it:
        it.force = True  # nobody else leases here
        it.registry = {
            "machines.yaml": f"wordy: {{mac: '{WORDY.hex(':')}', options: {{224: {'x' * 200}, 225: {'y' * 90}}}}}\n"
            f"blade: {{uuid: {UUID}, address: {BLADE}}}\nother: {{uuid: {OTHER_UUID}, address: {OTHER_BLADE}}}\n"
        }
        it.start()
        yield it


@pytest.fixture
def client(net: Lan) -> Client:
    return net.client


@pytest.fixture
def who() -> bytes:
    """A MAC that no other test uses."""
    return mac(next(_numbers))


def stranger() -> bytes:
    return mac(next(_numbers))


def seconds(answer: Answer, code: int = 51) -> int:
    value = answer.option(code)
    assert value is not None and len(value) == 4
    return int.from_bytes(value, "big")


# ---------------------------------------------------------------------- RFC 2131 §4.3.1: DISCOVER


def test_rfc2131_table3_an_offer_has_the_fields_of_its_discover(client: Client, who: bytes) -> None:
    question = client.message(DISCOVER, who, {55: PRL}, secs=7)
    (offer,) = client.ask(question)
    reply = offer.message
    assert (reply.op, reply.htype, reply.hlen, reply.chaddr, reply.xid) == (2, 1, 6, who, question.xid)
    assert (reply.hops, reply.secs, reply.ciaddr, reply.giaddr) == (0, 0, ANY, ANY)
    assert reply.yiaddr in POOL and offer.type == OFFER and offer.address(54) == ADDRESS
    assert not {50, 55, 57} & reply.options.keys()


def test_rfc2131_4_3_1_an_offer_has_a_lease_time_and_what_was_asked_for(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    assert seconds(offer) == LEASE
    assert (offer.address(1), offer.address(3), offer.address(6)) == ("255.255.255.0", ADDRESS, ADDRESS)
    assert offer.address(42) == ADDRESS and offer.option(15) == b"lab.example"


def test_rfc1542_2_1_a_reply_is_at_least_300_octets_and_ends_in_255(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    assert len(offer.payload) >= 300
    assert offer.payload.rstrip(b"\0").endswith(b"\xff")


def test_rfc2132_3_3_the_mask_comes_before_the_routers(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {55: bytes((3, 1, 51, 54))})
    codes = list(offer.message.options)
    assert codes.index(1) < codes.index(3) and codes[0] == 53


def test_rfc2131_4_1_without_the_broadcast_flag_the_offer_is_unicast_to_the_card(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    assert (offer.mac, offer.target, offer.target_port) == (who, offer.message.yiaddr, 68)
    assert (offer.source, offer.source_port) == (ADDRESS, 67)


def test_rfc2131_4_1_with_the_broadcast_flag_the_offer_is_broadcast(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, flags=0x8000)
    assert (offer.mac, offer.target, offer.target_port) == (b"\xff" * 6, EVERYBODY, 68)
    assert offer.source == ADDRESS and offer.message.flags == 0x8000


def test_rfc2131_4_1_other_hardware_than_ethernet_is_answered_by_broadcast(client: Client) -> None:
    (offer,) = client.ask(client.message(DISCOVER, b"\0\1\2\3\4\5\6\7", {55: PRL}, htype=27, flags=0x8000))
    assert (offer.mac, offer.target) == (b"\xff" * 6, EVERYBODY)


def test_rfc2131_4_3_1_two_discovers_in_flight_get_two_addresses(client: Client) -> None:
    questions = [client.message(DISCOVER, stranger(), {55: PRL}) for _ in range(5)]
    client.drain()
    for question in questions:
        client.send(question)
    xids = {question.xid for question in questions}
    offers = client.answers(lambda answer: answer.message.xid in xids, 5.0, len(questions))
    assert len({offer.message.yiaddr for offer in offers}) == len(questions)


def test_rfc2131_4_3_1_the_same_client_is_offered_the_same_address(client: Client, who: bytes) -> None:
    (first,), (second,) = client.discover(who), client.discover(who)
    assert first.message.yiaddr == second.message.yiaddr


def test_rfc2131_4_3_1_the_address_asked_for_is_offered_if_it_is_free(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {50: aton("10.77.0.190")})
    assert offer.message.yiaddr == "10.77.0.190"


def test_rfc2131_4_3_1_an_address_outside_the_pool_is_not_offered(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {50: aton("10.77.0.251")})
    assert offer.message.yiaddr in POOL


def test_rfc2131_4_3_1_a_bound_client_is_offered_what_it_has(client: Client, who: bytes) -> None:
    ack = client.lease(who)
    (offer,) = client.discover(who, {50: aton("10.77.0.191")})
    assert offer.message.yiaddr == ack.message.yiaddr


@pytest.mark.parametrize(
    "wish, low, high",
    [
        (10, 120, MIN_LEASE),
        (0, 120, LEASE),
        (1800, 1800, 1800),
        (0xFFFFFFFF, LEASE, MAX_LEASE),
        (86400, LEASE, MAX_LEASE),
    ],
    ids=["too short", "zero", "in between", "infinite", "too long"],
)
def test_rfc2131_4_3_1_a_wish_for_a_lease_time_is_clamped(client: Client, who: bytes, wish: int, low: int, high: int) -> None:
    ack = client.lease(who, {51: struct.pack("!I", wish)})
    assert low <= seconds(ack) <= high


def test_rfc2131_4_3_1_a_reserved_machine_gets_its_address_and_nobody_else_does(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {50: aton(RESERVED_ADDRESS)})
    assert offer.message.yiaddr != RESERVED_ADDRESS
    ack = client.lease(RESERVED_MAC, {50: aton(POOL[3])})
    assert ack.message.yiaddr == RESERVED_ADDRESS and ack.option(12) == b"web1"


def test_rfc2131_2_2_an_address_that_somebody_uses_is_not_given_out(client: Client) -> None:
    """Asked for by name, and again once the wire was heard: the answer comes from the squatter's own ARP."""
    who = stranger()
    client.discover(who, {50: aton(TAKEN)})
    time.sleep(1.2)
    (offer,) = client.discover(who, {50: aton(TAKEN)}) or client.discover(who, {50: aton(TAKEN)})
    assert offer.message.yiaddr != TAKEN


# ---------------------------------------------------------------------- RFC 2131 §4.3.2: REQUEST


def test_rfc2131_4_3_2_selecting_is_acknowledged_with_times(client: Client, who: bytes) -> None:
    ack = client.lease(who)
    assert ack.message.yiaddr in POOL and ack.address(54) == ADDRESS
    assert (seconds(ack), seconds(ack, 58), seconds(ack, 59)) == (LEASE, LEASE // 2, LEASE * 7 // 8)


def test_rfc2131_4_3_2_selecting_another_server_is_met_with_silence(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    other = {50: aton(offer.message.yiaddr), 54: aton("10.77.0.9")}
    assert client.ask(client.message(REQUEST, who, other, xid=offer.message.xid), wait=QUIET) == []


def test_rfc2131_3_1_4_an_offer_that_was_not_taken_is_free_again(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    other = {50: aton(offer.message.yiaddr), 54: aton("10.77.0.9")}
    client.ask(client.message(REQUEST, who, other, xid=offer.message.xid), wait=QUIET)
    (second,) = client.discover(stranger(), {50: aton(offer.message.yiaddr)})
    assert second.message.yiaddr == offer.message.yiaddr


def test_rfc2131_4_3_2_selecting_an_address_of_somebody_else_is_never_acknowledged(client: Client, who: bytes) -> None:
    taken = client.lease(stranger())
    asked = {50: aton(taken.message.yiaddr), 54: taken.message.options[54]}
    answers = client.ask(client.message(REQUEST, who, asked), wait=QUIET)
    assert [answer.type for answer in answers] in ([], [NAK])


def test_rfc2131_4_3_2_init_reboot_with_the_right_address_is_acknowledged(client: Client, who: bytes) -> None:
    ack = client.lease(who)
    (again,) = client.ask(client.message(REQUEST, who, {50: aton(ack.message.yiaddr), 55: PRL}))
    assert (again.type, again.message.yiaddr) == (ACK, ack.message.yiaddr)


def test_rfc2131_4_3_2_init_reboot_on_the_wrong_network_is_refused(client: Client, who: bytes) -> None:
    client.lease(who)
    (nak,) = client.ask(client.message(REQUEST, who, {50: aton("10.1.2.3")}))
    assert nak.type == NAK


def test_rfc2131_4_3_2_init_reboot_with_an_address_of_another_is_refused(client: Client, who: bytes) -> None:
    client.lease(who)
    taken = client.lease(stranger())
    answers = client.ask(client.message(REQUEST, who, {50: aton(taken.message.yiaddr)}))
    assert [answer.type for answer in answers] == [NAK]


def test_rfc2131_4_3_2_init_reboot_of_a_client_without_record_must_be_silent(client: Client, who: bytes) -> None:
    assert client.ask(client.message(REQUEST, who, {50: aton("10.77.0.194")}), wait=QUIET) == []


def test_rfc2131_4_1_a_nak_is_broadcast_and_carries_no_lease(client: Client, who: bytes) -> None:
    client.lease(who)
    (nak,) = client.ask(client.message(REQUEST, who, {50: aton("10.1.2.3")}))
    assert (nak.target, nak.target_port, nak.message.yiaddr) == (EVERYBODY, 68, ANY)
    assert nak.address(54) == ADDRESS and not {51, 1, 3, 6} & nak.message.options.keys()


def test_rfc2131_4_3_2_renewing_is_acknowledged_to_ciaddr(client: Client, who: bytes) -> None:
    leased = client.lease(who).message.yiaddr
    (ack,) = client.ask(client.message(REQUEST, who, {55: PRL}, ciaddr=leased), source=leased, target=ADDRESS, to=client.server_mac)
    assert (ack.type, ack.message.ciaddr, ack.message.yiaddr) == (ACK, leased, leased)
    assert (ack.target, ack.target_port, ack.mac) == (leased, 68, who)
    assert seconds(ack) == LEASE


def test_rfc2131_4_3_2_rebinding_is_acknowledged_too(client: Client, who: bytes) -> None:
    leased = client.lease(who).message.yiaddr
    (ack,) = client.ask(client.message(REQUEST, who, {55: PRL}, ciaddr=leased), source=leased)
    assert (ack.type, ack.message.yiaddr, ack.target) == (ACK, leased, leased)


def test_rfc2131_4_3_2_renewing_the_address_of_another_is_never_acknowledged(client: Client, who: bytes) -> None:
    taken = client.lease(stranger()).message.yiaddr
    answers = client.ask(client.message(REQUEST, who, {55: PRL}, ciaddr=taken), source=taken, wait=QUIET)
    assert [answer.type for answer in answers] in ([], [NAK])


def test_rfc2131_4_3_2_rebinding_without_record_is_met_with_silence(client: Client, who: bytes) -> None:
    client.holds["10.77.0.195"] = who
    assert client.ask(client.message(REQUEST, who, {55: PRL}, ciaddr="10.77.0.195"), source="10.77.0.195", wait=QUIET) == []


# ---------------------------------------------------------------------- RFC 2131 §4.3.3-4.3.5


def test_rfc2131_4_3_3_a_declined_address_is_not_offered_again(client: Client, who: bytes) -> None:
    leased = client.lease(who).message.yiaddr
    assert client.ask(client.message(DECLINE, who, {50: aton(leased), 54: aton(ADDRESS)}), wait=QUIET) == []
    (same,) = client.discover(who, {50: aton(leased)})
    (other,) = client.discover(stranger(), {50: aton(leased)})
    assert leased not in (same.message.yiaddr, other.message.yiaddr)


def test_rfc2131_4_3_4_a_released_address_is_free_and_remembered(client: Client, who: bytes) -> None:
    leased = client.lease(who).message.yiaddr
    release = client.message(RELEASE, who, {54: aton(ADDRESS)}, ciaddr=leased)
    del client.holds[leased]
    assert client.ask(release, source=leased, wait=QUIET) == []
    (offer,) = client.discover(who)
    assert offer.message.yiaddr == leased
    client.ask(client.message(REQUEST, who, {50: aton(leased), 54: aton("10.77.0.9")}), wait=QUIET)
    (other,) = client.discover(stranger(), {50: aton(leased)})
    assert other.message.yiaddr == leased


def test_rfc2131_4_3_4_a_release_by_another_client_changes_nothing(client: Client, who: bytes) -> None:
    leased, thief = client.lease(who).message.yiaddr, stranger()
    client.ask(client.message(RELEASE, thief, {54: aton(ADDRESS)}, ciaddr=leased), source=leased, wait=QUIET)
    (offer,) = client.discover(thief, {50: aton(leased)})
    assert offer.message.yiaddr != leased


def test_rfc2131_4_3_5_inform_is_answered_to_ciaddr_without_a_lease(client: Client, who: bytes) -> None:
    client.holds["10.77.0.60"] = who
    (ack,) = client.ask(client.message(INFORM, who, {55: PRL}, ciaddr="10.77.0.60"), source="10.77.0.60")
    assert (ack.type, ack.target, ack.target_port, ack.message.yiaddr) == (ACK, "10.77.0.60", 68, ANY)
    assert not {51, 58, 59} & ack.message.options.keys() and ack.address(6) == ADDRESS


# ---------------------------------------------------------------------- what must be met with silence


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK], ids=["OFFER", "ACK", "NAK"])
def test_servers_messages_are_met_with_silence(client: Client, who: bytes, kind: int) -> None:
    assert client.ask(client.message(kind, who, {55: PRL}), wait=QUIET) == []


def test_a_boot_reply_is_met_with_silence(client: Client, who: bytes) -> None:
    assert client.ask(client.message(DISCOVER, who, {55: PRL}, op=2), wait=QUIET) == []


def test_bootp_is_met_with_silence(client: Client, who: bytes) -> None:
    assert client.ask(client.message(0, who), wait=QUIET) == []


def test_another_interface_stays_silent(net: Lan, who: bytes) -> None:
    assert net.other.ask(net.other.message(DISCOVER, who, {55: PRL}), wait=QUIET) == []
    assert net.other.ask(net.other.message(DISCOVER, who, UEFI, flags=0x8000), wait=QUIET) == []


# ---------------------------------------------------------------------- options


def test_rfc6842_the_client_identifier_is_echoed(client: Client, who: bytes) -> None:
    identifier = b"\xff\1\2\3\4\0\1" + who
    (offer,) = client.discover(who, {61: identifier, 55: bytes((1, 3))})
    assert offer.option(61) == identifier


def test_rfc3396_parts_of_an_option_are_joined(client: Client, who: bytes) -> None:
    question = client.message(DISCOVER, who, {55: PRL})
    client.drain()
    client.send(raw(question, b"\x35\1\1" + b"\x32\2\x0a\x4d" + b"\x37\2\1\3" + b"\x32\2\0\xc1" + b"\x37\1\6" + b"\xff"))
    (offer,) = client.answers(lambda answer: answer.message.xid == question.xid, 2.0)
    assert offer.message.yiaddr == "10.77.0.193" and offer.address(6) == ADDRESS


def test_rfc2131_4_1_options_in_file_and_sname_are_read(client: Client, who: bytes) -> None:
    question = client.message(DISCOVER, who)
    client.drain()
    datagram = raw(question, b"\x35\1\1" + b"\x34\1\3" + b"\xff")
    overloaded = datagram[:44] + b"\x37\2\1\3\xff".ljust(64, b"\0") + b"\x32\4\x0a\x4d\0\xc0\xff".ljust(128, b"\0") + datagram[236:]
    client.send(overloaded)
    (offer,) = client.answers(lambda answer: answer.message.xid == question.xid, 2.0)
    assert offer.message.yiaddr == "10.77.0.192" and offer.address(1) == "255.255.255.0"


def test_rfc2132_9_10_a_reply_fits_the_clients_maximum(client: Client, who: bytes) -> None:
    for limit in (576, 700):
        (offer,) = client.discover(who, {57: struct.pack("!H", limit), **UEFI})
        assert len(offer.payload) + 28 <= limit


@pytest.mark.parametrize("limit, most", [(None, 576), (65280, 1500)], ids=["not told", "told with its octets swapped"])
def test_rfc2132_9_10_a_maximum_that_is_not_told_or_absurd_is_none(
    client: Client, who: bytes, limit: int | None, most: int
) -> None:
    (offer,) = client.discover(who, UEFI | ({57: struct.pack("!H", limit)} if limit else {}))
    assert len(offer.payload) + 28 <= most


@ours
def test_rfc2132_9_3_options_in_file_and_sname_are_written_and_each_area_ends_in_255(client: Client) -> None:
    (offer,) = client.ask(client.message(DISCOVER, WORDY, {55: bytes((1, 3, 224, 225)), 57: struct.pack("!H", 576)}))
    assert len(offer.payload) + 28 <= 576
    assert (offer.option(224), offer.option(225)) == (b"x" * 200, b"y" * 90)
    used = offer.payload[offer.payload.index(b"\x34\1", 240) + 2]  # option 52: 1 file, 2 sname
    areas = {1: offer.payload[108:236], 2: offer.payload[44:108]}
    ends = [offer.payload[240:], *(area for bit, area in areas.items() if used & bit)]
    assert len(ends) > 1
    for area in ends:
        at = 0
        while area[at] != 255:
            at += 1 if area[at] == 0 else 2 + area[at + 1]
        assert not area[at + 1 :].strip(b"\0")


def test_rfc6842_a_nak_echoes_the_client_identifier_too(client: Client, who: bytes) -> None:
    identifier = b"\1" + who
    client.lease(who, {61: identifier})
    (nak,) = client.ask(client.message(REQUEST, who, {50: aton("10.1.2.3"), 61: identifier}))
    assert (nak.type, nak.option(61)) == (NAK, identifier)


def test_rfc4039_rapid_commit_is_not_given_unless_it_is_enabled(client: Client, who: bytes) -> None:
    (answer,) = client.discover(who, {80: b""})
    assert answer.type == OFFER and answer.option(80) is None


@ours
def test_rfc8925_3_3_the_option_to_do_without_ipv4_is_for_those_who_ask(client: Client, who: bytes) -> None:
    (asked,) = client.discover(who, {55: PRL + b"\x6c"})
    (silent,) = client.discover(stranger())
    assert (asked.option(108), silent.option(108)) == (struct.pack("!I", 600), None)


@ours
@pytest.mark.parametrize("swapped", [False, True], ids=["as it is written", "as SMBIOS has it"])
def test_a_machine_is_known_by_its_uuid_in_either_byte_order(client: Client, swapped: bool) -> None:
    plain = bytes.fromhex(UUID.replace("-", ""))
    if swapped:
        plain = plain[3::-1] + plain[5:3:-1] + plain[7:5:-1] + plain[8:]
    (offer,) = client.ask(client.message(DISCOVER, mac(0x31), {**UEFI, 97: b"\0" + plain}))
    assert offer.message.yiaddr == BLADE


@ours
def test_a_machine_known_by_its_uuid_keeps_its_address_when_its_system_tells_none(client: Client, who: bytes) -> None:
    client.lease(stranger()), client.lease(stranger())  # others of this kind are answered by a form
    rom = client.lease(who, UEFI | {97: b"\0" + bytes.fromhex(OTHER_UUID.replace("-", ""))})
    system = client.lease(who)
    assert rom.message.yiaddr == system.message.yiaddr == OTHER_BLADE
    (renewed,) = client.ask(client.message(REQUEST, who, ciaddr=OTHER_BLADE), source=OTHER_BLADE)
    assert renewed.type == ACK


@ours
def test_what_a_client_says_reaches_the_log_without_control_characters(net: Lan, client: Client, who: bytes) -> None:
    bad = "evil\nALARM - dhcp forged\x1b[2J\u202e".encode()
    client.discover(who, {12: bad, 60: b"PXEClient" + bad, 93: b"\0\7", 77: bad, 97: b"\0" + bad[:16]})
    client.discover(stranger())
    log = net.said(0)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", log)
    assert not [line for line in log.splitlines() if line.startswith("ALARM - dhcp forged")]


def test_an_option_that_overruns_the_packet_does_no_harm(client: Client, who: bytes) -> None:
    question = client.message(DISCOVER, who)
    client.drain()
    client.send(raw(question, b"\x35\1\1" + b"\x37\2\1\3" + b"\x0c\xf0web"))
    client.answers(lambda answer: answer.message.xid == question.xid, QUIET)
    assert client.discover(stranger())


def raw(message: Message, options: bytes) -> bytes:
    """The message's header with these very options."""
    return encode(message, 1472)[:240] + options


# ---------------------------------------------------------------------- one machine, one address


def test_rom_ipxe_installer_and_system_share_one_address(client: Client, who: bytes) -> None:
    stages = [PXE, {61: b"\1" + who, **IPXE}, {61: b"\xff\1\2\3\4\0\1\0\1" + who}, {61: b"\0installer"}]
    assert len({client.lease(who, stage).message.yiaddr for stage in stages}) == 1


# ---------------------------------------------------------------------- relays


def relayed(net: Lan, who: bytes, options: dict[int, bytes], giaddr: str = RELAYED_GATEWAY, **fields: object) -> list[Answer]:
    """A DISCOVER as a relay passes it on."""
    message = net.relay.message(DISCOVER, who, {55: PRL, **options}, giaddr=giaddr, hops=1, **fields)
    to = learn_server_mac(net)
    return net.relay.ask(message, source=RELAY, target=ADDRESS, to=to, source_port=67, wait=1.5)


def learn_server_mac(net: Lan) -> bytes:
    net.client.discover(mac(0x20))
    return net.client.server_mac


def test_rfc2131_4_1_a_relayed_message_is_answered_to_the_relays_port_67(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {})
    assert (offer.target, offer.target_port, offer.source, offer.source_port) == (RELAYED_GATEWAY, 67, ADDRESS, 67)
    assert offer.message.giaddr == RELAYED_GATEWAY and offer.message.yiaddr in RELAYED_POOL
    assert offer.address(3) == RELAYED_GATEWAY


@pytest.mark.parametrize("flags", [0, 0x8000], ids=["clear", "set"])
def test_rfc1542_4_the_clients_broadcast_flag_comes_back_unchanged(net: Lan, who: bytes, flags: int) -> None:
    (offer,) = relayed(net, who, {}, flags=flags)
    assert offer.message.flags == flags


def test_rfc3046_2_2_agent_information_is_echoed_as_the_last_option(net: Lan, who: bytes) -> None:
    agent = b"\1\4port\2\6switch"
    (offer,) = relayed(net, who, {82: agent})
    assert offer.option(82) == agent and list(offer.message.options)[-1] == 82


def test_rfc3527_the_link_selection_suboption_chooses_the_pool(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {82: b"\5\4" + aton("10.88.0.0")}, giaddr=RELAY)
    assert offer.message.yiaddr in RELAYED_POOL and offer.target == RELAY


def test_rfc3011_the_subnet_selection_option_chooses_the_pool(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {118: aton("10.88.0.0")}, giaddr=RELAY)
    assert offer.message.yiaddr in RELAYED_POOL


def test_rfc5107_the_server_identifier_override_is_used(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {82: b"\x0b\4" + aton(RELAYED_GATEWAY)})
    assert offer.address(54) == RELAYED_GATEWAY


@ours
def test_rfc3011_2_subnet_selection_that_was_not_heeded_does_not_come_back(net: Lan, who: bytes) -> None:
    (direct,) = net.client.discover(who, {118: aton("10.88.0.0")})
    assert direct.message.yiaddr in POOL and direct.option(118) is None


@ours
def test_rfc5107_an_override_to_no_address_is_none(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {82: b"\x0b\4" + bytes(4)})
    assert offer.address(54) == ADDRESS and offer.option(82) == b"\x0b\4" + bytes(4)


def test_rfc2131_4_3_1_a_relay_in_a_subnet_that_nobody_configured_is_met_with_silence(net: Lan, who: bytes) -> None:
    assert relayed(net, who, {}, giaddr="10.66.0.1") == []


def test_rfc3046_2_2_agent_information_comes_back_in_ack_and_nak_too(net: Lan, who: bytes) -> None:
    agent = b"\1\4port\2\6switch"
    (offer,) = relayed(net, who, {82: agent})
    to = learn_server_mac(net)
    for wanted, kind in ((offer.message.yiaddr, ACK), ("10.1.2.3", NAK)):
        server = {54: aton(ADDRESS)} if kind == ACK else {}
        message = net.relay.message(REQUEST, who, {50: aton(wanted), 55: PRL, 82: agent, **server}, giaddr=RELAYED_GATEWAY, hops=1)
        (answer,) = net.relay.ask(message, source=RELAY, target=ADDRESS, to=to, source_port=67, wait=1.5)
        assert (answer.type, answer.option(82), answer.target, answer.target_port) == (kind, agent, RELAYED_GATEWAY, 67)
    assert answer.message.flags == 0x8000  # RFC 2131 §4.3.2: the relay is to broadcast the NAK


def test_a_relay_without_agent_information_gets_none_back(net: Lan, who: bytes) -> None:
    (offer,) = relayed(net, who, {})
    assert offer.option(82) is None


def test_our_address_reached_by_another_interface_is_met_with_silence(net: Lan, who: bytes) -> None:
    """Sent to the card of eth1 and to the address of eth0: the kernel takes both for ours."""
    card = bytes.fromhex(net.server.run("cat", "/sys/class/net/eth1/address").stdout.strip().replace(":", ""))
    question = net.other.message(DISCOVER, who, {55: PRL})
    assert net.other.ask(question, source="10.99.0.2", target=ADDRESS, to=card, wait=QUIET) == []


def test_a_directly_attached_client_gets_no_agent_information_back(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who)
    assert offer.option(82) is None


# ---------------------------------------------------------------------- boot data in the lease


def test_a_bios_rom_gets_its_program_with_discovery_switched_off(client: Client, who: bytes) -> None:
    (offer,) = client.ask(client.message(DISCOVER, who, PXE, flags=0x8000))
    assert offer.message.file or offer.option(67)
    assert offer.message.siaddr == ADDRESS and offer.message.yiaddr in POOL
    if offer.option(60) is not None:  # 60 without 43.6 sends EDK2 and many ROMs to port 4011 (tianocore/edk2#8149)
        assert offer.option(60) == b"PXEClient" and offer.option(43) == b"\6\1\x08\xff"


def test_only_pxe_clients_get_option_60_back(client: Client, who: bytes) -> None:
    (offer,) = client.discover(who, {60: b"udhcp 1.35.0", 55: PRL + bytes((60, 43, 67))})
    assert offer.option(60) is None and offer.option(43) is None


@ours
def test_a_uefi_rom_gets_its_own_program(client: Client, who: bytes) -> None:
    (offer,) = client.ask(client.message(DISCOVER, who, UEFI, flags=0x8000))
    path = offer.option(67) or offer.message.file
    assert path.rstrip(b"\0").endswith(b"ipxe.efi") and who.hex("-").encode() in path


ARCHITECTURES: dict[str, tuple[dict[int, bytes], bytes]] = {
    "the first of several that is known": (UEFI | {93: b"\x7f\xff\0\7"}, b"/ipxe.efi"),
    "only option 60 tells": ({60: UEFI[60], 55: UEFI[55]}, b"/ipxe.efi"),
    "9 is x64": (UEFI | {93: b"\0\x09"}, b"/ipxe.efi"),
    "32 bits of UEFI": (UEFI | {93: b"\0\6"}, b"/ipxe-i386.efi"),
    "64 bits of ARM": (UEFI | {93: b"\0\x0b"}, b"/ipxe-arm64.efi"),
    "a BIOS": (UEFI | {93: b"\0\0"}, b"/undionly.kpxe"),
    "nobody's number": (UEFI | {93: b"\x7f\xff"}, b""),
    "nothing but ours lacks": (UEFI | {93: b"\0\2"}, b""),
}


@ours
@pytest.mark.parametrize("asked, program", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_rfc4578_2_1_each_architecture_gets_its_own_program(
    client: Client, who: bytes, asked: dict[int, bytes], program: bytes
) -> None:
    (offer,) = client.ask(client.message(DISCOVER, who, asked, flags=0x8000))
    assert (offer.option(67) or offer.message.file) == (who.hex("-").encode() + program if program else b"")


@ours
def test_an_apple_gets_a_lease_and_no_bsdp(client: Client, who: bytes) -> None:
    apple = {60: b"AAPLBSDPC/i386/MacBookAir6,2", 55: PRL, 43: b"\1\1\1"}
    (offer,) = client.discover(who, apple)
    assert offer.option(60) is None and offer.option(43) is None
    client.holds["10.77.0.61"] = who
    question = client.message(INFORM, who, apple, ciaddr="10.77.0.61")
    assert client.ask(question, source="10.77.0.61", wait=QUIET) == []


@ours
@pytest.mark.parametrize(
    "marks",
    [{77: b"iPXE"}, {77: b"\4iPXE"}, {175: b"\x13\1\1"}],
    ids=["user class raw", "user class by RFC 3004", "option 175 alone"],
)
def test_ipxe_gets_a_script_and_needs_not_wait_for_a_proxy(client: Client, who: bytes, marks: dict[int, bytes]) -> None:
    (offer,) = client.ask(client.message(DISCOVER, who, UEFI | marks))
    url = (offer.option(67) or offer.message.file).rstrip(b"\0").decode()
    assert url.startswith(f"http://{ADDRESS}:8080/")
    assert b"\xb0\1\1" in (offer.option(175) or b"")


@ours
def test_uefi_http_boot_gets_a_url(client: Client, who: bytes) -> None:
    (offer,) = client.ask(client.message(DISCOVER, who, HTTP, flags=0x8000))
    assert offer.option(60) == b"HTTPClient"
    assert (offer.option(67) or offer.message.file).startswith(f"http://{ADDRESS}:8080/".encode())


@ours
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM], ids=["DISCOVER", "REQUEST", "INFORM"])
def test_port_4011_answers_pxe_clients_in_server_mode_too(client: Client, who: bytes, kind: int) -> None:
    leased = client.lease(who).message.yiaddr
    client.discover(mac(0x20))
    question = client.message(kind, who, UEFI, ciaddr=leased)
    (ack,) = client.ask(question, source=leased, target=ADDRESS, to=client.server_mac, source_port=4011, target_port=4011)
    assert (ack.type, ack.source_port, ack.target_port, ack.target) == (ACK, 4011, 4011, leased)
    assert (ack.option(67) or ack.message.file).rstrip(b"\0").endswith(b"ipxe.efi")


# ---------------------------------------------------------------------- last, as they leave traces


def test_rubbish_does_not_stop_the_server(client: Client, who: bytes) -> None:
    dice = random.Random(2131)
    seed = client.message(DISCOVER, who, UEFI)
    good = encode(seed, 1472)
    for _ in range(400):
        octets = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            octets[dice.randrange(len(octets))] = dice.randrange(256)
        client.send(bytes(octets[: dice.randrange(len(octets))]))
    start = time.monotonic()
    assert client.discover(stranger()) and time.monotonic() - start < 1


def test_a_flood_of_discovers_starves_neither_bound_nor_reserved_clients(client: Client, who: bytes) -> None:
    leased = client.lease(who).message.yiaddr
    for number in range(400):
        client.send(client.message(DISCOVER, mac(0x800000 + number), {55: PRL}))
    time.sleep(0.3)
    (renewed,) = client.ask(client.message(REQUEST, who, {55: PRL}, ciaddr=leased), source=leased)
    assert (renewed.type, renewed.message.yiaddr) == (ACK, leased)
    assert client.lease(RESERVED_MAC).message.yiaddr == RESERVED_ADDRESS
