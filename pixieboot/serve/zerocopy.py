"""uvicorn's protocol classes with what a netboot server needs of them: files without copying, header names in canonical case
(GRUB 2.06 compares them case-sensitively), limits that hold, and a short way for small answers.

The application sends an ASGI `http.response.zerocopysend` message; `os.sendfile` moves the bytes in pieces on the event loop.
A piece that is not in the page cache is read by a thread first, so that a slow disk never stalls DHCP.  Not `loop.sendfile`:
`transport.abort()` while it runs leaves it hanging for ever (Python 3.11), and it blocks the loop on a cold file.

These are hooks into uvicorn's inside: `proof` shows over a socket pair that they work with the uvicorn that is installed.
"""

import asyncio
import errno
import fcntl
import logging
import os
import re
import resource
import socket
import struct
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from http import HTTPStatus
from operator import attrgetter
from typing import Any, Protocol

from uvicorn import Config
from uvicorn.server import ServerState

from pixieboot.serve.files import in_memory

ZEROCOPY = "http.response.zerocopysend"

PIECE = 2048 * 1024  # bytes per sendfile at most, half a millisecond; an eighth of it costs a third more CPU per byte
SMALLEST = 64 * 1024  # bytes per sendfile when hundreds share the loop
PROBE = 1024 * 1024  # bytes between looks whether a piece is in the page cache; read-ahead fills what is between
TURN, ROUND = 0.001, 0.002  # seconds that one transfer, and all together, may keep the loop from DHCP and TFTP
AHEAD = 1024 * 1024  # bytes that a thread reads at a time from a cold file
STALL = 0.01  # seconds that one sendfile may take; a slower one waited for the disk although the probe found the page
READERS = 4  # threads for cold files

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
_BYTE = [bytearray(1)]  # where probes read to


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


