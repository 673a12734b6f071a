"""A data directory of bootcfg v0: boot/ and cloud/ by uuid/, mac/ and default, served as bootcfg served them.

Each tree is looked up on its own: UUID, then MAC, then default.  bootcfg wrote several initrds into one word, which no iPXE could
load; here each has its line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixieboot.errors import OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import Group, Mac, Profile, parse_uuid
from pixieboot.registry.foreign import (
    JSON,
    Answer,
    Stamp,
    files_below,
    from_json,
    labels_of,
    not_found,
    parse_mac,
    read,
    texts,
    to_json,
)
from pixieboot.registry.govalues import printed

BOOT_IPXE = (
    b"#!ipxe\nchain ipxe?uuid=${uuid}&mac=${net0/mac:hexhyp}&ip=${ip}&domain=${domain}&hostname=${hostname}&serial=${serial}\n"
)
PIXIECORE = "/pixiecore/v1/boot/"
_PLACES = ("uuid", "mac", "")  # "" holds the file `default`


@dataclass(frozen=True, slots=True)
class BootFile:
    kernel: str
    initrd: tuple[str, ...] | None
    cmdline: Mapping[str, Any] | None
    where: str

    @property
    def args(self) -> tuple[str, ...]:
        """KEY=VALUE by key; a key without a value stands alone."""
        cmdline = self.cmdline or {}
        return tuple(f"{key}={printed(cmdline[key])}" if cmdline[key] else key for key in sorted(cmdline))


class Bootcfg:
    """One state of the directory.  boot and cloud: (place, name) -> what the file says."""

    kind = "bootcfg"

    def __init__(self, boot: Mapping[tuple[str, str], BootFile], cloud: Mapping[tuple[str, str], str]) -> None:
        self._boot, self._cloud = boot, cloud

    def answer(self, path: str, query: str) -> Answer | None:
        labels = labels_of(query)
        if path in ("/boot.ipxe", "/boot.ipxe.0"):
            return Answer(200, BOOT_IPXE)
        if path == "/ipxe":
            found = _find(self._boot, labels)
            if found is None:
                return not_found("no boot file for this machine, and no default", labels)
            place, file = found
            return Answer(200, _ipxe(file).encode(), why=f"boot/{place}", profile=place, labels=labels)
        if path.startswith(PIXIECORE):
            return self._pixiecore(path.rpartition("/")[2])
        if path == "/cloud":
            config = _find(self._cloud, labels)
            if config is None or config[1].split("\n", 1)[0].rstrip() != "#cloud-config":
                return not_found("no cloud-config for this machine, and no default", labels)
            body = config[1].encode("utf-8", "surrogateescape")
            return Answer(200, body, why=f"cloud/{config[0]}", labels=labels, ranges=True)
        return None

    def _pixiecore(self, text: str) -> Answer:
        mac = parse_mac(text)
        if mac is None:
            return Answer(400, f"address {text}: invalid MAC address\n".encode("utf-8", "replace"), why="no MAC address")
        labels = {"mac": mac}
        found = _find(self._boot, labels)
        if found is None:
            return not_found("no boot file for this machine, and no default", labels)
        place, file = found
        initrd = None if file.initrd is None else list(file.initrd)
        cmdline = None if file.cmdline is None else {key: file.cmdline[key] for key in sorted(file.cmdline)}
        body = to_json({"kernel": file.kernel, "initrd": initrd, "cmdline": cmdline})
        return Answer(200, body, JSON, f"boot/{place}", place, labels)


def _find(tree: Mapping[tuple[str, str], Any], labels: Mapping[str, str]) -> tuple[str, Any] | None:
    """(place, entry) of the first rung that there is: UUID as sent or in lower case, MAC, default."""
    uuid, mac = labels.get("uuid", ""), labels.get("mac", "")
    for place, name in (("uuid", uuid), ("uuid", uuid.lower()), ("mac", mac), ("", "default")):
        if (entry := tree.get((place, name))) is not None:
            return f"{place}/{name}".lstrip("/"), entry
    return None


def _ipxe(file: BootFile) -> str:
    args = "".join(f" {arg}" for arg in file.args)
    initrds = "".join(f"initrd {url}\n" for url in file.initrd or ()) or "initrd \n"
    return f"#!ipxe\nkernel {file.kernel}{args}\n{initrds}boot\n"


class BootcfgDirectory:
    """The files of a directory of bootcfg's."""

    kind = "bootcfg"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.foreign: Bootcfg | None = None
        self.notes: list[OperatorError] = []

    def signature(self) -> dict[str, Stamp]:
        directories = [f"{tree}/{place}" for tree in ("boot", "cloud") for place in _PLACES]
        return {path: stamp for path, _, stamp in files_below(self._root, *directories)}

    def load(self, version: int) -> Inventory:
        notes: list[OperatorError] = []
        boot = {
            key: file
            for key, (path, text) in self._texts("boot", notes).items()
            if (file := _boot_file(path, text, notes)) is not None
        }
        cloud = {key: text for key, (_, text) in self._texts("cloud", notes).items()}
        self.foreign, self.notes = Bootcfg(boot, cloud), notes
        return Inventory.build([], _native_groups(boot), _native_profiles(boot), {}, version)

    def _texts(self, tree: str, notes: list[OperatorError]) -> dict[tuple[str, str], tuple[str, str]]:
        found = {}
        for place in _PLACES:
            for path, name, _ in files_below(self._root, f"{tree}/{place}"):
                if (place or name == "default") and (text := read(path, notes)) is not None:
                    found[place, name] = path, text
        return found


def _boot_file(path: str, text: str, notes: list[OperatorError]) -> BootFile | None:
    value = from_json(path, text, notes)
    if value is None:
        return None
    kernel, initrd, cmdline = value.get("kernel") or "", texts(value.get("initrd")), value.get("cmdline")
    if not isinstance(kernel, str) or initrd is None or not isinstance(cmdline, (dict, type(None))):
        notes.append(OperatorError(path, "a value is of the wrong kind", "This file is left out until it is mended."))
        return None
    return BootFile(kernel, None if value.get("initrd") is None else tuple(initrd), cmdline, path)


def _native_groups(boot: Mapping[tuple[str, str], BootFile]) -> list[Group]:
    """The same choice for DHCP and `explain`: a UUID outweighs a MAC, which outweighs the default."""
    groups = []
    for (place, name), file in boot.items():
        match: dict[str, str] = {}
        if place == "uuid" and (uuid := parse_uuid(name)):
            match = {"uuid": uuid}
        elif place == "mac" and (mac := parse_mac(name)):
            match = {"mac": Mac(mac)}
        elif place:
            continue
        groups.append(Group(_name(place, name), match, _name(place, name), where=file.where))
    return groups


def _native_profiles(boot: Mapping[tuple[str, str], BootFile]) -> list[Profile]:
    return [
        Profile(
            _name(place, name),
            kernel=file.kernel.removeprefix("/images/") or None,
            initrd=tuple(url.removeprefix("/images/") for url in file.initrd or ()),
            args=file.args,
            where=file.where,
        )
        for (place, name), file in boot.items()
    ]


def _name(place: str, name: str) -> str:
    """a- before b-: of groups with as many labels the first by name wins."""
    return f"{'a' if place == 'uuid' else 'b'}-{place}-{name.replace(':', '-')}" if place else name
