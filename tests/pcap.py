"""Captures of real boots: a reader for pcap files, and DHCP messages as text that a person can judge."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pixieboot.wire import dhcp as wire
from pixieboot.wire.dhcp import Message, dotted
from pixieboot.wire.options import name_of

CAPTURES = Path(__file__).parent / "captures"
NAMES = sorted(path.name for path in CAPTURES.glob("*.pcap"))
TYPES = ["BOOTP", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"]


@dataclass(frozen=True)
class Datagram:
    """One UDP datagram of a capture."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


@cache
def datagrams(name: str) -> list[Datagram]:
    """Every whole UDP datagram of a capture (Ethernet, little-endian pcap, as tcpdump writes it)."""
    return list(_read((CAPTURES / name).read_bytes()))


def _read(capture: bytes) -> Iterator[Datagram]:
    magic, link = struct.unpack_from("<I", capture)[0], struct.unpack_from("<I", capture, 20)[0]
    assert (magic, link) == (0xA1B2C3D4, 1), "not a little-endian pcap of Ethernet frames"
    at = 24
    while at < len(capture):
        stored, length = struct.unpack_from("<II", capture, at + 8)
        frame = capture[at + 16 : at + 16 + stored]
        at += 16 + stored
        if stored < length or frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        udp = 14 + (frame[14] & 15) * 4
        source, destination, size = struct.unpack_from("!HHH", frame, udp)
        payload = frame[udp + 8 : udp + size]
        yield Datagram((dotted(frame[26:30]), source), (dotted(frame[30:34]), destination), payload)


def dhcp(name: str) -> list[Datagram]:
    """The DHCP and PXE messages of a capture, both ways."""
    return [d for d in datagrams(name) if {d.source[1], d.destination[1]} <= {67, 68, 4011}]


def questions(name: str) -> list[Datagram]:
    """Those that clients sent."""
    return [d for d in dhcp(name) if d.payload[0] == wire.REQUEST]


@cache
def all_dhcp() -> list[bytes]:
    """The payload of every DHCP message in every capture, each once."""
    return list(dict.fromkeys(d.payload for name in NAMES for d in dhcp(name)))


def show(message: Message) -> str:
    """A message as lines of text: fields that are set, then options in the order they stand in."""
    fields = [f"xid={message.xid:08x}", f"secs={message.secs}", f"flags={message.flags:04x}", f"chaddr={message.chaddr.hex(':')}"]
    for name in ("ciaddr", "yiaddr", "siaddr", "giaddr"):
        if (address := getattr(message, name)) != "0.0.0.0":
            fields.append(f"{name}={address}")
    for name in ("sname", "file"):
        if text := getattr(message, name):
            fields.append(f"{name}={text.decode()}")
    lines = [f"{TYPES[message.type]} {' '.join(fields)}"]
    lines += [f"  {code:3} {name_of(code):28} {_value(value)}" for code, value in message.options.items()]
    return "\n".join(lines)


def _value(value: bytes) -> str:
    text = value.hex(" ")
    readable = value.decode("ascii", "replace")
    return f"{text}  {readable!r}" if len(value) > 4 and all(" " <= character <= "~" for character in readable) else text
