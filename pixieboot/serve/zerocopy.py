"""uvicorn's protocol classes with what a netboot server needs of them: files without copying, header names in canonical case
(GRUB 2.06 compares them case-sensitively), limits that hold, and a short way for small answers.

The application sends an ASGI `http.response.zerocopysend` message; `copying` moves the bytes.

These are hooks into uvicorn's inside: `proof` shows over a socket pair that they work with the uvicorn that is installed.
"""

import asyncio
import errno
import fcntl
import logging
import re
import socket
import struct
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from operator import attrgetter
from typing import Any, Protocol

from uvicorn import Config
from uvicorn.server import ServerState

from pixieboot.serve.copying import Copy

ZEROCOPY = "http.response.zerocopysend"

HEAD_LIMIT = 32 * 1024  # bytes of request line and headers
TOO_LONG = (431, "The request line and headers are longer than 32 KiB.\n")
HEAD_SECONDS = 15.0  # from a request's first byte to its last header
IDLE_SECONDS = 60.0  # between requests
STALL_SECONDS = 30.0  # without one byte of progress, in either direction
CONNECTIONS = 1000  # at most; above it the source that holds most of them loses its laziest
VETTED_LIMIT = 1024  # different header blocks remembered as harmless

IP_PKTINFO, IP_PKTOPTIONS = 8, 9  # linux/in.h
_TARGET = re.compile(rb"[!-~]{1,4096}")
_BODY_OR_MORE = {b"content-length", b"transfer-encoding", b"upgrade", b"expect"}

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]


class Application(Protocol):
    """What these classes ask of the ASGI application beyond ASGI."""

    def admits(self, local: str, ifindex: int | None) -> bool:
        """Is a connection to this address of ours, in by this interface, to be answered at all?"""

    def at_once(self, target: bytes, peer: str, local: str) -> bytes | None:
        """The whole response to a plain GET over HTTP/1.1 if it is at hand, else None.  target is as on the wire."""


@lru_cache(256)
def canonical(name: bytes) -> bytes:
    """b"content-length" -> b"Content-Length"; names that have capitals already stay."""
    if name != name.lower():
        return name
    return {b"etag": b"ETag", b"www-authenticate": b"WWW-Authenticate"}.get(name, name.title())


