"""Jinja in its bounds: what templates may use up, what is known of them before they run, and what a client's words become."""

from collections.abc import Mapping
from typing import Any

import pytest

from pixieboot import sandbox
from pixieboot.sandbox import RenderError, Templates, clean, templates_of


def render(text: str, names: Mapping[str, Any] | None = None, **others: str) -> str:
    return Templates({"t.j2": text, **others}).render("t.j2", names or {})


# --- bounds --------------------------------------------------------------------------------------------------------------

ENDLESS = {  # template, what is said of it
    "a list of a thousand million": ("\n{{ range(10**9) | list | length }}", "2: a range of more than 100000 numbers. Take"),
    "a number longer than a word": ("{{ range(2**100) }}", "1: a range of more than 100000 numbers."),
    "a number that fills the memory": ("{{ 9 ** (10 ** 9) }}", "1: ** makes a number of more than 4096 bits. Calculate with less."),
    "a text that fills the memory": ("{{ 'x' * 10**10 }}", "1: * makes more than 8 MiB. Repeat it less often."),
    "the other way round": ("{{ 10**8 * [0] }}", "1: * makes more than 8 MiB."),
    "loops that print nothing": (
        "{% for a in range(90000) %}\n{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "2: its loops turn more than 100000 times. Let it loop over less.",
    ),
    "loops over a list that is made once": (
        "{% set all = range(90000) | list %}{% for a in all %}{% for b in all %}{% endfor %}{% endfor %}",
        "1: its loops turn more than 100000 times.",
    ),
    "a text that is printed again and again": (
        "{% set a = 'x' * 10**6 %}{% for b in range(1000) %}\n{{ a }}{% endfor %}",
        "2: it prints more than 8 MiB. Serve a file that large below assets.",
    ),
    "a text that is gathered": (
        "{% set a = 'x' * 10**6 %}{% set c %}{% for b in range(1000) %}{{ a }}{% endfor %}{% endset %}",
        "1: it prints more than 8 MiB.",
    ),
    "lines of its own": ("{% for a in range(9000) %}" + "x" * 1000 + "{% endfor %}", " it prints more than 8 MiB."),
    "a macro that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "1: maximum recursion depth exceeded"),
}  # fmt: skip


@pytest.mark.parametrize("text, message", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_stopped(text: str, message: str) -> None:
    with pytest.raises(RenderError) as raised:
        render(text)
    assert str(raised.value).startswith(f"templates/t.j2:{message}")


def test_a_value_of_a_profile_is_bounded_too() -> None:
    with pytest.raises(RenderError, match=r"^profiles\.yaml:4: args of profile p: a range of more than 100000 numbers\."):
        Templates({}).value("a={{ range(10**9) | list }}", {}, "profiles.yaml:4", "args of profile p")


WITHIN = {
    "a long range": ("{{ range(100000) | sum }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}", "4999950000 [5, 3, 1] []"),
    "calculations": ("{{ 2 ** 64 }} {{ 3 * 'ab' }} {{ 3 * 4 }} {{ 2 ** 0.5 > 1 }}", "18446744073709551616 ababab 12 True"),
    "loop variables": (
        "{% for a in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
        "1/3,2/3,3/3",
    ),
    "conditions": ("{% for a in [1, 2, 3] if a > 1 %}{{ a }}{% endfor %}", "23"),
    "nothing to loop over": ("{% for a in [] %}{{ a }}{% else %}none{% endfor %}", "none"),
    "pairs": ("{% for key, value in {'a': 1}.items() %}{{ key }}={{ value }}{% endfor %}", "a=1"),
    "trees": (
        "{% for a in [[1, [2]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}",
        "12",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", WITHIN.values(), ids=WITHIN)
def test_what_is_within_bounds_is_as_jinja_has_it(text: str, expected: str) -> None:
    assert render(text) == expected


def test_every_rendering_has_bounds_of_its_own() -> None:
    templates = Templates({"t.j2": "{% for a in range(60000) %}{% endfor %}x"})
    assert [templates.render("t.j2", {}) for _ in range(3)] == ["x"] * 3


def test_what_is_the_same_after_an_edit_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"same.j2": "{{ a }}", "edited.j2": "{% include 'same.j2' %} before"}
    assert Templates(before).render("edited.j2", {"a": 1}) == "1 before"
    compiled: list[str] = []
    compile = sandbox._Sandbox.compile

    def watched(self: sandbox._Sandbox, source: str, *rest: Any) -> Any:
        compiled.append(source)
        return compile(self, source, *rest)

    monkeypatch.setattr(sandbox._Sandbox, "compile", watched)
    after = before | {"edited.j2": "{% include 'same.j2' %} after"}
    assert Templates(after).render("edited.j2", {"a": 2}) == "2 after"
    assert compiled == [after["edited.j2"]]


# --- at load -------------------------------------------------------------------------------------------------------------

SYNTAX: dict[str, tuple[str, tuple[int, str] | None]] = {
    "none": ("{{ a }}\n", None),
    "an end that is missing": ("{% if a %}\n", (1, "Unexpected end of template. Jinja was looking for the following tags: "
                               "'elif' or 'else' or 'endif'. The innermost block that needs to be closed is 'if'")),
    "an unknown tag": ("\n{% iff a %}", (2, "Encountered unknown tag 'iff'")),
    "an unknown filter": ("\n\n{{ a | tojsn }}", (3, "No filter named 'tojsn'")),
}  # fmt: skip


@pytest.mark.parametrize("text, fault", SYNTAX.values(), ids=SYNTAX)
def test_syntax_fault(text: str, fault: tuple[int, str] | None) -> None:
    assert sandbox.syntax_fault(text) == fault


def test_references() -> None:
    text = "{% include 'a' %}\n{% import 'b' as b %}{% from 'c' import d %}\n{% extends 'e' %}"
    text += "{% include x %}{% include 'f' ignore missing %}"
    assert sandbox.references(text) == [(1, "a"), (2, "b"), (2, "c"), (3, "e")]


def test_every_built_in_template_compiles() -> None:
    names = sandbox.built_in_names()
    assert "pixieboot/menu.ipxe.j2" in names and "pixieboot/done.preseed.j2" in names
    for name in names:
        assert sandbox._PACKAGE.get_source(sandbox._SYNTAX, name.removeprefix("pixieboot/"))


def test_templates_are_compiled_once_for_an_inventory() -> None:
    first, second, third = {"a": "1"}, {"a": "1"}, {"a": "1"}
    compiled = templates_of(first)
    assert templates_of(second) is not compiled
    assert templates_of(first) is compiled  # one in force, one being looked at
    assert templates_of(third) is not compiled
    assert templates_of(first) is not compiled


def test_clean() -> None:
    assert clean("Dell Inc./7:a-b_c.d") == "Dell_Inc._7:a-b_c.d"
    assert len(clean("a" * 1000)) == 64
    assert [clean(text) for text in ("-", "-x", "--", ":a", "a:", ":", "", "a:b-")] == [
        "_",
        "_x",
        "_-",
        "_a",
        "a_",
        "_",
        "",
        "a:b-",
    ]
