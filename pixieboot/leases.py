"""Who holds which address.  Every binding of the daemon in memory; rules only: no wire, no store, no clock of its own.

An address has one record or none: offered, bound, declined (quarantined) or expired (free, but remembered for its earlier
client).  Choice (RFC 2131 §4.3.1): the reservation; the client's current address; its earlier one; the one it asks for; one
that nobody ever had; the one that is free for longest; the one that was declined longest ago.  Nothing here scans a pool:
addresses that were never used are counted off, those that came back wait in a queue, and what runs out comes up from a heap.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from ipaddress import IPv4Network
from itertools import chain, filterfalse, islice
from math import inf

from pixieboot.model import Lease, LeaseState, Mac, Pool, Site
from pixieboot.wire.dhcp import dotted, packed

OFFER_HOLD = 60.0  # seconds that an offered address waits for its REQUEST
HURRIED_HOLD = 10.0  # the same while more than half of the pool is merely offered: somebody asks for all of it
OFFERS_PER_SOURCE = 32  # addresses offered at once behind one relay port (option 82), whatever MACs it shows
DECLINE_QUARANTINE = 86400.0  # the client saw somebody else there
CONFLICT_QUARANTINE = 3600.0  # we saw somebody else there
PROBE_LIFE = 600.0  # seconds that "nobody answers there" is believed
ASKED_LIFE = 40.0  # seconds, at least, that a stranger which was offered nothing is remembered
_ASKERS = 40_000
_AT_ONCE = 100  # ends of leases that one message has to wait for
_AHEAD = 32  # never used addresses counted off at once
_BIND, _OFFER, _DECLINED, _EXPIRED = LeaseState.BOUND, LeaseState.OFFERED, LeaseState.DECLINED, LeaseState.EXPIRED


@dataclass(slots=True)
class Holder:
    """Who asks for an address.

    key tells clients apart: the MAC, or "id:" and option 61 in hex.  source: the relay port it is behind.  kin: all cards of
    its machine, which share one reservation.
    """

    key: str
    mac: Mac
    client_id: bytes = b""
    hostname: str = ""
    source: bytes = b""
    kin: tuple[Mac, ...] = ()


@dataclass(slots=True)
class _Pools:
    """The addresses of one network's pools.  Free are those in unused and freed, and what is coming and fit and nobody's."""

    site: Site  # by which they were met
    spans: tuple[range, ...]  # of them what lies in the subnet
    size: int  # of all spans
    unfit: frozenset[str]  # what can never be a client's address
    coming: Iterator[str]  # what nobody has looked at yet
    unused: dict[str, None] = field(default_factory=dict)  # the next that nobody ever had
    freed: OrderedDict[str, None] = field(default_factory=OrderedDict)  # the one that is free for longest in front
    offered: set[str] = field(default_factory=set)  # and not taken; reservations left aside
    declined: dict[str, None] = field(default_factory=dict)  # by clients, the one of longest ago in front

    def __contains__(self, address: str) -> bool:
        number = _number(address)
        for span in self.spans:
            if number in span:
                return address not in self.unfit
        return False


class Leases:
    """All bindings.  now is in seconds since 1970 and may jump: time in here never runs backwards."""

    def __init__(self, stored: Iterable[Lease] = (), newest: float = 0.0) -> None:
        """stored: what the state store kept; newest: when it last kept something, so that a clock of 1970 expires nothing late."""
        self._records: dict[str, Lease] = {}
        self._held: dict[str, tuple[str, ...]] = {}  # client key -> its addresses, latest first
        self._heap: list[tuple[float, str]] = [(inf, "")]  # when records end; never empty
        self._due: dict[str, float] = {}  # address -> its one valid entry in the heap
        self._networks: dict[tuple[tuple[Pool, ...], IPv4Network], _Pools] = {}
        self._site: Site | None = None  # who asked last
        self._here: _Pools  # and its pools
        self._withheld: frozenset[str] = frozenset()
        self._before: dict[int, tuple[Lease, list[Lease]]] = {}  # bindings that are not kept yet, and what they replaced
        self._probed: dict[str, float] = {}
        self._source: dict[str, bytes] = {}
        self._offers: Counter[bytes] = Counter()
        self._askers: tuple[set[str], set[str], float] = (set(), set(), 0.0)  # strangers without an offer: of late, before, since
        self._seen = self._time = newest
        for lease in sorted(stored, key=lambda lease: lease.expires):
            if lease.state is not _OFFER:
                self._put(lease, self._records.get(lease.address))

    # What others ask

    def all(self) -> list[Lease]:
        """Every record, in no order; expired ones among them."""
        return list(self._records.values())

    def at(self, address: str) -> Lease | None:
        """The record of an address."""
        return self._records.get(address)

    def of(self, key: str, subnet: IPv4Network) -> Lease | None:
        """What this client holds or held there, a live record before an expired one, and that which it held last."""
        found = None
        for address in self._held.get(key, ()):
            if inside(address, subnet):
                record = self._records[address]
                if record.state is _BIND or record.state is _OFFER:
                    return record
                if record.state is _EXPIRED and (found is None or found.expires < record.expires):
                    found = record
        return found

    def awaits(self, key: str, request: bool) -> bool:
        """Does this client hold an address; or was it offered one, and this is its REQUEST?"""
        for address in self._held.get(key, ()):
            state = self._records[address].state
            if state is _BIND or (request and state is _OFFER):
                return True
        return False

    def obtainable(self, who: Holder, site: Site, reserved: str) -> bool:
        """Could this client have its reservation now?"""
        return inside(reserved, site.subnet) and self._free_for(reserved, who, reserved)

    def has_room(self, site: Site) -> bool:
        """Is there an address for a stranger?"""
        pools = self._pools(site)
        self._count_off(pools, 1)
        return bool(pools.unused or pools.freed)

    def withhold(self, addresses: Iterable[str]) -> None:
        """Addresses never to be chosen freely: reservations of machines, and our own.  Replaces what was said before."""
        before, self._withheld = self._withheld, frozenset(addresses)
        for address in self._withheld - before:
            for pools in self._networks.values():
                pools.freed.pop(address, None)
                pools.unused.pop(address, None)
                pools.offered.discard(address)
        for address in before - self._withheld:
            record = self._records.get(address)
            if record is None or record.state is _EXPIRED:
                self._queue(address)

    # What clients do

    def offer(self, who: Holder, site: Site, reserved: str | None, wanted: str, now: float) -> Lease | str:
        """The address to offer, held for it from now on; or why there is none.

        reserved: its machine's `address`.  wanted: option 50, "" for none.  A bound client is offered what it has.
        """
        now = self._tick(now)
        pools = self._pools(site)
        address = self._choose(who, site, pools, reserved, wanted)
        while address is None and self._end():
            address = self._choose(who, site, pools, reserved, wanted)
        if address is None:
            # Better one that somebody found in use once than none: a few DECLINEs empty no pool, and the wire is asked first.
            address = next((each for each in pools.declined if each not in self._withheld), None)
        if address is None:
            spans = ", ".join(f"{_text(pool.first)}-{_text(pool.last)}" for pool in site.network.pools)
            return f"no address is free in {spans or 'no pool'}"
        record = self._records.get(address)
        known = address == reserved
        if record and record.client == who.key:
            if record.state is _BIND or (record.state is _OFFER and record.expires - now > HURRIED_HOLD):
                return record
            known = True
        if who.source and not known and self._offers[who.source] >= OFFERS_PER_SOURCE:
            return f"{OFFERS_PER_SOURCE} addresses are offered to its relay port already and none was taken"
        hurried = len(pools.offered) * 2 > pools.size and not known
        if hurried and len(pools.offered) >= OFFERS_PER_SOURCE and not self._asked_before(who.key, now):
            return "most free addresses are offered and were not taken: a stranger that asks again is offered one"
        expires = now + (HURRIED_HOLD if hurried else OFFER_HOLD)
        lease = Lease(address, who.key, who.mac, _OFFER, expires, who.hostname, who.client_id)
        self._put(lease, record)
        if address != reserved:
            pools.offered.add(address)
        if who.source:
            self._source[address] = who.source
            self._offers[who.source] += 1
        return lease

    def bind(self, who: Holder, site: Site, reserved: str | None, address: str, seconds: float, now: float) -> Lease | str:
        """The address is the client's for so many seconds; or why it cannot be."""
        now = self._tick(now)
        pools, record = self._pools(site), self._records.get(address)
        replaced: list[Lease] = []
        own = record is not None and record.client == who.key and record.state is not _DECLINED
        if not own or address not in pools.offered:
            if not self._allowed(address, site, pools, reserved):
                return f"{address} is neither in the pools of this network nor reserved for it"
            if record and not own and not self._free_for(address, who, reserved):
                return f"{address} is {record.state.value} to {record.client or record.mac}"
            if record and (record.state is _BIND or record.state is _DECLINED):
                replaced.append(record)
        lease = Lease(address, who.key, who.mac, _BIND, now + seconds, who.hostname, who.client_id)
        for other in self._held.get(who.key, ()):
            if other != address and inside(other, site.subnet):
                held = self._records[other]
                if held.state is _BIND:
                    replaced.append(held)
                if held.state is _BIND or held.state is _OFFER:
                    self._expire(held, now)
        self._put(lease, record)
        if replaced:
            self._before[id(lease)] = lease, replaced
        return lease

    def replaces(self, lease: Lease) -> bool:
        """Does this binding, which is not kept yet, stand in the place of another?"""
        return id(lease) in self._before

    def kept(self, lease: Lease) -> None:
        """The store has this binding: there is no undoing it any more."""
        self._before.pop(id(lease), None)

    def undo(self, lease: Lease) -> None:
        """The store could not keep this: what was before a binding holds again.  Nobody is held to what he gave up."""
        _, replaced = self._before.pop(id(lease), (lease, []))
        for _, others in self._before.values():  # if one that came after it is not kept either
            if any(other is lease for other in others):
                others[:] = [*replaced, *(other for other in others if other is not lease)]
        if self._records.get(lease.address) is not lease or lease.state is not _BIND:
            return
        self._expire(lease, self._time)
        for before in replaced:
            now = self._records.get(before.address)
            if now and now.state is _EXPIRED and now.client in (before.client, lease.client):
                self._put(before, now)

    def drop_offer(self, key: str, subnet: IPv4Network, now: float) -> None:
        """The client took another server's offer: ours is free again (RFC 2131 §3.1.4)."""
        now = self._tick(now)
        record = self.of(key, subnet)
        if record and record.state is _OFFER:
            self._expire(record, now)

    def release(self, who: Holder, address: str, now: float) -> Lease | str:
        """The client gives its address back; remembered for it while nobody else needs it.  Or why nothing happened."""
        now = self._tick(now)
        record = self._records.get(address)
        if record is None or record.client != who.key or record.state is not _BIND:
            return f"{address} is not bound to this client"
        return self._expire(record, now)

    def decline(self, who: Holder, address: str, now: float) -> Lease | str:
        """The client found it in use: nobody gets it for a day while others are free.  Or why nothing happened."""
        now = self._tick(now)
        record = self._records.get(address)
        if record is None or record.client != who.key or record.state not in (_BIND, _OFFER):
            return f"{address} is neither offered nor bound to this client"
        lease = replace(record, state=_DECLINED, expires=now + DECLINE_QUARANTINE)
        self._put(lease, record)
        for pools in self._networks.values():
            if address in pools:
                pools.declined[address] = None
        return lease

    # What the wire says of addresses that are not given out yet

    def to_probe(self, site: Site, count: int, now: float) -> list[str]:
        """The next addresses that strangers would be offered and that nobody has asked the wire about lately."""
        now = self._tick(now)
        pools = self._pools(site)
        self._count_off(pools, count)
        found = islice(chain(pools.unused, pools.freed), count)
        return [address for address in found if not self._believed(address, now)]

    def fresh(self, address: str, now: float) -> bool:
        """Should the wire be asked about this address before it is bound?  Not for one that is bound or was probed just now."""
        record = self._records.get(address)
        return not (record and record.state is _BIND) and not self._believed(address, self._tick(now))

    def mark_free(self, address: str, now: float) -> None:
        """Nobody answered there."""
        self._probed[address] = self._tick(now)

    def mark_in_use(self, address: str, mac: Mac, now: float) -> Lease | None:
        """Somebody answered there: quarantined unless it is the one who holds it.  A binding stays; an offer does not."""
        now = self._tick(now)
        record = self._records.get(address)
        if record and (record.state is _BIND or record.state is _DECLINED or (record.state is _OFFER and record.mac == mac)):
            return None
        lease = Lease(address, "", mac, _DECLINED, now + CONFLICT_QUARANTINE)
        self._put(lease, record)
        return lease

    def _asked_before(self, key: str, now: float) -> bool:
        """Did this stranger ask in the last minute or so?  Made-up clients ask once; firmware asks at 4, 8 and 16 seconds."""
        latest, earlier, since = self._askers
        if now - since > ASKED_LIFE or len(latest) >= _ASKERS:
            latest, earlier = set(), latest if now - since < 2 * ASKED_LIFE else set()
            self._askers = latest, earlier, now
        if key in latest or key in earlier:
            return True
        latest.add(key)
        return False

    # Choice

    def _choose(self, who: Holder, site: Site, pools: _Pools, reserved: str | None, wanted: str) -> str | None:
        if reserved and self.obtainable(who, site, reserved):
            return reserved
        record = self.of(who.key, site.subnet)
        if record and self._allowed(record.address, site, pools, None):
            return record.address
        if wanted and self._allowed(wanted, site, pools, None) and self._free_for(wanted, who, None):
            return wanted
        if not pools.unused:
            self._count_off(pools, _AHEAD)
        found = next(iter(pools.unused or pools.freed), None)
        if found is None and reserved and inside(reserved, site.subnet):
            # Its machine's other card holds the reservation.  Two cards may be up at once, so only when nothing else is left.
            record = self._records[reserved]
            if record.state is _BIND and record.mac in who.kin:
                return reserved
        return found

    def _count_off(self, pools: _Pools, count: int) -> None:
        """See to it that so many addresses which nobody ever had are known, if there are so many."""
        coming = pools.coming
        for taken in (self._records, pools.freed, self._withheld):
            coming = filterfalse(taken.__contains__, coming)
        pools.unused.update(dict.fromkeys(islice(coming, max(count - len(pools.unused), 0))))

    def _allowed(self, address: str, site: Site, pools: _Pools, reserved: str | None) -> bool:
        """May this client have this address on this network at all?"""
        if address == reserved:
            return inside(address, site.subnet)
        return address not in self._withheld and address in pools

    def _free_for(self, address: str, who: Holder, reserved: str | None) -> bool:
        record = self._records.get(address)
        if record is None or record.state is _EXPIRED:
            return True
        if record.state is _DECLINED:
            return not record.client and record.mac == who.mac  # the one we saw there is the one who asks
        # The same card under another client-id (ROM, installer, OS) may follow itself to its reservation.
        return record.client == who.key or (address == reserved and (record.mac == who.mac or record.state is _OFFER))

    # Records

    def _put(self, lease: Lease, old: Lease | None) -> None:
        """The record of an address, in place of its old one."""
        address, client = lease.address, lease.client
        self._records[address] = lease
        if old is None or old.state is _EXPIRED:
            for pools in self._networks.values():
                pools.freed.pop(address, None)
                pools.unused.pop(address, None)
        elif old.state is _OFFER:
            for pools in self._networks.values():
                pools.offered.discard(address)
            if address in self._source:
                source = self._source.pop(address)
                self._offers[source] -= 1
                if not self._offers[source]:
                    del self._offers[source]
        elif old.state is _DECLINED:
            self._trust(address)
        if old is None or old.client != client:
            if old is not None:
                self._forget(old)
            if client:  # what we quarantined ourselves is nobody's
                self._held[client] = (address, *self._held.get(client, ()))
        if lease.state is _EXPIRED:
            self._queue(address)
        elif lease.expires < self._due.get(address, inf):  # a later end is found out when the earlier entry comes up
            self._due[address] = lease.expires
            heappush(self._heap, (lease.expires, address))

    def _trust(self, address: str) -> None:
        """It is declined no more."""
        for pools in self._networks.values():
            pools.declined.pop(address, None)

    def _forget(self, lease: Lease) -> None:
        rest = tuple(address for address in self._held.get(lease.client, ()) if address != lease.address)
        if rest:
            self._held[lease.client] = rest
        else:
            self._held.pop(lease.client, None)

    def _expire(self, held: Lease, now: float) -> Lease:
        """Free again, remembered for its client.  What was merely offered is the first to be offered again."""
        address = held.address
        lease = Lease(address, held.client, held.mac, _EXPIRED, now, held.hostname, held.client_id)
        self._put(lease, held)
        if held.state is _BIND:
            self._probed.pop(address, None)
        else:
            for pools in self._networks.values():
                if address in pools.freed:
                    pools.freed.move_to_end(address, last=False)
        return lease

    def _queue(self, address: str) -> None:
        for pools in self._networks.values():
            if address in pools and address not in self._withheld:
                pools.freed[address] = None

    def _pools(self, site: Site) -> _Pools:
        if site is not self._site:
            known = self._networks.get((site.network.pools, site.subnet))
            # Equal pools of new settings may have another router.
            if known is None or known.site.network is not site.network:
                known = self._met(site)
            self._site, self._here = site, known
        return self._here

    def _met(self, site: Site) -> _Pools:
        """The pools of a network that is seen for the first time, or anew with other settings."""
        network, subnet = site.network, site.subnet
        lowest, highest = int(subnet.network_address), int(subnet.broadcast_address)
        edges = {str(subnet.network_address), str(subnet.broadcast_address)} if subnet.prefixlen < 31 else set()
        unfit = frozenset({*edges, site.address, *network.routers, *network.dns})
        spans = tuple(range(max(pool.first, lowest), min(pool.last, highest) + 1) for pool in network.pools)
        coming = filterfalse(unfit.__contains__, map(_text, chain(*spans)))
        pools = self._networks[network.pools, subnet] = _Pools(site, spans, sum(map(len, spans)), unfit, coming)
        for lease in sorted(self._records.values(), key=lambda lease: lease.expires):
            if lease.address not in pools:
                continue
            if lease.state is _DECLINED and lease.client:
                pools.declined[lease.address] = None
            elif lease.state is _EXPIRED and lease.address not in self._withheld:
                pools.freed[lease.address] = None
            elif lease.state is _OFFER and lease.address not in self._withheld:
                pools.offered.add(lease.address)
        return pools

    # Time

    def _tick(self, now: float) -> float:
        """Our time: the clock's, but where that jumped back it goes on from where it was.  Ends what has run out."""
        if now >= self._time:
            self._time = now
        else:
            self._time += min(max(now - self._seen, 0.0), 3600.0)
        self._seen = now
        if self._heap[0][0] <= self._time:
            self._end()
        return self._time

    def _end(self) -> bool:
        """End what has run out, but not more than a message can wait for: all leases of a school may end at eight o'clock.

        False if there was nothing to do.  What is left follows with the next message, or when no other address is free.
        """
        looked = 0
        while self._heap[0][0] <= self._time and looked < _AT_ONCE:
            due, address = heappop(self._heap)
            looked += 1
            if self._due.get(address) != due:
                continue
            del self._due[address]
            record = self._records[address]
            if record.state is _EXPIRED:
                continue
            if record.expires > self._time:
                self._due[address] = record.expires
                heappush(self._heap, (record.expires, address))
            elif record.state is _DECLINED:
                self._trust(address)
                self._forget(record)
                del self._records[address]
                self._queue(address)
            else:
                self._expire(record, self._time)
        return looked > 0

    def _believed(self, address: str, now: float) -> bool:
        return now - self._probed.get(address, -PROBE_LIFE) < PROBE_LIFE


def inside(address: str, subnet: IPv4Network) -> bool:
    """Is this dotted address in the subnet?"""
    return _number(address) & int(subnet.netmask) == int(subnet.network_address)


def _number(address: str) -> int:
    return int.from_bytes(packed(address), "big")


def _text(number: int) -> str:
    return dotted(number.to_bytes(4, "big"))
