"""The servers that the wire suite can be run against, all told to do the same on the same two networks.

PIXIEBOOT_WIRE_SERVER=dnsmasq (or isc-dhcpd) runs the suite against another server: what it says of them is what it is worth.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pytest

from tests.netns import Host, Network, Switch
from tests.wire.client import DISCOVER, PXE, Client, mac

SERVER = os.environ.get("PIXIEBOOT_WIRE_SERVER", "pixieboot")
ADDRESS, OTHER_ADDRESS = "10.77.0.1", "10.99.0.1"
POOL = [f"10.77.0.{number}" for number in range(100, 250)]
RELAYED_POOL = [f"10.88.0.{number}" for number in range(100, 150)]
RELAY, RELAYED_GATEWAY = "10.77.0.2", "10.88.0.1"
RESERVED_MAC, RESERVED_ADDRESS = mac(0x10), "10.77.0.10"
SECOND_ADDRESS = "10.78.0.1"  # of the server in mode "shared": two networks on one wire, of which the first has one address
TAKEN = "10.77.0.105"  # a host that nobody knows of sits on this address of the pool
CHECKOUT = Path(__file__).parent.parent.parent
TFTP_PORT = 6969
MAX_LEASE, LEASE, MIN_LEASE = 7200, 3600, 600


@dataclass
class Lan:
    """One server with two interfaces; a client on each.  On the first, the client host is also a relay."""

    server: Host
    client: Client  # on eth0, which is served
    other: Client  # on eth1
    relay: Client
    switch: Switch
    directory: Path
    process: subprocess.Popen[Any] | None = None
    log: IO[bytes] | None = None
    mode: str = "server"
    lease: int = LEASE
    force: bool = False  # server mode begins at once, without asking who else leases
    registry: Mapping[str, str] = field(default_factory=dict)  # file -> text

    def start(self) -> None:
        """Start the server under test and wait until it answers."""
        self.log = self.log or (self.directory / "log").open("ab")
        self.process = self.server.start(*COMMANDS[SERVER](self), stdout=self.log, stderr=self.log, cwd=CHECKOUT)
        if not self.answers(lambda: self.process is not None and self.process.poll() is None):
            pytest.fail(f"{SERVER} does not answer:\n{self.said()}")

    def answers(self, alive: Callable[[], bool]) -> bool:
        """Wait until the server answers, while it is alive."""
        deadline = time.monotonic() + 15
        while not self.client.ask(self.client.message(DISCOVER, mac(0xFFFFFF), PXE, flags=0x8000), wait=0.1):
            if not alive() or time.monotonic() > deadline:
                return False
        return True

    def said(self, characters: int = 3000) -> str:
        """The end of the server's log; 0: all of it."""
        return (self.directory / "log").read_text(errors="replace")[-characters:]


@contextmanager
def lan(mode: str) -> Iterator[Lan]:
    # Not pytest's tmp_path: the daemon reads its files as its own user, for whom that is closed.
    with TemporaryDirectory(prefix="pixieboot-wire-") as name, Network("wire") as network:
        directory = Path(name)
        first, second = network.switch("switch1"), network.switch("switch2")
        server = first.host("server", f"{ADDRESS}/24")
        second.plug(server, "eth1", f"{OTHER_ADDRESS}/24")
        clients = first.host("client", f"{RELAY}/24")
        others = second.host("other", "10.99.0.2/24")
        if mode == "shared":
            server.add_address("eth0", f"{SECOND_ADDRESS}/24")
        squatter = first.host("squatter", f"{TAKEN}/24")
        assert squatter
        server.ip("route", "add", "10.88.0.0/24", "via", RELAY)
        with Client(clients) as client, Client(others) as other, Client(clients) as relay:
            it = Lan(server, client, other, relay, first, directory, mode=mode)
            try:
                yield it
            finally:
                if it.process:
                    server.stop(it.process)
                if it.log:
                    it.log.close()


