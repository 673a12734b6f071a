"""Events with numbers, for those who listen live."""

import asyncio
import time

import pytest

from tests.test_api import Served, served
from tests.test_boots import UEFI, later

__all__ = ["served"]


def test_a_live_listener_comes_back_where_it_left_off(served: Served) -> None:
    async def story() -> list[str]:
        live = served.feed.live("")
        waiting = asyncio.ensure_future(anext(live))
        await asyncio.sleep(0)
        served.happen(*later(UEFI[:3], time.time()))
        first = await waiting
        assert first is not None
        await live.aclose()
        again = served.feed.live(first["id"])
        kinds = [(await anext(again) or {})["kind"], (await anext(again) or {})["kind"]]
        other_run = served.feed.live("0-99")
        kinds.append((await anext(other_run) or {})["kind"])
        served.feed.stop()
        assert [event async for event in again] == [], "the daemon ends"
        return kinds

    assert asyncio.run(story()) == ["acked", "probe", "offered"]


def test_a_slow_listener_is_sent_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.feed.BEHIND", 2)
    monkeypatch.setattr("pixieboot.serve.feed.KEEP_ALIVE", 0.01)

    async def story() -> int:
        live = served.feed.live("")
        assert await anext(live) is None, "a sign of life"
        served.happen(*later(UEFI, time.time()))
        return len([event async for event in live])

    assert asyncio.run(story()) == 1
