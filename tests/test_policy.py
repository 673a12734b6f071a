"""next_boot, one named case a rule."""

from dataclasses import replace
from ipaddress import IPv4Network
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.inventory import HOLD, LOCAL, MENU
from pixieboot.model import (
    Arch,
    Assignment,
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
    Site,
    Stage,
    Step,
)
from pixieboot.policy import DiskTries, back_from_disk, booted, next_boot

MAC = Mac("52:54:00:12:34:56")
LOADERS = {Arch.X86_BIOS: "undionly.kpxe", Arch.X64_EFI: "ipxe.efi"}


def a_site(unknown: str = "menu", answer: str = "all") -> Site:
    return Site(
        Network(),
        "eth0",
        2,
        "10.0.0.1",
        IPv4Network("10.0.0.0/24"),
        "http://10.0.0.1:8080",
        LOADERS,
        unknown=unknown,
        answer=answer,
    )


def a_client(
    arch: Arch | None = Arch.X64_EFI, loader: Loader = Loader.FIRMWARE, stage: Stage = Stage.DHCP, code: int | None = None
) -> Client:
    return Client(MAC, arch, loader, stage, arch_code=code)


FLATCAR = Profile("flatcar", kernel="vmlinuz")
SHIM = Profile("secure", kernel="vmlinuz", loader={"*": "shimx64.efi"})
ASSIGNED = Assignment(profile=FLATCAR)
SCRIPT = Stage.SCRIPT

