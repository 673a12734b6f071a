"""The state store: what it promised is on disk, what it cannot read it leaves alone."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixieboot.errors import OperatorError
from pixieboot.model import Lease, LeaseState, Mac, MachineState
from pixieboot.registry.sqlite import StateStore, StoreError

MAC = Mac("52:54:00:12:34:56")
LEASE = Lease("192.168.77.100", MAC, MAC, LeaseState.BOUND, 2e9, "web1", b"\1\x52\x54\0\x12\x34\x56")


def kept(path: Path, work: Callable[[StateStore], Coroutine[Any, Any, None]]) -> StateStore:
    """The store reopened after work was done with it and it was closed."""
    store = StateStore.open(path)
    try:
        asyncio.run(work(store))
    finally:
        store.close()
    return StateStore.open(path)


def test_a_lease_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        await store.keep(LEASE)
        await store.keep(replace(LEASE, address="192.168.77.101", client="id:ff01", hostname='né"\\\n', client_id=b""))

    store = kept(tmp_path / "state.db", work)
    first, second = sorted(store.leases(), key=lambda lease: lease.address)
    assert first == LEASE
    assert second.hostname == 'né"\\\n' and isinstance(second.mac, Mac)
    store.close()


def test_the_last_of_an_address_counts(tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        await asyncio.gather(*(store.keep(replace(LEASE, expires=float(number))) for number in range(50)))

    store = kept(tmp_path / "state.db", work)
    assert [lease.expires for lease in store.leases()] == [49.0]
    store.close()


def test_leases_that_queue_up_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    commit = StateStore._commit

    def counted(self: StateStore, work: Any) -> StoreError | None:
        batches.append(len(work.leases))
        return commit(self, work)

    monkeypatch.setattr(StateStore, "_commit", counted)

    async def work(store: StateStore) -> None:
        await asyncio.gather(*(store.keep(replace(LEASE, address=f"10.0.0.{number}")) for number in range(200)))

    kept(tmp_path / "state.db", work).close()
    assert sum(batches) == 200 and len(batches) <= 10


def test_a_lease_waits_for_no_other_while_the_disk_is_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each turn of a busy loop takes 10 ms and brings one, those that waited for more waited half a second."""
    pieces: list[int] = []
    give = StateStore._give

    def counted(self: StateStore, work: Any) -> None:
        pieces.append(len(work.leases))
        give(self, work)

    monkeypatch.setattr(StateStore, "_give", counted)

    async def work(store: StateStore) -> None:
        told: list[StoreError | None] = []
        for number in range(7):
            store.submit(replace(LEASE, address=f"10.0.0.{number}"), told.append)
            await asyncio.sleep(0)
        while len(told) < 7:
            await asyncio.sleep(0.001)

    kept(tmp_path / "state.db", work).close()
    assert pieces[0] == 1 and sum(pieces) == 7


def test_once_all_of_a_piece_are_told_that_is_told_before_anything_else_happens(tmp_path: Path) -> None:
    told: list[str] = []

    async def work(store: StateStore) -> None:
        store.on_told.append(lambda: told.append("all"))
        for number in range(3):

            def done(error: StoreError | None, number: int = number) -> None:
                asyncio.get_running_loop().call_soon(told.append, "the next turn")
                told.append(str(number))
                if number == 1:
                    raise ZeroDivisionError("tripped")

            store.submit(replace(LEASE, address=f"10.0.0.{number}"), done)
        while len(told) < 7:
            await asyncio.sleep(0.001)

    kept(tmp_path / "state.db", work).close()
    assert told == ["0", "1", "2", "all", *["the next turn"] * 3]


