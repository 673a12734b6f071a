"""One request to the HTTP service, taken apart, and small replies to it: what all that answers booting machines has in common."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from pixieboot.journal import Journal
from pixieboot.model import IPXE_ARCHES, NO_MAC, Arch, Client, Event, Loader, Mac, Site, Stage, parse_uuid
from pixieboot.serve import conditional

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
NO_STORE = ((b"Cache-Control", b"no-store"),)  # scripts may hold secrets, and are rendered afresh for each boot

_ARCH_NAMES = {arch.value: arch for arch in Arch}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


class Refused(Exception):
    """A request that cannot be answered as asked: status, and a sentence for whoever reads the client's screen."""

    def __init__(self, status: int, sentence: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, tuple(headers)


@dataclass(slots=True)
class Request:
    """One request, taken apart once.  parts: the path, decoded, without empty and "." parts."""

    method: str
    path: str  # as in the request, for logs: without the ticket
    parts: tuple[str, ...]
    query: bytes
    peer: str
    served: Site | None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    ticket: str | None = None  # of a per-boot address (serve/tickets.py)

    @property
    def site(self) -> Site:
        """The network by which it came.  Raises Refused as long as none is served."""
        if self.served is None:
            raise Refused(503, "No network is served yet: `pixieboot doctor` says why.\n")
        return self.served

    def only(self, *methods: str) -> None:
        """Read-only: anything but HEAD and what is named is refused."""
        if self.method not in ("HEAD", *methods):
            allowed = [(b"Allow", ", ".join(("HEAD", *methods)).encode())]
            raise Refused(405, f"{self.path} answers {' and '.join(methods)}.\n", allowed)


@dataclass(slots=True)
class Reply:
    """A whole small answer."""

    status: int
    body: bytes
    content_type: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def head(self) -> list[tuple[bytes, bytes]]:
        head = [(b"Date", date()), *self.headers, (b"Content-Length", b"%d" % len(self.body))]
        if self.status != 304:
            head.insert(1, (b"Content-Type", self.content_type))
        return head

    def ranged(self, wanted: bytes | None) -> "Reply":
        """The part of it that a Range header asks for."""
        if wanted is None:
            return replace(self, headers=((b"Accept-Ranges", b"bytes"),))
        size = len(self.body)
        part = conditional.part(wanted, size)
        if part.status == 416:
            return Reply(416, b"", headers=((b"Content-Range", b"bytes */%d" % size),))
        content_range = (b"Content-Range", b"bytes %d-%d/%d" % (part.first, part.first + part.count - 1, size))
        headers = ((b"Accept-Ranges", b"bytes"), *((content_range,) if part.status == 206 else ()))
        return replace(self, status=part.status, body=self.body[part.first : part.first + part.count], headers=headers)


@dataclass(frozen=True, slots=True)
class Told:
    """A whole reply and the fact to record about it."""

    reply: Reply
    client: Client | None
    mac: Mac | None
    kind: str
    detail: Mapping[str, Any]
    lasting: bool = True  # may the same be told to the same client again, without another look?
    level: str = ""  # of the event, if the status does not say it

    def record(self, request: Request, journal: Journal) -> Reply:
        """Its reply, once the fact is told.  HEAD is none: the machine asks for the size first, and comes again."""
        if request.method != "HEAD":
            level = self.level or ("info" if self.reply.status < 500 else "alarm")
            journal.record(Event(time.time(), self.mac, "http", self.kind, self.detail, level))
        return self.reply


def missing(journal: Journal, request: Request, mac: Mac | None, why: str, expected: str = "") -> Reply:
    """404, and the fact.  expected: why its absence need not worry anybody."""
    detail = {"path": request.path, "peer": request.peer, "why": expected or why}
    journal.record(Event(time.time(), mac, "http", "missing", detail, "debug" if expected else "info"))
    return Reply(404, f"{request.path}: {why}.\n".encode())


def client_of(request: Request, mac: Mac | None, loader: Loader = Loader.IPXE) -> Client:
    """Who asks, by the query (docs/reference.md).  mac: what is known without it.  Raises Refused for a wrong spelling."""
    labels: dict[str, str] = {}
    for name, value in parse_qsl(request.query.decode("latin-1"), max_num_fields=None, encoding="utf-8", errors="replace"):
        labels.setdefault(name, value)  # the first of several, as Matchbox reads them; empty ones tell nothing
    spelled = next((labels.pop(name) for name in list(labels) if name.lower() == "mac"), None)
    uuid = parse_uuid(labels.pop("uuid", ""))
    arch = IPXE_ARCHES.get((labels.get("arch", ""), labels.get("platform", ""))) or _ARCH_NAMES.get(labels.get("arch", ""))
    return Client(
        mac=mac_in(spelled) if spelled else mac or NO_MAC,
        arch=arch,
        loader=loader,
        stage=Stage.SCRIPT,
        uuid=uuid,
        serial=labels.get("serial"),
        address=request.peer,
        labels=labels,
    )


def mac_in(text: str) -> Mac:
    """A MAC as a path or a query spells it.  Raises Refused."""
    try:
        return Mac.parse(text)
    except ValueError as error:
        raise Refused(400, f"{error}.\n") from None


def named(client: Client) -> Mac | None:
    """Whose fact it is, if that is known."""
    return None if client.mac == NO_MAC else client.mac


def split(target: bytes) -> tuple[bytes, bytes]:
    """(path, query) of a request target in origin or absolute form (RFC 9112 §3.2)."""
    if not target.startswith(b"/"):
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise Refused(400, "Bad request: the target is neither a path nor an http address.\n")
        slash = rest.find(b"/")
        target = rest[slash:] if slash >= 0 else b"/"
    path, _, query = target.partition(b"?")
    return path, query


def read(method: str, target: bytes, peer: str, site: Site | None, headers: Mapping[bytes, bytes]) -> Request:
    """A request by its line and headers.  site: the network by which it came, if one is served there.  Raises Refused."""
    path, query = split(target)
    parts, ticket, shown = parts_of(path), None, path.decode("latin-1")
    if parts[:1] == ("secret",):
        ticket, parts = "".join(parts[1:2]), parts[2:]
        if parts[:1] == ("secret",):
            raise Refused(400, "Bad request: two tickets.\n")  # the second one would be shown with the path
        shown = "/" + "/".join(parts)
    return Request(method, shown, parts, query, peer, site, headers, ticket)


def parts_of(path: bytes) -> tuple[str, ...]:
    """The decoded parts of a path, empty ones and "." left out.  Decoded once; what could mean another place is refused."""
    try:
        text = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise Refused(400, "Bad request: the path is not UTF-8.\n") from None
    if _CONTROL.search(text):
        raise Refused(400, "Bad request: a backslash or a control character in the path.\n")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Refused(400, "Bad request: .. in the path.\n")
    return parts


def date() -> bytes:
    """Now, as in a Date header."""
    return conditional.http_date(int(time.time()))
