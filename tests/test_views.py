"""The nouns as JSON."""

import json

from pixieboot.journal import event_json, plain
from pixieboot.model import Arch, Event, Group, Lease, LeaseState, Mac, Machine, MachineState, Profile
from pixieboot.serve.views import description, group_json, last_address, lease_json, profile_json, state_json

MAC = Mac("52:54:00:12:34:56")


def test_everything_is_json() -> None:
    told = [
        event_json(Event(1.0, MAC, "dhcp", "offered", {"arch": Arch.X64_EFI, "n": 1})),
        description(Machine("web1", macs=(MAC,), vars={"list": (1, 2), "map": {1: Arch.X64_EFI}})),
        group_json(Group("efi", {"platform": "efi"}, vars={"x": None})),
        profile_json(Profile("linux", kernel="vmlinuz", documents={"ignition": "x.j2"})),
        lease_json(Lease("10.0.0.9", MAC, MAC, LeaseState.BOUND, 9.0), "web1"),
        state_json(MachineState()),
    ]
    assert json.loads(json.dumps(told))[0]["detail"] == {"arch": "Arch.X64_EFI", "n": 1}
    assert description(None) is None and plain((1, Arch.X64_EFI)) == [1, "Arch.X64_EFI"]


def test_the_last_address() -> None:
    events = [Event(1.0, MAC, "dhcp", "acked", {"address": "10.0.0.9"}), Event(2.0, MAC, "tftp", "sent", {"peer": "10.0.0.10"})]
    assert last_address(events) == "10.0.0.10" and last_address(events[:1]) == "10.0.0.9" and last_address([]) is None
