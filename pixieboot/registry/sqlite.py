"""What must outlive the daemon, in one SQLite file: leases, what was ordered or learned of machines, machines discovered.

Answers come from memory.  One writer thread takes all that came up while it wrote, or in one go, into one transaction (group
commit): under load many leases share one fsync, and a lone lease waits for nobody.
"""

import asyncio
import errno
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

from pixieboot.errors import OperatorError
from pixieboot.model import Lease, LeaseState, Mac, MachineState
from pixieboot.wire.dhcp import packed

APPLICATION_ID = 0x70786264  # "pxbd" in the file's header: it is ours
VERSION = 2
DISCOVERED = 10_000  # machines remembered at most: a flood of made-up MACs must not fill the disk
LAZY = 1.0  # seconds between writes of what nobody waits for
SEEN_AGAIN = 3600.0  # seconds between two notes that a known machine was seen: SD cards wear
ROWS = 50
LOG_PAGES = 128  # of SQLite's write-ahead log, until they are put in their places: half a MiB, also on the smallest disk
FRESH = MachineState()

log = logging.getLogger(__name__)

_LEASES = """
CREATE TABLE leases (
    address INTEGER PRIMARY KEY, client TEXT NOT NULL, mac TEXT NOT NULL, state TEXT NOT NULL, expires REAL NOT NULL,
    hostname TEXT NOT NULL, client_id TEXT NOT NULL, written REAL NOT NULL
)
"""
_SCHEMA = f"""
CREATE TABLE schema (version INTEGER NOT NULL);
{_LEASES};
CREATE TABLE machine_states (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE discovered (
    mac TEXT PRIMARY KEY, uuid TEXT, arch TEXT, vendor TEXT NOT NULL, first_seen REAL NOT NULL, last_seen REAL NOT NULL
) WITHOUT ROWID;
"""


Row = tuple[str | float | None, ...]


