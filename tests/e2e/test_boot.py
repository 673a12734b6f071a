"""From power-on to a shell in Linux userspace and the call to /done, as journal and serial console tell it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.boots import Boot, Boots
from tests.e2e.cases import CASES

Stage = tuple[str, str, dict[str, Any]]


def ends(tail: str) -> Callable[[Any], bool]:
    return lambda value: str(value).endswith(tail)


def stages(case: str, boot: Boot) -> list[Stage]:
    """What the journal must tell of a case, in its order."""
    lab, leased = boot.lab, CASES[case].mode == "server"
    dashed = lab.mac.dashed
    who = {"mac": lab.mac}
    acked: list[Stage] = [("dhcp", "acked", {**who, "address": boot.guest()["address"].partition("/")[0]})] if leased else []
    wanted: list[Stage] = []
    if case.startswith("UEFI PXE"):
        wanted += [("dhcp", "offered", {**who, "nbp": f"{dashed}/ipxe.efi", "arch": "x64-efi", "loader": "firmware"}), *acked]
        wanted += [("tftp", "sent", {**who, "path": f"{dashed}/ipxe.efi", "bytes": lambda size: size > 100_000})]
    if case.startswith("UEFI HTTP"):
        url = f"{lab.url}/tftp/{dashed}/ipxe.efi"
        wanted += [("dhcp", "offered", {**who, "url": url, "arch": "x64-efi", "loader": "firmware-http"}), *acked]
        wanted += [("http", "sent", {**who, "path": f"/tftp/{dashed}/ipxe.efi", "bytes": lambda size: size > 100_000})]
    return [
        *wanted,
        ("dhcp", "offered", {**who, "url": f"{lab.url}/boot.ipxe", "loader": "ipxe"}),
        *acked,
        ("http", "script", {**who, "profile": "lab"}),
        ("http", "sent", {**who, "path": "/assets/vmlinuz"}),
        ("http", "sent", {**who, "path": "/assets/initrd.img"}),
        *acked,
        ("http", "done", who),
    ]


def screens(case: str) -> list[str]:
    """What the serial console must show of a case, in its order."""
    if case.startswith("UEFI PXE"):
        firmware = [">>Start PXE over IPv4.", "NBP file downloaded successfully."]
    elif case.startswith("UEFI HTTP"):
        firmware = [">>Start HTTP Boot over IPv4", "/ipxe.efi"]
    else:
        firmware = ["SeaBIOS", "Booting from ROM"]
    return [*firmware, "iPXE initialising devices...ok", "Features:", "PIXIEBOOT-LAB-CMDLINE", "PIXIEBOOT-LAB-USERSPACE"]


@pytest.mark.parametrize("case", CASES)
def test_a_machine_boots(case: str, boots: Boots) -> None:
    boot = boots[case]
    boot.screens(*screens(case), "PIXIEBOOT-LAB-SHELL", "PIXIEBOOT-LAB-DONE")
    boot.stages(*stages(case, boot))
    assert boot.outcome.booted, boot.told()
    assert "console=ttyS0" in (boot.lab.said("CMDLINE") or "")
    assert boot.guest()["mac"] == boot.lab.mac


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].mode == "server"])
def test_firmware_loader_and_linux_keep_one_address(case: str, boots: Boots) -> None:
    boot = boots[case]
    addresses = {event["address"] for event in boot.lab.happened("dhcp", "acked", mac=boot.lab.mac)}
    assert addresses == {boot.guest()["address"].partition("/")[0]}, boot.told()


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].mode == "proxy"])
def test_beside_a_router_no_lease_comes_from_us(case: str, boots: Boots) -> None:
    boot = boots[case]
    assert boot.guest()["server"] == "10.77.0.1"
    assert not boot.lab.happened("dhcp", "acked"), boot.told()


@pytest.mark.parametrize("case", CASES)
def test_nothing_alarming_is_said_of_a_good_boot(case: str, boots: Boots) -> None:
    boot = boots[case]
    assert not [event for event in boot.lab.events if event["level"] in ("warning", "alarm")], boot.told()
    assert not [line for line in boot.lab.daemon_output if "Traceback" in line or "Error" in line], boot.told()