CASES: dict[str, tuple[Client, Assignment, Site, Step]] = {
    "UEFI firmware loads iPXE": (a_client(), ASSIGNED, a_site(), LoadNBP("52-54-00-12-34-56/ipxe.efi", "tftp", ANY)),
    "a BIOS loads undionly": (a_client(Arch.X86_BIOS), ASSIGNED, a_site(), LoadNBP("52-54-00-12-34-56/undionly.kpxe", "tftp", ANY)),
    "UEFI HTTP Boot gets a URL": (
        a_client(loader=Loader.FIRMWARE_HTTP),
        ASSIGNED,
        a_site(),
        LoadNBP("http://10.0.0.1:8080/tftp/52-54-00-12-34-56/ipxe.efi", "http", ANY),
    ),
    "iPXE gets its script": (a_client(loader=Loader.IPXE), ASSIGNED, a_site(), FetchScript("http://10.0.0.1:8080/boot.ipxe", ANY)),
    "the script boots the profile": (a_client(stage=SCRIPT), ASSIGNED, a_site(), Boot(FLATCAR, {}, ANY)),
    "a Raspberry Pi loads by TFTP": (
        a_client(Arch.X86_BIOS, Loader.RASPBERRY_PI),
        ASSIGNED,
        a_site(),
        LoadNBP("bootcode.bin", "tftp", ANY),
    ),
    "GRUB asks DHCP for nothing": (a_client(loader=Loader.GRUB), ASSIGNED, a_site(), Silence(ANY)),
    "no profile: silence": (a_client(), Assignment(), a_site("ignore"), Silence(ANY)),
    "no profile beside another PXE server": (
        a_client(),
        Assignment(why="nobody described it"),
        replace(a_site("ignore"), foreign_pxe=True),
        Silence(
            "nobody described it; unknown machines are left to another PXE server on eth0 (set `unknown` to boot them)",
        ),
    ),
    "answer: known": (a_client(), Assignment(profile=MENU), a_site(answer="known"), Silence(ANY)),
    "answer: known, and it is": (
        a_client(),
        Assignment(group=Group("g"), profile=FLATCAR),
        a_site(answer="known"),
        LoadNBP("52-54-00-12-34-56/ipxe.efi", "tftp", ANY),
    ),
    "no loader for the architecture": (a_client(Arch.ARM64_EFI), ASSIGNED, a_site(), Silence(ANY)),
    "UEFI that shows its UUID for a MAC": (
        replace(a_client(), mac=Mac.of(bytes(range(16)))),
        ASSIGNED,
        a_site(),
        LoadNBP("ipxe.efi", "tftp", ANY),
    ),
    "no architecture": (a_client(None), ASSIGNED, a_site(), Silence(ANY)),
    "an unassigned architecture": (a_client(None, code=99), ASSIGNED, a_site(), Silence(ANY)),
    "the profile's loader": (a_client(), Assignment(profile=SHIM), a_site(), LoadNBP("52-54-00-12-34-56/shimx64.efi", "tftp", ANY)),
    "the machine's loader first": (
        a_client(),
        Assignment(Machine("m", loader={"x64-efi": "own.efi"}), profile=SHIM),
        a_site(),
        LoadNBP("52-54-00-12-34-56/own.efi", "tftp", ANY),
    ),
    "a loop changes the loader": (
        a_client(),
        Assignment(profile=FLATCAR, state=MachineState(loader_fetches=3)),
        a_site(),
        LoadNBP("52-54-00-12-34-56/snponly.efi", "tftp", ANY),
    ),
    "a loop keeps the operator's loader": (
        a_client(),
        Assignment(profile=SHIM, state=MachineState(loader_fetches=9)),
        a_site(),
        LoadNBP("52-54-00-12-34-56/shimx64.efi", "tftp", ANY),
    ),
    "boot: local": (a_client(), Assignment(Machine("m", boot="local"), profile=FLATCAR), a_site(), LocalDisk("exit1", ANY)),
    "boot: once, armed": (
        a_client(stage=SCRIPT),
        Assignment(Machine("m", boot="once"), profile=FLATCAR),
        a_site(),
        Boot(FLATCAR, {}, ANY),
    ),
    "boot: once, done": (
        a_client(Arch.X86_BIOS),
        Assignment(Machine("m", boot="once"), profile=FLATCAR, state=MachineState(done=1.0)),
        a_site(),
        LocalDisk("sanboot", ANY),
    ),
    "an order comes before the file": (
        a_client(stage=SCRIPT),
        Assignment(Machine("m", boot="local"), profile=FLATCAR, state=MachineState(boot="always")),
        a_site(),
        Boot(FLATCAR, {}, ANY),
    ),
    "boot: once, late, again": (
        a_client(stage=SCRIPT),
        Assignment(Machine("m", boot="once"), profile=FLATCAR, state=MachineState(overdue=1.0)),
        a_site(),
        Boot(FLATCAR, {}, ANY),
    ),
    "boot: once, late, hold": (
        a_client(stage=SCRIPT),
        Assignment(Machine("m", boot="once"), profile=replace(FLATCAR, on_timeout="hold"), state=MachineState(overdue=1.0)),
        a_site(),
        Boot(HOLD, {}, ANY),
    ),
    "held machines come as far as their script": (
        a_client(loader=Loader.IPXE),
        Assignment(Machine("m", boot="once"), profile=replace(FLATCAR, on_timeout="hold"), state=MachineState(overdue=1.0)),
        a_site(),
        FetchScript("http://10.0.0.1:8080/boot.ipxe", ANY),
    ),
    "boot: once, late, local": (
        a_client(),
        Assignment(Machine("m", boot="once"), profile=replace(FLATCAR, on_timeout="local"), state=MachineState(overdue=1.0)),
        a_site(),
        LocalDisk("exit1", ANY),
    ),
    "late, and ordered otherwise since": (
        a_client(stage=SCRIPT),
        Assignment(
            Machine("m", boot="once"), profile=replace(FLATCAR, on_timeout="hold"), state=MachineState("always", overdue=1.0)
        ),
        a_site(),
        Boot(replace(FLATCAR, on_timeout="hold"), {}, ANY),
    ),
    "the profile local": (a_client(), Assignment(profile=LOCAL), a_site(), LocalDisk("exit1", ANY)),
    "local_boot as written": (
        a_client(),
        Assignment(Machine("m", boot="local", local_boot="exit0"), profile=FLATCAR),
        a_site(),
        LocalDisk("exit0", ANY),
    ),
    "local_boot as learned": (
        a_client(),
        Assignment(Machine("m", boot="local"), profile=FLATCAR, state=MachineState(local_boot="exit0")),
        a_site(),
        LocalDisk("exit0", ANY),
    ),
}


