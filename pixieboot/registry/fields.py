"""Typed values out of a mapping of a file: every fault is noted with its line and the reading goes on with the default."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from pixieboot.errors import OperatorError
from pixieboot.model import ARCH_CODES, EMPTY, Arch
from pixieboot.registry.strictyaml import Node
from pixieboot.wire.options import option

T = TypeVar("T")

# Spellings of other tools that people bring along -> ours.
ARCH_ALIASES: Mapping[str, str] = {
    "bios": "x86-bios", "x86pc": "x86-bios", "pcbios": "x86-bios", "i386": "x86-bios", "x86": "x86-bios",
    "x86_64": "x64-efi", "x86-64": "x64-efi", "x86_64-efi": "x64-efi", "x86-64_efi": "x64-efi", "amd64": "x64-efi",
    "efi": "x64-efi", "uefi": "x64-efi", "x64": "x64-efi", "bc_efi": "x64-efi", "ia32_efi": "x86-efi", 
    "arm64": "arm64-efi", "aarch64": "arm64-efi",
}  # fmt: skip
ARCH_NAMES = {arch.value: arch for arch in Arch}

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)?", re.ASCII)
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADDRESS = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_BOOLEANS_OF_YAML_1_1 = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Did you mean 'flatcar'?  The other sentence if nothing comes near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
    return f"Did you mean {by_lower[matches[0]]!r}?" if matches else otherwise


def listed(names: Iterable[str]) -> str:
    """a, b or c."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


