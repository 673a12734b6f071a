"""What a DHCP message is answered with, and where the answer goes: server, proxy and port 4011.  No sockets, no clock.

RFC 2131 §4.3 for a server; PXE 2.1 §2.2 for a proxy, which answers DISCOVERs of PXE and HTTP clients with boot data and
nothing else, and for port 4011, which answers whatever such a client asks there.  Whoever gets no answer gets a reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pixieboot.leases import Holder, Leases, inside
from pixieboot.model import (
    NO_ADDRESS,
    Arrival,
    Assignment,
    Client,
    FetchScript,
    Lease,
    LeaseState,
    LoadNBP,
    LocalDisk,
    Machine,
    Network,
    Silence,
    Site,
    Step,
)
from pixieboot.policy import next_boot
from pixieboot.pxe import (
    APPLE,
    BOOT_ITEM,
    CREDENTIALS,
    add_boot_data,
    boot_item,
    calls_itself_boot_client,
    client_of,
    delay_of,
    is_boot_client,
    style_of,
    with_no_pxedhcp,
)
from pixieboot.wire import dhcp as wire
from pixieboot.wire.dhcp import Message, packed, parts, payload_limit, reply_to

__all__ = ["Deed", "Destination", "Noted", "Reply", "client_key", "client_of", "network_of", "repeat", "respond", "selector"]

BROADCAST = "255.255.255.255"
SERVER_PORT, CLIENT_PORT, BOOT_SERVER_PORT = 67, 68, 4011
_ETHERNET = (1, 6)  # htype, hlen
# Options that no operator sets: they are the protocol's, or are computed for each lease.
_OURS = frozenset((0, 50, 51, 52, 53, 54, 55, 57, 61, 82, 97, 255))
_BOOT_OPTIONS = frozenset((43, 60, 66, 67, 150, 175, 208, 209, 210, 211, *range(128, 136)))  # all that a proxy may add
_NO_BOOT_OPTIONS_OF_NETWORK = frozenset((43, 60, 66, 67))  # for all clients of a network; boot data is for this client
_BSDP = "Apple's BSDP is not spoken: an Intel Mac boots from a USB stick with iPXE"


@dataclass(slots=True)
class Destination:
    """Where a reply goes.  chaddr set: to that card at layer 2, for nothing else reaches a client without an address."""

    address: str
    port: int
    chaddr: bytes = b""


@dataclass(slots=True)
class Reply:
    """An answer to send.

    kind is the event's: offered, acked, naked, informed, pxe acked.  lease, if any, must be durable before the answer leaves.
    limit is encode's.  delay: seconds to wait before sending.  style: the reply style of boot data, "" without.  deed: what
    it did to the bindings, for `repeat`.
    """

    message: Message
    destination: Destination
    kind: str
    step: Step | None = None
    why: str = ""
    lease: Lease | None = None
    limit: int = wire.FLOOR
    delay: float = 0.0
    style: str = ""
    deed: "Deed | None" = None
    _detail: dict[str, Any] | None = None

    def detail(self, client: Client) -> Mapping[str, Any]:
        """What the journal says of it."""
        if self._detail is None:
            self._detail = self._told(client)
        return self._detail

    def _told(self, client: Client) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.message.yiaddr != NO_ADDRESS:
            found["address"] = self.message.yiaddr
        match self.step:
            case LoadNBP(path, "http"):
                found["url"] = path
            case LoadNBP(path):
                found["nbp"] = path
            case FetchScript(url):
                found["url"] = url
        if self.step is not None:
            found["arch"] = client.arch.value if client.arch else ""
            found["loader"] = client.loader.value
        if client.serial:
            found["serial"] = client.serial
        if self.style:
            found["style"] = self.style
        found["why"] = self.why
        return found


@dataclass(slots=True)
class Deed:
    """What an OFFER or ACK asked of the bindings.  wanted: option 50 of a DISCOVER; selecting: the ACK followed an offer."""

    who: Holder
    site: Site
    reserved: str | None
    wanted: str
    seconds: int
    selecting: bool


@dataclass(frozen=True, slots=True)
class Noted:
    """No answer, but a binding changed: the store must keep it.  kind: released | declined."""

    lease: Lease
    kind: str
    why: str


def selector(message: Message) -> str:
    """The address that tells which network this client is on; "" when that is the network of the arrival interface.

    Link selection (RFC 3527), subnet selection behind a relay (RFC 3011), the relay (RFC 2131 §4.3.1), and for a client
    that renews through a router its own address.
    """
    if message.giaddr != NO_ADDRESS:
        return _agent(message).get(5, "") or message.address(wire.SUBNET_SELECTION) or message.giaddr
    return "" if message.ciaddr == NO_ADDRESS else message.ciaddr


def network_of(message: Message, client: Client, machine: Machine | None, sites: Sequence[Site], leases: Leases) -> Site:
    """Which of the networks on one link a client without an address belongs to.

    By the server that it names; a DISCOVER by its reservation, by what it holds, by what it held; by the address it asks for;
    else the first with an address for a stranger.  For a proxy, which leases nothing: the first.
    """
    named, wanted, asks = message.address(wire.SERVER_ID), message.address(wire.REQUESTED_ADDRESS), message.type == wire.DISCOVER
    reserved, client_id = (machine and machine.address) or "", message.options.get(wire.CLIENT_ID, b"")

    def record(site: Site) -> Lease | None:
        key = client_key(message.chaddr, message.htype, client_id, site.network) or client.mac
        return leases.of(key, site.subnet) if asks else None

    def holds(site: Site) -> bool:
        held = record(site)
        return held is not None and held.state is not LeaseState.EXPIRED

    rules: tuple[Callable[[Site], bool], ...] = (
        lambda site: site.address == named,
        lambda site: asks and reserved != "" and inside(reserved, site.subnet),
        holds,
        lambda site: record(site) is not None,
        lambda site: wanted != "" and inside(wanted, site.subnet) and (not asks or leases.has_room(site)),
        leases.has_room,
    )
    if sites[0].network.mode == "proxy":
        rules = rules[:2]
    return next((site for rule in rules for site in sites if rule(site)), sites[0])


def _agent(message: Message) -> dict[int, str]:
    """The addresses among the sub-options of option 82."""
    found = parts(message.options.get(wire.AGENT, b""))
    return {code: wire.dotted(value) for code, value in found if len(value) == 4 and any(value)}


def respond(
    message: Message, client: Client, arrival: Arrival, assignment: Assignment, site: Site, leases: Leases
) -> Reply | Noted | Silence:
    """The answer to one message.  Changes leases only; the same message on the same facts gets the same answer."""
    if message.op != wire.REQUEST:
        return Silence("it is an answer, not a question (op 2)")
    kind = message.type
    if kind == 0 and wire.MESSAGE_TYPE in message.options:
        return Silence("its DHCP message type (option 53) is not one octet")
    if kind == 0:
        return Silence("BOOTP without a DHCP message type: a lease for it would never end")
    if kind in (wire.OFFER, wire.ACK, wire.NAK) or kind > wire.INFORM:
        return Silence(f"DHCP message type {kind} is no client's")
    mode = site.network.mode
    if mode == "off":
        return Silence(f"DHCP is off on {site.interface} (dhcp: off)")
    if arrival.port == BOOT_SERVER_PORT:
        return _boot_server(message, client, arrival, assignment, site)
    if mode == "server":
        return _Server(message, client, arrival, assignment, site, leases).answer(kind)
    return _proxy(message, client, arrival, assignment, site)


def repeat(reply: Reply, leases: Leases, now: float) -> Lease | None:
    """Do its deed again, for the same question on the same facts: its lease, offered or bound anew.

    None if the bindings have changed, so that it must be answered afresh.
    """
    deed, address = reply.deed, reply.message.yiaddr
    assert deed is not None, "what did nothing is sent again as it is"
    held = leases.at(address)
    if held is None or held.client != deed.who.key:
        return None
    if reply.kind == "offered":
        lease = leases.offer(deed.who, deed.site, deed.reserved, deed.wanted, now)
    elif held.state is LeaseState.BOUND or (deed.selecting and held.state is LeaseState.OFFERED):
        lease = leases.bind(deed.who, deed.site, deed.reserved, address, deed.seconds, now)
    else:
        return None
    return lease if isinstance(lease, Lease) and lease.address == address else None


def _proxy(message: Message, client: Client, arrival: Arrival, assignment: Assignment, site: Site) -> Reply | Silence:
    """Boot data for a DISCOVER, beside another server that leases the address."""
    if message.options.get(wire.VENDOR_CLASS, b"").startswith(APPLE):
        return Silence(_BSDP)
    boots = calls_itself_boot_client(message, client)
    if boots and message.type == wire.INFORM and boot_item(message) is not None:
        return _boot_server(message, client, arrival, assignment, site)  # what ROMs before PXE 2.0 did instead of 4011
    if message.type != wire.DISCOVER:
        return Silence("a proxy answers DISCOVER only: this is between the client and the server that leases")
    if not boots:
        return Silence("neither a PXE nor an HTTP boot client: the server that leases answers it alone (dhcp: proxy)")
    step = next_boot(client, assignment, site)
    if not isinstance(step, LoadNBP | FetchScript):
        return Silence(step.why)
    reply = reply_to(message)
    style = style_of(client, assignment, leasing=False)
    data = _boot_options(site) | add_boot_data(reply, message, client, step, site, style, leasing=False)
    _override(reply, data, assignment, _BOOT_OPTIONS)
    _finish(reply, message, wire.OFFER, site, data)
    if message.giaddr != NO_ADDRESS:
        # There is no address to send it to, so the relay has to broadcast it whatever the client asked for.
        reply.flags |= wire.BROADCAST_FLAG
        destination = Destination(message.giaddr, SERVER_PORT)
    else:
        destination = Destination(BROADCAST, CLIENT_PORT)
    return Reply(
        reply,
        destination,
        "offered",
        step,
        step.why,
        limit=payload_limit(message),
        delay=delay_of(client, assignment),
        style=style,
    )


def _boot_server(message: Message, client: Client, arrival: Arrival, assignment: Assignment, site: Site) -> Reply | Silence:
    """Port 4011: the boot file, to the port the client asks from (EDK2 listens on 4011, everybody else on 68)."""
    if message.type not in (wire.DISCOVER, wire.DHCPREQUEST, wire.INFORM):
        return Silence(f"DHCP message type {message.type} has no business on port 4011")
    if not calls_itself_boot_client(message, client):
        return Silence("port 4011 is for PXE and HTTP boot clients")
    named = message.address(wire.SERVER_ID)
    if named and named not in (site.address, arrival.address):
        return Silence(f"it asks the boot server {named}")
    item = boot_item(message)
    if item is not None and (item[2] << 8 | item[3]) & CREDENTIALS:
        return Silence("it wants credentials (BIS), which nothing here can give")
    step = next_boot(client, assignment, site)
    if not isinstance(step, LoadNBP | FetchScript):
        return Silence(step.why)
    reply = reply_to(message)
    reply.ciaddr = message.ciaddr
    data = _boot_options(site) | add_boot_data(reply, message, client, step, site, "", leasing=False)
    if item is not None:
        data[wire.VENDOR] = bytes((BOOT_ITEM, 4)) + item + b"\xff"
    _override(reply, data, assignment, _BOOT_OPTIONS)
    _finish(reply, message, wire.ACK, site, data)
    address, port = arrival.peer
    if address == NO_ADDRESS:
        address = message.ciaddr if message.ciaddr != NO_ADDRESS else BROADCAST
    return Reply(reply, Destination(address, port), "pxe acked", step, step.why, limit=payload_limit(message))


@dataclass(slots=True)
class _Server:
    """One message to a server that leases (RFC 2131 §4.3)."""

    message: Message
    client: Client
    arrival: Arrival
    assignment: Assignment
    site: Site
    leases: Leases

    def answer(self, kind: int) -> Reply | Noted | Silence:
        if self.site.answer == "known" and not self.assignment.known:
            return Silence(f"{self.assignment.why}; only known machines are answered (answer: known)")
        who = _holder(self.message, self.client, self.assignment, self.site.network)
        if who is None:
            return Silence("it has neither a hardware address nor a client-id: nothing to know it by")
        if kind == wire.DISCOVER:
            return self._discover(who)
        if kind == wire.DHCPREQUEST:
            return self._request(who)
        if kind == wire.INFORM:
            return self._inform()
        named = self.message.address(wire.SERVER_ID)
        if named and not self._is_ours(named):
            return Silence(f"it tells the server {named}")
        if kind == wire.DECLINE:
            changed = self.leases.decline(who, self.message.address(wire.REQUESTED_ADDRESS), self.arrival.now)
            if isinstance(changed, str):
                return Silence(changed)
            why = f"the client found {changed.address} in use: for a day nobody gets it while others are free"
            return Noted(changed, "declined", why)
        changed = self.leases.release(who, self.message.ciaddr, self.arrival.now)
        if isinstance(changed, str):
            return Silence(changed)
        return Noted(changed, "released", f"the client gave {changed.address} back")

    @property
    def _reserved(self) -> str | None:
        address = self.assignment.machine.address if self.assignment.machine else None
        return address if address and _leasable(address, self.site) else None

    def _is_ours(self, server: str) -> bool:
        return server in (self.site.address, self.arrival.address) or server == _agent(self.message).get(11)

    def _discover(self, who: Holder) -> Reply | Silence:
        wanted = self.message.address(wire.REQUESTED_ADDRESS)
        lease = self.leases.offer(who, self.site, self._reserved, wanted, self.arrival.now)
        if isinstance(lease, str):
            return Silence(lease)
        seconds, reserved = self._seconds(), self._reserved
        reply = self._grant(wire.OFFER, lease.address, seconds, "offered")
        reply.deed = Deed(who, self.site, reserved, wanted, seconds, selecting=False)
        return reply

    def _request(self, who: Holder) -> Reply | Silence:
        """SELECTING, INIT-REBOOT, RENEWING or REBINDING, told apart by options 54, 50 and ciaddr (RFC 2131 §4.3.2)."""
        message, leases, now = self.message, self.leases, self.arrival.now
        named, wanted = message.address(wire.SERVER_ID), message.address(wire.REQUESTED_ADDRESS)
        has_address = message.ciaddr != NO_ADDRESS
        if named and not self._is_ours(named):
            leases.drop_offer(who.key, self.site.subnet, now)
            return Silence(f"it took the offer of another server, {named}")
        address = wanted or (message.ciaddr if has_address else "")
        if not address:
            return Silence("a REQUEST that names no address")
        if not named and (reason := self._doubt(who, address, renewing=not wanted)):
            return reason
        seconds, reserved = self._seconds(), self._reserved
        lease = leases.bind(who, self.site, reserved, address, seconds, now)
        if isinstance(lease, str):
            return self._refuse(who, address, lease)
        reply = self._grant(wire.ACK, address, seconds, "acked", lease)
        # A client that is to move to its reservation is asked each time whether it can.
        if named or reserved in (None, address):
            reply.deed = Deed(who, self.site, reserved, wanted, seconds, selecting=bool(named))
        return reply

    def _doubt(self, who: Holder, address: str, renewing: bool) -> Reply | Silence | None:
        """The answer to a client that comes back with an address of its own which we do not stand by; None if we do."""
        site, reserved = self.site, self._reserved
        record = self.leases.of(who.key, site.subnet)
        known = record is not None and record.state is not LeaseState.OFFERED
        if not inside(address, site.subnet):
            if renewing and not known and not site.network.authoritative:
                return Silence(f"{address} is not of this network, and this client is unknown: another server may know better")
            return self._refuse(who, address, f"{address} is not an address of {site.subnet}")
        if reserved and address != reserved and self.leases.obtainable(who, site, reserved):
            return self._refuse(who, address, f"its reservation is {reserved}")
        if address == reserved:
            return None
        holder = self.leases.at(address)
        if known and record is not None and record.address != address:
            return self._refuse(who, address, f"its address is {record.address}")
        if not known:
            if renewing and holder and holder.state is LeaseState.BOUND:
                return self._refuse(who, address, f"{address} is bound to another client")
            if not site.network.authoritative:
                return Silence(f"no record of this client: another server may have leased {address} (RFC 2131 §4.3.2)")
            return self._refuse(who, address, f"nobody here leased {address}")
        return None

    def _refuse(self, who: Holder, address: str, why: str) -> Reply:
        """DHCPNAK: broadcast, or by the relay which then broadcasts it (RFC 2131 §4.3.2)."""
        message, reply = self.message, reply_to(self.message)
        _finish(reply, message, wire.NAK, self.site, {wire.ERROR_TEXT: why.encode()[:200]})
        freed = self.leases.release(who, address, self.arrival.now)  # a refused client must stop using it at once
        destination = Destination(BROADCAST, CLIENT_PORT)
        if message.giaddr != NO_ADDRESS:
            reply.flags |= wire.BROADCAST_FLAG
            destination = Destination(message.giaddr, SERVER_PORT)
        kept = None if isinstance(freed, str) else freed
        return Reply(reply, destination, "naked", why=why, lease=kept, limit=payload_limit(message))

    def _inform(self) -> Reply | Silence:
        """Parameters for a client that has its address from elsewhere; allocates nothing (RFC 2131 §4.3.5)."""
        if self.message.options.get(wire.VENDOR_CLASS, b"").startswith(APPLE):
            return Silence(_BSDP)
        address = self.message.ciaddr if self.message.ciaddr != NO_ADDRESS else self.arrival.peer[0]
        if address == NO_ADDRESS or not inside(address, self.site.subnet):
            return Silence(f"INFORM from {address}, which is not an address of {self.site.subnet}")
        reply = self._grant(wire.ACK, NO_ADDRESS, 0, "informed")
        if self.message.giaddr == NO_ADDRESS:
            reply.destination = Destination(address, CLIENT_PORT)
        return reply

    def _seconds(self) -> int:
        """The lease time: what the client wishes, within the network's limits; never 0, never infinite."""
        network, wish = self.site.network, self.message.options.get(wire.LEASE_TIME, b"")
        if len(wish) != 4:
            return network.lease_time
        longest = max(network.max_lease_time, network.lease_time)
        return min(max(int.from_bytes(wish, "big"), network.min_lease_time), longest)

    def _grant(self, kind: int, address: str, seconds: int, event: str, lease: Lease | None = None) -> Reply:
        """An OFFER or ACK: parameters of network, group and machine, and boot data for those who ask for it."""
        message, client, site = self.message, self.client, self.site
        reply = reply_to(message)
        reply.yiaddr = address
        if kind == wire.ACK:
            reply.ciaddr = message.ciaddr
        data = {**_times(seconds), **_parameters(site)}
        machine = self.assignment.machine
        if machine and machine.hostname:
            data[wire.HOST_NAME] = machine.hostname.encode()
        step: Step | None = None
        style, why = "", "an ordinary DHCP client: a lease without boot data"
        if is_boot_client(message, client):
            for code in _NO_BOOT_OPTIONS_OF_NETWORK:
                data.pop(code, None)
            step = next_boot(client, self.assignment, site)
            why = step.why
            if isinstance(step, LoadNBP | FetchScript):
                style = style_of(client, self.assignment, leasing=True)
                data |= add_boot_data(reply, message, client, step, site, style, leasing=True)
            elif isinstance(step, LocalDisk):
                why = f"a lease without boot data: {why}"
        if machine and machine.address and address not in (machine.address, NO_ADDRESS):
            why += f"; its reservation {machine.address} is "
            why += "taken" if self._reserved else f"no address for a machine of {site.subnet}"
        _override(reply, data, self.assignment, None)
        _fit_times(data, seconds)
        if wire.IPV6_ONLY in data and wire.IPV6_ONLY not in message.options.get(wire.PARAMETER_LIST, b""):
            del data[wire.IPV6_ONLY]  # RFC 8925 §3.3: who does not ask keeps IPv4
        if wire.IPXE in data and step is not None:
            data[wire.IPXE] = with_no_pxedhcp(data[wire.IPXE])
        if wire.SUBNET_SELECTION in message.options and message.giaddr != NO_ADDRESS:
            data[wire.SUBNET_SELECTION] = message.options[wire.SUBNET_SELECTION]  # RFC 3011 §2: it was heeded
        _finish(reply, message, kind, site, data)
        return Reply(
            reply,
            _destination(message, address),
            event,
            step,
            why,
            lease,
            payload_limit(message),
            delay_of(client, self.assignment) if step else 0.0,
            style=style,
        )


