"""One story of a boot for each verdict: what happened, and what pixieboot says of it."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pixieboot.boots import Boot, Facts, split
from pixieboot.model import Arch, Assignment, Client, Event, Loader, Mac, Machine, MachineState, Profile, Silence, Site, Variant
from pixieboot.policy import next_boot
from pixieboot.verdict import RULES, Verdict, judge, nothing_heard
from pixieboot.verdict.dhcp import REASONS
from tests.test_boots import DONE, FILES, OS, UEFI, event, later
from tests.test_policy import a_site

NBP = "52-54-00-12-34-56/ipxe.efi"
X64 = {"arch": "x64-efi", "loader": "firmware"}
IPXE = {"arch": "x64-efi", "loader": "ipxe"}
FLATCAR = Profile("flatcar", kernel="vmlinuz", initrd=("initrd.gz",), documents={"ignition": "worker.ign.j2"})
ONCE = Assignment(machine=Machine("web1", boot="once"), profile=Profile("flatcar", kernel="vmlinuz", initrd=("initrd.gz",)))
CACHED = Profile("mirrored", kernel="http://mirror.example/vmlinuz", initrd=("http://mirror.example/initrd.gz",), cache="once")
DISK = event(0, "http script", path="/ipxe", profile="local", why="it boots from its local disk (boot: local)", status=200)


def offered(at: float, nbp: str = NBP, arch: str = "x64-efi", **more: Any) -> Event:
    return event(at, "dhcp offered", nbp=nbp, arch=arch, loader="firmware", **more)


def sent(at: float, path: str = NBP, size: int = 1_000_000) -> Event:
    return event(at, "tftp sent", path=path, bytes=size, seconds=0.5, peer="10.0.0.9")


def failed(at: float, why: str, path: str = NBP) -> Event:
    return event(at, "tftp failed", path=path, why=why, peer="10.0.0.9")


def missing(at: float, path: str) -> Event:
    return event(at, "tftp missing", path=path, why="no such file", peer="10.0.0.9")


def script(at: float, profile: str | None = "flatcar", status: int = 200, why: str = "its own profile") -> Event:
    return event(at, "http script", path="/ipxe", profile=profile, status=status, why=why)


STARTED = event(5, "tftp started", path=NBP, bytes=1_000_000, blksize=1468, windowsize=4, peer="10.0.0.9")
ON_PI = event(0, "dhcp offered", nbp="bootcode.bin", arch="rpiboot", loader="raspberry-pi")
SHIM = "52-54-00-12-34-56/shimx64.efi"

# expected verdict: (events, seconds of now, what the machine is to boot)
STORIES: Mapping[str, tuple[str, list[Event], float, Assignment]] = {
    # good ends
    "done": ("installed", [*UEFI, *FILES, *DONE], 301, Assignment()),
    "its system asked for its document": (
        "booted",
        [*UEFI, *FILES, event(40, "http document", path="/ignition")],
        50,
        Assignment(),
    ),
    "its system asked for an address": ("booted", [*UEFI, *FILES, *OS], 50, Assignment()),
    "the API is gone": (
        "api-failed",
        [event(0, "pixiecore failed", why="h cannot be reached"), event(0, "dhcp ignored", why="unknown: ignore", **X64)],
        100,
        Assignment(),
    ),
    "the API does not know it": (
        "api-refuses",
        [event(0, "pixiecore answered", boots="nothing"), event(0, "dhcp ignored", why="unknown: ignore", **X64)],
        100,
        Assignment(),
    ),
    "waits for another server": (
        "fetching",
        [*UEFI, event(6, "fetch started", url="http://h/vmlinuz", bytes=9), event(30, "fetch progress", url="http://h/vmlinuz")],
        100,
        Assignment(),
    ),
    "another server is down": (
        "upstream-failed",
        [*UEFI, event(6, "http failed", path="/remote/vmlinuz", url="http://h/vmlinuz", why="h cannot be reached")],
        100,
        Assignment(),
    ),
    "another server has something else": (
        "upstream-failed",
        [*UEFI, event(6, "http failed", path="/remote/k", url="http://h/k", why="http://h/k has the sha256 0", seconds=1.0)],
        100,
        Assignment(),
    ),
    "all files fetched": ("handed-over", [*UEFI, *FILES], 60, Assignment(profile=FLATCAR)),
    "all files fetched, profile unknown": ("handed-over", [*UEFI, *FILES], 60, Assignment()),
    "local disk by script": ("local-disk", [DISK], 5, Assignment()),
    "local disk by silence": (
        "local-disk",
        [event(0, "dhcp ignored", why="it was installed once and reported done (boot: once)", **X64)],
        5,
        Assignment(),
    ),
    "the menu": ("menu", [*UEFI[:7], script(12, "menu")], 500, Assignment()),
    "chained away": (
        "chained",
        [*UEFI[:7], script(12, "nb")],
        500,
        Assignment(profile=Profile("nb", chain="http://boot.netboot.xyz")),
    ),
    "a Raspberry Pi got its kernel": ("handed-over", [ON_PI, sent(3, "ab12/kernel8.img")], 60, Assignment()),
    "a Raspberry Pi got its profile's": ("handed-over", [ON_PI, sent(3, "ab12/assets/pi/linux")], 60, Assignment()),
    # still at it
    "just offered": ("going", [offered(0)], 3, Assignment()),
    "loads its boot program": ("loading", [offered(0), STARTED], 7, Assignment()),
    "the card's iPXE runs PXELINUX, which loads for minutes": (
        "loading",
        [
            event(0, "dhcp offered", url="http://10.0.0.1/boot.ipxe", secs=8, **IPXE),
            event(16, "tftp started", path="pxelinux.0", bytes=42_430),
            sent(17, "pxelinux.0"),
            event(18, "tftp started", path="/assets/initrd.img", bytes=900_000_000),
        ],
        400,
        Assignment(),
    ),
    "runs iPXE since a moment": ("going", UEFI[:6], 12, Assignment()),
    "loads a kernel since a moment": ("going", UEFI, 30, Assignment()),
    "the disk of a Pi answers later": ("going", [ON_PI], 3, Assignment()),
    "a Pi climbs its ladder": ("going", [ON_PI, missing(3, "ab12/start4.elf")], 4, Assignment()),
    "iPXE repeats nothing yet": ("going", [event(0, "dhcp offered", url="http://10.0.0.1/boot.ipxe", **IPXE)], 3, Assignment()),
    "HTTP Boot since a moment": (
        "going",
        [event(0, "dhcp offered", url="http://10.0.0.1/tftp/ipxe.efi", arch="x64-efi", loader="firmware-http")],
        3,
        Assignment(),
    ),
    # the operating system
    "fetched all and never done": ("never-done", [*UEFI, *FILES], 20 + 4000, ONCE),
    "never asked for its ignition": ("document-not-fetched", [*UEFI, *FILES], 20 + 200, Assignment(profile=FLATCAR)),
    "the document's template fails": (
        "document-error",
        [*UEFI, *FILES, event(40, "http failed", path="/ignition", why="worker.ign.j2:3: 'x' is undefined")],
        41,
        Assignment(),
    ),
    "the document is not there": (
        "document-missing",
        [*UEFI, *FILES, event(40, "http missing", path="/cloud", why="none")],
        41,
        Assignment(),
    ),
    # kernel and initrd
    "kernel 404": (
        "file-missing",
        [*UEFI, event(14, "http missing", path="/assets/vmlinux", why="no such file")],
        15,
        Assignment(),
    ),
    "kernel unreadable": (
        "file-error",
        [*UEFI, event(14, "http refused", path="/assets/vmlinuz", why="Permission denied")],
        15,
        Assignment(),
    ),
    "initrd broken off": (
        "file-aborted",
        [*UEFI, FILES[0], event(20, "http failed", path="/assets/initrd.gz", why="Connection lost", seconds=3.0)],
        60,
        Assignment(),
    ),
    "initrd stalled": (
        "file-stalled",
        [*UEFI, FILES[0], event(20, "http started", path="/assets/initrd.gz", bytes=9)],
        90,
        Assignment(),
    ),
    "initrd never asked for": ("files-incomplete", [*UEFI, FILES[0]], 90, Assignment(profile=FLATCAR)),
    # the script
    "script error": (
        "script-error",
        [*UEFI[:7], script(12, None, 500, "menu.j2:4: 'role' is undefined. Define it.")],
        13,
        Assignment(),
    ),
    "script refused": (
        "script-refused",
        [*UEFI[:7], script(12, None, 404, "no group matches (unknown: ignore)")],
        13,
        Assignment(),
    ),
    "script, then nothing": ("script-stopped", UEFI, 200, Assignment(profile=FLATCAR)),
    # boot program to script
    "iPXE never fetched its script": ("http-unreachable", UEFI[:6], 60, Assignment()),
    "the card's iPXE takes its time": (
        "going",
        [event(0, "dhcp offered", url="http://10.0.0.1/boot.ipxe", **IPXE), event(0, "dhcp acked", address="10.0.0.9", **IPXE)],
        17,
        Assignment(),
    ),
    "iPXE misses the proxy's offer": (
        "ipxe-misses-offer",
        [*UEFI[:6], *later(UEFI[5:6], 10), *later(UEFI[5:6], 20)],
        60,
        Assignment(),
    ),
    "iPXE lost its link": ("ipxe-lost-link", [*UEFI[:5], missing(8, "autoexec.ipxe")], 90, Assignment()),
    "Secure Boot": (
        "secure-boot",
        [*UEFI[:5], event(8, "dhcp offered", url="http://10.0.0.1/x", arch="x64-efi", loader="firmware-http")],
        9,
        Assignment(),
    ),
    "Secure Boot, HTTP Boot tried a minute later": (
        "secure-boot",
        [
            *UEFI[:5],
            event(70, "dhcp offered", url="http://10.0.0.1/tftp/m/ipxe.efi", arch="x64-efi", loader="firmware-http"),
            event(74, "http sent", path="/tftp/m/ipxe.efi", bytes=1_000_000),
        ],
        75,
        Assignment(),
    ),
    "PXE again a minute later, after a reset": ("going", [*UEFI[:5], offered(70)], 71, Assignment()),
    "boot program fetched, then nothing (UEFI)": ("loader-silent", UEFI[:5], 90, Assignment()),
    "boot program fetched, then nothing (BIOS)": (
        "loader-silent",
        [offered(0, "m/undionly.kpxe", "x86-bios"), sent(2, "m/undionly.kpxe")],
        90,
        Assignment(),
    ),
    "the same boot program three times": (
        "loader-loop",
        [offered(0), sent(2), offered(30), sent(32), offered(60), sent(62)],
        63,
        Assignment(),
    ),
    "iPXE loads itself": (
        "loader-loop",
        [
            offered(0),
            sent(2),
            missing(3, "m/autoexec.ipxe"),
            offered(30),
            sent(32),
            missing(33, "m/autoexec.ipxe"),
            offered(60),
            sent(62),
        ],
        63,
        Assignment(),
    ),
    "x64 program for ia32 firmware": ("wrong-loader-arch", [offered(0, arch="x86-efi"), sent(2)], 30, Assignment()),
    "GRUB beside shim is missing": (
        "second-stage-missing",
        [offered(0, SHIM), sent(2, SHIM), missing(3, "m/grubx64.efi")],
        30,
        Assignment(),
    ),
    "shim is content": (
        "going",
        [offered(0, SHIM), sent(2, SHIM), missing(3, "m/revocations_sku.efi"), sent(4, "m/grubx64.efi")],
        5,
        Assignment(),
    ),
    "GRUB asks the router": ("grub-asks-router", [offered(0, SHIM), sent(2, SHIM), sent(4, "m/grubx64.efi")], 60, Assignment()),
    "GRUB cannot fetch what another server has": (
        "loader-without-http",
        [offered(0, SHIM), sent(2, SHIM), sent(4, "m/grubx64.efi"), sent(5, "grub/grub.cfg")],
        60,
        Assignment(profile=CACHED),
    ),
    "PXELINUX cannot either": (
        "loader-without-http",
        [offered(0, "m/pxelinux.0", "x86-bios"), sent(2, "m/pxelinux.0"), sent(3, "pxelinux.cfg/01-52"), sent(4, "assets/vmlinuz")],
        60,
        Assignment(profile=replace(CACHED, kernel="vmlinuz")),
    ),
    "PXELINUX finds no configuration": (
        "loader-config-missing",
        [
            offered(0, "m/pxelinux.0", "x86-bios"),
            sent(2, "m/pxelinux.0"),
            sent(3, "m/ldlinux.c32"),
            missing(4, "pxelinux.cfg/01-52"),
            missing(5, "pxelinux.cfg/default"),
        ],
        60,
        Assignment(),
    ),
    "PXELINUX lacks ldlinux.c32": (
        "loader-module-missing",
        [offered(0, "m/pxelinux.0", "x86-bios"), sent(2, "m/pxelinux.0"), missing(3, "m/ldlinux.c32")],
        20,
        Assignment(),
    ),
    "HTTP Boot URL never fetched": (
        "http-boot-not-fetched",
        [event(0, "dhcp offered", url="http://10.0.0.1/tftp/ipxe.efi", arch="x64-efi", loader="firmware-http")],
        60,
        Assignment(),
    ),
    "HTTP Boot fetched, then nothing": (
        "loader-silent",
        [
            event(0, "dhcp offered", url="http://10.0.0.1/tftp/ipxe.efi", arch="x64-efi", loader="firmware-http"),
            event(2, "http sent", path="/tftp/ipxe.efi", bytes=1_000_000),
        ],
        90,
        Assignment(),
    ),
    # TFTP
    "boot program missing": ("loader-missing", [offered(0), missing(2, NBP)], 5, Assignment()),
    "TFTP data blocked": ("tftp-data-blocked", [offered(0), failed(30, "no answer to OACK, sent 5 times")], 31, Assignment()),
    "TFTP data blocked, no options": (
        "tftp-data-blocked",
        [offered(0), failed(30, "no answer to DATA 1, sent 5 times")],
        31,
        Assignment(),
    ),
    "large packets lost": ("tftp-mtu", [offered(0), STARTED, failed(30, "no answer to DATA 1, sent 5 times")], 31, Assignment()),
    "packets lost": ("tftp-lossy", [offered(0), STARTED, failed(30, "no answer to DATA 400, sent 5 times")], 31, Assignment()),
    "firmware has no room": (
        "tftp-client-gave-up",
        [offered(0), STARTED, failed(6, "the client ended it with error 3: Disk full")],
        60,
        Assignment(),
    ),
    "only the size asked": ("size-probe-only", [offered(0), event(2, "tftp probe", path=NBP)], 60, Assignment()),
    "TFTP refused": (
        "tftp-refused",
        [offered(0), event(2, "tftp refused", path=NBP, why="a link leads out of the root")],
        5,
        Assignment(),
    ),
    # Raspberry Pi
    "a Pi asks no file": ("pi-no-tftp", [ON_PI], 60, Assignment()),
    "a Pi finds no firmware": (
        "pi-no-firmware",
        [ON_PI, missing(3, "ab12/start4.elf"), missing(3, "start4.elf")],
        60,
        Assignment(),
    ),
    "a Pi finds no kernel": ("pi-no-kernel", [ON_PI, sent(3, "ab12/start4.elf"), missing(4, "ab12/kernel8.img")], 60, Assignment()),
    # DHCP
    "another server won": (
        "other-server-won",
        [offered(0), event(4, "dhcp ignored", why="it chose another server, 10.0.0.7")],
        30,
        Assignment(),
    ),
    "address in use": ("address-in-use", [offered(0), event(4, "dhcp declined", address="10.0.0.9")], 5, Assignment()),
    "address refused": ("address-refused", [offered(0), event(4, "dhcp naked", why="not in our pools")], 30, Assignment()),
    "late, then nothing": ("late-link", [offered(0, secs=28)], 30, Assignment()),
    "4011 asked, no TFTP": ("tftp-blocked", UEFI[:2], 60, Assignment()),
    "lease taken, no TFTP": (
        "tftp-not-asked",
        [offered(0, address="10.0.0.9"), event(1, "dhcp acked", address="10.0.0.9", **X64)],
        60,
        Assignment(),
    ),
    "one offer, not taken": ("offer-not-taken", [offered(0)], 60, Assignment()),
    "four offers, none taken": ("offer-ignored", [offered(0), offered(4), offered(12), offered(28)], 60, Assignment()),
    "not answered for a reason of its own": (
        "ignored",
        [event(0, "dhcp ignored", why="the relay is not ours", **X64)],
        5,
        Assignment(),
    ),
}


@pytest.mark.parametrize("name, events, now, assignment", STORIES.values(), ids=STORIES)
def test_judge(name: str, events: list[Event], now: float, assignment: Assignment) -> None:
    boots = split(events)
    verdict = judge(boots[-1], now, assignment, boots[:-1])
    assert verdict.name == name, verdict
    assert re.search(r"[^.]\.$", verdict.sentence) and "None" not in verdict.sentence
    assert verdict.next_step or verdict.outcome in ("ok", "going"), "a failure without advice"
    assert verdict.outcome in ("ok", "going", "failed", "ignored")


def test_all_rules_have_a_story() -> None:
    """At least thirty causes told apart, and no rule that nothing reaches."""
    assert len({name for name, *_ in STORIES.values()} | {name for _, name, _ in REASONS}) > 50


REFUSED = {  # what the policy says no to, so that its words and ours cannot drift apart
    "unknown-ignored": (Client(Mac("02:00:00:00:00:01"), Arch.X64_EFI), Assignment(why="no group"), a_site()),
    "unknown-arch": (Client(Mac("02:00:00:00:00:01"), None, arch_code=77), Assignment(profile=FLATCAR), a_site()),
    "no-loader-for-arch": (Client(Mac("02:00:00:00:00:01"), Arch.ALPHA), Assignment(profile=FLATCAR), a_site()),
}


@pytest.mark.parametrize("name, question", REFUSED.items(), ids=REFUSED)
def test_the_policys_reasons_are_recognised(name: str, question: tuple[Client, Assignment, Site]) -> None:
    step = next_boot(*question)
    assert isinstance(step, Silence)
    verdict = judge(Boot((event(0, "dhcp ignored", why=step.why),)), 1)
    assert (verdict.name, verdict.outcome) == (name, "ignored")


@pytest.mark.parametrize("mark, name, mend", REASONS, ids=[name for _, name, _ in REASONS])
def test_each_reason_has_its_verdict(mark: str, name: str, mend: str) -> None:
    (boot,) = split([event(0, "dhcp ignored", why=f"because ({mark})")])
    assert judge(boot, 1) == Verdict(name, "ignored", f"It was not answered: because ({mark}).", mend)


def test_a_machine_that_comes_back_from_its_disk() -> None:
    boots = split([DISK, *later(UEFI[:1], 30)])
    verdict = judge(boots[1], 31, Assignment(machine=Machine("web1", local_boot="exit1")), boots[:1])
    assert verdict.name == "local-disk-failed"
    assert "exit1" in verdict.sentence and "sanboot" in verdict.next_step and "exit1" not in verdict.next_step
    boots = split([replace(DISK, detail={**DISK.detail, "local_boot": "sanboot"}), *later(UEFI[:1], 30)])
    verdict = judge(boots[1], 31, Assignment(state=MachineState(local_boot="exit1")), boots[:1])
    assert "(local_boot: sanboot)" in verdict.sentence and "exit1 is tried from now on" in verdict.next_step


ON_TIMEOUT = {
    "again": ("it installs again at its next boot", "--local"),
    "hold": ("it is held and boots nothing", "--once"),
    "local": ("it starts from its local disk", "--once"),
}


@pytest.mark.parametrize("on_timeout", ON_TIMEOUT)
def test_an_installation_whose_time_is_up(on_timeout: str) -> None:
    sentence, mend = ON_TIMEOUT[on_timeout]
    profile = Profile("debian", kernel="k", once_timeout=7200.0, on_timeout=on_timeout)
    late = Assignment(Machine("web1", boot="once"), None, profile, state=MachineState(overdue=7200.0))
    boot = split(UEFI)[-1]
    verdict = judge(boot, 7300.0, late)
    assert (verdict.name, verdict.outcome) == ("once-overdue", "failed")
    assert sentence in verdict.sentence and "within 2 h 0 min" in verdict.sentence and mend in verdict.next_step
    for state in (MachineState(), MachineState(overdue=1.0, deadline=9000.0), MachineState(overdue=1.0, done=2.0)):
        assert judge(boot, 7300.0, replace(late, state=state)).name != "once-overdue"


def test_an_installer_that_starts_again_and_again() -> None:
    boots = split([*UEFI, *FILES, *later([*UEFI, *FILES], 900), *later([*UEFI, *FILES], 1800)])
    assert judge(boots[2], 1830, Assignment(), boots[:2]).name == "reinstall-loop"
    assert "3 times" in judge(boots[2], 1830, Assignment(), boots[:2]).sentence
    assert judge(boots[2], 1830, ONCE, boots[:2]).name != "reinstall-loop", "`once` ends by itself"
    assert judge(boots[1], 930, Assignment(), boots[:1]).name == "handed-over", "twice is no loop"


def test_a_boot_that_was_cut_off_is_not_under_way() -> None:
    boots = split([*UEFI[:7], script(12, "menu"), *later(UEFI, 60)])
    assert judge(boots[0], 61).outcome == "ok"
    assert judge(Boot(tuple(UEFI[:4]), over=True), 1).name == "interrupted"


def test_a_late_first_packet_is_added_to_any_other_verdict() -> None:
    verdict = judge(Boot((offered(0, secs=12), *UEFI[1:], *FILES, *DONE)), 310)
    assert verdict.name == "installed" and "12 s late" in verdict.sentence


@pytest.mark.parametrize("secs, late", {4: 0, 8: 0, 16: 0, 20: 15, 40: 65}.items())
def test_ipxe_counts_packets_in_secs(secs: int, late: int) -> None:
    first = event(0, "dhcp offered", url="http://10.0.0.1/boot.ipxe", secs=secs, **IPXE)
    assert Facts(Boot((first,)), 0, Assignment(), ()).late == late


def test_the_variant_of_the_architecture_decides_which_files_are_awaited() -> None:
    profile = Profile("p", kernel="other", initrd=("x",), arch={Arch.X64_EFI: Variant(kernel="a/vmlinuz", initrd=("initrd.gz",))})
    boot = Boot((*UEFI, FILES[0]))
    assert "never asked for initrd.gz" in judge(boot, 90, Assignment(profile=profile)).sentence


def test_expected_misses_are_no_fault() -> None:
    story = [offered(0), missing(1, "bootsig.bin"), missing(1, "m/autoexec.ipxe")]
    assert judge(Boot(tuple(story)), 2).name == "going"


def test_an_unhurried_machine_is_no_failure() -> None:
    """Back after an hour is a new day, not a disk that failed; and a boot without a profile is no loop."""
    boots = split([DISK, *later(UEFI[:1], 3600)])
    assert judge(boots[1], 3601, Assignment(), boots[:1]).name == "going"
    assert judge(boots[1], 3601, Assignment(), [Boot(tuple(UEFI))]).name == "going", "it was never sent to its disk"
    again = split([*UEFI, *later(UEFI[:1], 40)])
    assert judge(again[1], 41, Assignment(), again[:1]).name == "going", "nor was this one"
    grub = [offered(0, SHIM), sent(2, SHIM), sent(4, "m/grubx64.efi"), sent(5, "grub/grub.cfg")]
    assert judge(Boot(tuple(grub)), 6).name == "going", "GRUB came back for its configuration"


def test_nothing_heard() -> None:
    assert "web1" in nothing_heard("web1").sentence
    heard = nothing_heard("web1", event(0, "dhcp ignored", why="it took the offer of another server, 10.0.0.9"))
    assert heard.sentence.endswith("last: not answered: it took the offer of another server, 10.0.0.9.")


def test_whatever_the_events_say_there_is_a_verdict() -> None:
    """Any prefix of any story, at any time, seen alone or followed by another boot."""
    for _, events, now, assignment in STORIES.values():
        for length in range(1, len(events) + 1):
            for over in (False, True):
                for when in (events[length - 1].at, now, now + 10_000):
                    judge(Boot(tuple(events[:length]), over), when, assignment)


def test_loaders_are_known_by_name() -> None:
    assert Loader.IPXE.value == "ipxe" and len(RULES) > 40
