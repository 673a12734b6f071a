"""Twenty thousand bent captures over the wire: afterwards a valid client is answered at once, and memory has hardly grown."""

import random
import time
from pathlib import Path

import pytest

from tests.pcap import NAMES, datagrams
from tests.wire.client import DISCOVER, UEFI, mac
from tests.wire.servers import Lan, lan, ours

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, ours]
SEED, DATAGRAMS, GROWTH = 20_000, 20_000, 16 << 10  # KiB


def resident(net: Lan) -> int:
    """Memory of the server in KiB."""
    assert net.process
    status = Path(f"/proc/{net.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def bent(dice: random.Random, seeds: list[bytes]) -> bytes:
    """One capture with octets changed, cut out, doubled or cut off."""
    octets = bytearray(dice.choice(seeds))
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(octets))
        match dice.randrange(4):
            case 0:
                octets[at] = dice.randrange(256)
            case 1:
                octets[at : at + dice.randrange(1, 16)] = b""
            case 2:
                octets[at:at] = octets[at : at + dice.randrange(1, 40)]
            case 3:
                octets = octets[: max(at, 1)]
        if not octets:
            octets = bytearray(1)
    return bytes(octets[:1400])


@pytest.mark.parametrize("mode", ["proxy", "server"])
def test_bent_datagrams_neither_stop_nor_swell_the_server(mode: str) -> None:
    seeds = [each.payload for name in NAMES for each in datagrams(name) if each.destination[1] in (67, 4011)]
    dice = random.Random(SEED)
    with lan(mode) as net:
        net.start()
        for _ in range(500):  # what is kept for every client has its room by then
            net.client.send(bent(dice, seeds), target_port=dice.choice((67, 67, 4011)))
        net.client.discover(mac(1), UEFI)
        net.server.run(
            "curl", "-s", "http://127.0.0.1:8080/api/v1/leases"
        )  # answered once the API is loaded, as late as that may be
        before = resident(net)
        for number in range(DATAGRAMS):
            net.client.send(bent(dice, seeds), target_port=dice.choice((67, 67, 4011)))
            if number % 200 == 0:
                time.sleep(0.02)  # they are to be handled, not lost for want of room in a socket
        start = time.monotonic()
        answers = net.client.ask(net.client.message(DISCOVER, mac(2), UEFI, flags=0x8000), wait=20)
        assert answers and time.monotonic() - start < 1 + 4, "not answered"
        start = time.monotonic()
        assert net.client.ask(net.client.message(DISCOVER, mac(3), UEFI, flags=0x8000))
        assert time.monotonic() - start < 1
        assert resident(net) - before < GROWTH
        said = net.said(0)
        assert "bug while handling" not in said and "Traceback" not in said
