"""A stream of events, split into boots."""

from typing import Any

import pytest

from pixieboot.boots import _FACTS, Boot, duration, phases, progress, size, split, stage, tell
from pixieboot.model import Event, Mac

MAC = Mac("52:54:00:12:34:56")


def event(at: float, what: str, **detail: Any) -> Event:
    """event(3, "tftp sent", path=…): one fact of the machine under test, `at` seconds into the story."""
    service, kind = what.split(" ", 1)
    return Event(float(at), MAC, service, kind, detail)


UEFI = [
    event(0, "dhcp offered", nbp="52-54-00-12-34-56/ipxe.efi", arch="x64-efi", loader="firmware"),
    event(4, "pxe acked", nbp="52-54-00-12-34-56/ipxe.efi", arch="x64-efi", loader="firmware"),
    event(5, "tftp probe", path="52-54-00-12-34-56/ipxe.efi", peer="10.0.0.9"),
    event(5, "tftp started", path="52-54-00-12-34-56/ipxe.efi", peer="10.0.0.9", bytes=1_000_000, blksize=1468),
    event(6, "tftp sent", path="52-54-00-12-34-56/ipxe.efi", peer="10.0.0.9", bytes=1_000_000, seconds=0.6),
    event(9, "dhcp offered", url="http://10.0.0.1:8080/boot.ipxe", arch="x64-efi", loader="ipxe"),
    event(12, "http sent", path="/boot.ipxe", bytes=200, peer="10.0.0.9"),
    event(12, "http script", path="/ipxe", profile="flatcar", why="its own profile", status=200),
]
FILES = [
    event(14, "http sent", path="/assets/vmlinuz", bytes=10_000_000, seconds=1.0),
    event(20, "http sent", path="/assets/initrd.gz", bytes=50_000_000, seconds=5.0),
]
OS = [event(40, "dhcp acked", address="10.0.0.9")]
DONE = [event(300, "http done", machine="web1")]


def later(events: list[Event], seconds: float) -> list[Event]:
    return [Event(e.at + seconds, e.mac, e.service, e.kind, e.detail, e.level) for e in events]


SPLITS = {
    "nothing": ([], []),
    "one boot from firmware to done": ([*UEFI, *FILES, *OS, *DONE], [12]),
    "an installer is silent for half an hour before it is done": ([*UEFI, *FILES, *later(DONE, 1800)], [11]),
    "started again after its script": ([*UEFI, *later(UEFI, 60)], [8, 8]),
    "started again where another server leases": ([*UEFI[2:], *later(UEFI[2:], 60), *later(UEFI[6:], 120)], [6, 6, 2]),
    "started again after done": ([*UEFI, *FILES, *DONE, *later(UEFI, 310)], [11, 8]),
    "a firmware that tries PXE, then HTTP Boot, is one boot": (
        [*UEFI[:5], event(30, "dhcp offered", url="http://10.0.0.1:8080/tftp/ipxe.efi", arch="x64-efi", loader="firmware-http")],
        [6],
    ),
    "silence of ten minutes before the script": ([*UEFI[:2], *later(UEFI[:2], 600)], [2, 2]),
    "lease renewals are no boot": ([*later(OS, 5000), *later(OS, 9000)], []),
    "a renewal hours after the boot does not belong to it": ([*UEFI, *FILES, *later(OS, 20_000)], [10]),
    "an operating system that a proxy leaves alone is no boot": ([event(0, "dhcp ignored", why="no PXE client")], []),
    "an architecture that is not told is one": ([event(0, "dhcp ignored", why="… and it is not guessed (RFC 4578 §2.1)")], [1]),
    "a stranger that is left to another PXE server is one": (
        [event(0, "dhcp ignored", why="… left to another PXE server on eth0")],
        [1],
    ),
    "a stranger that is left alone on purpose is one": ([event(0, "dhcp ignored", why="no group; … (unknown: ignore)")], [1]),
    "back from the local disk": (
        [event(0, "dhcp ignored", why="boots … (boot: local)"), event(30, "dhcp ignored", why="boots … (boot: local)")],
        [1, 1],
    ),
    "an order of the operator is no sign of the machine": ([event(0, "api ordered", boot="once"), *UEFI], [8]),
    "events out of order": ([*reversed(UEFI)], [8]),
}