def pixieboot(lan: Lan) -> list[str]:
    registry, state = lan.directory / "registry", lan.directory / "state"
    for path in (registry, state):
        path.mkdir(exist_ok=True)
    for name, text in lan.registry.items():
        (registry / name).write_text(text)
    for path in (lan.directory, registry, state):
        path.chmod(0o777)
    (registry / "machines").mkdir(exist_ok=True)
    (registry / "machines" / "web1.yaml").write_text(
        f"mac: '{RESERVED_MAC.hex(':')}'\naddress: {RESERVED_ADDRESS}\nhostname: web1\nprofile: local\nboot: always\n"
    )
    networks = {
        "server": f"""
  - interface: eth0
    dhcp: server
    pools: [{POOL[0]}-{POOL[-1]}]
    routers: [{ADDRESS}]
    dns: [{ADDRESS}]
    domain: lab.example
    lease_time: {lan.lease}s
    min_lease_time: {min(lan.lease, MIN_LEASE)}s
    force: {str(lan.force).lower()}
    max_lease_time: {MAX_LEASE}s
    options: {{ntp-servers: [{ADDRESS}], v6-only-preferred: 600}}
  - subnet: 10.88.0.0/24
    dhcp: server
    pools: [{RELAYED_POOL[0]}-{RELAYED_POOL[-1]}]
    routers: [{RELAYED_GATEWAY}]
""",
        "shared": f"""
  - {{interface: eth0, subnet: 10.77.0.0/24, dhcp: server, pools: [{POOL[0]}], force: true, options: {{175: {{no-pxedhcp: 1}}}}}}
  - {{interface: eth0, subnet: 10.78.0.0/24, dhcp: server, pools: [10.78.0.100-10.78.0.199], force: true}}
""",
        "proxy": """
  - {interface: eth0, dhcp: proxy}
  - {interface: eth1, dhcp: proxy}
  - {subnet: 10.88.0.0/24, dhcp: proxy}
""",
    }[lan.mode]
    settings = lan.directory / "pixieboot.yaml"
    settings.write_text(
        f"networks:{networks}registry: {registry}\nstate: sqlite:{state}/state.db\nassets: {state}\n"
        f"tftp: {{root: {state}, port: {TFTP_PORT}}}\nlog: {{level: debug}}\n"
    )
    for path in lan.directory.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o644)
    return [sys.executable, "-m", "pixieboot", "serve", "-c", str(settings)]


def dnsmasq(lan: Lan) -> list[str]:
    common = [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file="),
        *("--log-facility=-", "--log-dhcp", "--interface=eth0"),
    ]
    if lan.mode == "proxy":
        return [
            *common,
            *("--interface=eth1", "--dhcp-range=10.77.0.0,proxy", "--dhcp-range=10.99.0.0,proxy", "--dhcp-range=10.88.0.0,proxy"),
            *(f"--pxe-service={arch},boot,ipxe.efi" for arch in ("x86PC", "X86-64_EFI", "BC_EFI", "IA32_EFI", "ARM64_EFI")),
        ]
    return [
        *common,
        f"--dhcp-range={POOL[0]},{POOL[-1]},255.255.255.0,{LEASE}",
        f"--dhcp-range=set:relayed,{RELAYED_POOL[0]},{RELAYED_POOL[-1]},255.255.255.0,{LEASE}",
        *(f"--dhcp-option=option:{name},{ADDRESS}" for name in ("router", "dns-server", "ntp-server")),
        f"--dhcp-option=tag:relayed,option:router,{RELAYED_GATEWAY}",
        *("--domain=lab.example", "--dhcp-ignore-clid", f"--dhcp-leasefile={lan.directory}/leases"),
        f"--dhcp-host={RESERVED_MAC.hex(':')},{RESERVED_ADDRESS},web1",
        *("--dhcp-match=set:x64,option:client-arch,7", "--dhcp-boot=tag:x64,ipxe.efi", "--dhcp-boot=tag:!x64,undionly.kpxe"),
    ]


def isc_dhcpd(lan: Lan) -> list[str]:
    leases, settings = lan.directory / "leases", lan.directory / "dhcpd.conf"
    leases.touch()
    settings.write_text(
        f"""
default-lease-time {LEASE}; max-lease-time {MAX_LEASE}; min-lease-time {MIN_LEASE}; ignore-client-uids true;
option domain-name "lab.example"; option domain-name-servers {ADDRESS}; option ntp-servers {ADDRESS};
option arch code 93 = unsigned integer 16;
if option arch = 7 {{ filename "ipxe.efi"; }} else {{ filename "undionly.kpxe"; }}
subnet 10.77.0.0 netmask 255.255.255.0 {{ range {POOL[0]} {POOL[-1]}; option routers {ADDRESS}; }}
subnet 10.88.0.0 netmask 255.255.255.0 {{ range {RELAYED_POOL[0]} {RELAYED_POOL[-1]}; option routers {RELAYED_GATEWAY}; }}
host web1 {{ hardware ethernet {RESERVED_MAC.hex(":")}; fixed-address {RESERVED_ADDRESS}; option host-name "web1"; }}
"""
    )
    return ["dhcpd", "-f", "-d", "-4", "--no-pid", "-cf", str(settings), "-lf", str(leases), "eth0"]


COMMANDS = {"pixieboot": pixieboot, "dnsmasq": dnsmasq, "isc-dhcpd": isc_dhcpd}
PROGRAMS = {"pixieboot": sys.executable, "dnsmasq": "dnsmasq", "isc-dhcpd": "dhcpd"}

if SERVER not in COMMANDS:
    raise SystemExit(f"PIXIEBOOT_WIRE_SERVER={SERVER}: want one of {', '.join(COMMANDS)}")
missing = pytest.mark.skipif(shutil.which(PROGRAMS[SERVER]) is None, reason=f"{PROGRAMS[SERVER]} is not installed")
ours = pytest.mark.skipif(SERVER != "pixieboot", reason="a promise of pixieboot, not of the RFCs")
