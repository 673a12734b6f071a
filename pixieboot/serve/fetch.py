"""Files of other HTTP servers: fetched once, kept below the state directory, and served from there while they still arrive.

A thread moves the bytes from the server to the disk; the loop sends machines what is there, by the same way as any other file.
Any number of machines share one download.  What is on disk is the whole truth: there is no index that a power cut could spoil.

    cache/KEY/part, part.json     on its way, and whose it is: a later download goes on from there
    cache/KEY/file, about.json    whole, and checked if somebody said by what
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pixieboot.model import Event, Mac
from pixieboot.remote import Remote
from pixieboot.serve.files import File
from pixieboot.serve.upstream import LEAST, Opener, Unanswered, unanswered

DOWNLOADS = 16  # at a time
PIECE = 256 * 1024  # bytes read at most before machines hear of them
HELD_BACK = 64 * 1024  # bytes that nobody gets before the checksum is right: no loader starts a file that lacks its end
SILENCE = 20.0  # seconds without a byte from the server
TRIES = 5  # in a row that bring next to nothing
PAUSE = 0.5  # seconds before the second try; doubled for each further one
TELL = 5.0  # seconds at least between two reports of progress, which come at each tenth
FREE = 64 << 20  # bytes of the disk that are left to others
ROOM = 16 << 20  # bytes for which room is made at a time while nobody knows how long a file is
REMEMBER = 60.0  # seconds for which a wrong checksum is not fetched again
KEYS = 1024  # files of which such things are remembered
FRESH = 5.0  # seconds for which a server is not asked again whether a file changed: some loaders read it in many parts

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)

Record = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a file.  length -1: its server did not say; sha256: of what is here; boot: of this host, for a part."""

    url: str
    length: int = -1
    etag: str = ""
    modified: str = ""
    sha256: str = ""
    boot: str = ""

    @classmethod
    def read(cls, path: Path) -> "About | None":
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.rename(path)

    @property
    def validator(self) -> str:
        """For If-Range: a strong ETag, else the date (RFC 9110 §13.1.5)."""
        return self.etag if self.etag.startswith('"') else self.modified


class Fetched:
    """A machine's hold on a file, whole or arriving.  Close it."""

    def __init__(self, cache: "Cache", key: str, file: File, download: "Download | None") -> None:
        self._cache, self._key, self.file, self._download = cache, key, file, download
        cache.users[key] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self._cache.release(self._key)

    async def arrived(self, offset: int) -> int:
        """Up to where the file can be sent, once that is beyond offset.

        After a failure that is its whole length: the sending meets the end of what is there, as with a file that became shorter.
        """
        while (download := self._download) and not download.ended and download.sendable <= offset:
            await download.news()
        return self.file.size if download is None or download.ended else download.sendable

    @property
    def url(self) -> str | None:
        return self._download.remote.url if self._download else None

    @property
    def failure(self) -> str | None:
        """Why it did not come to its end."""
        return self._download.failure.sentence if self._download and self._download.failure else None


