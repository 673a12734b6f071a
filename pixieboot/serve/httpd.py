"""HTTP for booting machines: scripts, documents, kernels and the TFTP tree, by the rules that firmware needs (docs/reference.md).

Content-Length on everything, header names in canonical case, never a redirect, a compression or a chunk on a boot path.
Bare ASGI: a boot asks for a handful of paths, and each microsecond here is paid by a whole rack.
"""

import asyncio
import errno
import functools
import importlib
import json
import logging
import os
import re
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import uvicorn

from pixieboot import content, remote, render, sandbox
from pixieboot.errors import OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import (
    IPXE_ARCHES,
    Arch,
    Assignment,
    Boot,
    Client,
    Event,
    Loader,
    LocalDisk,
    Mac,
    MachineState,
    Silence,
    Site,
    Stage,
    Step,
    parse_uuid,
)
from pixieboot.policy import next_boot
from pixieboot.registry import butane
from pixieboot.registry.sqlite import StoreError
from pixieboot.serve import conditional, parsers, zerocopy
from pixieboot.serve.access import state_directory
from pixieboot.serve.context import Asks, Context, Download
from pixieboot.serve.files import File, open_below, open_boot_file, open_root
from pixieboot.serve.rendered import NOBODY, text_at
from pixieboot.serve.signing import Signer
from pixieboot.serve.tickets import Denied, Tickets
from pixieboot.serve.udp import refusal

