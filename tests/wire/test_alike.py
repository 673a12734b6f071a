"""What a client is told does not depend on who asked before it: the service with its memory, beside one that has none.

Both get the same datagrams of hostile clients that differ in what is their own (12, 50, 61, 97, chaddr, secs), in how their
options are put down, and in octets changed at random, while the registry is edited; every datagram that leaves, where to, and
what the journal says of it must be the same.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network
from struct import unpack
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pixieboot import config
from pixieboot.dhcp import Destination
from pixieboot.inventory import Inventory
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.memo import Form, Memo, Own
from pixieboot.model import Arch, Event, Group, Lease, Mac, Machine, MachineState, Network, Pool, Profile
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import Discovered, StateStore
from pixieboot.serve.context import Context
from pixieboot.serve.dhcpd import DhcpService
from pixieboot.serve.links import Link, Sites
from pixieboot.serve.sender import Sender
from pixieboot.wire.dhcp import RELEASE, decode, encode
from tests.test_dhcp import BIOS, DISCOVER, HTTP, INFORM, IPXE, LINUX, NOW, OURS, PI, REQUEST, UEFI, a_message, aton

ETH0 = Link(2, "eth0", b"\x52\x54\0\0\0\2", 1500, 0x43, 1, (IPv4Interface(f"{OURS}/24"),))
POOL = (Pool(0x0A4D0064, 0x0A4D0068),)  # five addresses: they run out
BEHIND = Network(mode="server", subnet=IPv4Network("10.78.0.0/24"), pools=(Pool(0x0A4E0064, 0x0A4E0068),), force=True, probe=False)
KNOWN, GROUPED, LEARNED = Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02"), Mac("52:54:00:00:00:03")
GUID = "00112233-4455-6677-8899-aabbccddeeff"
MENU = Profile("linux", kernel="k")
SETTINGS = config.load(None, {})


class Forgetful(Memo[Any]):
    """Remembers nothing."""

    def find(self, datagram: bytes) -> None:
        return None

    def form(self, datagram: bytes, style: str) -> None:
        return None


class Counting(Memo[Any]):
    """Tells how often a form was found."""

    found = 0

    def form(self, datagram: bytes, style: str) -> tuple[Form, Own] | None:
        found = super().form(datagram, style)
        self.found += found is not None
        return found


class Wire:
    """What would leave, kept: as frames of our own, and by one of the ports."""

    def __init__(self) -> None:
        self.sent: list[tuple[object, ...]] = []
        self.crowded = False

    def send(self, *sent: object) -> None:
        self.sent.append(sent)


class Gone:
    """A card that takes no frame."""

    def send(self, *_: object) -> None:
        raise OSError("the link is gone")


class AtOnce(Sender):
    """By that wire alone; who is to wait for its answer gets it too, and the delay is noted."""

    def __init__(self, wire: Wire, sites: Sites) -> None:
        super().__init__(dict.fromkeys((67, 4011), wire), sites, lambda *_: None)  # type: ignore[arg-type]
        self._frames, self._wire = wire, wire  # type: ignore[assignment]

    def reply(self, to: Destination, delay: float, encoded: bytes, port: int, link: int, source: str) -> tuple[Link, bytes] | None:
        if delay:
            self._wire.send("after", delay)
        framed = super().reply(to, 0.0, encoded, port, link, source)
        return None if delay else framed


class Service(DhcpService):
    """Without sockets, and without waiting."""

    def __init__(self, context: Context, memo: Memo[Any], clock: Callable[[], float]) -> None:
        super().__init__(context, clock)
        self._memo, self.wire = memo, Wire()
        self._ports = dict.fromkeys(self._ports, self.wire)  # type: ignore[arg-type]
        self._sender = AtOnce(self.wire, context.sites)

    def _keep(self, lease: Lease, mac: Mac | None, then: Callable[[], object] | None) -> None:
        if then:
            then()


class Store:
    """A state store of memory only."""

    def __init__(self) -> None:
        self._states = {LEARNED: MachineState(loader_fetches=3, reply_style="menu")}
        self._discovered: dict[Mac, Discovered] = {}
        self.on_told: list[Callable[[], object]] = []

    states = StateStore.states
    state = StateStore.state
    seen = StateStore.seen

    def set_state(self, key: str, state: MachineState) -> None:
        self._states[Mac(key)] = state

    def has_room(self, key: str) -> bool:
        return True

    may_see = has_room

    def see(self, mac: Mac, uuid: str | None, arch: str | None, vendor: str, now: float) -> bool:
        known = self._discovered.get(mac)
        self._discovered[mac] = Discovered(mac, uuid or (known.uuid if known else None), arch, vendor, now, now)
        return known is None


@dataclass
class Side:
    """One of the two."""

    service: Service
    events: list[Event]


class Both:
    """The two beside one another."""

    def __init__(self, inventory: Inventory, network: Network, **changes: Any) -> None:
        self.now = NOW
        self.memo = Counting()
        self.sides = [self._side(inventory, network, memo, **changes) for memo in (self.memo, Forgetful())]

    def _side(self, inventory: Inventory, network: Network, memo: Memo[Any], **changes: Any) -> Side:
        loaders = {Arch.X86_BIOS: "undionly.kpxe", Arch.X64_EFI: "ipxe.efi"}
        networks = (network, BEHIND) if network.mode == "server" else (network,)
        asked = replace(SETTINGS, networks=networks, loaders=loaders, **changes)
        registry = Registry("/nonexistent")
        registry.current = inventory
        events: list[Event] = []
        journal = Journal(io.StringIO())
        journal.listen(events.append)
        sites = Sites(asked, lambda: [ETH0], bytes(32))
        context = Context(asked, registry, Store(), Leases(), journal, sites)  # type: ignore[arg-type]
        return Side(Service(context, memo, lambda: self.now), events)

    def ask(self, datagram: bytes, port: int, peer: tuple[str, int]) -> None:
        told = []
        for side in self.sides:
            side.service.wire.sent.clear()
            side.events.clear()
            side.service._on_datagram(port, datagram, peer, 2, OURS)
            events = [
                (each.kind, each.mac, each.level, {**each.detail, "secs": 0}) for each in side.events if each.kind != "ignored"
            ]
            told.append((list(side.service.wire.sent), events))
        assert told[0][0] == told[1][0], datagram.hex()
        assert all(is_whole(sent[1]) for sent in told[0][0] if isinstance(sent[0], Link)), datagram.hex()
        if told[0][1] and told[1][1]:  # what is the same as just before is no news
            assert told[0][1] == told[1][1], datagram.hex()
        leases = [sorted(side.service._context.leases.all(), key=lambda lease: lease.address) for side in self.sides]
        assert leases[0] == leases[1]

    def edit(self, inventory: Inventory) -> None:
        for side in self.sides:
            side.service._context.registry.current = inventory


def is_whole(frame: Any) -> bool:
    """Are both checksums right?  Each adds up to 0xFFFF with what it is of (RFC 1071)."""
    ip, udp = frame[14:34], frame[26:34] + b"\0\x11" + frame[38:40] + frame[34:] + bytes(len(frame) % 2)
    return all(sum(unpack(f"!{len(each) // 2}H", each)) % 0xFFFF == 0 for each in (ip, udp))


octets = st.binary(max_size=8)
addresses = st.sampled_from([aton(f"10.77.0.{last}") for last in (2, 99, 100, 101, 102)] + [b"", b"\1\2\3", b"\x0a\x4d\0\x64\0"])
names = st.sampled_from([b"", b"a", b"host1", b"host2", b"\0", b"b\0", b"\xff\xfe", b"%b%s%%"])
macs = st.sampled_from(
    [m.octets for m in (KNOWN, GROUPED, LEARNED)] + [b"\2\0\0\0\0" + bytes((n,)) for n in range(6)]
) | st.sampled_from([bytes(6), b"\xff" * 6, b"\xb8\x27\xeb\0\0\1", b"\xdc\xa6\x32\0\0\2", b"%b%%-%"])
guids = st.sampled_from(
    [
        b"",
        b"\0" + bytes(16),
        b"\0" + b"\xff" * 16,
        b"\0" + bytes.fromhex(GUID.replace("-", "")),
        b"\0" + bytes.fromhex("33221100554477668899aabbccddeeff"),
        b"\0RPi4" + bytes(range(12)),
        b"\0" + b"abcd" * 4,
        b"\1" + bytes(range(16)),
        b"\0" + bytes(range(16)),
        b"\0" + bytes(range(1, 17)),
        bytes(16),
    ]
) | st.binary(min_size=17, max_size=17)
ids = (
    st.sampled_from(
        [b"", b"\1\2\0\0\0\0\1", b"\2\0\0\0\0\1", b"\1", b"%", b"P", b"PXE", b"\0\0\0\0", b"undionly", b"\xff" + bytes(range(18))]
    )
    | octets
)
kinds = st.fixed_dictionaries(
    {},
    optional={
        51: st.sampled_from([b"\0\0\0\0", b"\xff" * 4, b"\0\0\1\0", b"x"]),
        54: st.just(aton(OURS)),
        55: st.sampled_from([b"\1\3\6", bytes((1, 3, 66, 67, 43)), bytes((97, 61, 12, 67)), b"\x6c"]),
        57: st.sampled_from([b"\5\xc0", b"\2\x40", b"\xff\0", b"\1"]),
        60: st.sampled_from([b"PXEClient:Arch:00000:%b", b"PXEClient", b"HTTPClient:Arch:00016", b"udhcp", b"AAPLBSDPC", b""]),
        77: st.sampled_from([b"iPXE", b"\4iPXE", b"gPXE"]),
        82: st.sampled_from(
            [b"\1\4port", b"\5\4" + aton("10.78.0.1"), b"\x0b\4" + aton("10.77.0.9"), b"\1\6\2\0\0\0\0\1", b"\5\4" + b"\n"]
        ),
        93: st.sampled_from([b"\0\0", b"\0\7", b"\0\x10", b"\0\x0b\0\7", b"\0"]),
        118: st.sampled_from([aton("10.78.0.0"), b"\1"]),
        175: st.sampled_from([b"\x13\1\1", b"\1\1\1", b""]),
        43: st.sampled_from([b"\x47\4\x80\0\0\0\xff", b"\xff"]),
        250: st.binary(max_size=3),
    },
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "flags": st.sampled_from([0, 0x8000, 1]),
        "giaddr": st.sampled_from(["0.0.0.0", "10.77.0.9", "10.78.0.1", "192.0.2.1"]),
        "ciaddr": st.sampled_from(["0.0.0.0", "10.77.0.100"]),
        "hlen": st.sampled_from([6, 0, 5, 16]),
        "htype": st.sampled_from([1, 6]),
        "hops": st.just(1),
        "sname": st.just(b"x"),
    },
)


shapes = st.sampled_from(["", "pads", "backwards", "twice", "two parts", "behind the end", "no end", "names", "overload"])


def laid_out(datagram: bytes, shape: str) -> bytes:
    """The same datagram with its options put down in another way, and as long if there is room."""
    head, pieces, at = datagram[:240], [], 240
    while datagram[at] != 255:
        size = 2 + datagram[at + 1]
        pieces.append(datagram[at : at + size])
        at += size
    behind = b"\xff"
    if shape == "pads":
        pieces = [piece for each in pieces for piece in (each, b"\0")]
    elif shape == "backwards":
        pieces.reverse()
    elif shape == "twice":
        pieces += pieces[-2:]
    elif shape == "two parts":  # RFC 3396
        pieces += [bytes((piece[0], 1)) + b"z" for piece in pieces[-2:]]
    elif shape == "behind the end":
        behind += pieces[-1]
    elif shape == "no end":
        behind = b""
    elif shape == "names":
        head = head[:44] + b"server".ljust(64, b"\0") + b"file".ljust(128, b"\0") + head[236:]
    elif shape == "overload":
        moved = pieces.pop() + b"\xff"
        head = head[:108] + moved[:128].ljust(128, b"\0") + head[236:]
        pieces.append(b"\x34\1\1")
    return (head + b"".join(pieces) + behind).ljust(len(datagram), b"\0")


@st.composite
def strangers(draw: st.DrawFn) -> list[bytes]:
    """Datagrams of clients that ask alike, but for what is their own."""
    options = {
        **draw(st.sampled_from([{}, BIOS, UEFI, HTTP, IPXE, LINUX, PI])),
        **draw(kinds if draw(st.booleans()) else st.just({})),
    }
    kind = draw(st.sampled_from([DISCOVER, DISCOVER, DISCOVER, REQUEST, INFORM]))
    given_fields = draw(fields if draw(st.booleans()) else st.just({}))
    order = draw(st.permutations(range(4))) if draw(st.booleans()) else range(4)
    shape = draw(st.just("") | shapes)
    present = draw(st.sets(st.sampled_from((12, 50, 61, 97)))) | ({50, 54} if kind == REQUEST else set())
    if 54 in present:
        options[54] = aton(OURS)
    sizes: dict[int, int] = {}
    found = []
    for number in range(draw(st.integers(3, 6))):
        own: dict[int, bytes] = {}
        for at in order:
            code, values = ((12, names), (50, addresses), (61, ids), (97, guids))[at]
            if code not in present:
                continue
            value = draw(values)
            size = sizes.setdefault(code, len(value))
            own[code] = value[:size].ljust(size, b"\7")  # of one length, or no two would ask alike
        others = {code: value for code, value in options.items() if code not in (12, 50, 61, 97)}
        message = a_message(
            kind,
            {**others, **own},
            chaddr=draw(macs) if number > 1 else b"\2\7\x31\x9a\xe5" + bytes((number,)),
            xid=draw(st.integers(0, 2**32 - 1)),
            **(draw(fields) if number > 1 and draw(st.sampled_from([False, False, False, True])) else given_fields),
        )
        message.secs = draw(st.sampled_from([0, 4, 0x0400]))
        other = number > 1 and draw(st.sampled_from([False, False, False, True]))
        datagram = bytearray(laid_out(encode(message), draw(shapes) if other else shape))
        for _ in range(draw(st.sampled_from([0, 0, 1, 3])) if number > 1 else 0):
            datagram[draw(st.integers(0, len(datagram) - 1))] = draw(st.integers(0, 255))
        found.append(bytes(datagram))
    return found


NETWORKS = {
    "server": Network(interface="eth0", mode="server", pools=POOL, force=True, probe=False),
    "by client-id": Network(interface="eth0", mode="server", pools=POOL, force=True, probe=False, identify_by="client-id"),
    "proxy": Network(interface="eth0"),
}
INVENTORIES = {
    "nothing described": Inventory.build(),
    "some described": Inventory.build(
        [
            Machine("web1", macs=(KNOWN,), hostname="web1", address="10.77.0.103", options={67: b"own"}),
            Machine("web2", uuid=GUID, loader={"*": "mine.efi"}, address="10.77.0.102"),
        ],
        [
            Group("all", profile="linux", options={12: b"group", 17: b"100%", 67: b"52-54-00-00-00-02/%b.efi"}),
            Group("one", {"mac": GROUPED}, "linux", options={15: b"grouped"}),
            Group("vendor", {"vendor": "udhcp"}, options={6: b"\1\1\1\1"}),
        ],
        [MENU],
    ),
    "by name": Inventory.build([], [Group("named", {"hostname": "host1"}, "linux", options={67: b"named.efi"})], [MENU]),
    "by GUID": Inventory.build([], [Group("one", {"uuid": GUID}, "linux", options={67: b"uuid.efi"})], [MENU]),
    "by serial": Inventory.build([], [Group("one", {"serial": "61626364"}, "linux", options={67: b"serial.efi"})], [MENU]),
}
ONE_OF_THEM = Inventory.build([Machine("late", macs=(Mac("02:00:00:00:00:01"),), address="10.77.0.101", hostname="late")])


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("inventory", INVENTORIES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(groups=st.lists(strangers(), min_size=1, max_size=3), data=st.data())
def test_nobody_is_told_what_is_anothers(inventory: str, network: str, groups: list[list[bytes]], data: st.DataObject) -> None:
    both = Both(INVENTORIES[inventory], NETWORKS[network])
    datagrams = [datagram for group in groups for datagram in group]
    datagrams += data.draw(st.lists(st.sampled_from(datagrams), max_size=5))  # who asks again
    edited = data.draw(st.integers(0, 3 * len(datagrams)))
    for number, datagram in enumerate(datagrams):
        both.now += data.draw(st.sampled_from([0.0, 0.0, 0.5, 7.0, 70.0]))
        if number == edited:
            both.edit(data.draw(st.sampled_from([INVENTORIES[inventory], INVENTORIES["some described"], ONE_OF_THEM])))
        port = data.draw(st.sampled_from([67, 67, 67, 67, 4011]))
        peer = data.draw(st.sampled_from([("0.0.0.0", 68), ("0.0.0.0", 68), ("10.77.0.100", 68), ("10.77.0.101", 4011)]))
        both.ask(datagram, port, peer)
    event(f"by form: {both.memo.found > 0}")


def test_an_address_of_three_octets_asks_for_none_of_a_client_answered_by_form_either() -> None:
    both = Both(Inventory.build(), NETWORKS["server"])
    for number in range(4):
        message = a_message(DISCOVER, {50: b"\1\2\3"}, chaddr=b"\2\0\0\0\0" + bytes((number,)))
        both.ask(encode(message), 67, ("0.0.0.0", 68))
    assert both.memo.found


@pytest.mark.parametrize("network", NETWORKS)
def test_what_the_card_does_not_take_is_a_datagram_for_the_kernel(network: str) -> None:
    both = Both(Inventory.build(), NETWORKS[network])
    for side in both.sides:
        side.service._sender._frames = Gone()  # type: ignore[assignment]
    for number in (1, 2, 3, 3):
        both.ask(encode(a_message(DISCOVER, UEFI, chaddr=b"\2\0\0\0\0" + bytes((number,)))), 67, ("0.0.0.0", 68))
        ((datagram, to, link, source),) = both.sides[0].service.wire.sent
        assert isinstance(datagram, bytes) and decode(datagram).chaddr[5] == number
        assert (to, link, source) == (("255.255.255.255", 68), 2, OURS)
    assert both.memo.found


def test_an_inform_is_answered_where_it_came_from_though_it_is_the_same_as_before() -> None:
    both = Both(Inventory.build(), NETWORKS["server"])
    for peer in ("10.77.0.100", "10.77.0.101", "0.0.0.0"):
        both.ask(encode(a_message(INFORM)), 67, (peer, 68))


def test_a_clock_that_is_set_back_a_day_delays_nothing_by_a_day() -> None:
    both = Both(Inventory.build(), NETWORKS["server"])
    styles = []
    for step in (0, 3, 3, 3, -86400, 3, 3, 3):
        both.now += step
        both.ask(encode(a_message(DISCOVER, UEFI)), 67, ("0.0.0.0", 68))
        styles += [each.detail["style"] for each in both.sides[0].events if each.kind == "style"]
    assert len(styles) == 2, "the style changes after three questions, also of those who ask again"


def test_who_waits_for_his_reservation_is_asked_to_move_once_it_is_free() -> None:
    both, other = Both(Inventory.build(), NETWORKS["server"]), Mac("02:00:00:00:00:01")
    for mac, address in ((other, "10.77.0.100"), (KNOWN, "10.77.0.101")):
        for message in (a_message(DISCOVER), a_message(REQUEST, {50: aton(address), 54: aton(OURS)})):
            both.ask(encode(replace(message, chaddr=mac.octets)), 67, ("0.0.0.0", 68))
    both.edit(Inventory.build([Machine("web1", macs=(KNOWN,), address="10.77.0.100")]))
    renewal = encode(a_message(REQUEST, chaddr=KNOWN.octets, ciaddr="10.77.0.101"))
    for _ in range(2):
        both.ask(renewal, 67, ("10.77.0.101", 68))
        assert [each.kind for each in both.sides[1].events] in (["acked"], [])
    both.ask(encode(a_message(RELEASE, chaddr=other.octets, ciaddr="10.77.0.100")), 67, ("10.77.0.100", 68))
    both.ask(renewal, 67, ("10.77.0.101", 68))
    assert [each.kind for each in both.sides[0].events] == ["naked"]
