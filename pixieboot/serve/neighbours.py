"""Which other DHCP and PXE servers answer on the networks that we serve: asked at start and hourly, overheard in between.

A guest in a foreign network: server mode does not begin where another server leases, and whoever
turns up later is named.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pixieboot.errors import WireError
from pixieboot.model import NO_ADDRESS, Mac, Site
from pixieboot.serve.links import ETHERNET, Link, Sites
from pixieboot.serve.packet import SERVER_ANSWERS, Frames, Tap
from pixieboot.wire.dhcp import Message, decode, encode
from pixieboot.wire.frame import BROADCAST_MAC, ETH_IP, udp_frame

TRIES = (0.0, 1.0, 1.5)  # seconds before each DISCOVER of a probe
PATIENCE = 1.0  # seconds of listening after the last: 3.5 in all, for servers that ping an address for 3 s before they offer it
FORGET = 2 * 3600.0  # seconds after which a server that was not heard again counts as gone
MOST = 256  # servers remembered: whoever forges offers must not fill the memory
_UUID = b"\0" + b"pixieboot probe."  # type 0 and 16 octets, as option 97 wants it


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another server, as its answers show it."""

    interface: str
    ifindex: int
    address: str  # its server identifier (option 54), else where its packet came from
    mac: Mac | None  # None: only named by a client's REQUEST
    leases: bool  # it hands out addresses
    pxe: bool  # it hands out boot data
    heard: float

    def __str__(self) -> str:
        what = "DHCP and PXE server" if self.leases and self.pxe else "PXE server" if self.pxe else "DHCP server"
        return f"{what} {self.address}" + (f" ({self.mac})" if self.mac else "")


class Neighbours:
    """The servers beside us, by interface.  on_found(neighbour) is called for each that is new, or newly does more."""

    def __init__(self, sites: Sites, on_found: Callable[[Neighbour], None], clock: Callable[[], float]) -> None:
        self._sites, self._on_found, self._clock = sites, on_found, clock
        self._tap, self._frames = Tap(ETH_IP, SERVER_ANSWERS), Frames()
        self._known: dict[tuple[int, str], Neighbour] = {}
        self.probing: set[int] = set()  # transaction numbers of our own questions: nobody of us answers them

    def bind(self) -> None:
        """Open the packet sockets; needs root."""
        self._tap.bind()
        self._frames.bind()

    def start(self) -> None:
        self._tap.start(self._on_frame)

    def close(self) -> None:
        self._tap.close()
        self._frames.close()

    def present(self, ifindex: int | None = None) -> list[Neighbour]:
        """Those heard of late, on this interface or on all."""
        since = self._clock() - FORGET
        return [known for known in self._known.values() if known.heard >= since and (ifindex is None or known.ifindex == ifindex)]

    def leasing(self, ifindex: int) -> list[Neighbour]:
        return [known for known in self.present(ifindex) if known.leases]

    async def probe(self, sites: Iterable[Site]) -> None:
        """Ask on each site's link who answers a DISCOVER, and wait for the answers (3.5 s).  They come to on_found too."""
        links = {site.ifindex: link for site in sites if (link := self._sites.link(site.ifindex)) and link.type == ETHERNET}
        xid = random.getrandbits(32)
        self.probing.add(xid)
        try:
            for number, pause in enumerate(TRIES):
                await asyncio.sleep(pause)
                for link in links.values():
                    self._ask(link, xid, secs=number * 2)
            await asyncio.sleep(PATIENCE)
        finally:
            self.probing.discard(xid)

    def named(self, ifindex: int, interface: str, address: str) -> None:
        """A client's REQUEST names a server that is not us: it leases here."""
        self._note(Neighbour(interface, ifindex, address, None, True, False, self._clock()))

    def _ask(self, link: Link, xid: int, secs: int) -> None:
        """A DISCOVER as a PXE ROM on this very interface would send it: DHCP and PXE servers both answer."""
        options = {
            53: b"\x01",
            57: struct.pack("!H", 1472),
            60: b"PXEClient:Arch:00007:UNDI:003016",
            93: b"\0\7",
            94: b"\1\3\x10",
            97: _UUID,
            55: bytes((1, 3, 6, 43, 54, 60, 66, 67)),
        }
        discover = Message(
            1, 1, 6, 0, xid, secs, 0x8000, NO_ADDRESS, NO_ADDRESS, NO_ADDRESS, NO_ADDRESS, link.mac, b"", b"", options
        )
        payload = encode(discover, 1472)
        try:
            self._frames.send(link, udp_frame(BROADCAST_MAC, link.mac, NO_ADDRESS, 68, "255.255.255.255", 67, payload))
        except OSError:
            return  # the link went down meanwhile: nobody is there to break anything

    def _on_frame(self, frame: bytes, interface: str) -> None:
        """Whatever a server said to a client, of ours or not: who was it?"""
        link = self._sites.link_named(interface)
        if link is None or self._sites.at(link.index) is None or len(frame) < 14 + 20 + 8:
            return
        at = 14 + (frame[14] & 15) * 4 + 8
        try:
            message = decode(frame[at:])
        except WireError:
            return
        kind = message.options.get(53, b"")
        if message.op != 2 or kind not in (b"\x02", b"\x05"):
            return
        identifier = message.options.get(54, b"")
        address = socket.inet_ntoa(identifier if len(identifier) == 4 else frame[26:30])
        if any(address == str(own.ip) for other in self._sites.links.values() for own in other.addresses):
            return  # ourselves, on the same wire by another interface
        pxe = message.options.get(60, b"")[:9] in (b"PXEClient", b"HTTPClien") or bool(message.file or message.options.get(67))
        leases = message.yiaddr != NO_ADDRESS
        if leases or pxe:
            mac = Mac.of(frame[6:12])
            self._note(Neighbour(interface, link.index, address, mac, leases, pxe, self._clock()))

    def _note(self, heard: Neighbour) -> None:
        key = (heard.ifindex, heard.address)
        known = self._known.get(key)
        if known and heard.heard - known.heard < FORGET:
            leases, pxe = known.leases or heard.leases, known.pxe or heard.pxe
            news = (leases, pxe) != (known.leases, known.pxe)
            mac = heard.mac or known.mac
            heard = Neighbour(heard.interface, heard.ifindex, heard.address, mac, leases, pxe, heard.heard)
        else:
            news = True
        if known is None and len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = heard
        if news:
            self._on_found(heard)
