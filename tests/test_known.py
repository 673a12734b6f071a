"""What is known of machines, for API and page: names, pages, orders that count, and that a table keeps nobody waiting."""

import asyncio

import pytest

from pixieboot.model import Mac
from pixieboot.serve.answers import Refusal
from pixieboot.serve.known import BREATH
from tests.test_api import STRANGER, Served, call, served

__all__ = ["served"]


def test_a_machine_has_many_names(served: Served) -> None:
    known = served.api.known
    assert known.who("52-54-00-12-34-56").key == "web1"
    with pytest.raises(Refusal, match="no machine of this name"):
        known.who(STRANGER)
    assert known.who(STRANGER, strangers=True).key == STRANGER
    served.store.see(STRANGER, None, "x86-bios", "PXEClient", 1.0)
    assert known.who("02000000-0009".replace("-", "")).macs == (STRANGER,)
    assert known.known_arch(known.who(STRANGER)) is not None


def test_judging_a_table_of_machines_leaves_room_for_others(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a few machines the loop gets its turn: DHCP waits for no table."""
    for number in range(200):
        served.store.see(Mac(f"02:00:00:00:01:{number:02x}"), None, None, "", 1.0)
    turns = 0

    async def story() -> None:
        nonlocal turns

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        turn()
        await call(served.unix, "GET", "/api/v1/machines?limit=200", {})

    asyncio.run(story())
    assert turns > 200 / BREATH
