"""What is at this boot path?  One answer for TFTP and for HTTP below /tftp/, out of the path alone: no file is looked at.

A path is a file below tftp.root, or a configuration that is rendered for the client that its name tells, or nothing at all.
Every path may stand below a MAC directory (52-54-00-12-34-56/ipxe.efi), which tells whose transfer it is, or below a Raspberry
Pi's serial number (0a1b2c3d/start4.elf): what is not in that directory is what all machines share.
Boot programs search for their configuration along a ladder of names, from their own to everybody's; each rung is known here,
so that a miss on the way is not taken for a fault.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from pixieboot.model import Mac, parse_uuid

LONGEST_PATH = 1024  # characters; TFTP's own limit is the datagram
LONGEST_NAME = 255  # bytes: NAME_MAX of every file system

# Files that firmware and boot programs ask for in passing: their absence says nothing (field: "autoexec.ipxe not found" is feared).
EXPECTED_MISSES: Mapping[str, str] = {
    "autoexec.ipxe": "iPXE looks for a script beside itself before it asks DHCP",
    "bootsig.bin": "the Raspberry Pi 3's ROM asks for it before bootcode.bin",
    "recovery.elf": "a Raspberry Pi asks for it before start4.elf",
    "recover4.elf": "a Raspberry Pi asks for it before start4.elf",
    "recovery.bin": "a Raspberry Pi asks for it before its boot files",
    **dict.fromkeys(
        ("autoboot.txt", "boot.sig", "bootcfg.txt", "dt-blob.bin", "pieeprom.sig", "pieeprom.upd", "timeout", "vl805.sig"),
        "a Raspberry Pi boots without it",
    ),
    "revocations.efi": "shim asks for it beside itself",
    "revocations_sku.efi": "shim asks for it beside itself",
    "revocations_sbat.efi": "shim asks for it beside itself",
    "shim_certificate_0.efi": "shim asks for it beside itself",
    "command.lst": "GRUB works without its module lists",
    "fs.lst": "GRUB works without its module lists",
    "crypto.lst": "GRUB works without its module lists",
    "terminal.lst": "GRUB works without its module lists",
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LADDER_ADDRESS = re.compile(r"[0-9A-F]{1,8}", re.ASCII | re.IGNORECASE)
_PI_SERIAL = re.compile(r"[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileBelow:
    """A file below a root: `tftp` is tftp.root.  mac, serial: of the directory that the path stood in.

    A name that ends in ".0" and does not exist means the name without it.  expected: why nobody needs to worry if it is missing.
    """

    root: str
    parts: tuple[str, ...]
    mac: Mac | None = None
    expected: str = ""
    serial: str | None = None

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """Where to look, one after the other: the machine's own directory, if there is one, and what all share."""
        own = self.mac.dashed if self.mac else self.serial
        return ((own, *self.parts), self.parts) if own else (self.parts,)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A configuration made on request, unless the operator has put the file there.

    kind: pxelinux | grub | autoexec | cmdline.txt | config.txt.  The client is the one of mac, uuid, address or serial (a
    Raspberry Pi's last eight digits); with none of them the name is everybody's, and whoever asks is known by the peer's address.
    shared: the file for machines with nothing to say to.
    """

    kind: str
    file: FileBelow
    mac: Mac | None = None
    uuid: str | None = None
    address: str | None = None
    serial: str | None = None
    shared: FileBelow | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing can be there, or it must not be served."""

    why: str
    mac: Mac | None = None


Place = FileBelow | Rendered | Missing


@lru_cache(1024)
def find(path: str) -> Place:
    """What this path means.  Total; the path is decoded (no %xx) and may be written the Windows way or with leading slashes."""
    if len(path) > LONGEST_PATH:
        return Missing(f"the path is {len(path)} characters long, the limit is {LONGEST_PATH}")
    if _CONTROL.search(path):
        return Missing("the path holds a control character or is not UTF-8")
    parts = tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
    if ".." in parts:
        return Missing("the path leads out of the root (..)")
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return Missing(f"a name in the path is longer than {LONGEST_NAME} bytes")
    mac = _mac(parts[0]) if parts else None
    serial = parts[0] if len(parts) > 1 and not mac and _PI_SERIAL.fullmatch(parts[0]) else None
    if mac or serial:
        parts = parts[1:]
    if not parts:
        return Missing("the path names a directory; there are no listings", mac)
    if parts in (("config.txt",), ("cmdline.txt",)):
        return _pi_settings(parts, mac, serial)
    if serial:
        why = EXPECTED_MISSES.get(parts[-1].lower(), "a Raspberry Pi asks for many files that its model does not need")
        return FileBelow("tftp", parts, None, "" if parts[0] == "assets" else why, serial)
    return _place(parts, mac)


def _pi_settings(parts: tuple[str, ...], mac: Mac | None, serial: str | None) -> Rendered:
    """What tells a Raspberry Pi its kernel: its own file, else rendered, else the file that all Raspberry Pis share.

    The shared one comes last: the boot partition of Raspberry Pi OS has it, and would hide every profile.
    """
    shared = FileBelow("tftp", parts, mac, "a Raspberry Pi boots its model's own kernel without it", serial)
    return Rendered(parts[0], replace(shared, parts=shared.places[0], mac=None, serial=None), mac, serial=serial, shared=shared)


def _place(parts: tuple[str, ...], mac: Mac | None) -> Place:
    name, folder = parts[-1], parts[-2] if len(parts) > 1 else ""
    file = FileBelow("tftp", parts, mac, EXPECTED_MISSES.get(name.lower(), ""))
    if folder == "pxelinux.cfg":
        return _rung(name, "pxelinux", mac, parts)
    if name == "grub.cfg":
        return Rendered("grub", file, mac)
    if name.startswith("grub.cfg-"):
        return _rung(name.removeprefix("grub.cfg-"), "grub", mac, parts)
    if name == "autoexec.ipxe":
        return Rendered("autoexec", file, mac)
    return file


def _rung(key: str, kind: str, mac: Mac | None, parts: tuple[str, ...]) -> Place:
    """One name of the ladder UUID, 01-MAC, address in hex shortened digit by digit, default."""
    file = FileBelow("tftp", parts, mac, f"one name of the ladder on which {kind} looks for its configuration")
    if key == "default":
        return Rendered(kind, file, mac)
    # 01 is ARP's number for Ethernet; GRUB builds of Foreman ask with colons and without the number.
    own = _mac(key.removeprefix("01-") if len(key) == 20 else key)
    if own:
        return Rendered(kind, file, own)
    if _LADDER_ADDRESS.fullmatch(key):
        if len(key) < 8:
            return file
        return Rendered(kind, file, mac, address=".".join(str(octet) for octet in bytes.fromhex(key)))
    if uuid := parse_uuid(key):
        return Rendered(kind, file, mac, uuid)
    return file


def _mac(text: str) -> Mac | None:
    """The MAC that a directory or a rung names: dashes or colons, either case."""
    if len(text) != 17:
        return None
    try:
        return Mac.parse(text)
    except ValueError:
        return None