def _holder(message: Message, client: Client, assignment: Assignment, network: Network) -> Holder | None:
    """By what this client is known: its MAC, or its client-id where the operator wants that (RFC 2131 §4.2, RFC 4390)."""
    client_id = message.options.get(wire.CLIENT_ID, b"")
    key = client_key(message.chaddr, message.htype, client_id, network) or (client.mac if any(message.chaddr) else "")
    if not key:
        return None
    source = b""
    if message.giaddr != NO_ADDRESS and wire.AGENT in message.options:
        source = message.giaddr.encode() + message.options[wire.AGENT]
    kin = assignment.machine.macs if assignment.machine else ()
    return Holder(key, client.mac, client_id, client.labels.get("hostname", ""), source, kin)


def client_key(chaddr: bytes, htype: int, client_id: bytes, network: Network) -> str:
    """The client-id as the key of its leases; "" for a client that is known by its MAC."""
    if not client_id or (any(chaddr) and (network.identify_by == "mac" or client_id == bytes((htype,)) + chaddr)):
        return ""
    return f"id:{client_id.hex()}"


def _leasable(address: str, site: Site) -> bool:
    """May a machine of this network have this address at all?  Not ours, nor one that means the whole network."""
    subnet = site.subnet
    edges = (subnet.network_address.packed, subnet.broadcast_address.packed) if subnet.prefixlen < 31 else ()
    return inside(address, subnet) and address != site.address and packed(address) not in edges