INLINE = 64 * 1024  # files up to this size are read and sent with their head: sendfile pays above
CHUNK = 64 * 1024  # of a file that is streamed because zero copy is not to be had
REMEMBERED = 8 << 20  # bytes of rendered scripts, and of the requests for them, kept ready
REMEMBERED_EACH = 2000  # bytes that a remembered script takes besides
DESCRIPTORS = 8192  # of this process: a connection under way needs three
SWEEP = 1.0  # seconds between looks for connections that stand still

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
CONTENT_TYPES = {  # EDK2 takes an image for what its Content-Type says, else its extension (HttpBootSupport.c)
    ".efi": b"application/efi",
    ".iso": b"application/vnd.efi-iso",
    ".img": b"application/vnd.efi-img",
    ".ipxe": TEXT,
    ".cfg": TEXT,
    ".conf": TEXT,
    ".txt": TEXT,
    ".yaml": TEXT,
    ".yml": TEXT,
    ".ks": TEXT,
    ".sh": TEXT,
    ".asc": TEXT,
    ".ign": JSON,
    ".json": JSON,
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")

log = logging.getLogger(__name__)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
AsgiApplication = Callable[[Any, Any, Any], Awaitable[None]]


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


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A rendered script and everything it depends on: the same client asking the same of the same registry gets the same bytes."""

    inventory: Inventory
    site: Site
    key: str
    state: MachineState
    mac: Mac | None
    kind: str
    detail: Mapping[str, Any]
    response: tuple[bytes, bytes]  # around the date


class HttpService:
    """All HTTP of the daemon.  `rest` answers what is no boot path (API, web page)."""

    def __init__(self, context: Context, rest: AsgiApplication | None = None) -> None:
        self.context, self._rest = context, rest
        self._running: dict[int, tuple[str, str, Mac | None, int, Callable[[], int]]] = {}  # large files under way
        context.downloads.append(self._downloads)
        self._socket: socket.socket | None = None
        self._server: Server | None = None
        self._remembered: dict[tuple[bytes, str, str], _Remembered] = {}
        self._remembered_size = 0  # bytes, about
        self._tickets = Tickets(context)
        self._signer: Signer | None = None
        self._cache: Any = None  # fetch.Cache, once a machine asks for another server's file: TLS costs ten MiB
        self.port = context.settings.http.port

    def bind(self) -> None:
        """Take the port.  Raises OperatorError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_IP, zerocopy.IP_PKTINFO, 1)  # tells by which interface a connection came
            sock.bind(("0.0.0.0", self.context.settings.http.port))
            sock.listen(2048)  # bind alone succeeds beside a listener when both have SO_REUSEADDR
        except OSError as error:
            sock.close()
            raise refusal(error, self.context.settings.http.port, "tcp") from error
        self._socket, self.port = sock, sock.getsockname()[1]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < DESCRIPTORS:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard < 0 else min(DESCRIPTORS, hard), hard))

    async def run(self) -> None:
        """Serve until stopped or cancelled.  Raises OperatorError when there is a key ring that cannot sign."""
        assert self._socket is not None, "bind first"
        if key_ring := self.context.settings.key_ring:
            self._signer = await asyncio.to_thread(Signer.open, key_ring)
        config = uvicorn.Config(
            self,
            http=await parsers.chosen(),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(zerocopy.IDLE_SECONDS),
            timeout_graceful_shutdown=3,  # stop aborts what is left before that
        )
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # one warning for each malformed request would be theirs to flood
        self._server = Server(config)
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._sweep()), tasks.create_task(self.context.way.run())]
            if any(profile.cache for profile in self.context.registry.current.profiles.values()):
                beside.append(tasks.create_task(self._fetching()))  # before the first machine asks
            try:
                await self._server.serve(sockets=[self._socket])
            finally:
                for task in beside:
                    task.cancel()
                if self._signer:
                    self._signer.close()
                self._abort_all()

    @property
    def ready(self) -> bool:
        """Are connections being answered?"""
        return self._server is not None and self._server.started

    @property
    def connections(self) -> Collection[Any]:
        """Those that are open now."""
        return self._server.server_state.connections if self._server else ()

    async def stop(self, grace: float) -> None:
        """Close idle connections, give transfers under way grace seconds, then cut them off."""
        if self._cache:
            self._cache.stop()
        if self._server is None:
            return
        self._server.end()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._server.ended.wait()
        self._abort_all()
        await self._server.ended.wait()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            for connection in zerocopy.overdue(self.connections, time.monotonic()):
                connection.transport.abort()

    def _abort_all(self) -> None:
        for connection in tuple(self.connections):
            connection.transport.abort()
        if self._socket:
            self._socket.close()

    def admits(self, local: str, ifindex: int | None) -> bool:
        """Only the interfaces of `networks`, and this host itself."""
        if local.startswith("127."):
            return True
        sites = self.context.sites
        site = self._site(local)
        if site is None:
            return False
        if ifindex is None or ifindex in (1, site.ifindex) or sites.at(ifindex):
            return True
        # A second link into the same subnet (Wi-Fi beside Ethernet): one of the two answers for both.
        link = sites.link(ifindex)
        return link is not None and any(address.ip in site.subnet for address in link.addresses)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        local, peer = (scope["server"] or ("127.0.0.1",))[0], (scope["client"] or ("127.0.0.1",))[0]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = dict(scope["headers"])
        request = None
        try:
            request = self._request(scope["method"], target, peer, local, headers)
            reply = await self._answer(request, scope, receive, send)
        except Refused as refused:
            reply = Reply(refused.status, refused.sentence.encode(), headers=refused.headers)
        except Exception:
            shown = request.path if request else target  # never a ticket
            log.exception("HTTP: bug while answering %s %r from %s", scope["method"], shown, peer)
            reply = Reply(500, b"pixieboot has a bug here: its log says more.\n")
        if reply:
            await send({"type": "http.response.start", "status": reply.status, "headers": reply.head()})
            await send({"type": "http.response.body", "body": reply.body})

    def at_once(self, target: bytes, peer: str, local: str) -> bytes | None:
        """The whole response to a GET of a script that needs no file and no waiting, else None."""
        if not target.startswith((b"/ipxe?", b"/boot.ipxe")) or self.context.registry.foreign or self.context.boot_api:
            return None
        context, key = self.context, (target, peer, local)
        known = self._remembered.get(key)
        if (
            known is None
            or known.inventory is not context.registry.current
            or known.site is not self._site(local)
            or known.state != context.store.state(known.key)
        ):
            known = self._remember(key)
            if known is None:
                return None
        context.journal.record(Event(time.time(), known.mac, "http", known.kind, known.detail))
        before, after = known.response
        return before + date() + after

    def _remember(self, key: tuple[bytes, str, str]) -> _Remembered | None:
        target, peer, local = key
        try:
            request = self._request("GET", target, peer, local, {})
            if request.parts == ("ipxe",):
                told = self._script(request)
            elif len(request.parts) == 1 and request.parts[0] in ("boot.ipxe", "boot.ipxe.0"):
                told = self._entry(request)
            else:
                return None
        except Exception:  # the long way says what is wrong
            return None
        if told.reply.status != 200 or not told.lasting:
            return None
        before, after = zerocopy.response_head(200, told.reply.head()).split(date(), 1)
        store = self.context.store
        state_key = self.context.state_key(told.client) if told.client else ""
        known = _Remembered(
            self.context.registry.current,
            request.site,
            state_key,
            store.state(state_key),
            told.mac,
            told.kind,
            told.detail,
            (before, after + told.reply.body),
        )
        size = len(target) + len(before) + len(after) + len(told.reply.body) + REMEMBERED_EACH
        if size > REMEMBERED // 64:  # one is not to push out all the others
            return known
        if self._remembered_size + size > REMEMBERED:
            self._remembered.clear()
            self._remembered_size = 0
        self._remembered_size += size
        self._remembered[key] = known
        return known

    def _request(self, method: str, target: bytes, peer: str, local: str, headers: Mapping[bytes, bytes]) -> Request:
        path, query = split(target)
        parts, ticket, shown = parts_of(path), None, path.decode("latin-1")
        if parts[:1] == ("secret",):
            ticket, parts = "".join(parts[1:2]), parts[2:]
            shown = "/" + "/".join(parts)
        return Request(method, shown, parts, query, peer, self._site(local), headers, ticket)

    def _site(self, local: str) -> Site | None:
        """The network that this address of ours belongs to; a second address of an interface is served like its first."""
        sites = self.context.sites
        if site := sites.of_address(local):
            return site
        holders = (link for link in sites.links.values() if any(str(address.ip) == local for address in link.addresses))
        return next((site for link in holders if (site := sites.at(link.index))), None)

    async def _answer(self, request: Request, scope: Any, receive: Receive, send: Send) -> Reply | None:
        """The reply; None when it has been sent already."""
        if self._signer and request.parts and request.parts[-1].endswith(_SIGNATURES):
            if told := await self._signed(request, self._signer):
                return self._tell(request, told)
        if told := await self._foreign(request):
            self._record(request, told)
            return told.reply
        if self.context.boot_api and (request.parts[:1] in _SCRIPTS or request.parts[-3:-1] == ("v1", "boot")):
            await self._ask_api(self.context.boot_api, request)
        if told := await self._text(request):
            return self._tell(request, told)
        if request.ticket is not None:
            return self._missing(request, None, "there is no such path")
        match request.parts:
            case () if self._rest is None:
                self._only(request, "GET")
                return Reply(200, b"pixieboot: machines start at /boot.ipxe\n")
            case ("v1", "boot", mac) | ("pixiecore", "v1", "boot", mac):
                return self._tell(request, self._pixiecore(request, client_of(request, _mac(mac))))
            case ("assets" | "images", *parts):
                return await self._file(request, None, functools.partial(self._open_asset, parts), send, scope)
            case (remote.PREFIX, token, _):
                return await self._remote(request, token, send, scope)
            case ("tftp", *parts):
                return await self._boot_file(request, "/".join(parts), send, scope)
            case ("done",):
                return await self._done(request)
            case ("healthz",):
                self._only(request, "GET")
                return Reply(200, b"ok\n")  # a service that fails ends the whole daemon
        if self._rest is not None:
            await self._rest(scope, receive, _canonical(send))
            return None
        self._only(request, "GET")
        return self._missing(request, None, "there is no such path")

    async def _text(self, request: Request) -> "_Told | None":
        """What is rendered for a machine: scripts and documents, the ones that can be signed."""
        match request.parts:
            case ("boot.ipxe" | "boot.ipxe.0",) if request.ticket is None:
                return self._entry(request)
            case ("ipxe" | "grub" | "pxelinux",) if request.ticket is None:
                return self._script(request)
            case (kind,) if kind in render.ENDPOINTS:
                return await self._document(request, kind, client_of(request, self._peer_mac(request)))
            case ("files", kind):
                return await self._document(request, kind, client_of(request, self._peer_mac(request)))
            case ("cloud-init", mac, part) if part in render.SEED:
                return await self._seed(request, part, client_of(request, _mac(mac)))
        return None

    async def _signed(self, request: Request, signer: Signer) -> "_Told | None":
        """The detached signature of exactly what the path without .sig or .asc answers; None: there is nothing to sign."""
        stem, _, form = request.parts[-1].rpartition(".")
        unsigned = replace(request, parts=(*request.parts[:-1], stem), headers={})  # of the whole, not of a range
        told = await self._foreign(unsigned) or await self._text(unsigned)
        if told is None or told.reply.status != 200:
            return told
        detail: dict[str, Any] = {"path": request.path, "peer": request.peer}
        try:
            signature = await asyncio.to_thread(signer.sign, told.reply.body, form == "asc")
        except OperatorError as error:
            failed = {**detail, "why": str(error), "status": 500}
            return replace(told, reply=Reply(500, b"It cannot be signed: the log says why.\n"), kind="failed", detail=failed)
        reply = Reply(200, signature, TEXT if form == "asc" else b"application/octet-stream", NO_STORE)
        return replace(told, reply=reply, kind="sent", detail={**detail, "bytes": len(signature)})

    async def _foreign(self, request: Request) -> "_Told | None":
        """What the program whose registry this is would answer, to the byte; None: not a path of its."""
        foreign = self.context.registry.foreign
        if foreign is None:
            return None
        work = functools.partial(foreign.answer, "/" + "/".join(request.parts), request.query.decode("latin-1"))
        answer = await asyncio.to_thread(work) if request.parts == ("ignition",) else work()  # butane may have to translate it
        if answer is None:
            return None
        reply = Reply(answer.status, answer.body, answer.content_type.encode())
        if answer.ranges and answer.status == 200:
            reply = _ranged(reply, request.headers.get(b"range"))
        try:
            mac = Mac.parse(answer.labels.get("mac", ""))
        except ValueError:
            mac = None
        detail: dict[str, Any] = {"path": request.path, "profile": answer.profile, "why": answer.why, "peer": request.peer}
        if request.parts in (("ipxe",), ("grub",)) or "boot" in request.parts:
            return _Told(reply, None, mac, "script", {**detail, "status": answer.status})
        return _Told(reply, None, mac, "sent" if answer.status == 200 else "missing", {**detail, "bytes": len(answer.body)})

    def _tell(self, request: Request, told: "_Told") -> Reply:
        self._only(request, "GET")
        self._record(request, told)
        return told.reply

    def _record(self, request: Request, told: "_Told") -> None:
        if request.method != "HEAD":
            level = told.level or ("info" if told.reply.status < 500 else "alarm")
            self.context.journal.record(Event(time.time(), told.mac, "http", told.kind, told.detail, level))

    def _only(self, request: Request, *methods: str) -> None:
        """Read-only: anything but GET, HEAD and what is named is refused."""
        if request.method not in ("HEAD", *methods):
            raise Refused(
                405, f"{request.path} answers {' and '.join(methods)}.\n", [(b"Allow", ", ".join(("HEAD", *methods)).encode())]
            )

    def _peer_mac(self, request: Request) -> Mac | None:
        return self.context.journal.mac_of(request.peer)

    def _entry(self, request: Request) -> "_Told":
        body = render.boot_ipxe().encode()
        return _Told(Reply(200, body), None, None, "sent", {"path": request.path, "bytes": len(body), "peer": request.peer})

    def _script(self, request: Request) -> "_Told":
        """The machine's script for the loader that asks."""
        client = client_of(request, self._peer_mac(request), SCRIPT_LOADERS[request.parts[0]])
        assignment, step = self._next(client, request.site)
        key, way = self.context.state_key(client), self.context.way
        if request.method == "GET" and client.loader is Loader.IPXE and isinstance(step, LocalDisk):
            if way.back_from_disk(key, client.mac, assignment, step.how):
                assignment, step = self._next(client, request.site)
        detail: dict[str, Any] = {
            "path": request.path,
            "profile": _profile_name(step),
            "why": step.why,
            "status": 200,
            "peer": request.peer,
        }
        if isinstance(step, LocalDisk):
            detail["local_boot"] = step.how
        reply, issued = self._refusal(step), list[str]()
        if reply is None:
            render_script = getattr(render, request.parts[0])  # ipxe, grub or pxelinux
            try:
                ticket = self._issuing(request, issued)
                text = render_script(step, client, assignment, request.site, self.context.registry.current, ticket=ticket)
                reply = Reply(200, text.encode(), headers=NO_STORE)
                if isinstance(step, Boot):
                    way.begins(key, assignment, step.profile)
            except OperatorError as error:
                detail["why"] = str(error)
                reply = Reply(500, _shown(error))
        detail["status"] = reply.status
        return _Told(reply, client, _named(client), "script", detail, lasting=not issued and not isinstance(step, LocalDisk))

    def _issuing(self, request: Request, issued: list[str]) -> render.Ticket:
        """Hands out per-boot addresses to who asks, and notes that it did."""

        def ticket(address: str) -> str:
            issued.append(address)
            return self._tickets.issue(address, request.peer)

        return ticket

    async def _ask_api(self, api: Asks, request: Request) -> None:
        """Have the foreign API say what this machine boots now.  Raises Refused if that is not known."""
        if request.parts[0] in SCRIPT_LOADERS:
            mac = client_of(request, self._peer_mac(request)).mac
        else:
            mac = _mac(request.parts[-1])
        if mac != NOBODY and (failure := await api.latest(mac)):
            raise Refused(failure[0], f"No boot data: {failure[1]}.\n")

    def _next(self, client: Client, site: Site) -> tuple[Assignment, Step]:
        assignment = self.context.assign(client, site)
        picked = self.context.registry.current.profiles.get(client.labels.get("profile", ""))
        if picked and assignment.profile and assignment.profile.menu:
            why = f"{assignment.why}; {picked.name} was picked there"
            assignment = replace(assignment, profile=picked, why=why)
        return assignment, next_boot(client, assignment, site)

    def _refusal(self, step: Step) -> Reply | None:
        """404 for who gets no boot data, or is sent to its disk in that way."""
        if isinstance(step, Silence) or (isinstance(step, LocalDisk) and step.how == "http404"):
            return Reply(404, f"No boot data: {step.why}.\n".encode())
        return None

    async def _document(self, request: Request, kind: str, client: Client) -> "_Told":
        """A rendered template of the machine's profile.  One that holds secrets: for who shows its ticket, and once."""
        self._only(request, "GET")
        assignment, step = self._next(client, request.site)
        detail: dict[str, Any] = {
            "path": request.path,
            "profile": assignment.profile.name if assignment.profile else None,
            "peer": request.peer,
        }
        mac = _named(client)
        # A machine that just reported done asks once more, and one that boots from disk may read its seed: the profile decides.
        if assignment.profile is None or (isinstance(step, Silence)):
            return _Told(Reply(404, f"No {kind}: {step.why}.\n".encode()), client, mac, "missing", {**detail, "why": step.why})
        if kind != "metadata" and kind not in assignment.profile.documents:
            why = f"profile {assignment.profile.name} has no {kind}"
            return _Told(Reply(404, f"No {kind}: {why}.\n".encode()), client, mac, "missing", {**detail, "why": why})
        inventory, tickets = self.context.registry.current, self._tickets
        secrets = inventory.secrets if render.holds_secrets(kind, assignment.profile, inventory) else None
        asking = tickets.asking(request.ticket, request.parts, request.query, request.peer, self.context.state_key(client))
        try:
            if secrets is not None:
                tickets.check(asking, assignment, client.mac)
            work = functools.partial(
                render.document, kind, client, assignment, request.site, inventory,
                translate=butane.translated, ticket=self._issuing(request, []), secrets=secrets,
            )  # fmt: skip
            translates = kind != "metadata" and render.is_butane(assignment.profile.documents[kind])
            body = (await asyncio.to_thread(work) if translates else work()).encode()
            if secrets is not None and request.method == "GET":
                tickets.check(asking, assignment, client.mac)  # somebody may have come while it was translated
                if not self.context.may_note(client):
                    raise Refused(503, "Too many machines that nobody described: describe this one.\n")
                await tickets.use(asking)
                detail["secrets"] = True
        except Denied as denied:
            told = Reply(403, f"No {kind}: {denied}.\n".encode(), headers=NO_STORE)
            level = "alarm" if denied.alarm else "warning"
            return _Told(told, client, mac, "refused", {**detail, "why": str(denied), "secrets": True}, level=level)
        except StoreError as error:
            raise Refused(503, "The state cannot be written, so no secret is given out.\n") from error
        except OperatorError as error:
            return _Told(Reply(500, _shown(error)), client, mac, "failed", {**detail, "why": str(error), "status": 500})
        reply = Reply(200, body, JSON if kind == "ignition" else TEXT, NO_STORE)
        return _Told(reply, client, mac, "sent", {**detail, "bytes": len(body)})

    async def _seed(self, request: Request, part: str, client: Client) -> "_Told":
        """One file of cloud-init's NoCloud seed; a part that the profile does not have is there and empty."""
        assignment, _ = self._next(client, request.site)
        documents = assignment.profile.documents if assignment.profile else {}
        for kind in (part, render.SEED[part]):
            if kind and kind in documents:
                return await self._document(request, kind, client)
        detail = {"path": request.path, "bytes": 0, "peer": request.peer}
        return _Told(Reply(200, b"", headers=NO_STORE), client, _named(client), "sent", detail)

    def _pixiecore(self, request: Request, client: Client) -> "_Told":
        """Pixiecore's API, the server's side: what a foreign Pixiecore shall boot this machine with; 404: leave it alone."""
        assignment, step = self._next(client, request.site)
        mac, detail = _named(client), {"path": request.path, "profile": _profile_name(step), "why": step.why, "peer": request.peer}
        if not isinstance(step, Boot):
            reply = Reply(404, f"No boot data: {step.why}.\n".encode())
            return _Told(reply, client, mac, "script", {**detail, "status": 404})
        try:
            ticket = self._issuing(request, [])
            spec = render.pixiecore(step, client, assignment, request.site, self.context.registry.current, ticket)
            reply = Reply(200, json.dumps(spec).encode() + b"\n", JSON, NO_STORE)
        except OperatorError as error:
            reply, detail["why"] = Reply(500, _shown(error)), str(error)
        return _Told(reply, client, mac, "script", {**detail, "status": reply.status})

    async def _done(self, request: Request) -> Reply:
        """The machine reports that it is installed: kept before we say so, else a power cut would install it again."""
        self._only(request, "GET", "POST")
        client = client_of(request, self._peer_mac(request))
        key = self.context.state_key(client)
        if key == NOBODY:
            raise Refused(400, "Which machine is done? Add ?mac=52:54:00:12:34:56 to the address.\n")
        if request.method == "HEAD":
            return Reply(200, b"done\n", headers=NO_STORE)
        if not self.context.may_note(client):
            raise Refused(503, "Too many machines that nobody described: describe this one.\n")
        now = time.time()
        store = self.context.store
        await store.keep_state(key, replace(store.state(key), done=now, deadline=0.0, overdue=0.0))
        self.context.journal.record(Event(now, _named(client), "http", "done", {"machine": key, "peer": request.peer}))
        return Reply(200, b"done\n", headers=NO_STORE)

    def _missing(self, request: Request, mac: Mac | None, why: str, expected: str = "") -> Reply:
        detail = {"path": request.path, "peer": request.peer, "why": expected or why}
        self.context.journal.record(Event(time.time(), mac, "http", "missing", detail, "debug" if expected else "info"))
        return Reply(404, f"{request.path}: {why}.\n".encode())

    def _open_asset(self, parts: Sequence[str]) -> File:
        root = open_root(self.context.settings.assets)
        try:
            return open_below(root, parts, follow_links=True)
        finally:
            os.close(root)

    async def _remote(self, request: Request, token: str, send: Send, scope: Any) -> Reply | None:
        """A file of another server, from the cache or while it arrives."""
        self._only(request, "GET")
        wanted = remote.of_token(self.context.sites.link_key, token)
        request = replace(request, path=f"/{remote.PREFIX}/{wanted.name if wanted else '?'}")
        if wanted is None:
            return self._missing(request, None, "this host made no such link; start the machine again")
        mac = self._peer_mac(request)
        if wanted.url.startswith("file:"):
            return await self._file(request, mac, functools.partial(self._open_named, wanted.url), send, scope)
        fetch = await self._fetching()
        if self._cache is None:
            place = state_directory(self.context.settings) / "cache"
            self._cache = fetch.Cache(place, lambda: self.context.settings.cache.size, self.context.journal.record)
        try:
            fetched = await self._cache.open(wanted, mac)
        except fetch.Unanswered as unanswered:
            detail = {"path": request.path, "peer": request.peer, "url": wanted.url, "why": unanswered.sentence}
            self.context.journal.record(Event(time.time(), mac, "http", "failed", detail, "warning"))
            return Reply(unanswered.status, f"{unanswered.sentence}.\n".encode())
        with fetched:
            return await self._send_file(request, mac, fetched.file, send, scope, fetched)

    async def _fetching(self) -> Any:
        """The module fetch.  It takes a tenth of a second, for which DHCP does not wait."""
        return await asyncio.to_thread(importlib.import_module, "pixieboot.serve.fetch")

    def _open_named(self, url: str) -> File:
        """A file of this host that the command line or an API names by file:///."""
        found = self.context.settings.file_of(url)
        if found is None:
            raise PermissionError(errno.EACCES, "this file is not among those that may be served")
        root = open_root(found[0])
        try:
            return open_below(root, PurePosixPath(found[1].lstrip("/")).parts, follow_links=found[0] != Path("/"))
        finally:
            os.close(root)

    async def _boot_file(self, request: Request, path: str, send: Send, scope: Any) -> Reply | None:
        """A path of the TFTP tree: the same answer as by TFTP."""
        place = content.find(path)
        match place:
            case content.FileBelow():
                return await self._file_below(request, place, send, scope)
            case content.Rendered():
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    self._open_boot_file(place.file).close()
                    return await self._file_below(request, place.file, send, scope)
                text = text_at(place, self.context, request.site, request.peer)
                if text is None and place.shared:
                    return await self._file_below(request, place.shared, send, scope)
                if text is None:
                    return self._missing(request, place.mac, "there is nothing to say to this client", place.file.expected)
                detail = {"path": request.path, "bytes": len(text), "seconds": 0.0, "peer": request.peer}
                return self._tell(request, _Told(Reply(200, text, headers=NO_STORE), None, place.mac, "sent", detail))
        return self._missing(request, place.mac, place.why)

    async def _file_below(self, request: Request, place: content.FileBelow, send: Send, scope: Any) -> Reply | None:
        return await self._file(request, place.mac, functools.partial(self._open_boot_file, place), send, scope, place.expected)

    def _open_boot_file(self, place: content.FileBelow) -> File:
        settings = self.context.settings
        root, follow = settings.tftp.root, settings.tftp.follow_links
        for parts in place.places[:-1]:  # a directory of the machine's own
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return open_boot_file(root, parts, (), follow)
        return open_boot_file(root, place.parts, settings.loaders.values(), follow)

    async def _file(
        self, request: Request, mac: Mac | None, opening: Callable[[], File], send: Send, scope: Any, expected: str = ""
    ) -> Reply | None:
        """A file, or the part of it that the request asks for.  expected: why its absence need not worry anybody."""
        self._only(request, "GET")
        try:
            file = opening()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            return self._missing(request, mac, error.strerror or "no such file", expected)
        except PermissionError as error:
            detail = {"path": request.path, "peer": request.peer, "why": error.strerror}
            self.context.journal.record(Event(time.time(), mac, "http", "refused", detail, "warning"))
            return Reply(403, f"{request.path}: {error.strerror}.\n".encode())
        except OSError as error:
            detail = {"path": request.path, "peer": request.peer, "why": error.strerror}
            self.context.journal.record(Event(time.time(), mac, "http", "failed", detail, "warning"))
            return Reply(500, f"{request.path}: {error.strerror}.\n".encode())
        with file:
            return await self._send_file(request, mac, file, send, scope)

    def _downloads(self) -> Iterator[Download]:
        for path, peer, mac, size, sent in tuple(self._running.values()):
            yield Download(path, peer, mac, size, sent())

    async def _send_file(
        self, request: Request, mac: Mac | None, file: File, send: Send, scope: Any, fetched: Any = None
    ) -> Reply | None:
        """fetched: the hold on a file that may still be arriving (fetch.Fetched)."""
        version = conditional.Version(file.size, file.mtime_ns, file.inode)
        part = conditional.answer(request.headers, version)
        content_type = CONTENT_TYPES.get(PurePosixPath(request.parts[-1]).suffix.lower(), b"application/octet-stream")
        validators = [(b"ETag", version.etag), (b"Last-Modified", version.last_modified), (b"Accept-Ranges", b"bytes")]
        if part.status == 412:
            return Reply(412, b"The file is not the one you began with: start again.\n", headers=tuple(validators))
        if part.status == 416:
            validators.append((b"Content-Range", b"bytes */%d" % file.size))
            return Reply(416, b"That part is beyond the end of the file.\n", headers=tuple(validators))
        head = [(b"Date", date()), *validators]
        if part.status == 206:
            head.append((b"Content-Range", b"bytes %d-%d/%d" % (part.first, part.first + part.count - 1, file.size)))
        if part.status != 304:
            head += [(b"Content-Type", content_type), (b"Content-Length", b"%d" % part.count)]
        began = time.monotonic()
        if part.status == 200 and part.count > INLINE and request.method == "GET":
            detail = {"path": request.path, "bytes": part.count, "peer": request.peer}
            self.context.journal.record(Event(time.time(), mac, "http", "started", detail, "debug"))
            sent = scope.get("extensions", {}).get(zerocopy.ZEROCOPY, {}).get("sent", int)
            if not fetched:  # that one goes out in many pieces, of which the last alone is counted
                self._running[id(scope)] = (request.path, request.peer, mac, part.count, sent)
        try:
            await send({"type": "http.response.start", "status": part.status, "headers": head})
            if request.method == "HEAD" or not part.count:
                await send({"type": "http.response.body", "body": b""})
                return None
            if fetched:
                await self._as_it_arrives(fetched, part, send, scope)
            elif part.count <= INLINE:
                await send({"type": "http.response.body", "body": await _inline(file, part)})
            elif zerocopy.ZEROCOPY in scope.get("extensions", {}):
                await send({"type": zerocopy.ZEROCOPY, "file": file.fd, "offset": part.first, "count": part.count})
            else:
                await _stream(file, part, send)
        except OSError as error:
            why = (fetched and fetched.failure) or error.strerror or type(error).__name__
            detail = {"path": request.path, "peer": request.peer, "why": why, "seconds": time.monotonic() - began}
            if fetched and fetched.failure:
                detail["url"] = fetched.url
            self.context.journal.record(Event(time.time(), mac, "http", "failed", detail, "warning"))
            return None
        finally:
            self._running.pop(id(scope), None)
        detail = {"path": request.path, "bytes": part.count, "seconds": time.monotonic() - began, "peer": request.peer}
        # sanboot reads a disk image in thousands of small parts: only the one that reaches the end is news.
        level = "info" if part.first + part.count == file.size else "debug"
        self.context.journal.record(Event(time.time(), mac, "http", "sent", detail, level))
        return None

    async def _as_it_arrives(self, fetched: Any, part: conditional.Answer, send: Send, scope: Any) -> None:
        """A part of a file that may still be growing.  Raises OSError if it does not grow to its end."""
        at, end = part.first, part.first + part.count
        while at < end:
            upto = min(end, await fetched.arrived(at))
            if zerocopy.ZEROCOPY in scope.get("extensions", {}):
                message = {"type": zerocopy.ZEROCOPY, "file": fetched.file.fd, "offset": at, "count": upto - at}
                await send({**message, "more_body": upto < end})
            else:
                await _stream(fetched.file, conditional.Answer(200, at, upto - at), send, upto < end)
            at = upto


