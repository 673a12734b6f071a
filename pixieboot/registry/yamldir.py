"""The registry in a directory: machines, groups, profiles (NAME.yaml or NAMES.yaml) and templates (docs/reference.md).

Every file is parsed once per version of it: a changed file costs its own parsing and one pass over all that is known.  Large
files are parsed entry by entry, and an entry that reads as before is not parsed again.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from pixieboot import render, sandbox
from pixieboot.errors import Faults, OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import EMPTY
from pixieboot.registry import butane
from pixieboot.registry.consistency import Consistency
from pixieboot.registry.entries import Found, T, read_group, read_machine, read_profile
from pixieboot.registry.fields import is_name
from pixieboot.registry.secretdir import check_names, secrets_in
from pixieboot.registry.strictyaml import Node, parse, read_text

Stamp = tuple[int, int, int]  # size, time and inode of a file; the time of a chmod counts too (ctime)

_TOP = re.compile(r"^(?=[^\s#\-])", re.MULTILINE)  # where an entry of a block mapping may begin
_FILE_WIDE = ("&", "*", "<<", "\n---", "\n...", "\n%")  # whoever uses one of these has the file parsed as a whole
_DRAFT: Stamp = (-1, -1, -1)  # of a file that is not written yet
_MANY = 64 << 10  # characters from which on the entries of a file are remembered one by one


@dataclass(slots=True)
class _Entries(Generic[T]):
    """What one file says, kept until it changes."""

    signature: Stamp
    found: list[Found[T]]
    faults: list[OperatorError]
    entries: dict[str, Found[T]] = field(default_factory=dict)  # of a large file: text of an entry -> what it says


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """machines, groups or profiles: plural, singular, how one is read."""

    plural: str
    title: str
    read: Callable[[str, Node, str, list[OperatorError]], T]


_MACHINES = _Kind("machines", "machine", read_machine)
_GROUPS = _Kind("groups", "group", read_group)
_PROFILES = _Kind("profiles", "profile", read_profile)


class YamlDirectory:
    """A registry directory and the files of it that are known already."""

    def __init__(self, root: Path, required: bool = True, adopted: Path | None = None) -> None:
        """required: a directory that does not exist is a fault, not an empty registry.

        adopted: a second directory of machines, a file each: those that the API described.
        """
        self._root, self._required, self._adopted = root, required, adopted
        self._files: dict[str, _Entries[Any]] = {}
        self._templates: dict[str, tuple[Stamp, str, list[OperatorError]]] = {}
        self._texts: Mapping[str, str] = {}
        self.foreign = None
        self.notes: list[OperatorError] = []  # what will not be served, though it is no fault of the files

    def signature(self) -> dict[str, Stamp]:
        """Differs whenever a file does; none is read."""
        return dict(self._scan([]))

    def load(self, version: int, drafts: Mapping[str, str | None] = EMPTY) -> Inventory:
        """All files as one inventory.  Raises Faults with everything that is wrong in any of them.

        drafts: path -> the text that a file is to have, None if it is to go; nothing is written.
        """
        faults: list[OperatorError] = []
        files = dict(self._scan(faults))
        files |= {path: _DRAFT for path in drafts}
        files = {path: stamp for path, stamp in files.items() if drafts.get(path, "") is not None}
        machines = self._entries(_MACHINES, files, faults, drafts)
        groups = self._entries(_GROUPS, files, faults)
        profiles = self._entries(_PROFILES, files, faults)
        templates = self._load_templates(files, faults)
        Consistency(self._root, machines, groups, profiles, templates, faults).check()
        secrets = secrets_in(self._root, files, faults)
        if not faults:  # a template with a syntax error is one already
            check_names(self._root, templates, secrets, faults)
        if faults:
            raise Faults(sorted(faults, key=_place))
        needed = [str(self._root / "templates" / name) for name in sorted(templates) if render.is_butane(name)]
        missing = needed if not butane.program() else []
        self.notes = [OperatorError(path, "a Butane configuration needs the program butane", butane.MEND) for path in missing]
        return Inventory.build(_ones(machines), _ones(groups), _ones(profiles), templates, version, secrets)

    # Files.

    def _scan(self, faults: list[OperatorError]) -> Iterator[tuple[str, Stamp]]:
        """(path, (size, time, inode)) of every file of the registry."""
        root = str(self._root)
        if not os.path.isdir(root):
            if self._required:
                faults.append(
                    OperatorError(root, "the registry is no directory", "Make it, or correct `registry` in pixieboot.yaml.")
                )
            return
        for kind in (_MACHINES, _GROUPS, _PROFILES):
            for suffix in (".yaml", ".yml"):
                with_suffix = os.path.join(root, kind.plural + suffix)
                try:
                    status = os.stat(with_suffix)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    faults.append(_unreadable(with_suffix, error))
                    continue
                yield with_suffix, (status.st_size, status.st_ctime_ns, status.st_ino)
            yield from _walk(os.path.join(root, kind.plural), faults, deep=False)
        yield from _walk(os.path.join(root, "templates"), faults, deep=True)
        yield from _walk(os.path.join(root, "secrets"), faults, deep=True)
        # The daemon can always read these; `check` of somebody else goes without.
        if self._adopted and os.access(self._adopted, os.R_OK | os.X_OK, effective_ids=True):
            yield from _walk(str(self._adopted), faults, deep=False)

    def _entries(
        self, kind: _Kind[T], files: Mapping[str, Stamp], faults: list[OperatorError], drafts: Mapping[str, str | None] = EMPTY
    ) -> list[Found[T]]:
        """Everything of one kind, from NAMES.yaml and NAMES/NAME.yaml, and the machines of the API."""
        many, misnamed = str(self._root / f"{kind.plural}.yaml"), str(self._root / f"{kind.plural}.yml")
        directory: tuple[str, ...] = (str(self._root / kind.plural) + os.sep,)
        if kind is _MACHINES and self._adopted:
            directory += (str(self._adopted) + os.sep,)
        found: list[Found[T]] = []
        for path, signature in files.items():
            if path != many and not path.startswith(directory):
                if path == misnamed:
                    faults.append(OperatorError(path, "this file is not read", f"Rename it to {kind.plural}.yaml."))
                continue
            if not path.endswith(".yaml"):
                mend = f"Rename it to {_stem(path)}.yaml, or move it away."
                faults.append(OperatorError(path, f"this file is not read: a file of {kind.plural}/ ends in .yaml", mend))
                continue
            known = self._files.get(path)
            if (draft := drafts.get(path)) is not None:
                known = self._read(kind, path, signature, path == many, None, draft)
            elif known is None or known.signature != signature:
                known = self._files[path] = self._read(kind, path, signature, path == many, known)
            found += known.found
            faults += known.faults
        for path in [path for path in self._files if (path == many or path.startswith(directory)) and path not in files]:
            del self._files[path]
        return found

    def _read(
        self, kind: _Kind[T], path: str, signature: Stamp, many: bool, known: "_Entries[T] | None", draft: str | None = None
    ) -> "_Entries[T]":
        entries: _Entries[T] = _Entries(signature, [], [])
        text = read_text(path, entries.faults) if draft is None else draft
        if text is None:
            return entries
        if not many:
            node = parse(text, path, entries.faults) or Node({}, 1, lines={})
            name = _stem(path)
            if not entries.faults:
                entries.found.append(self._one(kind, name, node, path, entries.faults))
        elif known is None or not known.entries or not self._changed_entries(kind, text, path, entries, known):
            entries.found, entries.faults = self._whole(kind, text, path, 1)
            if len(text) > _MANY and not entries.faults and not any(sign in text for sign in _FILE_WIDE):
                entries.entries = _cut(text, entries.found)
        return entries

    def _whole(self, kind: _Kind[T], text: str, path: str, first_line: int) -> tuple[list[Found[T]], list[OperatorError]]:
        """All entries of a file NAMES.yaml, or of a part of one."""
        faults: list[OperatorError] = []
        node = parse(text, path, faults, first_line)
        if node is None:
            return [], faults
        if not isinstance(node.value, dict):
            what = f"the file holds {node.kind}, not a mapping of names to {kind.plural}"
            faults.append(
                OperatorError(f"{path}:{node.line}", what, f"Write `NAME:` and below it, indented, the keys of the {kind.title}.")
            )
            return [], faults
        lines = node.lines or {}
        found = []
        for name, value in node.value.items():
            value = Node(value.value, lines[name], value.text, value.lines)
            found.append(self._one(kind, name, value, path, faults))
        return found, faults

    def _changed_entries(self, kind: _Kind[T], text: str, path: str, entries: "_Entries[T]", known: "_Entries[T]") -> bool:
        """Parse the entries that read otherwise than before.  False: have the whole file parsed, be it to tell its faults."""
        starts: list[int] = [match.start() for match in _TOP.finditer(text)]
        if not starts or any(sign in text for sign in _FILE_WIDE):
            return False
        line = text.count("\n", 0, starts[0]) + 1
        names: set[str] = set()
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            part = text[start:end]
            entry = known.entries.get(part)
            if entry is None:
                found, faults = self._whole(kind, part, path, line)
                if faults or len(found) != 1:
                    return False
                entry = found[0]
            entry = entry.moved(f"{path}:{line}")
            if entry.one.name in names:
                return False
            names.add(entry.one.name)
            entries.entries[part] = entry
            entries.found.append(entry)
            line += part.count("\n")
        return True

    @staticmethod
    def _one(kind: _Kind[T], name: str, node: Node, path: str, faults: list[OperatorError]) -> Found[T]:
        if not is_name(name):
            what = f"{name!r} cannot be the name of a {kind.title}"
            faults.append(OperatorError(f"{path}:{node.line}", what, "Use letters, digits, dots, dashes and underscores."))
        lines = node.lines or {}
        if isinstance(node.value, dict) and (files := node.value.get("files")):
            lines = lines | {f"files.{key}": line for key, line in (files.lines or {}).items()}
        return Found(kind.read(name, node, path, faults), path, node.line, lines)

    def _load_templates(self, files: Mapping[str, Stamp], faults: list[OperatorError]) -> Mapping[str, str]:
        """Every template by its name below templates/; the same object as long as nothing changed, so that they stay compiled."""
        directory = str(self._root / "templates") + os.sep
        texts = {}
        for path, signature in files.items():
            if not path.startswith(directory):
                continue
            known = self._templates.get(path)
            if known is None or known[0] != signature:
                own: list[OperatorError] = []
                text = read_text(path, own)
                if text is not None and (fault := sandbox.syntax_fault(text)):
                    own.append(OperatorError(f"{path}:{fault[0]}", fault[1], "Correct the template."))
                known = self._templates[path] = signature, text or "", own
            texts[path.removeprefix(directory)] = known[1]
            faults += known[2]
        self._templates = {path: known for path, known in self._templates.items() if path in files}
        if texts != self._texts:
            self._texts = texts
        return self._texts


def _walk(directory: str, faults: list[OperatorError], deep: bool) -> Iterator[tuple[str, Stamp]]:
    """The files of a directory; hidden ones and what editors leave behind are none."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith((".", "#")) or entry.name.endswith(("~", ".swp", ".tmp")):
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    faults.append(_unreadable(entry.path, error))
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield entry.path, (status.st_size, status.st_ctime_ns, status.st_ino)
                elif not stat.S_ISDIR(status.st_mode):
                    faults.append(OperatorError(entry.path, "this is no file", "Move it away."))
                elif deep:
                    yield from _walk(entry.path, faults, deep)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        faults.append(_unreadable(directory, error))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _unreadable(path: str, error: OSError) -> OperatorError:
    mend = f"The user pixieboot must be able to read it: chown -R root:pixieboot {path} && chmod -R u=rwX,g=rX,o= {path}"
    return OperatorError(path, f"it cannot be read ({error.strerror})", mend)


def _ones(found: Iterable[Found[T]]) -> list[T]:
    return [entry.one for entry in found]


def _cut(text: str, found: Iterable[Found[T]]) -> dict[str, Found[T]]:
    """The text of each entry: from its line to the line of the next one."""
    lines = text.splitlines(keepends=True)
    entries: list[tuple[int, Found[T]]] = [(entry.line - 1, entry) for entry in found]
    ends = [*(line for line, _ in entries[1:]), len(lines)]
    return {"".join(lines[line:end]): one for (line, one), end in zip(entries, ends, strict=True)}


def _place(fault: OperatorError) -> tuple[str, int]:
    file, _, line = fault.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (fault.where, 0)
