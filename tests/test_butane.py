"""The program butane, played by shell scripts; and the documents that need it, over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pixieboot.registry import butane
from tests.httphost import serving


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


def test_others_are_answered_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played(monkeypatch, tmp_path, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo '{{}}'")
    native = {
        "profiles.yaml": "p: {kernel: k, ignition: i.bu}\n",
        "groups.yaml": "g: {profile: p}\n",
        "templates/i.bu": "variant: fcos\n",
    }
    theirs = {
        "groups/g.json": '{"id": "g", "profile": "p"}',
        "profiles/p.json": '{"id": "p", "ignition_id": "i.bu"}',
        "ignition/i.bu": "variant: flatcar\n",
    }
    for number, registry in enumerate((native, theirs)):
        directory = tmp_path / str(number)
        with serving(directory, registry=registry) as host, ThreadPoolExecutor(1) as others:
            waiting = others.submit(host.get, "/ignition?mac=02:00:00:00:00:01")
            assert host.get("/healthz").status == 200 and not waiting.done()
            (tmp_path / "go").touch()
            got = waiting.result(20)
            assert (got.status, got.body) == (200, b"{}")
        (tmp_path / "go").unlink()


def test_our_own_registry_has_it_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(
        monkeypatch,
        tmp_path,
        'grep -q bad - && { echo \'Error at 2:1: no bad\' >&2; exit 1; }; echo \'{"ignition": {"version": "3.4.0"}}\'',
    )
    registry = {
        "machines.yaml": "a: {mac: 02:00:00:00:00:01, profile: good}\nb: {mac: 02:00:00:00:00:02, profile: bad}\n",
        "profiles.yaml": "good: {kernel: k, ignition: good.bu}\nbad: {kernel: k, ignition: bad.bu.j2}\n",
        "templates/good.bu": "variant: fcos\n",
        "templates/bad.bu.j2": "variant: fcos\nbad: {{ client.mac }}\n",
    }
    with serving(tmp_path, registry=registry) as host:
        got = host.get("/ignition?mac=02:00:00:00:00:01")
        assert (got.status, got["content-type"], got.body) == (200, "application/json", b'{"ignition": {"version": "3.4.0"}}')
        got = host.get("/ignition?mac=02:00:00:00:00:02")
        assert got.status == 500 and b"templates/bad.bu.j2: butane refuses it: Error at 2:1: no bad" in got.body
    monkeypatch.setenv("PATH", str(tmp_path / "registry"))
    butane.program.cache_clear()
    butane.translated.cache_clear()
    with serving(tmp_path, registry=registry) as host:
        got = host.get("/ignition?mac=02:00:00:00:00:01")
        assert got.status == 500 and b"needs the program butane, which is not installed" in got.body
        assert [note.where.rpartition("/")[2] for note in host.context.registry.notes] == ["bad.bu.j2", "good.bu"]
