"""Describe a machine from the shell: REGISTRY/machines/NAME.yaml, one file a machine, checked before it counts.

Machines that stand in machines.yaml are the operator's own text and are not rewritten; the message names file and line.  Those
that the API described have files of their own too, below the state directory (`adopted`), and are changed and removed there.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pixieboot.errors import OperatorError
from pixieboot.registry import Registry, replace_file
from pixieboot.registry.entries import MACHINE_KEYS

LISTS = ("macs",)
MAPPINGS = ("vars", "options", "loader")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_TOP = re.compile(r"([A-Za-z_]+)\s*:")


def add(registry: Path, adopted: Path, name: str, settings: Sequence[str]) -> str:
    """Describe a new machine.  Raises OperatorError or Faults, and leaves everything as it was."""
    if not _NAME.fullmatch(name):
        raise OperatorError("NAME", f"{name!r} is no name for a machine", "Letters, digits, dots and dashes, up to 63.")
    found = _loaded(registry, adopted)
    if known := found.current.machines.get(name):
        mend = f"Change it: pixieboot machines set {name} KEY=VALUE, or in that file."
        raise OperatorError(known.where, f"machine {name} is described already", mend)
    path = registry / "machines" / f"{name}.yaml"
    _write(found, path, _edited("", settings))
    return f"{path} describes {name} now."


def change(registry: Path, adopted: Path, name: str, settings: Sequence[str]) -> str:
    """Change, add or (KEY=) take out keys of a machine's own file; its other lines stay as they are."""
    found = _loaded(registry, adopted)
    path = _own_file(found, registry, name)
    _write(found, path, _edited(path.read_text(), settings))
    return f"{path} says {', '.join(settings)} now."


def remove(registry: Path, adopted: Path, name: str) -> str:
    """Take a machine's own file away."""
    path = _own_file(_loaded(registry, adopted), registry, name)
    try:
        path.unlink()
    except OSError as error:
        raise OperatorError(str(path), f"it cannot be removed: {error.strerror}", "Only root may: use sudo.") from None
    return f"{path} is gone: {name} is not described any more."


def _own_file(found: Registry, registry: Path, name: str) -> Path:
    machine = found.current.find(name)
    if machine is None:
        raise OperatorError("NAME", f"no machine {name} is described", f"Describe it: pixieboot machines add {name} mac=…")
    path = Path(machine.where.rpartition(":")[0])
    if path.parent not in (registry / "machines", found.adopted):
        mend = f"Change it there with an editor: only a file of its own ({registry}/machines/NAME.yaml) is changed from the shell."
        raise OperatorError(machine.where, f"machine {machine.name} stands among others", mend)
    return path


def _loaded(registry: Path, adopted: Path) -> Registry:
    found = Registry(str(registry), adopted)
    found.load()
    return found


def _edited(text: str, settings: Sequence[str]) -> str:
    """The file's text with these KEY=VALUE in it."""
    blocks = _blocks(text)
    for setting in settings:
        key, equals, value = setting.partition("=")
        top, _, inner = key.partition(".")
        if not equals or top not in MACHINE_KEYS or bool(inner) != (top in MAPPINGS):
            known = ", ".join(f"{each}.NAME" if each in MAPPINGS else each for each in sorted(MACHINE_KEYS))
            raise OperatorError(setting, "it is no KEY=VALUE of a machine", f"Keys are {known}.")
        if inner:
            before = yaml.safe_load(blocks[top]).get(top) if top in blocks else {}
            after = {**before, inner: _typed(value)} if value else {k: v for k, v in before.items() if k != inner}
            _put(blocks, top, after)
        elif top in LISTS:
            _put(blocks, top, [each for each in re.split(r"[,\s]+", value) if each])
        else:
            _put(blocks, top, value)
    return "".join(blocks.values())


def _blocks(text: str) -> dict[str, str]:
    """Top-level keys and their lines, in order; comments belong to what follows them."""
    blocks: dict[str, str] = {}
    comment, current = "", ""
    for line in text.splitlines(keepends=True):
        if match := _TOP.match(line):
            current = match[1]
            blocks[current] = comment + line
            comment = ""
        elif line.startswith(("#", "---")) or not line.strip():
            comment += line
        elif current:
            blocks[current] += comment + line
            comment = ""
    if comment:
        blocks["#"] = comment
    return blocks


def _put(blocks: dict[str, str], key: str, value: Any) -> None:
    """Write a key, keeping the comment above it; take it out if there is nothing to say."""
    above = "".join(line for line in blocks.get(key, "").splitlines(keepends=True) if line.startswith(("#", "---")))
    if not value:
        blocks.pop(key, None)
        return
    dumped: Mapping[str, Any] = {key: value}
    flow = False if isinstance(value, str) else None  # what is nested goes on the key's own line
    blocks[key] = above + yaml.safe_dump(dumped, default_flow_style=flow, sort_keys=False, allow_unicode=True)


def _typed(text: str) -> str | int | bool:
    """A variable's value: numbers and true/false as such, everything else a text."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,15})", text) else text


def _write(found: Registry, path: Path, text: str) -> None:
    """Put the text in place, whole, if the registry loads with it; raises its Faults if not.  A daemon never sees a wrong one."""
    found.examine(path, text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        mend = "Only root may: use sudo." if os.geteuid() else "Mend its directory, or name another one as `registry`."
        raise OperatorError(str(path), f"it cannot be written: {error.strerror}", mend) from None
