"""TFTP's codec: packets to the letter, and nothing but WireError whatever comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.errors import WireError
from pixieboot.wire.tftp import (
    Ack,
    Data,
    Error,
    OptionAck,
    Packet,
    ReadRequest,
    WriteRequest,
    acknowledgement,
    decode,
    encode,
)

PACKETS: dict[str, tuple[bytes, Packet]] = {
    "RRQ without options": (b"\0\x01pxelinux.0\0octet\0", ReadRequest("pxelinux.0", "octet")),
    "EDK2's probe": (
        b"\0\x01ipxe.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
        ReadRequest("ipxe.efi", "octet", {"tsize": "0", "blksize": "1468", "windowsize": "4"}),
    ),
    "WRQ": (b"\0\x02x\0netascii\0", WriteRequest("x", "netascii")),
    "DATA": (b"\0\x03\x12\x34abc", Data(0x1234, b"abc")),
    "DATA without payload": (b"\0\x03\xff\xff", Data(65535, b"")),
    "ACK": (b"\0\x04\0\x07", Ack(7)),
    "ERROR": (b"\0\x05\0\x08User aborted the transfer\0", Error(8, "User aborted the transfer")),
    "OACK": (b"\0\x06blksize\x001468\0", OptionAck({"blksize": "1468"})),
}
TOLERATED: dict[str, tuple[bytes, Packet]] = {
    "mode and option names in any case": (b"\0\x01A\0OcTeT\0BLKSIZE\x00512\0", ReadRequest("A", "octet", {"blksize": "512"})),
    "an option's value keeps its case": (b"\0\x01A\0octet\0x\0Yz\0", ReadRequest("A", "octet", {"x": "Yz"})),
    "an option twice: the first counts": (b"\0\x01a\0octet\0tsize\x000\0TSIZE\x009\0", ReadRequest("a", "octet", {"tsize": "0"})),
    "an option without a value": (b"\0\x01a\0octet\0tsize\0", ReadRequest("a", "octet")),
    "an option that is not closed": (b"\0\x01a\0octet\0tsize\x000", ReadRequest("a", "octet")),
    "padding after the request": (b"\0\x01a\0octet\0\0\0\0\0", ReadRequest("a", "octet")),
    "padding after an ACK": (b"\0\x04\0\x01" + bytes(42), Ack(1)),
    "an error without its NUL": (b"\0\x05\0\0x", Error(0, "x")),
    "an error without words": (b"\0\x05\0\x01", Error(1, "")),
    "a name that is not UTF-8 stays the same octets": (b"\0\x01\xc0\xaf\0octet\0", ReadRequest("\udcc0\udcaf", "octet")),
}
MALFORMED = {
    "empty": b"",
    "one octet": b"\0",
    "two octets (they killed tftpy)": b"\0\x01",
    "three octets": b"\0\x04\0",
    "opcode 0": b"\0\0\0\0",
    "opcode 7": b"\0\x07\0\0",
    "opcode in the wrong byte order": b"\x01\0a\0octet\0",
    "RRQ without a NUL": b"\0\x01pxelinux.0",
    "RRQ without a mode": b"\0\x01pxelinux.0\0",
    "RRQ whose mode is not closed": b"\0\x01pxelinux.0\0octet",
    "RRQ without a file name": b"\0\x01\0octet\0",
}


@pytest.mark.parametrize("datagram, packet", PACKETS.values(), ids=PACKETS)
def test_both_ways(datagram: bytes, packet: Packet) -> None:
    assert decode(datagram) == packet
    assert encode(packet) == datagram


@pytest.mark.parametrize("datagram, packet", TOLERATED.values(), ids=TOLERATED)
def test_what_clients_send_is_understood(datagram: bytes, packet: Packet) -> None:
    assert decode(datagram) == packet


@pytest.mark.parametrize("datagram", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_packet_is_a_wire_error(datagram: bytes) -> None:
    with pytest.raises(WireError):
        decode(datagram)


def test_an_acknowledgement_counts_without_end() -> None:
    assert acknowledgement(65536 + 5) == encode(Ack(5))


def test_an_error_text_is_short_and_one_string() -> None:
    error = decode(encode(Error(0, "a\0b" + "x" * 1000)))
    assert isinstance(error, Error)
    assert error.message.startswith("a bxxx") and len(error.message) == 200


def test_a_string_cannot_hold_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode(ReadRequest("a\0b", "octet"))


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
OPTIONS = st.dictionaries(WORDS.map(str.lower).filter(lambda word: word == word.lower()), WORDS, max_size=4)
MODES = st.sampled_from(["octet", "netascii", "mail"])
ANY_PACKET = st.one_of(
    st.builds(ReadRequest, WORDS, MODES, OPTIONS),
    st.builds(WriteRequest, WORDS, MODES, OPTIONS),
    st.builds(Data, st.integers(0, 65535), st.binary(max_size=600)),
    st.builds(Ack, st.integers(0, 65535)),
    st.builds(Error, st.integers(0, 65535), WORDS),
    st.builds(OptionAck, OPTIONS.filter(bool)),
)


@given(ANY_PACKET)
def test_decode_gives_back_what_was_encoded(packet: Packet) -> None:
    assert decode(encode(packet)) == packet


@given(st.binary(max_size=700) | st.binary(max_size=600).map(lambda rest: b"\0\x01" + rest))
def test_any_octets_are_a_packet_or_a_wire_error(datagram: bytes) -> None:
    try:
        packet = decode(datagram)
    except WireError:
        return
    if not isinstance(packet, Error) and packet != OptionAck({}):  # a text is cut; an OACK of nothing cannot be said
        assert decode(encode(packet)) == packet
