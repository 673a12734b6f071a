"""DHCPv4 bytes <-> Message (RFC 2131 §2, options RFC 2132, long options RFC 3396).  No rules of who answers what: dhcp.py.

Reading: options, then an overloaded file field, then an overloaded sname (RFC 3396 §5); parts of one option are joined
before anybody interprets them; what overruns its area is dropped, and so is everything after it.
Writing: 53, 54, 51 first, the subnet mask before the routers (RFC 2132 §3.3), agent information last (RFC 3046 §2.1), all
others as they stand in `options`; padding only behind the end option, because some Raspberry Pi choke on any other.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct

from pixieboot.errors import WireError

REQUEST, REPLY = 1, 2  # op
DISCOVER, OFFER, DHCPREQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)  # option 53
BROADCAST_FLAG = 0x8000

(PAD, SUBNET_MASK, ROUTERS, DNS, HOST_NAME, DOMAIN_NAME) = (0, 1, 3, 6, 12, 15)
(BROADCAST_ADDRESS, VENDOR, REQUESTED_ADDRESS, LEASE_TIME, OVERLOAD) = (28, 43, 50, 51, 52)
(MESSAGE_TYPE, SERVER_ID, PARAMETER_LIST, ERROR_TEXT, MAX_SIZE) = (53, 54, 55, 56, 57)
(T1, T2, VENDOR_CLASS, CLIENT_ID, TFTP_SERVER, BOOT_FILE, USER_CLASS) = (58, 59, 60, 61, 66, 67, 77)
(AGENT, CLIENT_ARCH, CLIENT_UUID, IPV6_ONLY, SUBNET_SELECTION, IPXE, END) = (82, 93, 97, 108, 118, 175, 255)

SMALLEST = 300  # relays and ROMs drop shorter BOOTP messages (RFC 1542 §2.1)
FLOOR, CAP = 576 - 28, 1500 - 28  # UDP payloads: what every host takes (RFC 2131 §2), what fits an Ethernet frame
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = Struct("!4BIHH4s4s4s4s16s64s128s4s")
_START = _HEADER.size
_ZERO = b"\0\0\0\0"
_SECOND = Struct("!BB")
_FIRST = (MESSAGE_TYPE, SERVER_ID, LEASE_TIME)
_PLACED = frozenset((*_FIRST, AGENT, OVERLOAD, PAD, END))  # the encoder sees to these
# What a client cannot do without; everything else goes first when a reply is too long for it.
_ESSENTIAL = frozenset((*_FIRST, SUBNET_MASK, ROUTERS, VENDOR, VENDOR_CLASS, CLIENT_ID, BOOT_FILE, AGENT, CLIENT_UUID, IPXE))


@dataclass(slots=True)
class Message:
    """One DHCP message.  Addresses are dotted; chaddr is hlen long; sname and file end before their first NUL.

    options holds each option once, parts joined, without 0, 52 and 255.
    """

    op: int
    htype: int
    hlen: int
    hops: int
    xid: int
    secs: int
    flags: int
    ciaddr: str
    yiaddr: str
    siaddr: str
    giaddr: str
    chaddr: bytes
    sname: bytes = b""
    file: bytes = b""
    options: dict[int, bytes] = field(default_factory=dict)

    @property
    def type(self) -> int:
        """Option 53; 0 for BOOTP, and for a value that is not one octet."""
        value = self.options.get(MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    def address(self, code: int) -> str:
        """An option that holds one address, dotted; "" if it is absent or not four octets."""
        value = self.options.get(code, b"")
        return dotted(value) if len(value) == 4 else ""


@lru_cache(8192)
def dotted(octets: bytes) -> str:
    """Four octets as "192.168.77.10"."""
    first, second, third, fourth = octets
    return f"{first}.{second}.{third}.{fourth}"


@lru_cache(8192)
def packed(address: str) -> bytes:
    """The reverse of dotted."""
    return bytes(map(int, address.split(".")))


def decode(datagram: bytes) -> Message:
    """Parse one datagram of port 67, 68 or 4011.  Raises WireError and nothing else."""
    if len(datagram) < _START:
        raise WireError(f"DHCP message of {len(datagram)} bytes, the shortest is {_START}")
    op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie = _HEADER.unpack_from(
        datagram
    )
    if cookie != _COOKIE:
        raise WireError(f"magic cookie {cookie.hex()}, want {_COOKIE.hex()}")
    if hlen > 16:
        raise WireError(f"hardware address of {hlen} bytes, the longest is 16")
    options: dict[int, bytes] = {}
    at, count = _START, 0
    try:
        while (code := datagram[at]) != 255:  # this loop is what a message costs: only the plain case is handled here
            if code:
                start = at + 2
                at = start + datagram[at + 1]
                options[code] = datagram[start:at]
                count += 1
            else:
                at += 1
    except IndexError:
        count = -1
    if count != len(options):  # no end option, an option that overruns, or one in several parts
        options = {}
        _collect(datagram[_START:], options)
    if OVERLOAD in options:
        areas = options.pop(OVERLOAD)
        if areas in (b"\1", b"\3"):
            _collect(file, options)
            file = b""
        if areas in (b"\2", b"\3"):
            _collect(sname, options)
            sname = b""
        options.pop(OVERLOAD, None)  # within the fields it means nothing
    return Message(
        op,
        htype,
        hlen,
        hops,
        xid,
        secs,
        flags,
        "0.0.0.0" if ciaddr == _ZERO else dotted(ciaddr),
        "0.0.0.0" if yiaddr == _ZERO else dotted(yiaddr),
        "0.0.0.0" if siaddr == _ZERO else dotted(siaddr),
        "0.0.0.0" if giaddr == _ZERO else dotted(giaddr),
        chaddr[:hlen],
        sname.partition(b"\0")[0] if sname and sname[0] else b"",
        file.partition(b"\0")[0] if file and file[0] else b"",
        options,
    )


def _collect(area: bytes, options: dict[int, bytes]) -> None:
    """Join the options of one area to those read before (RFC 3396 §7)."""
    for code, value in parts(area):
        options[code] = options.get(code, b"") + value


def parts(area: bytes) -> list[tuple[int, bytes]]:
    """Code and value of each option or sub-option, up to the end option or the first that overruns.

    For overloaded fields, options 43, 82 and 175.
    """
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(area) - 1
    while at < end:
        code = area[at]
        if code == END:
            break
        if code == PAD:
            at += 1
            continue
        start = at + 2
        at = start + area[at + 1]
        if at > end + 1:
            break
        found.append((code, area[start:at]))
    return found


def spans(datagram: bytes, codes: tuple[int, ...]) -> dict[int, slice] | None:
    """Where the values of those of these options stand that a datagram has; None unless it has the plain form of most.

    Plain: an end option, no overload, no option in several parts.
    """
    found: dict[int, slice] = {}
    seen = set()
    at = _START
    try:
        while (code := datagram[at]) != END:
            if code:
                start = at + 2
                at = start + datagram[at + 1]
                if code in seen or code == OVERLOAD:
                    return None
                seen.add(code)
                if code in codes:
                    found[code] = slice(start, at)
            else:
                at += 1
    except IndexError:
        return None
    return found


def payload_limit(request: Message) -> int:
    """The largest UDP payload to answer this request with (option 57).

    57 counts the IP datagram and is at least 576 (RFC 2132 §9.10); what is larger than an Ethernet frame carries means
    nothing (EDK2 sends 255 byte-swapped, 65280).
    """
    value = request.options.get(MAX_SIZE)
    if value is None or len(value) != 2:
        return FLOOR
    return min(max((value[0] << 8 | value[1]) - 28, FLOOR), CAP)


def encode(message: Message, limit: int = CAP) -> bytes:
    """The datagram, at most limit octets of UDP payload and at least 300.

    What does not fit goes into unused file and sname fields (option 52); if that is not enough, options are left out,
    the last and least needed first.  limit is 300 or more.
    """
    options = message.options
    order = _layout(tuple(options))
    area = bytearray()
    for code in order:
        value = options[code]
        if len(value) > 255:
            area += _instances(code, value)
        else:
            area.append(code)
            area.append(len(value))
            area += value
    area.append(END)
    file, sname = message.file, message.sname
    if _START + len(area) > limit:
        area, file, sname = _squeeze(message, [code for code in order if code not in _PLACED], limit - _START)
    datagram = (
        _HEADER.pack(
            message.op,
            message.htype,
            message.hlen,
            message.hops,
            message.xid,
            message.secs,
            message.flags,
            packed(message.ciaddr),
            packed(message.yiaddr),
            packed(message.siaddr),
            packed(message.giaddr),
            message.chaddr,
            sname,
            file,
            _COOKIE,
        )
        + area
    )
    return datagram if len(datagram) >= SMALLEST else datagram.ljust(SMALLEST, b"\0")


@lru_cache(1024)
def _layout(codes: tuple[int, ...]) -> tuple[int, ...]:
    """The order in which these options are written."""
    middle = [code for code in codes if code not in _PLACED]
    if ROUTERS in codes and SUBNET_MASK in codes:
        mask, routers = middle.index(SUBNET_MASK), middle.index(ROUTERS)
        if mask > routers:
            middle.insert(routers, middle.pop(mask))
    return tuple(code for code in (*_FIRST, *middle, AGENT) if code in codes)


def _instances(code: int, value: bytes) -> bytes:
    """One option; in several parts where it is longer than 255 octets (RFC 3396 §5)."""
    pieces = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(_SECOND.pack(code, len(piece)) + piece for piece in pieces)


def _squeeze(message: Message, order: list[int], room: int) -> tuple[bytearray, bytes, bytes]:
    """(options, file, sname) of a message that is too long for its receiver: overloaded, then shortened."""
    optional = [code for code in order if code not in _ESSENTIAL]
    needed = [code for code in order if code in _ESSENTIAL]
    kept = [*order]
    agent = _instances(AGENT, message.options[AGENT]) if AGENT in message.options else b""
    while True:
        packing = _pack(message, kept, room - len(agent))
        if packing is not None:
            area, file, sname = packing
            return area[:-1] + agent + area[-1:], file, sname
        if optional:
            kept.remove(optional.pop())
        elif needed:
            kept.remove(needed.pop())
        else:
            agent = b""  # rather no agent information than no answer


def _pack(message: Message, order: list[int], room: int) -> tuple[bytearray, bytes, bytes] | None:
    """Whole options into the options field, then file, then sname; None if they do not fit.  Each area ends with 255.

    Type, server and lease time stay in front, whatever the room: they fit the floor of option 57 many times over.
    """
    front = bytearray().join(_instances(code, message.options[code]) for code in _FIRST if code in message.options)
    spans = [_instances(code, message.options[code]) for code in order]
    if len(front) + sum(map(len, spans)) < room:
        return front + b"".join(spans) + b"\xff", message.file, message.sname
    file, sname = bytearray(), bytearray()
    main_room = room - len(front) - 1 - 3
    if main_room < 0:
        return None
    file_room, sname_room = (0 if message.file else 127), (0 if message.sname else 63)
    main = bytearray()
    for span in spans:
        if len(main) + len(span) <= main_room:
            main += span
        elif len(file) + len(span) <= file_room:
            file += span
        elif len(sname) + len(span) <= sname_room:
            sname += span
        else:
            return None
    front += bytes((OVERLOAD, 1, bool(file) | bool(sname) << 1))
    return (
        front + main + b"\xff",
        bytes(file + b"\xff") if file else message.file,
        bytes(sname + b"\xff") if sname else message.sname,
    )


def reply_to(request: Message) -> Message:
    """An empty reply (RFC 2131 §4.3.1, table 3): same xid, flags, giaddr and hardware address; all else zero."""
    return Message(
        REPLY,
        request.htype,
        request.hlen,
        0,
        request.xid,
        0,
        request.flags,
        "0.0.0.0",
        "0.0.0.0",
        "0.0.0.0",
        request.giaddr,
        request.chaddr,
    )
