"""Inventory.assign: who is this client, and what is it to boot?"""

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from pixieboot.inventory import MENU, Inventory
from pixieboot.model import Arch, Client, Group, Mac, Machine, MachineState, Network, Profile, Site, Stage, swap_uuid

MAC = Mac("52:54:00:12:34:56")
UUID = "4c4c4544-0042-3510-8052-b4c04f4e3732"
SITE = Site(Network(), "eth0", 2, "10.0.0.1", IPv4Network("10.0.0.0/24"), "http://10.0.0.1:8080", {})
IGNORE = replace(SITE, unknown="ignore")
FLATCAR, DEBIAN, DISK = Profile("flatcar"), Profile("debian"), Profile("disk", local=True)
CLIENT = Client(MAC, Arch.X64_EFI)


def inventory(*things: Machine | Group) -> Inventory:
    return Inventory.build(
        [thing for thing in things if isinstance(thing, Machine)],
        [thing for thing in things if isinstance(thing, Group)],
        [FLATCAR, DEBIAN, DISK],
    )


WEB1 = Machine("web1", macs=(MAC,), uuid=UUID, serial="ABC123", hostname="web1", profile="flatcar", vars={"role": "controller"})
PLAIN = Machine("plain", macs=(MAC,))

CASES: dict[str, tuple[Inventory, Client, Site, str | None]] = {
    "a machine by its MAC": (inventory(WEB1), CLIENT, SITE, "flatcar"),
    "by its UUID": (inventory(WEB1), Client(Mac("52:54:00:00:00:01"), uuid=UUID), SITE, "flatcar"),
    "by its UUID in the other byte order": (
        inventory(WEB1),
        Client(Mac("52:54:00:00:00:01"), uuid=swap_uuid(UUID)),
        SITE,
        "flatcar",
    ),
    "by its serial, case folded": (inventory(WEB1), Client(Mac("52:54:00:00:00:01"), serial="abc123"), SITE, "flatcar"),
    "a stranger gets what unknown says": (inventory(), CLIENT, replace(SITE, unknown="debian"), "debian"),
    "a stranger is ignored": (inventory(), CLIENT, IGNORE, None),
    "a described machine without a profile is no stranger": (inventory(PLAIN), CLIENT, IGNORE, "menu"),
    "a group by architecture": (inventory(Group("g", {"arch": "x64-efi"}, "debian")), CLIENT, SITE, "debian"),
    "a group by platform": (inventory(Group("g", {"platform": "efi"}, "debian")), CLIENT, SITE, "debian"),
    "another architecture": (inventory(Group("g", {"arch": "x86-bios"}, "debian")), CLIENT, IGNORE, None),
    "most labels win": (
        inventory(Group("a", {"arch": "x64-efi"}, "debian"), Group("b", {"arch": "x64-efi", "platform": "efi"}, "flatcar")),
        CLIENT,
        SITE,
        "flatcar",
    ),
    "a tie goes to the first name": (
        inventory(Group("b", {"arch": "x64-efi"}, "debian"), Group("a", {"platform": "efi"}, "flatcar")),
        CLIENT,
        SITE,
        "flatcar",
    ),
    "the default group": (inventory(Group("default", {}, "debian")), CLIENT, IGNORE, "debian"),
    "a group by MAC": (inventory(Group("g", {"mac": MAC}, "debian")), CLIENT, IGNORE, "debian"),
    "a group by UUID, either order": (
        inventory(Group("g", {"uuid": UUID}, "debian")),
        replace(CLIENT, uuid=swap_uuid(UUID)),
        IGNORE,
        "debian",
    ),
    "the network asked on": (inventory(Group("g", {"subnet": "10.0.0.0/16"}, "debian")), CLIENT, IGNORE, "debian"),
    "another network": (inventory(Group("g", {"subnet": "10.1.0.0/16"}, "debian")), CLIENT, IGNORE, None),
    "the client's own address": (
        inventory(Group("g", {"subnet": "10.1.0.0/16"}, "debian")),
        replace(CLIENT, address="10.1.2.3"),
        IGNORE,
        "debian",
    ),
    "a query parameter": (
        inventory(Group("g", {"rack": "r1"}, "debian")),
        replace(CLIENT, stage=Stage.SCRIPT, labels={"rack": "r1"}),
        IGNORE,
        "debian",
    ),
    "at the script a missing parameter does not match": (
        inventory(Group("g", {"rack": "r1"}, "debian")),
        replace(CLIENT, stage=Stage.SCRIPT),
        IGNORE,
        None,
    ),
    "DHCP cannot know the parameter yet: carry on": (inventory(Group("g", {"rack": "r1"}, "debian")), CLIENT, IGNORE, "menu"),
    "DHCP cannot know the serial yet: carry on": (inventory(Group("g", {"serial": "S1"}, "debian")), CLIENT, IGNORE, "menu"),
    "not past a local default either": (
        inventory(Group("g", {"rack": "r"}, "debian"), Group("d", {}, "disk")),
        CLIENT,
        SITE,
        "menu",
    ),
    "the registry knows the serial": (
        inventory(Machine("m", macs=(MAC,), serial="S1"), Group("g", {"serial": "s1"}, "debian")),
        CLIENT,
        SITE,
        "debian",
    ),
    "the machine's profile before its group's": (inventory(WEB1, Group("g", {"mac": MAC}, "debian")), CLIENT, SITE, "flatcar"),
}


@pytest.mark.parametrize("stock, client, site, profile", CASES.values(), ids=CASES)
def test_assign(stock: Inventory, client: Client, site: Site, profile: str | None) -> None:
    assignment = stock.assign(client, site)
    assert (assignment.profile.name if assignment.profile else None) == profile
    assert assignment.why


def test_vars_merge_default_then_group_then_machine() -> None:
    stock = inventory(
        Group("default", vars={"role": "none", "dns": "a", "ntp": "a"}),
        Group("g", {"arch": "x64-efi"}, vars={"role": "worker", "dns": "b"}),
        WEB1,
    )
    assert stock.assign(CLIENT, SITE).vars == {"role": "controller", "dns": "b", "ntp": "a"}


def test_an_order_comes_before_the_files() -> None:
    assert inventory(WEB1).assign(CLIENT, SITE, MachineState(profile="debian")).profile == DEBIAN


def test_an_order_for_a_profile_that_is_gone_is_void() -> None:
    assert inventory(WEB1).assign(CLIENT, SITE, MachineState(profile="gone")).profile == FLATCAR


@pytest.mark.parametrize("text", ["web1", "52-54-00-12-34-56", "5254.0012.3456", UUID.upper(), swap_uuid(UUID), "abc123"])
def test_an_operator_names_a_machine_by(text: str) -> None:
    assert inventory(WEB1).find(text) == WEB1


@pytest.mark.parametrize("text", ["web2", "52:54:00:00:00:00", "", "no such thing"])
def test_nobody_is_called(text: str) -> None:
    assert inventory(WEB1).find(text) is None


def test_known_is_whoever_is_described_or_matched() -> None:
    stock: Any = inventory(Group("g", {"arch": "x64-efi"}, "debian"))
    assert stock.assign(CLIENT, SITE).known
    assert not inventory().assign(CLIENT, SITE).known
    assert inventory().profiles["menu"] is MENU
