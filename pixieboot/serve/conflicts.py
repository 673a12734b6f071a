"""Is an address that we are about to give out really free?  The wire is asked by ARP, in the background (RFC 2131 §2.2).

Nobody waits for the answer: addresses are asked about ahead of need, and one that was offered unasked is asked about at
once, in the second or so that a client takes to come back with its REQUEST.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from pixieboot.leases import Leases
from pixieboot.model import Lease, Mac, Site
from pixieboot.serve.links import ETHERNET, Link, Sites
from pixieboot.serve.packet import Arp

PATIENCE = 0.25  # seconds after each of two questions
AHEAD = 4  # addresses that strangers will be offered next
EVERYTHING = 8  # different addresses from one card: it answers for whatever is asked (proxy ARP), and is believed no more
MOST = 64  # questions open at once: a flood of DISCOVERs must not become one of ARP broadcasts


class Conflicts:
    """Open questions by address.

    on_conflict(lease, site) is told of an address that somebody else turned out to use; on_proxy_arp(mac, site), once, of a
    router that claims all of them, and would leave nothing to lease.
    """

    def __init__(
        self,
        sites: Sites,
        leases: Leases,
        clock: Callable[[], float],
        on_conflict: Callable[[Lease, Site], None],
        on_proxy_arp: Callable[[Mac, Site], None],
    ) -> None:
        self._sites, self._leases, self._clock = sites, leases, clock
        self._on_conflict, self._on_proxy_arp = on_conflict, on_proxy_arp
        self._claims: dict[Mac, set[str]] = {}
        self._arp = Arp()
        self._open: dict[str, tuple[Site, asyncio.TimerHandle]] = {}
        self._looked: dict[int, float] = {}

    def bind(self) -> None:
        """Open the packet sockets; needs root."""
        self._arp.bind()

    def start(self) -> None:
        self._arp.start(self._on_holder)

    def close(self) -> None:
        for _, timer in self._open.values():
            timer.cancel()
        self._open.clear()
        self._arp.close()

    def offered(self, site: Site, address: str) -> bool:
        """See that what is offered now, and what will be offered next, is free.  True: the wire was asked."""
        if not site.network.probe:
            return False
        asked = self._leases.fresh(address, self._clock()) and self.ask(site, address)
        return self.look_ahead(site) or asked

    def ask(self, site: Site, address: str) -> bool:
        """Does anybody have this address?  False: it is not asked."""
        if address in self._open or len(self._open) >= MOST or (link := self._link(site)) is None:
            return False
        with suppress(OSError):  # the link is down: nobody gets the offer either
            self._arp.ask(link, address)
            self._open[address] = site, asyncio.get_running_loop().call_later(PATIENCE, self._again, address, link)
        return address in self._open

    def look_ahead(self, site: Site) -> bool:
        """Ask about the addresses that come next, now and then.  False: nothing is asked."""
        now = asyncio.get_running_loop().time()
        if now - self._looked.get(site.ifindex, -1.0) < 2 * PATIENCE or self._link(site) is None:
            return False
        self._looked[site.ifindex] = now
        return any([self.ask(site, address) for address in self._leases.to_probe(site, AHEAD, self._clock())])

    def _link(self, site: Site) -> Link | None:
        """The Ethernet on which this site's addresses live; None behind a relay, where nobody hears our ARP."""
        link = self._sites.link(site.ifindex) if site.network.interface else None
        return link if link and link.type == ETHERNET else None

    def _again(self, address: str, link: Link) -> None:
        site, _ = self._open[address]
        with suppress(OSError):
            self._arp.ask(link, address)
        self._open[address] = site, asyncio.get_running_loop().call_later(PATIENCE, self._silent, address)

    def _silent(self, address: str) -> None:
        del self._open[address]
        self._leases.mark_free(address, self._clock())

    def _on_holder(self, address: str, mac: bytes, interface: str) -> None:
        site, timer = self._open.get(address, (None, None))
        if site is None or timer is None or site.interface != interface:
            return
        timer.cancel()
        del self._open[address]
        holder = Mac.of(mac)
        if len(self._claims) > MOST:
            self._claims.clear()
        claims = self._claims.setdefault(holder, set())
        if len(claims) >= EVERYTHING:
            self._leases.mark_free(address, self._clock())
            return
        claims.add(address)
        if len(claims) == EVERYTHING:
            self._on_proxy_arp(holder, site)
        if lease := self._leases.mark_in_use(address, holder, self._clock()):
            self._on_conflict(lease, site)
