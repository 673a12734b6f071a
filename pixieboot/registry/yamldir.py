"""The registry in a directory: machines, groups, profiles (NAME.yaml or NAMES.yaml) and templates (docs/reference.md).

Every file is parsed once per version of it: a changed file costs its own parsing and one pass over all that is known.  Large
files are parsed entry by entry, and an entry that reads as before is not parsed again.
"""

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Generic, TypeVar

from pixieboot import remote, render, sandbox
from pixieboot.errors import Faults, OperatorError
from pixieboot.inventory import LOCAL, MENU, Inventory
from pixieboot.model import EMPTY, Arch, Group, Mac, Machine, Profile, Variant, parse_uuid, swap_uuid
from pixieboot.policy import LOCAL_WAYS
from pixieboot.registry import butane
from pixieboot.registry.fields import Fields, arch_hint, arch_of, is_name, nearest
from pixieboot.registry.secretdir import check_names, secrets_in
from pixieboot.registry.strictyaml import Node, parse, read_text

Stamp = tuple[int, int, int]  # size, time and inode of a file; the time of a chmod counts too (ctime)
T = TypeVar("T", Machine, Group, Profile)

MACHINE_KEYS = frozenset({
    "macs", "mac", "uuid", "serial", "address", "hostname", "profile", "boot", "vars", "local_boot", "loader", "options",
    "reply_delay", "reply_style",
})  # fmt: skip
GROUP_KEYS = frozenset({"match", "profile", "vars", "options", "loader"})
PROFILE_KEYS = frozenset({
    "title", "kernel", "initrd", "args", "arch", "ignition", "cloud", "generic", "files", "message", "script", "chain", "local",
    "loader", "once_timeout", "on_timeout", "cache", "sha256",
})  # fmt: skip
ON_TIMEOUT = ("again", "hold", "local")
REPLY_STYLES = ("auto", "direct", "binl", "menu")
PLATFORMS = ("bios", "efi", "uboot")

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_FETCHABLE = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:[/?]|$)", re.ASCII)
_TOP = re.compile(r"^(?=[^\s#\-])", re.MULTILINE)  # where an entry of a block mapping may begin
_FILE_WIDE = ("&", "*", "<<", "\n---", "\n...", "\n%")  # whoever uses one of these has the file parsed as a whole
_UUID_TAIL = 19  # from here on a UUID reads the same in both byte orders
_DRAFT: Stamp = (-1, -1, -1)  # of a file that is not written yet
_MANY = 64 << 10  # characters from which on the entries of a file are remembered one by one


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    """An entry of a file, and where in the file each of its keys is: lines hold as long as the entry begins at line."""

    one: T
    file: str
    line: int
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """FILE:LINE of a key, or of the entry."""
        here = int(self.one.where.rpartition(":")[2])
        return f"{self.file}:{self.lines.get(key, self.line) + here - self.line}"

    def moved(self, where: str) -> "_Found[T]":
        """The same entry on other lines."""
        return self if where == self.one.where else replace(self, one=replace(self.one, where=where))


@dataclass(slots=True)
class _Entries(Generic[T]):
    """What one file says, kept until it changes."""

    signature: Stamp
    found: list[_Found[T]]
    faults: list[OperatorError]
    entries: dict[str, _Found[T]] = field(default_factory=dict)  # of a large file: text of an entry -> what it says


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """machines, groups or profiles: plural, singular, how one is read."""

    plural: str
    title: str
    read: Callable[[str, Node, str, list[OperatorError]], T]


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
        _Checks(self._root, machines, groups, profiles, templates, faults).run()
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
    ) -> list[_Found[T]]:
        """Everything of one kind, from NAMES.yaml and NAMES/NAME.yaml, and the machines of the API."""
        many, misnamed = str(self._root / f"{kind.plural}.yaml"), str(self._root / f"{kind.plural}.yml")
        directory: tuple[str, ...] = (str(self._root / kind.plural) + os.sep,)
        if kind is _MACHINES and self._adopted:
            directory += (str(self._adopted) + os.sep,)
        found: list[_Found[T]] = []
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

    def _whole(self, kind: _Kind[T], text: str, path: str, first_line: int) -> tuple[list[_Found[T]], list[OperatorError]]:
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
    def _one(kind: _Kind[T], name: str, node: Node, path: str, faults: list[OperatorError]) -> _Found[T]:
        if not is_name(name):
            what = f"{name!r} cannot be the name of a {kind.title}"
            faults.append(OperatorError(f"{path}:{node.line}", what, "Use letters, digits, dots, dashes and underscores."))
        lines = node.lines or {}
        if isinstance(node.value, dict) and (files := node.value.get("files")):
            lines = lines | {f"files.{key}": line for key, line in (files.lines or {}).items()}
        return _Found(kind.read(name, node, path, faults), path, node.line, lines)

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


