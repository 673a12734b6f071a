"""YAML as an operator means it, with the line of every value kept for messages.

What YAML 1.1 does behind an operator's back is not done: 52:54:00:12:34:56 is no sexagesimal number but text, so are yes, no,
on, off, 010, 1.10, 1_000 and 2024-01-01.  A plain scalar is a number only if the number is written back the same; only true,
false and null are more than text.  Of two equal keys none wins: that is a fault.  Anchors, aliases and merge keys work.
"""

import errno
import os
import re
import stat
from collections.abc import Callable
from typing import Any

import yaml

from pixieboot.errors import OperatorError


class _SlowEvents(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """PyYAML's own parser: ten times slower, the same events."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)


# libyaml's parser where PyYAML was built with it.  No resolver stands behind either: none that would guess at types.
_Events: Callable[[str], Any] = getattr(yaml, "cyaml").CParser if yaml.__with_libyaml__ else _SlowEvents  # noqa: B009 (no stub)

DEEPEST = 50  # levels; the parser of ours recurses, and no registry needs more
MOST_VALUES = 200_000  # values that one entry may have once its aliases are expanded ("billion laughs")

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}", re.ASCII)
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


class Node:
    """One value of a file.  value: None, bool, int, float, str, list[Node] or dict[str, Node]; text: a scalar as it is written.

    lines holds the line of each key of a mapping, line that of the value itself (both from 1).
    """

    __slots__ = ("line", "lines", "text", "value")

    def __init__(self, value: Any, line: int, text: str = "", lines: dict[str, int] | None = None) -> None:
        self.value, self.line, self.text, self.lines = value, line, text, lines

    @property
    def kind(self) -> str:
        """What it is, in the operator's words."""
        match self.value:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case None:
                return "empty"
        return repr(self.text)

    def plain(self) -> Any:
        """The same as plain values, for templates."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
        return self.value


class _Stop(Exception):
    """The rest of this file cannot be understood."""

    def __init__(self, line: int, what: str, mend: str) -> None:
        super().__init__(what)
        self.line, self.what, self.mend = line, what, mend


def read_octets(path: str) -> bytes:
    """The contents of a regular file.  Raises OSError, for FIFOs and devices too: they would keep us waiting for ever."""
    # Read whole: a buffer would be one more object for each of 10,000 files.
    with open(path, "rb", buffering=0, opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        return file.readall()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_text(path: str, faults: list[OperatorError]) -> str | None:
    """The text of a file of the operator's; None and a fault if it cannot be read."""
    try:
        return read_octets(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        faults.append(OperatorError(f"{path}:{line}", "this is not UTF-8 text", "Save the file as plain UTF-8 text."))
    except PermissionError:
        mend = f"The user pixieboot must be able to read it: chown root:pixieboot {path} && chmod 0640 {path}"
        faults.append(OperatorError(str(path), "the file must not be read", mend))
    except OSError as error:
        what = f"the file cannot be read ({error.strerror})"
        faults.append(OperatorError(str(path), what, "Put it there, or correct the path that names it."))
    return None


def parse(text: str, name: str, faults: list[OperatorError], first_line: int = 1) -> Node | None:
    """The one document of a file called name; None if it is empty or cannot be understood.

    Faults are added to the list: a syntax error ends the file, of duplicate keys each is told.
    first_line: the line in the file at which the text begins.
    """
    try:
        return _Builder(text, name, faults, first_line - 1).document()
    except _Stop as stop:
        faults.append(OperatorError(f"{name}:{stop.line}", stop.what, stop.mend))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        what = f"this is not YAML: {error.problem or error.context}"
        faults.append(OperatorError(f"{name}:{line}", what, _mend(text, mark, error)))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, text.find(chr(error.character))) + first_line
        what = f"the character U+{error.character:04X} is not allowed in YAML"
        faults.append(OperatorError(f"{name}:{line}", what, "Remove it: write the file as plain UTF-8 text."))
    return None


def _mend(text: str, mark: Any, error: yaml.MarkedYAMLError) -> str:
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "\\t" in str(error.problem):
        return "Indent with spaces: YAML does not allow tabs there."
    if "mapping values are not allowed" in str(error.problem):
        return 'Put a text that holds ": " in quotes, and check the indentation.'
    if "alias" in str(error.problem):
        return "Define the anchor with & before the alias."
    return "Check indentation, quotes and brackets on this line and the one before."


class _Builder:
    """Events of the parser -> nodes."""

    def __init__(self, text: str, name: str, faults: list[OperatorError], offset: int) -> None:
        self._name, self._faults, self._offset = name, faults, offset
        self._next = _Events(text).get_event
        self._anchors: dict[str, Node | None] = {}  # None: still being built
        self._sizes: dict[int, int] = {}

    def document(self) -> Node | None:
        self._next()  # stream start
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        node = self._node(self._next(), 0)
        self._next()  # document end
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Stop(self._line(event), "a second document begins here", "Leave one in the file: remove the line `---`.")
        return None if node.value is None else node

    def _line(self, event: Any) -> int:
        line: int = event.start_mark.line
        return line + 1 + self._offset

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            node = self._scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = node
            return node
        if kind is yaml.AliasEvent:
            return self._alias(event)
        if depth >= DEEPEST:
            raise _Stop(self._line(event), f"this is nested more than {DEEPEST} levels deep", "Write it flatter.")
        if event.tag not in (None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise _Stop(self._line(event), f"the tag {event.tag!r} has no meaning here", "Remove it.")
        if event.anchor:
            self._anchors[event.anchor] = None
        node = self._mapping(event, depth) if kind is yaml.MappingStartEvent else self._sequence(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any) -> Node:
        text: str = event.value
        value: Any = text
        tag = event.tag
        if tag is None:
            if event.implicit[0]:  # plain
                if text in _NULLS:
                    value = None
                elif (word := _WORDS.get(text)) is not None:
                    value = word
                elif text[0] in "-0123456789":
                    value = _number(text)
        elif tag not in _TEXT_TAGS:
            raise _Stop(self._line(event), f"the tag {tag!r} has no meaning here", "Remove it.")
        return Node(value, event.start_mark.line + 1 + self._offset, text)

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            raise _Stop(self._line(event), f"the alias *{event.anchor} has no anchor", f"Define &{event.anchor} before it.")
        node = self._anchors[event.anchor]
        if node is None:
            raise _Stop(self._line(event), f"the alias *{event.anchor} lies within its own anchor", "Remove it.")
        if self._size(node) > MOST_VALUES:
            raise _Stop(self._line(event), f"aliases make more than {MOST_VALUES} values out of this file", "Use fewer of them.")
        return node

    def _size(self, node: Node) -> int:
        """How many values a node has with all aliases expanded; what lies below an anchor changes no more."""
        size = self._sizes.get(id(node))
        if size is None:
            match node.value:
                case dict():
                    size = 1 + sum(map(self._size, node.value.values()))
                case list():
                    size = 1 + sum(map(self._size, node.value))
                case _:
                    size = 1
            self._sizes[id(node)] = size
        return size

    def _sequence(self, start: Any, depth: int) -> Node:
        items: list[Node] = []
        event = self._next()
        while type(event) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth + 1))
            event = self._next()
        return Node(items, self._line(start))

    def _mapping(self, start: Any, depth: int) -> Node:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: list[Node] = []
        event = self._next()
        while type(event) is not yaml.MappingEndEvent:
            key_line = event.start_mark.line + 1 + self._offset
            if type(event) is yaml.AliasEvent:
                event_value = self._alias(event).text
            elif type(event) is not yaml.ScalarEvent:
                raise _Stop(key_line, "a key is a mapping or a list", "Keys are names: put one that begins with [ or { in quotes.")
            else:
                if event.anchor:
                    self._anchors[event.anchor] = self._scalar(event)
                event_value = event.value
            is_merge = event_value == "<<" and type(event) is yaml.ScalarEvent and event.implicit[0]
            value = self._node(self._next(), depth + 1)
            if is_merge:
                merged.append(value)
            elif event_value in entries:
                what = f"the key {event_value!r} is there already on line {lines[event_value]}"
                self._faults.append(OperatorError(f"{self._name}:{key_line}", what, "Keep one of the two."))
            else:
                entries[event_value], lines[event_value] = value, key_line
            event = self._next()
        for value in merged:
            self._merge(value, entries, lines)
        return Node(entries, self._line(start), lines=lines)

    def _merge(self, source: Node, entries: dict[str, Node], lines: dict[str, int]) -> None:
        """`<<`: what is written here wins, then the first source (YAML merge key language-independent type)."""
        sources = source.value if isinstance(source.value, list) else [source]
        for mapping in sources:
            if not isinstance(mapping.value, dict):
                raise _Stop(mapping.line, "<< merges a mapping, and this is none", "Give it an alias of a mapping: <<: *name.")
            for key, value in mapping.value.items():
                if key not in entries:
                    entries[key], lines[key] = value, (mapping.lines or {})[key]


def _number(text: str) -> int | float | str:
    """The number that is written exactly like this, else the text."""
    if _INTEGER.fullmatch(text):
        return text if text == "-0" else int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if repr(number) == text else text
    return text


def is_writable(number: float) -> bool:
    """Is it read as this number again, once it is written into a file?  Not so NaN, infinity and what has too many digits."""
    return not isinstance(_number(repr(number)) if abs(number) < 1e18 else "", str)


def is_yaml(text: str) -> bool:
    """Is this YAML at all, whatever it says?"""
    events = _Events(text)
    try:
        while not isinstance(events.get_event(), yaml.StreamEndEvent):
            pass
    except yaml.YAMLError:
        return False
    return True
