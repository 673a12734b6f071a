"""The way to the local disk that a machine understands, found by whether it comes back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.model import Assignment, Mac
from pixieboot.serve import localboot
from pixieboot.serve.localboot import LocalBoot
from tests.httphost import Host
from tests.test_deadlines import DISK, Clock, alarms, running, script, state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Iterator[Host]:
    yield from running(tmp_path, clock)


def how(text: str) -> str:
    return "sanboot" if "sanboot" in text else "exit0" if "exit 0" in text else "exit1" if "exit 1" in text else "http404"


WAYS = {
    "UEFI": ("&arch=x86_64&platform=efi", ["exit1", "exit0", "http404", "sanboot", "exit1"]),
    "BIOS": ("&arch=i386&platform=pcbios", ["sanboot", "exit1", "exit0", "http404", "sanboot"]),
}


@pytest.mark.parametrize("query, ways", WAYS.values(), ids=WAYS)
def test_who_is_back_at_once_gets_the_next_way(host: Host, clock: Clock, query: str, ways: list[str]) -> None:
    tried = []
    for _ in ways:
        tried.append(how(script(host, DISK, query)))
        assert how(script(host, DISK, query)) == tried[-1], "asked twice in one boot"
        clock.now += 30
    assert tried == ways
    told = alarms(host, "local way")
    assert [event.detail["local_boot"] for event in told] == ways[1:]
    assert told[0].detail["why"] == f"it was back 30 s after {ways[0]}: {ways[1]} is tried"
    assert [event.level for event in told] == ["warning", "warning", "warning", "alarm"]


def test_the_way_that_works_is_remembered(tmp_path: Path, clock: Clock) -> None:
    for host in running(tmp_path, clock):
        script(host, DISK)
        clock.now += 20
        assert how(script(host, DISK)) == "exit0"
        clock.now += 86400
        assert how(script(host, DISK)) == "exit0" and state(host, "disk").local_boot_works
        clock.now += 20
        assert how(script(host, DISK)) == "exit0", "somebody pressed the button: one return proves nothing against it"
        clock.now += 20
        assert how(script(host, DISK)) == "http404"
    for host in running(tmp_path, clock):
        assert how(script(host, DISK)) == "http404" and state(host, "disk").local_boot == "http404"


def test_what_the_operator_wrote_is_not_changed(host: Host, clock: Clock) -> None:
    for _ in range(3):
        assert how(script(host, "02:00:00:00:00:03")) == "exit0"
        clock.now += 10
    assert not alarms(host, "local way")


def test_a_head_request_is_no_return(host: Host, clock: Clock) -> None:
    script(host, DISK)
    clock.now += 10
    assert host.ask(f"HEAD /ipxe?mac={DISK} HTTP/1.1\nHost: x").status == 200
    assert not state(host, "disk").local_boot


@pytest.mark.parametrize("first, second", [(100.0, 1.8e9), (1.8e9, 100.0)], ids=["set forward", "set back"])
def test_a_clock_that_is_set_amid_a_boot_proves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, first: float, second: float
) -> None:
    monkeypatch.setattr(localboot, "SAME_BOOT", 0.0)
    boots, mac = LocalBoot(host.context.store, host.context.journal), Mac("02:00:00:00:00:77")
    monkeypatch.setattr(time, "time", lambda: first)
    assert not boots.back_from_disk(mac, mac, Assignment(), "exit1")
    monkeypatch.setattr(time, "time", lambda: second)
    assert boots.back_from_disk(mac, mac, Assignment(), "exit1"), "it was back at once"
    assert not state(host, mac).local_boot_works