def _ones(found: Iterable[_Found[T]]) -> list[T]:
    return [entry.one for entry in found]


def _cut(text: str, found: Iterable[_Found[T]]) -> dict[str, _Found[T]]:
    """The text of each entry: from its line to the line of the next one."""
    lines = text.splitlines(keepends=True)
    entries: list[tuple[int, _Found[T]]] = [(entry.line - 1, entry) for entry in found]
    ends = [*(line for line, _ in entries[1:]), len(lines)]
    return {"".join(lines[line:end]): one for (line, one), end in zip(entries, ends, strict=True)}


def _place(fault: OperatorError) -> tuple[str, int]:
    file, _, line = fault.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (fault.where, 0)


# --- one machine, group, profile -----------------------------------------------------------------------------------------


def _machine(name: str, node: Node, path: str, faults: list[OperatorError]) -> Machine:
    fields = Fields(node, path, f"machine {name}", MACHINE_KEYS, faults)
    if fields.has("mac") and fields.has("macs"):
        fields.fault(fields.nodes["mac"], "mac and macs are both there", "Keep macs, with all addresses in it.")
    macs = [mac for key in ("macs", "mac") for item in fields.scalars(key) if (mac := fields.parse(item, Mac.parse, _MAC_MEND))]
    machine = Machine(
        name=name,
        macs=tuple(dict.fromkeys(macs)),
        uuid=fields.parsed("uuid", _uuid, "Write it as `dmidecode -s system-uuid` prints it, or remove it."),
        serial=fields.text("serial"),
        address=fields.address("address"),
        hostname=fields.parsed("hostname", _hostname, "Use letters, digits and dashes."),
        profile=fields.text("profile"),
        boot=fields.choice("boot", ("always", "once", "local"), "always"),
        vars=fields.variables(),
        local_boot=fields.choice("local_boot", ("auto", *LOCAL_WAYS), "auto"),
        loader=fields.loader(),
        options=fields.options(),
        reply_delay=fields.seconds("reply_delay", 0.0),
        reply_style=fields.choice("reply_style", REPLY_STYLES, "auto"),
        where=f"{path}:{node.line}",
    )
    if isinstance(node.value, dict) and not (fields.has("macs") or fields.has("mac") or fields.has("uuid") or fields.has("serial")):
        what = f"machine {name} has neither a MAC address nor a UUID nor a serial number: nothing can be known to be it"
        fields.fault(node, what, "Add for example `mac: 52:54:00:12:34:56`.")
    return machine


_MAC_MEND = "Write six pairs of hexadecimal digits, such as 52:54:00:12:34:56."


def _uuid(text: str) -> str:
    uuid = parse_uuid(text)
    if uuid is None:
        raise ValueError(f"{text!r} is no UUID that tells one machine from another")
    return uuid


def _hostname(text: str) -> str:
    if len(text) > 253 or not all(_HOSTNAME.fullmatch(part) for part in text.split(".")):
        raise ValueError(f"{text!r} is not a host name")
    return text


def _group(name: str, node: Node, path: str, faults: list[OperatorError]) -> Group:
    fields = Fields(node, path, f"group {name}", GROUP_KEYS, faults)
    match = {label: text for label, value in fields.mapping("match").items() if (text := _label(fields, label, value)) is not None}
    return Group(
        name=name,
        match=match or EMPTY,
        profile=fields.text("profile"),
        vars=fields.variables(),
        options=fields.options(),
        loader=fields.loader(),
        where=f"{path}:{node.line}",
    )


