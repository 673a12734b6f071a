"""The API's own sockets: the UNIX socket for root, and api.listen's port if the API is not on the port of machines."""

import asyncio
import importlib
import os
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from pixieboot.serve import access
from pixieboot.serve.asgi import Server
from pixieboot.serve.context import Context
from pixieboot.serve.feed import Feed
from pixieboot.serve.history import History
from pixieboot.serve.ports import refusal


class ApiService:
    """Token, history and feed of the daemon, and the sockets by which operators come in."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sockets: list[tuple[socket.socket, bool]] = []  # (listening socket, does it need the token?)
        self._servers: list[Server] = []
        self._token = access.make_token(context.settings)
        self._history = History(access.state_directory(context.settings) / "events.db", context.journal)
        self._feed = Feed(context.journal)
        self._path = access.socket_path(context.settings)
        self._applications: dict[str | None, ASGIApp] = {}  # by the token that they ask for
        self._loaded, self._stopped = asyncio.Event(), False

    @property
    def rest(self) -> ASGIApp | None:
        """What the HTTP service hands on to; None when the API has a port of its own."""
        return self._with_token if self._context.settings.api.listen == "same" else None

    def bind(self) -> None:
        """Take the sockets.  Raises OperatorError."""
        self._sockets.append((access.listen(self._path), False))
        if (place := self._context.settings.api.listen) != "same":
            host, _, port = place.rpartition(":")
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, int(port)))
                sock.listen(256)
            except OSError as error:
                sock.close()
                raise refusal(error, int(port), "tcp") from error
            self._sockets.append((sock, True))

    async def run(self) -> None:
        """Serve until stopped or cancelled."""
        # It takes a quarter of a second and more, for which no booting machine waits: not in the loop, nor before the first answer.
        await self._context.answering.wait()
        web: Any = await asyncio.to_thread(importlib.import_module, "pixieboot.serve.web")
        api = web.api
        if self._stopped:
            return
        operations = api.Api(self._context, self._feed, self._history)
        for token in (self._token, None):
            pages = web.Pages(operations, token)
            self._applications[token] = api.application(operations, token, self._base_url, pages.routes(), web.OPEN_PATHS)
        self._loaded.set()
        async with asyncio.TaskGroup() as tasks:
            always = [tasks.create_task(work) for work in (operations.numbers.watch_loop(), self._history.run())]
            for sock, needs_token in self._sockets:
                server = Server(_config(self._applications[self._token if needs_token else None]))
                self._servers.append(server)
                tasks.create_task(server.serve([sock]))
            await asyncio.gather(*(server.ended.wait() for server in self._servers))
            for task in always:
                task.cancel()

    async def stop(self, grace: float) -> None:
        """Send listeners away, let answers under way end, write the history."""
        self._stopped = True
        self._feed.stop()
        for server in self._servers:
            server.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
            server.end()
        await asyncio.gather(*(server.ended.wait() for server in self._servers))
        for sock, _ in self._sockets:
            sock.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass  # in a directory of root's: the next start removes it
        await asyncio.get_running_loop().run_in_executor(None, self._history.close)

    def _base_url(self) -> str:
        return self._context.settings.http.base_url

    async def _with_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._loaded.wait()
        await self._applications[self._token](scope, receive, send)


def _config(application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
    )
