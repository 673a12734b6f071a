"""Installations under `boot: once`: until they report done, and when their time is up."""

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
    """now: the time of day.  steady: seconds since the start, whatever that was set to (`set` hours ahead)."""

    def __init__(self) -> None:
        self.now, self.set = 1_700_000_000.0, 0.0

    def __call__(self) -> float:
        return self.now

    def steady(self) -> float:
        return self.now - self.set * 3600


@pytest.fixture
def clock() -> Clock:
    return Clock()


def running(directory: Path, clock: Clock) -> Iterator[Host]:
    with serving(directory, registry=REGISTRY) as host:
        deadlines = host.context.deadlines
        deadlines._clock = host.context.local_boot._clock = clock
        deadlines._steady, deadlines._ahead = clock.steady, clock.set * 3600
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
    assert host.call(host.context.deadlines.expire) == deadline and not alarms(host, "overdue")
    clock.now = deadline + 1
    assert host.call(host.context.deadlines.expire) is None
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


def test_a_deadline_of_before_the_start_stands_when_the_clock_is_set_right(host: Host, clock: Clock) -> None:
    """A host without a battery was without power, and begins where it was."""
    order(host, "disk", MachineState(boot="once", deadline=clock.now + 3600))
    clock.now, clock.set = clock.now + 7200, 2
    assert host.call(host.context.deadlines.expire) is None
    assert [event.detail["machine"] for event in alarms(host, "overdue")] == ["disk"]


@pytest.mark.parametrize("hours", [72, -72])
def test_setting_the_clock_neither_ends_an_installation_nor_prolongs_it(host: Host, clock: Clock, hours: float) -> None:
    """A host without a battery is given the time of day amid the first boots."""
    order(host, "disk", MachineState(boot="once"))
    script(host, INSTALLED)
    clock.now, clock.set = clock.now + 3600 + hours * 3600, hours
    script(host, DISK)
    assert state(host, "disk").deadline == clock.now + 7200
    assert host.call(host.context.deadlines.expire) == state(host, "inst").deadline == clock.now + 3600
    assert not alarms(host, "overdue")
    clock.now += 3601
    host.call(host.context.deadlines.expire)
    assert [event.detail["machine"] for event in alarms(host, "overdue")] == ["inst"]


def test_it_is_told_when_the_time_comes_and_after_a_restart_too(tmp_path: Path, clock: Clock) -> None:
    for host in running(tmp_path, clock):
        script(host, INSTALLED)
    clock.now += 9000
    for host in running(tmp_path, clock):
        asyncio.run_coroutine_threadsafe(_once_around(host), host.loop).result(10)
        assert alarms(host, "overdue") and state(host, "inst").overdue


async def _once_around(host: Host) -> None:
    """Let the daemon's own look at the time come: it waits for what changes."""
    host.context.deadlines._changed.set()
    while not host.context.store.state("inst").overdue:
        await asyncio.sleep(0)


def test_a_machine_that_is_described_no_more(host: Host, clock: Clock) -> None:
    order(host, "gone", MachineState(deadline=clock.now - 5))
    order(host, "06:00:00:00:00:01", MachineState(deadline=clock.now - 5))
    host.call(host.context.deadlines.expire)
    assert {(event.mac, event.detail["machine"]) for event in alarms(host, "overdue")} == {
        (None, "gone"),
        ("06:00:00:00:00:01", "06:00:00:00:00:01"),
    }
