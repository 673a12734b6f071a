"""The hooks into uvicorn: they work with the one that is installed, and their loss is noticed."""

import asyncio

import pytest

from pixieboot.serve import parsers, zerocopy_h11
from pixieboot.serve.zerocopy import proof
from pixieboot.serve.zerocopy_h11 import H11Protocol, ZeroCopyH11

HTTPTOOLS = getattr(parsers, "ZeroCopyHttpTools", None)
PROTOCOLS: list[type[asyncio.Protocol]] = [ZeroCopyH11] if HTTPTOOLS is None else [HTTPTOOLS, ZeroCopyH11]


def test_the_installed_uvicorn_has_the_hooks() -> None:
    assert asyncio.run(parsers.chosen()) is PROTOCOLS[0]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.__name__)
def test_each_class_proves_itself(protocol: type[asyncio.Protocol]) -> None:
    asyncio.run(proof(protocol))


LOSSES = {  # what a future uvicorn might do: the name that our classes override is no longer called, or is gone
    "requests are no longer started by _start_asgi_task": ("ZeroCopyHttpTools", "_start_asgi_task", "no_such_method"),
    "events are no longer handled by handle_events": ("ZeroCopyH11", "handle_events", "no_such_method"),
}


@pytest.mark.parametrize("name, method, other", LOSSES.values(), ids=LOSSES)
def test_a_lost_hook_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, method: str, other: str) -> None:
    protocol = getattr(parsers, name, None) or getattr(zerocopy_h11, name, None)
    if protocol is None:
        pytest.skip("httptools is not installed")
    monkeypatch.setattr(protocol, other, getattr(protocol, method), raising=False)
    monkeypatch.delattr(protocol, method)
    with pytest.raises((RuntimeError, TimeoutError)):
        asyncio.run(proof(protocol))
    assert asyncio.run(parsers.chosen()) is not protocol


def test_without_any_hook_uvicorns_own_class_serves(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(candidate: type[asyncio.Protocol]) -> None:
        raise AttributeError("no such hook")

    monkeypatch.setattr(parsers, "proof", broken)
    assert asyncio.run(parsers.chosen()) is H11Protocol
    assert "files are streamed" in caplog.text


def test_h11_is_chosen_without_httptools(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(parsers, "httptools", None)
    assert asyncio.run(parsers.chosen()) is ZeroCopyH11
    assert caplog.text == ""
