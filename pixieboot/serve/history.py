"""The machines' events on disk, so that `why` still answers after a restart.  Gentle to SD cards: few writes, bounded size.

A file of its own beside the state: losing the last seconds of it at a power cut costs nobody anything (synchronous=NORMAL).
"""

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pixieboot.errors import OperatorError
from pixieboot.journal import Journal, plain
from pixieboot.model import Event, Mac
from pixieboot.registry.sqlite import insert_rows

EVERY = 5.0  # seconds between writes
MOST = 2_500  # events between two writes: a flood of made-up machines wears out no SD card
PENDING = 20_000  # events kept in memory while the disk takes none
SAY_AGAIN = 60.0  # seconds
KEEP_SECONDS = 30 * 86400.0
KEEP_BOOTS = 20  # of each machine
SUSPICIOUS = 300  # events of a machine from which on its boots are counted
LARGEST = 256 << 20  # octets of the file
PRUNE_EVERY = 6 * 3600.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, mac TEXT NOT NULL, service TEXT NOT NULL, kind TEXT NOT NULL, level TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_machine ON events (mac, at);
CREATE INDEX IF NOT EXISTS events_by_time ON events (at);
"""

_as_json = json.JSONEncoder(default=plain).encode


class History:
    """The file and its writer thread.  A disk that takes nothing is told by `error`, and stops no boot."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self.error = ""
        self._closing = threading.Event()
        self._pending: list[Event] = []  # the loop adds to its end, the writer takes from its head: no step of either needs a lock
        self._written = threading.Lock()  # held from writing a batch until pending is without it; not for the loop
        self._limit = MOST  # of pending
        self._journal, self._said = journal, 0.0
        self.left_out = 0  # events of a flood that are not on disk
        self._database = _open(path)
        self._unlisten = journal.listen(self._on_event)
        self._writer = threading.Thread(target=self._write, name="history-writer", daemon=True)
        self._writer.start()

    def timeline(self, mac: Mac) -> list[Event]:
        """All that is kept of a machine, oldest first.  Reads the disk: not for the loop's own thread."""
        with self._written:
            waiting = [event for event in self._pending.copy() if event.mac == mac]
            with sqlite3.connect(self.path, timeout=2.0) as reader:
                stored = _events(reader, mac)
            reader.close()
        return stored + waiting

    def close(self) -> None:
        """Write what is left, and close."""
        self._unlisten()
        self._closing.set()
        self._writer.join()
        self._database.close()

    def _on_event(self, event: Event) -> None:
        if event.mac is None:
            return
        if len(self._pending) < self._limit:
            self._pending.append(event)
            return
        self.left_out += 1
        if abs(event.at - self._said) > SAY_AGAIN:
            self._said = event.at
            why = self.error or f"more than {MOST / EVERY:.0f} events a second: the machines' history leaves the rest out"
            self._journal.record(Event(event.at, None, "history", "left out", {"why": why}, "warning"))

    def _write(self) -> None:
        pruned = 0.0
        while True:
            closing = self._closing.wait(EVERY)
            try:
                self._write_pending()
                if time.monotonic() - pruned > PRUNE_EVERY or not pruned:
                    pruned = time.monotonic()
                    prune(self._database, time.time())
                self.error = ""
            except sqlite3.Error as error:
                self.error = f"{self.path} cannot be written: {error}"
            if closing:
                return

    def _write_pending(self) -> None:
        batch = self._pending.copy()
        try:
            with self._written:
                self._insert(batch)
                del self._pending[: len(batch)]
        finally:
            self._limit = min(len(self._pending) + MOST, PENDING)

    def _insert(self, batch: Sequence[Event]) -> None:
        rows = [(None, e.at, str(e.mac), e.service, e.kind, e.level, _as_json(e.detail)) for e in batch]
        with self._database:  # rolls back by itself
            insert_rows(self._database, "events", rows)


def prune(database: sqlite3.Connection, now: float) -> None:
    """Forget what is older than thirty days, all but the last twenty boots of a machine, and the oldest of a file too large."""
    from pixieboot.boots import split  # needed once in hours, and not by the start

    with database:
        database.execute("DELETE FROM events WHERE at < ?", (now - KEEP_SECONDS,))
        crowded = database.execute("SELECT mac FROM events GROUP BY mac HAVING count(*) > ?", (SUSPICIOUS,)).fetchall()
        for (mac,) in crowded:
            boots = split(_events(database, mac))
            if len(boots) > KEEP_BOOTS:
                database.execute("DELETE FROM events WHERE mac = ? AND at < ?", (mac, boots[-KEEP_BOOTS].start))
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page,) = database.execute("PRAGMA page_size").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        if (pages - free) * page > LARGEST:
            database.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY at LIMIT (SELECT count(*) / 4 FROM events))"
            )


def _events(database: sqlite3.Connection, mac: str) -> list[Event]:
    rows = database.execute("SELECT at, service, kind, level, detail FROM events WHERE mac = ? ORDER BY at, id", (mac,))
    return [Event(at, Mac(mac), service, kind, json.loads(detail), level) for at, service, kind, level, detail in rows]


def _open(path: Path) -> sqlite3.Connection:
    """The file, made if it is missing; one that is damaged is moved aside: history is no reason not to boot anybody.

    Raises OperatorError when nothing can be written there.
    """
    try:
        try:
            return _prepared(path)
        except sqlite3.DatabaseError as error:
            if _is_the_disk(error):
                raise
        path.replace(path.with_suffix(".damaged"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _prepared(path)
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        mend = "Move it away if it is no file of the daemon's, make room on that disk, or name another place with --state."
        raise OperatorError(str(path), f"the history cannot be opened: {why}", mend) from None


def _prepared(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    database = sqlite3.connect(path, check_same_thread=False, timeout=2.0)
    try:
        if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("damaged")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
        database.execute("SELECT at, mac, service, kind, level, detail FROM events LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _is_the_disk(error: sqlite3.DatabaseError) -> bool:
    """Full, read-only, broken or in use: another file would fare no better."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_PERM"))