def _label(fields: Fields, label: str, node: Node) -> str | None:
    """The value that a label must have, as Inventory compares it."""
    if node.value is None or isinstance(node.value, (dict, list)):
        fields.fault(node, f"the label {label} is {node.kind}, not one value", f"Write one value, such as `{label}: VALUE`.")
        return None
    if not _LABEL.fullmatch(label):
        fields.fault(node, f"{label!r} cannot be a label", "Use letters, digits, dots, dashes and underscores.")
        return None
    text = node.text
    match label:
        case "mac":
            return fields.parse(node, Mac.parse, _MAC_MEND)
        case "uuid":
            return fields.parse(node, _uuid, "Write it as `dmidecode -s system-uuid` prints it, or remove it.")
        case "arch":
            arch = arch_of(text)
            if arch is None:
                fields.fault(node, f"{text!r} is not an architecture", arch_hint(text))
            return arch.value if arch else None
        case "platform":
            if text not in PLATFORMS:
                fields.fault(node, f"platform is {text!r}, want bios or efi", nearest(text, PLATFORMS, "Write bios or efi."))
            return text
        case "subnet":
            return fields.parse(node, _subnet, "Write the network's own address, such as 192.168.77.0/24.")
    return text


def _subnet(text: str) -> str:
    try:
        return str(IPv4Network(text))
    except ValueError:
        raise ValueError(f"subnet is {text!r}, not an IPv4 network") from None


def _profile(name: str, node: Node, path: str, faults: list[OperatorError]) -> Profile:
    fields = Fields(node, path, f"profile {name}", PROFILE_KEYS, faults)
    local = fields.flag("local", False)
    variants = _variants(fields)
    profile = Profile(
        name=name,
        title=fields.text("title", ""),
        kernel=_asset(fields, "kernel"),
        initrd=_assets(fields, "initrd"),
        args=tuple(_template_value(fields, item, "args") for item in fields.scalars("args")),
        arch=variants,
        documents=_documents(fields),
        message=_template_text(fields, "message") or "",
        script=fields.text("script"),
        chain=_template_text(fields, "chain"),
        local=local,
        once_timeout=fields.seconds("once_timeout", 0.0, 60),
        on_timeout=fields.choice("on_timeout", ON_TIMEOUT, "again"),
        loader=fields.loader(),
        cache="once" if fields.flag("cache", False) else "",
        sha256=_checksums(fields),
        where=f"{path}:{node.line}",
    )
    _check_cache(fields, profile)
    ways = [key for key in ("kernel", "script", "chain") if fields.has(key)] + (["local"] if local else [])
    if not ways and any(variant.kernel for variant in variants.values()):
        ways = ["kernel"]
    if len(ways) > 1:
        fields.fault(fields.nodes[ways[1]], f"profile {name} has {' and '.join(ways)}", "Keep one of them.")
    if not ways and isinstance(node.value, dict) and not (fields.nodes.keys() - PROFILE_KEYS):
        fields.fault(node, f"profile {name} boots nothing", "Give it a kernel, a script, a chain, or `local: true`.")
    return profile


def _checksums(fields: Fields) -> Mapping[str, str]:
    """`sha256: {URL or NAME: HEX}`."""
    found = {}
    for name, node in fields.mapping("sha256").items():
        if isinstance(node.value, (dict, list)) or not _SHA256.fullmatch(node.text):
            fields.fault(node, f"the checksum of {name} is no SHA-256", "Write the 64 digits that `sha256sum` prints.")
        else:
            found[name] = node.text.lower()
    return found or EMPTY


