"""The machines' events on disk, so that `why` still answers after a restart.  Gentle to SD cards: few writes, bounded size.

A file of its own beside the state: losing the last seconds of it at a power cut costs nobody anything (synchronous=NORMAL).
"""

import asyncio
import json
import math
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pixieboot.errors import OperatorError
from pixieboot.journal import Journal, plain
from pixieboot.model import Event, Mac
from pixieboot.registry.sqlite import LOG_PAGES, insert_rows

EVERY = 5.0  # seconds between writes
MOST = 2_500  # events between two writes: a flood of made-up machines wears out no SD card
SAY_AGAIN = 60.0  # seconds
KEEP_SECONDS = 30 * 86400.0
KEEP_BOOTS = 20  # of each machine
SUSPICIOUS = 300  # events of a machine from which on its boots are counted
LARGEST = 256 << 20  # octets of the file at most
SHARE = 1 / 8  # of its disk at most: a full one keeps no leases
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
    """A reader of the journal that keeps a file of it.  A disk that takes nothing is told by `error`, and stops no boot."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self.error = ""
        self._journal, self._number = journal, journal.number  # the last event that is on disk, or left out
        self._too_large = False
        self._writing = threading.Lock()  # held while _number and what is on disk are apart; not for the loop
        self._database = _open(path)

    async def run(self) -> None:
        """Write every few seconds, and tell of what a flood leaves out, until cancelled."""
        pruned = said = -math.inf
        while True:
            await asyncio.sleep(EVERY)
            left_out = await asyncio.to_thread(self.write)
            now = time.monotonic()
            if left_out and now - said > SAY_AGAIN:
                said = now
                why = self.error or f"more than {MOST / EVERY:.0f} events a second: the machines' history leaves the rest out"
                self._journal.record(Event(time.time(), None, "history", "left out", {"events": left_out, "why": why}, "warning"))
            if self._too_large or now - pruned > PRUNE_EVERY:
                pruned = now
                await asyncio.to_thread(self._prune)

    def timeline(self, mac: Mac) -> list[Event]:
        """All that is kept of a machine, oldest first.  Reads the disk: not for the loop's own thread."""
        with self._writing:
            waiting = [event for _, event in self._journal.since(self._number) if event.mac == mac]
            with closing(sqlite3.connect(self.path, timeout=2.0)) as reader:
                stored = _events(reader, mac)
        return stored + waiting

    def write(self) -> int:
        """Write what is new, from any thread but the loop's.  How many events that leaves out.

        Of a flood the newest are kept: they tell how a boot ended, and the journal itself has forgotten the oldest by then.
        """
        with self._writing:
            news = self._journal.since(self._number)
            events = [event for _, event in news if event.mac is not None]
            batch = events if self.error else events[-MOST:]  # what waited for the disk goes with one write
            number = news[-1][0] if news else self._number
            left_out = number - self._number - len(news)
            try:
                self._insert(batch)
                self._number, self.error = number, ""
                self._too_large = _is_too_large(self._database)
                left_out += len(events) - len(batch)
            except Exception as error:  # whatever it is: it ends no daemon
                self._fail(error)
        return left_out

    def close(self) -> None:
        """Write what is left, and close."""
        self.write()
        with self._writing:
            self._database.close()

    def _prune(self) -> None:
        try:
            with closing(sqlite3.connect(self.path, timeout=2.0)) as database:
                prune(database, time.time())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = f"{self.path} cannot be written: {error}"

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
        if _is_too_large(database):
            database.execute(
                "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY at LIMIT (SELECT count(*) / 4 FROM events))"
            )


def _is_too_large(database: sqlite3.Connection) -> bool:
    (pages,), (page,), (free,) = (
        database.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size", "freelist_count")
    )
    disk = shutil.disk_usage(database.execute("PRAGMA database_list").fetchone()[2])
    return bool((pages - free) * page > min(LARGEST, disk.total * SHARE))


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
        database.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
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
