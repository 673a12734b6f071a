"""Ethernet frames with one IPv4 UDP datagram in them (RFC 894, 791, 768): for clients that cannot be reached through the kernel."""

from struct import Struct

from pixieboot.wire.dhcp import packed

ETH_IP = 0x0800
BROADCAST_MAC = b"\xff" * 6
TO, TARGET = slice(0, 6), slice(30, 34)  # MAC and address of the receiver
IP_SUM, UDP_SUM = slice(24, 26), slice(40, 42)
PAYLOAD = 42  # octets in front of it
_XID = slice(46, 50)  # of the DHCP message in it
_HEADERS = Struct("!6s6sHHHHHBBH4s4sHHHH")
_IP, _ADDRESSES, _PORTS = 14, 26, 34  # where they begin
_VERSION, _WHOLE, _HOPS, _UDP = 0x4500, 0x4000, 64, 17  # IPv4 without options; don't fragment


def total_of(octets: bytes) -> int:
    """A number that is modulo 65535 what RFC 1071 adds up: the 16-bit words of the octets, in ones' complement.

    Thus C divides the whole at once.
    """
    return int.from_bytes(octets + b"\0" if len(octets) % 2 else octets, "big")


def totals_of(bare: bytes) -> tuple[int, int]:
    """The totals of IP's header, and of UDP and its pseudo-header.  bare: the frame with zeros in place of its checksums."""
    return total_of(bare[_IP:_PORTS]) % 0xFFFF, (total_of(bare[_ADDRESSES:]) + _UDP + len(bare) - _PORTS) % 0xFFFF


def checksum(total: int) -> bytes:
    """The checksum over what has that total (RFC 1071), two octets.  A sum of 0 becomes 0xFFFF, as UDP wants it and IP allows."""
    return (0xFFFF - total % 0xFFFF).to_bytes(2, "big")


def udp_frame(to: bytes, own: bytes, source: str, source_port: int, target: str, target_port: int, payload: bytes) -> bytes:
    """The frame around a payload; `to` and `own` are MACs of six octets."""
    length, between = 8 + len(payload), (packed(source), packed(target))
    ip = (_VERSION, 20 + length, 0, _WHOLE, _HOPS, _UDP, 0, *between)
    frame = bytearray(_HEADERS.pack(to, own, ETH_IP, *ip, source_port, target_port, length, 0) + payload)
    frame[IP_SUM], frame[UDP_SUM] = map(checksum, totals_of(bytes(frame)))
    return bytes(frame)


class Repeatable:
    """A DHCP answer in its frame, ready for other transaction numbers: the checksum is adjusted, not added up anew (RFC 1624)."""

    __slots__ = ("_image", "_total")

    def __init__(self, frame: bytes) -> None:
        parts = frame[: UDP_SUM.start], frame[UDP_SUM.stop : _XID.start], frame[_XID.stop :]
        self._image = b"%b".join(part.replace(b"%", b"%%") for part in parts)
        self._total = total_of(frame[_XID]) + total_of(frame[UDP_SUM])

    def to(self, xid: bytes) -> bytes:
        """The frame for the transaction with that number of four octets."""
        return self._image % (checksum(int.from_bytes(xid, "big") - self._total), xid)