def _check_cache(fields: Fields, profile: Profile) -> None:
    """Is there something that this host can fetch, and does each checksum belong to a part of it?"""
    variants = profile.arch.values()
    files = [profile.kernel, *profile.initrd, *(v.kernel for v in variants), *(path for v in variants for path in v.initrd or ())]
    named = [path for path in files if path]
    remotes = [path for path in named if _URL.match(path)]
    if profile.sha256 and not profile.cache:
        what = "sha256 is there without cache, and only what this host fetches is looked at"
        fields.fault(fields.nodes["sha256"], what, "Add `cache: true`.")
    if not profile.cache or any(sandbox.has_markup(path) for path in named) or any("asset(" in arg for arg in profile.args):
        return  # what they lead to shows when they are rendered
    if not remotes and not profile.script:
        fields.fault(
            fields.nodes["cache"],
            f"profile {profile.name} names no URL to fetch",
            "Take `cache` out: files below assets are here already.",
        )
    for path in remotes:
        if not _FETCHABLE.match(path):
            mend = "Write http:// or https:// without a user, or put the file below assets."
            fields.fault(fields.nodes["cache"], f"{path} cannot be fetched by this host", mend)
    names = {remote.last_part(path) for path in remotes}
    for name, node in fields.mapping("sha256").items():
        if name not in names and name not in remotes:
            what = f"sha256 names {name!r}, which is no file that profile {profile.name} fetches"
            fields.fault(node, what, nearest(name, names, "Write the URL, or the last part of its path."))


def _variants(fields: Fields) -> Mapping[Arch, Variant]:
    """`arch: {arm64-efi: {kernel: …}}`."""
    found: dict[Arch, Variant] = {}
    for name, node in fields.mapping("arch").items():
        arch = fields.arch(name, node)
        own = Fields(node, fields.file, f"arch {name}", ("kernel", "initrd", "args"), fields.faults)
        variant = Variant(
            kernel=_asset(own, "kernel"),
            initrd=_assets(own, "initrd") if "initrd" in own.nodes else None,
            args=tuple(_template_value(own, item, "args") for item in own.scalars("args")) if "args" in own.nodes else None,
        )
        if arch:
            found[arch] = variant
    return found or EMPTY


def _asset(fields: Fields, key: str) -> str | None:
    text = fields.text(key)
    return None if text is None else _asset_path(fields, fields.nodes[key], key)


def _assets(fields: Fields, key: str) -> tuple[str, ...]:
    return tuple(_asset_path(fields, item, key) for item in fields.scalars(key))


def _asset_path(fields: Fields, node: Node, key: str) -> str:
    """A path below assets, a URL, or a template of one of them."""
    text = _template_value(fields, node, key)
    if not _URL.match(text) and not sandbox.has_markup(text):
        fields.below_root(node, key, text)
    return text


def _template_text(fields: Fields, key: str) -> str | None:
    text = fields.text(key)
    return None if text is None else _template_value(fields, fields.nodes[key], key)


def _template_value(fields: Fields, node: Node, key: str) -> str:
    """A value that may hold {{ … }}, checked for its syntax."""
    if sandbox.has_markup(node.text) and (fault := sandbox.syntax_fault(node.text)):
        fields.fault(node, f"{key}: {fault[1]}", "Correct the expression between {{ and }}.")
    return node.text


def _documents(fields: Fields) -> Mapping[str, str]:
    """Template files by kind: ignition, cloud, generic and what `files` names."""
    found = {kind: text for kind in ("ignition", "cloud", "generic") if (text := fields.text(kind)) is not None}
    for kind, node in fields.mapping("files").items():
        if not _KIND.fullmatch(kind) or node.value is None or isinstance(node.value, (dict, list)):
            fields.fault(node, f"files: {kind} is {node.kind}, not the name of a template", "Write `KIND: FILE` below files.")
        elif kind in found:
            fields.fault(node, f"{kind} is there twice, below files and beside it", "Keep one of the two.")
        else:
            found[kind] = node.text
    return found or EMPTY


_MACHINES = _Kind("machines", "machine", _machine)
_GROUPS = _Kind("groups", "group", _group)
_PROFILES = _Kind("profiles", "profile", _profile)


# --- all of them together ------------------------------------------------------------------------------------------------


