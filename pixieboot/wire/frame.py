"""Ethernet frames with one IPv4 UDP datagram in them (RFC 894, 791, 768): for clients that cannot be reached through the kernel."""

from functools import lru_cache
from struct import Struct

from pixieboot.wire.dhcp import packed

ETH_IP = 0x0800
BROADCAST_MAC = b"\xff" * 6
BROADCAST = b"\xff" * 4
_HEADERS = Struct("!6s18sH4s4s6sH")  # to, up to the sum of IP, that, source, target, up to the sum of UDP, that
_FROM = Struct("!6sHHHIH")  # our MAC and the type; version and length; identification and fragments; time to live and protocol
_PORTS = Struct("!HHH")
_VERSION, _WHOLE, _UDP = 0x4500, 0x4000, 0x4011  # with the length, don't fragment, with a time to live of 64


def total_of(octets: bytes) -> int:
    """A number that is modulo 65535 what RFC 1071 adds up: the 16-bit words of the octets, in ones' complement.

    Thus C divides the whole at once.  A sum of 0 becomes 0xFFFF in a checksum, as UDP wants it and IP allows.
    """
    return int.from_bytes(octets + b"\0" if len(octets) % 2 else octets, "big")


class Envelope:
    """What stands around every payload of one length that goes from one of our cards to one port."""

    __slots__ = ("_before", "_behind", "_ip", "_source", "_udp")

    def __init__(self, own: bytes, source: str, source_port: int, target_port: int, size: int) -> None:
        """own: our MAC, six octets.  size: octets of the payload."""
        length = 8 + size
        self._source = packed(source)
        self._before = _FROM.pack(own, ETH_IP, _VERSION, 20 + length, _WHOLE, _UDP)
        self._behind = _PORTS.pack(source_port, target_port, length)
        number = int.from_bytes(self._source, "big")
        self._ip = _VERSION + 20 + length + _WHOLE + _UDP + number
        self._udp = 17 + 2 * length + source_port + target_port + number

    def around(self, payload: bytes, total: int, to: bytes = BROADCAST_MAC, target: bytes = BROADCAST) -> bytes:
        """The frame to a MAC of six octets and an address of four, both checksums filled in.  total: the payload's."""
        number = int.from_bytes(target, "big")
        ip = 0xFFFF - (self._ip + number) % 0xFFFF
        udp = 0xFFFF - (self._udp + number + total) % 0xFFFF
        return _HEADERS.pack(to, self._before, ip, self._source, target, self._behind, udp) + payload


envelope = lru_cache(256)(Envelope)


def udp_frame(to: bytes, own: bytes, source: str, source_port: int, target: str, target_port: int, payload: bytes) -> bytes:
    """The frame around a payload; `to` and `own` are MACs of six octets."""
    return envelope(own, source, source_port, target_port, len(payload)).around(payload, total_of(payload), to, packed(target))


class Repeatable:
    """A DHCP answer in its frame, ready for other transaction numbers: the checksum is adjusted, not added up anew (RFC 1624)."""

    __slots__ = ("_image", "_total")

    def __init__(self, frame: bytes) -> None:
        before, between, behind = (part.replace(b"%", b"%%") for part in (frame[:40], frame[42:46], frame[50:]))
        self._image = b"%b%%b%b%%b%b" % (before, between, behind)
        self._total = int.from_bytes(frame[46:50], "big") + int.from_bytes(frame[40:42], "big")

    def to(self, xid: bytes) -> bytes:
        """The frame for the transaction with that number of four octets."""
        udp = 0xFFFF - (int.from_bytes(xid, "big") - self._total) % 0xFFFF
        return self._image % (udp.to_bytes(2, "big"), xid)