def insert_rows(database: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    """Put rows into a table, in place of those with the same key, fifty with each statement.

    sqlite3 gives up the GIL for each statement, and a busy loop is slow to give it back.  A Mac goes in as str(mac): of any
    other type than its own, be it a subclass, sqlite3 asks every value and then every adapter whether it wants to be another.
    """
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        database.execute(_insertion(table, len(some[0]), len(some)), list(chain.from_iterable(some)))


@cache
def _insertion(table: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT OR REPLACE INTO {table} VALUES {', '.join([row] * rows)}"


_MEND_FILE = "Move it aside (`mv {path} {path}.damaged`, and {path}-wal with it): a new one is made, and leases begin afresh."


class StoreError(OSError):
    """What was to be kept could not be written: the disk is full, read-only or broken.  Later writes may succeed again."""


@dataclass(slots=True)
class Discovered:
    """A machine that asked for something, described or not.  Times in seconds since 1970."""

    mac: Mac
    uuid: str | None
    arch: str | None
    vendor: str
    first_seen: float
    last_seen: float


Done = Callable[[StoreError | None], None]


@dataclass(slots=True)
class _Work:
    """What goes to disk in one transaction, and who waits for it."""

    leases: list[Lease] = field(default_factory=list)
    states: dict[str, MachineState] = field(default_factory=dict)
    discovered: dict[Mac, Discovered] = field(default_factory=dict)
    waiting: list[Done] = field(default_factory=list)


class StateStore:
    """The open file.  Made by `open`; to be used from one thread, that of the loop."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database, self.path = database, path
        self._leases = _read_leases(database)
        self.newest = max((row[0] for row in database.execute("SELECT max(written) FROM leases") if row[0]), default=0.0)
        self._states = {key: _state(text) for key, text in database.execute("SELECT key, state FROM machine_states")}
        self._discovered = {seen.mac: seen for seen in map(_seen, database.execute("SELECT * FROM discovered"))}
        self._leases_due, self._rest_due = _Work(), _Work()
        self._rest_timed = self._rest_now = False
        self._rest_given = 0.0
        self._writing = 0  # pieces of work that the writer has
        self._work: SimpleQueue[tuple[_Work, asyncio.AbstractEventLoop] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_told: list[Callable[[], object]] = []  # once all who waited for one piece of work have heard of it
        self._writer: threading.Thread | None = None  # not before there is something to write, and root is dropped

    @classmethod
    def open(cls, path: Path | str) -> "StateStore":
        """Open the file, or make it.  One that is damaged, foreign or in use is refused and left as it is: OperatorError."""
        path = Path(path)
        where = f"state {path}"
        try:
            # SQLite would make it readable for everybody that the umask allows; its -wal and -shm files follow its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        except (OSError, sqlite3.Error) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise OperatorError(
                where, f"it cannot be opened: {why}", "Name another place with --state, or mend its rights."
            ) from None
        try:
            _prepare(database)
        except OperatorError:
            database.close()
            raise
        except (sqlite3.Error, ValueError, TypeError) as error:
            database.close()
            if "locked" in str(error):
                raise OperatorError(
                    where, "another process uses it", "Only one pixieboot may: stop the other, or give this one its own --state."
                ) from None
            if _out_of_room(error):
                raise OperatorError(where, f"it cannot be written: {error}", "Make room on that disk.") from None
            raise OperatorError(where, f"it is damaged: {error}", _MEND_FILE.format(path=path)) from None
        try:
            path.chmod(0o600)
            return cls(database, path)
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as error:
            database.close()
            raise OperatorError(where, f"it is damaged: {error}", _MEND_FILE.format(path=path)) from None

    def leases(self) -> list[Lease]:
        """The leases as the file had them when it was opened."""
        return self._leases

    async def keep(self, lease: Lease) -> None:
        """Write the lease, in place of any other of its address.  Durable on return; raises StoreError when it is not."""
        future, done = _awaited()
        self.submit(lease, done)
        await future

    def submit(self, lease: Lease, done: Done) -> None:
        """As keep, for those who do not wait: done(None or the error) is called on the running loop."""
        due = self._leases_due
        if not due.waiting:
            self._running().call_soon(self._hand_over)
        due.leases.append(lease)
        due.waiting.append(done)

    def state(self, key: str) -> MachineState:
        """What was ordered or learned of a machine: key is its name, or the MAC of one that nobody described."""
        return self._states.get(key, FRESH)

    def states(self) -> Mapping[str, MachineState]:
        return self._states

    def has_room(self, key: str) -> bool:
        """May something be noted under this key of a machine that nobody described?  As many as may be discovered."""
        return key in self._states or len(self._states) < DISCOVERED

    def set_state(self, key: str, state: MachineState) -> None:
        """Valid at once, durable soon: what cannot be written now is written with the next that can."""
        if self._states.get(key, FRESH) == state:
            return
        self._states[key] = self._rest_due.states[key] = state
        self._write_later()

    async def keep_state(self, key: str, state: MachineState) -> None:
        """As set_state, durable on return; raises StoreError when it is not (it stays valid, and is tried again)."""
        self.set_state(key, state)
        future, done = _awaited()
        self._rest_due.waiting.append(done)
        self._rest_now = True
        self._running().call_soon(self._hand_over)
        await future

    def discovered(self) -> Iterable[Discovered]:
        """Every machine that was ever seen, in no particular order."""
        return self._discovered.values()

    def seen(self, mac: Mac) -> Discovered | None:
        """What was noted of the machine with this MAC, if it ever asked for anything."""
        return self._discovered.get(mac)

    def may_see(self, mac: Mac) -> bool:
        """Is there room to note this machine?  Else `see` does nothing."""
        return len(self._discovered) < DISCOVERED or mac in self._discovered

    def see(self, mac: Mac, uuid: str | None, arch: str | None, vendor: str, now: float) -> bool:
        """Note that a machine asked for something.  True: it was never seen before."""
        known = self._discovered.get(mac)
        if known is None:
            if len(self._discovered) >= DISCOVERED:
                return False
            seen = Discovered(mac, uuid, arch, vendor, now, now)
        else:
            if now - known.last_seen < SEEN_AGAIN and arch in (None, known.arch) and uuid in (None, known.uuid):
                return False
            seen = replace(known, uuid=uuid or known.uuid, arch=arch or known.arch, vendor=vendor or known.vendor, last_seen=now)
        self._discovered[mac] = self._rest_due.discovered[mac] = seen
        self._write_later()
        return known is None

    def close(self) -> None:
        """Write what is due and close the file.  What still cannot be written is lost."""
        if self._writer:
            self._work.put(None)
            self._writer.join()
        self._commit(self._leases_due)
        self._commit(self._rest_due)
        with suppress(sqlite3.Error):
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._database.close()

    def _write_later(self) -> None:
        """Nobody waits for this: at once, or a while after the last.  Without a running loop it is written at the end."""
        try:
            loop = self._running()
        except RuntimeError:
            return
        if not self._rest_timed:
            loop.call_later(max(0.0, self._rest_given + LAZY - time.monotonic()), self._on_time)
            self._rest_timed = True

    def _running(self) -> asyncio.AbstractEventLoop:
        """The running loop.  What another before it had still to do or to hear is lost with that one.  Raises RuntimeError."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._writing, self._rest_timed = loop, 0, False
        return loop

    def _on_time(self) -> None:
        self._rest_timed, self._rest_now, self._rest_given = False, True, time.monotonic()
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer what is due, once it has written what it had: the larger the piece, the fewer the fsyncs."""
        if self._writing:
            return
        if self._leases_due.waiting:
            self._give(self._leases_due)
            self._leases_due = _Work()
        if self._rest_now:
            self._give(self._rest_due)
            self._rest_due, self._rest_now = _Work(), False

    def _give(self, work: _Work) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="state-writer", daemon=True)
            self._writer.start()
        self._work.put((work, self._running()))
        self._writing += 1

    def _write(self) -> None:
        """The writer thread: one transaction after the other."""
        while given := self._work.get():
            work, loop = given
            error = self._commit(work)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._on_written, work, error)

    def _on_written(self, work: _Work, error: StoreError | None) -> None:
        self._writing -= 1
        rest = self._rest_due
        if error and (work.states or work.discovered):  # nobody waits for these, or is told: the next time may do
            rest.states = {**work.states, **rest.states}  # what was set meanwhile is newer
            rest.discovered = {**work.discovered, **rest.discovered}
            self._write_later()
        # Not at once: what has come in meanwhile goes with the next piece.
        asyncio.get_running_loop().call_soon(self._hand_over)
        for done in work.waiting:
            try:
                done(error)
            except Exception:
                log.exception("bug after a write")
        for told in self.on_told:
            told()

    def _commit(self, work: _Work) -> StoreError | None:
        """All of it durable, or nothing: one transaction; a single statement is one of its own."""
        now = time.time()
        try:
            tables: dict[str, list[Row]] = {
                "leases": [
                    (_number(x.address), str(x.client), str(x.mac), x.state._value_, x.expires, x.hostname, x.client_id.hex(), now)
                    for x in work.leases
                ],
                "machine_states": [(key, json.dumps(asdict(state))) for key, state in work.states.items()],
                "discovered": [(str(x.mac), x.uuid, x.arch, x.vendor, x.first_seen, x.last_seen) for x in work.discovered.values()],
            }
            try:
                self._insert(tables)
            except sqlite3.Error as error:
                if not _out_of_room(error):
                    raise
                # What fills the disk may be the log.
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._insert(tables)
        except Exception as error:  # whatever it is: without its writer the daemon would lease nothing any more, and say nothing
            return self._store_error(error)
        return None

    def _insert(self, tables: Mapping[str, Sequence[Row]]) -> None:
        with self._database:  # commits, or rolls back
            if sum(-(-len(rows) // ROWS) for rows in tables.values()) > 1:
                self._database.execute("BEGIN IMMEDIATE")
            for table, rows in tables.items():
                insert_rows(self._database, table, rows)

    def _store_error(self, error: Exception) -> StoreError:
        number = errno.ENOSPC if _out_of_room(error) else errno.EIO
        return StoreError(number, f"{self.path} cannot be written: {error}")


def _awaited() -> tuple[asyncio.Future[None], Done]:
    """What to wait for, and what ends the wait."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: StoreError | None) -> None:
        if future.done():
            return
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)

    return future, done


def _prepare(database: sqlite3.Connection) -> None:
    """Check that the file is ours and whole; give a new one its tables."""
    database.execute("PRAGMA locking_mode=EXCLUSIVE")  # a second daemon on the same file is refused; and no shared memory file
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    path = database.execute("PRAGMA database_list").fetchone()[2]
    if application != APPLICATION_ID and (tables or application):
        raise OperatorError(
            f"state {path}", "it is another program's database", "Name another file with --state: this one is left as it is."
        )
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
    if not tables:
        database.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO schema VALUES (?)", (VERSION,))
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute("COMMIT")
        return
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    (version,) = database.execute("SELECT max(version) FROM schema").fetchone()
    if version == 1:
        _renumber(database)
        version = VERSION
    if not isinstance(version, int):
        raise sqlite3.DatabaseError("it does not say its version")
    if version > VERSION:
        raise OperatorError(
            f"state {path}",
            f"a newer pixieboot wrote it (schema {version}, this one knows {VERSION})",
            "Start that version, or name another file with --state.",
        )


def _renumber(database: sqlite3.Connection) -> None:
    """Version 1 had addresses as text, whose order scatters those that are given out one after the other over many pages."""
    rows = [(_number(address), *rest) for address, *rest in database.execute("SELECT * FROM leases")]
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("DROP TABLE leases")
        database.execute(_LEASES)
        insert_rows(database, "leases", rows)
        database.execute("UPDATE schema SET version = ?", (VERSION,))
        _read_leases(database)  # a file with wrong ones is left as it is


def _out_of_room(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE") or "full" in str(error)


def _read_leases(database: sqlite3.Connection) -> list[Lease]:
    rows = database.execute("SELECT address, client, mac, state, expires, hostname, client_id FROM leases")
    return [
        Lease(str(IPv4Address(address)), client, _mac(mac), LeaseState(state), float(expires), hostname, bytes.fromhex(client_id))
        for address, client, mac, state, expires, hostname, client_id in rows
    ]


def _number(address: str) -> int:
    return int.from_bytes(packed(address), "big")


def _seen(row: tuple[str, str | None, str | None, str, float, float]) -> Discovered:
    mac, uuid, arch, vendor, first_seen, last_seen = row
    return Discovered(_mac(mac), uuid, arch, vendor, float(first_seen), float(last_seen))


def _mac(text: str) -> Mac:
    """SQLite's own check does not see a wrong letter.  Raises ValueError."""
    return Mac.of(bytes.fromhex(text.replace(":", "")))


_KNOWN = {field.name for field in fields(MachineState)}


def _state(text: str) -> MachineState:
    """A machine's state; what a newer version noted beside it is left out."""
    known = {key: value for key, value in json.loads(text).items() if key in _KNOWN}
    return MachineState(**{**known, "fetched": tuple((mark, peer, at) for mark, peer, at in known.get("fetched", ()))})
