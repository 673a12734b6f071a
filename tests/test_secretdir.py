"""secrets/ of the registry: read, and kept from everybody."""

from pathlib import Path

import pytest

from pixieboot.errors import Faults
from pixieboot.registry.yamldir import YamlDirectory


def tree(root: Path, files: dict[str, str], mode: int = 0o640) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    return root


def test_names_and_texts(tmp_path: Path) -> None:
    files = {"secrets/password": "a\nb\n\n", "secrets/web1/key": "k", "secrets/.hidden": "x", "templates/t": "{{ secret('key') }}"}
    assert YamlDirectory(tree(tmp_path, files)).load(1).secrets == {"password": "a\nb\n", "web1/key": "k"}


FAULTS = {
    "everybody may read it": (
        {"secrets/password": "x"},
        0o644,
        "$/secrets/password: everybody on this host may read this secret. Take that right away: chmod o= $/secrets/password",
    ),
    "a name that is misspelt": (
        {"secrets/password": "x", "templates/t": "a\n{{ secret('pasword') }}"},
        0o600,
        "$/templates/t:2: the secret 'pasword' does not exist. Did you mean 'password'? Secrets live in $/secrets, a file each.",
    ),
    "no text": ({"templates/t": "{{ secret('x') }}"}, 0o600, "$/templates/t:1: the secret 'x' does not exist. Secrets live in"),
}


@pytest.mark.parametrize("files, mode, sentence", FAULTS.values(), ids=FAULTS)
def test_faults(tmp_path: Path, files: dict[str, str], mode: int, sentence: str) -> None:
    with pytest.raises(Faults) as raised:
        YamlDirectory(tree(tmp_path, files, mode)).load(1)
    (fault,) = raised.value.faults
    assert str(fault).replace(str(tmp_path), "$").startswith(sentence)


def test_a_right_that_is_taken_away_is_an_edit(tmp_path: Path) -> None:
    directory = YamlDirectory(tree(tmp_path, {"secrets/password": "x"}, 0o644))
    before = directory.signature()
    (tmp_path / "secrets/password").chmod(0o640)
    assert directory.signature() != before
    assert directory.load(1).secrets == {"password": "x"}
