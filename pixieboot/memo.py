"""Replies remembered: to a client that asks again, and to strangers, who differ from one another in little.

A client's own reply is valid for the same datagram, xid and secs left aside.  Strangers are machines of which registry and
store hold nothing but a reply style.  What one of them was answered is a form for all others that ask alike: transaction,
address, MAC, client-id (RFC 6842), GUID, and the MAC's directory before the boot program are blanks, filled in from the
datagram that asks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from pixieboot.dhcp import Destination, Reply, client_key
from pixieboot.leases import Holder, Leases
from pixieboot.model import NO_ADDRESS, Client, Lease, Loader, Mac, Site
from pixieboot.pxe import said, uuid_in
from pixieboot.wire.dhcp import BOOT_FILE, CLIENT_ID, CLIENT_UUID, HOST_NAME, REQUESTED_ADDRESS, Message, dotted, packed, spans
from pixieboot.wire.frame import IP_SUM, PAYLOAD, TARGET, TO, UDP_SUM, checksum, totals_of

_XID, _SECS, _YIADDR, _CHADDR, _FILE = slice(4, 8), slice(8, 10), slice(16, 20), slice(28, 34), slice(108, 236)
_OWN = (HOST_NAME, REQUESTED_ADDRESS, CLIENT_ID, CLIENT_UUID)
_NOTHING = slice(0, 0)
_AT_ONCE = b"\0\0"  # secs of a client that has just begun to ask
_KIND = slice(240, 243)  # most clients say first whether it is a DISCOVER or a REQUEST
_ASKER = slice(24, 34)  # giaddr and chaddr: two relays may hand on the same question
_OPENING = slice(240, 272)  # in which ROM, iPXE and operating system differ
_DASHED = 17  # octets of a MAC's directory
_Pick = Callable[[Sequence[bytes] | bytes], tuple[bytes, ...]]  # an itemgetter: these items, or these slices


@dataclass(slots=True)
class Remembered:
    """An encoded reply and what it was made of."""

    facts: tuple[object, ...]
    client: Client
    reply: Reply
    datagram: bytes


Kept = TypeVar("Kept", bound=Remembered)


class Own(NamedTuple):
    """What a datagram says of this very client."""

    xid: bytes
    secs: bytes
    chaddr: bytes
    hostname: bytes
    wanted: bytes
    client_id: bytes
    guid: bytes

    @property
    def requested(self) -> str:
        """The address that it asks for, "" for none: as Message.address has it."""
        return dotted(self.wanted) if len(self.wanted) == 4 else ""


@dataclass(slots=True)
class Form:
    """What one stranger was answered, with blanks for what was its own."""

    facts: tuple[object, ...]
    client: Client  # that stranger
    reply: Reply
    site: Site
    link: int
    image: bytes  # the frame, or the datagram where the kernel sends it, as a format of bytes
    blanks: _Pick  # of the datagram in their order, out of (xid, yiaddr, chaddr, dashed, client_id, guid)
    spread: bytes  # these alone, as a format of bytes: each in the 16-bit words that it stands in
    totals: tuple[int, int] | None  # of all the rest of a frame, for the checksums of IP and UDP; None: the kernel sends it
    said: Mapping[str, Any]  # what the journal says of that stranger
    path: tuple[str, str, str] | None  # which detail names the boot program, and what stands before and behind the MAC there

    def holder(self, own: Own, mac: Mac) -> Holder | None:
        """Who asks for an address here; None: there is none to lease."""
        if self.reply.deed is None:
            return None
        key = (own.client_id and client_key(own.chaddr, 1, own.client_id, self.site.network)) or mac
        return Holder(key, mac, own.client_id, said(own.hostname) if own.hostname else "", self.reply.deed.who.source)

    def claim(self, own: Own, who: Holder, leases: Leases, now: float) -> Lease | str:
        """Offer or bind an address to this client, as was done for the one before; or why not."""
        deed = self.reply.deed
        assert deed is not None, "where there is a holder"
        if deed.selecting:
            return leases.bind(who, self.site, None, own.requested, deed.seconds, now)
        return leases.offer(who, self.site, None, own.requested, now)

    def asker(self, own: Own, mac: Mac) -> Client:
        """This client, as far as its kind and its names go."""
        kind = self.client
        return Client(mac, kind.arch, kind.loader, uuid=uuid_in(own.guid), vendor_class=kind.vendor_class)

    def told(self, own: Own, who: Holder, address: str) -> Reply:
        """What `repeat` needs of the reply that this client would have had without a form."""
        assert self.reply.deed is not None, "where there is a holder"
        return replace(
            self.reply,
            message=replace(self.reply.message, yiaddr=address),
            destination=self.destination(address, own.chaddr),
            deed=replace(self.reply.deed, who=who, wanted=own.requested),
        )

    def answer(self, own: Own, address: str, dashed: str) -> bytes:
        """The frame for this client, or the datagram where the kernel sends it."""
        octets = packed(address)
        filled = self.blanks((own.xid, octets, own.chaddr, dashed.encode(), own.client_id, own.guid))
        if self.totals is None:
            return self.image % filled
        ip, udp = self.totals
        udp += int.from_bytes(self.spread % filled, "big")
        if not self.reply.destination.chaddr:
            return self.image % (checksum(udp), *filled)
        target = int.from_bytes(octets, "big")
        return self.image % (own.chaddr, checksum(ip + target), octets, checksum(udp + target), *filled)

    def destination(self, address: str, chaddr: bytes) -> Destination:
        """Where it goes."""
        to = self.reply.destination
        return Destination(address, to.port, chaddr) if to.chaddr else to

    def detail(self, own: Own, address: str, dashed: str) -> dict[str, Any]:
        """What the journal says of it."""
        found = {**self.said}
        if "address" in found:
            found["address"] = address
        if self.path:
            name, before, behind = self.path
            found[name] = before + dashed + behind
        if own.secs != _AT_ONCE:
            found["secs"] = int.from_bytes(own.secs, "big")
        return found


def form_of(message: Message, told: Remembered, frame: bytes | None, site: Site, link: int) -> Form | None:
    """The form for this stranger's kind; None if more of its answer is its own than can be filled in.

    frame: that which told.datagram goes in; None: the kernel sends it.
    """
    client, reply, encoded = told.client, told.reply, told.datagram
    deed = reply.deed
    if (message.htype, message.hlen) != (1, 6) or message.ciaddr != NO_ADDRESS or client.loader is Loader.RASPBERRY_PI:
        return None
    if reply.delay or not (reply.kind == "offered" or (deed and deed.selecting)):
        return None
    found = spans(encoded, (CLIENT_ID, CLIENT_UUID, BOOT_FILE))
    if found is None:
        return None
    mac, dashed = client.mac, client.mac.dashed.encode()
    blanks = [(_XID, 0), (_YIADDR, 1), (_CHADDR, 2)]
    for code, number in ((CLIENT_ID, 4), (CLIENT_UUID, 5)):
        if code in found:
            if encoded[found[code]] != message.options.get(code):
                return None
            blanks.append((found[code], number))
    for area in (_FILE, found.get(BOOT_FILE, _NOTHING)):
        at = encoded.find(dashed, area.start, area.stop)
        if at >= 0:
            blanks.append((slice(at, at + _DASHED), 3))
    blanks.sort(key=lambda blank: blank[0].start)
    pick = itemgetter(*[number for _, number in blanks])
    gaps = [span for span, _ in blanks]
    spread = b"".join(b"\0" * (gap.start % 2) + b"%b" + b"\0" * (gap.stop % 2) for gap in gaps)
    # Whatever else names this client would be told to all others.
    own = [message.chaddr, dashed, mac.encode()]
    own += [message.options[code] for code in (CLIENT_ID, CLIENT_UUID) if code in message.options]
    if any(mark in piece for piece in _between(encoded, gaps) for mark in own):
        return None
    path, detail = None, reply.detail(client)
    for name, value in detail.items():
        if isinstance(value, str) and client.mac.dashed in value:
            before, _, behind = value.partition(client.mac.dashed)
            if path or name == "why":
                return None
            path = (name, before, behind)
    totals = None
    if frame:
        headers = [TO, IP_SUM, TARGET, UDP_SUM] if reply.destination.chaddr else [UDP_SUM]
        gaps = headers + [slice(PAYLOAD + gap.start, PAYLOAD + gap.stop) for gap in gaps]
        bare = bytearray(frame)
        for gap in (IP_SUM, *gaps):
            bare[gap] = bytes(gap.stop - gap.start)
        totals = totals_of(bytes(bare))
    image = b"%b".join(piece.replace(b"%", b"%%") for piece in _between(frame or encoded, gaps))
    return Form(told.facts, client, reply, site, link, image, pick, spread, totals, detail, path)


def _between(octets: bytes, gaps: Sequence[slice]) -> list[bytes]:
    """What stands before, between and behind the gaps, which are in order."""
    return [octets[a.stop : b.start] for a, b in pairwise((slice(0, 0), *gaps, slice(len(octets), None)))]


class _Cut:
    """Where datagrams of one build hold what is the client's own, and the forms of those that are alike in all the rest."""

    __slots__ = ("forms", "kind", "own", "spots")

    def __init__(self, spots: Mapping[int, slice]) -> None:
        self.spots = spots
        own = [_XID, _SECS, _CHADDR, *(spots.get(code, _NOTHING) for code in _OWN)]
        self.own: _Pick = itemgetter(*own)
        rest, at = [], 0
        for span in sorted((span for span in own if span is not _NOTHING), key=lambda span: span.start):
            rest.append(slice(at, span.start))
            at = span.stop
        self.kind: _Pick = itemgetter(*rest, slice(at, None))
        self.forms: dict[tuple[str, tuple[bytes, ...]], Form | None] = {}  # by style and kind; None: one of these was answered


