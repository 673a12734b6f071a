"""The shell around dhcp.respond: datagrams in, one answer made, noted, kept and sent.  It decides nothing that a packet asks.

Nothing between decode and send waits, but for a lease: that is on disk before its ACK leaves, while others are served.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pixieboot.dhcp import Reply, client_of, respond
from pixieboot.errors import OperatorError, WireError
from pixieboot.model import NO_ADDRESS, Arrival, Client, Event, FetchScript, LoadNBP, Mac, Site
from pixieboot.registry.sqlite import StoreError
from pixieboot.serve.context import Context
from pixieboot.serve.links import ETHERNET
from pixieboot.serve.neighbours import Neighbour, Neighbours
from pixieboot.serve.packet import Arp, Frames, udp_frame
from pixieboot.serve.udp import UdpPort, others
from pixieboot.wire.dhcp import Message, decode, encode

SERVER_PORT, BOOT_PORT = 67, 4011
EVERYBODY = "255.255.255.255"
LARGEST_REPLY = 1472  # octets of UDP payload in one unfragmented Ethernet frame
SAY_AGAIN = 600.0  # seconds until the same silence towards the same client is noted again
PROBE_EVERY = 3600.0


class DhcpService:
    """DHCP on port 67 and PXE on port 4011, for all networks of the settings."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.time) -> None:
        self._context, self._clock = context, clock
        self._ports = {SERVER_PORT: UdpPort(SERVER_PORT), BOOT_PORT: UdpPort(BOOT_PORT)}
        self._frames, self._arp = Frames(), Arp()
        self.neighbours = Neighbours(context.sites, self._on_neighbour, self._now)
        self._said: dict[tuple[Mac | None, str], float] = {}
        self._cleared: set[int] = set()  # interfaces where server mode may lease: nobody else does, or force is set
        self._serving = asyncio.Event()
        self.shared: list[str] = []  # other processes on our ports, in words

    def bind(self) -> None:
        """Open all sockets; needs root.  Raises OperatorError that says who holds a port."""
        for number, port in self._ports.items():
            port.bind()
            self.shared += [f"UDP port {number} is shared with {holder}" for holder in others(number)]
        self._frames.bind()
        self._arp.bind()
        self.neighbours.bind()

    async def run(self) -> None:
        """Serve until cancelled.  Raises OperatorError when another server leases where we are to."""
        for line in self.shared:
            self._record(None, "shared port", {"why": f"{line}: it may take what is meant for us"}, "warning")
        self.neighbours.start()
        self._ports[SERVER_PORT].start(self._on_server_port)
        self._ports[BOOT_PORT].start(self._on_boot_port)
        await self._look_around(first=True)
        while True:
            await asyncio.sleep(PROBE_EVERY)
            await self._look_around(first=False)

    async def stop(self, grace: float) -> None:
        for port in self._ports.values():
            port.close()
        self.neighbours.close()
        self._arp.close()
        self._frames.close()

    # ------------------------------------------------------------------ datagrams

    def _on_server_port(self, datagram: bytes, peer: tuple[str, int], ifindex: int, local: str) -> None:
        self._on_datagram(SERVER_PORT, datagram, peer, ifindex, local)

    def _on_boot_port(self, datagram: bytes, peer: tuple[str, int], ifindex: int, local: str) -> None:
        self._on_datagram(BOOT_PORT, datagram, peer, ifindex, local)

    def _on_datagram(self, port: int, datagram: bytes, peer: tuple[str, int], ifindex: int, local: str) -> None:
        context, now = self._context, self._now()
        try:
            message = decode(datagram)
        except WireError as error:
            self._ignore(None, str(error), now, peer=peer[0])
            return
        site = self._site_of(message, ifindex)
        if site is None or message.xid in self.neighbours.probing:
            return
        client = client_of(message)
        assignment = context.assign(client, site)
        answer = respond(message, client, Arrival(port, peer, ifindex, site.address, now), assignment, site, context.leases)
        if not isinstance(answer, Reply):
            self._ignore(client.mac, answer.why, now)
            return
        if answer.lease is None:
            self._answer(answer, client, site, port, now)
            return
        lease = answer.lease

        def kept(error: StoreError | None) -> None:
            if error:
                context.leases.undo(lease)
                self._record(client.mac, "lease not kept", {"address": lease.address, "why": str(error)}, "alarm")
            else:
                self._answer(answer, client, site, port, now)

        context.store.submit(lease, kept)

    def _site_of(self, message: Message, ifindex: int) -> Site | None:
        """The network that a message belongs to; None: none of ours."""
        sites = self._context.sites
        if message.giaddr != NO_ADDRESS:
            return sites.for_relay(message.giaddr, ifindex)
        return sites.at(ifindex)

    # ------------------------------------------------------------------ answers

    def _answer(self, reply: Reply, client: Client, site: Site, port: int, now: float) -> None:
        """Note the answer and send it, at once or after the delay that the machine needs."""
        self._record(client.mac, reply.kind, self._detail(reply, client), at=now)
        if reply.delay > 0:
            asyncio.get_running_loop().call_later(reply.delay, self._send, reply, site, port)
        else:
            self._send(reply, site, port)

    def _send(self, reply: Reply, site: Site, port: int) -> None:
        to = reply.destination
        datagram = encode(reply.message, LARGEST_REPLY)
        try:
            if to.mac is not None and (link := self._context.sites.link(site.ifindex)) and link.type == ETHERNET:
                frame = udp_frame(to.mac.octets, link.mac, site.address, port, to.address, to.port, datagram)
                try:
                    self._frames.send(link, frame)
                    return
                except OSError:
                    to = type(to)(EVERYBODY, to.port, None)
            elif to.mac is not None:
                to = type(to)(EVERYBODY, to.port, None)
            on_link = to.address == EVERYBODY or reply.message.giaddr == NO_ADDRESS
            self._ports[port].send(datagram, (to.address, to.port), site.ifindex if on_link else 0, site.address)
        except OSError as error:
            why = f"{to.address} by {site.interface}: {error.strerror}"
            self._record(None, "not sent", {"why": why}, "warning")

    def _detail(self, reply: Reply, client: Client) -> dict[str, Any]:
        detail: dict[str, Any] = {}
        match reply.step:
            case LoadNBP(path, over):
                detail["nbp" if over == "tftp" else "url"] = path
            case FetchScript(url):
                detail["url"] = url
        if client.arch:
            detail["arch"] = client.arch.value
        detail["loader"] = client.loader.value
        if reply.message.yiaddr != NO_ADDRESS:
            detail["address"] = reply.message.yiaddr
        if reply.step:
            detail["why"] = reply.step.why
        return detail

    def _ignore(self, mac: Mac | None, why: str, now: float, **detail: Any) -> None:
        """Seen but not answered: noted with its reason, the same one once in a while."""
        if now - self._said.get((mac, why), 0.0) < SAY_AGAIN:
            return
        if len(self._said) > 10_000:
            self._said.clear()
        self._said[mac, why] = now
        self._record(mac, "ignored", {**detail, "why": why}, "debug" if mac is None else "info", at=now)

    # ------------------------------------------------------------------ other servers

    async def _look_around(self, first: bool) -> None:
        """Probe all networks; let server mode lease where nobody else does."""
        sites = self._context.sites.sites
        await self.neighbours.probe(sites)
        for site in sites:
            if site.network.mode != "server" or site.ifindex in self._cleared:
                continue
            found = self.neighbours.leasing(site.ifindex)
            if not found or site.network.force:
                self._cleared.add(site.ifindex)
            elif first:
                who = " and ".join(map(str, found))
                raise OperatorError(
                    site.network.where or f"interface {site.interface}",
                    f"a {who} leases addresses on {site.interface} already",
                    "Set `dhcp: proxy` to boot machines beside it, stop it, or set `force: true` to lease all the same.",
                )

    def _on_neighbour(self, neighbour: Neighbour) -> None:
        site = self._context.sites.at(neighbour.ifindex)
        rival = site is not None and site.network.mode == "server" and neighbour.leases and not site.network.force
        kind = "other server" if neighbour.leases and not neighbour.pxe else "other PXE server"
        detail = {"interface": neighbour.interface, "server": neighbour.address, "vendor": neighbour.mac, "what": str(neighbour)}
        self._record(None, kind, detail, "alarm" if rival else "warning" if neighbour.pxe else "info")
        if neighbour.pxe:
            self._context.sites.mark_foreign_pxe(neighbour.ifindex)

    # ------------------------------------------------------------------ small things

    def _now(self) -> float:
        """The clock, but never before the newest lease on disk: a Raspberry Pi starts in the past (design.md)."""
        return max(self._clock(), self._context.store.newest)

    def _record(self, mac: Mac | None, kind: str, detail: dict[str, Any], level: str = "info", at: float | None = None) -> None:
        service, _, rest = kind.partition(" ") if kind.startswith("pxe ") else ("dhcp", "", kind)
        self._context.journal.record(Event(self._now() if at is None else at, mac, service, rest, detail, level))
