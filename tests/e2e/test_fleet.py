"""Machines of different origins that boot at the same time, on one wire, each from the boot host that knows it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
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


API = "10.77.0.9"
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
    "an API of Pixiecore's": Member(Firmware.BIOS, {"registry": f"pixiecore+http://{API}:8000"}),
}


def serve_api(lab: Lab, mac: str, done: str, directory: Path) -> None:
    """A foreign server beside the lab: what one machine boots, and its files; 404 for all others."""
    (directory / "v1/boot").mkdir(parents=True)
    (directory / "files").symlink_to(lab.directory / "assets")
    (directory / "v1/boot" / mac).write_text(
        json.dumps(
            {
                "kernel": f"http://{API}:8000/files/vmlinuz",
                "initrd": ["/files/initrd.img"],
                "cmdline": " ".join(ARGS).replace("{done}", done),
                "message": "from another server",
            }
        )
    )
    host = lab.neighbour("api", API)
    host.start(sys.executable, "-m", "http.server", "8000", cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_fleet_boots_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        labs: dict[str, Lab] = {}
        for number, (name, member) in enumerate(FLEET.items()):
            mac, address = f"52:54:00:b0:07:{0x10 + number:x}", f"10.77.0.{2 + number}"
            told = {"{mac}": mac, "{done}": f"http://{address}:8080/done?mac={mac.replace(':', '-')}"}
            if API in str(member.settings):
                serve_api(next(iter(labs.values())), mac, told["{done}"], tmp_path)
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
    assert any("from another server" in line for line in labs["an API of Pixiecore's"].console)


def filled(text: str, told: Mapping[str, str]) -> str:
    for mark, value in told.items():
        text = text.replace(mark, value)
    return text