def _place(datagram: bytes) -> bytes:
    """Under what an answer to it is held: who asks, and how the question begins."""
    return datagram[_ASKER] + datagram[_OPENING]


class Memo(Generic[Kept]):
    """Replies by the datagram that asked, and forms by what the datagrams of one kind have in common.

    Valid while every fact (inventory, site, state, port, peer …) is the very same object or equal.
    """

    CUTS = 16  # builds of datagrams: half a dozen firmwares, DISCOVER and REQUEST of each
    FORMS = 64  # of each build

    def __init__(self, size: int = 2048) -> None:
        self._size = size
        self._held: dict[bytes, tuple[bytes, Kept]] = {}  # by place; the question and its answer
        self._cuts: dict[tuple[int, bytes], list[_Cut]] = {}  # by the datagram's length and what stands where its type should

    def find(self, datagram: bytes) -> Kept | None:
        """What was answered to this datagram, xid and secs left aside.  The caller compares the facts."""
        held = self._held.get(_place(datagram))
        return held[1] if held and held[0] == datagram[:4] + datagram[10:] else None

    def has_room(self, datagram: bytes) -> bool:
        """Can the answer to this be kept without those of other clients being lost?"""
        return len(self._held) < self._size or _place(datagram) in self._held

    def keep(self, datagram: bytes, remembered: Kept) -> None:
        if not self.has_room(datagram):
            self._held.clear()
        self._held[_place(datagram)] = datagram[:4] + datagram[10:], remembered

    def forget(self, mac: Mac) -> None:
        """What this client was answered holds no more."""
        self._held = {key: held for key, held in self._held.items() if held[1].client.mac != mac}

    @staticmethod
    def again(remembered: Remembered, datagram: bytes) -> bytes:
        """The remembered reply with this request's xid."""
        return remembered.datagram[:4] + datagram[4:8] + remembered.datagram[8:]

    def form(self, datagram: bytes, style: str) -> tuple[Form, Own] | None:
        """The form for clients that ask like this, and what is this one's own.  The caller compares the facts.

        style: the reply style learned for this client, "" for none.
        """
        for cut in self._cuts.get((len(datagram), datagram[_KIND]), ()):
            if form := cut.forms.get((style, cut.kind(datagram))):
                return form, Own(*cut.own(datagram))
        return None

    def learn(self, datagram: bytes, style: str, make: Callable[[], Form | None]) -> None:
        """A stranger was answered.  Once a second one asks alike, a form is worth its making."""
        spots = spans(datagram, _OWN)
        if spots is None:
            return
        alike = (len(datagram), datagram[_KIND])
        cut = next((cut for cut in self._cuts.get(alike, ()) if cut.spots == spots), None)
        if cut is None:
            if sum(map(len, self._cuts.values())) >= self.CUTS:
                self._cuts.clear()
            cut = _Cut(spots)
            self._cuts.setdefault(alike, []).append(cut)
        kind = style, cut.kind(datagram)
        if kind in cut.forms:
            cut.forms[kind] = make()
        else:
            if len(cut.forms) >= self.FORMS:
                cut.forms.clear()
            cut.forms[kind] = None
