"""Which of uvicorn's parsers reads HTTP: httptools (C) where it is installed, else h11, each with our hooks, as far as they work.

Where no hook works, uvicorn's own h11 class serves: it keeps the header case and streams files.
"""

import asyncio
import errno
import logging
from typing import Any

from pixieboot.serve.zerocopy import HEAD_LIMIT, TOO_LONG, Connection, Header, fault_of, plain, proof, response_head

try:
    import httptools
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # no wheel for 32-bit ARM: h11 does it all
    httptools = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


if httptools is not None:

    class ZeroCopyHttpTools(Connection, HttpToolsProtocol):  # type: ignore[misc]
        """uvicorn's class on httptools (llhttp in C) with all that Connection adds."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._unfinished = 0  # bytes of a request head that came in earlier reads

        def data_received(self, data: bytes) -> None:
            began = self.in_head
            super().data_received(data)
            if self.in_head and self.parser:
                # In the read where the head begins, other requests may stand before it: only whole reads count.
                self._unfinished = self._unfinished + len(data) if began else 0
                if self._unfinished > HEAD_LIMIT or (not began and len(data) > 8 * HEAD_LIMIT):
                    self.refuse(*TOO_LONG)
                    self.send_400_response("")

        def on_message_begin(self) -> None:
            self.in_head = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.in_head, self._unfinished = False, 0
            version = self.parser.get_http_version()
            if fault := fault_of(self.headers, version):
                self.refuse(400, fault)
                raise ValueError(fault)
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_LIMIT:
                self.refuse(*TOO_LONG)
                raise ValueError(TOO_LONG[1])
            if version == "1.1" and self.parser.get_method() == b"GET" and self.parser.should_keep_alive():
                names = {name for name, _ in self.headers}
                if plain(names, ()):
                    self.is_plain = True
                    idle = self.cycle is None or self.cycle.response_complete
                    if idle and not self.flow.write_paused and not self.transport.is_closing():
                        if answer := self._at_once(self.url, self.peer, self.local):
                            self.transport.write(answer)
                            self.cycle = _ANSWERED
                            return
            super().on_headers_complete()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self.attach(cycle)
            super()._start_asgi_task(cycle, app)

        def head(self, cycle: Any, status: int, headers: list[Header]) -> bytes:
            for name, value in headers:
                match name.lower():
                    case b"content-length":
                        cycle.chunked_encoding, cycle.expected_content_length = False, int(value)
                    case b"connection" if b"close" in value.lower():
                        cycle.keep_alive = False
            if cycle.chunked_encoding is None and status not in (204, 304):
                # Of unknown length: chunks, or to a client of HTTP/1.0 all until the connection closes.
                cycle.chunked_encoding = cycle.scope["http_version"] == "1.1"
                if cycle.chunked_encoding:
                    headers.append((b"Transfer-Encoding", b"chunked"))
                else:
                    cycle.keep_alive = False
            if not cycle.keep_alive and not any(name == b"Connection" for name, _ in headers):
                headers.append((b"Connection", b"close"))
            if cycle.scope["method"] == "HEAD":
                cycle.chunked_encoding, cycle.expected_content_length = False, 0
            return response_head(status, headers)

        def data(self, cycle: Any, body: bytes) -> bytes:
            if cycle.chunked_encoding:
                return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.count(cycle, len(body))
            return body

        def count(self, cycle: Any, size: int) -> None:
            if not cycle.chunked_encoding and cycle.keep_alive and size > cycle.expected_content_length:
                raise RuntimeError("more body than Content-Length says")
            cycle.expected_content_length -= size

        def end(self, cycle: Any) -> bytes:
            if cycle.chunked_encoding:
                return b"0\r\n\r\n"
            if cycle.expected_content_length > 0:
                raise OSError(errno.EPIPE, "less body than Content-Length says")
            return b""

        def finished(self, cycle: Any) -> None:
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()


class _Answered:
    """Stands for a request that was answered at once: uvicorn asks its last request for these."""

    response_complete = True
    keep_alive = True
    disconnected = False
    more_body = False
    message_event = asyncio.Event()


_ANSWERED = _Answered()


async def chosen() -> type[asyncio.Protocol]:
    """The best protocol class whose hooks work with the uvicorn that is installed."""
    if httptools is not None and await _works(ZeroCopyHttpTools):
        return ZeroCopyHttpTools
    from pixieboot.serve.zerocopy_h11 import H11Protocol, ZeroCopyH11

    if await _works(ZeroCopyH11):
        return ZeroCopyH11
    log.warning("no zero-copy hook works with this uvicorn: files are streamed, which costs about ten times the CPU")
    return H11Protocol


async def _works(candidate: type[asyncio.Protocol]) -> bool:
    try:
        async with asyncio.timeout(2):
            await proof(candidate)
    except Exception as error:
        log.warning("%s does not work with this uvicorn (%s): trying the next", candidate.__name__, error)
        return False
    return True
