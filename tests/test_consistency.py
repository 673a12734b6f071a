"""Names that lead nowhere, and what two entries claim."""

from pathlib import Path

import pytest

from tests.registryfiles import faults_of

WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a name that is taken": (
        {"machines.yaml": "a: {mac: 00:00:00:00:00:01}\n", "machines/a.yaml": "mac: 00:00:00:00:00:02\n"},
        "$/machines/a.yaml:1: there is a machine a already at $/machines.yaml:1. Rename one of the two.",
    ),
    "a serial number twice, in another case": (
        {"machines.yaml": "a: {serial: AB1}\nb: {serial: ab1}\n"},
        "$/machines.yaml:2: machine b has the serial number ab1 of machine a ($/machines.yaml:1). Correct one of the two.",
    ),
    "a group's profile": (
        {"groups.yaml": "g:\n  match: {rack: 1}\n  profile: nothing\n"},
        "$/groups.yaml:3: profile 'nothing' does not exist. Profiles live in $/profiles.yaml and $/profiles/.",
    ),
    "a script that is not there": (
        {"profiles.yaml": "p:\n  script: s.ipxe.j2\n", "templates/t.ipxe.j2": ""},
        "$/profiles.yaml:2: script of profile p names the template 's.ipxe.j2', which does not exist. "
        "Did you mean 't.ipxe.j2'? Templates live in $/templates.",
    ),
    "a document of another name that is not there": (
        {"profiles.yaml": "p:\n  kernel: k\n  files:\n    a: b\n    preseed: zzz\n", "templates/b": ""},
        "$/profiles.yaml:5: preseed of profile p names the template 'zzz', which does not exist. Templates live in $/templates.",
    ),
    "an include that is not there": (
        {"templates/a": "x\n{% include 'pixieboot/done.preseed.j2' %}\n{% include 'bb' %}\n", "templates/b": ""},
        "$/templates/a:3: the template 'bb' does not exist. Did you mean 'b'? Templates live in $/templates.",
    ),
    "Ignition that is no JSON": (
        {"profiles.yaml": "p: {kernel: k, ignition: a.ign}\n", "templates/a.ign": "{\n  a: 1\n}"},
        "$/templates/a.ign:2: this Ignition configuration is not JSON: Expecting property name enclosed in double quotes. "
        "Correct it, or call it NAME.bu if it is Butane.",
    ),
}


@pytest.mark.parametrize("files, message", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_together(tmp_path: Path, files: dict[str, str], message: str) -> None:
    assert faults_of(tmp_path, files) == [message]


def test_an_include_that_may_be_missing_or_has_no_fixed_name(tmp_path: Path) -> None:
    files = {"templates/a": "{% include 'zzz' ignore missing %}{% include vars.name %}{% import 'b' as b %}", "templates/b": ""}
    assert faults_of(tmp_path, files) == []
