"""Boot programs known by their bytes."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.bootprogram import PE_MACHINES, Program, examine
from pixieboot.model import Arch


def image(machine: int, wide: bool = True, signature: bytes = b"", text: bytes = b"") -> bytes:
    """The least of a PE image that tells what it is."""
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    coff = b"PE\0\0" + struct.pack("<H", machine).ljust(20, b"\0")
    size = 112 if wide else 96
    optional = struct.pack("<H", 0x20B if wide else 0x10B).ljust(size, b"\0")
    end = 0x40 + len(coff) + size + 16 * 8 + len(text)
    directories = [b"\0" * 8] * 16
    if signature:
        directories[4] = struct.pack("<II", end, len(signature))
    return head + coff + optional + b"".join(directories) + text + signature


CASES = {
    "x64": (image(0x8664), Program(Arch.X64_EFI, False, "")),
    "x64, signed": (image(0x8664, signature=b"PKCS7"), Program(Arch.X64_EFI, True, "")),
    "ia32": (image(0x014C, wide=False), Program(Arch.X86_EFI, False, "")),
    "ia32, signed": (image(0x014C, wide=False, signature=b"PKCS7"), Program(Arch.X86_EFI, True, "")),
    "arm64 iPXE": (image(0xAA64, text=b"iPXE/1.21.1+git\0"), Program(Arch.ARM64_EFI, False, "1.21.1+git")),
    "an unknown machine": (image(0x1234), Program(None, False, "")),
    "a BIOS program": (b"\xea\x05\x00\xc0\x07 iPXE 1.0.0+ (4bd0)", Program(None, False, "1.0.0+")),
    "a DOS program": (b"MZ" + b"\0" * 100, Program(None, False, "")),
    "nothing": (b"", Program(None, False, "")),
}


@pytest.mark.parametrize("content, program", CASES.values(), ids=CASES)
def test_examine(content: bytes, program: Program) -> None:
    assert examine(content) == program


@given(st.binary(max_size=400), st.integers(0, 300))
def test_rubbish_is_no_program(content: bytes, cut: int) -> None:
    examine(content)
    examine(b"MZ" + content)
    examine(image(0x8664, signature=content)[:cut])


def test_every_machine_is_an_efi_one() -> None:
    assert all(arch.platform == "efi" for arch in PE_MACHINES.values())


DEBIAN = Path("/usr/lib/ipxe/snponly.efi")


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's package ipxe is not installed")
def test_debians_ipxe() -> None:
    program = examine(DEBIAN.read_bytes())
    assert program.arch is Arch.X64_EFI and program.version
