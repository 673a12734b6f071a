"""The way out of DHCP answers: as frames of our own, or as datagrams of the kernel; one by one, or all of a batch together.

Each that leaves wakes whoever waits for it.  Those of a batch leave at its end: the first wakes the other side, and the rest
are there before it has gone back to sleep.
"""

import asyncio
from collections.abc import Callable, Mapping

from pixieboot.dhcp import BROADCAST, Destination
from pixieboot.serve.links import ETHERNET, Link, Sites
from pixieboot.serve.packet import Frames
from pixieboot.serve.udp import DONE, UdpPort
from pixieboot.wire.frame import BROADCAST_MAC, PAYLOAD, udp_frame


class Sender:
    """Sends the answers of one daemon.

    port: the one of its own that they leave from, 67 or 4011.  link: the interface's index, 0: as the kernel routes.  source: the
    daemon's address there.
    """

    def __init__(self, ports: Mapping[int, UdpPort], sites: Sites, on_failure: Callable[[str, str], object]) -> None:
        """on_failure(address, why) is told of each answer that could not leave."""
        self._ports, self._sites, self._on_failure = ports, sites, on_failure
        self._frames = Frames()
        self._gathered: list[tuple[bytes, Link | None, Destination, int, int, str]] | None = None  # None: each leaves at once

    def bind(self) -> None:
        """Open the packet sockets; needs root."""
        self._frames.bind()

    def close(self) -> None:
        self._frames.close()

    def framed(self, to: Destination, encoded: bytes, port: int, link: int, source: str) -> tuple[Link, bytes] | None:
        """A frame of our own, to a client that has no address yet, or to all, and the card for it.  None: the kernel sends it.

        The kernel could broadcast too, but hears itself then, and needs twice as long.
        """
        card = self._sites.link(link) if to.chaddr or to.address == BROADCAST else None
        if card is None or card.type != ETHERNET:
            return None
        return card, udp_frame(to.chaddr or BROADCAST_MAC, card.mac, source, port, to.address, to.port, encoded)

    def reply(self, to: Destination, delay: float, encoded: bytes, port: int, link: int, source: str) -> tuple[Link, bytes] | None:
        """Send at once, or after the seconds that some ROMs need.  Answers as `framed`, but None also for what leaves later."""
        framed = self.framed(to, encoded, port, link, source)
        card, octets = framed or (None, encoded)
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self.send, octets, card, to, port, link, source)
            return None
        self.send(octets, card, to, port, link, source)
        return framed

    def send(self, octets: bytes, card: Link | None, to: Destination, port: int, link: int, source: str) -> None:
        """octets: a frame for that card, or without one a datagram for the kernel, which also gets what the card does not take."""
        if self._gathered is None:
            self._let_go(octets, card, to, port, link, source)
        else:
            self._gathered.append((octets, card, to, port, link, source))

    def begin(self) -> None:
        """Gather what is sent from now on, if nobody does already, until `flush`."""
        if self._gathered is None:
            self._gathered = []

    def flush(self) -> bool:
        """Send what was gathered, and gather no more.  DONE, unless something could not leave and was told."""
        gathered, self._gathered = self._gathered or (), None
        return any([self._let_go(*answer) for answer in gathered])  # a list: they leave whether or not one could not

    def _let_go(self, octets: bytes, card: Link | None, to: Destination, port: int, link: int, source: str) -> bool:
        """As flush, for one."""
        if card:
            try:
                self._frames.send(card, octets)
                return DONE
            except OSError:
                octets = octets[PAYLOAD:]
        # To a card without an address it cannot be done otherwise: RFC 2131 §4.1 allows the broadcast instead.
        address = BROADCAST if to.chaddr else to.address
        try:
            self._ports[port].send(octets, (address, to.port), link, source)
        except OSError as error:
            self._on_failure(address, str(error.strerror))
            return True
        return DONE
