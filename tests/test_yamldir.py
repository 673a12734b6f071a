"""Registry directories: which files count, and what is parsed again after an edit."""

import os
from pathlib import Path
from typing import Any

import pytest

from pixieboot.errors import Faults
from pixieboot.model import Mac
from pixieboot.registry import yamldir
from pixieboot.registry.strictyaml import parse
from pixieboot.registry.yamldir import YamlDirectory
from tests.registryfiles import faults_of, tree


def test_files_of_one_and_of_many(tmp_path: Path) -> None:
    files = {
        "machines.yaml": "a: {mac: 00:00:00:00:00:01}\n",
        "machines/b.yaml": "mac: 00:00:00:00:00:02\n",
        "machines/.c.yaml.swp": "rubbish: [",
        "machines/d.yaml~": "rubbish: [",
        "profiles/p.yaml": "local: true\n",
        "README": "not ours",
    }
    inventory = YamlDirectory(tree(tmp_path, files)).load(1)
    assert set(inventory.machines) == {"a", "b"}
    assert set(inventory.profiles) == {"menu", "local", "p"}


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a name that cannot be": (
        {"machines.yaml": "web 1: {mac: 00:00:00:00:00:01}\n"},
        "$/machines.yaml:1: 'web 1' cannot be the name of a machine. Use letters, digits, dots, dashes and underscores.",
    ),
    "a file of the wrong suffix": (
        {"machines.yml": "a: {mac: 00:00:00:00:00:01}\n"},
        "$/machines.yml: this file is not read. Rename it to machines.yaml.",
    ),
    "a file of the wrong suffix in its directory": (
        {"machines/a.json": "{}"},
        "$/machines/a.json: this file is not read: a file of machines/ ends in .yaml. Rename it to a.yaml, or move it away.",
    ),
    "a list of machines": (
        {"machines.yaml": "- mac: 00:00:00:00:00:01\n"},
        "$/machines.yaml:1: the file holds a list, not a mapping of names to machines. "
        "Write `NAME:` and below it, indented, the keys of the machine.",
    ),
    "a template that is no text": (
        {"templates/a": "\udcff"},
        "$/templates/a:1: this is not UTF-8 text. Save the file as plain UTF-8 text.",
    ),
}


@pytest.mark.parametrize("files, message", WRONG.values(), ids=WRONG)
def test_wrong_files(tmp_path: Path, files: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda path, text: path.write_bytes(text.encode(errors="surrogateescape")))
    assert faults_of(tmp_path, files) == [message]


@pytest.mark.parametrize("installed", [True, False])
def test_butane_that_is_not_installed_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr("pixieboot.registry.butane.program", lambda: "butane" if installed else None)
    files = {"profiles.yaml": "p: {kernel: k, ignition: a.bu}\n", "templates/a.bu": "variant: fcos\n"}
    directory = YamlDirectory(tree(tmp_path, files))
    directory.load(1)
    assert [note.where for note in directory.notes] == ([] if installed else [f"{tmp_path}/templates/a.bu"])


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    os.mkfifo(tmp_path / "machines" / "web1.yaml")
    assert faults_of(tmp_path, {}) == ["$/machines/web1.yaml: this is no file. Move it away."]


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines/web1.yaml").symlink_to("nowhere")
    assert faults_of(tmp_path, {})[0].startswith("$/machines/web1.yaml: it cannot be read (No such file or directory). ")


# --- edits ---------------------------------------------------------------------------------------------------------------


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parsed: list[str] = []

    def counted(text: str, name: str, *rest: Any) -> Any:
        parsed.append(text)
        return parse(text, name, *rest)

    monkeypatch.setattr("pixieboot.registry.yamldir.parse", counted)
    return parsed


def machines(count: int) -> str:
    return "# a fleet\n\n" + "".join(f"m{n}:\n  mac: {Mac.of(n.to_bytes(6))}\n  vars: {{n: {n}}}\n\n# next\n" for n in range(count))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[YamlDirectory, Path, list[str]]:
    """A directory whose machines.yaml is large enough to be remembered entry by entry, loaded once."""
    monkeypatch.setattr(yamldir, "_MANY", 100)
    directory = YamlDirectory(tree(tmp_path, {"machines.yaml": machines(20)}))
    directory.load(1)
    return directory, tmp_path / "machines.yaml", count_parses(monkeypatch)


