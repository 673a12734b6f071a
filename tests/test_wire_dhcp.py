"""The DHCP codec: each rule by its RFC, captures of real clients, scapy as an independent judge, and noise."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from pixieboot.errors import WireError
from pixieboot.wire import dhcp as wire
from pixieboot.wire.dhcp import CAP, FLOOR, Message, decode, dotted, encode, packed, parts, payload_limit, reply_to
from tests import pcap

COOKIE = b"\x63\x82\x53\x63"
MAC = bytes.fromhex("525400123456")
ZERO = "0.0.0.0"


def a_message(options: dict[int, bytes] | None = None, **fields: Any) -> Message:
    known = {53: b"\1"} if options is None else options
    message = Message(1, 1, 6, 0, 0x01020304, 4, 0x8000, ZERO, ZERO, ZERO, ZERO, MAC, b"", b"", known)
    return replace(message, **fields)


def on_the_wire(options: bytes, sname: bytes = b"", file: bytes = b"") -> bytes:
    """A datagram with these raw areas."""
    header = struct.pack("!4BIHH16x16s64s128s", 1, 1, 6, 0, 7, 0, 0, MAC, sname, file)
    return header + COOKIE + options


def codes(datagram: bytes) -> list[int]:
    """The option codes in the order in which they stand in the options field."""
    return [code for code, _ in parts(datagram[240:])]


# Reading


@pytest.mark.parametrize("name", pcap.NAMES)
def test_captures_survive_a_round_trip(name: str) -> None:
    for datagram in pcap.dhcp(name):
        message = decode(datagram.payload)
        assert decode(encode(message)) == message


def test_a_capture_reads_as_it_was_sent() -> None:
    message = decode(pcap.questions("uefi-pxe-proxy.pcap")[0].payload)
    assert (message.op, message.htype, message.hlen, message.flags, message.type) == (1, 1, 6, 0x8000, wire.DISCOVER)
    assert message.chaddr == bytes.fromhex("525400b00701")
    assert message.options[60] == b"PXEClient:Arch:00007:UNDI:003000"
    assert (message.sname, message.file, message.ciaddr) == (b"", b"", "0.0.0.0")


def test_too_short_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="239 bytes, the shortest is 240"):
        decode(on_the_wire(b"")[:239])


def test_no_cookie_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="magic cookie 00000000, want 63825363"):
        decode(on_the_wire(b"\xff").replace(COOKIE, bytes(4)))


def test_hlen_above_16_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="hardware address of 17 bytes"):
        decode(b"\1\1\x11" + on_the_wire(b"\xff")[3:])


def test_no_options_at_all() -> None:
    assert decode(on_the_wire(b"")).options == {}
    assert decode(on_the_wire(b"\xff")).options == {}


def test_pads_between_options_are_skipped() -> None:
    assert decode(on_the_wire(b"\0\0\x35\1\1\0\0\x0c\1x\0\xff\0\0")).options == {53: b"\1", 12: b"x"}


@pytest.mark.parametrize("options", [b"\x35\1\1\x0c\5abc", b"\x35\1\1\x0c", b"\x35\1\1\x0c\xff", b"\x35\1\1"], ids=repr)
def test_an_overrun_drops_the_rest(options: bytes) -> None:
    assert decode(on_the_wire(options)).options == {53: b"\1"}


def test_rfc3396_parts_are_joined_before_they_are_read() -> None:
    assert decode(on_the_wire(b"\x35\1\1\x43\3abc\x0c\1h\x43\2de\xff")).options == {53: b"\1", 67: b"abcde", 12: b"h"}


def test_rfc2131_overload_in_options_then_file_then_sname() -> None:
    file, sname = b"\x43\3abc\xff", b"\x43\2de\x0c\1h\xff"
    message = decode(on_the_wire(b"\x43\1>\x34\1\3\x35\1\1\xff", sname, file))
    assert message.options == {67: b">abcde", 53: b"\1", 12: b"h"}
    assert (message.sname, message.file) == (b"", b"")


@pytest.mark.parametrize(("which", "sname", "file"), [(1, b"srv", b""), (2, b"", b"nbp")])
def test_rfc2131_overload_of_one_field_leaves_the_other(which: int, sname: bytes, file: bytes) -> None:
    option = b"\x0c\1h\xff"
    message = decode(on_the_wire(bytes((0x34, 1, which, 255)), sname or option, file or option))
    assert (message.sname, message.file, message.options) == (sname, file, {12: b"h"})


def test_rfc2131_overload_within_a_field_means_nothing() -> None:
    assert decode(on_the_wire(b"\x34\1\1\xff", b"\x0c\1x\xff", b"\x34\1\3\xff")).options == {}


@pytest.mark.parametrize("value", [b"\x34\1\4", b"\x34\0", b"\x34\2\1\1"], ids=repr)
def test_an_overload_that_says_nothing_known(value: bytes) -> None:
    assert decode(on_the_wire(value + b"\xff", b"srv", b"nbp")).file == b"nbp"


def test_names_end_at_their_first_nul() -> None:
    message = decode(on_the_wire(b"\xff", b"srv\0junk", b"nbp\0junk"))
    assert (message.sname, message.file) == (b"srv", b"nbp")


def test_a_type_of_two_octets_is_none() -> None:
    assert a_message({53: b"\1\1"}).type == 0
    assert a_message({}).type == 0


def test_an_address_of_three_octets_is_none() -> None:
    assert a_message({54: b"\1\2\3"}).address(54) == ""
    assert a_message({54: b"\1\2\3\4"}).address(54) == "1.2.3.4"


def test_addresses_both_ways() -> None:
    assert packed(dotted(b"\xc0\xa8\x4d\x0a")) == b"\xc0\xa8\x4d\x0a"


def test_parts_of_an_area_with_pads_and_an_end() -> None:
    assert parts(b"\0\6\1\x08\0\xff\7\1\1") == [(6, b"\x08")]


# Writing


def test_rfc2131_padded_to_300_octets_behind_the_end_only() -> None:
    datagram = encode(a_message())
    assert len(datagram) == 300
    assert datagram[240:244] == b"\x35\1\1\xff"
    assert not any(datagram[244:])


def test_type_server_and_lease_time_come_first() -> None:
    assert codes(encode(a_message({12: b"h", 51: b"\0\0\0\1", 3: b"abcd", 54: b"abcd", 53: b"\2"}))) == [53, 54, 51, 12, 3]


def test_rfc2132_3_3_subnet_mask_before_routers() -> None:
    assert codes(encode(a_message({53: b"\2", 3: b"abcd", 12: b"h", 1: b"abcd"}))) == [53, 1, 3, 12]
    assert codes(encode(a_message({53: b"\2", 1: b"abcd", 12: b"h", 3: b"abcd"}))) == [53, 1, 12, 3]


def test_rfc3046_agent_information_last() -> None:
    assert codes(encode(a_message({82: b"\1\1x", 53: b"\2", 12: b"h"}))) == [53, 12, 82]


def test_rfc3396_long_options_are_split() -> None:
    datagram = encode(a_message({53: b"\1", 224: bytes(300)}))
    assert [(code, len(value)) for code, value in parts(datagram[240:])] == [(53, 1), (224, 255), (224, 45)]
    assert decode(datagram).options[224] == bytes(300)


def test_an_empty_option_is_written_and_read() -> None:
    assert decode(encode(a_message({53: b"\1", 80: b""}))).options == {53: b"\1", 80: b""}


@pytest.mark.parametrize(
    ("value", "limit"),
    [(None, 548), (b"\x05\xc0", 1444), (b"\x04\xec", 1232), (b"\x02\x40", 548), (b"\0\x64", 548), (b"\xff\0", CAP), (b"\5", 548)],
    ids=["absent", "1472", "1260", "576", "100", "65280", "malformed"],
)
def test_rfc2132_9_10_option_57(value: bytes | None, limit: int) -> None:
    assert payload_limit(a_message({} if value is None else {57: value})) == limit


def test_a_long_reply_is_overloaded_into_free_fields() -> None:
    options = {53: b"\2", 54: b"abcd", 51: b"abcd", 82: b"\1\1x", 43: bytes(200), 224: bytes(60), 225: bytes(100), 226: b"end"}
    datagram = encode(a_message(options), FLOOR)
    assert len(datagram) <= FLOOR
    assert dict(parts(datagram[240:]))[52] == b"\1"
    assert codes(datagram)[-1] == 82
    assert decode(datagram).options == options


def test_both_fields_are_overloaded_if_need_be() -> None:
    options = {53: b"\2", 43: bytes(200), 224: bytes(80), 225: bytes(100), 226: bytes(50)}
    datagram = encode(a_message(options), FLOOR)
    assert dict(parts(datagram[240:]))[52] == b"\3"
    assert decode(datagram).options == options
    assert datagram[240 - 4 - 128 : 240 - 4].rstrip(b"\0")[-1] == 255
    assert datagram[44 : 44 + 64].rstrip(b"\0")[-1] == 255


def test_sname_alone_is_overloaded_when_the_file_is_taken() -> None:
    options = {53: b"\2", 43: bytes(200), 224: bytes(80), 226: bytes(50)}
    message = decode(encode(a_message(options, file=b"nbp"), FLOOR))
    assert (message.file, message.sname, message.options) == (b"nbp", b"", options)


def test_what_still_does_not_fit_loses_the_least_needed_first() -> None:
    options = {53: b"\2", 54: b"abcd", 43: bytes(150), 224: bytes(100), 225: bytes(100), 60: b"PXEClient", 82: b"\1\1x"}
    message = decode(encode(a_message(options, file=b"nbp", sname=b"srv"), FLOOR))
    assert (message.file, message.sname) == (b"nbp", b"srv")
    assert message.options == {code: value for code, value in options.items() if code != 225}


def test_needed_options_go_last_of_all() -> None:
    options = {53: b"\2", 54: b"abcd", 43: bytes(250), 67: bytes(250), 224: b"x"}
    message = decode(encode(a_message(options, file=b"nbp", sname=b"srv"), FLOOR))
    assert message.options == {53: b"\2", 54: b"abcd", 43: bytes(250)}


def test_rfc3046_an_answer_rather_than_agent_information() -> None:
    message = decode(encode(a_message({53: b"\2", 82: bytes(600)}, file=b"nbp", sname=b"srv"), FLOOR))
    assert message.options == {53: b"\2"}


def test_rfc2131_table_3_a_reply_mirrors_its_request() -> None:
    request = a_message(hops=3, secs=9, giaddr="10.0.0.9", ciaddr="10.0.0.5", siaddr="10.0.0.7")
    reply = reply_to(request)
    assert (reply.op, reply.htype, reply.hlen, reply.xid, reply.flags, reply.giaddr, reply.chaddr) == (
        2,
        1,
        6,
        request.xid,
        0x8000,
        "10.0.0.9",
        MAC,
    )
    assert (reply.hops, reply.secs, reply.ciaddr, reply.yiaddr, reply.siaddr) == (0, 0, *["0.0.0.0"] * 3)


# Both ways

addresses = st.binary(min_size=4, max_size=4).map(dotted)
names = st.binary(max_size=63).filter(lambda name: b"\0" not in name)
option_maps = st.dictionaries(st.integers(1, 254).filter(lambda code: code != 52), st.binary(max_size=300), max_size=12)


octet, word = st.integers(0, 255), st.integers(0, 65535)
messages = st.builds(
    lambda op, htype, hops, xid, secs, flags, yiaddr, giaddr, chaddr, sname, file, options: Message(
        op, htype, len(chaddr), hops, xid, secs, flags, giaddr, yiaddr, yiaddr, giaddr, chaddr, sname, file, options
    ),
    octet,
    octet,
    octet,
    st.integers(0, 2**32 - 1),
    word,
    word,
    addresses,
    addresses,
    st.binary(max_size=16),
    names,
    names,
    option_maps,
)


@settings(deadline=None)
@given(messages)
def test_decode_undoes_encode(message: Message) -> None:
    assert decode(encode(message, 1 << 16)) == message


@settings(deadline=None)
@given(messages, st.integers(FLOOR, CAP))
def test_a_limit_is_kept_and_nothing_is_invented(message: Message, limit: int) -> None:
    for code in (53, 54, 51):
        message.options[code] = message.options.get(code, b"")[:4]
    datagram = encode(message, limit)
    found = decode(datagram)
    assert 300 <= len(datagram) <= limit
    assert found.options.items() <= message.options.items()
    assert {53, 54, 51} <= set(found.options)


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_any_bytes_are_a_message_or_a_wire_error(noise: bytes) -> None:
    for datagram in (noise, on_the_wire(noise), on_the_wire(b"\x34\1\3\xff", noise[:64], noise[64:192])):
        try:
            message = decode(datagram)
        except WireError:
            continue
        assert decode(encode(message, 1 << 16)).options == message.options


# Judged by scapy, which shares no line with us.  Its named values drop what it does not like: give and compare raw ones.


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(224, 254), st.binary(min_size=1, max_size=255), max_size=6))
def test_scapy_reads_what_we_write(options: dict[int, bytes]) -> None:
    datagram = encode(
        a_message({53: b"\1", 93: b"\0\7", **options}, siaddr="10.0.0.1", file=b"ipxe.efi", sname=b"10.0.0.1"), 1 << 16
    )
    packet = BOOTP(datagram)
    assert (packet.siaddr, packet.file.rstrip(b"\0"), packet.sname.rstrip(b"\0"), packet.xid) == (
        "10.0.0.1",
        b"ipxe.efi",
        b"10.0.0.1",
        0x01020304,
    )
    assert bytes(packet.chaddr[:6]) == MAC
    raw = [one for one in packet[DHCP].options if isinstance(one, tuple)]
    assert raw[0] == ("message-type", 1)
    assert [value for code, *value in raw[2:]] == [[value] for value in options.values()]


def test_we_read_what_scapy_writes() -> None:
    options = [("message-type", "discover"), (97, b"\0" + bytes(range(16))), (93, b"\0\7"), (60, b"PXEClient"), "end"]
    packet = BOOTP(op=1, xid=7, flags=0x8000, chaddr=MAC, giaddr="10.0.0.9") / DHCP(options=options)
    message = decode(bytes(packet))
    assert (message.xid, message.flags, message.chaddr, message.giaddr) == (7, 0x8000, MAC, "10.0.0.9")
    assert message.options == {53: b"\1", 97: b"\0" + bytes(range(16)), 93: b"\0\7", 60: b"PXEClient"}


# Noise with a seed: captures, bent

SEED = 20261121


LIES = [bytes((code, length)) for code in (0, 43, 52, 53, 60, 82, 97, 255) for length in (0, 1, 4, 255)]


def mutate(chance: Callable[[], float], datagram: bytes) -> bytes:
    """One to four changes, mostly among the options: octets, bits, cuts, repeats, lengths that lie."""
    bent = bytearray(datagram)
    for _ in range(1 + int(chance() * 4)):
        where = chance()
        at = int(where * 5 * 240) if where < 0.2 else 240 + int(chance() * (len(bent) - 240))
        kind = int(chance() * 5)
        if kind == 0:
            bent[at : at + 1] = bytes((int(chance() * 256),))
        elif kind == 1:
            del bent[at : at + 1 + int(chance() * 8)]
        elif kind == 2:
            bent[at:at] = bent[at : at + 1 + int(chance() * 40)]
        elif kind == 3:
            bent[at : at + 1] = bytes(octet ^ 1 << int(chance() * 8) for octet in bent[at : at + 1])
        else:
            bent[at:at] = LIES[int(chance() * len(LIES))]
    return bytes(bent)


def fuzz(rounds: int) -> int:
    """How many of so many bent captures were read as messages.  Raises whatever decode raises beside WireError."""
    chance, originals, read = random.Random(SEED).random, pcap.all_dhcp(), 0
    for number in range(rounds):
        try:
            decode(mutate(chance, originals[number % len(originals)]))
        except WireError:
            continue
        read += 1
    return read


def test_bent_captures_raise_wire_errors_only() -> None:
    assert fuzz(5_000) > 1_000


@pytest.mark.slow
def test_a_million_bent_captures_raise_wire_errors_only() -> None:
    assert fuzz(1_000_000) > 200_000
