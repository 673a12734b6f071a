"""One machine, group or profile: its entry in a file, key by key, read strictly (docs/reference.md)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Generic, TypeVar

from pixieboot import remote, sandbox
from pixieboot.errors import OperatorError
from pixieboot.model import EMPTY, Arch, Group, Mac, Machine, Profile, Variant, parse_uuid
from pixieboot.policy import LOCAL_WAYS
from pixieboot.registry.fields import Fields, arch_hint, arch_of, nearest
from pixieboot.registry.strictyaml import Node

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


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """An entry of a file, and where in the file each of its keys is: lines hold as long as the entry begins at line."""

    one: T
    file: str
    line: int
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """FILE:LINE of a key, or of the entry."""
        here = int(self.one.where.rpartition(":")[2])
        return f"{self.file}:{self.lines.get(key, self.line) + here - self.line}"

    def moved(self, where: str) -> "Found[T]":
        """The same entry on other lines."""
        return self if where == self.one.where else replace(self, one=replace(self.one, where=where))


def read_machine(name: str, node: Node, path: str, faults: list[OperatorError]) -> Machine:
    """A machine as its entry describes it; what is wrong goes to faults, with file and line."""
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


def read_group(name: str, node: Node, path: str, faults: list[OperatorError]) -> Group:
    """A group as its entry describes it; what is wrong goes to faults, with file and line."""
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


def read_profile(name: str, node: Node, path: str, faults: list[OperatorError]) -> Profile:
    """A profile as its entry describes it; what is wrong goes to faults, with file and line."""
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
