"""The exact lines by which an existing DHCP server sends machines here, where pixieboot is not to answer DHCP itself.

Each kind is a function from (our address, HTTP port, loaders) to text that can be pasted.  Where a router cannot tell
architectures or iPXE apart, that is said instead of lines that would half work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pixieboot.model import ARCH_CODES, Arch


@dataclass(frozen=True, slots=True)
class Here:
    """Where machines are to be sent."""

    address: str
    http_port: int
    loaders: Mapping[Arch, str]

    @property
    def script(self) -> str:
        return f"http://{self.address}:{self.http_port}/boot.ipxe"

    def tftp(self) -> list[tuple[int, str]]:
        """(number in option 93, file) of firmware that loads by TFTP."""
        return [(code, self.loaders[arch]) for code, (arch, http) in ARCH_CODES.items() if not http and arch in self.loaders]

    def http(self) -> list[tuple[int, str]]:
        """(number, URL) of UEFI HTTP Boot."""
        base = f"http://{self.address}:{self.http_port}/tftp"
        return [
            (code, f"{base}/{self.loaders[arch]}") for code, (arch, http) in ARCH_CODES.items() if http and arch in self.loaders
        ]

    @property
    def bios(self) -> str:
        return self.loaders.get(Arch.X86_BIOS, "undionly.kpxe")

    @property
    def efi(self) -> str:
        return self.loaders.get(Arch.X64_EFI, "ipxe.efi")


def dnsmasq(here: Here) -> str:
    lines = ["# /etc/dnsmasq.d/pixieboot.conf", "dhcp-match=set:ipxe,175", "dhcp-userclass=set:ipxe,iPXE"]
    lines += [f"dhcp-match=set:arch{code},option:client-arch,{code}" for code, _ in (*here.tftp(), *here.http())]
    lines.append(f"dhcp-boot=tag:ipxe,{here.script}")
    lines += [f"dhcp-boot=tag:!ipxe,tag:arch{code},{file},,{here.address}" for code, file in here.tftp()]
    for code, url in here.http():
        lines += [f"dhcp-option-force=tag:!ipxe,tag:arch{code},60,HTTPClient", f"dhcp-boot=tag:!ipxe,tag:arch{code},{url}"]
    return "\n".join(lines)


def openwrt(here: Here) -> str:
    """OpenWrt's dnsmasq by uci; what uci does not know goes into its own file."""
    lines = ["# On the router, as root:", "cat > /etc/dnsmasq.d/pixieboot.conf <<'EOF'", *dnsmasq(here).splitlines()[1:], "EOF"]
    lines += ["uci add_list dhcp.@dnsmasq[0].confdir=/etc/dnsmasq.d", "uci commit dhcp", "/etc/init.d/dnsmasq restart"]
    return "\n".join(lines)


def isc(here: Here) -> str:
    lines = ["# dhcpd.conf, global", "option client-architecture code 93 = unsigned integer 16;"]
    lines += ["option ipxe-encapsulated code 175 = string;", f"next-server {here.address};"]
    lines += ['if exists ipxe-encapsulated or (exists user-class and option user-class = "iPXE") {', f'  filename "{here.script}";']
    for code, file in here.tftp():
        lines += [_isc_branch(code), f'  filename "{file}";']
    for code, url in here.http():
        lines += [_isc_branch(code), '  option vendor-class-identifier "HTTPClient";', f'  filename "{url}";']
    return "\n".join([*lines, "}"])


def _isc_branch(code: int) -> str:
    return f"}} elsif option client-architecture = {code >> 8:02x}:{code & 255:02x} {{"


def kea(here: Here) -> str:
    classes = [
        '  {"name": "pixieboot-ipxe", "test": "option[175].exists or substring(option[77].hex,0,4) == \'iPXE\'",\n'
        f'   "boot-file-name": "{here.script}"}}'
    ]
    for code, file in here.tftp():
        test = f"not member('pixieboot-ipxe') and option[93].hex == 0x{code:04x}"
        classes.append(
            f'  {{"name": "pixieboot-{code}", "test": "{test}",\n   "next-server": "{here.address}", "boot-file-name": "{file}"}}'
        )
    for code, url in here.http():
        test = f"not member('pixieboot-ipxe') and option[93].hex == 0x{code:04x}"
        forced = '{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true}'
        classes.append(
            f'  {{"name": "pixieboot-{code}", "test": "{test}",\n   "boot-file-name": "{url}", "option-data": [{forced}]}}'
        )
    return '// kea-dhcp4.conf, in "Dhcp4"\n"client-classes": [\n' + ",\n".join(classes) + "\n]"


