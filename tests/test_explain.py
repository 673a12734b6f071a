"""The dry run says what the wire would say: selectors, templates, and the answer of every stage."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.explain import NOBODY, explain, pretend, said
from pixieboot.inventory import MENU, Inventory
from pixieboot.model import (
    Arch,
    Boot,
    Client,
    FetchScript,
    Group,
    Loader,
    LoadNBP,
    LocalDisk,
    Mac,
    Machine,
    MachineState,
    Network,
    Profile,
    Silence,
    Stage,
)
from tests.test_policy import a_site

MAC = Mac("52:54:00:12:34:56")
UUID = "4c4c4544-0042-3510-8052-b4c04f4e3732"
FLATCAR = Profile(
    "flatcar",
    kernel="flatcar/vmlinuz",
    initrd=("flatcar/initrd.gz",),
    args=("role={{ vars.role }}",),
    documents={"ignition": "worker.ign.j2", "generic": "broken.j2"},
    where="profiles.yaml:1",
)
INVENTORY = Inventory.build(
    machines=[
        Machine("web1", macs=(MAC,), uuid=UUID, serial="ABC", vars={"role": "web"}, where="machines.yaml:2"),
        Machine("disk", macs=(Mac("52:54:00:12:34:57"),), boot="local"),
    ],
    groups=[
        Group("efi", {"platform": "efi", "subnet": "192.168.77.0/24"}, "flatcar", {"role": "worker"}, where="groups.yaml:1"),
        Group("uuid", {"uuid": UUID, "platform": "efi", "rack": "7"}, "flatcar"),
        Group("bios", {"platform": "bios"}, "menu"),
        Group("default", {}, "menu"),
    ],
    profiles=[FLATCAR],
    templates={"worker.ign.j2": '{"role": "{{ vars.role }}"}', "broken.j2": "line one\n{{ nothing }}"},
)
SITE = replace(a_site(), subnet=IPv4Network("192.168.77.0/24"))


def test_the_whole_boot_of_an_efi_machine() -> None:
    told = explain(pretend(INVENTORY.machines["web1"], None, Arch.X64_EFI, Loader.FIRMWARE), INVENTORY, SITE)
    assert (told.machine, told.machine_where) == ("web1", "machines.yaml:2")
    assert (told.profile, told.profile_where) == ("flatcar", "profiles.yaml:1")
    assert told.vars == {"role": "web"}
    assert [(s.group, s.result) for s in told.selectors] == [
        ("uuid", "may match"),
        ("efi", "chosen"),
        ("bios", "differs"),
        ("default", "matches"),
    ]
    assert [(c.label, c.actual, c.result) for c in told.selectors[0].checks] == [
        ("uuid", UUID, "same"),
        ("platform", "efi", "same"),
        ("rack", None, "unknown"),
    ]
    stages = {answer.stage: answer for answer in told.answers}
    assert list(stages) == [
        "firmware's DHCP",
        "port 4011",
        "iPXE's DHCP",
        "ipxe's script",
        "document generic",
        "document ignition",
    ]
    assert stages["firmware's DHCP"].answer == "load 52-54-00-12-34-56/ipxe.efi by TFTP"
    assert "flatcar/vmlinuz" in stages["ipxe's script"].text and "role=web" in stages["ipxe's script"].text
    assert stages["document ignition"].text == '{"role": "web"}'
    assert "broken.j2" in stages["document generic"].fault and "2" in stages["document generic"].fault
    assert told.as_json()["selectors"][1]["result"] == "chosen"


def test_as_a_bios() -> None:
    told = explain(pretend(INVENTORY.machines["web1"], None, Arch.X86_BIOS, Loader.FIRMWARE), INVENTORY, SITE)
    assert told.profile == "menu" and told.answers[0].answer == "load 52-54-00-12-34-56/undionly.kpxe by TFTP"
    assert {s.group: s.result for s in told.selectors}["bios"] == "chosen"


STAGES = {
    "ipxe": (Loader.IPXE, ["iPXE's DHCP", "ipxe's script"]),
    "uefi http": (Loader.FIRMWARE_HTTP, ["firmware's DHCP", "iPXE's DHCP", "ipxe's script"]),
    "grub": (Loader.GRUB, ["grub's script"]),
    "pxelinux": (Loader.PXELINUX, ["pxelinux's script"]),
    "raspberry pi": (Loader.RASPBERRY_PI, ["firmware's DHCP", "config.txt", "cmdline.txt"]),
}


@pytest.mark.parametrize("loader, stages", STAGES.values(), ids=STAGES)
def test_stages_of_a_stranger(loader: Loader, stages: list[str]) -> None:
    told = explain(pretend(None, Mac("02:00:00:00:00:09"), Arch.X86_BIOS, loader), INVENTORY, SITE)
    assert told.machine is None
    assert [answer.stage for answer in told.answers] == stages


def test_a_raspberry_pi_is_told_its_kernel_or_what_is_wrong_with_it() -> None:
    mac = Mac("dc:a6:32:00:00:01")
    for kernel, fault in (("pi/kernel8.img", ""), ("http://x.example/k", "knows TFTP only")):
        inventory = Inventory.build([Machine("pi1", macs=(mac,), profile="pi")], [], [Profile("pi", kernel=kernel, args=("rw",))])
        told = explain(pretend(inventory.machines["pi1"], None, Arch.RPIBOOT, Loader.RASPBERRY_PI), inventory, SITE)
        _, config, cmdline = told.answers
        assert ("kernel=assets/pi/kernel8.img" in config.text) == (not fault) and fault in config.fault
        assert cmdline.text == "rw\n"


@pytest.mark.parametrize("arch, loader", [(Arch.RPIBOOT, Loader.FIRMWARE), (Arch.X64_EFI, Loader.RASPBERRY_PI)])
def test_who_names_a_raspberry_pi_need_not_name_its_program_too(arch: Arch, loader: Loader) -> None:
    told = pretend(None, Mac("dc:a6:32:00:00:01"), arch, loader)
    assert (told.arch, told.loader) == (Arch.RPIBOOT, Loader.RASPBERRY_PI), "as its DISCOVER is read"


def test_a_machine_known_by_its_serial_number_alone() -> None:
    """Its firmware does not tell it, iPXE's script request does; a Raspberry Pi tells it in DHCP already."""
    pi = Machine("pi1", serial="0a1b2c3d", profile="pi")
    inventory = Inventory.build([pi], [], [Profile("pi", kernel="pi/kernel8.img")])
    told = explain(pretend(pi, None, Arch.X64_EFI, Loader.FIRMWARE), inventory, SITE)
    assert (told.machine, told.profile) == ("pi1", "pi")
    assert "nobody described" in told.answers[0].why and "pi/kernel8.img" in told.answers[-1].text
    told = explain(pretend(pi, None, Arch.RPIBOOT, Loader.RASPBERRY_PI), inventory, SITE)
    assert told.machine == "pi1" and "nobody described" not in told.answers[0].why


