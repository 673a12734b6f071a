"""The machines of the end-to-end tests, and what their boots must leave in the journal and on the console."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixieboot.lab import Firmware
from pixieboot.lab.guest import MARK, package_files
from tests.e2e.boots import TIMEOUT, Boot, Case, Stage

ETC = Path(__file__).parents[2] / "etc"
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
    """The lease that server mode gives at this stage: always the address that Linux ended up with, if it came that far."""
    address = {"address": boot.address} if boot.address else {}
    return [("dhcp", "acked", {"mac": boot.lab.mac, **address})] if boot.lab.mode == "server" else []


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
        "tftproot/grubnetx64.efi": tree / "monolithic/grubnetx64.efi",
        **{f"tftproot/grub/x86_64-efi/{file.name}": file for file in (*tree.glob("*.mod"), *tree.glob("*.lst"))},
        "tftproot/grub/grub.cfg": "insmod http\nconfigfile (http,10.77.0.1:8080)/grub?mac=$net_default_mac\n",
    }


def pxelinux_files() -> Mapping[str, Path | str]:
    return {
        "tftproot/pxelinux.0": package_files("pxelinux") / "usr/lib/PXELINUX/pxelinux.0",
        "tftproot/ldlinux.c32": package_files("syslinux-common") / "usr/lib/syslinux/modules/bios/ldlinux.c32",
    }


# What is typed into the ROM's shell makes its cached DHCPACK look as a ROM's would that had loaded pxelinux.0 itself.
INTO_PXELINUX = (
    ("Press Ctrl-B for the iPXE command line", CTRL_B),
    ("iPXE>", "dhcp && set net0.dhcp/filename ${mac:hexhyp}/pxelinux.0 && chain tftp://10.77.0.1/pxelinux.0\r"),
)


def installer_files() -> Mapping[str, Path | str]:
    """Debian's installer for network boots, and our sample preseed; when the installer obeys it, it says so and goes off."""
    listed = subprocess.run(["apt-cache", "pkgnames", "debian-installer-"], capture_output=True, text=True, timeout=60).stdout
    found = sorted(re.findall(r"^debian-installer-\d+-netboot-amd64$", listed, re.MULTILINE))
    if not found:
        pytest.skip("apt knows no debian-installer-…-netboot-amd64: is this Debian?")
    tree = next(package_files(found[-1]).glob("usr/lib/debian-installer/images/*/amd64/text/debian-installer/amd64"))
    order = f'echo "{MARK}-PRESEED {{{{ client.mac }}}} {{{{ machine.hostname }}}} {{{{ vars.disk }}}}" >/dev/console; poweroff -f'
    return {
        "assets/debian/12/linux": tree / "linux",
        "assets/debian/12/initrd.gz": tree / "initrd.gz",
        "registry/templates/debian.cfg.j2": ETC / "templates/debian.cfg.j2",
        "registry/templates/lab.cfg.j2": f'{{% include "debian.cfg.j2" %}}\nd-i preseed/early_command string {order}\n',
    }


def sample_installer() -> Mapping[str, Any]:
    """The sample's profile, but on the serial console, without the search for IPv6 routers, and with our last line."""
    sample = yaml.safe_load((ETC / "profiles.yaml").read_text())["debian-installer"]
    return {
        **sample,
        "args": [*sample["args"], "console=ttyS0", "ipv6.disable=1", "DEBIAN_FRONTEND=text"],
        "files": {"preseed": "lab.cfg.j2"},
    }


def installer(boot: Boot) -> list[Stage]:
    who = {"mac": boot.lab.mac}
    return [
        ("http", "script", {**who, "profile": "lab"}),
        ("http", "sent", {**who, "path": "/assets/debian/12/linux", "bytes": large}),
        ("http", "sent", {**who, "path": "/assets/debian/12/initrd.gz", "bytes": large}),
        ("dhcp", "acked", who),
        ("http", "sent", {**who, "path": "/files/preseed", "profile": "lab"}),
    ]


CASES: dict[str, Case] = {  # these end in Linux, which reports that it is done
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
        files=grub_files,
    ),
    "SeaBIOS, PXELINUX over TFTP, server": Case(
        Firmware.BIOS, "server", pxelinux, (*ROM, "PXELINUX 6"), files=pxelinux_files, keys=INTO_PXELINUX
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

INSTALLERS: dict[str, Case] = {
    "SeaBIOS, Debian's installer, server": Case(
        Firmware.BIOS,
        "server",
        installer,
        (*ROM, "auto=true", f"{MARK}-PRESEED 52:54:00:b0:07:01 node7 /dev/vda"),
        machine={
            "hostname": "node7",
            "vars": {"disk": "/dev/vda", "timezone": "Europe/Berlin", "ntp_server": "10.77.0.1"},
        },
        profile=sample_installer(),
        files=installer_files,
        memory=1024,
        timeout=2 * TIMEOUT,
        sentence=r"^Its operating system runs: it asked for /files/preseed, .* after its first packet\.$",
    ),
}

FAILURES: dict[str, Case] = {
    "UEFI, a boot program for a BIOS": Case(
        Firmware.UEFI,
        "server",
        lambda boot: loaded(boot, "undionly.kpxe"),
        (*PXE, "failed to load Boot0001"),
        machine={"loader": "undionly.kpxe"},
        sentence=r"^Its firmware is x64-efi and was given undionly\.kpxe, which runs on x86-bios\.$",
        verdict="wrong-loader-arch",
    ),
    "UEFI, TFTP blocked, beside a router": Case(
        Firmware.UEFI,
        "proxy",
        lambda boot: [("pxe", "acked", {"mac": boot.lab.mac, "nbp": ends("/ipxe.efi")})],
        (">>Start PXE over IPv4.", "PXE-E18: Server response timeout."),
        blocked="udp dport 69",
        sentence=r"^It asked port 4011, was told to load ipxe\.efi, and no TFTP request arrived\.$",
        verdict="tftp-blocked",
    ),
    "SeaBIOS, no such kernel": Case(
        Firmware.BIOS,
        "server",
        lambda boot: [("http", "missing", {"mac": boot.lab.mac, "path": "/assets/nowhere/vmlinuz"})],
        (*ROM, "this did not boot"),
        profile={"kernel": "nowhere/vmlinuz"},
        sentence=r"^Its script named /assets/nowhere/vmlinuz, which is not there \(404\)\.$",
        verdict="file-missing",
    ),
    "SeaBIOS, a script that cannot be written": Case(
        Firmware.BIOS,
        "server",
        lambda boot: [("http", "script", {"mac": boot.lab.mac, "status": 500})],
        (*ROM, "HTTP 5xx Server Error"),
        profile={"args": ["role={{ vars.role }}"]},
        sentence=r"^Its script could not be written: .*/profiles\.yaml:2: args of profile lab: vars\.role is not defined\..*",
        verdict="script-error",
    ),
    "Secure Boot, iPXE without a signature": Case(
        Firmware.UEFI_SECURE,
        "server",
        lambda boot: loaded(boot, "ipxe.efi"),
        (*PXE, "Access Denied"),
        machine={"loader": "ipxe.efi"},
        sentence=r"^Its firmware fetched ipxe\.efi whole, did not run it and .*: Secure Boot refuses",
        verdict="secure-boot",
    ),
}
