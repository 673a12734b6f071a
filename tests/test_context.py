"""What the services share: the registry's answer with what the store knows of the machine."""

from dataclasses import replace
from io import StringIO
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

from pixieboot.inventory import Inventory
from pixieboot.journal import Journal
from pixieboot.model import Arch, Client, Event, Mac, Machine, MachineState, Network, Profile, Site
from pixieboot.serve.context import Context, Download

SITE = Site(Network(), "eth0", 2, "10.0.0.1", IPv4Network("10.0.0.0/24"), "http://10.0.0.1:8080", {})
MAC, OTHER = Mac("52:54:00:00:00:01"), Mac("52:54:00:00:00:02")


def a_context(states: dict[str, MachineState]) -> Context:
    machine = Machine("web1", macs=(MAC,), serial="S1", profile="debian")
    registry: Any = SimpleNamespace(current=Inventory.build([machine], (), [Profile("debian"), Profile("flatcar")]))
    store: Any = SimpleNamespace(state=lambda key: states.get(key, MachineState()))
    nothing: Any = None
    return Context(nothing, registry, store, nothing, nothing, nothing)


def test_a_machine_keeps_its_state_under_its_name_whichever_card_it_boots_from() -> None:
    context = a_context({"web1": MachineState(profile="flatcar")})
    for client in (Client(MAC, Arch.X64_EFI), Client(OTHER, Arch.X64_EFI, serial="s1")):
        assert context.state_key(client) == "web1"
        assert context.assign(client, SITE).profile == Profile("flatcar")


def test_a_stranger_keeps_it_under_its_mac() -> None:
    context = a_context({OTHER: MachineState(reply_style="menu")})
    stranger = Client(OTHER)
    assert context.state_key(stranger) == OTHER
    assert context.assign(stranger, replace(SITE, unknown="ignore")).state.reply_style == "menu"


def test_downloads_are_told_by_machine() -> None:
    """Of a kernel's request only the address tells whose it is."""
    context = a_context({})
    context.journal = Journal(StringIO())
    context.journal.record(Event(1.0, MAC, "dhcp", "acked", {"address": "10.0.0.9"}))
    mine, other = Download("/assets/vmlinuz", "10.0.0.9", None, 100, 5), Download("ipxe.efi", "10.0.0.8", OTHER, 100, 7)
    context.downloads += [lambda: [mine, Download("x", "10.0.0.7", None, 1, 0)], lambda: [other]]
    assert context.running() == {MAC: [mine], OTHER: [other]}