@dataclass(frozen=True, slots=True)
class _Told:
    """A reply and the fact to record about it."""

    reply: Reply
    client: Client | None
    mac: Mac | None
    kind: str
    detail: Mapping[str, Any]
    lasting: bool = True  # may the same be told to the same client again, without another look?
    level: str = ""  # of the event, if the status does not say it


class Server(uvicorn.Server):
    """uvicorn's, living inside our TaskGroup: no signals, no exit, no ticking."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending, self.ended = asyncio.Event(), asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        self._ending.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.ended.set()


_SIGNATURES = (".sig", ".asc")
NO_STORE = ((b"Cache-Control", b"no-store"),)  # scripts may hold secrets, and are rendered afresh for each boot
_SCRIPTS = (("ipxe",), ("grub",), ("pxelinux",))
SCRIPT_LOADERS = {"ipxe": Loader.IPXE, "grub": Loader.GRUB, "pxelinux": Loader.PXELINUX}


def client_of(request: Request, mac: Mac | None, loader: Loader = Loader.IPXE) -> Client:
    """Who asks, by the query (docs/reference.md).  mac: what is known without it.  Raises Refused for a wrong spelling."""
    labels: dict[str, str] = {}
    for name, value in parse_qsl(request.query.decode("latin-1"), max_num_fields=None, encoding="utf-8", errors="replace"):
        labels.setdefault(name, value)  # the first of several, as Matchbox reads them; empty ones tell nothing
    spelled = next((labels.pop(name) for name in list(labels) if name.lower() == "mac"), None)
    uuid = parse_uuid(labels.pop("uuid", ""))
    arch = IPXE_ARCHES.get((labels.get("arch", ""), labels.get("platform", ""))) or _ARCH_NAMES.get(labels.get("arch", ""))
    return Client(
        mac=_mac(spelled) if spelled else mac or NOBODY,
        arch=arch,
        loader=loader,
        stage=Stage.SCRIPT,
        uuid=uuid,
        serial=labels.get("serial"),
        address=request.peer,
        labels=labels,
    )


_ARCH_NAMES = {arch.value: arch for arch in Arch}


def _shown(error: OperatorError) -> bytes:
    """What a machine's screen shows of a mistake in the registry; the log says how to mend it."""
    return (error.short if isinstance(error, sandbox.RenderError) else str(error)).encode() + b"\n"


