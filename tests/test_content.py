"""What boot paths mean: a table of what firmware and boot programs really ask for, and of what must never be served."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.content import LONGEST_PATH, FileBelow, Missing, Rendered, find
from pixieboot.model import Mac

MAC = Mac("52:54:00:12:34:56")
UUID = "4c4c4544-0042-3510-8052-b4c04f4e3732"


FILES: dict[str, tuple[str, str, Mac | None]] = {  # path asked for, file below the root, machine
    "a plain name": ("ipxe.efi", "ipxe.efi", None),
    "GRUB asks with a leading slash": ("/grub/x86_64-efi/command.lst", "grub/x86_64-efi/command.lst", None),
    "several slashes": ("//a///b", "a/b", None),
    "Windows asks with backslashes": ("\\Boot\\BCD", "Boot/BCD", None),
    "dots that stay where they are": ("./a/./b", "a/b", None),
    "below the MAC directory": ("52-54-00-12-34-56/ipxe.efi", "ipxe.efi", MAC),
    "below the MAC directory, upper case": ("52-54-00-AB-CD-EF/EFI/BOOT/x.efi", "EFI/BOOT/x.efi", Mac("52:54:00:ab:cd:ef")),
    "below the MAC directory, colons": ("/52:54:00:12:34:56/ipxe.efi", "ipxe.efi", MAC),
    "dnsmasq's .0 is left to whoever opens the file": ("undionly.kpxe.0", "undionly.kpxe.0", None),
    "names with spaces and umlauts": ("Bücher 1/x", "Bücher 1/x", None),
    "two dots within a name": ("a..b/c...", "a..b/c...", None),
    "a MAC without separators is a directory like any other": ("525400123456/x", "525400123456/x", None),
    "an address ladder's lower rung": ("pxelinux.cfg/C0A8", "pxelinux.cfg/C0A8", None),
    "an operator's own name on the ladder": ("pxelinux.cfg/menu-common", "pxelinux.cfg/menu-common", None),
    "GRUB's lower rung": ("grub/grub.cfg-0A0", "grub/grub.cfg-0A0", None),
    "the config.txt of an operating system": ("boot/config.txt", "boot/config.txt", None),
    "what looks like a serial number and is the file": ("0a1b2c3d", "0a1b2c3d", None),
}


@pytest.mark.parametrize("path, below, mac", FILES.values(), ids=FILES)
def test_files(path: str, below: str, mac: Mac | None) -> None:
    place = find(path)
    assert isinstance(place, FileBelow)
    assert ("/".join(place.parts), place.mac, place.root) == (below, mac, "tftp")


LADDERS: dict[str, tuple[str, str, dict[str, str]]] = {  # path asked for, kind, whose it is
    "PXELINUX by UUID": (f"pxelinux.cfg/{UUID}", "pxelinux", {"uuid": UUID}),
    "PXELINUX by MAC": ("pxelinux.cfg/01-52-54-00-12-34-56", "pxelinux", {"mac": MAC}),
    "PXELINUX by address": ("pxelinux.cfg/C0A84D0A", "pxelinux", {"address": "192.168.77.10"}),
    "PXELINUX for everybody": ("pxelinux.cfg/default", "pxelinux", {}),
    "PXELINUX below a MAC directory": ("52-54-00-12-34-56/pxelinux.cfg/default", "pxelinux", {"mac": MAC}),
    "PXELINUX in a directory of its own": ("bios/pxelinux.cfg/default", "pxelinux", {}),
    "GRUB by MAC": ("grub/grub.cfg-01-52-54-00-12-34-56", "grub", {"mac": MAC}),
    "GRUB by MAC, as Foreman names it": ("grub2/grub.cfg-52:54:00:12:34:56", "grub", {"mac": MAC}),
    "GRUB by address": ("/grub/grub.cfg-0A4D006C", "grub", {"address": "10.77.0.108"}),
    "GRUB of Debian's signed image": ("/grub/grub.cfg", "grub", {}),
    "GRUB of Debian's arm64 installer": ("/debian-installer/arm64/grub/grub.cfg", "grub", {}),
    "iPXE 2 beside its own file": ("52-54-00-12-34-56/autoexec.ipxe", "autoexec", {"mac": MAC}),
    "a Raspberry Pi's kernel arguments": ("0a1b2c3d/cmdline.txt", "cmdline.txt", {"serial": "0a1b2c3d"}),
    "a Raspberry Pi that asks by MAC": ("dc-a6-32-01-02-03/config.txt", "config.txt", {"mac": Mac("dc:a6:32:01:02:03")}),
    "a Raspberry Pi that asks at the root": ("config.txt", "config.txt", {}),
}


@pytest.mark.parametrize("path, kind, key", LADDERS.values(), ids=LADDERS)
def test_ladders(path: str, kind: str, key: dict[str, str]) -> None:
    place = find(path)
    assert isinstance(place, Rendered)
    names = ("mac", "uuid", "address", "serial")
    assert (place.kind, {name: value for name in names if (value := getattr(place, name))}) == (kind, key)


def test_what_the_operator_put_there_is_known_with_what_would_be_rendered() -> None:
    place = find("52-54-00-12-34-56/bios/pxelinux.cfg/default")
    assert isinstance(place, Rendered)
    assert (place.file.parts, place.file.mac) == (("bios", "pxelinux.cfg", "default"), MAC)


EXPECTED = {
    "iPXE's script": "/autoexec.ipxe",
    "the Pi 3's signature": "bootsig.bin",
    "a Pi's own directory": "0a1b2c3d/start4.elf",
    "shim's revocations": "52-54-00-12-34-56/revocations_sku.efi",
    "GRUB's lists": "/grub/x86_64-efi/crypto.lst",
    "a rung of PXELINUX's ladder": "pxelinux.cfg/0A4D",
}


@pytest.mark.parametrize("path", EXPECTED.values(), ids=EXPECTED)
def test_a_miss_that_nobody_needs_to_worry_about_says_why(path: str) -> None:
    place = find(path)
    assert (place.file if isinstance(place, Rendered) else place).expected  # type: ignore[union-attr]


PLACES: dict[str, tuple[str, list[str]]] = {  # path asked for, files that may be meant, the first that is there counts
    "a Raspberry Pi's firmware": ("0a1b2c3d/start4.elf", ["0a1b2c3d/start4.elf", "start4.elf"]),
    "its overlays": ("0a1b2c3d/overlays/vc4.dtbo", ["0a1b2c3d/overlays/vc4.dtbo", "overlays/vc4.dtbo"]),
    "the kernel that its config.txt names": ("0a1b2c3d/assets/pi/k", ["0a1b2c3d/assets/pi/k", "assets/pi/k"]),
    "by MAC": ("dc-a6-32-01-02-03/start4.elf", ["dc-a6-32-01-02-03/start4.elf", "start4.elf"]),
    "what all share": ("start4.elf", ["start4.elf"]),
}


@pytest.mark.parametrize("path, places", PLACES.values(), ids=PLACES)
def test_what_is_not_in_the_machines_directory_is_what_all_share(path: str, places: list[str]) -> None:
    place = find(path)
    assert isinstance(place, FileBelow)
    assert ["/".join(parts) for parts in place.places] == places


@pytest.mark.parametrize("folder", ["0a1b2c3d/", "dc-a6-32-01-02-03/", ""], ids=["serial", "MAC", "root"])
def test_a_raspberry_pis_own_file_comes_before_its_profile_and_the_shared_one_after(folder: str) -> None:
    place = find(f"{folder}config.txt")
    assert isinstance(place, Rendered) and place.shared
    assert place.file.places == (tuple(f"{folder}config.txt".split("/")),)
    assert place.shared.places[-1] == ("config.txt",)


def test_a_missing_kernel_is_not_expected() -> None:
    assert not find("0a1b2c3d/assets/pi/vmlinuz").expected  # type: ignore[union-attr]
    assert find("debian/vmlinuz") == FileBelow("tftp", ("debian", "vmlinuz"))


REFUSED = {
    "up and out": "../etc/passwd",
    "up and out, later": "a/b/../../../etc/passwd",
    "up and out, the Windows way": "..\\..\\etc\\passwd",
    "up within the root": "a/../b",
    "NUL": "ipxe.efi\0.txt",
    "a line break": "a\nb",
    "DEL": "a\x7f",
    "a byte that is no UTF-8": b"a\xc0\xae".decode(errors="surrogateescape"),
    "nothing": "",
    "the root": "/",
    "a MAC directory alone": "52-54-00-12-34-56/",
    "a name longer than any file's": "a" * 256,
    "a name of few characters and many bytes": "ü" * 128,
    "a path longer than a path": "a/" * LONGEST_PATH,
}


@pytest.mark.parametrize("path", REFUSED.values(), ids=REFUSED)
def test_refused(path: str) -> None:
    place = find(path)
    assert isinstance(place, Missing) and place.why


@settings(deadline=None)  # a busy machine is no fault of the code
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["..", ".", "", "a", "pxelinux.cfg", "grub.cfg", "\\", "0a1b2c3d"])).map("/".join)
)
def test_no_path_leads_out_of_the_root(path: str) -> None:
    place = find(path)
    if not isinstance(place, Missing):
        parts = (place.file if isinstance(place, Rendered) else place).parts
        assert parts and all(part not in ("", ".", "..") and not set(part) & set("/\\\0") for part in parts)