class Copy:
    """One range of a file on its way into a socket, in pieces that never stall the loop.  Await `done`."""

    _active = 0

    def __init__(self, connection: int, file: int, offset: int, count: int, on_progress: Callable[[], None]) -> None:
        """connection: the descriptor of a non-blocking socket.  Both are duplicated, so that their owners may close theirs."""
        self._loop = asyncio.get_running_loop()
        self._in, self._out = os.dup(file), os.dup(connection)  # asyncio guards the transport's own descriptor
        self._offset, self._left, self._on_progress = offset, count, on_progress
        self._warm_to = offset  # the file is in the page cache up to here
        self._in_memory = in_memory(os.fstat(file).st_dev)
        self._slow = False
        self._blocks = disk_reads()
        self._waiting = self._reading = self._finished = False
        self.sent = 0
        self.done: asyncio.Future[None] = self._loop.create_future()
        Copy._active += 1
        self._step()

    def cancel(self) -> None:
        """The connection is gone."""
        self._finish(ConnectionResetError(errno.ECONNRESET, "the connection was closed during the transfer"))

    def _step(self) -> None:
        """Send until the socket is full, the file is done, or the loop has others to serve."""
        start = time.perf_counter()
        end = start + min(TURN, ROUND / Copy._active)
        most = min(PIECE, max(SMALLEST, 2 * PIECE // Copy._active))
        while start < end:
            piece = min(most, self._left)
            if self._offset + piece > self._warm_to and not self._warm(piece):
                piece = self._warm_to - self._offset
                if piece <= 0:
                    self._fetch()
                    return
            try:
                sent = os.sendfile(self._out, self._in, self._offset, piece)
            except BlockingIOError:
                break
            except OSError as error:
                self._finish(error)
                return
            if not sent:
                self._finish(OSError(errno.ENODATA, "the file became shorter during the transfer"))
                return
            self._offset += sent
            self._left -= sent
            self.sent += sent
            if not self._left:
                self._finish(None)
                return
            if sent < piece:
                break
            before, start = start, time.perf_counter()
            # The probe found the pages, and yet it waited for the disk: too little memory, or holes.  A busy CPU is not that.
            if start - before > STALL and disk_reads() != self._blocks:
                self._slow = True
        self._on_progress()
        self._wait(True)

    def _fetch(self) -> None:
        """Let a thread read on; the connection rests meanwhile."""
        self._wait(False)
        self._reading = True
        reading = self._loop.run_in_executor(_readers(), _read, os.dup(self._in), self._offset, min(AHEAD, self._left))
        reading.add_done_callback(self._read)

    def _warm(self, piece: int) -> bool:
        """Is the piece in the page cache, by its first byte, its last, and some between?"""
        last = self._offset + piece - 1
        if self._in_memory:
            self._warm_to = last + 1
            return True
        if self._slow:
            return False
        try:
            for at in range(self._offset, last, PROBE):
                os.preadv(self._in, _BYTE, at, os.RWF_NOWAIT)
            os.preadv(self._in, _BYTE, last, os.RWF_NOWAIT)
        except OSError:  # EAGAIN: not there; EOPNOTSUPP (vfat, NFS): it does not tell
            return False
        self._warm_to = last + 1
        return True

    def _read(self, reading: asyncio.Future[tuple[int, bool]]) -> None:
        self._reading = False
        if self._finished:
            self._close()
        elif error := reading.exception():
            self._finish(error)
        else:
            found, self._slow = reading.result()
            self._blocks = disk_reads()
            self._warm_to = self._offset + max(1, found)
            self._step()

    def _wait(self, waiting: bool) -> None:
        if waiting and not self._waiting:
            self._loop.add_writer(self._out, self._step)
        elif self._waiting and not waiting:
            self._loop.remove_writer(self._out)
        self._waiting = waiting

    def _finish(self, error: BaseException | None) -> None:
        if self._finished:
            return
        self._finished = True
        Copy._active -= 1
        self._wait(False)
        if self.done.done():  # cancelled with the task that awaited it
            pass
        elif error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)
        if not self._reading:
            self._close()

    def _close(self) -> None:
        os.close(self._in)
        os.close(self._out)


def _read(file: int, offset: int, count: int) -> tuple[int, bool]:
    """In a thread: bring this part of the file into the page cache, and ask for what follows.

    The bytes found there, and whether the disk was needed.
    """
    before = disk_reads()
    try:
        os.posix_fadvise(file, offset, 2 * count, os.POSIX_FADV_WILLNEED)
        buffer, found = bytearray(AHEAD // 4), 0
        while found < count and (got := os.preadv(file, [buffer], offset + found)):
            found += got
        return found, disk_reads() != before
    finally:
        os.close(file)


def disk_reads() -> int:
    """How often this thread has had to wait for a disk, on file systems that count it."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


@lru_cache(1)
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, "cold-file")


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
        self._queued = 0  # bytes in the kernel that the reader has not acknowledged, at the last look
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
            queued = unsent(self.transport.get_extra_info("socket").fileno())
            if queued != self._queued:
                self._queued, self.since = queued, now
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
            cycle.scope.setdefault("extensions", {})[ZEROCOPY] = {}
            cycle.send = _Sender(self, cycle)

    async def copy(self, file: int, offset: int, count: int) -> None:
        """The bytes of a file range, after everything written so far.  Raises OSError when they did not all get out."""
        await self.flow.drain()
        if self.transport.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        self._copy = Copy(self.transport.get_extra_info("socket").fileno(), file, offset, count, self._progress)
        try:
            await self._copy.done
        finally:
            self._copy.cancel()
            self._copy = None

    def _progress(self) -> None:
        self.since = time.monotonic()

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
        body = file.read(100)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"Content-Length", b"10"), (b"ETag", b'"proof"')]
            await send({"type": "http.response.start", "status": 206, "headers": headers})
            await send({"type": ZEROCOPY, "file": file.fileno(), "offset": 40, "count": 10})

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
            finally:
                transport.abort()
                await asyncio.sleep(0)
