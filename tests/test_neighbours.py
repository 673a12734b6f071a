"""Other DHCP and PXE servers: asked for, overheard, remembered and forgotten."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pixieboot import config
from pixieboot.model import Mac
from pixieboot.serve import neighbours
from pixieboot.serve.links import Sites
from pixieboot.serve.neighbours import MOST, Neighbour, Neighbours
from tests.netns import Host, Network

pytestmark = pytest.mark.needs_root
DNSMASQ = ("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=")


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    """We, and another server, on one wire."""
    with Network("neighb") as network:
        switch = network.switch()
        yield switch.host("we", "10.6.0.1/24"), switch.host("other", "10.6.0.2/24", mac="52:54:00:00:06:02")


def start(other: Host, *options: str) -> None:
    other.start(*DNSMASQ, "--interface=eth0", "--no-ping", "--dhcp-leasefile=/dev/null", "--log-facility=/dev/null", *options)


def watch(we: Host, found: list[Neighbour], clock: Callable[[], float] = lambda: 100.0) -> tuple[Sites, Neighbours]:
    with we.entered():
        sites = Sites(replace(config.load(None, {}), networks=()))
        known = Neighbours(sites, found.append, clock)
        known.bind()
    return sites, known


@pytest.fixture
def other(hosts: tuple[Host, Host]) -> Iterator[Host]:
    yield hosts[1]
    for process in hosts[1]._processes.copy():
        hosts[1].stop(process)


def probe(we: Host, monkeypatch: pytest.MonkeyPatch) -> list[Neighbour]:
    monkeypatch.setattr(neighbours, "TRIES", (0.0, 0.3, 0.3))
    monkeypatch.setattr(neighbours, "PATIENCE", 0.5)
    found: list[Neighbour] = []
    sites, known = watch(we, found)

    async def work() -> None:
        known.start()
        await known.probe(sites.sites)
        assert known.present() == found and not known.probing
        known.close()

    asyncio.run(work())
    return found


def test_a_dhcp_server_is_found_with_its_address_and_card(
    hosts: tuple[Host, Host], other: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(other, "--dhcp-range=10.6.0.50,10.6.0.60")
    (found,) = probe(hosts[0], monkeypatch)
    assert (found.interface, found.address, found.mac, found.leases, found.pxe) == (
        *("eth0", "10.6.0.2", Mac("52:54:00:00:06:02")),
        *(True, False),
    )
    assert str(found) == "DHCP server 10.6.0.2 (52:54:00:00:06:02)"


def test_a_pxe_server_beside_the_router_is_told_from_it(
    hosts: tuple[Host, Host], other: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(other, "--dhcp-range=10.6.0.0,proxy", "--pxe-service=X86-64_EFI,boot,ipxe.efi")
    (found,) = probe(hosts[0], monkeypatch)
    assert (found.address, found.leases, found.pxe) == ("10.6.0.2", False, True)


def test_on_a_quiet_wire_nobody_is_found(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe(hosts[0], monkeypatch) == []


def test_a_server_named_by_clients_is_told_once_and_forgotten_when_silent(hosts: tuple[Host, Host]) -> None:
    found: list[Neighbour] = []
    now = [1000.0]
    _, known = watch(hosts[0], found, lambda: now[0])
    for _ in range(3):
        known.named(2, "eth0", "10.6.0.9")
    assert [str(each) for each in found] == ["DHCP server 10.6.0.9"] and known.leasing(2) and not known.leasing(3)
    now[0] += 3 * 3600
    assert known.present() == []
    known.named(2, "eth0", "10.6.0.9")
    assert len(found) == 2
    for number in range(2 * MOST):
        known.named(2, "eth0", f"10.7.{number // 250}.{number % 250}")
    assert len(known.present()) <= MOST
    known.close()
