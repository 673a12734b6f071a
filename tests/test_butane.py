"""The program butane, played by shell scripts."""

from pathlib import Path

import pytest

from pixieboot.registry import butane


@pytest.fixture(autouse=True)
def fresh() -> None:
    butane.translated.cache_clear()
    butane.program.cache_clear()


def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    path = tmp_path / "butane"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_it_translates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, 'test "$1" = --strict && cat')
    assert butane.translated("a: 1\n") == b"a: 1"


def test_it_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, "echo 'Error at line 3:' >&2; echo '  unknown key' >&2; exit 1")
    with pytest.raises(ValueError, match=r"^butane refuses it: Error at line 3: unknown key$"):
        butane.translated("a")


def test_it_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(butane, "TIME_LIMIT", 0.1)
    with pytest.raises(ValueError, match=r"^butane took longer than 0\.1 s$"):
        butane.translated("a")


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs the program butane, which is not installed"):
        butane.translated("a")
