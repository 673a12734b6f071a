"""What happened: one `record` per fact feeds the log line, the machine's timeline, the counters and whoever listens."""

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TextIO

from pixieboot.model import Event, Mac

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "alarm": logging.ERROR}
MACHINES = 20_000  # timelines kept in memory: the least recently seen machine goes first
EVENTS_PER_MACHINE = 200
REPEAT_SECONDS = 5.0  # the same fact about the same machine within this time is counted, not said again
LINES_PER_SECOND = 500  # of the log: a flood of made-up machines does not fill the disk
LATE = 10  # seconds after which a fact is told at most; who is later comes by a clock that was set back
VALUE_LIMIT = 300  # characters of one value in a log line
KEPT_LIMIT = 1000  # characters of one value in memory: a request line has up to 32 KiB, a TFTP name up to 64

# Control and bidirectional characters could forge log lines or hide text on a terminal.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_BARE = re.compile(r"[^\s\"'=\\]+")

Listener = Callable[[Event], None]


class Journal:
    """The event journal of one daemon, in memory.  Bounded whatever the network sends."""

    def __init__(self, stream: TextIO, level: str = "info", form: str = "text") -> None:
        """stream, line-buffered like stderr, gets the lines; level: debug | info | warning; form: text | json."""
        self._stream, self._level, self._json = stream, LEVELS[level], form == "json"
        # None: of no machine.  Most are short: a deque takes ten times as much.
        self._timelines: OrderedDict[Mac | None, list[Event]] = OrderedDict()
        self._macs: OrderedDict[str, Mac] = OrderedDict()  # address -> the machine last seen with it
        self._listeners: list[tuple[Listener, tuple[str, ...]]] = []
        self._of_service: dict[str, tuple[Listener, ...]] = {}  # those that hear of a service, found when it first says something
        self._second, self._lines, self._warnings = 0, 0, 0
        self.counts: dict[tuple[str, str], int] = {}

    def record(self, event: Event) -> None:
        """Take note of one fact.  Costs a few microseconds; a repeated one under one."""
        kind = (event.service, event.kind)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if event.mac is None and (peer := event.detail.get("peer")) and (mac := self._macs.get(peer)):
            event = replace(event, mac=mac)
        timeline, repeated = self._timelines.get(event.mac), 0
        for before in reversed(timeline or ()):
            if before.kind == event.kind and before.service == event.service:
                # What is kept was bounded: a long text is compared as it would be.
                if before is event or (abs(event.at - before.at) < REPEAT_SECONDS and _bounded(event).detail == before.detail):
                    before.repeated += 1
                    return
                repeated = before.repeated
                break
        event = _bounded(replace(event) if event.repeated else event)  # how often it was repeated before was told then
        self._keep(timeline, event)
        if LEVELS[event.level] >= self._level and self._may_write(event):
            self._stream.write(self._line(event, {"repeated": repeated} if repeated else {}))
        listeners = self._of_service.get(event.service)
        if listeners is None:
            heard = (listener for listener, services in self._listeners if not services or event.service in services)
            listeners = self._of_service[event.service] = tuple(heard)
        for listener in listeners:
            listener(event)

    def _may_write(self, event: Event) -> bool:
        """Is there room for one more line in this second?  Warnings have room of their own; what is left out is counted."""
        second = int(event.at)
        if second > self._second or second < self._second - LATE:
            left_out = max(0, self._lines - LINES_PER_SECOND) + max(0, self._warnings - LINES_PER_SECOND)
            self._second, self._lines, self._warnings = second, 0, 0
            if left_out:
                self._stream.write(self._line(Event(event.at, None, "journal", "left out", {"lines": left_out}, "warning"), {}))
        if LEVELS[event.level] >= logging.WARNING:
            self._warnings += 1
            return self._warnings <= LINES_PER_SECOND
        self._lines += 1
        return self._lines <= LINES_PER_SECOND

    def listen(self, listener: Listener, services: tuple[str, ...] = ()) -> Callable[[], None]:
        """Call listener with every new fact (repetitions excepted) until the returned function is called.

        services: those that it hears of; empty: all.
        """
        entry = (listener, services)
        self._listeners.append(entry)
        self._of_service.clear()

        def forget() -> None:
            self._listeners.remove(entry)
            self._of_service.clear()

        return forget

    def timeline(self, mac: Mac) -> Sequence[Event]:
        """The machine's latest facts, oldest first."""
        return tuple(self._timelines.get(mac, ()))

    def machines(self) -> list[Mac]:
        """All machines of which something is remembered, the one heard last at the end."""
        return [mac for mac in self._timelines if mac]

    def mac_of(self, address: str) -> Mac | None:
        """The machine last seen with this address, by its lease or a request that named its MAC; or with this serial number."""
        return self._macs.get(address)

    def _keep(self, timeline: list[Event] | None, event: Event) -> None:
        mac = event.mac
        if timeline is None:
            self._timelines[mac] = [event]
            if len(self._timelines) > MACHINES:
                self._timelines.popitem(last=False)
        else:
            self._timelines.move_to_end(mac)
            timeline.append(event)
            if len(timeline) > EVENTS_PER_MACHINE:
                del timeline[0]
        if mac is None:
            return
        for name in ("address", "peer", "serial"):
            if address := event.detail.get(name):
                self._macs[address] = mac
                if len(self._macs) > MACHINES:
                    self._macs.popitem(last=False)

    def _line(self, event: Event, extra: dict[str, Any]) -> str:
        detail = {**event.detail, **extra} if extra else event.detail
        if self._json:
            fact = {"at": round(event.at, 6), "mac": event.mac, "service": event.service, "kind": event.kind, "level": event.level}
            return json.dumps({**fact, **detail}, default=str) + "\n"
        words = [f"{key}={_word(value)}" for key, value in detail.items() if value is not None and value != ""]
        mark = "ALARM " if event.level == "alarm" else ""
        return " ".join([f"{mark}{event.mac or '-'}", event.service, event.kind, *words]) + "\n"


def _bounded(event: Event) -> Event:
    """The event with long values cut, and octets that are no UTF-8 (TFTP names may hold them) spelled out for JSON."""
    text = "".join([value for value in event.detail.values() if isinstance(value, str)])
    if text.isascii() and len(text) <= KEPT_LIMIT:
        return event
    bad = [key for key, value in event.detail.items() if isinstance(value, str)]
    return replace(event, detail={**event.detail, **{key: _kept(event.detail[key]) for key in bad}})


def _kept(text: str) -> str:
    cut = text if len(text) <= KEPT_LIMIT else text[:KEPT_LIMIT] + "…"
    return cut.encode("utf-8", "backslashreplace").decode()


def printable(text: str, limit: int = VALUE_LIMIT) -> str:
    """text with control and bidirectional characters escaped, cut to limit characters: safe for a log or a terminal."""
    safe = _UNSAFE.sub(
        lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}", text[: limit + 1]
    )
    return safe if len(text) <= limit else safe[:limit] + "…"


def _word(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else _quoted(str(value))


@lru_cache(8192)  # the same paths and reasons come again and again
def _quoted(text: str) -> str:
    text = printable(text)
    return text if _BARE.fullmatch(text) else '"' + text.replace('"', "'") + '"'


def event_json(event: Event) -> dict[str, Any]:
    """One fact of the journal."""
    return {
        "at": round(event.at, 6),
        "mac": event.mac,
        "service": event.service,
        "kind": event.kind,
        "level": event.level,
        "detail": plain(event.detail),
    }


def plain(value: Any) -> Any:
    """A value of `vars` as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