class _Checks:
    """What only shows when everything is read: names that lead nowhere, and identities that two machines claim."""

    def __init__(
        self,
        root: Path,
        machines: list[_Found[Machine]],
        groups: list[_Found[Group]],
        profiles: list[_Found[Profile]],
        templates: Mapping[str, str],
        faults: list[OperatorError],
    ) -> None:
        self._root, self._faults = root, faults
        self._machines, self._groups, self._profiles, self._templates = machines, groups, profiles, templates

    def run(self) -> None:
        self._once("machine", ((entry.one.name, entry) for entry in self._machines), "name")
        self._once("group", ((entry.one.name, entry) for entry in self._groups), "name")
        self._once("profile", ((entry.one.name, entry) for entry in self._profiles), "name")
        profiles = {entry.one.name for entry in self._profiles} | {MENU.name, LOCAL.name}
        self._profiles_exist(self._machines, profiles)
        self._profiles_exist(self._groups, profiles)
        self._identities()
        for entry in self._profiles:
            self._templates_exist(entry)
            self._ignition_is_json(entry)
        self._includes_exist()

    def _profiles_exist(self, entries: Iterable[_Found[Machine]] | Iterable[_Found[Group]], profiles: set[str]) -> None:
        for entry in entries:
            name = entry.one.profile
            if name is not None and name not in profiles:
                mend = f"Profiles live in {self._root}/profiles.yaml and {self._root}/profiles/."
                self._fault(entry.where("profile"), f"profile {name!r} does not exist", f"{nearest(name, profiles)} {mend}".strip())

    def _templates_exist(self, entry: _Found[Profile]) -> None:
        profile = entry.one
        named = [("script", profile.script)] if profile.script is not None else []
        for key, name in (*named, *profile.documents.items()):
            if name not in self._templates:
                where = entry.where(f"files.{key}" if f"files.{key}" in entry.lines else key)
                self._no_template(where, f"{key} of profile {profile.name} names the template {name!r}, which", str(name))

    def _ignition_is_json(self, entry: _Found[Profile]) -> None:
        """What is not rendered can be looked at now; the rest is looked at when it is."""
        name = entry.one.documents.get("ignition", "")
        text = self._templates.get(name)
        if text is None or render.is_butane(name) or sandbox.has_markup(text):
            return
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{self._root}/templates/{name}:{error.lineno}"
            self._fault(
                where, f"this Ignition configuration is not JSON: {error.msg}", "Correct it, or call it NAME.bu if it is Butane."
            )

    def _includes_exist(self) -> None:
        built_in = set(sandbox.built_in_names())
        for name, text in self._templates.items():
            if sandbox.syntax_fault(text) is None:
                for line, other in sandbox.references(text):
                    if other not in self._templates and other not in built_in:
                        self._no_template(f"{self._root}/templates/{name}:{line}", f"the template {other!r}", other)

    def _no_template(self, where: str, what: str, name: str) -> None:
        near = nearest(name, self._templates)
        self._fault(where, f"{what} does not exist", f"{near} Templates live in {self._root}/templates.".strip())

    def _fault(self, where: str, what: str, mend: str) -> None:
        self._faults.append(OperatorError(where, what, mend))

    def _identities(self) -> None:
        machines = self._machines
        self._once("machine", ((mac, entry) for entry in machines for mac in entry.one.macs), "MAC address", "macs", "mac")
        tails = Counter(entry.one.uuid[_UUID_TAIL:] for entry in machines if entry.one.uuid)
        uuids = [(uuid, entry) for entry in machines if (uuid := entry.one.uuid) and tails[uuid[_UUID_TAIL:]] > 1]
        self._once("machine", ((min(uuid, swap_uuid(uuid)), entry) for uuid, entry in uuids), "UUID (in either byte order)", "uuid")
        serials = ((entry.one.serial.lower(), entry) for entry in machines if entry.one.serial)
        self._once("machine", serials, "serial number", "serial")
        self._once("machine", ((entry.one.address, entry) for entry in machines if entry.one.address), "address", "address")

    def _once(self, kind: str, claims: Iterable[tuple[str, _Found[Any]]], what: str, *keys: str) -> None:
        """No two may claim the same: both places are told."""
        first: dict[str, _Found[Any]] = {}
        for claim, entry in claims:
            other = first.setdefault(claim, entry)
            if other is entry:
                continue
            here, there = (one.where(next((key for key in keys if key in one.lines), "")) for one in (entry, other))
            if what == "name":
                self._fault(here, f"there is a {kind} {claim} already at {there}", "Rename one of the two.")
            else:
                sentence = f"{kind} {entry.one.name} has the {what} {claim} of {kind} {other.one.name} ({there})"
                self._fault(here, sentence, "Correct one of the two.")