def test_a_machine_that_boots_from_disk_gets_one_answer() -> None:
    told = explain(pretend(INVENTORY.machines["disk"], None, Arch.X64_EFI, Loader.FIRMWARE), INVENTORY, SITE)
    (answer,) = told.answers
    assert answer.answer == "start from the local disk (exit1)" and "boot: local" in answer.why


def test_a_stranger_who_is_ignored() -> None:
    empty = Inventory.build()
    told = explain(pretend(None, None, Arch.X64_EFI, Loader.FIRMWARE), empty, a_site(unknown="ignore"))
    assert [a.answer for a in told.answers] == ["no answer"]
    assert told.profile is None and told.client.startswith(NOBODY) and told.templates == {}
    told = explain(pretend(None, None, Arch.X64_EFI, Loader.GRUB), empty, a_site(unknown="ignore"))
    assert [a.answer for a in told.answers] == ["no answer"]


def test_where_dhcp_is_off_only_http_is_ours() -> None:
    site = replace(SITE, network=Network(mode="off"))
    told = explain(pretend(None, MAC, Arch.X64_EFI, Loader.IPXE), INVENTORY, site)
    assert told.answers[0].answer.startswith("nothing: dhcp is off") and told.answers[1].text


def test_what_was_learned_and_ordered_counts() -> None:
    state = MachineState(profile="menu", reply_style="menu")
    told = explain(pretend(INVENTORY.machines["web1"], None, Arch.X64_EFI, Loader.FIRMWARE), INVENTORY, SITE, state)
    assert told.profile == "menu" and "reply style menu" in told.answers[1].why


def test_a_script_that_cannot_be_rendered_is_a_fault_with_its_place() -> None:
    broken = Profile("broken", kernel="vmlinuz", args=("{{ nothing }}",), where="profiles.yaml:9")
    inventory = Inventory.build(groups=[Group("default", {}, "broken")], profiles=[broken])
    told = explain(pretend(None, MAC, Arch.X64_EFI, Loader.IPXE), inventory, SITE)
    assert told.answers[-1].text == "" and "nothing" in told.answers[-1].fault
    scripted = Profile("scripted", script="whole.ipxe.j2")
    inventory = Inventory.build(
        profiles=[scripted], groups=[Group("default", {}, "scripted")], templates={"whole.ipxe.j2": "#!ipxe\n"}
    )
    assert explain(pretend(None, MAC, Arch.X64_EFI, Loader.IPXE), inventory, SITE).templates == {"script": "whole.ipxe.j2"}


def test_steps_in_words() -> None:
    assert said(Silence("why")) == "no answer"
    assert said(LoadNBP("http://a/x.efi", "http", "")) == "load http://a/x.efi by HTTP"
    assert said(FetchScript("http://a", "")) == "fetch http://a"
    assert said(Boot(MENU, {}, "")) == "boot the menu"
    assert said(Boot(Profile("p", chain="http://c"), {}, "")) == "boot p (http://c)"
    assert said(LocalDisk("exit0", "")) == "start from the local disk (exit0)"


@given(
    arch=st.sampled_from(Arch),
    mac=st.sampled_from([MAC, Mac("52:54:00:12:34:57"), Mac("02:00:00:00:00:09")]),
    labels=st.dictionaries(st.sampled_from(["rack", "platform", "hostname"]), st.sampled_from(["7", "efi", "x"])),
)
def test_the_chosen_selector_is_the_one_that_assign_takes(arch: Arch, mac: Mac, labels: dict[str, str]) -> None:
    client = Client(mac, arch, Loader.IPXE, stage=Stage.SCRIPT, labels=labels)
    group = INVENTORY.assign(client, SITE).group
    chosen = [s.group for s in explain(client, INVENTORY, SITE).selectors if s.result == "chosen"]
    assert chosen == ([group.name] if group else [])


def test_butane_is_shown_as_what_it_becomes() -> None:
    profile = Profile("p", kernel="k", documents={"ignition": "a.bu"})
    inventory = Inventory.build([], [Group("g", profile="p")], [profile], {"a.bu": "variant: fcos"})
    client = pretend(None, MAC, Arch.X64_EFI, Loader.IPXE)
    told = [explain(client, inventory, SITE, translate=translate).answers[-1] for translate in (None, lambda text: b'{"v": 1}')]
    assert "needs the program butane" in told[0].fault and told[1].text == '{"v": 1}'