def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = YamlDirectory(tree(tmp_path, {f"machines/m{n}.yaml": f"mac: {Mac.of(n.to_bytes(6))}\n" for n in range(5)}))
    first = directory.load(1)
    parsed = count_parses(monkeypatch)
    (tmp_path / "machines/m3.yaml").write_text("serial: x\n")
    (tmp_path / "machines/m4.yaml").unlink()
    second = directory.load(2)
    assert parsed == ["serial: x\n"]
    assert second.machines["m1"] is first.machines["m1"]
    assert set(second.machines) == {"m0", "m1", "m2", "m3"}


EDITS = {
    "a value": ("vars: {n: 7}", "vars: {n: 700}", 1),
    "a new first line": ("# a fleet", "# a fleet\n# of many", 0),
    "an entry more": ("m9:\n", "new: {serial: x}\nm9:\n", 1),
    "an entry less": (f"m9:\n  mac: {Mac.of((9).to_bytes(6))}\n  vars: {{n: 9}}\n\n# next\n", "", 0),
    "a comment": ("m5:\n", "m5:  # the fifth\n", 1),
    "a comment at the margin": ("  vars: {n: 5}\n", "# at the margin\n  vars: {n: 5, m: 1}\n", 1),
    "an anchor: the whole file": ("vars: {n: 7}", "vars: &v {n: 7}", 1),
}


@pytest.mark.parametrize("old, new, parses", EDITS.values(), ids=EDITS)
def test_an_edit_of_a_large_file_costs_its_own_entry(
    large: tuple[YamlDirectory, Path, list[str]], old: str, new: str, parses: int
) -> None:
    directory, path, parsed = large
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    edited = directory.load(2)
    assert len(parsed) == parses
    assert edited.machines == YamlDirectory(path.parent).load(2).machines  # lines and all


BAD_EDITS = {
    "a name twice": ("m9:\n", "m8:\n", "there is a machine m8 already|the key 'm8' is there already"),
    "a bad value": ("vars: {n: 7}", "boot: never", "boot is 'never'"),
    "an open bracket": ("vars: {n: 7}", "vars: {n: 7", "this is not YAML"),
}


@pytest.mark.parametrize("old, new, message", BAD_EDITS.values(), ids=BAD_EDITS)
def test_a_bad_edit_of_a_large_file_reads_as_if_it_were_small(
    large: tuple[YamlDirectory, Path, list[str]], old: str, new: str, message: str
) -> None:
    directory, path, _ = large
    good = path.read_text()
    path.write_text(good.replace(old, new, 1))
    with pytest.raises(Faults, match=message) as raised:
        directory.load(2)
    with pytest.raises(Faults) as afresh:
        YamlDirectory(path.parent).load(1)
    assert [str(fault) for fault in raised.value.faults] == [str(fault) for fault in afresh.value.faults]
    path.write_text(good)
    assert len(directory.load(3).machines) == 20


def test_templates_stay_the_same_object_until_one_changes(tmp_path: Path) -> None:
    directory = YamlDirectory(tree(tmp_path, {"templates/a": "x", "machines.yaml": "a: {serial: 1}\n"}))
    first = directory.load(1)
    (tmp_path / "machines.yaml").write_text("b: {serial: 1}\n")
    assert directory.load(2).templates is first.templates
    (tmp_path / "templates/a").write_text("yy")
    assert directory.load(3).templates == {"a": "yy"}
    assert first.templates == {"a": "x"}


def test_the_signature_differs_after_any_edit(tmp_path: Path) -> None:
    files = {"machines.yaml": "a: {serial: 1}\n", "machines/b.yaml": "serial: 2\n", "templates/sub/t": "x"}
    directory = YamlDirectory(tree(tmp_path, files))
    seen = [directory.signature()]
    for name in files:
        (tmp_path / name).write_text(f"{files[name]}# edited\n")
        seen.append(directory.signature())
    (tmp_path / "machines/b.yaml").unlink()
    seen.append(directory.signature())
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])
