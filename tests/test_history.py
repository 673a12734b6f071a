"""Events on disk: kept over a restart, bounded, and no reason to fail."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.journal import Journal
from pixieboot.model import Event, Mac
from pixieboot.serve import history
from pixieboot.serve.history import History, prune
from tests.test_boots import DONE, FILES, MAC, UEFI, later

NOW = float(int(time.time()))  # the file forgets what is a month old
BOOT = later(UEFI, NOW)
OTHER = Mac("02:00:00:00:00:02")


def a_journal() -> Journal:
    return Journal(StringIO(), "warning")


def test_a_timeline_outlives_the_daemon(tmp_path: Path) -> None:
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    for event in [*BOOT, Event(NOW, None, "serve", "started"), Event(NOW, OTHER, "dhcp", "offered", {"arch": "x64-efi"})]:
        journal.record(event)
    assert kept.timeline(MAC) == BOOT, "what is not written yet is there too"
    kept.close()
    journal.record(DONE[0])
    again = History(tmp_path / "events.db", journal)
    assert again.timeline(MAC) == BOOT
    again.close()
    assert (tmp_path / "events.db").stat().st_mode & 0o777 == 0o600


def test_what_is_being_written_is_not_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    told: list[list[Event]] = []
    reader = threading.Thread(target=lambda: told.append(kept.timeline(MAC)))
    insert = kept._insert

    def insert_and_be_read(batch: Sequence[Event]) -> None:
        insert(batch)
        reader.start()
        reader.join(0.1)

    monkeypatch.setattr(kept, "_insert", insert_and_be_read)
    journal.record(BOOT[0])
    kept.write()
    reader.join()
    assert told == [BOOT[:1]]
    monkeypatch.undo()
    kept.close()


def test_a_damaged_file_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"this is no database, but a file of somebody's" * 100)
    kept = History(path, a_journal())
    assert kept.timeline(MAC) == []
    kept.close()
    assert path.with_suffix(".damaged").exists()


def database(tmp_path: Path, events: list[Event]) -> sqlite3.Connection:
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    kept._insert(events)
    kept.close()
    return sqlite3.connect(tmp_path / "events.db")


def test_a_file_of_another_kind_is_moved_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("CREATE TABLE events (song TEXT)")
    database.close()
    History(tmp_path / "events.db", a_journal()).close()
    assert (tmp_path / "events.damaged").exists()


def test_where_nothing_can_be_written_the_operator_is_told(tmp_path: Path) -> None:
    (tmp_path / "events.db").mkdir()
    with pytest.raises(OperatorError, match=r"events\.db: the history cannot be opened: "):
        History(tmp_path / "events.db", a_journal())


def test_old_events_go(tmp_path: Path) -> None:
    found = database(tmp_path, [*BOOT, *later(BOOT, 40 * 86400)])
    prune(found, NOW + 40 * 86400)
    assert found.execute("SELECT count(*) FROM events").fetchone() == (len(UEFI),)
    found.close()


def test_twenty_boots_of_a_machine_stay(tmp_path: Path) -> None:
    boot = [*UEFI, *FILES, *DONE]
    found = database(tmp_path, [event for number in range(40) for event in later(boot, NOW + 1000 * number)])
    prune(found, NOW + 41_000)
    assert found.execute("SELECT count(*) FROM events").fetchone() == (20 * len(boot),)
    found.close()


def test_a_file_that_is_too_large_loses_its_oldest_quarter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = database(tmp_path, BOOT)
    monkeypatch.setattr(history, "LARGEST", 4096)
    prune(found, NOW + 100)
    assert found.execute("SELECT count(*), min(at) FROM events").fetchone() == (6, NOW + 5)
    found.close()


def test_a_disk_that_takes_nothing_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 2)
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    blocker = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    kept._database.execute("PRAGMA busy_timeout=10")
    blocker.execute("BEGIN EXCLUSIVE")
    for event in BOOT:
        journal.record(event)
    assert kept.write() == 0, "nothing is left out: it is tried again"
    assert "cannot be written" in kept.error
    blocker.execute("ROLLBACK")
    blocker.close()
    assert kept.timeline(MAC) == BOOT
    assert kept.write() == 0 and kept.error == "", "what waited goes with one write"
    kept.close()
    again = History(tmp_path / "events.db", a_journal())
    assert again.timeline(MAC) == BOOT
    again.close()


def test_no_fault_of_the_file_ends_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = History(tmp_path / "events.db", a_journal())
    monkeypatch.setattr(history, "prune", lambda *arguments: 1 / 0)
    kept._prune()
    assert "cannot be written: division by zero" in kept.error
    kept.close()


def test_a_flood_does_not_wear_out_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept: they tell how a boot ended."""
    monkeypatch.setattr(history, "MOST", 10)
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    for number in range(30):
        journal.record(Event(NOW, OTHER, "dhcp", f"kind{number}"))
    journal.record(Event(NOW, None, "serve", "started"))
    assert kept.write() == 20
    assert [event.kind for event in kept.timeline(OTHER)] == [f"kind{number}" for number in range(20, 30)]
    journal.record(Event(NOW + 1, OTHER, "dhcp", "later"))
    assert kept.write() == 0
    assert [event.kind for event in kept.timeline(OTHER)[10:]] == ["later"]
    kept.close()


@pytest.mark.parametrize(("name", "value"), [("LARGEST", 100_000), ("SHARE", 1e-9)])
def test_nor_does_a_flood_for_hours_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """A full disk keeps no leases; 2,500 events of half a KiB in five seconds are two GiB in the six hours between two looks."""
    monkeypatch.setattr(history, "EVERY", 0.001)
    monkeypatch.setattr(history, name, value)
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)

    async def story() -> None:
        running = asyncio.ensure_future(kept.run())
        for number in range(60):
            for again in range(20):
                journal.record(Event(NOW + number, OTHER, "dhcp", f"kind{again}", {"why": "x" * 400, "number": number}))
            last = journal.number
            while kept._number < last:
                await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(story())
    kept.close()
    assert (tmp_path / "events.db").stat().st_size < 300_000
    again = History(tmp_path / "events.db", a_journal())
    assert again.timeline(OTHER)[-1].at == NOW + 59
    again.close()


def test_what_the_journal_itself_has_forgotten_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.journal.RECENT", 5)
    journal = a_journal()
    kept = History(tmp_path / "events.db", journal)
    for number in range(8):
        journal.record(Event(NOW, OTHER, "dhcp", f"kind{number}"))
    assert kept.write() == 3
    kept.close()


def test_it_is_written_again_and_again_and_a_flood_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EVERY", 0.001)
    monkeypatch.setattr(history, "MOST", 3)
    journal = a_journal()
    told: list[Event] = []
    kept = History(tmp_path / "events.db", journal)
    pruned = asyncio.Event()
    journal.listen(told.append, ("history",))

    async def story() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(history, "prune", lambda *arguments: loop.call_soon_threadsafe(pruned.set))
        running = asyncio.ensure_future(kept.run())
        for rounds in range(2):
            for event in later(BOOT, rounds * 100):
                journal.record(event)
            number = journal.number
            while kept._number < number:
                await asyncio.sleep(0.001)
        await asyncio.wait_for(pruned.wait(), 5)
        running.cancel()

    asyncio.run(story())
    assert [(event.kind, event.detail["events"], event.level) for event in told] == [("left out", len(BOOT) - 3, "warning")]
    found = kept.timeline(MAC)
    assert found[:3] == BOOT[-3:] and found[-1:] == later(BOOT, 100)[-1:]
    kept.close()
