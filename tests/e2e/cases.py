"""The machines of the end-to-end tests, and what their boots must leave in the journal and on the console."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pixieboot.lab import Firmware
from pixieboot.lab.guest import package_files
from tests.e2e.boots import Boot, Case, Stage

ROM = ("SeaBIOS", "Booting from ROM", "iPXE initialising devices...ok")
PXE = (">>Start PXE over IPv4.", "NBP file downloaded successfully.")
IPXE = ("iPXE initialising devices...ok", "Features:")
CTRL_B, DOWN = "\x02", "\x1b[B"
A_STRANGER = {"macs": ["52:54:00:00:00:99"]}  # the registry's machine is another one


def ends(tail: str) -> Callable[[Any], bool]:
    return lambda value: str(value).endswith(tail)


def large(size: Any) -> bool:
    return isinstance(size, int) and size > 30_000


def leased(boot: Boot) -> list[Stage]:
    """The lease that server mode gives at this stage: always the address that Linux ended up with."""
    return [("dhcp", "acked", {"mac": boot.lab.mac, "address": boot.address})] if boot.lab.mode == "server" else []


def linux(boot: Boot) -> list[Stage]:
    return [*leased(boot), ("http", "done", {"mac": boot.lab.mac})]


def ipxe(boot: Boot) -> list[Stage]:
    """From iPXE's DHCP to the end."""
    who = {"mac": boot.lab.mac}
    return [
        ("dhcp", "offered", {**who, "url": f"{boot.lab.url}/boot.ipxe", "loader": "ipxe"}),
        *leased(boot),
        ("http", "script", {**who, "profile": "lab"}),
        ("http", "sent", {**who, "path": "/assets/vmlinuz", "bytes": large}),
        ("http", "sent", {**who, "path": "/assets/initrd.img", "bytes": large}),
        *linux(boot),
    ]


def loaded(boot: Boot, nbp: str) -> list[Stage]:
    """PXE firmware gets this boot program by TFTP."""
    who, path = {"mac": boot.lab.mac}, f"{boot.lab.mac.dashed}/{nbp}"
    return [
        ("dhcp", "offered", {**who, "nbp": path, "arch": "x64-efi", "loader": "firmware"}),
        *leased(boot),
        ("tftp", "sent", {**who, "path": path, "bytes": large}),
    ]


def uefi(boot: Boot) -> list[Stage]:
    return [*loaded(boot, "ipxe.efi"), *ipxe(boot)]


def uefi_http(boot: Boot) -> list[Stage]:
    who, path = {"mac": boot.lab.mac}, f"/tftp/{boot.lab.mac.dashed}/ipxe.efi"
    return [
        ("dhcp", "offered", {**who, "url": f"{boot.lab.url}{path}", "arch": "x64-efi", "loader": "firmware-http"}),
        *leased(boot),
        ("http", "sent", {**who, "path": path, "bytes": large}),
        *ipxe(boot),
    ]


def menu(boot: Boot) -> list[Stage]:
    """A machine that nobody described: the menu first, then the profile that was chosen there."""
    who = {"mac": boot.lab.mac}
    return [("http", "script", {**who, "profile": "menu"}), ("http", "script", {**who, "profile": "lab"}), *ipxe(boot)[3:]]


def secure(boot: Boot) -> list[Stage]:
    who = {"mac": boot.lab.mac}
    return [
        *loaded(boot, "shimx64.efi"),
        ("tftp", "sent", {**who, "path": ends("/grubx64.efi"), "bytes": large}),
        ("tftp", "sent", {**who, "path": "/grub/grub.cfg"}),
        ("tftp", "sent", {**who, "path": "/assets/vmlinuz", "bytes": large}),
        ("tftp", "sent", {**who, "path": "/assets/initrd.img", "bytes": large}),
        *linux(boot),
    ]


def grub_over_http(boot: Boot) -> list[Stage]:
    who = {"mac": boot.lab.mac}
    return [
        *loaded(boot, "grubnetx64.efi"),
        ("tftp", "sent", {**who, "path": "/grub/x86_64-efi/http.mod"}),
        ("http", "script", {**who, "path": "/grub", "profile": "lab"}),
        ("http", "sent", {**who, "path": "/assets/vmlinuz", "bytes": large}),
        ("http", "sent", {**who, "path": "/assets/initrd.img", "bytes": large}),
        *linux(boot),
    ]


