"""What foreign registries share: Go's way of reading queries and MAC addresses, and of writing JSON."""

from typing import Any

import pytest

from pixieboot.errors import OperatorError
from pixieboot.registry.foreign import from_json, labels_of, parse_mac, read, texts, to_json

MACS = {
    "52:54:00:12:34:56": "52:54:00:12:34:56",
    "52-54-00-AB-CD-EF": "52:54:00:ab:cd:ef",
    "5254.0012.3456": "52:54:00:12:34:56",
    "02:00:5e:10:00:00:00:01": "02:00:5e:10:00:00:00:01",
    "0200.5e10.0000.0001": "02:00:5e:10:00:00:00:01",
    ":".join(["00"] * 20): ":".join(["00"] * 20),
    "525400123456": None,
    "52:54:00-12-34-56": None,
    "52:54:00:12:34": None,
    "52:54:00:12:34:56:78": None,
    "52:54:00:12:34:5g": None,
    "": None,
}


@pytest.mark.parametrize("text, mac", MACS.items())
def test_parse_mac(text: str, mac: str | None) -> None:
    assert parse_mac(text) == mac


QUERIES: dict[str, dict[str, str]] = {
    "": {},
    "a=1&b=2": {"a": "1", "b": "2"},
    "a=1&a=2": {"a": "1"},
    "a": {"a": ""},
    "a=b=c": {"a": "b=c"},
    "a=x+y%20z": {"a": "x y z"},
    "a=1;b=2&c=3": {"c": "3"},
    "a=%zz&b=1": {"b": "1"},
    "mac=nonsense&MAC=52-54-00-12-34-56": {"MAC": "52:54:00:12:34:56"},
    "mac=52%3A54%3A00%3A12%3A34%3A56": {"mac": "52:54:00:12:34:56"},
}


@pytest.mark.parametrize("query, labels", QUERIES.items())
def test_labels_of(query: str, labels: dict[str, str]) -> None:
    assert labels_of(query) == labels


JSON: dict[str, tuple[Any, bytes]] = {
    "no white space": ({"a": [1, True, None]}, b'{"a":[1,true,null]}'),
    "what HTML might take for its own": ("<a&b>\u2028", b'"\\u003ca\\u0026b\\u003e\\u2028"'),
    "UTF-8 as it is": ("ü", '"ü"'.encode()),
    "float64 without a fraction": ([5.0, 1.5], b"[5,1.5]"),
}


@pytest.mark.parametrize("value, octets", JSON.values(), ids=JSON)
def test_to_json(value: Any, octets: bytes) -> None:
    assert to_json(value) == octets


def test_from_json() -> None:
    notes: list[OperatorError] = []
    assert from_json("x", '{"a": 1}', notes) == {"a": 1.0}
    assert from_json("x", '{"a": NaN}', notes) is None
    assert [str(note) for note in notes] == ["x:1: this is not JSON: NaN is no number of JSON. This file is left out until it is."]


def test_texts() -> None:
    assert (texts(None), texts(["a"]), texts("a"), texts([1])) == ([], ["a"], None, None)


def test_a_file_that_cannot_be_read() -> None:
    notes: list[OperatorError] = []
    assert read("/nowhere/at/all", notes) is None
    assert str(notes[0]).startswith("/nowhere/at/all: it cannot be read (No such file or directory). Put it there")
