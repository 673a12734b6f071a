"""ASGI as this daemon runs it: uvicorn's server inside our TaskGroup, and answers of other applications with our headers."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from pixieboot.serve import zerocopy
from pixieboot.serve.requests import date

WAITING = 2048  # connections that the kernel keeps until they are accepted
AT_ONCE = 16  # of them in one turn of the loop: between two turns DHCP is answered

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Server(uvicorn.Server):
    """uvicorn's, living inside our TaskGroup: no signals, no exit, no ticking."""

    def __init__(self, config: uvicorn.Config) -> None:
        config.backlog = AT_ONCE  # for asyncio both numbers are one: it accepts as many as it lets wait
        super().__init__(config)
        self._ending, self.ended = asyncio.Event(), asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(WAITING)

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        self._ending.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.ended.set()


def canonical(send: Send) -> Send:
    """For applications that write header names in lower case and leave the date to the server (Starlette)."""

    async def write(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = [(zerocopy.canonical(name), value) for name, value in message.get("headers", ())]
            message = {**message, "headers": [(b"Date", date()), *headers]}
        await send(message)

    return write
