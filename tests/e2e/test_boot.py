"""From power-on to a shell in Linux userspace and the call to /done, as journal and serial console tell it."""

import pytest

from tests.e2e.boots import Boots
from tests.e2e.cases import CASES, FAILURES, INSTALLERS


@pytest.mark.parametrize("case", CASES)
def test_a_machine_boots(case: str, boots: Boots) -> None:
    boot = boots[case]
    boot.expect_screens(
        [*CASES[case].screens, "PIXIEBOOT-LAB-CMDLINE", "PIXIEBOOT-LAB-USERSPACE", "PIXIEBOOT-LAB-SHELL", "PIXIEBOOT-LAB-DONE"]
    )
    boot.expect_stages(CASES[case].stages(boot))
    assert boot.outcome.booted, boot.told()
    assert "console=ttyS0" in (boot.lab.said("CMDLINE") or "")
    assert boot.guest["mac"] == boot.lab.mac


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].mode == "server"])
def test_firmware_loader_and_linux_keep_one_address(case: str, boots: Boots) -> None:
    boot = boots[case]
    addresses = {event["address"] for event in boot.lab.happened("dhcp", "acked", mac=boot.lab.mac)}
    assert addresses == {boot.address}, boot.told()
    assert boot.guest["hostname"] == "lab"


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].mode == "proxy"])
def test_beside_a_router_no_lease_comes_from_us(case: str, boots: Boots) -> None:
    boot = boots[case]
    assert boot.guest["server"] == "10.77.0.1"
    assert not boot.lab.happened("dhcp", "acked"), boot.told()


@pytest.mark.parametrize("case", CASES)
def test_nothing_alarming_is_said_of_a_good_boot(case: str, boots: Boots) -> None:
    boot = boots[case]
    assert not [event for event in boot.lab.events if event["level"] in ("warning", "alarm")], boot.told()
    assert not [line for line in boot.lab.daemon_output if "Traceback" in line or "Error" in line], boot.told()


@pytest.mark.parametrize("case", CASES)
def test_no_verdict_condemns_a_good_boot_on_its_way(case: str, boots: Boots) -> None:
    boot = boots[case]
    boot.expect_sentence(CASES[case].sentence)
    assert (boot.why.returncode, boot.condemned) == (0, set()), boot.told()


@pytest.mark.parametrize("case", INSTALLERS)
def test_an_installer_obeys_the_answers_rendered_for_its_machine(case: str, boots: Boots) -> None:
    boot = boots[case]
    boot.expect_screens(INSTALLERS[case].screens)
    boot.expect_stages(INSTALLERS[case].stages(boot))
    boot.expect_sentence(INSTALLERS[case].sentence)
    assert boot.condemned == set(), boot.told()


@pytest.mark.parametrize("case", FAILURES)
def test_why_names_what_went_wrong(case: str, boots: Boots) -> None:
    """And nothing else before it was sure."""
    boot = boots[case]
    boot.expect_screens(FAILURES[case].screens)
    boot.expect_stages(FAILURES[case].stages(boot))
    boot.expect_sentence(FAILURES[case].sentence)
    assert (boot.why.returncode, boot.condemned) == (1, {FAILURES[case].verdict}), boot.told()