def pxelinux(boot: Boot) -> list[Stage]:
    who, below = {"mac": boot.lab.mac}, boot.lab.mac.dashed
    return [
        ("tftp", "sent", {**who, "path": "pxelinux.0", "bytes": large}),
        ("tftp", "sent", {**who, "path": f"{below}/ldlinux.c32", "bytes": large}),
        ("tftp", "sent", {**who, "path": f"{below}/pxelinux.cfg/01-{below}"}),
        ("tftp", "sent", {**who, "path": "/assets/vmlinuz", "bytes": large}),
        ("tftp", "sent", {**who, "path": "/assets/initrd.img", "bytes": large}),
        *linux(boot),
    ]


def grub_files() -> Mapping[str, Path | str]:
    """GRUB with its modules as grub-mknetdir lays them out, and a grub.cfg as Matchbox's users write it."""
    tree = package_files("grub-efi-amd64-bin") / "usr/lib/grub/x86_64-efi"
    return {
        "grubnetx64.efi": tree / "monolithic/grubnetx64.efi",
        **{f"grub/x86_64-efi/{file.name}": file for file in (*tree.glob("*.mod"), *tree.glob("*.lst"))},
        "grub/grub.cfg": "insmod http\nconfigfile (http,10.77.0.1:8080)/grub?mac=$net_default_mac\n",
    }


def pxelinux_files() -> Mapping[str, Path | str]:
    return {
        "pxelinux.0": package_files("pxelinux") / "usr/lib/PXELINUX/pxelinux.0",
        "ldlinux.c32": package_files("syslinux-common") / "usr/lib/syslinux/modules/bios/ldlinux.c32",
    }


# What is typed into the ROM's shell makes its cached DHCPACK look as a ROM's would that had loaded pxelinux.0 itself.
INTO_PXELINUX = (
    ("Press Ctrl-B for the iPXE command line", CTRL_B),
    ("iPXE>", "dhcp && set net0.dhcp/filename ${mac:hexhyp}/pxelinux.0 && chain tftp://10.77.0.1/pxelinux.0\r"),
)

CASES: dict[str, Case] = {
    "SeaBIOS with the card's iPXE, beside a router": Case(Firmware.BIOS, "proxy", ipxe, (*ROM, "Features:")),
    "SeaBIOS with the card's iPXE, server": Case(Firmware.BIOS, "server", ipxe, (*ROM, "Features:")),
    "UEFI PXE, beside a router": Case(Firmware.UEFI, "proxy", uefi, (*PXE, *IPXE)),
    "UEFI PXE, reply style direct, beside a router": Case(
        Firmware.UEFI, "proxy", uefi, (*PXE, *IPXE), machine={"reply_style": "direct"}
    ),
    "UEFI PXE, reply style menu, beside a router": Case(
        Firmware.UEFI, "proxy", uefi, (*PXE, *IPXE), machine={"reply_style": "menu"}
    ),
    "UEFI PXE, server": Case(Firmware.UEFI, "server", uefi, (*PXE, *IPXE)),
    "UEFI HTTP Boot, beside a router": Case(Firmware.UEFI_HTTP, "proxy", uefi_http, (">>Start HTTP Boot over IPv4", *IPXE)),
    "UEFI HTTP Boot, server": Case(Firmware.UEFI_HTTP, "server", uefi_http, (">>Start HTTP Boot over IPv4", *IPXE)),
    "Secure Boot: shim, GRUB, signed kernel, server": Case(
        Firmware.UEFI_SECURE,
        "server",
        secure,
        (*PXE, "Welcome to GRUB!", "UEFI Secure Boot is enabled", "secureboot: Secure boot enabled"),
    ),
    "UEFI, GRUB over HTTP, server": Case(
        Firmware.UEFI,
        "server",
        grub_over_http,
        (*PXE, "Welcome to GRUB!"),
        machine={"loader": "grubnetx64.efi"},
        tftp_files=grub_files,
    ),
    "SeaBIOS, PXELINUX over TFTP, server": Case(
        Firmware.BIOS, "server", pxelinux, (*ROM, "PXELINUX 6"), tftp_files=pxelinux_files, keys=INTO_PXELINUX
    ),
    "SeaBIOS, a profile chosen in the menu, beside a router": Case(
        Firmware.BIOS,
        "proxy",
        menu,
        (*ROM, "Boot from the local disk"),
        machine=A_STRANGER,
        keys=[("The lab's guest", f"{DOWN}\r")],
    ),
}
