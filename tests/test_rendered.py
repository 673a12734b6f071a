"""Boot paths that are rendered for whoever asks, by TFTP or HTTP."""

from pathlib import Path

import pytest

from pixieboot.content import Rendered, find
from pixieboot.errors import OperatorError
from pixieboot.model import Event, Mac
from pixieboot.serve.rendered import mac_of, text_at
from tests.httphost import serving

MAC = "52:54:00:12:34:56"
REGISTRY = {
    "machines.yaml": f"web1: {{mac: {MAC}, uuid: 4c4c4544-0042-3510-8052-b4c04f4e3732, profile: linux}}\n"
    "bad1: {mac: 02:00:00:00:00:03, profile: broken}\n"
    "pi1: {serial: '12345678', profile: pi}\n"
    "pi2: {mac: dc:a6:32:00:00:01, profile: pi}\n"
    "pi3: {mac: 'b8:27:eb:c2:d3:e4', profile: pi}\n"
    "pi4: {serial: '22222222', profile: pi, boot: local}\n",
    "groups.yaml": "pis: {match: {arch: rpiboot}, profile: menu}\n",
    "profiles.yaml": "pi: {kernel: pi/vmlinuz, initrd: pi/initrd, args: ['console=serial0,115200', root=/dev/nfs]}\n"
    "linux: {kernel: vmlinuz, args: [console=ttyS0]}\nbroken: {kernel: v, args: ['{{ vars.nothing }}']}\n",
}
KERNEL = b"assets/vmlinuz"
CASES = {  # path -> what the text contains; None: there is none
    "PXELINUX by MAC": ("pxelinux.cfg/01-52-54-00-12-34-56", KERNEL),
    "PXELINUX by UUID": ("pxelinux.cfg/4c4c4544-0042-3510-8052-b4c04f4e3732", KERNEL),
    "PXELINUX by UUID in the other byte order": ("pxelinux.cfg/44454c4c-4200-1035-8052-b4c04f4e3732", KERNEL),
    "PXELINUX by the address of its last request": ("pxelinux.cfg/C0000263", KERNEL),
    "PXELINUX's last name, known by the asker's address": ("pxelinux.cfg/default", KERNEL),
    "below its MAC directory": ("52-54-00-12-34-56/pxelinux.cfg/default", KERNEL),
    "GRUB": ("grub/grub.cfg-01-52-54-00-12-34-56", b"linux "),
    "GRUB without a name": ("52-54-00-12-34-56/grub.cfg", b"linux "),
    "iPXE 2 beside its boot program": ("52-54-00-12-34-56/autoexec.ipxe", b"http://192.0.2.1:8080/ipxe?"),
    "a Raspberry Pi's settings by its serial number": ("12345678/config.txt", b"\nkernel=assets/pi/vmlinuz\n"),
    "a Raspberry Pi's kernel arguments": ("12345678/cmdline.txt", b"console=serial0,115200 root=/dev/nfs\n"),
    "by a serial number that DHCP told": ("9abcdef0/config.txt", b"\nkernel=assets/pi/vmlinuz\n"),
    "by the serial number of a Pi 3, which is in its MAC": ("00c2d3e4/config.txt", b"\nkernel=assets/pi/vmlinuz\n"),
    "by its MAC": ("dc-a6-32-00-00-01/config.txt", b"\nkernel=assets/pi/vmlinuz\n"),
    "at the root, by the address of its last request": ("config.txt", b"\nkernel=assets/pi/vmlinuz\n"),
    "a Raspberry Pi that nobody described gets no menu": ("11111111/config.txt", None),
    "a Pi that is to boot from its disk": ("22222222/config.txt", None),
}
ASKED_BY = {"config.txt": "192.0.2.77", "11111111/config.txt": "192.0.2.78"}


@pytest.mark.parametrize("path, expected", CASES.values(), ids=CASES)
def test_text_at(tmp_path: Path, path: str, expected: bytes | None) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        pi = Mac("dc:a6:32:00:00:01")
        host.context.journal.record(Event(1.0, Mac(MAC), "http", "script", {"peer": "192.0.2.99"}))
        host.context.journal.record(Event(1.0, pi, "dhcp", "offered", {"serial": "9abcdef0", "address": "192.0.2.77"}))
        place = find(path)
        assert isinstance(place, Rendered)
        text = text_at(place, host.context, host.context.sites.sites[0], ASKED_BY.get(path, "192.0.2.99"))
    assert (text is None) == (expected is None)
    assert text is None or (expected or b"") in text


WHOSE = {
    "a serial number that DHCP told": ("9abcdef0/start4.elf", "dc:a6:32:00:00:01"),
    "a Pi 3's": ("00c2d3e4/start.elf", "b8:27:eb:c2:d3:e4"),
    "nobody's": ("33333333/start4.elf", None),
    "a MAC": ("dc-a6-32-00-00-01/start4.elf", "dc:a6:32:00:00:01"),
    "nothing": ("start4.elf", None),
}


@pytest.mark.parametrize("path, mac", WHOSE.values(), ids=WHOSE)
def test_a_raspberry_pis_transfers_are_known_by_its_serial_number(tmp_path: Path, path: str, mac: str | None) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        host.context.journal.record(Event(1.0, Mac("dc:a6:32:00:00:01"), "dhcp", "offered", {"serial": "9abcdef0"}))
        assert mac_of(find(path), host.context) == mac


def test_strangers_that_are_ignored_get_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY, unknown="ignore") as host:
        place = find("pxelinux.cfg/01-02-00-00-00-00-99")
        assert isinstance(place, Rendered)
        assert text_at(place, host.context, host.context.sites.sites[0], "192.0.2.98") is None


def test_a_mistake_in_a_profile_is_the_operators(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        place = find("pxelinux.cfg/01-02-00-00-00-00-03")
        assert isinstance(place, Rendered)
        with pytest.raises(OperatorError, match=r"vars\.nothing is not defined"):
            text_at(place, host.context, host.context.sites.sites[0], "192.0.2.98")
