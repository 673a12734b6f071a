"""What YAML means here, and what it does not."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.errors import OperatorError
from pixieboot.registry import strictyaml
from pixieboot.registry.strictyaml import parse, read_text

VALUES: dict[str, tuple[str, Any]] = {
    "a MAC address is text, never a sexagesimal number": ("52:54:00:12:34:56", "52:54:00:12:34:56"),
    "so is a time": ("12:30:00", "12:30:00"),
    "yes is text": ("yes", "yes"),
    "no is text": ("no", "no"),
    "on is text": ("on", "on"),
    "off is text": ("off", "off"),
    "true is true": ("true", True),
    "False is false": ("False", False),
    "a number": ("8080", 8080),
    "a negative number": ("-7", -7),
    "nought": ("0", 0),
    "010 stays as it is written": ("010", "010"),
    "so does 0x10": ("0x10", "0x10"),
    "so does 1_000": ("1_000", "1_000"),
    "so does +1": ("+1", "+1"),
    "so does -0": ("-0", "-0"),
    "so does a number of many digits": ("1" * 30, "1" * 30),
    "a fraction": ("1.5", 1.5),
    "a version that is no fraction": ("1.10", "1.10"),
    "an exponent": ("1e3", "1e3"),
    "infinity": (".inf", ".inf"),
    "a date": ("2024-01-01", "2024-01-01"),
    "an address": ("192.168.77.1", "192.168.77.1"),
    "a quoted number is text": ('"8080"', "8080"),
    "a quoted true is text": ("'true'", "true"),
    "a number tagged as text": ("!!str 8080", "8080"),
    "nothing": ("", None),
    "null": ("null", None),
    "a tilde": ("~", None),
    "quoted nothing": ('""', ""),
    "a list": ("[a, 1, [no]]", ["a", 1, ["no"]]),
    "keys are text": ("{224: a, no: b}", {"224": "a", "no": "b"}),
    "a block": ("|\n  one\n  two", "one\ntwo\n"),
}


def plain(text: str) -> tuple[Any, list[str]]:
    faults: list[OperatorError] = []
    node = parse(text, "x.yaml", faults)
    return node.plain() if node else None, [str(fault) for fault in faults]


@pytest.fixture(params=["libyaml", "PyYAML's own parser"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "libyaml":
        monkeypatch.setattr(strictyaml, "_Events", strictyaml._SlowEvents)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("text, value", VALUES.values(), ids=VALUES)
def test_values(text: str, value: Any) -> None:
    assert plain(f"key: {text}\n") == ({"key": value}, [])


@pytest.mark.usefixtures("either_parser")
def test_anchors_and_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\nd: &d [1]\ne: *d\nf: {<<: [{x: 5}, *a]}\n*d0 : 1\n".replace(
        "*d0 : 1\n", ""
    )
    a = {"x": 1, "y": 2}
    assert plain(text) == ({"a": a, "b": {"x": 1, "y": 3}, "c": a, "d": [1], "e": [1], "f": {"x": 5, "y": 2}}, [])


def test_an_anchor_on_a_key_and_an_alias_as_a_key() -> None:
    assert plain("&k name: 1\nother: {*k : 2}\n") == ({"name": 1, "other": {"name": 2}}, [])


def test_lines_are_those_of_the_file() -> None:
    node = parse("# comment\n\na:\n  b: 1\n\n  c: [x,\n      y]\n", "x.yaml", [], first_line=10)
    assert node and node.lines == {"a": 12}
    inner = node.value["a"]
    assert inner.lines == {"b": 13, "c": 15}
    assert [item.line for item in inner.value["c"].value] == [15, 16]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_file_says_nothing(text: str) -> None:
    assert plain(text) == (None, [])


FAULTS = {
    "a key twice": ("a: 1\nb: 2\na: 3\n", "x.yaml:3: the key 'a' is there already on line 1. Keep one of the two."),
    "tabs": ("a:\n\tb: 1\n", "x.yaml:2: this is not YAML: found character that cannot start any token. "
             "Indent with spaces: YAML does not allow tabs there."),
    "a colon in a text": ("a: b: c\n", "x.yaml:1: this is not YAML: mapping values are not allowed in this context. "
                          'Put a text that holds ": " in quotes, and check the indentation.'),
    "an open bracket": ("a: [1\nb: 2\n", "x.yaml:2: this is not YAML: did not find expected ',' or ']'. "
                        "Check indentation, quotes and brackets on this line and the one before."),
    "an unknown alias": ("a: *b\n", "x.yaml:1: the alias *b has no anchor. Define &b before it."),
    "an alias within itself": ("a: &a\n  b: *a\n", "x.yaml:2: the alias *a lies within its own anchor. Remove it."),
    "a key that is a list": ("[a]: 1\n", "x.yaml:1: a key is a mapping or a list. "
                      "Keys are names: put one that begins with [ or { in quotes."),
    "a tag on a value": ("a: !!python/name:os.system x\n", "x.yaml:1: the tag 'tag:yaml.org,2002:python/name:os.system' "
                         "has no meaning here. Remove it."),
    "a tag on a mapping": ("a: !x {}\n", "x.yaml:1: the tag '!x' has no meaning here. Remove it."),
    "a merge of no mapping": ("a: {<<: 5}\n", "x.yaml:1: << merges a mapping, and this is none. "
                              "Give it an alias of a mapping: <<: *name."),
    "a second document": ("a: 1\n---\nb: 2\n", "x.yaml:2: a second document begins here. "
                          "Leave one in the file: remove the line `---`."),
    "a control character": ("a: 1\nb: \x01\n", "x.yaml:2: the character U+0001 is not allowed in YAML. "
                            "Remove it: write the file as plain UTF-8 text."),
    "too deep": ("[" * 60 + "]" * 60, "x.yaml:1: this is nested more than 50 levels deep. Write it flatter."),
    "aliases of aliases of aliases": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefg")),
        "x.yaml:7: aliases make more than 200000 values out of this file. Use fewer of them.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, message", FAULTS.values(), ids=FAULTS)
def test_faults(text: str, message: str) -> None:
    assert plain(text)[1] == [message]


def test_every_duplicate_is_told() -> None:
    assert len(plain("a: 1\na: 2\nb: {c: 1, c: 2}\n")[1]) == 2


READ = {
    "a byte-order mark": (b"\xef\xbb\xbfa: 1", None),
    "Latin-1": (b"a: 1\nb: \xfc\n", "2: this is not UTF-8 text. Save the file as plain UTF-8 text."),
}


@pytest.mark.parametrize("octets, message", READ.values(), ids=READ)
def test_read_text(tmp_path: Any, octets: bytes, message: str | None) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(octets)
    faults: list[OperatorError] = []
    text = read_text(str(path), faults)
    assert [str(fault) for fault in faults] == ([f"{path}:{message}"] if message else [])
    assert text == (None if message else "a: 1")


def test_a_file_that_is_not_there(tmp_path: Any) -> None:
    faults: list[OperatorError] = []
    assert read_text(str(tmp_path / "x"), faults) is None
    assert str(faults[0]) == (
        f"{tmp_path}/x: the file cannot be read (No such file or directory). Put it there, or correct the path that names it."
    )


def test_a_fifo_or_a_device_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (f"{tmp_path}/fifo", "/dev/zero"):
        faults: list[OperatorError] = []
        assert read_text(path, faults) is None
        assert "cannot be read (it is no regular file)" in str(faults[0])


@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text("abc:-[]{}&*!|>'\"#%@`,? \n\t<", max_size=60))
def test_whatever_the_text_there_is_a_value_or_a_fault(text: str) -> None:
    faults: list[OperatorError] = []
    assert (node := parse(text, "x.yaml", faults)) is None or node.plain() is not None


@pytest.mark.parametrize("number", [0, -1, 10**17, 1.5, -0.0, 123456.0])
def test_numbers_that_come_back(number: float) -> None:
    assert strictyaml.is_writable(number)


@pytest.mark.parametrize("number", [10**18, 10**4000, 1e300, 1e-7, 0.12345678901234567, float("nan"), float("inf")])
def test_numbers_that_would_come_back_as_texts(number: float) -> None:
    assert not strictyaml.is_writable(number)
