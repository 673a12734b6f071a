"""What a boot program is, by its bytes: for which machine, whether it is signed, and which iPXE it is."""

import re
import struct
from dataclasses import dataclass

from pixieboot.model import Arch

PE_MACHINES = {
    0x014C: Arch.X86_EFI,
    0x8664: Arch.X64_EFI,
    0x01C2: Arch.ARM32_EFI,
    0xAA64: Arch.ARM64_EFI,
    0x5032: Arch.RISCV32_EFI,
    0x5064: Arch.RISCV64_EFI,
    0x6264: Arch.LOONGARCH64_EFI,
}
_VERSION = re.compile(rb"iPXE[ /](\d+\.\d+\.\d+[-+.\w()]*)")
_FULL_VERSION = re.compile(rb"(\d+\.\d+\.\d+\+? ?\(?(?:git-)?[\w.-]*\)?)\x00")


@dataclass(frozen=True, slots=True)
class Program:
    """arch None: no EFI program, so one of a BIOS or something else.  version: iPXE's, empty if there is none to be seen."""

    arch: Arch | None
    signed: bool
    version: str


def examine(content: bytes) -> Program:
    """A boot program's nature.  Total: rubbish is a BIOS program without version."""
    arch, signed = _portable_executable(content)
    found = _VERSION.search(content) or _FULL_VERSION.search(content)
    return Program(arch, signed, found[1].decode("ascii", "replace") if found else "")


def _portable_executable(content: bytes) -> tuple[Arch | None, bool]:
    """(architecture, has a signature table) of a PE image (Microsoft PE/COFF §3.3, §3.4)."""
    if content[:2] != b"MZ" or len(content) < 0x40:
        return None, False
    at = struct.unpack_from("<I", content, 0x3C)[0]
    if content[at : at + 4] != b"PE\0\0" or len(content) < at + 24 + 152:
        return None, False
    arch = PE_MACHINES.get(struct.unpack_from("<H", content, at + 4)[0])
    optional = at + 24
    wide = struct.unpack_from("<H", content, optional)[0] == 0x20B
    # Data directory 4 is the certificate table: an offset into the file and a size.
    certificates = optional + (112 if wide else 96) + 4 * 8
    offset, size = struct.unpack_from("<II", content, certificates)
    return arch, bool(offset and size and offset + size <= len(content))