def _destination(message: Message, address: str) -> Destination:
    """Where an OFFER or ACK goes (RFC 2131 §4.1).

    giaddr set: the relay, port 67.  ciaddr set: unicast to it.  Broadcast flag, or no Ethernet: broadcast.  Otherwise
    unicast to yiaddr at chaddr, which has no ARP entry yet: the shell sends at layer 2 or broadcasts.
    """
    if message.giaddr != NO_ADDRESS:
        return Destination(message.giaddr, SERVER_PORT)
    if message.ciaddr != NO_ADDRESS:
        return Destination(message.ciaddr, CLIENT_PORT)
    if message.flags & wire.BROADCAST_FLAG or (message.htype, message.hlen) != _ETHERNET:
        return Destination(BROADCAST, CLIENT_PORT)
    return Destination(address, CLIENT_PORT, message.chaddr)


@lru_cache(1024)
def _times(seconds: int) -> Mapping[int, bytes]:
    """The lease time and when to renew and rebind (RFC 2131 §4.4.5); nothing for 0, which is no lease."""
    if not seconds:
        return {}
    times = {wire.LEASE_TIME: seconds, wire.T1: seconds // 2, wire.T2: seconds * 7 // 8}
    return {code: time.to_bytes(4, "big") for code, time in times.items()}


def _fit_times(data: dict[int, bytes], seconds: int) -> None:
    """Keep an operator's T1 and T2 where they fit this lease; none without a lease (RFC 2131 §4.3.5, §4.4.5)."""
    renew, rebind = (int.from_bytes(data.get(code, b""), "big") for code in (wire.T1, wire.T2))
    if not 0 < renew <= rebind < seconds:
        data.pop(wire.T1, None)
        data.pop(wire.T2, None)
        data |= _times(seconds)


def _boot_options(site: Site) -> dict[int, bytes]:
    """What a network's options add to the boot data of each client: PXELINUX's 209 and 210, and the like."""
    return {code: value for code, value in site.network.options.items() if code in _BOOT_OPTIONS - _NO_BOOT_OPTIONS_OF_NETWORK}


def _override(reply: Message, data: dict[int, bytes], assignment: Assignment, only: frozenset[int] | None) -> None:
    """Options of the group, then of the machine, over what was computed; a boot file among them also goes into its field."""
    for holder in (assignment.group, assignment.machine):
        if holder and holder.options:
            for code, value in holder.options.items():
                if code not in _OURS and (only is None or code in only):
                    data[code] = value
                    if code == wire.BOOT_FILE:
                        reply.file = value if len(value) <= 127 else b""


def _finish(reply: Message, message: Message, kind: int, site: Site, data: dict[int, bytes]) -> None:
    """Put the options in order: type and server, what the client asked for in its order (55), the rest; echo 61 and 82."""
    asked = message.options
    server = _agent(message).get(11, site.address) if wire.AGENT in asked else site.address  # RFC 5107
    options = {wire.MESSAGE_TYPE: bytes((kind,)), wire.SERVER_ID: packed(server)}
    for code in _in_order(asked.get(wire.PARAMETER_LIST, b""), tuple(data)):
        options[code] = data[code]
    if wire.CLIENT_ID in asked:
        options[wire.CLIENT_ID] = asked[wire.CLIENT_ID]  # RFC 6842
    if wire.AGENT in asked:
        options[wire.AGENT] = asked[wire.AGENT]  # RFC 3046 §2.2
    reply.options = options


@lru_cache(1024)
def _in_order(wanted: bytes, present: tuple[int, ...]) -> tuple[int, ...]:
    """These options as the client's list has them, then those that it did not ask for."""
    return tuple(dict.fromkeys([*(code for code in wanted if code in present), *present]))


_parameters_of: dict[int, tuple[Site, Mapping[int, bytes]]] = {}


def _parameters(site: Site) -> Mapping[int, bytes]:
    """What every lease of this network says; worked out once for each Site."""
    held = _parameters_of.get(id(site))
    if held is not None and held[0] is site:
        return held[1]
    network = site.network
    found = {wire.SUBNET_MASK: site.subnet.netmask.packed, wire.BROADCAST_ADDRESS: site.subnet.broadcast_address.packed}
    if network.routers:
        found[wire.ROUTERS] = b"".join(map(packed, network.routers))
    if network.dns:
        found[wire.DNS] = b"".join(map(packed, network.dns))
    if network.domain:
        found[wire.DOMAIN_NAME] = network.domain.encode()
    found |= {code: value for code, value in network.options.items() if code not in _OURS}
    if len(_parameters_of) > 256:
        _parameters_of.clear()
    _parameters_of[id(site)] = (site, found)
    return found
