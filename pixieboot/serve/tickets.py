"""Per-boot addresses of documents that hold secrets: /secret/TICKET/PATH.

A ticket is the proof, by a key that stays on this host, that we handed out this address for this machine, and until when.  So
it outlives a restart in the middle of a boot; and so does the note of who has used it, which is on disk before the answer.

What it keeps out: those who come later, and those on other machines.  Not whoever takes the machine's MAC address.
"""

import base64
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from pixieboot.errors import OperatorError
from pixieboot.model import Assignment, Mac
from pixieboot.serve.context import Context

LIFETIME = 900  # seconds in which a document must be fetched: a slow machine loads its kernel and initrd meanwhile
AGAIN = 60.0  # seconds in which whoever has fetched it may do so again: a transfer may break off
SAME_BOOT = 60.0  # seconds in which the same machine gets the same address again: its script and the signature of it
REMEMBERED = 4096
ARP = Path("/proc/net/arp")
_TIME, _NONCE, _PROOF, _KEY = 4, 8, 16, 32  # octets


class Denied(Exception):
    """A ticket that is not good.  str(): why, without the ticket; alarm: somebody else used it."""

    def __init__(self, why: str, alarm: bool = False) -> None:
        super().__init__(why)
        self.alarm = alarm


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for which document, and what it shows for it.  key: the machine's in the state store."""

    ticket: str | None
    subject: str
    part: str
    peer: str
    key: str


class Tickets:
    """Hands out addresses and says who may use them."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.time) -> None:
        self._context, self._clock = context, clock
        self._issued: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()  # (subject, peer) -> when, ticket

    def issue(self, address: str, peer: str) -> str:
        """The per-boot form of an address of ours ("/ignition?mac=…") for the machine that asks from peer."""
        parts = urlsplit(address)
        subject = subject_of(parts.path.split("/"), parts.query.encode())
        now = self._clock()
        at, ticket = self._issued.get((subject, peer), (0.0, ""))
        if not 0 <= now - at < SAME_BOOT:
            payload = (int(now) + LIFETIME).to_bytes(_TIME) + os.urandom(_NONCE)
            ticket = base64.urlsafe_b64encode(payload + self._proof(payload, subject)).decode().rstrip("=")
            self._issued[subject, peer] = now, ticket
            if len(self._issued) > REMEMBERED:
                self._issued.popitem(last=False)
        return f"/secret/{ticket}{address}"

    def asking(self, ticket: str | None, parts: Sequence[str], query: bytes, peer: str, key: str) -> Asking:
        return Asking(ticket, subject_of(parts, query), "/".join(parts), peer, key)

    def check(self, asking: Asking, assignment: Assignment, mac: Mac) -> None:
        """May this document be fetched so?  Raises Denied."""
        now, peer = self._clock(), asking.peer
        mark = self._mark(asking, now)
        cards = {mac, *(assignment.machine.macs if assignment.machine else ())}
        card = card_of(peer)
        if card and card not in cards:
            who = assignment.machine.name if assignment.machine else mac
            raise Denied(f"{peer} is {card}, which is no card of {who}: add it to its macs if it is", alarm=True)
        for used, user, at in self._context.store.state(asking.key).fetched:
            if used == mark and user != peer:
                raise Denied(f"its address was used by {user} before", alarm=True)
            if used == mark and now - at > AGAIN:
                raise Denied("its address was used up before")

    async def use(self, asking: Asking) -> None:
        """Note who fetches; on disk on return.  Raises StoreError when it cannot be kept."""
        store, now, key = self._context.store, self._clock(), asking.key
        mark, state = self._mark(asking, now), store.state(key)
        if not any(used == mark for used, _, _ in state.fetched):
            kept = [(used, user, at) for used, user, at in state.fetched if now - at < LIFETIME]
            state = replace(state, fetched=(*kept, (mark, asking.peer, now)))
        await store.keep_state(key, state)  # also if it was noted before: that may not have come to the disk

    def _mark(self, asking: Asking, now: float) -> str:
        """What is noted of a use: which boot, and which document.  Raises Denied for a ticket that is none."""
        if asking.ticket is None:
            raise Denied("it holds secrets: it is fetched by the per-boot address that url(…) puts into its script")
        ticket = asking.ticket
        try:
            octets = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
        except ValueError:
            octets = b""
        payload, proof = octets[: _TIME + _NONCE], octets[_TIME + _NONCE :]
        if not hmac.compare_digest(proof, self._proof(payload, asking.subject)):
            raise Denied("its address is none that was handed out for it")
        if now > int.from_bytes(payload[:_TIME]):
            raise Denied(f"its address was good for {LIFETIME // 60} minutes, which are over")
        return f"{payload[_TIME:].hex()}/{asking.part}"

    def _proof(self, payload: bytes, subject: str) -> bytes:
        return hmac.digest(key_in(self._context.store.path.parent), payload + subject.encode(), "sha256")[:_PROOF]


def subject_of(parts: Sequence[str], query: bytes) -> str:
    """What a ticket is for: path and query, however they are spelled.  Parts of a cloud-init seed share one."""
    named = [part for part in parts if part]
    if named[:1] == ["cloud-init"]:
        return "/".join(named[:2])
    return "/".join(named) + "?" + urlencode(sorted(parse_qsl(query.decode("latin-1"), keep_blank_values=True)))


def card_of(address: str) -> Mac | None:
    """The Ethernet address behind an IPv4 address of our own link; None if it is not known: behind a router, or this host."""
    try:
        lines = ARP.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for line in lines[1:]:
        words = line.split()  # address, hardware type, flags, hardware address, mask, device; flag 2: complete (ATF_COM)
        if len(words) >= 6 and words[0] == address and int(words[2], 16) & 2:
            return Mac(words[3].lower())
    return None


@lru_cache(8)
def key_in(directory: Path) -> bytes:
    """The key of the tickets, made when it is first needed.  Raises OperatorError."""
    path = directory / "tickets.key"
    try:
        with suppress(FileNotFoundError):
            if len(key := path.read_bytes()) == _KEY:
                return key
        key = os.urandom(_KEY)
        fresh = directory / "tickets.key.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        mend = "The daemon must be able to write beside its state: mend its rights."
        raise OperatorError(str(path), f"the key of per-boot addresses cannot be kept: {error.strerror}", mend) from None
    return key
