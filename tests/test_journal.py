"""The journal: one call, every reader; bounded; nothing a client sends can forge a line."""

import io
import json

import pytest

from pixieboot.journal import EVENTS_PER_MACHINE, KEPT_LIMIT, LINES_PER_SECOND, MACHINES, RECENT, Journal, event_json, printable
from pixieboot.model import Event, Mac

MAC = Mac("52:54:00:12:34:56")


def test_a_line_has_the_mac_first_then_key_and_value() -> None:
    out = io.StringIO()
    Journal(out).record(
        Event(1.0, MAC, "dhcp", "offered", {"nbp": "ipxe.efi", "why": "load iPXE first", "seconds": 0.25, "none": None})
    )
    assert out.getvalue() == '52:54:00:12:34:56 dhcp offered nbp=ipxe.efi why="load iPXE first" seconds=0.250\n'


def test_json_lines_for_programs() -> None:
    out = io.StringIO()
    Journal(out, form="json").record(Event(1.0, MAC, "dhcp", "offered", {"nbp": "ipxe.efi"}, "warning"))
    fact = {"at": 1.0, "mac": MAC, "service": "dhcp", "kind": "offered", "level": "warning", "nbp": "ipxe.efi"}
    assert json.loads(out.getvalue()) == fact


def test_an_alarm_stands_out_and_debug_stays_away() -> None:
    out = io.StringIO()
    journal = Journal(out)
    journal.record(Event(1.0, None, "dhcp", "rogue", {}, "alarm"))
    journal.record(Event(1.0, None, "tftp", "probe", {}, "debug"))
    assert out.getvalue() == "ALARM - dhcp rogue\n"


def test_the_same_fact_at_once_is_counted_and_not_said_again() -> None:
    out = io.StringIO()
    journal = Journal(out)
    for at in (1.0, 2.0, 3.0, 9.0):
        standing = journal.record(Event(at, MAC, "dhcp", "offered", {"nbp": "a"}))
        assert standing is journal.timeline(MAC)[-1]
    assert out.getvalue().splitlines() == [f"{MAC} dhcp offered nbp=a", f"{MAC} dhcp offered nbp=a repeated=2"]
    assert journal.counts == {("dhcp", "offered"): 4}


@pytest.mark.parametrize("path", ["\udcff", "x" * 1001, "é\u202e"], ids=["no UTF-8", "long", "bidirectional"])
def test_a_hostile_text_that_is_repeated_is_counted_too(path: str) -> None:
    out = io.StringIO()
    journal = Journal(out)
    for at in (1.0, 2.0, 3.0):
        journal.record(Event(at, MAC, "tftp", "missing", {"path": path}))
    assert [event.repeated for event in journal.timeline(MAC)] == [2] and out.getvalue().count("\n") == 1


def test_a_repetition_is_known_although_other_facts_came_between() -> None:
    out = io.StringIO()
    journal = Journal(out)
    for at in (1.0, 2.0, 9.0):
        for kind in ("offered", "acked"):
            journal.record(Event(at, None, "dhcp", kind))
    assert out.getvalue().splitlines() == [
        "- dhcp offered",
        "- dhcp acked",
        "- dhcp offered repeated=1",
        "- dhcp acked repeated=1",
    ]
    assert journal.machines() == []


def test_an_answer_that_is_told_again_after_another_one_is_counted_from_then_on() -> None:
    out = io.StringIO()
    journal = Journal(out)
    one, other = (Event(1.0, MAC, "dhcp", "offered", {"nbp": nbp}) for nbp in "ab")
    for event in (one, one, other, one, other):  # the very same facts, as the memory of answers holds them
        journal.record(event)
    assert out.getvalue().splitlines() == [
        f"{MAC} dhcp offered nbp=a",
        f"{MAC} dhcp offered nbp=b repeated=1",
        f"{MAC} dhcp offered nbp=a",
        f"{MAC} dhcp offered nbp=b",
    ]


def test_a_request_without_a_mac_is_joined_by_its_address() -> None:
    journal = Journal(io.StringIO())
    journal.record(Event(1.0, MAC, "dhcp", "acked", {"address": "10.0.0.9"}))
    journal.record(Event(2.0, None, "http", "sent", {"peer": "10.0.0.9", "path": "/assets/vmlinuz"}))
    assert [event.kind for event in journal.timeline(MAC)] == ["acked", "sent"]
    assert journal.mac_of("10.0.0.9") == MAC and journal.mac_of("10.0.0.8") is None


