"""ISC's dhcpd.conf -> files of ours, which our own reader then takes without a fault."""

from pathlib import Path

from pixieboot.model import Arch
from tests.importing import taken_over, written

DHCPD = """\
# the lab
ddns-update-style none;
option domain-name "lab.example";
option domain-name-servers 192.168.77.1, 8.8.8.8;
option arch code 93 = unsigned integer 16;
default-lease-time 600; max-lease-time 7200;
authoritative;
subnet 192.168.77.0 netmask 255.255.255.0 {
  option routers 192.168.77.1;
  pool { deny unknown-clients; range 192.168.77.100 192.168.77.150; }
  range 192.168.77.180 192.168.77.199;
  next-server 192.168.77.5;
  if exists user-class and option user-class = "iPXE" {
    filename "http://bootcfg.lab:8080/boot.ipxe";
  } elsif option arch = 00:07 or option arch = 00:09 {
    filename "ipxe.efi";
  } elsif option arch = 0x0b {
    filename "arm.efi";
  } elsif option arch = 00:10 {
    filename "http://x/ipxe.efi";
  } else {
    filename "undionly.kpxe";
  }
}
subnet 10.0.0.0 netmask 255.255.255.0 { }
subnet 10.0.0.9 netmask 255.255.255.0 { }
group {
  option ntp-servers 192.168.77.1;
  host web1 { hardware ethernet 52:54:0:12:34:56; fixed-address 192.168.77.10, 192.168.77.11; option host-name "web-1"; }
  host node_2 { hardware ethernet 52:54:00:12:34:57; filename "pxelinux.0"; }
  host ghost { fixed-address 192.168.77.12; }
}
host web1 { hardware ethernet 52:54:00:12:34:99; }
class "odd" { match if substring(option vendor-class-identifier, 0, 4) = "oddy"; }
"""


def test_dhcpd(tmp_path: Path) -> None:
    settings, inventory, report = taken_over(tmp_path, written(tmp_path, "dhcpd.conf", DHCPD))
    first, second = settings.networks
    assert (str(first.subnet), first.mode, first.lease_time, first.max_lease_time) == ("192.168.77.0/24", "server", 600, 7200)
    assert (first.routers, first.dns, first.domain) == (("192.168.77.1",), ("192.168.77.1", "8.8.8.8"), "lab.example")
    assert len(first.pools) == 2 and first.authoritative and settings.answer == "known"
    assert (str(second.subnet), second.pools, second.dns, second.routers) == ("10.0.0.0/24", (), ("192.168.77.1", "8.8.8.8"), ())
    assert settings.loaders[Arch.X64_EFI] == "ipxe.efi" and settings.loaders[Arch.ARM64_EFI] == "arm.efi"
    assert settings.loaders[Arch.X86_BIOS] == "undionly.kpxe"
    web1, node2, other = (inventory.machines[name] for name in ("web1", "node_2", "web1-2"))
    assert (web1.macs, web1.address, web1.hostname) == (("52:54:00:12:34:56",), "192.168.77.10", "web-1")
    assert web1.options == node2.options == {42: bytes([192, 168, 77, 1])} and not other.options
    assert (node2.loader, node2.hostname) == ({"*": "pxelinux.0"}, None)
    assert inventory.profiles["imported"].chain == "http://bootcfg.lab:8080/boot.ipxe"
    assert report == [
        "5: option arch code 93 = unsigned integer 16 is not carried over",
        "12: next-server 192.168.77.5: boot programs come from here now, put them into tftp.root",
        "20: http://x/ipxe.efi for x64-efi: boot programs come from here now, by HTTP boot too, put them into tftp.root",
        "26: 10.0.0.9/255.255.255.0 is not an IPv4 network",
        "29: of several fixed addresses the first is carried over",
        "31: host ghost has no Ethernet address and is not carried over",
        "33: the machine 'web1' is called web1-2 here",
        "34: class odd is not carried over",
        "network 10.0.0.0/24: if this host stands in that network itself, and not behind a relay, add `interface: NAME`",
        "network 192.168.77.0/24: if this host stands in that network itself, and not behind a relay, add `interface: NAME`",
    ]
