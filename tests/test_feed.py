"""Events with numbers, for those who listen live."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

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


async def some(live: AsyncGenerator[dict[str, Any] | None], count: int) -> list[dict[str, Any]]:
    found = [await anext(live) for _ in range(count)]
    return [event for event in found if event]


def test_a_slow_listener_is_sent_away_and_comes_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.feed.BEHIND", 2)
    monkeypatch.setattr("pixieboot.serve.feed.LOOK", 0)
    monkeypatch.setattr("pixieboot.serve.feed.KEEP_ALIVE", 0)

    async def story() -> tuple[list[str], list[str]]:
        live = served.feed.live("")
        assert await anext(live) is None, "a sign of life"
        served.happen(*later(UEFI[:2], time.time()))
        heard = await some(live, 2)
        served.happen(*later(UEFI[2:], time.time()))
        assert [event async for event in live] == []
        again = await some(served.feed.live(heard[-1]["id"]), len(UEFI) - 2)
        return [event["kind"] for event in heard], [event["kind"] for event in again]

    assert asyncio.run(story()) == ([event.kind for event in UEFI[:2]], [event.kind for event in UEFI[2:]])


def test_who_names_an_id_that_was_never_given_hears_what_happens_from_now_on(served: Served) -> None:
    async def story() -> str:
        served.happen(*later(UEFI[:1], time.time()))
        (newest,) = served.feed.latest(1)
        live = served.feed.live(newest["id"] + "99")
        waiting = asyncio.ensure_future(anext(live))
        await asyncio.sleep(0)
        served.happen(*later(UEFI[1:2], time.time()))
        return str((await waiting or {})["kind"])

    assert asyncio.run(story()) == UEFI[1].kind


def test_a_number_of_5000_digits_is_no_id(served: Served) -> None:
    served.happen(*later(UEFI[:1], time.time()))
    (newest,) = served.feed.latest(1)
    epoch, _, _ = newest["id"].partition("-")
    assert served.feed.latest(1, before=f"{epoch}-{'9' * 5000}") == [newest]


def test_no_more_are_told_than_are_kept(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.feed.KEPT", 3)
    served.happen(*later(UEFI, time.time()))
    assert [event["kind"] for event in served.feed.latest(300)] == [event.kind for event in UEFI[-3:]]
    assert [event["kind"] for event in served.feed.latest(2)] == [event.kind for event in UEFI[-2:]]