def test_what_nobody_waits_for_is_written_too_while_leases_come_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixieboot.registry.sqlite.LAZY", 0.01)
    written: list[str] = []
    commit = StateStore._commit

    def noted(self: StateStore, work: Any) -> StoreError | None:
        error = StoreError(28, "the disk is full") if work.states and "web1" not in written else commit(self, work)
        written.extend(work.states)
        return error

    monkeypatch.setattr(StateStore, "_commit", noted)

    async def work(store: StateStore) -> None:
        store.set_state("web1", MachineState(boot="once"))
        number = 0
        while written != ["web1", "web1"]:  # the first time it could not be
            number += 1
            await store.keep(replace(LEASE, address=f"10.0.{number // 250 % 250}.{number % 250}"))

    store = kept(tmp_path / "state.db", work)
    assert store.state("web1").boot == "once"
    store.close()


def test_state_is_valid_at_once_and_durable_when_asked(tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        store.set_state("web1", MachineState(boot="once"))
        assert store.state("web1").boot == "once" and store.state("other") == MachineState()
        await store.keep_state("web1", MachineState(boot="once", done=17.5, reply_style="direct"))

    store = kept(tmp_path / "state.db", work)
    assert store.state("web1") == MachineState(boot="once", done=17.5, reply_style="direct")
    store.close()


def test_a_loop_that_ended_amid_a_write_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, over = StateStore.open(tmp_path / "state.db"), threading.Event()
    commit = store._commit

    def late(work: Any) -> StoreError | None:
        over.wait(10)
        return commit(work)

    async def order() -> None:
        store.set_state(MAC, MachineState(boot="local"))
        while not store._writing:
            await asyncio.sleep(0)

    async def keep() -> None:
        async with asyncio.timeout(5):
            await store.keep(LEASE)
            await store.keep_state(MAC, MachineState(boot="disk"))

    monkeypatch.setattr(store, "_commit", late)
    asyncio.run(order())
    over.set()
    asyncio.run(keep())
    store.close()
    again = StateStore.open(tmp_path / "state.db")
    assert again.state(MAC).boot == "disk" and again.leases() == [LEASE]
    again.close()


def test_a_machine_is_discovered_once_and_learned_more_of(tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        assert store.see(MAC, None, "x64-efi", "PXEClient", 100.0)
        assert not store.see(MAC, "4c4c4544-0042-3510-8052-b4c04f4e3732", None, "", 105.0)

    store = kept(tmp_path / "state.db", work)
    (seen,) = store.discovered()
    assert (seen.mac, seen.uuid, seen.arch, seen.vendor) == (MAC, "4c4c4544-0042-3510-8052-b4c04f4e3732", "x64-efi", "PXEClient")
    assert (seen.first_seen, seen.last_seen) == (100.0, 105.0)
    store.close()


def test_beyond_so_many_machines_none_is_discovered_but_who_is_known_is_seen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixieboot.registry.sqlite.DISCOVERED", 1)
    other = Mac("52:54:00:00:00:02")

    async def work(store: StateStore) -> None:
        assert store.may_see(other) and store.see(MAC, None, None, "", 100.0)
        assert not store.may_see(other) and not store.see(other, None, None, "", 101.0)
        assert store.may_see(MAC) and not store.see(MAC, None, None, "", 9999.0)

    store = kept(tmp_path / "state.db", work)
    assert [(seen.mac, seen.last_seen) for seen in store.discovered()] == [(MAC, 9999.0)]
    store.close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = StateStore.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_clock_behind_the_newest_lease_is_noticed(tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        await store.keep(LEASE)

    store = kept(tmp_path / "state.db", work)
    assert store.newest > 1.7e9
    store.close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    database.close()


def torn(path: Path) -> None:
    store = StateStore.open(path)
    asyncio.run(_fill(store))
    store.close()
    octets = path.read_bytes()
    path.write_bytes(octets[:4096] + b"\xa5" * 4096 + octets[8192:])


def newer(path: Path) -> None:
    StateStore.open(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE schema SET version = 99")
    database.close()


def scribbled(statement: str) -> Callable[[Path], None]:
    def scribble(path: Path) -> None:
        store = StateStore.open(path)
        store.see(MAC, None, "x64-efi", "PXEClient", 1.0)
        asyncio.run(_fill(store))
        store.close()
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()

    return scribble


async def _fill(store: StateStore) -> None:
    await asyncio.gather(*(store.keep(replace(LEASE, address=f"10.0.{n // 250}.{n % 250}")) for n in range(2000)))


VERSION_1 = """
PRAGMA journal_mode=WAL;
CREATE TABLE schema (version INTEGER NOT NULL);
INSERT INTO schema VALUES (1);
CREATE TABLE leases (
    address TEXT PRIMARY KEY, client TEXT NOT NULL, mac TEXT NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL,
    hostname TEXT NOT NULL, client_id TEXT NOT NULL, written REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO leases VALUES (
    '192.168.77.100', '52:54:00:12:34:56', '52:54:00:12:34:56', 'bound', 2e9, 'web1', '01525400123456', 1.8e9
);
CREATE TABLE machine_states (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE discovered (
    mac TEXT PRIMARY KEY, uuid TEXT, arch TEXT, vendor TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL
) WITHOUT ROWID;
PRAGMA application_id=1886937700;
"""


def earlier(path: Path, statement: str = "") -> None:
    database = sqlite3.connect(path)
    database.executescript(VERSION_1 + statement)
    database.close()


def test_the_leases_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    earlier(path)

    async def work(store: StateStore) -> None:
        assert store.leases() == [LEASE] and store.newest == 1.8e9
        await store.keep(replace(LEASE, expires=3e9))

    store = kept(path, work)
    assert store.leases() == [replace(LEASE, expires=3e9)]
    store.close()


def test_a_conversion_that_does_not_come_to_its_end_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    earlier(path)

    def full(database: sqlite3.Connection, table: str, rows: object) -> None:
        assert not database.execute("SELECT * FROM leases").fetchall(), "in the midst of it"
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken, pytest.raises(OperatorError, match=r"cannot be written.*Make room"):
        broken.setattr("pixieboot.registry.sqlite.insert_rows", full)
        StateStore.open(path)
    database = sqlite3.connect(path)
    assert database.execute("SELECT version, address FROM schema, leases").fetchall() == [(1, LEASE.address)]
    database.close()
    store = StateStore.open(path)
    assert store.leases() == [LEASE]
    store.close()


REFUSED = {
    "a text file": (lambda path: path.write_text("leases { }\n" * 200), "it is damaged: file is not a database"),
    "another program's database": (foreign, "it is another program's database"),
    "a page overwritten": (torn, "it is damaged"),
    "a newer version's file": (newer, "a newer pixieboot wrote it (schema 99, this one knows 2)"),
    "no version": (scribbled("DELETE FROM schema"), "it is damaged"),
    "a wrong address": (scribbled("UPDATE leases SET address = 1 << 32 WHERE address = 10 << 24"), "it is damaged"),
    "an earlier version's wrong address": (
        lambda path: earlier(path, "UPDATE leases SET address = '10.0.0.x'"),
        "it is damaged",
    ),
    "an earlier version's address that is no text": (
        lambda path: earlier(path, "UPDATE leases SET address = x'0a'"),
        "it is damaged",
    ),
    "an earlier version's wrong MAC": (lambda path: earlier(path, "UPDATE leases SET mac = 'zz'"), "it is damaged"),
    "a wrong MAC": (scribbled("UPDATE leases SET mac = 'zz'"), "it is damaged"),
    "a wrong time": (scribbled("UPDATE leases SET expires = 'soon'"), "it is damaged"),
    "a wrong stranger": (scribbled("UPDATE discovered SET mac = 'zz'"), "it is damaged"),
    "a directory": (lambda path: path.mkdir(), "it cannot be opened"),
}


@pytest.mark.parametrize("make, what", REFUSED.values(), ids=REFUSED)
def test_what_is_not_ours_or_not_whole_is_refused_and_left_alone(make: Callable[[Path], object], what: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(OperatorError, match=r"state\.db") as refusal:
        StateStore.open(path)
    assert what in refusal.value.what and refusal.value.mend
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_second_daemon_on_the_same_file_is_refused(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "state.db")
    with pytest.raises(OperatorError, match="another process uses it"):
        StateStore.open(tmp_path / "state.db")
    store.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def ballast(disk: Path) -> Path:
    """A file that takes all room of the disk."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


async def keep_piece(store: StateStore, number: int) -> None:
    await asyncio.gather(*(store.keep(replace(LEASE, address=f"10.{number // 250}.{number % 250}.{n}")) for n in range(10)))


@pytest.mark.needs_root
def test_a_full_disk_costs_the_lease_but_not_the_daemon(disk: Path) -> None:
    store = StateStore.open(disk / "state.db")

    async def work() -> None:
        await store.keep(LEASE)
        stuff = ballast(disk)
        with pytest.raises(StoreError, match="cannot be written"):
            await asyncio.gather(*(store.keep(replace(LEASE, address=f"10.0.0.{n}", hostname="x" * 60)) for n in range(250)))
        store.set_state("web1", MachineState(boot="local"))
        stuff.unlink()
        await store.keep(replace(LEASE, address="192.168.77.102"))
        await store.keep_state("web1", MachineState(boot="local"))

    asyncio.run(work())
    store.close()
    store = StateStore.open(disk / "state.db")
    assert {"192.168.77.100", "192.168.77.102"} <= {lease.address for lease in store.leases()}
    assert store.state("web1").boot == "local"
    store.close()


@pytest.mark.needs_root
def test_the_log_neither_fills_the_disk_nor_holds_it_once_there_is_room_again(disk: Path) -> None:
    store = StateStore.open(disk / "state.db")

    async def work() -> None:
        for number in range(300):  # in the log alone, all of these would take more than the disk has
            await keep_piece(store, number)
        stuff = ballast(disk)
        with pytest.raises(StoreError, match="is full"):
            for number in range(300, 600):
                await keep_piece(store, number)
        stuff.unlink()
        for number in range(300, 400):
            await keep_piece(store, number)

    asyncio.run(work())
    store.close()
    store = StateStore.open(disk / "state.db")
    assert len(store.leases()) >= 4000
    store.close()


@pytest.mark.needs_root
def test_on_a_full_disk_the_log_is_emptied_for_what_the_file_has_room_for(disk: Path) -> None:
    store = StateStore.open(disk / "state.db")

    async def work() -> None:
        for number in range(30):
            await keep_piece(store, number)
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all have their places in the file
        for number in range(5):
            await keep_piece(store, number)
        ballast(disk)
        for number in range(30):
            await keep_piece(store, number)

    asyncio.run(work())
    store.close()


@pytest.mark.parametrize(
    ("lease", "why"),
    [(replace(LEASE, hostname="\udcff"), "surrogates not allowed"), (replace(LEASE, address="nowhere"), "nowhere")],
)
def test_what_cannot_be_written_at_all_is_refused_and_the_next_lease_is_kept(lease: Lease, why: str, tmp_path: Path) -> None:
    async def work(store: StateStore) -> None:
        with pytest.raises(StoreError, match=why):
            await asyncio.wait_for(store.keep(lease), 10)
        await asyncio.wait_for(store.keep(LEASE), 10)

    store = kept(tmp_path / "state.db", work)
    assert store.leases() == [LEASE]
    store.close()


CHILD = """
import asyncio, sys
from pixieboot.model import Lease, LeaseState, Mac
from pixieboot.registry.sqlite import StateStore
store = StateStore.open(sys.argv[1])
async def one(number):
    address = f"10.0.{number // 250}.{number % 250}"
    await store.keep(Lease(address, "02:00:00:00:00:01", Mac("02:00:00:00:00:01"), LeaseState.BOUND, 2e9))
    print(address, flush=True)
async def main():
    for start in range(0, 20000, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
asyncio.run(main())
"""


def test_what_was_reported_kept_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for lines in (1, 7, 60):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            promised = {child.stdout.readline().strip() for _ in range(lines)}
            os.kill(child.pid, 9)
            promised |= {line.strip() for line in child.stdout if line.endswith("\n")}
        store = StateStore.open(path)
        assert promised <= {lease.address for lease in store.leases()}
        store.close()
