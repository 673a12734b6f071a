"""A DHCP client that does exactly what a test says: any MAC, any field, any port, and sees every header of the answers."""

import random
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pixieboot.errors import WireError
from pixieboot.serve.packet import ETH_ARP
from pixieboot.wire.dhcp import Message, decode, encode
from pixieboot.wire.frame import BROADCAST_MAC, ETH_IP, udp_frame
from tests.netns import Host

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
ANY, EVERYBODY = "0.0.0.0", "255.255.255.255"
PXE = {
    60: b"PXEClient:Arch:00000:UNDI:002001",
    93: b"\0\0",
    94: b"\1\2\1",
    97: b"\0" + bytes(range(16)),
    55: bytes((1, 3, 6, 43, 54, 60, 66, 67, 97)),
}
UEFI = PXE | {60: b"PXEClient:Arch:00007:UNDI:003000", 93: b"\0\7", 94: b"\1\3\0"}
HTTP = UEFI | {60: b"HTTPClient:Arch:00016:UNDI:003000", 93: b"\0\x10", 55: bytes((1, 3, 6, 43, 54, 60, 67, 97))}
IPXE = UEFI | {77: b"iPXE", 175: b"\x13\1\1\x21\1\1"}
PRL = bytes((1, 3, 6, 12, 15, 28, 42, 51, 54, 58, 59))


@dataclass(frozen=True)
class Answer:
    """One datagram from a server, with all that surrounded it."""

    mac: bytes  # Ethernet destination
    source: str
    target: str
    source_port: int
    target_port: int
    message: Message
    payload: bytes
    seconds: float  # since the question

    @property
    def type(self) -> int:
        return self.message.type

    def option(self, code: int) -> bytes | None:
        return self.message.options.get(code)

    def address(self, code: int) -> str:
        return self.message.address(code)


def mac(number: int) -> bytes:
    """A MAC of our own choosing for client number `number`."""
    return b"\x52\x54\0" + number.to_bytes(3, "big")


class Client:
    """A host's eth0 as any number of DHCP clients.  A context manager."""

    def __init__(self, host: Host, interface: str = "eth0") -> None:
        with host.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_IP))
            index = socket.if_nametoindex(interface)
            self._socket.bind((interface, ETH_IP))
            # Unicast to MACs that this interface does not have: PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC.
            self._socket.setsockopt(263, 1, struct.pack("iHH8s", index, 1, 0, b""))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP))
            self._arp.bind((interface, ETH_ARP))
        self.holds: dict[str, bytes] = {}  # address -> MAC: who answers ARP requests for it
        self.server_mac = b""  # of the last answer
        self.own = self._socket.getsockname()[4]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._arp.close()

    def message(self, kind: int, chaddr: bytes, options: dict[int, bytes] | None = None, **fields: Any) -> Message:
        """A client's message; fields are those of Message, options go on top of option 53 (None as kind: BOOTP)."""
        given = {53: bytes((kind,))} if kind else {}
        values = dict(
            op=1, htype=1, hlen=len(chaddr), hops=0, xid=random.getrandbits(32), secs=0, flags=0,
            ciaddr=ANY, yiaddr=ANY, siaddr=ANY, giaddr=ANY, chaddr=chaddr,
        )  # fmt: skip
        return Message(**{**values, **fields}, options={**given, **(options or {})})

    def send(
        self,
        message: Message | bytes,
        *,
        source: str = ANY,
        target: str = EVERYBODY,
        to: bytes = BROADCAST_MAC,
        source_port: int = 68,
        target_port: int = 67,
    ) -> None:
        payload = encode(message, 1472) if isinstance(message, Message) else message
        sender = message.chaddr if isinstance(message, Message) and len(message.chaddr) == 6 else self.own
        self._socket.send(udp_frame(to, sender, source, source_port, target, target_port, payload))

    def ask(self, message: Message, *, wait: float = 4.0, wanted: int = 1, **how: Any) -> list[Answer]:
        """Send it and collect the answers with its transaction number: `wanted` of them, or what came within `wait` seconds."""
        self.drain()
        self.send(message, **how)
        return self.answers(lambda answer: answer.message.xid == message.xid, wait, wanted)

    def answers(self, fits: Callable[[Answer], bool], wait: float, wanted: int = 1) -> list[Answer]:
        found: list[Answer] = []
        start = time.monotonic()
        while len(found) < wanted and (left := start + wait - time.monotonic()) > 0:
            ready = select.select([self._socket, self._arp], [], [], left)[0]
            if self._arp in ready:
                self._answer_arp(self._arp.recv(100))
            if self._socket in ready:
                frame = self._socket.recv(4096)
                answer = _answer(frame, time.monotonic() - start)
                if answer and fits(answer):
                    self.server_mac = frame[6:12]
                    found.append(answer)
        return found

    def drain(self) -> None:
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(4096)

    def _answer_arp(self, frame: bytes) -> None:
        """Say that we have an address, if `holds` says so; a server that unicasts to it asks."""
        operation, asker, asking, wanted = frame[20:22], frame[22:28], frame[28:32], frame[38:42]
        if operation == b"\0\1" and (own := self.holds.get(socket.inet_ntoa(wanted))):
            self._arp.send(asker + own + b"\x08\x06" + frame[14:20] + b"\0\2" + own + wanted + asker + asking)

    # ------------------------------------------------------------------ the usual exchanges

    def discover(self, chaddr: bytes, options: dict[int, bytes] | None = None, **fields: Any) -> list[Answer]:
        return self.ask(self.message(DISCOVER, chaddr, {55: PRL, **(options or {})}, **fields))

    def lease(self, chaddr: bytes, options: dict[int, bytes] | None = None, **fields: Any) -> Answer:
        """DISCOVER, OFFER, REQUEST, ACK: the ACK."""
        (offer,) = self.discover(chaddr, options, **fields)
        assert offer.type == OFFER
        asked = {55: PRL, **(options or {}), 50: socket.inet_aton(offer.message.yiaddr), 54: offer.message.options[54]}
        (ack,) = self.ask(self.message(REQUEST, chaddr, asked, **{"xid": offer.message.xid, **fields}))
        assert ack.type == ACK
        self.holds[ack.message.yiaddr] = chaddr
        return ack


def _answer(frame: bytes, seconds: float) -> Answer | None:
    """The answer in a frame; None if it is anything else."""
    if len(frame) < 14 + 28 or frame[12:14] != b"\x08\0" or frame[23] != 17:
        return None
    at = 14 + (frame[14] & 15) * 4
    source_port, target_port, length, _ = struct.unpack_from("!HHHH", frame, at)
    payload = frame[at + 8 : at + length]
    try:
        message = decode(payload)
    except WireError:
        return None
    if message.op != 2:
        return None
    source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    return Answer(frame[:6], source, target, source_port, target_port, message, payload, seconds)
