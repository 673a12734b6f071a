"""What happened: one `record` per fact feeds the log line, the machine's timeline, the counters and whoever listens."""

import json
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any, TextIO

from pixieboot.model import Event, Mac

LEVELS = ("debug", "info", "warning", "error", "alarm")
RECENT = 20_000  # facts with numbers of their own, for who comes later: the history on disk, the operator's page
MACHINES = 20_000  # timelines kept in memory: the least recently seen machine goes first
EVENTS_PER_MACHINE = 200
EVENTS = 100_000  # of all timelines: those that the latest second brought are on top
REPEAT_SECONDS = 5.0  # the same fact about the same machine within this time is counted, not said again
LINES_PER_SECOND = 500  # of the log, for each level: a flood of made-up machines does not fill the disk, nor hide an alarm
LATE = 10  # seconds after which a fact is told at most; who is later comes by a clock that was set back
VALUE_LIMIT = 300  # characters of one value in a log line
KEPT_LIMIT = 500  # octets of one value in memory: a request line has up to 32 KiB, a TFTP name up to 64

# Control and bidirectional characters could forge log lines or hide text on a terminal.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_BARE = re.compile(r"[^\s\"'=\\]+")

Listener = Callable[[Event], None]


class Journal:
    """The event journal of one daemon, in memory.  Bounded whatever the network sends."""

    def __init__(self, stream: TextIO, level: str = "info", form: str = "text") -> None:
        """stream, line-buffered like stderr, gets the lines; level: debug | info | warning | error; form: text | json."""
        self._stream, self._json = stream, form == "json"
        # None: of no machine.  Most are short: a deque takes ten times as much.
        self._timelines: OrderedDict[Mac | None, list[Event]] = OrderedDict()
        self._macs: OrderedDict[str, Mac] = OrderedDict()  # address -> the machine last seen with it
        self._recent: deque[tuple[int, Event]] = deque(maxlen=RECENT)
        self._numbers = count(1)
        self._listeners: list[tuple[Listener, tuple[str, ...]]] = []
        self._of_service: dict[str, tuple[Listener, ...]] = {}  # those that hear of it, for each service that one names
        self._of_all: tuple[Listener, ...] = ()
        self._lines = dict.fromkeys(LEVELS[LEVELS.index(level) :], 0)  # of this second, by level; no other is written
        self._since = self._until = 0.0  # what is told of as of this second: all that comes late, but not from a clock set back
        self.counts: defaultdict[tuple[str, str], int] = defaultdict(int)  # by service and kind

    def record(self, event: Event, plain: bool = False) -> Event:
        """Take note of one fact.  Costs a few microseconds; a repeated one under one.  plain: its detail is, no need to look.

        The answer is what stands for it in the timeline.  Who records that again, says the same again, and costs the least.
        """
        self.counts[event.service, event.kind] += 1
        mac = event.mac
        if mac is None and (mac := self.mac_of(event.detail.get("peer", ""))):
            event = replace(event, mac=mac)
        timeline, repeated = self._timelines.get(mac), 0
        if timeline is None:
            timeline = self._timelines[mac] = []
            if len(self._timelines) > MACHINES:
                self._timelines.popitem(last=False)
        else:
            for before in reversed(timeline):
                if before.kind == event.kind and before.service == event.service:
                    # What is kept was bounded: a long text is compared as it would be.
                    soon = abs(event.at - before.at) < REPEAT_SECONDS
                    if before is event or (soon and (event if plain else _bounded(event)).detail == before.detail):
                        before.repeated += 1
                        return before
                    repeated, before.repeated = before.repeated, 0
                    break
            self._timelines.move_to_end(mac)
            if len(timeline) >= EVENTS_PER_MACHINE:
                del timeline[0]
        if not plain:
            event = _bounded(event)
        timeline.append(event)
        self._recent.append((next(self._numbers), event))
        if mac is not None:
            for name in ("address", "peer", "serial"):  # an offer's too: the ROM of a Raspberry Pi 3 takes it without a REQUEST
                if name in event.detail:
                    self._macs[event.detail[name]] = mac
                    if len(self._macs) > MACHINES:
                        self._macs.popitem(last=False)
        if not self._since <= event.at < self._until:
            self._begin_second(event.at)
        if event.level in self._lines:
            lines = self._lines[event.level] = self._lines[event.level] + 1
            if lines <= LINES_PER_SECOND:
                self._stream.write(self._line(event, {"repeated": repeated} if repeated else {}))
        for listener in self._of_service.get(event.service, self._of_all):
            listener(event)
        return event

    def _begin_second(self, at: float) -> None:
        """Room for new lines: tell how many had none.  Too many facts: forget the machines that were heard longest ago."""
        self._since, self._until = at - LATE, at // 1 + 1
        left_out = sum(max(0, lines - LINES_PER_SECOND) for lines in self._lines.values())
        self._lines = dict.fromkeys(self._lines, 0)
        if left_out:
            self._stream.write(self._line(Event(at, None, "journal", "left out", {"lines": left_out}, "warning"), {}))
        held = sum(map(len, self._timelines.values()))
        while held > EVENTS:
            held -= len(self._timelines.popitem(last=False)[1])

    def listen(self, listener: Listener, services: tuple[str, ...] = ()) -> Callable[[], None]:
        """Call listener with every new fact (repetitions excepted) until the returned function is called.

        services: those that it hears of; empty: all.
        """
        entry = (listener, services)
        self._listeners.append(entry)
        self._arrange()

        def forget() -> None:
            self._listeners.remove(entry)
            self._arrange()

        return forget

    def _arrange(self) -> None:
        self._of_all = tuple(listener for listener, services in self._listeners if not services)
        self._of_service = {
            each: tuple(listener for listener, services in self._listeners if not services or each in services)
            for _, named in self._listeners
            for each in named
        }

    def timeline(self, mac: Mac) -> Sequence[Event]:
        """The machine's latest facts, oldest first."""
        return tuple(self._timelines.get(mac, ()))

    @property
    def number(self) -> int:
        """That of the newest fact; 0: none yet."""
        return self._recent[-1][0] if self._recent else 0

    def since(self, number: int) -> list[tuple[int, Event]]:
        """The facts after that number with theirs, oldest first, as far as they are at hand.  May be asked by any thread."""
        if number >= self.number:
            return []
        recent = list(self._recent)  # one step, in which the loop's thread adds nothing
        return recent[max(0, number + 1 - recent[0][0]) :]

    def machines(self) -> list[Mac]:
        """All machines of which something is remembered, the one heard last at the end."""
        return [mac for mac in self._timelines if mac]

    def mac_of(self, address: str) -> Mac | None:
        """The machine last seen with this address, by its lease or a request that named its MAC; or with this serial number."""
        return self._macs.get(address) if address else None

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
    if is_plain(event.detail):
        return event
    return replace(event, detail={key: _kept(value) if isinstance(value, str) else value for key, value in event.detail.items()})


def is_plain(detail: Mapping[str, Any]) -> bool:
    """Is its text short, and ASCII?"""
    text = "".join([value for value in detail.values() if isinstance(value, str)])
    return text.isascii() and len(text) <= KEPT_LIMIT


def _kept(text: str) -> str:
    octets = text[: KEPT_LIMIT + 1].encode("utf-8", "backslashreplace")
    return octets.decode() if len(octets) <= KEPT_LIMIT else octets[:KEPT_LIMIT].decode("utf-8", "ignore") + "…"


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
