"""Whose registry a directory is."""

from pathlib import Path

import pytest

from pixieboot.registry.kinds import is_bootcfg, is_matchbox

DIRECTORIES = {  # files in it, Matchbox's, bootcfg's
    "empty": ([], False, False),
    "ours": (["machines.yaml", "groups/a.yaml"], False, False),
    "ours beside left-overs of Matchbox": (["machines.yaml", "groups/a.json"], False, False),
    "Matchbox's": (["groups/a.json", "profiles/b.json"], True, False),
    "bootcfg's by UUID": (["boot/uuid/x"], False, True),
    "bootcfg's by its default": (["boot/default"], False, True),
}


@pytest.mark.parametrize("files, matchbox, bootcfg", DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_directory_is(tmp_path: Path, files: list[str], matchbox: bool, bootcfg: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert (is_matchbox(tmp_path), is_bootcfg(tmp_path)) == (matchbox, bootcfg)
