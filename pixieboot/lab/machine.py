"""The virtual machine: which firmware it has, and the QEMU command line that gives it exactly that."""

import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pixieboot.errors import OperatorError

QEMU = "qemu-system-x86_64"
OVMF = Path("/usr/share/OVMF")
ROM = Path("/usr/lib/ipxe/qemu/pxe-virtio.rom")


class Firmware(Enum):
    """What the machine runs before anything comes over the wire."""

    BIOS = "bios"  # SeaBIOS and the network card's own ROM, which is iPXE
    UEFI = "uefi"  # EDK2 and its own PXE client; no ROM on the card
    UEFI_HTTP = "uefi-http"  # the same, with HTTP Boot instead of PXE
    UEFI_SECURE = "uefi-secure"  # the same as UEFI, with Secure Boot in force (Microsoft's keys)
    UEFI_SECURE_HTTP = "uefi-secure-http"

    @property
    def secure(self) -> bool:
        return self in (Firmware.UEFI_SECURE, Firmware.UEFI_SECURE_HTTP)

    @property
    def over_http(self) -> bool:
        return self in (Firmware.UEFI_HTTP, Firmware.UEFI_SECURE_HTTP)

    @property
    def images(self) -> tuple[Path, Path]:
        """OVMF's code and the variables that a machine of it starts with."""
        return (
            (OVMF / "OVMF_CODE_4M.ms.fd", OVMF / "OVMF_VARS_4M.ms.fd")
            if self.secure
            else (OVMF / "OVMF_CODE_4M.fd", OVMF / "OVMF_VARS_4M.fd")
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine with one network card."""

    firmware: Firmware
    mac: str
    uuid: str
    memory: int = 512  # MiB
    kvm: bool = False


def command_line(machine: Machine, tap: str, directory: Path) -> list[str]:
    """QEMU's argv; its serial port is stdin and stdout.  directory: where the machine keeps its firmware variables."""
    firmware = machine.firmware
    argv = [QEMU, "-name", directory.parent.name, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
    argv += ["-accel", "kvm" if machine.kvm else "tcg,thread=multi", "-m", str(machine.memory), "-uuid", machine.uuid]
    if machine.kvm:
        argv += ["-cpu", "host"]
    card = f"virtio-net-pci,netdev=n0,mac={machine.mac},bootindex=1"
    if firmware is Firmware.BIOS:
        argv += ["-machine", "pc,graphics=off"]  # SeaBIOS then writes its screen to the serial port
    else:
        code, variables = firmware.images
        own = directory / "vars.fd"
        shutil.copyfile(variables, own)
        argv += (
            ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
            if firmware.secure
            else ["-machine", "q35"]
        )
        argv += [
            "-drive",
            f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
            "-drive",
            f"if=pflash,unit=1,format=raw,file={own}",
        ]
        # Nobody speaks IPv6 on this wire, and EDK2 would try it for a minute.
        argv += ["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]
        card += ",romfile="  # no iPXE on the card: EDK2's own client speaks
    if firmware.over_http:
        argv += ["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]
    # Newer EDK2 has no network without a source of randomness.
    argv += ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no", "-device", card, "-device", "virtio-rng-pci"]
    return argv


def require_tools(firmware: Firmware, router: bool, loaders: bool = True) -> None:
    """Raise OperatorError with one apt line that names every package the lab lacks."""
    needs: list[tuple[str, bool]] = [
        ("qemu-system-x86", bool(shutil.which(QEMU))),
        ("iproute2", bool(shutil.which("ip"))),
        ("util-linux", bool(shutil.which("setpriv"))),
    ]
    if firmware is Firmware.BIOS:
        needs.append(("ipxe-qemu", ROM.exists() or Path("/usr/share/qemu/pxe-virtio.rom").exists()))
    else:
        needs.append(("ovmf", all(image.exists() for image in firmware.images)))
    if router:
        needs.append(("dnsmasq-base", bool(shutil.which("dnsmasq"))))
    if loaders and firmware is not Firmware.BIOS:
        needs.append(("ipxe", any((Path(place) / "ipxe.efi").exists() for place in ("/usr/lib/ipxe", "/boot", "/usr/share/ipxe"))))
    if missing := [package for package, there in needs if not there]:
        raise OperatorError("lab", f"not installed: {', '.join(missing)}", f"Run: apt-get install {' '.join(missing)}")
