"""The API's own sockets, from start to stop."""

import asyncio
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixieboot.config import ApiSettings
from pixieboot.serve.apid import ApiService
from tests.test_api import Served


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, Any]:
    writer.write(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_unix_socket_without_token_and_a_port_with_it(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.history.close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served.context.settings = replace(served.context.settings, api=ApiSettings(f"127.0.0.1:{port}"))

    async def story() -> None:
        service = ApiService(served.context)
        assert service.rest is None
        service.bind()
        running = asyncio.ensure_future(service.run())
        served.context.answering.set()
        status, told = await ask(*await asyncio.open_unix_connection(tmp_path / "api.sock"))
        assert status == 200 and told["registry"]["machines"] == 1
        status, told = await ask(*await asyncio.open_connection("127.0.0.1", port))
        assert status == 401
        await service.stop(0.5)
        await asyncio.wait_for(running, 5)
        assert not (tmp_path / "api.sock").exists()

    asyncio.run(story())
    served.store.close()


def test_it_is_loaded_only_once_machines_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(tmp_path)
    served.history.close()

    async def story() -> None:
        loading = asyncio.Event()

        async def forever(*work: object) -> None:
            loading.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio, "to_thread", forever)
        service = ApiService(served.context)
        running = asyncio.ensure_future(service.run())
        for _ in range(5):  # turns of the loop: one would do
            await asyncio.sleep(0)
        assert not loading.is_set()
        served.context.answering.set()
        await asyncio.wait_for(loading.wait(), 5)
        running.cancel()
        await service.stop(0.5)

    asyncio.run(story())
    served.store.close()