def test_an_address_merely_offered_is_its_machines_too_for_a_raspberry_pi_3_takes_it_without_a_request() -> None:
    journal = Journal(io.StringIO())
    journal.record(Event(1.0, MAC, "dhcp", "offered", {"address": "10.0.0.9", "serial": "9abcdef0"}))
    assert journal.mac_of("10.0.0.9") == journal.mac_of("9abcdef0") == MAC
    journal.record(Event(2.0, None, "tftp", "sent", {"peer": "10.0.0.9", "path": "bootcode.bin"}))
    assert [event.kind for event in journal.timeline(MAC)] == ["offered", "sent"]


def test_no_address_is_nobodys() -> None:
    journal = Journal(io.StringIO())
    journal.record(Event(1.0, MAC, "http", "sent", {"peer": ""}))
    journal.record(Event(2.0, None, "http", "missing", {"peer": ""}))
    assert journal.mac_of("") is None and [event.kind for event in journal.timeline(MAC)] == ["sent"]


def test_facts_have_numbers_for_who_comes_later() -> None:
    journal = Journal(io.StringIO())
    assert (journal.number, journal.since(0)) == (0, [])
    for at in (1.0, 2.0, 9.0):  # the second is a repetition
        journal.record(Event(at, MAC, "dhcp", "offered"))
    assert [(number, event.at) for number, event in journal.since(0)] == [(1, 1.0), (2, 9.0)]
    assert [number for number, _ in journal.since(1)] == [2] and journal.since(2) == journal.since(99) == []
    for number in range(RECENT):
        journal.record(Event(10.0, MAC, "dhcp", f"kind{number}"))
    assert journal.number == RECENT + 2
    assert [(found[0][0], found[-1][0]) for found in (journal.since(0), journal.since(RECENT))] == [
        (3, RECENT + 2),
        (RECENT + 1, RECENT + 2),
    ]
    assert [event.kind for event in journal.timeline(MAC)][::199] == [f"kind{RECENT - EVENTS_PER_MACHINE}", f"kind{RECENT - 1}"]


def test_listeners_hear_until_they_leave() -> None:
    journal, heard = Journal(io.StringIO()), []  # type: ignore[var-annotated]
    leave = journal.listen(heard.append)
    journal.record(Event(1.0, MAC, "a", "b"))
    leave()
    journal.record(Event(2.0, MAC, "a", "c"))
    assert [event.kind for event in heard] == ["b"]


def test_a_listener_may_name_the_services_that_it_hears_of() -> None:
    journal, some, every = Journal(io.StringIO()), [], []  # type: ignore[var-annotated]
    leave = journal.listen(some.append, ("tftp", "http"))
    journal.record(Event(1.0, MAC, "dhcp", "acked"))
    journal.record(Event(2.0, MAC, "tftp", "sent"))
    journal.listen(every.append)
    journal.record(Event(3.0, MAC, "http", "script"))
    journal.record(Event(4.0, MAC, "dhcp", "offered"))
    leave()
    journal.record(Event(5.0, MAC, "tftp", "failed"))
    assert [event.kind for event in some] == ["sent", "script"]
    assert [event.kind for event in every] == ["script", "offered", "failed"]


