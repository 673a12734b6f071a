"""What a GET for a file gets: whole, a part, "not modified" or a refusal.  RFC 9110 §13 and §14, single ranges.  Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache

_RANGE = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one content of a file from another.  A file must never be changed in place while it is served."""

    size: int
    mtime_ns: int
    inode: int

    @property
    def etag(self) -> bytes:
        """A strong one: with quotes, without W/."""
        return b'"%x-%x-%x"' % (self.size, self.mtime_ns, self.inode)

    @property
    def modified(self) -> int:
        return self.mtime_ns // 1_000_000_000

    @property
    def last_modified(self) -> bytes:
        return http_date(self.modified)


@lru_cache(256)
def http_date(seconds: int) -> bytes:
    """Seconds since 1970 as HTTP writes them (RFC 9110 §5.6.7)."""
    return formatdate(seconds, usegmt=True).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """status: 200 whole, 206 the part from first on, 304, 412, or 416.  count: bytes of body."""

    status: int
    first: int
    count: int


def answer(headers: Mapping[bytes, bytes], version: Version) -> Answer:
    """Which part of this version of a file the request gets.  headers: names in lower case."""
    if (match := headers.get(b"if-match")) is not None:
        # EDK2 resumes a download so (HttpBootClient.c).
        if match.strip() != b"*" and version.etag not in _etags(match):
            return Answer(412, 0, 0)
    elif (since := _date(headers.get(b"if-unmodified-since"))) is not None and version.modified > since:
        return Answer(412, 0, 0)
    if (unless := headers.get(b"if-none-match")) is not None:
        # Weak comparison, but we never make weak ones: theirs come from a proxy between us (RFC 9110 §8.8.3.2).
        if unless.strip() == b"*" or version.etag in {tag.removeprefix(b"W/") for tag in _etags(unless)}:
            return Answer(304, 0, 0)
    elif (since := _date(headers.get(b"if-modified-since"))) is not None and version.modified <= since:
        return Answer(304, 0, 0)
    wanted = headers.get(b"range")
    if wanted is None or not _same(headers.get(b"if-range"), version):
        return Answer(200, 0, version.size)
    return part(wanted, version.size)


def part(wanted: bytes, size: int) -> Answer:
    """What a Range header gets of so many bytes.

    Several ranges, other units and nonsense (iPXE's sanboot: `bytes=u-u`) get the whole: §14.2 lets a server ignore them.
    """
    found = _RANGE.fullmatch(wanted.strip())
    if not found or found[1] == found[2] == b"":
        return Answer(200, 0, size)
    if not found[1]:
        count = min(int(found[2]), size)
        return Answer(206, size - count, count) if count else Answer(416, 0, 0)
    first = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        return Answer(200, 0, size)
    if first >= size:
        return Answer(416, 0, 0)
    return Answer(206, first, min(last, size - 1) - first + 1)


def _same(if_range: bytes | None, version: Version) -> bool:
    """Does If-Range name this version?  Without it, yes.  A date must be ours to the second (§13.1.5)."""
    if if_range is None:
        return True
    text = if_range.strip()
    return text == version.etag or (not text.startswith((b'"', b"W/")) and _date(text) == version.modified)


def _etags(value: bytes) -> set[bytes]:
    return set(re.findall(rb'(?:W/)?"[^"]*"', value))


def _date(value: bytes | None) -> int | None:
    """Seconds since 1970; None without a date, or with one that is not understood: such a condition is ignored."""
    if value is None:
        return None
    try:
        return int(parsedate_to_datetime(value.decode("latin-1")).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
