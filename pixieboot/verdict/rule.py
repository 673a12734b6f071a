"""What a rule comes to: a verdict, or nothing; and how long a machine may be silent before one is passed."""

from collections.abc import Callable
from dataclasses import dataclass

from pixieboot.boots import Facts, base, path_of
from pixieboot.model import Event

# How long a machine may be silent before "it is still at it" becomes "it stopped here" (measured, with OVMF, ROMs and iPXE).
OFFER_PATIENCE = 15.0  # EDK2 collects offers for 3.8 s; ROMs repeat at 4, 8, 16 s
LOADER_PATIENCE = 60.0  # STP after its driver drops the link: 30 to 50 s
SCRIPT_PATIENCE = 30.0  # iPXE of 2019 fetches its script up to 17 s after its lease
FILE_PATIENCE = 60.0  # a kernel of 60 MiB by 10 Mbit/s; nothing is heard of it before it is through
TRANSFER_PATIENCE = 30.0
FETCH_PATIENCE = 600.0  # a gigabyte from a slow server: news of it comes at each tenth
OS_PATIENCE = 120.0
DONE_PATIENCE = 3600.0
LOCAL_RETURN = 90.0  # back on the wire this soon after it was sent to its disk: the disk did not start
LOOP = 3
REINSTALL_WINDOW = 3 * 3600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a boot.  name: the rule, stable for programs; outcome: ok | going | failed | ignored; next_step: what to try."""

    name: str
    outcome: str
    sentence: str
    next_step: str = ""


Rule = Callable[[Facts], Verdict | None]


def why(event: Event, otherwise: str = "no reason was recorded") -> str:
    """The recorded reason, to stand at the end of a sentence."""
    return str(event.detail.get("why") or otherwise).rstrip(".")


def has_all(f: Facts) -> bool:
    """Was every file of its profile sent whole?"""
    sent = {base(path_of(e)) for e in f.files if e.kind == "sent"}
    return bool(f.files) and (set(f.wanted_files()) <= sent if f.wanted_files() else bool(sent))
