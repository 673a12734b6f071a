"""Links as the kernel tells them, and the networks that are served on them, followed live."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

import pytest

from pixieboot import config
from pixieboot.config import LOADERS, Settings
from pixieboot.model import Network, Pool
from pixieboot.serve.links import ETHERNET, IFF_BROADCAST, IFF_RUNNING, IFF_UP, Link, Sites, read_links
from tests.netns import Host
from tests.netns import Network as Cables

UP = IFF_UP | IFF_BROADCAST | IFF_RUNNING


def link(index: int, name: str, *addresses: str, flags: int = UP) -> Link:
    mac = bytes((2, 0, 0, 0, 0, index))
    return Link(index, name, mac, 1500, flags, ETHERNET, tuple(IPv4Interface(address) for address in addresses))


def settings(*networks: Network, **changes: Any) -> Settings:
    return replace(config.load(None, {}), networks=networks, **changes)


def sites(links: Sequence[Link], *networks: Network, **changes: Any) -> Sites:
    return Sites(settings(*networks, **changes), lambda: links)


HOST = [
    link(1, "lo", "127.0.0.1/8", flags=IFF_UP),
    link(2, "eth0", "192.168.1.5/24", "10.9.0.1/16"),
    link(3, "eth1", "192.168.77.1/24"),
    link(4, "docker0", "172.17.0.1/16"),
    link(5, "virbr0", "192.168.122.1/24"),
    link(6, "veth12", "10.1.1.1/24"),
    link(7, "eth2", "192.168.78.1/24", flags=IFF_BROADCAST),
    link(8, "eth3"),
    link(9, "tun0", "10.8.0.2/24", flags=IFF_UP),
]


def test_by_default_every_usable_interface_is_served_in_proxy_mode() -> None:
    view = sites(HOST)
    assert [(site.interface, site.address, site.network.mode) for site in view.sites] == [
        ("eth0", "192.168.1.5", "proxy"),
        ("eth1", "192.168.77.1", "proxy"),
    ]
    site = view.at(3)
    assert site and site.http_url == "http://192.168.77.1:8080" and site.loaders == LOADERS
    assert site.subnet == IPv4Network("192.168.77.0/24") and (site.unknown, site.answer) == ("menu", "all")
    assert view.at(4) is None and view.at(99) is None


def test_wireless_and_wired_in_one_subnet_answer_once_and_say_so() -> None:
    view = sites([link(2, "wlan0", "192.168.1.6/24"), link(3, "eth0", "192.168.1.5/24")])
    assert [site.interface for site in view.sites] == ["eth0"]
    assert view.notes == ("wlan0: same subnet 192.168.1.0/24 as eth0, which answers for both",)


@pytest.mark.parametrize("giaddr", ["255.255.255.255", "224.0.0.1", "127.0.0.1"])
def test_an_address_that_no_relay_has_is_no_relay(giaddr: str) -> None:
    assert sites([link(2, "eth0", "192.168.1.5/24")]).for_relay(giaddr, 2) is None


def test_networks_choose_interface_mode_and_address() -> None:
    server = Network(interface="eth0", mode="server", pools=(Pool(0x0A090064, 0x0A0900C8),))
    view = sites(HOST, server, Network(interface="eth1", mode="off"), Network(interface="eth9"), Network(interface="eth3"))
    assert [(site.interface, site.address, str(site.subnet)) for site in view.sites] == [
        ("eth0", "10.9.0.1", "10.9.0.0/16"),
        ("eth1", "192.168.77.1", "192.168.77.0/24"),  # off: no DHCP there, but files
    ]
    assert view.notes == (
        "eth9: there is no such interface (yet); it is served as soon as it appears",
        "eth3: it is not addressed (yet); it is served as soon as it is",
    )


def test_two_subnets_of_one_interface_are_two_sites() -> None:
    first = Network(interface="eth0", subnet=IPv4Network("192.168.1.0/24"))
    second = Network(interface="eth0", subnet=IPv4Network("10.9.0.0/16"), mode="server")
    view = sites(HOST, first, second)
    assert [site.address for site in view.sites] == ["192.168.1.5", "10.9.0.1"]
    at, of_first, of_second = view.at(2), view.of_address("192.168.1.5"), view.of_address("10.9.0.1")
    assert at is of_first and of_second and of_second.network is second


def test_an_address_that_the_subnet_lacks_is_said() -> None:
    view = sites(HOST, Network(interface="eth1", subnet=IPv4Network("10.0.0.0/24")))
    assert not view.sites and view.notes == ("eth1: it has no address in 10.0.0.0/24",)


def test_pools_of_a_subnet_that_the_interface_is_not_in_are_not_leased() -> None:
    server = Network(interface="eth1", mode="server", pools=(Pool(0x0A000064, 0x0A0000C8),))
    view = sites(HOST, server)
    assert not view.sites and view.notes == ("eth1: it has no address in the subnet of its pools (10.0.0.100)",)
    view = sites(HOST, replace(server, mode="proxy"))
    assert view.sites and not view.notes, "pools mean nothing there"


def test_what_of_the_pools_lies_elsewhere_is_said() -> None:
    server = Network(interface="eth0", mode="server", pools=(Pool(0x0A090064, 0x0A0900C8), Pool(0x0A000064, 0x0A0000C8)))
    view = sites(HOST, server)
    assert [site.address for site in view.sites] == ["10.9.0.1"]
    assert view.notes == ("eth0: what of the pool 10.0.0.100-10.0.0.200 is not in 10.9.0.0/16 is not leased",)


def test_loopback_is_answered_as_the_first_network() -> None:
    view = sites(HOST)
    assert view.of_address("127.0.0.1") is view.sites[0]
    assert view.of_address("172.17.0.1") is None
    assert sites([]).of_address("127.0.0.1") is None


def test_base_url_and_unknown_are_taken_from_the_settings() -> None:
    plain = settings()
    view = Sites(replace(plain, http=replace(plain.http, base_url="http://boot.example/"), unknown="flatcar"), lambda: HOST)
    assert {(site.http_url, site.unknown) for site in view.sites} == {("http://boot.example", "flatcar")}


def test_strangers_are_left_to_another_pxe_server_unless_unknown_is_set() -> None:
    view, decided = sites(HOST), sites(HOST, unknown="menu")
    for each in (view, decided):
        each.mark_foreign_pxe(2)
    assert [site.unknown for site in view.sites] == ["ignore", "menu"]
    assert [site.unknown for site in decided.sites] == ["menu", "menu"]
    assert [site.foreign_pxe for site in (*view.sites, *decided.sites)] == [True, False, False, False]
    view.mark_foreign_pxe(2, False)
    assert [site.unknown for site in view.sites] == ["menu", "menu"]


def test_a_relayed_subnet_is_served_from_where_its_packets_arrive() -> None:
    relayed = Network(subnet=IPv4Network("10.20.0.0/24"), mode="server")
    view = sites(HOST, Network(interface="eth1"), relayed)
    site = view.for_relay("10.20.0.1", 3)
    assert site and site.network is relayed and (site.address, site.ifindex) == ("192.168.77.1", 3)
    assert site.subnet == relayed.subnet and view.for_relay("10.20.0.1", 3) is site
    unserved = view.for_relay("10.20.0.1", 2)
    assert unserved and unserved.address == "192.168.1.5"
    anywhere = view.for_relay("10.20.0.1")
    assert anywhere and anywhere.address == "192.168.77.1"


def test_a_subnet_that_nobody_configured_gets_silence_and_a_local_one_its_own_site() -> None:
    view = sites(HOST, Network(interface="eth1"), Network(subnet=IPv4Network("10.30.0.0/24")))
    assert view.for_relay("10.99.0.1", 3) is None
    assert view.for_relay("192.168.77.9", 2) is view.at(3)


def test_without_networks_a_relay_that_points_at_us_gets_boot_data() -> None:
    view = sites(HOST)
    assert view.for_relay("10.99.0.1", 3) is view.at(3) and view.for_relay("10.99.0.1", 4) is None


def test_changes_are_told_once_and_only_when_there_are_any() -> None:
    links = list(HOST)
    view = Sites(settings(), lambda: links)
    told: list[int] = []
    view.on_change.append(lambda: told.append(len(view.sites)))
    view.rebuild()
    links[7] = link(8, "eth3", "10.3.0.1/24")
    view.rebuild()
    view.rebuild()
    view.reload(settings(Network(interface="eth3")))
    assert told == [3, 1]
    late = view.link_named("eth3")
    assert late and view.link(8) is late and late.usable


def test_a_kernel_that_does_not_tell_leaves_things_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    answers: Iterator[Sequence[Link]] = iter([HOST])

    def read() -> Sequence[Link]:
        for links in answers:
            return links
        raise OSError(105, "No buffer space available")

    view = Sites(settings(), read)
    view.rebuild()
    assert len(view.sites) == 2 and "No buffer space" in caplog.text


@pytest.fixture
def host() -> Iterator[Host]:
    with Cables("links") as cables:
        host, other = cables.host("host"), cables.host("other")
        cables.cable(host, "eth0", other, "eth0", mac="52:54:00:00:00:01")
        host.add_address("eth0", "192.168.77.1/24")
        yield host


@pytest.mark.needs_root
def test_links_are_read_from_the_kernel(host: Host) -> None:
    with host.entered():
        lo, eth0 = read_links()
    assert (lo.name, lo.usable) == ("lo", False)
    assert (eth0.name, eth0.mac.hex(), eth0.mtu, eth0.type) == ("eth0", "525400000001", 1500, ETHERNET)
    assert eth0.usable and eth0.addresses == (IPv4Interface("192.168.77.1/24"),)


@pytest.mark.needs_root
def test_late_links_and_addresses_are_followed(host: Host) -> None:
    async def work() -> None:
        with host.entered():
            view = Sites(settings())
            view.start()

            async def until(wanted: list[str]) -> None:
                async with asyncio.timeout(5):
                    while [site.address for site in view.sites] != wanted:
                        await asyncio.sleep(0.02)

            await until(["192.168.77.1"])
            host.ip("link", "add", "eth7", "type", "veth", "peer", "name", "far7")
            host.ip("link", "set", "far7", "up")
            host.ip("link", "set", "eth7", "up")
            host.add_address("eth7", "10.7.0.1/24")
            await until(["192.168.77.1", "10.7.0.1"])
            host.ip("address", "flush", "dev", "eth0")
            host.add_address("eth0", "192.168.88.1/24")
            await until(["192.168.88.1", "10.7.0.1"])
            host.ip("link", "delete", "eth7")
            await until(["192.168.88.1"])
            view.close()

    asyncio.run(work())
