"""Go's way with values of JSON: fmt, strconv and the functions of text/template, called as templates call them."""

from typing import Any

import pytest

from pixieboot.registry.govalues import FUNCTIONS, NO_VALUE, printed, quoted, truth, type_name

PRINTED: dict[str, tuple[Any, str]] = {
    "a string": ("a b", "a b"),
    "a bool": (False, "false"),
    "nothing": (NO_VALUE, "<no value>"),
    "nothing in a list": (["a", None, 2.0], "[a <nil> 2]"),
    "a map goes by key": ({"b": [1.5], "a": True}, "map[a:true b:[1.5]]"),
}


@pytest.mark.parametrize("value, text", PRINTED.values(), ids=PRINTED)
def test_printed(value: Any, text: str) -> None:
    assert printed(value) == text


FLOATS = {0.0: "0", -0.5: "-0.5", 1e5: "100000", 123456.0: "123456", 1234567.0: "1.234567e+06", 1e21: "1e+21", 0.0001: "0.0001",
          0.00001: "1e-05", 1.25e-7: "1.25e-07", 1e100: "1e+100"}  # fmt: skip


@pytest.mark.parametrize("number, text", FLOATS.items())
def test_floats(number: float, text: str) -> None:
    assert printed(number) == text


def test_what_is_true() -> None:
    false: list[Any] = [NO_VALUE, "", 0.0, [], {}, False]
    assert not any(truth(value) for value in false)
    true: list[Any] = ["x", 1.0, [0], {"a": 0}, True]
    assert all(truth(value) for value in true)


QUOTED = {
    "plain": '"plain"',
    'a "b"\\': '"a \\"b\\"\\\\"',
    "\n\x01": '"\\n\\x01"',
    "é": '"é"',
    "\u200b": '"\\u200b"',
    "\U000e0001": '"\\U000e0001"',
}


@pytest.mark.parametrize("text, literal", QUOTED.items())
def test_quoted(text: str, literal: str) -> None:
    assert quoted(text) == literal


TYPES: list[tuple[Any, str]] = [
    ("", "string"),
    (True, "bool"),
    (1, "int"),
    (1.0, "float64"),
    ([], "[]interface {}"),
    ({}, "map[string]interface {}"),
]


@pytest.mark.parametrize("value, name", TYPES)
def test_names_of_types(value: Any, name: str) -> None:
    assert type_name(value) == name


VERBS: dict[str, tuple[tuple[Any, ...], str]] = {
    "signs": (("%+d %+d %+v", 7, -7, 1.5), "+7 -7 +1.5"),
    "widths": (("%5d|%-5d|%05d", 42, 42, 42), "   42|42   |00042"),
    "hexadecimal": (("%x %X %x %X", 255, 255, "hi", "jk"), "ff FF 6869 6A6B"),
    "a character": (("%c%%", 65), "A%"),
    "cut": (("%.2s", "abc"), "ab"),
    "a list as a string": (("%s", ["a", "b"]), "[a b]"),
    "digits": (("%.3g %g", 1.23456, 1e6), "1.23 1e+06"),
    "the wrong verb": (("%t %q", 1, 2.5), "%!t(int=1) %!q(float64=2.5)"),
}


@pytest.mark.parametrize("given, text", VERBS.values(), ids=VERBS)
def test_printf(given: tuple[Any, ...], text: str) -> None:
    assert FUNCTIONS["printf"](*given) == text


REFUSED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "index beyond the end": ("index", (["a"], 1), "index out of range: 1"),
    "index of a list by a word": ("index", (["a"], "x"), "cannot index slice/array with type string"),
    "index of a map by a number": ("index", ({"a": 1}, 1), "value has type int; should be string"),
    "index of nothing": ("index", (NO_VALUE, "a"), "index of untyped nil"),
    "index of a number": ("index", (1.0, 0), "can't index item of type float64"),
    "slice beyond the end": ("slice", ("abc", 1, 4), "index out of range: 4"),
    "slice of a map": ("slice", ({}, 0), "can't slice item of type map"),
    "len of a number": ("len", (1.0,), "len of type float64"),
    "eq of one": ("eq", (1,), "missing argument for comparison"),
    "eq of two kinds": ("eq", (1, "1"), "incompatible types for comparison"),
    "eq of lists": ("eq", ([], []), "non-comparable types"),
    "lt of bools": ("lt", (True, False), "invalid type for comparison"),
    "printf of a number": ("printf", (1.0,), "wrong type for value; expected string; got float64"),
}


@pytest.mark.parametrize("name, given, message", REFUSED.values(), ids=REFUSED)
def test_what_a_function_refuses(name: str, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        FUNCTIONS[name](*given)
