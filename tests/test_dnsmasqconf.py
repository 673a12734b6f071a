"""dnsmasq.conf -> files of ours, which our own reader then takes without a fault."""
# ruff: noqa: E501  (files and reports are kept whole)

from pathlib import Path
from typing import Any

import pytest

from pixieboot.model import Arch
from tests.importing import taken_over, written

DNSMASQ = """\
# the garage
port=0
interface=eth0
domain=lab.example
dhcp-range=192.168.77.100,192.168.77.199,255.255.255.0,12h
dhcp-option=option:router,192.168.77.1
dhcp-option=6,192.168.77.1,8.8.8.8
dhcp-option=option:ntp-server,192.168.77.1
dhcp-option=tag:efi64,option:mtu,9000
dhcp-authoritative
no-ping
dhcp-host=52:54:00:12:34:56,web1,192.168.77.10,infinite
dhcp-host=52:54:00:12:34:57,52:54:0:12:34:58,192.168.77.11
dhcp-host=11:22:33:*:*:*,set:odd,odd   # a pattern
dhcp-host=id:01:02,node9
dhcp-host=52:54:00:12:34:59,ignore
dhcp-ignore=tag:!known
dhcp-match=set:efi64,option:client-arch,7
dhcp-vendorclass=set:arm64,PXEClient:Arch:00011
dhcp-match=set:odd,option:vendor-class,x
dhcp-userclass=set:ipxe,iPXE
dhcp-boot=tag:efi64,tag:!ipxe,ipxe.efi
dhcp-boot=tag:arm64,tag:!ipxe,/arm/ipxe.efi
dhcp-boot=tag:!ipxe,undionly.kpxe,boothost,192.168.77.5
dhcp-boot=tag:ipxe,http://192.168.77.1:8080/boot.ipxe
dhcp-boot=tag:red,red.0
pxe-service=IA32_EFI,"32 bit",ipxe32.efi
pxe-service=x86PC,"local",0
enable-tftp
tftp-root=/srv/tftp
tftp-port-range=30000,30999
tftp-single-port
address=/example.com/1.2.3.4
conf-dir=/etc/dnsmasq.d
"""


def test_dnsmasq(tmp_path: Path) -> None:
    settings, inventory, report = taken_over(tmp_path, written(tmp_path, "dnsmasq.conf", DNSMASQ))
    (network,) = settings.networks
    assert (network.interface, network.mode, network.lease_time, network.domain) == ("eth0", "server", 43200, "lab.example")
    assert (network.routers, network.dns) == (("192.168.77.1",), ("192.168.77.1", "8.8.8.8"))
    assert network.options == {42: bytes([192, 168, 77, 1])} and network.authoritative and not network.probe
    assert [(pool.last - pool.first) for pool in network.pools] == [99]
    assert settings.answer == "known"
    assert (settings.tftp.root, settings.tftp.ports, settings.tftp.single_port) == (Path("/srv/tftp"), (30000, 30999), True)
    assert settings.loaders == {
        Arch.X86_BIOS: "undionly.kpxe",
        Arch.X64_EFI: "ipxe.efi",
        Arch.ARM64_EFI: "arm/ipxe.efi",
        Arch.X86_EFI: "ipxe32.efi",
    }
    assert {name: (machine.macs, machine.address) for name, machine in inventory.machines.items()} == {
        "web1": (("52:54:00:12:34:56",), "192.168.77.10"),
        "52-54-00-12-34-57": (("52:54:00:12:34:57", "52:54:00:12:34:58"), "192.168.77.11"),
    }
    assert inventory.profiles["imported"].chain == "http://192.168.77.1:8080/boot.ipxe"
    assert inventory.groups["default"].profile == "imported"
    assert report == [
        "9: option for tag:efi64 only: give it to a group or a machine",
        "14: 11:22:33:*:*:*: a pattern of MAC addresses is not carried over",
        "14: set:odd: what hangs on tags is not carried over",
        "14: a machine without a MAC address is not carried over",
        "15: id:01:02: machines are known by MAC, UUID or serial number",
        "15: a machine without a MAC address is not carried over",
        "16: a machine to be ignored is not carried over: there is no such order",
        "20: the tag odd stands for neither an architecture nor iPXE",
        "24: undionly.kpxe came from another server (boothost, 192.168.77.5): boot programs come from here now, put them into tftp.root",
        "26: red.0 for red: what hangs on such tags is not carried over",
        "28: this pxe-service is not carried over",
        "33: address: pixieboot serves no DNS",
        "34: conf-dir is not carried over",
    ]


RANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "proxy": ("interface=eth0\ndhcp-range=192.168.1.0,proxy\n", {"interface": "eth0", "mode": "proxy"}),
    "of an interface": ("dhcp-range=eth1,10.0.0.5,10.0.0.9,2w\n", {"interface": "eth1", "mode": "server", "lease_time": 1209600}),
    "reservations only": ("interface=eth0\ndhcp-range=10.0.0.0,static,45\n", {"pools": (), "mode": "server"}),
    "without an interface": ("dhcp-range=10.0.0.5,10.0.0.9,255.255.0.0\n", {"interface": None, "mode": "server"}),
    "IPv6": ("interface=eth0\ndhcp-range=::1,::9\n", {"mode": "proxy"}),
}


@pytest.mark.parametrize("text, expected", RANGES.values(), ids=RANGES)
def test_ranges_of_dnsmasq(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    text = text.replace(",45", ",90m")
    (network,) = taken_over(tmp_path, written(tmp_path, "dnsmasq.conf", text))[0].networks
    assert {key: getattr(network, key) for key in expected} == expected
