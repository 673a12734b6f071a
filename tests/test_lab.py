"""The lab's parts that need no virtual machine: the guest, QEMU's command line, what it says."""

import lzma
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pixieboot import lab
from pixieboot.errors import OperatorError
from pixieboot.lab import guest, machine
from pixieboot.lab.machine import Firmware, Machine

MACHINE = Machine(Firmware.BIOS, "52:54:00:00:00:01", "b0070000-0000-4000-8000-525400000001")


def test_cpio_reads_what_we_write(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.fail("not installed: cpio")
    archive = guest.cpio(
        {
            "bin": (stat.S_IFDIR | 0o755, b""),
            "bin/program": (stat.S_IFREG | 0o755, b"content of no round length"),
            "bin/link": (stat.S_IFLNK | 0o777, b"program"),
        }
    )
    subprocess.run(["cpio", "--extract", "--make-directories", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/link").readlink() == Path("program")
    assert (tmp_path / "bin/link").read_bytes() == b"content of no round length"
    assert stat.S_IMODE((tmp_path / "bin/program").stat().st_mode) == 0o755


def test_modules_are_packed_whatever_compressed_them(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/virtio_net.ko").write_bytes(b"plain")
    (tmp_path / "kernel/virtio-ring.ko.xz").write_bytes(lzma.compress(b"packed"))
    archive = guest.initramfs(tmp_path)
    assert b"plain" in archive and b"packed" in archive
    assert b"virtio_ring\nvirtio_net" in archive


def test_a_bios_machine_starts_with_the_rom_of_its_card(tmp_path: Path) -> None:
    argv = machine.command_line(MACHINE, "port7", tmp_path)
    assert "pc,graphics=off" in argv
    assert "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,bootindex=1" in argv
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("firmware", [Firmware.UEFI, Firmware.UEFI_HTTP, Firmware.UEFI_SECURE], ids=lambda firmware: firmware.value)
def test_a_uefi_machine_has_variables_of_its_own_and_no_rom(
    firmware: Firmware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OVMF", tmp_path)
    for name in ("OVMF_CODE_4M", "OVMF_VARS_4M"):
        (tmp_path / f"{name}.fd").write_bytes(b"plain")
        (tmp_path / f"{name}.ms.fd").write_bytes(b"secure")
    own = tmp_path / "own"
    own.mkdir()
    argv = machine.command_line(Machine(firmware, MACHINE.mac, MACHINE.uuid), "port7", own)
    assert (own / "vars.fd").read_bytes() == (b"secure" if firmware.secure else b"plain")
    assert any(word.endswith(",romfile=") for word in argv)
    assert ("name=opt/org.tianocore/IPv4PXESupport,string=n" in argv) is (firmware is Firmware.UEFI_HTTP)


def test_all_missing_packages_are_named_in_one_apt_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "OVMF", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(OperatorError, match=r"apt-get install qemu-system-x86 iproute2 util-linux ovmf dnsmasq-base"):
        machine.require_tools(Firmware.UEFI, router=True)


def test_facts_become_lines_of_stages() -> None:
    offered = {
        "at": 1.0,
        "mac": "52:54:00:00:00:01",
        "service": "dhcp",
        "kind": "offered",
        "level": "info",
        "nbp": "x/ipxe.efi",
        "peer": "0",
    }
    assert lab.stage_line(lab.Fact(1.0, "daemon", "{…}", offered)) == "dhcp    offered nbp=x/ipxe.efi"
    assert lab.stage_line(lab.Fact(1.0, "daemon", "{…}", offered | {"level": "debug"})) == ""
    assert lab.stage_line(lab.Fact(9.0, "console", "PIXIEBOOT-LAB-SHELL pid=7")) == "guest   shell pid=7"
    assert lab.stage_line(lab.Fact(9.0, "console", "[    0.1] Linux version 6")) == ""


def test_a_wrong_mac_is_the_operators_fault() -> None:
    with pytest.raises(OperatorError, match="--mac: 'nonsense' is not a MAC"):
        lab.run("bios", "proxy", "nonsense", 512, 10)