class Fields:
    """The entries of one mapping."""

    __slots__ = ("faults", "file", "line", "nodes", "title")

    def __init__(self, node: Node, file: str, title: str, known: Collection[str], faults: list[OperatorError]) -> None:
        """title: what this is, as in "machine web1"; unknown keys are faults at once.  The node may be anything."""
        self.file, self.title, self.faults, self.line = file, title, faults, node.line
        self.nodes: dict[str, Node] = node.value if isinstance(node.value, dict) else {}
        if isinstance(node.value, dict):
            for key in node.value.keys() - known:
                self._unknown(key, (node.lines or {}).get(key, node.line), known)
        elif node.value is not None:
            mend = f"Write its keys indented below it: {', '.join(sorted(known))}."
            self.fault(node, f"{title} is {node.kind}, not a mapping", mend)

    def _unknown(self, key: str, line: int, known: Collection[str]) -> None:
        mend = nearest(key, sorted(known)) or f"Known keys: {', '.join(sorted(known))}."
        self.faults.append(OperatorError(f"{self.file}:{line}", f"unknown key {key!r} in {self.title}", mend))

    def where(self, key: str) -> str:
        """FILE:LINE of this key's value, or of the mapping without it."""
        node = self.nodes.get(key)
        return f"{self.file}:{node.line if node else self.line}"

    def fault(self, node: Node, what: str, mend: str) -> None:
        self.faults.append(OperatorError(f"{self.file}:{node.line}", what, mend))

    def has(self, key: str) -> bool:
        node = self.nodes.get(key)
        return node is not None and node.value is not None

    def text(self, key: str, default: T = None) -> str | T:  # type: ignore[assignment]
        """A scalar as it is written, numbers and booleans too."""
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return default
        if isinstance(node.value, (dict, list)):
            self.fault(node, f"{key} is {node.kind}, not a text", f"Write one value: `{key}: VALUE`.")
            return default
        return node.text

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of scalars; one alone counts as a list of one."""
        return tuple(node.text for node in self.scalars(key))

    def scalars(self, key: str) -> list[Node]:
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return []
        if not isinstance(node.value, list):
            node = Node([node], node.line)
        found = []
        for item in node.value:
            if item.value is None or isinstance(item.value, (dict, list)):
                mend = "Put the text in quotes if it holds : { } [ ] or #."
                self.fault(item, f"{key} holds {item.kind} where a text is wanted", mend)
            else:
                found.append(item)
        return found

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        text = self.text(key)
        if text is None or text in choices:
            return default if text is None else text
        mend = f"Write {listed(choices)}."
        self.fault(self.nodes[key], f"{key} is {text!r}, want {listed(choices)}", nearest(text, choices, mend))
        return default

    def flag(self, key: str, default: bool) -> bool:
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return default
        if isinstance(node.value, bool):
            return node.value
        meant = _BOOLEANS_OF_YAML_1_1.get(node.text.lower())
        self.fault(node, f"{key} is {node.kind}, want true or false", f"Write `{key}: {meant or 'true'}`.")
        return default

    def integer(self, key: str, least: int, most: int, default: int) -> int:
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return default
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.fault(node, f"{key} is {node.kind}, want a number from {least} to {most}", f"Write for example `{key}: {default}`.")
        return default

    def seconds(self, key: str, default: float, least: float = 0) -> float:
        """A time such as 90s, 15m, 12h or 7d."""
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return default
        match = _DURATION.fullmatch(node.text)
        if match is None:
            mend = (
                f"Write `{key}: {node.text}s` for seconds." if isinstance(node.value, int) else f"Write for example `{key}: 12h`."
            )
            self.fault(node, f"{key} is {node.kind}, want a time such as 90s, 15m, 12h or 7d", mend)
            return default
        value = int(match[1]) * _SECONDS[match[2]]
        if value < least:
            self.fault(node, f"{key} is {node.text}, which is too short", f"The least is {least:g}s.")
            return default
        return float(value)

    def size(self, key: str, least: int, most: int, default: int) -> int:
        """A number of bytes such as 1428 or 64KiB."""
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return default
        match = _SIZE.fullmatch(node.text)
        value = int(match[1]) * _BYTES[match[2]] if match else -1
        if least <= value <= most:
            return value
        self.fault(node, f"{key} is {node.kind}, want a size from {least} to {most} bytes", "Write bytes, or KiB as in 64KiB.")
        return default

    def address(self, key: str) -> str | None:
        node = self.nodes.get(key)
        return None if node is None or node.value is None else self.as_address(node, key)

    def addresses(self, key: str) -> tuple[str, ...]:
        return tuple(address for node in self.scalars(key) if (address := self.as_address(node, key)))

    def as_address(self, node: Node, key: str) -> str | None:
        if _ADDRESS.fullmatch(node.text):
            return node.text
        mend = "Write four numbers from 0 to 255, such as 192.168.77.10."
        self.fault(node, f"{key} is {node.kind}, not an IPv4 address", mend)
        return None

    def parsed(self, key: str, parse: Callable[[str], T], mend: str) -> T | None:
        """A scalar through a function that raises ValueError with a clause."""
        node = self.nodes.get(key)
        text = self.text(key)
        if node is None or text is None:
            return None
        return self.parse(node, parse, mend)

    def parse(self, node: Node, parse: Callable[[str], T], mend: str) -> T | None:
        try:
            return parse(node.text)
        except ValueError as error:
            self.fault(node, str(error).rstrip("."), mend)
            return None

    def mapping(self, key: str) -> dict[str, Node]:
        node = self.nodes.get(key)
        if node is None or node.value is None:
            return {}
        if not isinstance(node.value, dict):
            self.fault(node, f"{key} of {self.title} is {node.kind}, not a mapping", f"Write `{key}: {{NAME: VALUE}}`.")
            return {}
        return node.value

    def variables(self, key: str = "vars") -> Mapping[str, Any]:
        """Any values, for templates."""
        entries = self.mapping(key)
        return {name: node.plain() for name, node in entries.items()} if entries else EMPTY

    def options(self) -> Mapping[int, bytes]:
        """DHCP options by name or number."""
        found: dict[int, bytes] = {}
        for name, node in self.mapping("options").items():
            if node.value is None or node.value == {}:
                self.fault(node, f"the DHCP option {name} is empty", "Give it a value, a list of values, or sub-options.")
                continue
            try:
                code, value = option(name, node.plain())
            except ValueError as error:
                mend = 'Write options by name or number: `{ntp-servers: [192.168.77.1], 224: "0x0102"}`.'
                self.fault(node, str(error).rstrip("."), mend)
                continue
            if code in found:
                self.fault(node, f"the DHCP option {name} is there twice, by name and by number", "Keep one of the two.")
            found[code] = value
        return found or EMPTY

    def loader(self) -> Mapping[str, str]:
        """`loader: FILE` or `loader: {ARCH: FILE}`: NBP by architecture name, "*" for every architecture."""
        node = self.nodes.get("loader")
        if node is None or node.value is None:
            return EMPTY
        if not isinstance(node.value, dict):
            text = self.text("loader")
            return {"*": text} if text and self.below_root(node, "loader", text) else EMPTY
        return {arch.value: name for arch, name in self.by_arch("loader").items()}

    def by_arch(self, key: str) -> dict[Arch, str]:
        """File names below tftp.root by architecture."""
        found: dict[Arch, str] = {}
        for name, node in self.mapping(key).items():
            arch = self.arch(name, node)
            if isinstance(node.value, (dict, list)) or node.value is None:
                self.fault(node, f"{key} for {name} is {node.kind}, not a file name", f"Write `{name}: FILE`.")
            elif arch and self.below_root(node, f"{key} for {name}", node.text):
                found[arch] = node.text
        return found

    def arch(self, name: str, node: Node) -> Arch | None:
        arch = arch_of(name)
        if arch is None:
            self.fault(node, f"{name!r} is not an architecture", arch_hint(name))
        return arch

    def below_root(self, node: Node, key: str, path: str) -> bool:
        """Is this a path that stays below its root?"""
        if path.startswith("/") or ".." in path.split("/") or not path.isprintable():
            mend = "Write the path as it is below that directory."
            self.fault(node, f"{key} is {path!r}, which does not lie below its root", mend)
            return False
        return True


def arch_of(name: str) -> Arch | None:
    """An architecture by its name or by IANA's number."""
    if name.isascii() and name.isdigit() and len(name) < 4:
        known = ARCH_CODES.get(int(name))
        return known[0] if known else None
    return ARCH_NAMES.get(name)


def arch_hint(name: str) -> str:
    if alias := ARCH_ALIASES.get(name.lower()):
        return f"Did you mean {alias!r}?"
    return nearest(name, ARCH_NAMES, "Write x86-bios, x86-efi, x64-efi, arm64-efi or another name of the table, or IANA's number.")


def is_name(text: str) -> bool:
    """May a machine, group or profile be called this?  Names stand in URLs, file names and log lines."""
    return bool(_NAME.fullmatch(text))
