"""Typed values out of nodes: what test_config.py and test_entries.py do not show of them already."""

from typing import Any

import pytest

from pixieboot.errors import OperatorError
from pixieboot.model import Arch
from pixieboot.registry.fields import Fields, arch_of, is_name, listed, nearest
from pixieboot.registry.strictyaml import parse

KNOWN = ("one", "two", "loader", "options", "vars")


def fields(text: str) -> Fields:
    node = parse(text, "x.yaml", [])
    assert node
    return Fields(node, "x.yaml", "a thing", KNOWN, [])


NEAREST = {
    "a letter missing": ("flatcr", ["flatcar", "debian"], "Did you mean 'flatcar'?"),
    "the other case": ("Flatcar", ["flatcar"], "Did you mean 'flatcar'?"),
    "nothing near": ("zzz", ["flatcar"], "otherwise"),
    "nothing at all": ("zzz", [], "otherwise"),
}


@pytest.mark.parametrize("name, known, sentence", NEAREST.values(), ids=NEAREST)
def test_nearest(name: str, known: list[str], sentence: str) -> None:
    assert nearest(name, known, "otherwise") == sentence


def test_listed() -> None:
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a or b", "a, b or c")


ARCHES: dict[str, Arch | None] = {
    "x64-efi": Arch.X64_EFI,
    "7": Arch.X64_EFI,
    "9": Arch.X64_EFI,
    "0": Arch.X86_BIOS,
    "11": Arch.ARM64_EFI,
    "77": None,
    "x": None,
}


@pytest.mark.parametrize("text, arch", ARCHES.items())
def test_arch_of(text: str, arch: Arch | None) -> None:
    assert arch_of(text) is arch


GOOD_NAMES, BAD_NAMES = ("web1", "web-1.lab_2", "1"), ("", "-a", "a b", "a/b", "ä", "a" * 129)


@pytest.mark.parametrize("text", [*GOOD_NAMES, *BAD_NAMES])
def test_is_name(text: str) -> None:
    assert is_name(text) is (text in GOOD_NAMES)


LOADERS: dict[str, tuple[str, Any, int]] = {  # what is written, what it means, faults
    "one for all": ("loader: shimx64.efi", {"*": "shimx64.efi"}, 0),
    "by architecture": ("loader: {x64-efi: a.efi, 11: b.efi}", {"x64-efi": "a.efi", "arm64-efi": "b.efi"}, 0),
    "none": ("one: 1", {}, 0),
    "outside": ("loader: /etc/passwd", {}, 1),
    "a list": ("loader: [a]", {}, 1),
    "an architecture that there is not": ("loader: {x: a.efi}", {}, 1),
}


@pytest.mark.parametrize("text, loader, faults", LOADERS.values(), ids=LOADERS)
def test_loader(text: str, loader: Any, faults: int) -> None:
    found = fields(text)
    assert (dict(found.loader()), len(found.faults)) == (loader, faults)


def test_a_value_of_the_wrong_kind_is_a_fault_and_the_default_holds() -> None:
    found = fields("one: {a: 1}\ntwo: [x]\n")
    assert (found.text("one", "default"), found.flag("two", True)) == ("default", True)
    assert found.choice("two", ("a", "b"), "a") == "a"
    assert (found.integer("one", 1, 9, 5), found.seconds("two", 7.0), found.size("two", 1, 9, 3)) == (5, 7.0, 3)
    assert found.address("one") is None
    assert len(found.faults) == 7


def test_a_key_without_a_value_is_a_key_that_is_not_there() -> None:
    found = fields("one:\ntwo: ~\n")
    assert not found.has("one")
    assert (found.text("one", "d"), found.texts("two"), found.flag("one", False), found.mapping("two")) == ("d", (), False, {})
    assert found.faults == []


def test_sizes_and_times() -> None:
    found = fields("one: 64KiB\ntwo: 90s\n")
    assert (found.size("one", 1, 1 << 20, 1), found.seconds("two", 0)) == (65536, 90.0)


def test_where() -> None:
    found = fields("one: 1\ntwo:\n  - 2\n")
    assert (found.where("two"), found.where("loader")) == ("x.yaml:3", "x.yaml:1")


def test_a_scalar_in_place_of_a_mapping() -> None:
    faults: list[OperatorError] = []
    node = parse("5", "x.yaml", faults)
    assert node
    Fields(node, "x.yaml", "a thing", KNOWN, faults)
    assert [str(fault) for fault in faults] == [
        "x.yaml:1: a thing is '5', not a mapping. Write its keys indented below it: loader, one, options, two, vars."
    ]