class Cache:
    """The files of one daemon.  open, release and stop are for the loop; the downloads run in threads of their own."""

    def __init__(self, directory: Path, limit: Callable[[], int], record: Record) -> None:
        """limit: bytes to keep; record: takes events, on the loop."""
        self.directory, self.limit, self._record = directory, limit, record
        self.loop = asyncio.get_running_loop()
        self.users: Counter[str] = Counter()
        self.running: dict[str, Download] = {}
        self._wrong: dict[tuple[str, str], tuple[float, str]] = {}  # (key, checksum) -> when and how it turned out wrong
        self._fresh: dict[str, float] = {}  # key -> when its server said last that this is the file
        self._room = threading.Lock()
        self._over = False

    @cached_property
    def opener(self) -> Opener:
        """Made by the first download's thread: reading the certificates of all authorities takes its time."""
        return Opener()

    async def open(self, remote: Remote, mac: Mac | None = None) -> Fetched:
        """The file, as soon as its length is known.  Raises Unanswered."""
        key = key_of(remote.url)
        while (download := self.running.get(key)) and download.remote.sha256 != remote.sha256:
            await download.news()
        if download is None:
            fresh = remote.once or time.monotonic() - self._fresh.get(key, -FRESH) < FRESH
            if fresh and (kept := self._kept(key, remote)):
                return kept
            download = self._begin(key, remote)
        with download.joined(mac):
            while download.file is None and not download.ended:
                await download.news()
            if download.file and not download.failure:
                return Fetched(self, key, download.reopened(), download)
        kept = self._kept(key, remote) if download.unchanged or (download.failure and download.failure.again) else None
        if kept is None:
            raise download.failure or Unanswered(f"{remote.url} was taken away while it was fetched", 503)
        if download.failure:
            self.tell(download, "kept", "warning", why=f"{download.failure.sentence}: the last one is served")
        return kept

    def _begin(self, key: str, remote: Remote) -> "Download":
        when, sentence = self._wrong.get((key, remote.sha256), (0.0, ""))
        if sentence and time.monotonic() - when < REMEMBER:
            raise Unanswered(sentence)
        if len(self.running) >= DOWNLOADS:
            raise Unanswered(f"{DOWNLOADS} files are being fetched already: try again", 503)
        download = self.running[key] = Download(self, key, remote)
        threading.Thread(target=download.run, name=f"fetch {remote.name}", daemon=True).start()
        return download

    def _kept(self, key: str, remote: Remote) -> Fetched | None:
        """The whole file, if it is here and is the one that is wanted."""
        place = self.directory / key
        about = About.read(place / "about.json")
        if about is None or about.url != remote.url or remote.sha256 not in ("", about.sha256):
            return None
        try:
            file = opened(place / "file")
        except OSError:
            return None
        if file.size != about.length:
            file.close()
            return None
        with suppress(OSError):
            os.utime(place)  # used now
        return Fetched(self, key, file, None)

    def release(self, key: str) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            if self._over:
                self.loop.run_in_executor(None, self.make_room, 0, "")

    def ended(self, download: "Download") -> None:
        """On the loop: a download is over, be it well or not."""
        del self.running[download.key]
        for remembered in (self._fresh, self._wrong):
            if len(remembered) > KEYS:
                remembered.clear()
        if not download.failure:
            self._fresh[download.key] = time.monotonic()
        if download.wrong and download.failure:
            self._wrong[download.key, download.remote.sha256] = time.monotonic(), download.failure.sentence
        # Whoever counted before may have missed it: it gets its name at the end.  When the daemon stops there is nobody to count.
        if not download.stopping.is_set():
            self.loop.run_in_executor(None, self.make_room, 0, "")

    def make_room(self, need: int, key: str, leave: int = 0) -> None:
        """In a thread: remove what was unused for longest until need more bytes fit; never what is in use.

        Raises Unanswered when the disk has no room for them.
        """
        with self._room:
            found = sorted(self._places())
            total = sum(size for _, _, size in found)
            for _, other, size in found:
                if total + need <= self.limit() and self._free() >= need + FREE:
                    break
                if other == key or other in self.users or other in self.running:
                    continue
                shutil.rmtree(self.directory / other, ignore_errors=True)
                total -= size
                detail = {"file": other.partition("-")[2], "bytes": size}
                self.post(self._record, Event(time.time(), None, "fetch", "removed", detail))
            self._over = total + need > self.limit()
            if need and self._free() < need + leave:
                raise Unanswered(f"{need >> 20} MiB are to be fetched, and {self.directory} has {self._free() >> 20} MiB left", 503)

    def _places(self) -> Iterator[tuple[float, str, int]]:
        """(last use, key, bytes) of everything that is kept."""
        with suppress(OSError), os.scandir(self.directory) as places:
            for place in places:
                with suppress(OSError), os.scandir(place.path) as files:
                    size = sum(entry.stat().st_size for entry in files)
                    yield place.stat().st_mtime, place.name, size

    def _free(self) -> int:
        return shutil.disk_usage(self.directory).free

    def tell(self, download: "Download", kind: str, level: str = "info", *macs: Mac | None, **detail: Any) -> None:
        """On the loop: an event of these machines, or of each that waits for this file."""
        for mac in macs or download.machines or (None,):
            self._record(Event(time.time(), mac, "fetch", kind, {"url": download.remote.url, **detail}, level))

    def post(self, work: Callable[..., object], *arguments: Any) -> None:
        """From a thread: have the loop do something.  After its end nobody is left to care."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(work, *arguments)

    def stop(self) -> None:
        """Let the downloads end at their next byte; what they have is kept for the next start."""
        for download in self.running.values():
            download.stopping.set()


class Download:
    """One file on its way from the server to the disk.  Its own thread writes to it; the loop reads, and waits for `news`."""

    def __init__(self, cache: Cache, key: str, remote: Remote) -> None:
        self._cache, self.key, self.remote = cache, key, remote
        self.machines: dict[Mac | None, None] = {}  # that wait for it
        self.file: File | None = None  # once its length is known
        self.failure: Unanswered | None = None
        self.unchanged = self.ended = self.wrong = False
        self.stopping = threading.Event()
        self._place = cache.directory / key
        self._about = About(remote.url)
        self._fd = -1
        self._have = 0  # bytes on disk
        self._roomy = 0  # up to there the disk has room for a file of unknown length
        self._checked = not remote.sha256
        self._hash = hashlib.sha256()
        self._sure = True  # whether its end was seen
        self._news: list[asyncio.Future[None]] = []
        self._told, self._posted, self._announced, self._opening = (0, time.monotonic()), False, False, 0

    # --- on the loop

    @property
    def sendable(self) -> int:
        have = self._have
        return have if self._checked or not self.file else min(have, max(0, self.file.size - HELD_BACK))

    @contextmanager
    def joined(self, mac: Mac | None) -> Iterator[None]:
        """For one more machine that waits to open it."""
        if mac not in self.machines:
            self.machines[mac] = None
            self._cache.tell(self, "asked", "debug", mac)
            if self._announced:
                self._announce(mac)
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1
            self._close()

    def _announce(self, *macs: Mac | None) -> None:
        assert self.file
        detail: dict[str, Any] = {"bytes": self.file.size, "had": self._have or None}
        self._cache.tell(self, "started", "info", *macs, **detail)
        self._announced = True

    async def news(self) -> None:
        """Wait until there is more, or the end."""
        future = self._cache.loop.create_future()
        self._news.append(future)
        await future

    def reopened(self) -> File:
        """A descriptor of its own for one more reader."""
        assert self.file
        return File(os.dup(self.file.fd), self.file.size, self.file.mtime_ns, self.file.inode, self.file.device)

    def _wake(self) -> None:
        self._posted = False
        if self.file and not self._announced and not self.ended:
            self._announce()
        waiting, self._news = self._news, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _end(self, seconds: float) -> None:
        self.ended = True
        self._cache.ended(self)
        if self.failure:
            level = "alarm" if self.wrong else "warning"
            self._cache.tell(self, "failed", level, why=self.failure.sentence, bytes=self._have)
        elif self.unchanged:
            self._cache.tell(self, "unchanged", "debug")
        else:
            self._cache.tell(self, "fetched", bytes=self._have, seconds=seconds, sha256=self._about.sha256)
        self._wake()
        self._close()

    def _close(self) -> None:
        """Once it is over, and those who waited for it have a descriptor of their own."""
        if self.ended and not self._opening and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- in its thread

    def run(self) -> None:
        began = time.monotonic()
        try:
            self._fetch()
        except Unanswered as failure:
            self.failure = failure
        except OSError as error:  # of our own disk: those of the network are told apart where they occur
            self.failure = Unanswered(f"{self._place}: {error.strerror or error}", 503)
        except Exception as error:
            self.failure = Unanswered(f"{self.remote.url} cannot be fetched ({type(error).__name__}: {error})")
        if self.failure and self._about.length < 0 and self._fd >= 0:  # nothing can go on from it: give the disk back
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._cache.post(self._end, time.monotonic() - began)

    def _fetch(self) -> None:
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_up()
        tries = 0
        while self._about.length < 0 or self._have < self._about.length:
            before = self._have
            try:
                if self._attempt():
                    break
            except Unanswered as failure:
                tries = 1 if self._have - before >= LEAST else tries + 1
                if not failure.again or self.file is None or tries >= TRIES:
                    raise
                if self.stopping.wait(PAUSE * 2 ** (tries - 1)):
                    raise
        if not self.unchanged:
            self._finish()

    def _take_up(self) -> None:
        """Go on from what a download before this one left, if it can be trusted."""
        self._fd = os.open(self._place / "part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        about = About.read(self._place / "part.json")
        size = os.fstat(self._fd).st_size
        # After a power cut the end of a file may be something else than what was written.
        ours = about is not None and about.url == self.remote.url and 0 < size <= about.length
        if about is None or not ours or not (self.remote.sha256 or (about.validator and about.boot == boot_id())):
            self._start_over()
            return
        self._about, self._have = about, size
        at = 0
        while piece := os.pread(self._fd, PIECE, at):
            self._hash.update(piece)
            at += len(piece)

    def _start_over(self) -> None:
        """In another file: whoever still reads the old one meets its end, and never the new one's bytes."""
        os.ftruncate(self._fd, 0)
        os.unlink(self._place / "part")
        fresh = os.open(self._place / "part", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.dup2(fresh, self._fd, inheritable=False)
        os.close(fresh)
        self._have, self._hash = 0, hashlib.sha256()
        self._about = About(self.remote.url)
        (self._place / "part.json").unlink(missing_ok=True)

    def _attempt(self) -> bool:
        """One request and all that it brings.  True: nothing more is to come.  Raises Unanswered."""
        headers = {}
        if self._have:
            headers["Range"] = f"bytes={self._have}-"
            if self._about.validator:
                headers["If-Range"] = self._about.validator
        elif not self.remote.once and self.file is None and (kept := About.read(self._place / "about.json")):
            headers |= {"If-None-Match": kept.etag} if kept.etag else {"If-Modified-Since": kept.modified} if kept.modified else {}
        statuses, checked = (200, 206, 304, 416), bool(self.remote.sha256)
        with self._cache.opener.get(self.remote.url, headers, SILENCE, statuses, checked) as response:
            if response.status == 304:
                self.unchanged = True
                return True
            if response.status == 416 or (response.status == 206 and not self._continues(response)):
                if self.file or not self._have:
                    raise self._changed()
                self._start_over()
                return False
            if response.status == 200:
                self._begin_body(response)
            self._body(response)
        return self._about.length < 0

    def _continues(self, response: Any) -> bool:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        fits = match is not None and int(match[1]) == self._have and match[3] in ("*", str(self._about.length))
        if fits and self.file is None:
            self._serve()
        return fits

    def _begin_body(self, response: Any) -> None:
        """The whole file comes, be it that the server knows no ranges or that it has another file now."""
        length = -1 if response.length is None else int(response.length)
        about = About(
            self.remote.url, length, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""), "", boot_id()
        )
        if self.file and (about != self._about or not about.validator):
            raise self._changed()
        self._sure = length >= 0 or response.chunked or bool(self.remote.sha256)
        if self.file is None:
            self._start_over()
        self._about, self._have, self._hash = about, 0, hashlib.sha256()
        if self.file is None and length >= 0:
            self._cache.make_room(length, self.key)
            about.write(self._place / "part.json")
            self._serve()

    def _changed(self) -> Unanswered:
        """What we have is of no use: those who got a part of it are cut off, and the next one begins afresh."""
        self._start_over()
        return Unanswered(f"{self.remote.url} changed on its server while it was fetched")

    def _serve(self) -> None:
        """From here on machines may have what is there."""
        status = os.fstat(self._fd)
        self.file = File(self._fd, self._about.length, status.st_mtime_ns, status.st_ino, status.st_dev)
        self._post()

    def _body(self, response: Any) -> None:
        while True:
            if self.stopping.is_set():
                raise Unanswered("the daemon is being stopped", 503)
            try:
                piece = response.read1(PIECE)
            except Exception as error:
                raise unanswered(self.remote.url, error) from None
            if not piece:
                break
            if 0 <= self._about.length < self._have + len(piece):
                raise self._changed()
            if self._about.length < 0 and self._have + len(piece) > self._roomy:
                self._cache.make_room(ROOM, self.key, leave=FREE)
                self._roomy = self._have + len(piece) + ROOM
            done = 0
            while done < len(piece):
                done += os.pwrite(self._fd, memoryview(piece)[done:], self._have + done)
            self._hash.update(piece)
            self._have += len(piece)
            self._report()
        if not (self._have or response.chunked or self._about.length >= 0):  # as when a connection ends amid the headers
            raise Unanswered(f"{self.remote.url} broke off before its first byte", again=True)
        if 0 <= self._about.length and self._have < self._about.length:
            missing = self._about.length - self._have
            raise Unanswered(f"{self.remote.url} broke off {missing} bytes before the end", again=True)

    def _report(self) -> None:
        """Wake those who wait; tell how far it is, at each tenth."""
        if not self._posted:
            self._post()
        length, now = self._about.length, time.monotonic()
        tenth = self._have * 10 // length if length > 0 else 0
        if tenth > self._told[0] and now - self._told[1] >= TELL:
            self._told = (tenth, now)
            percent, have = tenth * 10, self._have
            self._cache.post(lambda: self._cache.tell(self, "progress", percent=percent, bytes=have, of=length))

    def _post(self) -> None:
        self._posted = True
        self._cache.post(self._wake)

    def _finish(self) -> None:
        """Check it, put it on the disk for good, and give it its name."""
        digest = self._hash.hexdigest()
        if self.remote.sha256 and digest != self.remote.sha256:
            self.wrong = True
            self._start_over()
            raise Unanswered(f"{self.remote.url} has the sha256 {digest}, and not the one of its profile: it is not served")
        if self.file is None:
            self._about = replace(self._about, length=self._have)
            self._cache.make_room(0, self.key)
            self._serve()
        assert self.file
        os.fsync(self._fd)
        os.utime(self._fd, ns=(self.file.mtime_ns, self.file.mtime_ns))  # the ETag that machines were told
        os.rename(self._place / "part", self._place / "file")
        self._about = replace(self._about, sha256=digest, boot="")
        if self._sure:
            self._about.write(self._place / "about.json")
        (self._place / "part.json").unlink(missing_ok=True)
        self._checked = True
        self._post()


def key_of(url: str) -> str:
    """The name of a file's directory: one for each address, and readable."""
    return f"{hashlib.sha256(url.encode()).hexdigest()[:24]}-{Remote(url).name}"


def opened(path: Path) -> File:
    """A file of ours.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    return File(fd, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def boot_id() -> str:
    """Differs after each start of this host."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"
