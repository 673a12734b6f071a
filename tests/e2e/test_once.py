"""An installation that a power cut ends in the middle is done again, whole; after it reported done, never."""

import json

import pytest

from pixieboot.lab import Firmware, Lab
from tests.e2e.boots import TIMEOUT

pytestmark = pytest.mark.usefixtures("slot")


def test_once_outlives_a_power_cut_of_machine_and_daemon() -> None:
    with Lab(Firmware.BIOS, "server", machine={"boot": "once"}, owner="e2e") as lab:
        cut = lab.boot(TIMEOUT, until=lambda: lab.said("CMDLINE") is not None)
        lab.kill_daemon()
        assert "its power was cut" in cut.verdict, cut
        assert not lab.happened("http", "done"), "it came too far"
        (address,) = {event["address"] for event in lab.happened("dhcp", "acked")}

        lab.start_daemon()
        again = lab.boot(TIMEOUT)
        assert again.booted, again
        assert {event["address"] for event in lab.happened("dhcp", "acked")} == {address}, "the lease was lost"

        disk = lab.boot(TIMEOUT)
        told = json.dumps(lab.events)
        assert not disk.booted and lab.said("CMDLINE") is None, "it was installed again"
        assert "(boot: once)" in told, told
        assert not lab.happened("http", "sent", path="/assets/vmlinuz")