@pytest.mark.parametrize("client, assignment, site, step", CASES.values(), ids=CASES)
def test_next_boot(client: Client, assignment: Assignment, site: Site, step: Step) -> None:
    assert next_boot(client, assignment, site) == step


@given(
    st.builds(
        Client,
        mac=st.just(MAC),
        arch=st.none() | st.sampled_from(Arch),
        loader=st.sampled_from(Loader),
        stage=st.sampled_from(Stage),
        arch_code=st.none() | st.integers(0, 65535),
    ),
    st.sampled_from([None, MENU, LOCAL, FLATCAR, SHIM, replace(FLATCAR, on_timeout="hold"), replace(FLATCAR, on_timeout="local")]),
    st.sampled_from([None, Machine("m"), Machine("m", boot="once"), Machine("m", boot="local")]),
    st.builds(
        MachineState, loader_fetches=st.integers(0, 5), done=st.sampled_from([0.0, 1.0]), overdue=st.sampled_from([0.0, 1.0])
    ),
    st.sampled_from(["all", "known"]),
)
def test_next_boot_never_raises_and_always_says_why(
    client: Client, profile: Profile | None, machine: Machine | None, state: MachineState, answer: str
) -> None:
    step = next_boot(client, Assignment(machine, None, profile, {}, state, "because"), a_site(answer=answer))
    assert step.why


def test_the_profile_that_a_step_boots() -> None:
    steps = (
        Boot(FLATCAR, {}, "because"),
        LocalDisk("exit1", "because"),
        Silence("because"),
        FetchScript("http://h/ipxe", "because"),
    )
    assert [booted(step) for step in steps] == [FLATCAR.name, "local", None, None]


WAY = MachineState(local_boot="exit0")
WORKS = replace(WAY, local_boot_works=True)
RETURNS: dict[str, tuple[float, str, DiskTries, Assignment, DiskTries, MachineState, str]] = {
    "back at once: the next way": (
        30, "exit1", DiskTries(), ASSIGNED, DiskTries(ways=1), WAY, "30 s after exit1: exit0 is",
    ),
    "the first way follows the last": (
        9, "http404", DiskTries(ways=1), ASSIGNED, DiskTries(ways=2), MachineState(local_boot="sanboot"), "sanboot is tried",
    ),
    "none led to a disk": (
        9, "sanboot", DiskTries(ways=3), ASSIGNED, DiskTries(ways=4), MachineState(local_boot="exit1"), "nothing that starts",
    ),
    "it stayed away: this way works": (60, "exit0", DiskTries(ways=1), ASSIGNED, DiskTries(), WORKS, ""),
    "a way that works is kept": (90, "exit0", DiskTries(1), replace(ASSIGNED, state=WORKS), DiskTries(), WORKS, ""),
    "and gets a second chance": (9, "exit0", DiskTries(), replace(ASSIGNED, state=WORKS), DiskTries(1), WORKS, ""),
    "but no third one": (
        9, "exit0", DiskTries(1), replace(ASSIGNED, state=WORKS), DiskTries(ways=1), MachineState(local_boot="http404"), "http404",
    ),
    "what the operator wrote stays": (
        9, "exit0", DiskTries(), Assignment(Machine("m", local_boot="exit0")), DiskTries(), MachineState(), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("away, how, tries, assignment, after, learned, why", RETURNS.values(), ids=RETURNS)
def test_back_from_disk(
    away: float, how: str, tries: DiskTries, assignment: Assignment, after: DiskTries, learned: MachineState, why: str
) -> None:
    assert back_from_disk(away, how, tries, assignment)[:2] == (after, learned)
    said = back_from_disk(away, how, tries, assignment)[2]
    assert why in said and bool(why) == bool(said) and after.exhausted == ("nothing that starts" in why)
