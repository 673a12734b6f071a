"""Registries of other programs: what they have in common.  Each answers its own paths with its own bytes.

A foreign registry is a value, made when its directory is loaded; a fault in one file costs that file, as in the program that it
comes from, and is told as a note.  It is also an Inventory, so that DHCP, `explain` and the rest treat its machines as any others.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_plus

from pixieboot.errors import OperatorError
from pixieboot.registry.strictyaml import read_octets

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
Stamp = tuple[int, int, int]  # size, time and inode of a file; the time of a chmod counts too (ctime)

_MAC = re.compile(
    r"(?:[0-9a-f]{2}(?P<sign>[:-]))(?:[0-9a-f]{2}(?P=sign)){4}(?:(?:[0-9a-f]{2}(?P=sign)){2}|(?:[0-9a-f]{2}(?P=sign)){14})?[0-9a-f]{2}"
    r"|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}(?:\.[0-9a-f]{4}(?:(?:\.[0-9a-f]{4}){6})?)?",
    re.ASCII | re.IGNORECASE,
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response.  why: for the journal; ranges: the program of old answers Range requests here."""

    status: int
    body: bytes
    content_type: str = TEXT
    why: str = ""
    profile: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = False


NOT_FOUND = b"404 page not found\n"


def not_found(why: str, labels: Mapping[str, str]) -> Answer:
    return Answer(404, NOT_FOUND, TEXT, why, None, labels)


class Foreign(Protocol):
    """What a foreign registry answers by HTTP; kind: its name."""

    kind: str

    def answer(self, path: str, query: str) -> Answer | None:
        """The response to a GET of this path; None: not a path of that program.  query: as it was sent."""
        ...


def labels_of(query: str) -> dict[str, str]:
    """Query parameters as Go's net/url reads them, the first of several; a mac is kept only if it is one, and normalised."""
    labels: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if not pair or ";" in pair or _BAD_ESCAPE.search(pair):
            continue
        name, value = unquote_plus(name), unquote_plus(value)
        if name in labels:
            continue
        if name.lower() == "mac":
            mac = parse_mac(value)
            if mac is None:
                continue
            value = mac
        labels[name] = value
    return labels


def parse_mac(text: str) -> str | None:
    """As Go's net.ParseMAC: colons, dashes or Cisco's dots; 6, 8 or 20 octets.  Lower case with colons."""
    if not _MAC.fullmatch(text):
        return None
    plain = re.sub(r"[:.-]", "", text.lower())
    return ":".join(plain[at : at + 2] for at in range(0, len(plain), 2))


def to_json(value: Any) -> bytes:
    """As Go's json.Marshal: no white space, map keys sorted by the caller, <, > and & escaped."""
    text = json.dumps(whole(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def whole(value: Any) -> Any:
    """What was read from JSON, its float64 without a fraction as integers: so they are written, as Go does."""
    match value:
        case float() if value.is_integer() and abs(value) < 1e21:
            return int(value)
        case dict():
            return {key: whole(item) for key, item in value.items()}
        case list():
            return [whole(item) for item in value]
    return value


def from_json(path: str, text: str, notes: list[OperatorError]) -> dict[str, Any] | None:
    """A JSON object, or None and a note.  Numbers are float64, as in Go's interface{}."""
    try:
        value = json.loads(text, parse_int=float, parse_constant=_no_constant)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        notes.append(
            OperatorError(
                f"{path}:{line}", f"this is not JSON: {getattr(error, 'msg', error)}", "This file is left out until it is."
            )
        )
        return None
    if not isinstance(value, dict):
        notes.append(OperatorError(f"{path}:1", "this is not a JSON object", "This file is left out until it is."))
        return None
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def texts(value: Any) -> list[str] | None:
    """A list of strings; [] for none; None if it is anything else."""
    if value is None:
        return []
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def read(path: str, notes: list[OperatorError]) -> str | None:
    try:
        return read_octets(path).decode("utf-8", "surrogateescape")
    except OSError as error:
        mend = "Put it there, or correct the path that names it."
        if isinstance(error, PermissionError):
            mend = f"The user pixieboot must be able to read it: chown root:pixieboot {path} && chmod 0640 {path}"
        notes.append(OperatorError(path, f"it cannot be read ({error.strerror})", mend))
        return None


def files_below(root: Path, *directories: str) -> Iterator[tuple[str, str, Stamp]]:
    """(path, name below the directory, stamp) of every file of these directories, flat and by name."""
    for directory in directories:
        try:
            with os.scandir(root / directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_file():
                        status = entry.stat()
                        yield entry.path, entry.name, (status.st_size, status.st_ctime_ns, status.st_ino)
        except OSError:
            continue
