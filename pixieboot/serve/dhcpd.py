"""The shell around dhcp.respond: datagrams in, one answer made, noted, kept and sent.  It decides nothing that a packet asks.

Nothing between decode and send waits, but for a lease: that is on disk before its ACK leaves, while others are served.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pixieboot.dhcp import Noted, Reply, client_of, network_of, repeat, respond, selector
from pixieboot.errors import OperatorError, WireError
from pixieboot.inventory import Inventory
from pixieboot.journal import is_plain
from pixieboot.memo import Form, Memo, Own, Remembered, form_of
from pixieboot.model import NO_ADDRESS, NO_MAC, Arrival, Client, Event, Lease, LeaseState, Loader, Mac, MachineState, Site
from pixieboot.pxe import RASPBERRY_PI_OUIS, Styles, uuid_in
from pixieboot.registry.sqlite import FRESH, StoreError
from pixieboot.serve.claims import Claims, is_pixieboot
from pixieboot.serve.conflicts import Conflicts
from pixieboot.serve.context import Context
from pixieboot.serve.links import Link
from pixieboot.serve.neighbours import Neighbour, Neighbours
from pixieboot.serve.ports import others
from pixieboot.serve.progress import Progress
from pixieboot.serve.sender import Sender
from pixieboot.serve.udp import DONE, UdpPort
from pixieboot.wire.dhcp import CLIENT_ID, CLIENT_UUID, DHCPREQUEST, MESSAGE_TYPE, SERVER_ID, Message, decode, encode, spans
from pixieboot.wire.frame import PAYLOAD, Repeatable

SERVER_PORT, BOOT_PORT = 67, 4011
TELL_AGAIN = 5.0  # seconds until an answer that is repeated counts as another fact for the journal
SAY_AGAIN = 600.0  # seconds until the same silence towards the same client is noted again
PROBE_EVERY = 3600.0
_CHADDR = slice(28, 34)
_A_REQUEST = bytes((MESSAGE_TYPE, 1, DHCPREQUEST))  # the first option of nearly every client


@dataclass(slots=True)
class _Question:
    """A datagram, how it came, and the facts that its answer will hold for."""

    datagram: bytes
    arrival: Arrival
    facts: tuple[object, ...]


@dataclass(slots=True)
class _Told(Remembered):
    """What a client was told, ready to be told again.

    key and state: what was known of it, and under which name.  event and asked: what the journal and the styles heard last.
    framed: as it went out, if that was as a frame.
    """

    key: str
    state: MachineState
    link: int
    site: Site
    event: Event
    asked: float
    framed: tuple[Link, Repeatable] | None = None


class DhcpService:
    """DHCP on port 67 and PXE on port 4011, for all networks of the settings."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.time) -> None:
        self._context, self._clock = context, clock
        self._ports = {SERVER_PORT: UdpPort(SERVER_PORT), BOOT_PORT: UdpPort(BOOT_PORT)}
        self._sender = Sender(self._ports, context.sites, self._on_unsent)
        context.store.on_told.append(self._sender.flush)
        self.neighbours = Neighbours(context.sites, self._on_neighbour, clock)
        self._conflicts = Conflicts(context.sites, context.leases, clock, self._on_conflict, self._on_proxy_arp)
        self._memo, self._progress, self._claims = Memo[_Told](), Progress(context), Claims()
        self._said: dict[tuple[Mac | None, str], float] = {}
        self._cleared: set[int] = set()  # interfaces where server mode may lease: nobody else does
        self._probed: set[int] = set()
        self._look = asyncio.Event()
        self._inventory: Inventory | None = None
        self._bound = self._looked = False
        self.shared: list[str] = []  # other processes on our ports, in words

    def bind(self) -> None:
        """Open all sockets; needs root.  Raises OperatorError that says who holds a port."""
        networks = self._context.settings.networks
        if networks and all(network.mode == "off" for network in networks):
            return
        for number in self._ports:
            self._share(number)
        try:
            for site in self._answering():
                self._claims.claim(site.interface)
            for port in self._ports.values():
                port.bind()
        except OperatorError:
            self._claims.close()
            raise
        self._sender.bind()
        self._conflicts.bind()
        self.neighbours.bind()
        self._bound = True

    def _answering(self) -> list[Site]:
        return [site for site in self._context.sites.sites if site.network.mode != "off"]

    def _share(self, port: int) -> None:
        """Take note of who else hears that port where we do.  Raises OperatorError where it would lease what we lease."""
        for holder in others(port):
            met = [site for site in self._answering() if holder.ifindex in (0, site.ifindex)]
            if not met:
                continue
            self.shared.append(f"UDP port {port} is shared with {holder}")
            leasing = [site for site in met if site.network.mode == "server" and not site.network.force]
            if port == SERVER_PORT and leasing and not is_pixieboot(holder.pid):
                what = f"{holder} has port 67 open on this host and may lease addresses on {leasing[0].interface} too"
                mend = "Stop it, bind it to other interfaces, set `dhcp: proxy` to boot machines beside it, or `force: true`."
                raise OperatorError(leasing[0].network.where or f"interface {leasing[0].interface}", what, mend)

    async def run(self) -> None:
        """Serve until cancelled.  Raises OperatorError when another server leases where we are to."""
        if not self._bound:
            await asyncio.Event().wait()
        for line in self.shared:
            self._record(None, "shared port", {"why": f"{line}: it may take what is meant for us"}, "warning")
        self._withhold()
        self._context.sites.on_change.append(self._on_sites)
        forget = self._context.journal.listen(self._progress.on_event, ("tftp", "http"))
        self.neighbours.start()
        self._conflicts.start()
        for number, port in self._ports.items():
            port.start(partial(self._on_datagram, number), self._sender)
        try:
            await self._look_around(refuse=True)
            self._looked = True
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), PROBE_EVERY)
                self._look.clear()
                await self._look_around(refuse=False)
        finally:
            forget()

    async def stop(self, grace: float) -> None:
        for port in self._ports.values():
            port.close()
        self.neighbours.close()
        self._conflicts.close()
        self._sender.close()
        self._claims.close()

    # ------------------------------------------------------------------ datagrams

    def _on_datagram(self, port: int, datagram: bytes, peer: tuple[str, int], ifindex: int, local: str) -> bool:
        """True unless nothing is left for the loop to do."""
        context, sites, now = self._context, self._context.sites, self._clock()
        if self._ports[port].crowded and not self._is_awaited(datagram):
            self._shed(ifindex, now)
            return DONE
        inventory = context.registry.current
        facts = (inventory, sites.version, port, ifindex, local, peer if port == BOOT_PORT else None)
        told = self._memo.find(datagram)
        if told and told.facts == facts and told.state is context.store.state(told.key):
            if told.reply.deed is None:
                return self._tell_again(told, datagram, port, now)
            if lease := repeat(told.reply, context.leases, now):
                if told.reply.kind == "offered":
                    left = self._tell_again(told, datagram, port, now)
                    return self._conflicts.offered(told.site, lease.address) or left
                self._keep(lease, told.client.mac, partial(self._tell_again, told, datagram, port, now))
                return True
        mac = Mac.of(datagram[_CHADDR])
        state = context.store.state(mac)
        style = _style_learned(state)
        if style is not None and (alike := self._memo.form(datagram, style)):
            form, own = alike
            if form.facts == facts and self._answer_stranger(form, own, mac, state, datagram, now):
                return True
        if inventory is not self._inventory:
            self._withhold()
        self._answer_afresh(_Question(datagram, Arrival(port, peer, ifindex, local, now), facts))
        return True

    def _is_awaited(self, datagram: bytes) -> bool:
        """Is it from a described machine, one that holds a lease, or one that takes what it was offered?  Costs a few µs."""
        context, mac = self._context, Mac.of(datagram[28 : 28 + min(datagram[2], 16)] if len(datagram) > 2 else b"")
        request = datagram[240:243] == _A_REQUEST
        if context.leases.awaits(mac, request):
            return True
        spots = spans(datagram, (CLIENT_ID, CLIENT_UUID)) or {}
        client_id, guid = (datagram[spots[code]] if code in spots else b"" for code in (CLIENT_ID, CLIENT_UUID))
        return context.registry.current.describes(mac, self._uuid(mac, guid)) or context.leases.awaits(
            f"id:{client_id.hex()}", request
        )

    def _shed(self, ifindex: int, now: float) -> None:
        """A flood: who has nothing here yet is left out unread, so that the others need not wait."""
        self._context.journal.counts["dhcp", "shed"] += 1
        link = self._context.sites.link(ifindex)
        if self._is_news(None, f"flood {ifindex}", now):
            why = "more DHCP messages come in than can be answered: strangers among them are left out until the queue is shorter"
            self._record(None, "flood", {"interface": link.name if link else "", "why": why}, "warning", now)

    def _answer_afresh(self, question: _Question) -> None:
        context, arrival = self._context, question.arrival
        try:
            message = decode(question.datagram)
        except WireError as error:
            self._malformed(str(error), arrival)
            return
        client, inventory = client_of(message), context.registry.current
        uuid = self._uuid(client.mac, b"")
        if client.uuid is None and uuid:
            client = replace(client, uuid=uuid)
        elif inventory.knows_uuids and client.uuid != uuid and inventory.describes(client.mac, client.uuid):
            self._memo.forget(client.mac)  # until its firmware said who it is, it was told what strangers are
        site = self._site_of(message, client, arrival.ifindex)
        if site is None or message.xid in self.neighbours.probing:
            return
        if site.network.mode == "server" and not self._may_lease(site):
            self._ignore(None, f"{site.interface}: not yet known whether another server leases there", arrival.now)
            return
        if context.boot_api and context.boot_api.holds(client, partial(self._answer_afresh, question)):
            return  # nobody knows yet what it boots: it is answered once that is known, and others meanwhile
        key = context.state_key(client)
        state, assignment = context.store.state(key), context.assign(client, site)
        self._see(client.mac, client.uuid, client, arrival.now)
        answer = respond(message, client, arrival, assignment, site, context.leases)
        if isinstance(answer, Reply):
            # A relay, and a client that renews through a router, are reached as the kernel routes.
            link = arrival.ifindex if message.giaddr == NO_ADDRESS and site.network.interface else 0
            encoded, now = encode(answer.message, answer.limit), arrival.now
            service, kind = ("pxe", "acked") if answer.kind == "pxe acked" else ("dhcp", answer.kind)
            event = Event(now, client.mac, service, kind, _with_secs(answer.detail(client), question.datagram[8:10]))
            told = _Told(question.facts, client, answer, encoded, key, state, link, site, event, now)
            tell = partial(self._tell, told, question)
            if answer.lease is None:
                tell()
            else:
                self._keep(answer.lease, client.mac, tell)
            style, guid = _style_learned(state), message.options.get(CLIENT_UUID, b"")
            # Where several networks share the link, each stranger has to be looked at: which is it on?
            alone = site.network.mode == "proxy" or len(context.sites.on_link(arrival.ifindex)) < 2
            asks = context.boot_api is not None  # about each
            usual = alone and not asks and arrival.port == SERVER_PORT and is_plain(event.detail)
            if usual and style is not None and self._is_stranger(client.mac, guid):
                _, frame = self._sender.framed(answer.destination, encoded, SERVER_PORT, link, site.address) or (None, None)
                made = partial(form_of, message, told, frame, site, link)
                self._memo.learn(question.datagram, style, made)
        elif isinstance(answer, Noted):
            self._keep(answer.lease, client.mac, None)
            self._record(client.mac, answer.kind, {"address": answer.lease.address, "why": answer.why}, at=arrival.now)
        else:
            self._ignore(client.mac, answer.why, arrival.now)
            if message.type == DHCPREQUEST and message.giaddr == NO_ADDRESS:
                self._overhear(message.address(SERVER_ID), site, arrival.ifindex)

    def _answer_stranger(self, form: Form, own: Own, mac: Mac, state: MachineState, datagram: bytes, now: float) -> bool:
        """Answer one more client of a kind by its form.  False: it has to be looked at for itself."""
        context, reply, probing = self._context, form.reply, self.neighbours.probing
        if not self._is_stranger(mac, own.guid) or (probing and int.from_bytes(own.xid, "big") in probing):
            return False
        who, address, returns, lease = form.holder(own, mac), NO_ADDRESS, True, None
        if who is not None:
            claimed = form.claim(own, who, context.leases, now)
            if isinstance(claimed, str):
                if reply.kind == "acked":
                    return False
                self._ignore(mac, claimed, now)
                return True
            lease, address = claimed, claimed.address
            returns = context.leases.replaces(lease) if reply.kind == "acked" else lease.state is LeaseState.BOUND
        card = context.sites.links[form.link] if form.totals else None
        dashed = own.chaddr.hex("-")
        answer = form.answer(own, address, dashed)
        event = Event(now, mac, "dhcp", reply.kind, form.detail(own, address, dashed))
        if lease and reply.kind == "acked":
            self._keep(lease, mac, partial(self._tell_stranger, form, answer, card, event))
        else:
            self._tell_stranger(form, answer, card, event)
            if context.store.may_see(mac):
                self._see(mac, uuid_in(own.guid), form.client, now)
            self._progress.watch(reply, mac, partial(form.asker, own, mac), event.detail, now)
            if lease:
                self._conflicts.offered(form.site, address)
        # More of those that return than fit would cost more to remember than it saves; a new one will not ask the same again.
        if returns and self._memo.has_room(datagram):
            told = form.told(own, who, address) if who else reply
            encoded = answer[PAYLOAD:] if card else answer
            kept = _Told(form.facts, form.asker(own, mac), told, encoded, mac, state, form.link, form.site, event, now)
            kept.framed = (card, Repeatable(answer)) if card else None
            self._memo.keep(datagram, kept)
        return True

    def _tell_stranger(self, form: Form, answer: bytes, card: Link | None, event: Event) -> None:
        """Send it the form's answer, which is a frame if there is a card for it, and note that."""
        self._sender.send(answer, card, form.reply.destination, SERVER_PORT, form.link, form.site.address)
        self._context.journal.record(event, plain=True)  # as that of the one whose form it is

    def _uuid(self, mac: Mac, guid: bytes) -> str | None:
        """Who this is by option 97; an operating system does not send it, and is who its firmware was."""
        uuid = uuid_in(guid)
        if uuid is None and self._context.registry.current.knows_uuids and (seen := self._context.store.seen(mac)):
            return seen.uuid
        return uuid

    def _is_stranger(self, mac: Mac, guid: bytes) -> bool:
        """Is it told what every other client of its kind is told?  A Raspberry Pi goes by its MAC and GUID."""
        inventory = self._context.registry.current
        return (
            inventory.is_stranger(mac, self._uuid(mac, guid) if inventory.knows_uuids else None)
            and mac[:8] not in RASPBERRY_PI_OUIS
            and guid[1:4] != b"RPi"
            and mac != NO_MAC
        )

    def _site_of(self, message: Message, client: Client, ifindex: int) -> Site | None:
        """The network that a message belongs to; None: none of ours, stay silent."""
        sites = self._context.sites
        selected = selector(message)
        if not selected:
            here = sites.on_link(ifindex)
            if len(here) < 2:
                return here[0] if here else None
            return network_of(message, client, self._context.registry.current.machine_of(client), here, self._context.leases)
        return sites.for_relay(selected, ifindex) if message.giaddr != NO_ADDRESS else sites.for_client(selected, ifindex)

    def _may_lease(self, site: Site) -> bool:
        return site.ifindex in self._cleared or site.network.force or not site.network.interface

    # ------------------------------------------------------------------ answers

    def _tell(self, told: _Told, question: _Question) -> None:
        """Send, note, remember, and see that what was offered is free."""
        reply, port = told.reply, question.arrival.port
        if framed := self._sender.reply(reply.destination, reply.delay, told.datagram, port, told.link, told.site.address):
            told.framed = framed[0], Repeatable(framed[1])
        told.event = self._context.journal.record(told.event)
        self._progress.watch(reply, told.client.mac, lambda: told.client, told.event.detail, question.arrival.now)
        if reply.deed and reply.kind == "offered":
            self._conflicts.offered(told.site, reply.message.yiaddr)
        if reply.deed or reply.kind == "offered" or port == BOOT_PORT:  # an INFORM's goes to where that came from
            self._memo.keep(question.datagram, told)

    def _tell_again(self, told: _Told, question: bytes, port: int, now: float) -> bool:
        """The same answer to the same question, but for its transaction number.  True: something is left to the loop."""
        left = news = abs(now - told.asked) >= Styles.APART  # the clock may have been set back
        to, source = told.reply.destination, told.site.address
        if told.framed:
            card, frame = told.framed
            self._sender.send(frame.to(question[4:8]), card, to, port, told.link, source)
        else:  # late, or to a client with an address
            self._sender.reply(to, told.reply.delay, Memo.again(told, question), port, told.link, source)
            left = news or told.reply.delay > 0
        event = told.event
        if news and abs(now - event.at) > TELL_AGAIN:
            event = Event(now, event.mac, event.service, event.kind, _with_secs(event.detail, question[8:10]))
            self._see(told.client.mac, told.client.uuid, told.client, now)
        told.event = self._context.journal.record(event)
        if news:
            told.asked = now
            self._progress.watch(told.reply, told.client.mac, lambda: told.client, event.detail, now)
        return left

    def _keep(self, lease: Lease, mac: Mac | None, then: Callable[[], object] | None) -> None:
        """Call `then` once the lease is on disk.  If it cannot be: no answer, the binding is undone, somebody must look."""

        def kept(error: StoreError | None) -> None:
            if error:
                self._context.leases.undo(lease)
                self._record(mac, "lease not kept", {"address": lease.address, "why": str(error)}, "alarm")
                return
            self._context.leases.kept(lease)
            if then:
                self._sender.begin()  # until all that were kept with it are told
                then()

        self._context.store.submit(lease, kept)

    def _see(self, mac: Mac, uuid: str | None, kind: Client, now: float) -> None:
        """Note a machine that boots over the network, described or not.  kind: itself, or one like it."""
        if kind.arch or kind.loader is not Loader.FIRMWARE:
            self._context.store.see(mac, uuid, kind.arch.value if kind.arch else None, kind.vendor_class, now)

    # ------------------------------------------------------------------ silence

    def _ignore(self, mac: Mac | None, why: str, now: float) -> None:
        """Seen but not answered: noted with its reason, the same one once in a while."""
        if self._is_news(mac, why, now):
            self._record(mac, "ignored", {"why": why}, at=now)

    def _malformed(self, why: str, arrival: Arrival) -> None:
        """Counted each time, told once in a while for each kind of fault."""
        if self._is_news(None, re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", why), arrival.now):
            self._record(None, "malformed", {"from": arrival.peer[0], "why": why}, at=arrival.now)
        else:
            self._context.journal.counts["dhcp", "malformed"] += 1

    def _is_news(self, mac: Mac | None, why: str, now: float) -> bool:
        if abs(now - self._said.get((mac, why), 0.0)) < SAY_AGAIN:
            return False
        if len(self._said) > 10_000:
            self._said.clear()
        self._said[mac, why] = now
        return True

    # ------------------------------------------------------------------ other servers, other holders

    async def _look_around(self, refuse: bool) -> None:
        """Ask for other servers on all networks; let server mode lease where nobody else does.

        refuse: raise OperatorError where somebody else does; otherwise that network is not served until it is gone.
        """
        sites = self._context.sites
        asked = tuple(sites.sites)
        self._probed |= {site.ifindex for site in asked}
        await self.neighbours.probe(asked)
        for site in asked:
            sites.mark_foreign_pxe(site.ifindex, any(other.pxe for other in self.neighbours.present(site.ifindex)))
            if site.network.mode != "server" or self._may_lease(site):
                continue
            found = self.neighbours.leasing(site.ifindex)
            if not found:
                self._cleared.add(site.ifindex)
                continue
            what = f"a {' and a '.join(map(str, found))} leases addresses on {site.interface} already"
            mend = "Set `dhcp: proxy` to boot machines beside it, stop it, or set `force: true` to lease all the same."
            if refuse:
                raise OperatorError(site.network.where or f"interface {site.interface}", what, mend)
            self._record(None, "not leasing", {"interface": site.interface, "why": f"{what}. {mend}"}, "alarm")

    def _overhear(self, named: str, site: Site, ifindex: int) -> None:
        """A client took the offer of that server."""
        if named not in ("", NO_ADDRESS) and self._context.sites.of_address(named) is None:
            self.neighbours.named(ifindex, site.interface, named)

    def _on_unsent(self, address: str, why: str) -> None:
        self._record(None, "not sent", {"to": address, "why": why}, "warning")

    def _on_neighbour(self, other: Neighbour) -> None:
        site = self._context.sites.at(other.ifindex)
        rival = site is not None and site.network.mode == "server" and other.leases and not site.network.force
        kind = "other PXE server" if other.pxe else "other DHCP server"
        detail = {"interface": other.interface, "server": other.address, "card": other.mac or "", "what": str(other)}
        if other.pxe and self._context.settings.unknown is None:
            detail["why"] = "machines that nobody described are left to it here (set `unknown` to boot them all the same)"
        elif rival:
            detail["why"] = "two servers that lease the same network hand out the same addresses: stop one, or set `dhcp: proxy`"
        # Those that were there first are the network as it is; one that comes later is somebody's mistake, or an attack.
        late = self._looked and (other.pxe or len(self.neighbours.leasing(other.ifindex)) > 1)
        self._record(None, kind, detail, "alarm" if rival or late else "warning" if other.pxe else "info")
        if other.pxe:
            self._context.sites.mark_foreign_pxe(other.ifindex)

    def _on_conflict(self, lease: Lease, site: Site) -> None:
        why = f"{lease.mac} answers there on {site.interface}, though nobody leased it: it is given to nobody for an hour"
        self._record(None, "conflict", {"address": lease.address, "why": why}, "warning")
        self._keep(lease, None, None)

    def _on_proxy_arp(self, mac: Mac, site: Site) -> None:
        why = f"{mac} answers for every address on {site.interface} (proxy ARP): what it says of free ones is not believed"
        self._record(None, "proxy arp", {"why": why}, "warning")

    def _on_sites(self) -> None:
        """Links, addresses or settings changed."""
        self._withhold()
        for site in self._answering():
            try:
                self._claims.claim(site.interface)
            except OperatorError as error:
                self._record(None, "two of us", {"why": str(error)}, "alarm")
        if any(site.ifindex not in self._probed for site in self._context.sites.sites):
            self._look.set()

    def _withhold(self) -> None:
        """Reservations, and our own addresses, are never chosen for anybody else."""
        inventory, sites = self._context.registry.current, self._context.sites
        own = {str(address.ip) for link in sites.links.values() for address in link.addresses}
        self._context.leases.withhold(own | {machine.address for machine in inventory.machines.values() if machine.address})
        self._inventory = inventory

    # ------------------------------------------------------------------ the journal

    def _record(self, mac: Mac | None, kind: str, detail: dict[str, Any], level: str = "info", at: float | None = None) -> None:
        self._context.journal.record(Event(self._clock() if at is None else at, mac, "dhcp", kind, detail, level))


def _style_learned(state: MachineState) -> str | None:
    """The reply style that a machine understands, "" if none was learned; None: more is known of the machine than that."""
    if state is FRESH:
        return ""
    return state.reply_style if state == MachineState(reply_style=state.reply_style) else None


def _with_secs(detail: Mapping[str, Any], secs: bytes) -> Mapping[str, Any]:
    """The detail with the seconds that the client says it has been asking for, if it says any (RFC 2131 §2)."""
    if secs == b"\0\0":
        return {key: value for key, value in detail.items() if key != "secs"} if "secs" in detail else detail
    return {**detail, "secs": int.from_bytes(secs, "big")}
