"""From one boot to the next: installations whose time is up, and the way to the local disk that a machine understands."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.inventory import HOLD
from pixieboot.model import Event, Mac, MachineState
from tests.httphost import Host, serving

INSTALLED, DISK = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
REGISTRY = {
    "machines.yaml": f"inst: {{mac: {INSTALLED}, profile: debian, boot: once}}\n"
    f"disk: {{mac: {DISK}, profile: debian, boot: local}}\n"
    "fixed: {mac: 02:00:00:00:00:03, profile: debian, boot: local, local_boot: exit0}\n",
    "profiles.yaml": "debian: {kernel: vmlinuz, once_timeout: 2h}\nhasty: {kernel: vmlinuz, once_timeout: 1m, on_timeout: hold}\n"
    "loth: {kernel: vmlinuz, once_timeout: 1m, on_timeout: local}\nslow: {kernel: vmlinuz}\n",
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def running(directory: Path, clock: Clock) -> Iterator[Host]:
    with serving(directory, registry=REGISTRY) as host:
        host.context.way._clock = clock
        yield host


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Iterator[Host]:
    yield from running(tmp_path, clock)


def script(host: Host, mac: str, query: str = "&arch=x86_64&platform=efi") -> str:
    return host.get(f"/ipxe?mac={mac}{query}").body.decode()


def state(host: Host, key: str) -> MachineState:
    return host.context.store.state(key)


def order(host: Host, key: str, told: MachineState) -> None:
    host.call(lambda: host.context.store.set_state(key, told))


def alarms(host: Host, kind: str) -> list[Event]:
    return [event for event in host.events if event.kind == kind]


# --- boot: once ----------------------------------------------------------------------------------------------------------


def test_once_stays_armed_until_done_through_restarts(tmp_path: Path, clock: Clock) -> None:
    for _ in range(2):
        for host in running(tmp_path, clock):
            for _ in range(3):
                assert "assets/vmlinuz" in script(host, INSTALLED)
            clock.now += 600
    for host in running(tmp_path, clock):
        assert host.get(f"/done?mac={INSTALLED}").status == 200
        assert "exit 1" in script(host, INSTALLED)
    for host in running(tmp_path, clock):
        assert "assets/vmlinuz" not in script(host, INSTALLED)


def test_the_time_of_an_installation_begins_with_its_first_script(host: Host, clock: Clock) -> None:
    assert state(host, "inst").deadline == 0
    script(host, INSTALLED)
    assert state(host, "inst").deadline == clock.now + 7200
    began, clock.now = clock.now, clock.now + 3600
    script(host, INSTALLED)
    assert state(host, "inst").deadline == began + 7200, "installers start again in the middle"
    host.get(f"/done?mac={INSTALLED}")
    assert state(host, "inst").deadline == 0


@pytest.mark.parametrize("target", ["/grub?mac={}", "/tftp/pxelinux.cfg/01-{}"])
def test_other_loaders_begin_an_installation_too(host: Host, target: str) -> None:
    assert host.get(target.format(INSTALLED.dashed)).status == 200
    assert state(host, "inst").deadline


def test_without_a_limit_nothing_is_noted(host: Host) -> None:
    order(host, "inst", MachineState(profile="slow"))
    script(host, INSTALLED)
    order(host, "fixed", MachineState(boot="always"))
    script(host, "02:00:00:00:00:03")
    assert not state(host, "inst").deadline and not state(host, "fixed").deadline


TIME_IS_UP = {  # profile -> what its script says afterwards
    "debian": "assets/vmlinuz",
    "hasty": "Waiting. Any key asks again at once.",
    "loth": "exit 1",
}


@pytest.mark.parametrize("profile, says", TIME_IS_UP.items())
def test_when_the_time_is_up(host: Host, clock: Clock, profile: str, says: str) -> None:
    order(host, "inst", MachineState(profile=profile))
    assert "assets/vmlinuz" in script(host, INSTALLED)
    deadline = state(host, "inst").deadline
    clock.now = deadline - 1
    assert host.call(host.context.way.expire) == deadline and not alarms(host, "overdue")
    clock.now = deadline + 1
    assert host.call(host.context.way.expire) is None
    (event,) = alarms(host, "overdue")
    assert (event.level, event.mac, event.detail["machine"]) == ("alarm", INSTALLED, "inst")
    assert state(host, "inst").overdue == deadline and state(host, "inst").deadline == 0
    text = script(host, INSTALLED)
    assert says in text
    told = [event for event in host.events if event.kind == "script"][-1]
    assert "did not report done in time" in told.detail["why"]
    if profile == "debian":
        assert state(host, "inst").deadline == clock.now + 7200, "the next attempt has its time too"
    if profile == "hasty":
        assert told.detail["profile"] == HOLD.name and state(host, "inst").deadline == 0
        assert "grub_cpu" in host.get(f"/grub?mac={INSTALLED}").body.decode(), "GRUB goes to iPXE for it"
    host.get(f"/done?mac={INSTALLED}")
    assert state(host, "inst").overdue == 0 and "exit 1" in script(host, INSTALLED), "late, but installed"


def test_it_is_told_when_the_time_comes_and_after_a_restart_too(tmp_path: Path, clock: Clock) -> None:
    for host in running(tmp_path, clock):
        script(host, INSTALLED)
    clock.now += 9000
    for host in running(tmp_path, clock):
        asyncio.run_coroutine_threadsafe(_once_around(host), host.loop).result(10)
        assert alarms(host, "overdue") and state(host, "inst").overdue


async def _once_around(host: Host) -> None:
    """Let the daemon's own look at the time come: it waits for what changes."""
    host.context.way._changed.set()
    while not host.context.store.state("inst").overdue:
        await asyncio.sleep(0)


def test_a_machine_that_is_described_no_more(host: Host, clock: Clock) -> None:
    order(host, "gone", MachineState(deadline=clock.now - 5))
    order(host, "06:00:00:00:00:01", MachineState(deadline=clock.now - 5))
    host.call(host.context.way.expire)
    assert {(event.mac, event.detail["machine"]) for event in alarms(host, "overdue")} == {
        (None, "gone"),
        ("06:00:00:00:00:01", "06:00:00:00:00:01"),
    }


# --- the local disk ------------------------------------------------------------------------------------------------------


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


def test_a_clock_that_is_set_back_proves_nothing(host: Host, clock: Clock) -> None:
    script(host, DISK)
    clock.now -= 86400
    assert how(script(host, DISK)) == "exit1"
    clock.now += 20
    assert how(script(host, DISK)) == "exit0"


def test_a_head_request_is_no_return(host: Host, clock: Clock) -> None:
    script(host, DISK)
    clock.now += 10
    assert host.ask(f"HEAD /ipxe?mac={DISK} HTTP/1.1\nHost: x").status == 200
    assert not state(host, "disk").local_boot