class Connection(asyncio.Protocol):
    """The mixin: what both parsers' classes share.  Everything uvicorn-specific that it relies on is proved by `proof`."""

    transport: asyncio.Transport
    cycle: Any
    flow: Any
    config: Config
    connections: set[Any]
    vetted: dict[bytes, None] = {}  # noqa: RUF012  (header blocks that the parser found to be a plain GET's, of all connections)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.peer = self.local = ""
        self.since = time.monotonic()  # of the last progress
        self.in_head = False
        self._copy: Copy | None = None
        self._got_to = (0, 0)  # of the last look: bytes given to the kernel, bytes that the reader has not acknowledged
        self._refusal: tuple[int, str] = (400, "Bad request: this is not HTTP/1.1.\n")
        self._at_once: Callable[[bytes, str, str], bytes | None] = getattr(self.config.loaded_app, "at_once", _nothing)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Nothing may wait in the transport when sendfile starts: any rest counts as "paused".
        transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        with_address = sock.family in (socket.AF_INET, socket.AF_INET6)
        self.local, self.peer = (self.server[0], self.client[0]) if with_address and self.server and self.client else ("", "")  # type: ignore[attr-defined]
        admits = getattr(self.config.loaded_app, "admits", None)
        if admits and not admits(self.local, arrival_interface(sock)):
            transport.abort()
        elif len(self.connections) > CONNECTIONS:
            dropped = laziest(self.connections - {self})
            self.connections.discard(dropped)  # it is lost in the loop's next turn, and would be chosen again until then
            dropped.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._copy:
            self._copy.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        """A client that has said all it wants (half-closed) still gets its answer."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def resume_writing(self) -> None:
        self.since = time.monotonic()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        fresh = not self.in_head and (self.cycle is None or self.cycle.response_complete)
        if fresh or not self.in_head:
            self.since = time.monotonic()
        if not fresh:
            super().data_received(data)
            return
        line = data.find(b"\r\n")
        block = data[line:]
        if block in self.vetted and data.startswith(b"GET ") and data.endswith(b" HTTP/1.1", 0, line):
            target = data[4 : line - 9]
            if _TARGET.fullmatch(target) and not self.flow.write_paused:
                if answer := self._at_once(target, self.peer, self.local):
                    self._unset_keepalive_if_required()  # type: ignore[attr-defined]
                    self.transport.write(answer)
                    return
        self.is_plain = False
        super().data_received(data)
        if self.is_plain and len(block) <= 1024 and block.find(b"\r\n\r\n") == len(block) - 4:
            if len(self.vetted) >= VETTED_LIMIT:
                self.vetted.clear()
            self.vetted[block] = None

    def overdue(self, now: float) -> bool:
        """Has this connection made no progress for longer than its state allows?"""
        quiet = now - self.since
        if self._copy or self.transport.get_write_buffer_size():
            # The kernel holds megabytes for a slow reader, and says nothing while it drains them: look how far it has come.
            got_to = (self._copy.sent if self._copy else 0, unsent(self.transport.get_extra_info("socket").fileno()))
            if got_to != self._got_to:
                self._got_to, self.since = got_to, now
                return False
            return quiet > STALL_SECONDS
        if self.in_head:
            return quiet > HEAD_SECONDS
        if self.cycle is None or self.cycle.response_complete:
            return quiet > IDLE_SECONDS
        return bool(self.cycle.more_body) and quiet > STALL_SECONDS

    def refuse(self, status: int, sentence: str) -> None:
        self._refusal = (status, sentence)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close.  Replaces uvicorn's, whose header names are in lower case."""
        if self.transport.is_closing():
            return
        status, sentence = self._refusal
        log.debug("HTTP from %s refused with %d: %s", self.peer, status, sentence.strip())
        begun = False
        if self.cycle is not None and not self.cycle.response_complete:
            begun = self.cycle.response_started
            self.cycle.disconnected = True  # what it still has to say is not wanted
        if not begun:  # else it would end up inside another response
            body = sentence.encode()
            head = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Connection", b"close")]
            self.transport.write(response_head(status, [*head, (b"Content-Length", b"%d" % len(body))]) + body)
        self.transport.close()

    def attach(self, cycle: Any) -> None:
        """Let the application's messages go our way."""
        if not isinstance(cycle.__dict__.get("send"), _Sender):
            cycle.scope.setdefault("extensions", {})[ZEROCOPY] = {"sent": self.copied}
            cycle.send = _Sender(self, cycle)

    def copied(self) -> int:
        """How many octets of the file under way have left; 0 when none is."""
        return self._copy.sent if self._copy else 0

    async def copy(self, file: int, offset: int, count: int) -> None:
        """The bytes of a file range, after everything written so far.  Raises OSError when they did not all get out."""
        await self.flow.drain()
        if self.transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        self._copy = Copy(self.transport.get_extra_info("socket"), file, offset, count)
        try:
            await self._copy.done
        finally:
            self._copy.cancel()
            self._copy = None

    def head(self, cycle: Any, status: int, headers: list[Header]) -> bytes:
        raise NotImplementedError

    def data(self, cycle: Any, body: bytes) -> bytes:
        raise NotImplementedError

    def count(self, cycle: Any, size: int) -> None:
        raise NotImplementedError

    def end(self, cycle: Any) -> bytes:
        raise NotImplementedError

    def finished(self, cycle: Any) -> None:
        raise NotImplementedError


class _Sender:
    """The `send` that the application gets for one request."""

    def __init__(self, connection: Connection, cycle: Any) -> None:
        self._connection, self._cycle = connection, cycle
        self._head: bytes | None = None  # waits for the first piece of body: both leave in one write

    async def __call__(self, message: Mapping[str, Any]) -> None:
        connection, cycle = self._connection, self._cycle
        kind = message["type"]
        if connection.flow.write_paused and not cycle.disconnected:
            await connection.flow.drain()
        if cycle.disconnected:
            if kind == ZEROCOPY:
                raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
            return
        if kind == "http.response.start":
            if cycle.response_started:
                raise RuntimeError("a response was started twice")
            cycle.response_started, cycle.waiting_for_100_continue = True, False
            headers = [(canonical(name), value) for name, value in message.get("headers", ())]
            self._head = connection.head(cycle, message["status"], headers)
            if not any(name == b"Content-Length" for name, _ in headers):  # a stream: its first words may be long in coming
                connection.transport.write(self._head)
                self._head = None
            return
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError(f"{kind} before the start of a response or after its end")
        head, self._head = self._head or b"", None
        try:
            if kind == ZEROCOPY:
                if head:
                    connection.transport.write(head)
                if cycle.scope["method"] != "HEAD":
                    connection.count(cycle, message["count"])
                    await connection.copy(message["file"], message["offset"], message["count"])
                head = b""
            else:
                body = message.get("body", b"")
                head += connection.data(cycle, b"" if cycle.scope["method"] == "HEAD" else body)
            if not message.get("more_body", False):
                head += connection.end(cycle)
                cycle.response_complete = True
        except OSError:
            cycle.disconnected = True
            connection.transport.abort()
            raise
        if head:
            connection.transport.write(head)
        if cycle.response_complete:
            connection.since = time.monotonic()
            cycle.message_event.set()
            connection.finished(cycle)