def _mac(text: str) -> Mac:
    try:
        return Mac.parse(text)
    except ValueError as error:
        raise Refused(400, f"{error}.\n") from None


def _named(client: Client) -> Mac | None:
    return None if client.mac == NOBODY else client.mac


def _profile_name(step: Step) -> str | None:
    return step.profile.name if isinstance(step, Boot) else "local" if isinstance(step, LocalDisk) else None


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


def _ranged(reply: Reply, wanted: bytes | None) -> Reply:
    """The part of a small answer that a Range header asks for."""
    if wanted is None:
        return replace(reply, headers=((b"Accept-Ranges", b"bytes"),))
    size = len(reply.body)
    part = conditional.part(wanted, size)
    if part.status == 416:
        return Reply(416, b"", headers=((b"Content-Range", b"bytes */%d" % size),))
    content_range = (b"Content-Range", b"bytes %d-%d/%d" % (part.first, part.first + part.count - 1, size))
    headers = ((b"Accept-Ranges", b"bytes"), *((content_range,) if part.status == 206 else ()))
    return replace(reply, status=part.status, body=reply.body[part.first : part.first + part.count], headers=headers)


async def _inline(file: File, part: conditional.Answer) -> bytes:
    """A small part of a file: at once if it is in the page cache, else by a thread."""
    buffer = bytearray(part.count)
    try:
        if os.preadv(file.fd, [buffer], part.first, os.RWF_NOWAIT) == part.count:
            return bytes(buffer)
    except OSError:
        pass  # not there, or a file system that does not tell
    loop = asyncio.get_running_loop()
    whole = await loop.run_in_executor(None, os.pread, file.fd, part.count, part.first)
    if len(whole) < part.count:
        raise OSError(0, "the file became shorter during the transfer")
    return whole


async def _stream(file: File, part: conditional.Answer, send: Send, more: bool = False) -> None:
    """A part of a file through this process's memory, a little at a time; the sender waits for slow readers."""
    loop = asyncio.get_running_loop()
    at, left = part.first, part.count
    while left:
        piece = await loop.run_in_executor(None, os.pread, file.fd, min(CHUNK, left), at)
        if not piece:
            raise OSError(0, "the file became shorter during the transfer")
        at, left = at + len(piece), left - len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": bool(left) or more})


def _canonical(send: Send) -> Send:
    """For applications that write header names in lower case and leave the date to the server (Starlette)."""

    async def canonical(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(zerocopy.canonical(name), value) for name, value in message.get("headers", ())]
            message = {**message, "headers": [(b"Date", date()), *headers]}
        await send(message)

    return canonical
