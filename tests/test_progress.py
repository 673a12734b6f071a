"""What becomes of an answer: styles that lead nowhere, loaders that go in circles."""

from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pixieboot.inventory import Inventory
from pixieboot.journal import Journal
from pixieboot.model import Arch, Client, Event, Mac, Machine
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve.context import Context
from pixieboot.serve.progress import Progress

MAC, FIXED = Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")
TOLD = {"nbp": f"{MAC.dashed}/ipxe.efi", "loader": "firmware"}
REPLY: Any = SimpleNamespace(kind="offered", style="binl")
ON_4011: Any = SimpleNamespace(kind="pxe acked", style="binl")


class Watch:
    """Progress, and the context that it tells."""

    def __init__(self, store: StateStore) -> None:
        machine = Machine("fixed", macs=(FIXED,), reply_style="direct")
        registry: Any = SimpleNamespace(current=Inventory.build([machine], (), ()))
        nothing: Any = None
        self.context = Context(nothing, registry, store, nothing, Journal(StringIO()), nothing)
        self.progress = Progress(self.context)
        self.context.journal.listen(self.progress.on_event, ("tftp", "http"))

    def offer(self, at: float, mac: Mac = MAC, times: int = 1) -> None:
        for number in range(times):
            self.context.journal.record(Event(at + 4 * number, mac, "dhcp", "offered", TOLD))
            self.progress.watch(REPLY, mac, partial(Client, mac, Arch.X64_EFI), TOLD, at + 4 * number)

    def load(self, at: float, name: str = "ipxe.efi") -> None:
        self.context.journal.record(Event(at, MAC, "tftp", "sent", {"path": f"{MAC.dashed}/{name}", "bytes": int(at)}))

    def told(self, kind: str) -> list[Event]:
        return [event for mac in (MAC, FIXED) for event in self.context.journal.timeline(mac) if event.kind == kind]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    store = StateStore.open(tmp_path / "state.db")
    yield Watch(store)
    store.close()


def test_who_asks_three_times_and_does_nothing_is_told_in_another_style(watch: Watch) -> None:
    watch.offer(1000.0, times=2)
    assert not watch.told("style")
    watch.offer(1008.0)
    (change,) = watch.told("style")
    assert (change.detail["style"], change.level, watch.context.store.state(MAC).reply_style) == ("direct", "warning", "direct")


@pytest.mark.parametrize(
    "meanwhile",
    [lambda watch: watch.load(1006.0), lambda watch: watch.progress.watch(ON_4011, MAC, partial(Client, MAC), {}, 1006.0)],
)
def test_who_loads_or_asks_on_4011_understood(watch: Watch, meanwhile: Any) -> None:
    watch.offer(1000.0, times=2)
    meanwhile(watch)
    watch.offer(1008.0, times=2)
    assert not watch.told("style")


def test_what_an_operator_set_is_not_changed(watch: Watch) -> None:
    watch.offer(1000.0, FIXED, times=9)
    assert not watch.told("style") and watch.context.store.state("fixed").reply_style is None


def test_the_style_after_which_the_program_is_loaded_stays(watch: Watch) -> None:
    watch.offer(1000.0, times=3)
    watch.load(1012.0)
    (works,) = watch.told("style works")
    assert works.detail["style"] == "direct"


def test_a_program_loaded_three_times_without_its_script_is_changed_for_the_other(watch: Watch) -> None:
    watch.offer(1000.0)
    for at in (1001.0, 1010.0):
        watch.load(at)
    watch.context.journal.record(Event(1011.0, MAC, "http", "script", {"path": "/ipxe"}))
    for at in (1020.0, 1030.0):
        watch.load(at)
    assert not watch.told("loop"), "a script was asked for in between"
    watch.load(1040.0)
    (loop,) = watch.told("loop")
    assert "3 times" in loop.detail["why"] and watch.context.store.state(MAC).loader_fetches == 3


def test_three_loads_within_hours_are_no_loop(watch: Watch) -> None:
    watch.offer(1000.0)
    for at in (1001.0, 5000.0, 9000.0):
        watch.load(at)
    assert not watch.told("loop")


def test_other_files_are_no_boot_program(watch: Watch) -> None:
    watch.offer(1000.0)
    for at in (1001.0, 1002.0, 1003.0):
        watch.load(at, "grub.cfg")
    assert not watch.told("loop")
