"""Addresses that somebody uses already are found out before a client gets them, and nobody waits for that."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from pixieboot import config
from pixieboot.leases import Leases
from pixieboot.model import Lease, LeaseState, Mac, Network, Pool, Site
from pixieboot.serve import conflicts
from pixieboot.serve.conflicts import Conflicts
from pixieboot.serve.links import Sites
from tests.netns import Host
from tests.netns import Network as Cables

pytestmark = pytest.mark.needs_root
NETWORK = Network(interface="eth0", mode="server", pools=(Pool(0x0A070064, 0x0A070068),))  # 10.7.0.100-104
SQUATTER = Mac("52:54:00:00:07:65")


@pytest.fixture(scope="module")
def server() -> Iterator[Host]:
    """10.7.0.1, on one wire with somebody who took 10.7.0.101 without asking."""
    with Cables("conflicts") as cables:
        switch = cables.switch()
        switch.host("squatter", "10.7.0.101/24", mac=SQUATTER)
        yield switch.host("server", "10.7.0.1/24")


class Asked:
    """Conflicts over the real wire, and what came of it."""

    def __init__(self, server: Host, network: Network = NETWORK) -> None:
        self.found: list[tuple[Lease, Site]] = []
        self.claimants: list[Mac] = []
        self.leases = Leases()
        with server.entered():
            self.sites = Sites(replace(config.load(None, {}), networks=(network,)))
            self.conflicts = Conflicts(
                self.sites,
                self.leases,
                lambda: 1000.0,
                lambda *pair: self.found.append(pair),
                lambda mac, site: self.claimants.append(mac),
            )
            self.conflicts.bind()
        self.site = self.sites.sites[0]

    def after(self, seconds: float, *addresses: str, ahead: bool = False) -> None:
        async def work() -> None:
            self.conflicts.start()
            for address in addresses:
                self.conflicts.ask(self.site, address)
            if ahead:
                self.conflicts.look_ahead(self.site)
                self.conflicts.look_ahead(self.site)
            await asyncio.sleep(seconds)
            self.conflicts.close()

        asyncio.run(work())


def test_an_address_in_use_is_quarantined_and_told(server: Host) -> None:
    asked = Asked(server)
    asked.after(0.2, "10.7.0.101")
    ((lease, site),) = asked.found
    assert (lease.address, lease.mac, lease.state) == ("10.7.0.101", SQUATTER, LeaseState.DECLINED)
    assert site.interface == "eth0" and asked.leases.at("10.7.0.101") == lease


def test_silence_for_half_a_second_means_free(server: Host) -> None:
    asked = Asked(server)
    assert asked.leases.fresh("10.7.0.102", 1000.0)
    asked.after(2 * conflicts.PATIENCE + 0.2, "10.7.0.102", "10.7.0.102")
    assert not asked.found and not asked.leases.fresh("10.7.0.102", 1000.0)


def test_what_is_offered_is_asked_about_unless_the_answer_is_known(server: Host) -> None:
    asked, unasked = Asked(server), Asked(server, replace(NETWORK, probe=False))

    async def work() -> None:
        assert asked.conflicts.offered(asked.site, "10.7.0.104") and "10.7.0.104" in asked.conflicts._open
        assert not asked.conflicts.offered(asked.site, "10.7.0.104"), "it is asked about, and so are the next"
        asked.leases.mark_free("10.7.0.105", 1000.0)
        assert not asked.conflicts.offered(asked.site, "10.7.0.105")
        assert not unasked.conflicts.offered(unasked.site, "10.7.0.104")
        for each in (asked, unasked):
            each.conflicts.close()

    asyncio.run(work())


def test_the_next_addresses_are_asked_about_ahead_of_need(server: Host) -> None:
    asked = Asked(server)
    asked.after(2 * conflicts.PATIENCE + 0.2, ahead=True)
    assert [lease.address for lease, _ in asked.found] == ["10.7.0.101"]
    assert not asked.leases.fresh("10.7.0.100", 1000.0) and asked.leases.fresh("10.7.0.104", 1000.0)


def test_a_flood_asks_about_a_few_only(server: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicts, "MOST", 2)
    asked = Asked(server)
    asked.after(2 * conflicts.PATIENCE + 0.2, *(f"10.7.0.{number}" for number in range(100, 105)))
    free = [number for number in range(100, 105) if not asked.leases.fresh(f"10.7.0.{number}", 1000.0)]
    assert free == [100] and len(asked.found) == 1


def test_behind_a_relay_nobody_is_asked(server: Host) -> None:
    asked = Asked(server)
    behind = replace(asked.site, network=Network(subnet=IPv4Network("10.7.0.0/24"), mode="server"))
    asked.site = behind
    asked.after(0.2, "10.7.0.101", ahead=True)
    assert not asked.found


def test_a_router_that_answers_for_every_address_is_not_believed(server: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicts, "EVERYTHING", 2)
    asked = Asked(server)

    async def work() -> None:
        asked.conflicts.start()
        for number in range(100, 105):
            asked.conflicts.ask(asked.site, f"10.7.0.{number}")
            asked.conflicts._on_holder(f"10.7.0.{number}", SQUATTER.octets, "eth0")
        asked.conflicts.close()

    asyncio.run(work())
    assert asked.claimants == [SQUATTER]
    assert [lease.address for lease, _ in asked.found] == ["10.7.0.100", "10.7.0.101"]
    assert not asked.leases.fresh("10.7.0.104", 1000.0) and asked.leases.at("10.7.0.104") is None