def _nothing(target: bytes, peer: str, local: str) -> bytes | None:
    return None


def plain(names: set[bytes], headers: Iterable[Header]) -> bool:
    """Nothing but a request for bytes: no body, no upgrade, no closing."""
    if names & _BODY_OR_MORE:
        return False
    return not any(name == b"connection" and b"close" in value.lower() for name, value in headers)


def fault_of(headers: list[Header], version: str) -> str | None:
    """Why a request with these headers is refused: framing that two parties could read differently (RFC 9112 §3.2, §6.3)."""
    if version not in ("1.0", "1.1"):
        return "Bad request: HTTP/1.0 and HTTP/1.1 are spoken here.\n"
    hosts = lengths = codings = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
        elif name == b"transfer-encoding":
            codings += 1 if value.strip().lower() == b"chunked" else 2
    if hosts > 1 or (version == "1.1" and not hosts):
        return "Bad request: HTTP/1.1 wants exactly one Host header.\n"
    if codings > 1 or (lengths and codings):
        return "Bad request: Content-Length beside Transfer-Encoding, one of them twice, or a coding other than chunked.\n"
    if codings and version == "1.0":
        return "Bad request: HTTP/1.0 knows no Transfer-Encoding.\n"
    return None


def response_head(status: int, headers: Iterable[Header]) -> bytes:
    """Status line and headers as they go over the wire."""
    lines = [b"HTTP/1.1 %d %b" % (status, _PHRASES.get(status, b""))]
    lines += [b"%b: %b" % header for header in headers]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or b"\0" in head:
        raise ValueError("a line break or NUL in a response header")
    return head + b"\r\n\r\n"


def arrival_interface(sock: Any) -> int | None:
    """The index of the interface that a TCP connection came in by; None where the kernel does not tell.

    The listening socket must have IP_PKTINFO set.  The local address alone does not tell: Linux answers for all of its
    addresses on every link.
    """
    try:
        options = sock.getsockopt(socket.IPPROTO_IP, IP_PKTOPTIONS, 64)
    except OSError:
        return None
    if len(options) < 28:
        return None
    length, level, kind, index = struct.unpack_from("=Q2iI", options)
    return index if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and length >= 28 else None


def unsent(connection: int) -> int:
    """Bytes that the other side of a TCP connection has not acknowledged yet."""
    queued = fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(queued, sys.byteorder)


def laziest(connections: Iterable[Any]) -> Any:
    """Whom to drop when there are too many: of the source with most connections, the one longest without progress.

    Asked for every connection of a flood: as fast as may be.
    """
    held = list(connections)
    ((worst, _),) = Counter([connection.peer for connection in held]).most_common(1)
    return min([connection for connection in held if connection.peer == worst], key=attrgetter("since"))


def overdue(connections: Iterable[Any], now: float) -> list[Any]:
    """Connections that have used up the time their state allows: the caller aborts them."""
    return [c for c in connections if isinstance(c, Connection) and c.overdue(now)]


async def proof(candidate: type[asyncio.Protocol]) -> None:
    """Serve one file over a socket pair.  Raises if a header name lost its case, or a byte went another way than sendfile."""
    with open(__file__, "rb") as file:
        body, through = file.read(100), asyncio.Semaphore(0)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"Content-Length", b"10"), (b"ETag", b'"proof"')]
            await send({"type": "http.response.start", "status": 206, "headers": headers})
            await send({"type": ZEROCOPY, "file": file.fileno(), "offset": 40, "count": 10})
            through.release()

        config = Config(
            app, log_config=None, server_header=False, date_header=False, lifespan="off", proxy_headers=False, ws="none"
        )
        config.load()
        state = ServerState()
        ours, theirs = socket.socketpair()
        with theirs:
            loop = asyncio.get_running_loop()
            theirs.setblocking(False)
            transport, _ = await loop.connect_accepted_socket(
                lambda: candidate(config=config, server_state=state, app_state={}, _loop=loop),  # type: ignore[call-arg]
                ours,
            )
            try:
                answers = b""
                for _ in range(2):  # twice: keep-alive shows that both sides' bookkeeping is right
                    await loop.sock_sendall(theirs, b"GET /proof HTTP/1.1\r\nHost: self-test\r\n\r\n")
                    while not answers.endswith(body[40:50]) or len(answers) < 40:
                        piece = await loop.sock_recv(theirs, 4096)
                        if not piece:
                            raise RuntimeError("the connection was closed")
                        answers += piece
                    expected = b'HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\nETag: "proof"\r\n\r\n' + body[40:50]
                    if answers != expected:
                        raise RuntimeError(f"it answered {answers!r}")
                    answers = b""
                    await through.acquire()  # the last byte is here before the sender has been told
            finally:
                transport.abort()
                await asyncio.sleep(0)
