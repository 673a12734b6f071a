"""Machines of different origins that boot at the same time, on one wire, each from the boot host that knows it."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from pixieboot.lab import ROUTER, Firmware, Lab
from tests.e2e.boots import TIMEOUT

pytestmark = pytest.mark.usefixtures("slot")


@dataclass(frozen=True, slots=True)
class Member:
    """A boot host with its machine.  files: of its registry; {mac} and {done} in them are the machine's, and where it calls."""

    firmware: Firmware
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


ARGS = ["console=ttyS0", "panic=5", "pixieboot.done={done}"]
FLEET = {
    "native": Member(Firmware.UEFI),
    "a group of Matchbox": Member(
        Firmware.BIOS,
        {"registry": "matchbox"},
        {
            "matchbox/groups/lab.json": {"id": "lab", "profile": "linux", "selector": {"mac": "{mac}"}},
            "matchbox/profiles/linux.json": {
                "id": "linux",
                "boot": {"kernel": "/assets/vmlinuz", "initrd": ["/assets/initrd.img"], "args": ["initrd=initrd.img", *ARGS]},
            },
        },
    ),
    "a file of bootcfg": Member(
        Firmware.BIOS,
        {"registry": "bootcfg"},
        {
            "bootcfg/boot/mac/{mac}": {
                "kernel": "/images/vmlinuz",
                "initrd": ["/images/initrd.img"],
                "cmdline": {"initrd": "initrd.img", "console": "ttyS0", "panic": 5, "pixieboot.done": "{done}"},
            },
        },
    ),
}


def test_a_fleet_boots_at_once() -> None:
    with ExitStack() as stack:
        labs: dict[str, Lab] = {}
        for number, (name, member) in enumerate(FLEET.items()):
            mac, address = f"52:54:00:b0:07:{0x10 + number:x}", f"10.77.0.{2 + number}"
            told = {"{mac}": mac, "{done}": f"http://{address}:8080/done?mac={mac.replace(':', '-')}"}
            labs[name] = stack.enter_context(
                Lab(
                    member.firmware,
                    "proxy",
                    mac=mac,
                    address=address,
                    beside=next(iter(labs.values()), None),
                    settings={"answer": "known", **member.settings},
                    files={filled(path, told): filled(json.dumps(content), told) for path, content in member.files.items()},
                    owner="e2e",
                )
            )
        with ThreadPoolExecutor(len(labs)) as pool:
            outcomes = dict(zip(labs, pool.map(lambda lab: lab.boot(TIMEOUT), labs.values()), strict=True))

    for name, lab in labs.items():
        assert outcomes[name].booted, (name, outcomes[name], lab.events, lab.daemon_output, lab.console[-40:])
        assert f"mac={lab.mac} " in (lab.said("USERSPACE") or "")
        assert f"server={ROUTER} " in (lab.said("USERSPACE") or "")
        assert lab.url in (lab.said("CMDLINE") or ""), "another boot host answered it"
        served = {event["mac"] for event in lab.events if event["kind"] in ("offered", "acked", "script", "sent", "done")}
        assert served - {None} == {lab.mac}, "it served a machine of another one"


def filled(text: str, told: Mapping[str, str]) -> str:
    for mark, value in told.items():
        text = text.replace(mark, value)
    return text