def test_many_facts_of_many_machines_do_not_fill_the_memory_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred missing files of each of 20,000 made-up machines, with names that are no UTF-8, took 48 GiB."""
    monkeypatch.setattr("pixieboot.journal.EVENTS", 1000)
    journal, macs = Journal(io.StringIO(), "warning"), [Mac.of(number.to_bytes(6)) for number in range(40)]
    for number in range(4000):
        path = str(number) + "\udcff" * KEPT_LIMIT
        journal.record(Event(number / 100, macs[number // 100], "tftp", "missing", {"path": path}, "debug"))
    kept = [len(journal.timeline(mac)) for mac in macs]
    assert 900 < sum(kept) <= 1100 and kept[-1] == 100 and kept[0] == 0
    assert len(journal.timeline(macs[-1])[0].detail["path"]) == KEPT_LIMIT + 1


def test_a_million_strangers_do_not_fill_the_memory() -> None:
    journal = Journal(io.StringIO(), "warning")
    for number in range(MACHINES + 50):
        mac = Mac.of(number.to_bytes(6))
        journal.record(Event(1.0, mac, "dhcp", "offered", {"address": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}))
    assert not journal.timeline(Mac.of(bytes(6))) and journal.mac_of("10.0.0.0") is None
    assert journal.timeline(Mac.of((MACHINES + 49).to_bytes(6)))


@pytest.mark.parametrize(
    "text, shown",
    {
        "plain": "plain",
        "a\nb": "a\\x0ab",
        "\x1b[2J": "\\x1b[2J",
        "a\u202eb": "a\\u202eb",
        "é": "é",
        "x" * 400: "x" * 300 + "…",
    }.items(),
)
def test_client_strings_never_reach_a_log_raw(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_value_with_quotes_and_spaces_stays_one_word() -> None:
    out = io.StringIO()
    Journal(out).record(Event(1.0, None, "dhcp", "ignored", {"vendor": 'x" mac=evil\n'}))
    assert out.getvalue() == """- dhcp ignored vendor="x' mac=evil\\x0a"\n"""


def test_a_flood_is_cut_short_in_the_log_and_counted() -> None:
    out = io.StringIO()
    journal = Journal(out)
    for number in range(LINES_PER_SECOND + 7):
        journal.record(Event(1.0, Mac.of(number.to_bytes(6)), "dhcp", "offered"))
    journal.record(Event(1.5, None, "dhcp", "lease not kept", {}, "alarm"))
    journal.record(Event(2.0, MAC, "dhcp", "offered"))
    lines = out.getvalue().splitlines()
    assert len(lines) == LINES_PER_SECOND + 3
    assert lines[-3:] == ["ALARM - dhcp lease not kept", "- journal left out lines=7", f"{MAC} dhcp offered"]


def test_a_flood_of_warnings_is_cut_short_too() -> None:
    """A client makes them at will: each transfer that it breaks off is one."""
    out = io.StringIO()
    journal = Journal(out)
    for number in range(LINES_PER_SECOND + 7):
        journal.record(Event(1.0, Mac.of(number.to_bytes(6)), "http", "failed", {}, "warning"))
    journal.record(Event(1.5, MAC, "dhcp", "offered"))
    journal.record(Event(2.0, MAC, "http", "failed", {}, "warning"))
    lines = out.getvalue().splitlines()
    assert lines[LINES_PER_SECOND:] == [f"{MAC} dhcp offered", "- journal left out lines=7", f"{MAC} http failed"]


def test_a_flood_of_one_level_hides_nothing_of_another() -> None:
    out = io.StringIO()
    journal = Journal(out)
    for number in range(LINES_PER_SECOND + 1):
        journal.record(Event(1.0, Mac.of(number.to_bytes(6)), "http", "failed", {}, "warning"))
    journal.record(Event(1.5, MAC, "dhcp", "rogue", {}, "alarm"))
    assert out.getvalue().splitlines()[LINES_PER_SECOND:] == [f"ALARM {MAC} dhcp rogue"]


def test_facts_that_are_told_late_let_no_flood_into_the_log() -> None:
    """A lease is told once it is on disk, with the time of its request: two seconds in turn."""
    out = io.StringIO()
    journal = Journal(out)
    for number in range(2 * LINES_PER_SECOND):
        journal.record(Event(1.0 + number % 2, Mac.of(number.to_bytes(6)), "dhcp", "offered"))
    assert len(out.getvalue().splitlines()) == LINES_PER_SECOND + 1, "one of the first second"


def test_a_clock_set_back_silences_neither_log_nor_timeline() -> None:
    out = io.StringIO()
    journal = Journal(out)
    for at in (9000.0, 5400.0, 5401.0):
        journal.record(Event(at, MAC, "dhcp", "offered"))
    assert [event.at for event in journal.timeline(MAC)] == [9000.0, 5400.0]
    for number in range(LINES_PER_SECOND):
        journal.record(Event(1000.0 + number, Mac.of(number.to_bytes(6)), "dhcp", "offered"))
    assert len(out.getvalue().splitlines()) == LINES_PER_SECOND + 2


def test_what_is_kept_of_a_request_is_short_and_can_be_told() -> None:
    """5000 requests with paths of 32 KiB took 200 MiB; a TFTP name that is no UTF-8 broke every answer of the API's /events."""
    journal, heard = Journal(io.StringIO()), []  # type: ignore[var-annotated]
    journal.listen(heard.append)
    journal.record(Event(1.0, MAC, "http", "missing", {"path": "x" * 32_000, "bytes": 5, "why": "é"}))
    journal.record(Event(2.0, MAC, "tftp", "missing", {"path": "a\udcff"}))
    assert heard[0].detail == {"path": "x" * KEPT_LIMIT + "…", "bytes": 5, "why": "é"}
    assert list(journal.timeline(MAC)) == heard
    assert event_json(heard[1])["detail"] == {"path": "a\\udcff"}
    assert json.dumps(event_json(heard[1]), ensure_ascii=False).encode()