def mikrotik(here: Here) -> str:
    """RouterOS 7: matchers by option 93 and 77; older ones cannot tell clients apart."""
    lines = ["# RouterOS 7.4 or newer; replace SERVER by your DHCP server's name (/ip dhcp-server print)"]
    lines += [f"/ip dhcp-server option add name=pixieboot-next code=66 value=\"s'{here.address}'\""]
    lines += [f"/ip dhcp-server option add name=pixieboot-script code=67 value=\"s'{here.script}'\""]
    lines += ["/ip dhcp-server option sets add name=pixieboot-ipxe options=pixieboot-script"]
    lines += ['/ip dhcp-server matcher add server=SERVER name=pixieboot-ipxe code=77 value="iPXE" option-set=pixieboot-ipxe']
    for code, file in here.tftp():
        lines += [
            f"/ip dhcp-server option add name=pixieboot-file{code} code=67 value=\"s'{file}'\"",
            f"/ip dhcp-server option sets add name=pixieboot-{code} options=pixieboot-next,pixieboot-file{code}",
            f"/ip dhcp-server matcher add server=SERVER name=pixieboot-{code} code=93 value=0x{code:04x} "
            f"option-set=pixieboot-{code}",
        ]
    return "\n".join(lines)


def opnsense(here: Here) -> str:
    lines = [
        "OPNsense and pfSense, Services > DHCPv4 (ISC) > your interface > Network booting:",
        "  Enable network booting        yes",
        f"  Next server / TFTP server     {here.address}",
        f"  Default BIOS file name        {here.bios}",
    ]
    names = {
        Arch.X86_EFI: "x86 UEFI (32-bit) file",
        Arch.X64_EFI: "x64 UEFI/EBC (64-bit) file",
        Arch.ARM64_EFI: "ARM 64-bit UEFI file",
    }
    lines += [f"  {label:<29} {here.loaders[arch]}" for arch, label in names.items() if arch in here.loaders]
    lines += [
        f"  iPXE boot script (newer)      {here.script}",
        "If there is no field for iPXE, machines load iPXE again and again: set the interface to `dhcp: proxy` here instead;",
        "then none of this is needed. With Kea or dnsmasq in OPNsense 25: pixieboot router-help kea (or dnsmasq).",
    ]
    return "\n".join(lines)


def unifi(here: Here) -> str:
    return "\n".join([
        "UniFi Network, Settings > Networks > your network > DHCP > Show options:",
        f"  Network Boot     {here.address}   file {here.efi}   (all machines UEFI x64)",
        f"  or               {here.address}   file {here.bios}   (all machines BIOS)",
        "UniFi gives every machine the same file and cannot tell iPXE apart, so the loader would load itself again: this works",
        "only with an iPXE whose embedded script chains to",
        f"  {here.script}",
        "Better: leave Network Boot off and keep `dhcp: proxy` here. Nothing has to be set in UniFi then; only if a firmware",
        "ignores proxies (`pixieboot why` says offer-ignored), set the fields above for that network.",
    ])  # fmt: skip


def fritzbox(here: Here) -> str:
    return "\n".join([
        "A FRITZ!Box cannot send boot options at all, and needs not: keep `dhcp: proxy` here (the default).",
        "It leases addresses, pixieboot adds the boot data. Machine and pixieboot must be in the same network: not the guest one.",
        "If a machine's firmware ignores proxies, switch the FRITZ!Box's DHCP off (Home Network > Network > IPv4) and set",
        "  networks: [{interface: IF, dhcp: server, pools: [A-B], routers: [ADDRESS OF THE FRITZ!BOX], dns: [THE SAME]}]",
        f"in pixieboot.yaml; this host ({here.address}) must have a fixed address then.",
    ])  # fmt: skip


def relay(here: Here) -> str:
    return "\n".join([
        "! Cisco IOS and alike: both addresses on the interface of the machines; the router's DHCP and pixieboot as proxy.",
        "interface VlanNNN",
        "  ip helper-address ADDRESS-OF-THE-DHCP-SERVER",
        f"  ip helper-address {here.address}",
        "! and in pixieboot.yaml, for machines whose DHCP pixieboot is to do itself:",
        "!   networks: [{subnet: 10.20.0.0/24, dhcp: server, pools: [10.20.0.50-10.20.0.250]}]",
    ])  # fmt: skip


KINDS: Mapping[str, Callable[[Here], str]] = {
    "dnsmasq": dnsmasq,
    "openwrt": openwrt,
    "isc": isc,
    "kea": kea,
    "mikrotik": mikrotik,
    "opnsense": opnsense,
    "unifi": unifi,
    "fritzbox": fritzbox,
    "relay": relay,
}
