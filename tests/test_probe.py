"""scapy's look at the wire: which servers answered, from packets of our own making and from a real server."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pixieboot import probe
from pixieboot.model import Arch, Loader
from pixieboot.pxe import client_of
from pixieboot.wire.dhcp import decode
from tests.netns import Network


def answer(*options: object, **fields: Any) -> Packet:
    bootp = BOOTP(**({"op": 2, "xid": probe.XID} | fields))
    packet = Ether(src="52:54:00:00:00:01") / IP(src="10.0.0.1") / UDP(sport=67, dport=68) / bootp / DHCP(options=[*options, "end"])
    packet = Ether(bytes(packet))
    packet.sniffed_on = "eth0"
    return packet


OFFER = ("message-type", 2)
ANSWERS = {  # packet, (address, leases, pxe) or None
    "a router": (answer(OFFER, ("server_id", "10.0.0.2"), yiaddr="10.0.0.9"), ("10.0.0.2", True, False)),
    "a server that does not say who it is": (answer(OFFER, yiaddr="10.0.0.9"), ("10.0.0.1", True, False)),
    "a proxy": (answer(OFFER, (60, b"PXEClient")), ("10.0.0.1", False, True)),
    "a proxy of UEFI HTTP Boot": (answer(OFFER, (60, b"HTTPClient")), ("10.0.0.1", False, True)),
    "a router with a boot file": (answer(OFFER, yiaddr="10.0.0.9", file=b"pxelinux.0"), ("10.0.0.1", True, True)),
    "a router with option 67": (answer(OFFER, (67, b"pxelinux.0"), yiaddr="10.0.0.9"), ("10.0.0.1", True, True)),
    "an ACK": (answer(("message-type", 5), yiaddr="10.0.0.9"), None),
    "an answer to somebody else": (answer(OFFER, yiaddr="10.0.0.9", xid=1), None),
    "a question": (answer(("message-type", 1), op=1), None),
    "no DHCP at all": (Ether() / IP() / UDP(), None),
}


@pytest.mark.parametrize("packet, expected", ANSWERS.values(), ids=ANSWERS)
def test_who_answered(packet: Packet, expected: tuple[str, bool, bool] | None) -> None:
    found = probe.server_in(packet)
    assert (found and (found["address"], found["leases"], found["pxe"])) == expected


def test_our_codec_reads_what_scapy_asks() -> None:
    client = client_of(decode(bytes(probe.discover("52:54:00:12:34:56")[BOOTP])))
    assert (str(client.mac), client.loader, client.arch) == ("52:54:00:12:34:56", Loader.FIRMWARE, Arch.X64_EFI)


@pytest.mark.slow
@pytest.mark.needs_root
def test_a_real_server_is_found(tmp_path: Path) -> None:
    with Network("probe") as network:
        switch = network.switch()
        host = switch.host("host", "10.77.0.2/24", mac="52:54:00:00:00:02")
        switch.host("router", "10.77.0.1/24", mac="52:54:00:00:00:01").start(
            *("dnsmasq", "--keep-in-foreground", "--port=0", "--dhcp-range=10.77.0.50,10.77.0.60", "--conf-file=/dev/null"),
            *(f"--dhcp-leasefile={tmp_path}/leases", "--user=root"),
        )
        found = json.loads(host.run(sys.executable, "-m", "pixieboot.probe", "eth0=52:54:00:00:00:02").stdout)
        assert found == [{"interface": "eth0", "address": "10.77.0.1", "mac": "52:54:00:00:00:01", "leases": True, "pxe": False}]
        gone = host.run(sys.executable, "-m", "pixieboot.probe", "eth9=52:54:00:00:00:02", check=False)
        assert gone.returncode and "eth9" in gone.stderr
