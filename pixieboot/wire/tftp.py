"""TFTP bytes <-> packets (RFC 1350 §5, options RFC 2347-2349 and 7440).  `decode` is total: a packet or WireError."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from types import MappingProxyType

from pixieboot.errors import WireError

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
ACK = 4 << 16  # the first two octets of an ACK, before its block
word = Struct("!I").pack
LONGEST_MESSAGE = 200  # characters of an error text: some ROMs print it into a fixed buffer


class Code(IntEnum):
    """Error codes (RFC 1350 §5; 8: RFC 2347)."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    DISK_FULL = 3
    ILLEGAL = 4
    UNKNOWN_TID = 5
    EXISTS = 6
    NO_USER = 7
    OPTIONS = 8


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """filename: octets that are not UTF-8 stay as surrogates and name the same file.  mode and option names: lower case."""

    filename: str
    mode: str
    options: Mapping[str, str] = field(default_factory=lambda: NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class WriteRequest:
    filename: str
    mode: str
    options: Mapping[str, str] = field(default_factory=lambda: NO_OPTIONS)


@dataclass(frozen=True, slots=True)
class Data:
    block: int  # 16 bits; rolls over 65535 -> 0
    payload: bytes  # shorter than blksize: the last block


@dataclass(frozen=True, slots=True)
class Ack:
    block: int  # 16 bits


@dataclass(frozen=True, slots=True)
class Error:
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class OptionAck:
    options: Mapping[str, str]


Packet = ReadRequest | WriteRequest | Data | Ack | Error | OptionAck


def decode(datagram: bytes) -> Packet:
    """Parse one TFTP datagram.  Raises WireError and nothing else."""
    if len(datagram) < 4:
        raise WireError(f"TFTP packet of {len(datagram)} octets, the shortest has 4")
    opcode, word, rest = int.from_bytes(datagram[:2]), int.from_bytes(datagram[2:4]), datagram[4:]
    match opcode:
        case 1 | 2:
            return _request(opcode, datagram[2:])
        case 3:
            return Data(word, rest)
        case 4:
            return Ack(word)  # ROMs that pad their ACKs to the shortest Ethernet frame are understood
        case 5:
            return Error(word, rest.partition(b"\0")[0].decode("utf-8", "replace"))
        case 6:
            return OptionAck(_options(datagram[2:].split(b"\0")))
    raise WireError(f"TFTP opcode {opcode}, want 1-6 (RFC 1350 §5, RFC 2347)")


def encode(packet: Packet) -> bytes:
    """The datagram of a packet; `decode` gives the packet back.  ValueError for what no datagram can say."""
    match packet:
        case ReadRequest(filename, mode, options):
            return b"\0\x01" + _strings([filename, mode, *_flat(options)])
        case WriteRequest(filename, mode, options):
            return b"\0\x02" + _strings([filename, mode, *_flat(options)])
        case Data(block, payload):
            return b"\0\x03" + block.to_bytes(2) + payload
        case Ack(block):
            return b"\0\x04" + block.to_bytes(2)
        case Error(code, message):
            return b"\0\x05" + code.to_bytes(2) + _strings([message.replace("\0", " ")[:LONGEST_MESSAGE]])
    return b"\0\x06" + _strings(_flat(packet.options))


def acknowledgement(block: int) -> bytes:
    """The ACK of a block that is counted without end, as a datagram."""
    return word(ACK | block & 0xFFFF)


def _request(opcode: int, body: bytes) -> ReadRequest | WriteRequest:
    filename, *words = body.split(b"\0")
    if len(words) < 2:
        raise WireError("TFTP request whose file name and mode are not both closed by NUL (RFC 1350 §5)")
    if not filename:
        raise WireError("TFTP request with an empty file name")
    kind = ReadRequest if opcode == 1 else WriteRequest
    return kind(_text(filename), _text(words[0]).lower(), _options(words[1:]))


def _options(words: list[bytes]) -> Mapping[str, str]:
    """Name and value in turn.  What follows the last NUL is no string; a name counts once, the first time (RFC 2347)."""
    options: dict[str, str] = {}
    closed = words[:-1]
    for name, value in zip(closed[::2], closed[1::2], strict=False):
        if name:  # empty: a request padded with NULs
            options.setdefault(_text(name).lower(), _text(value))
    return options or NO_OPTIONS


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _flat(options: Mapping[str, str]) -> Iterable[str]:
    return (word for option in options.items() for word in option)


def _strings(words: Iterable[str]) -> bytes:
    octets = [word.encode("utf-8", "surrogateescape") for word in words]
    if any(b"\0" in word for word in octets):
        raise ValueError("a TFTP string cannot hold NUL")
    return b"".join(word + b"\0" for word in octets)
