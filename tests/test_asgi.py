"""Other applications on the port of machines."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from pixieboot.serve.asgi import AT_ONCE, Server
from tests.httphost import PROTOCOLS, lawful, serving


@pytest.mark.parametrize("protocol", [PROTOCOLS["httptools"], PROTOCOLS["h11"]], ids=["httptools", "h11"])
def test_other_applications(tmp_path: Path, protocol: type[asyncio.Protocol] | None) -> None:
    """The API's answers get our header names and date; a stream's head does not wait for its first words."""
    if protocol is None:
        pytest.skip("httptools is not installed")
    go_on = threading.Event()

    async def words() -> AsyncIterator[bytes]:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        yield b"data: 1\n\n"

    rest = Starlette(
        routes=[
            Route("/ui/", lambda request: PlainTextResponse("page", headers={"x-frame-options": "DENY"})),
            Route("/stream", lambda request: StreamingResponse(words(), media_type="text/event-stream")),
        ]
    )
    with serving(tmp_path, protocol, rest=rest) as host:
        got = host.get("/ui/")
        assert (got.status, got.body) == (200, b"page")
        assert set(got.names) == {"Date", "Content-Length", "Content-Type", "X-Frame-Options"}
        lawful(got)
        assert host.get("/boot.ipxe").body.startswith(b"#!ipxe")
        assert host.get("/other").status == 404
        with host.connect() as wire:
            wire.send("GET /stream HTTP/1.1\nHost: x")
            head = wire.socket.recv(4096)
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head and head.endswith(b"\r\n\r\n")
            go_on.set()
            rest_of_it = b""
            while not rest_of_it.endswith(b"0\r\n\r\n"):
                rest_of_it += wire.socket.recv(4096)
            assert rest_of_it == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"
            wire.send("GET /healthz HTTP/1.1\nHost: x")
            assert wire.response().body == b"ok\n"
        with host.connect() as wire:
            wire.send("GET /stream HTTP/1.0")
            assert b"".join(iter(lambda: wire.socket.recv(4096), b"")).endswith(b"\r\n\r\ndata: 1\n\n")


def test_a_flood_of_connections_is_accepted_in_many_turns_of_the_loop() -> None:
    """What else the loop serves would wait for all of them; and none of them is turned away meanwhile."""

    async def flood() -> list[int]:
        config = uvicorn.Config(Starlette(), http="h11", ws="none", lifespan="off", log_config=None)
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = Server(config)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve([listener]))
                while not server.started:
                    await asyncio.sleep(0)
                for _ in range(10 * AT_ONCE):  # the kernel answers them: the loop does not turn here
                    stack.enter_context(socket.create_connection(listener.getsockname(), 0.5))
                counts = [0]
                while counts[-1] < 10 * AT_ONCE:
                    await asyncio.sleep(0)
                    counts.append(len(server.server_state.connections))
                server.end()
        return [after - before for before, after in pairwise(counts)]

    assert max(asyncio.run(flood())) <= AT_ONCE + 1  # asyncio of Python 3.13 accepts one more


@pytest.mark.parametrize("protocol", [PROTOCOLS["httptools"], PROTOCOLS["h11"]], ids=["httptools", "h11"])
def test_an_upload_that_waits_is_told_to_go_on(tmp_path: Path, protocol: type[asyncio.Protocol] | None) -> None:
    """curl asks so before it sends a body (RFC 9110 §10.1.1)."""
    if protocol is None:
        pytest.skip("httptools is not installed")

    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    with serving(tmp_path, protocol, rest=Starlette(routes=[Route("/upload", length, methods=["PUT"])])) as host:
        with host.connect() as wire:
            wire.socket.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            told = b""
            while not told.endswith(b"\r\n\r\n"):
                told += wire.socket.recv(100)
            assert told.startswith(b"HTTP/1.1 100 ")
            wire.send(b"hello")
            assert wire.response().body == b"5"
