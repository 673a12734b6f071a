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
        (first, *_) = await waiting
        await live.aclose()
        again = served.feed.live(first["id"])
        kinds = [event["kind"] for event in await anext(again)]
        other_run = served.feed.live("0-99")
        kinds.append((await anext(other_run))[0]["kind"])
        served.feed.stop()
        assert [event async for event in again] == [], "the daemon ends"
        return kinds

    assert asyncio.run(story()) == ["acked", "probe", "offered"]


async def some(live: AsyncGenerator[list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += await anext(live)
    return found


def test_a_slow_listener_is_sent_away_and_comes_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.feed.BEHIND", 2)
    monkeypatch.setattr("pixieboot.serve.feed.LOOK", 0)
    monkeypatch.setattr("pixieboot.serve.feed.KEEP_ALIVE", 0)

    async def story() -> tuple[list[str], list[str]]:
        live = served.feed.live("")
        assert await anext(live) == [], "a sign of life"
        served.happen(*later(UEFI[:2], time.time()))
        heard = await some(live, 2)
        served.happen(*later(UEFI[2:], time.time()))
        assert [event async for event in live] == []
        again = await some(served.feed.live(heard[-1]["id"]), len(UEFI) - 2)
        return [event["kind"] for event in heard], [event["kind"] for event in again]

    assert asyncio.run(story()) == ([event.kind for event in UEFI[:2]], [event.kind for event in UEFI[2:]])


def test_others_have_their_turn_while_a_listener_catches_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.feed.PORTION", 2)
    turns: list[int] = []

    async def story() -> list[str]:
        served.happen(*later(UEFI, time.time()))
        live, heard = served.feed.live("0-0"), list[dict[str, Any]]()
        asyncio.get_running_loop().call_soon(lambda: turns.append(len(heard)))
        while len(heard) < len(UEFI):
            heard += await anext(live)
        return [event["kind"] for event in heard]

    assert asyncio.run(story()) == [event.kind for event in UEFI] and turns == [2]


def test_who_names_an_id_that_was_never_given_hears_what_happens_from_now_on(served: Served) -> None:
    async def story() -> str:
        served.happen(*later(UEFI[:1], time.time()))
        (newest,) = served.feed.latest(1)
        live = served.feed.live(newest["id"] + "99")
        waiting = asyncio.ensure_future(anext(live))
        await asyncio.sleep(0)
        served.happen(*later(UEFI[1:2], time.time()))
        return str((await waiting)[0]["kind"])

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
