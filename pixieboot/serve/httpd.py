"""HTTP for booting machines: scripts, documents, kernels and the TFTP tree, by the rules that firmware needs (docs/reference.md).

Content-Length on everything, header names in canonical case, never a redirect, a compression or a chunk on a boot path.
Bare ASGI: a boot asks for a handful of paths, and each microsecond here is paid by a whole rack.
"""

import asyncio
import functools
import logging
import resource
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import uvicorn

from pixieboot import remote
from pixieboot.errors import OperatorError
from pixieboot.model import NO_MAC, Event, Mac
from pixieboot.serve import parsers, zerocopy
from pixieboot.serve.asgi import Application, Receive, Send, Server, canonical
from pixieboot.serve.context import Asks, Context
from pixieboot.serve.documents import SCRIPT_LOADERS, Documents
from pixieboot.serve.downloads import Downloads
from pixieboot.serve.ports import refusal
from pixieboot.serve.readyscripts import ReadyScripts
from pixieboot.serve.requests import NO_STORE, TEXT, Refused, Reply, Request, Told, client_of, mac_in, missing, named, read
from pixieboot.serve.signing import Signer
from pixieboot.serve.tickets import Tickets

DESCRIPTORS = 8192  # of this process: a connection under way needs three
SWEEP = 1.0  # seconds between looks for connections that stand still

_SIGNATURES = (".sig", ".asc")
_SCRIPTS = tuple((name,) for name in SCRIPT_LOADERS)


log = logging.getLogger(__name__)


class HttpService:
    """All HTTP of the daemon.  `rest` answers what is no boot path (API, web page)."""

    def __init__(self, context: Context, rest: Application | None = None) -> None:
        self.context, self._rest = context, rest
        self._downloads = Downloads(context)
        self._documents = Documents(context, Tickets(context))
        self._ready = ReadyScripts(context, self._documents.script)
        self._socket: socket.socket | None = None
        self._server: Server | None = None
        self._signer: Signer | None = None
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
            beside = [tasks.create_task(self._sweep()), tasks.create_task(self.context.deadlines.run())]
            if any(profile.cache for profile in self.context.registry.current.profiles.values()):
                beside.append(tasks.create_task(self._downloads.prepare()))  # before the first machine asks
            self.context.answering.set()
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
        self._downloads.stop()
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
        site = self.context.sites.serving(local)
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
            request = read(scope["method"], target, peer, self.context.sites.serving(local), headers)
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
        return self._ready.response(target, peer, local)

    async def _answer(self, request: Request, scope: Any, receive: Receive, send: Send) -> Reply | None:
        """The reply; None when it has been sent already."""
        journal = self.context.journal
        if self._signer and (told := await self._signed(request, self._signer)):
            request.only("GET")
            return told.record(request, journal)
        if told := await self._foreign(request):
            return told.record(request, journal)
        if told := await self._rendered(request):
            request.only("GET")
            return told.record(request, journal)
        if request.ticket is not None:
            return missing(journal, request, None, "there is no such path")
        match request.parts:
            case () if self._rest is None:
                request.only("GET")
                return Reply(200, b"pixieboot: machines start at /boot.ipxe\n")
            case ("assets" | "images", *parts):
                return await self._downloads.asset(request, parts, send, scope)
            case (remote.PREFIX, token, _):
                return await self._downloads.remote(request, token, send, scope)
            case ("tftp", *parts):
                return await self._downloads.boot_file(request, "/".join(parts), send, scope)
            case ("done",):
                return await self._done(request)
            case ("healthz",):
                request.only("GET")
                return Reply(200, b"ok\n")  # a service that fails ends the whole daemon
        if self._rest is not None:
            await self._rest(scope, receive, canonical(send))
            return None
        request.only("GET")
        return missing(journal, request, None, "there is no such path")

    async def _signed(self, request: Request, signer: Signer) -> Told | None:
        """The detached signature of exactly what the path without .sig or .asc answers; None: there is nothing to sign."""
        match request.parts:
            case ("pixiecore", "v1", "boot.sig" | "boot.asc" as signed, mac):  # where bootcfg had them
                parts: tuple[str, ...] = ("pixiecore", "v1", "boot", mac)
            case (*before, signed) if signed.endswith(_SIGNATURES):
                parts = (*before, signed[:-4])
            case _:
                return None
        form = signed[-3:]
        unsigned = replace(request, parts=parts, headers={})  # of the whole, not of a range
        told = await self._foreign(unsigned) or await self._rendered(unsigned)
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

    async def _rendered(self, request: Request) -> Told | None:
        """What is rendered at this path for the machine that asks; a foreign API is asked first what that boots."""
        if self.context.boot_api and (request.parts[:1] in _SCRIPTS or request.parts[-3:-1] == ("v1", "boot")):
            await self._ask_api(self.context.boot_api, request)
        return await self._documents.answer(request)

    async def _foreign(self, request: Request) -> Told | None:
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
            reply = reply.ranged(request.headers.get(b"range"))
        try:
            mac = Mac.parse(answer.labels.get("mac", ""))
        except ValueError:
            mac = None
        detail: dict[str, Any] = {"path": request.path, "profile": answer.profile, "why": answer.why, "peer": request.peer}
        if request.parts in (("ipxe",), ("grub",)) or "boot" in request.parts:
            return Told(reply, None, mac, "script", {**detail, "status": answer.status})
        return Told(reply, None, mac, "sent" if answer.status == 200 else "missing", {**detail, "bytes": len(answer.body)})

    async def _ask_api(self, api: Asks, request: Request) -> None:
        """Have the foreign API say what this machine boots now.  Raises Refused if that is not known."""
        if request.parts[0] in SCRIPT_LOADERS:
            mac = client_of(request, self.context.journal.mac_of(request.peer)).mac
        else:
            mac = mac_in(request.parts[-1])
        if mac != NO_MAC and (failure := await api.latest(mac)):
            raise Refused(failure[0], f"No boot data: {failure[1]}.\n")

    async def _done(self, request: Request) -> Reply:
        """The machine reports that it is installed: kept before we say so, else a power cut would install it again."""
        request.only("GET", "POST")
        client = client_of(request, self.context.journal.mac_of(request.peer))
        key = self.context.state_key(client)
        if key == NO_MAC:
            raise Refused(400, "Which machine is done? Add ?mac=52:54:00:12:34:56 to the address.\n")
        if request.method == "HEAD":
            return Reply(200, b"done\n", headers=NO_STORE)
        if not self.context.may_note(client):
            raise Refused(503, "Too many machines that nobody described: describe this one.\n")
        now = time.time()
        store = self.context.store
        await store.keep_state(key, replace(store.state(key), done=now, deadline=0.0, overdue=0.0))
        self.context.journal.record(Event(now, named(client), "http", "done", {"machine": key, "peer": request.peer}))
        return Reply(200, b"done\n", headers=NO_STORE)