@pytest.mark.parametrize("events, lengths", SPLITS.values(), ids=SPLITS)
def test_split(events: list[Event], lengths: list[int]) -> None:
    boots = split(events)
    assert [len(boot.events) for boot in boots] == lengths
    assert [boot.over for boot in boots] == [True] * (len(boots) - 1) + [False] * bool(boots)


STAGES = {
    "dhcp": UEFI[:2],
    "loader": UEFI[:5],
    "ipxe": UEFI[:6],
    "script": UEFI,
    "files": [*UEFI, *FILES],
    "system": [*UEFI, *FILES, *OS],
    "done": [*UEFI, *FILES, *OS, *DONE],
}


@pytest.mark.parametrize("name, events", STAGES.items(), ids=STAGES)
def test_stage(name: str, events: list[Event]) -> None:
    assert stage(Boot(tuple(events))) == name


def test_a_document_is_a_sign_of_the_system() -> None:
    assert stage(Boot((*UEFI, event(40, "http document", path="/ignition", bytes=20)))) == "system"


def test_phases_for_a_picture() -> None:
    found = phases(Boot((*UEFI, *FILES, event(40, "http document", path="/ignition"), *DONE)))
    assert found == [
        ("dhcp", 0, 5), ("loader", 5, 9), ("ipxe", 9, 12), ("script", 12, 14), ("files", 14, 40), ("system", 40, 300),
        ("done", 300, 300),
    ]  # fmt: skip
    over_http = Boot(
        (event(0, "dhcp offered", arch="x64-efi"), event(1, "http sent", path="/tftp/ipxe.efi"), event(2, "dhcp acked"))
    )
    assert phases(over_http) == [("dhcp", 0, 1), ("loader", 1, 2)]


def test_progress_names_what_is_being_loaded() -> None:
    assert progress(Boot(tuple(UEFI[:4]))) == "ipxe.efi (976.6 KiB)"
    assert progress(Boot((event(0, "http started", path="/assets/linux?x=1"),))) == "linux"
    assert progress(Boot(tuple(UEFI[:4]), over=True)) == ""
    assert progress(Boot(tuple(UEFI[:5]))) == ""


def test_words_for_numbers() -> None:
    assert [duration(s) for s in (-1, 1.4, 119, 300, 7300)] == ["0 s", "1 s", "119 s", "5 min 0 s", "2 h 1 min"]
    assert [size(n) for n in (None, 12, 2048, 5 << 20, 3 << 30)] == ["0 bytes", "12 bytes", "2.0 KiB", "5.0 MiB", "3.0 GiB"]


TOLD = {
    "offered 10.0.0.9 m/ipxe.efi: x64": event(0, "dhcp offered", nbp="m/ipxe.efi", address="10.0.0.9", why="x64"),
    "offered http://10.0.0.1/boot.ipxe": event(0, "dhcp offered", url="http://10.0.0.1/boot.ipxe"),
    "offered 10.0.0.9": event(0, "dhcp offered", address="10.0.0.9"),
    "not answered: unknown": event(0, "dhcp ignored", why="unknown"),
    "loaded ipxe.efi by TFTP, 2.0 KiB in 0.5 s": event(0, "tftp sent", path="ipxe.efi", bytes=2048, seconds=0.5),
    "loaded /assets/x, 3 bytes": event(0, "http sent", path="/assets/x", bytes=3),
    "asked for its script: no profile (404): nobody": event(0, "http script", status=404, why="nobody"),
    "asked for its script: linux": event(0, "http script", status=200, profile="linux"),
    "ordered by an operator: once linux": event(0, "api ordered", boot="once", profile="linux"),
    "ordered by an operator: as before": event(0, "api ordered"),
    "http moved /old: error": event(0, "http moved", path="/old", error="error"),
    "serve started": event(0, "serve started"),
}


@pytest.mark.parametrize("text, fact", TOLD.items(), ids=TOLD)
def test_tell(text: str, fact: Event) -> None:
    assert tell(fact) == text


@pytest.mark.parametrize("service, kind", _FACTS, ids=" ".join)
def test_every_fact_can_be_told_without_detail(service: str, kind: str) -> None:
    assert tell(event(0, f"{service} {kind}"))
