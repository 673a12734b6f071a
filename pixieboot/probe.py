"""Which DHCP and PXE servers answer here?  `python -m pixieboot.probe eth0=52:54:00:12:34:56 …` prints them, as JSON.

A program of its own, and scapy's: a judge that shares no line with the daemon, which asks the same with packets of its own.  What
scapy needs (35 MiB, a second to load) and its licence (GPL-2.0-only) do not become the daemon's.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import scapy.arch  # noqa: F401 # packet sockets
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.sendrecv import AsyncSniffer, sendp

TRIES = (0.2, 1.0, 1.5)  # seconds before each DISCOVER: the ears open first
PATIENCE = 1.0  # seconds of listening after the last: 3.5 in all, for servers that ping an address for 3 s before they offer it
XID = 0x70786221
_OFFER = 2


def discover(mac: str) -> Packet:
    """What a UEFI network card sends; options by number and as bytes, because scapy drops values that it cannot name."""
    options: list[Any] = [
        (53, b"\x01"),
        (57, b"\x05\xc0"),
        (60, b"PXEClient:Arch:00007:UNDI:003016"),
        (93, b"\0\7"),
        (94, b"\1\3\x10"),
        (97, b"\0pixieboot doctor"),
        (55, bytes((1, 3, 6, 43, 54, 60, 66, 67))),
        "end",
    ]
    ethernet = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    return ethernet / BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=XID, flags=0x8000) / DHCP(options=options)


def server_in(packet: Packet) -> dict[str, Any] | None:
    """Who offers what in this packet: interface, address (option 54, else where it came from), mac, leases, pxe. None: no OFFER."""
    if DHCP not in packet or packet[BOOTP].op != 2 or packet[BOOTP].xid != XID:
        return None
    options = {each[0]: each[1] for each in packet[DHCP].options if isinstance(each, tuple)}
    if options.get("message-type") != _OFFER:
        return None
    vendor, program = options.get("vendor_class_id", b""), packet[BOOTP].file.rstrip(b"\0")
    return {
        "interface": packet.sniffed_on,
        "address": options.get("server_id", packet[IP].src),
        "mac": packet[Ether].src,
        "leases": packet[BOOTP].yiaddr != "0.0.0.0",
        "pxe": vendor.startswith((b"PXEClient", b"HTTPClient")) or bool(program) or "boot-file-name" in options,
    }


def servers(macs: Mapping[str, str]) -> list[dict[str, Any]]:
    """Ask on all these interfaces (name: own MAC) at once, and listen for 3.5 s. Raises OSError: not root, or no such interface."""
    found: dict[str, dict[str, Any]] = {}

    def heard(packet: Packet) -> None:
        if server := server_in(packet):
            found[json.dumps(server)] = server

    ears = AsyncSniffer(iface=list(macs), prn=heard, store=False)
    ears.start()
    for pause in TRIES:
        time.sleep(pause)
        for name, mac in macs.items():
            sendp(discover(mac), iface=name, verbose=False)
    time.sleep(PATIENCE)
    ears.stop()
    return list(found.values())


if __name__ == "__main__":
    print(json.dumps(servers(dict(word.split("=", 1) for word in sys.argv[1:]))))
