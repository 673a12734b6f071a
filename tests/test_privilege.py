"""Dropping root.  What cannot be undone is done in a process of its own."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.serve import privilege

DROP = """
import json, os
from pixieboot.serve import privilege
user = privilege.service_user()
held = os.open("/etc/shadow", os.O_RDONLY)
privilege.drop(user)
try:
    os.open("/etc/shadow", os.O_RDONLY)
    reopened = True
except PermissionError:
    reopened = False
try:
    os.seteuid(0)
    back = True
except PermissionError:
    back = False
print(json.dumps([user.pw_uid, list(os.getresuid()), bool(os.read(held, 1)), reopened, back, os.umask(0)]))
"""


def test_root_is_gone_for_good_and_what_was_open_stays_open() -> None:
    done = subprocess.run([sys.executable, "-c", DROP], capture_output=True, text=True, timeout=30, check=True)
    uid, ids, held, reopened, back, umask = json.loads(done.stdout)
    assert uid != 0 and ids == [uid] * 3
    assert (held, reopened, back, umask) == (True, False, False, 0o027)


def test_files_are_read_as_the_service_user_and_root_comes_back(tmp_path: Path) -> None:
    user = privilege.service_user()
    assert user is not None and user.pw_uid != 0
    with privilege.acting_as(user):
        assert os.geteuid() == user.pw_uid
    assert os.geteuid() == 0 and os.getegid() == 0


def test_root_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError), privilege.acting_as(privilege.service_user()):
        raise ValueError
    assert os.geteuid() == 0


def test_without_root_there_is_nobody_to_become(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privilege.service_user() is None
    with privilege.acting_as(None):
        pass


def test_a_missing_state_directory_is_made_for_the_user(tmp_path: Path) -> None:
    for part in (tmp_path, *tmp_path.parents[:2]):
        part.chmod(0o755)
    user = privilege.service_user()
    assert user
    privilege.own_directory(tmp_path / "state", user)
    status = (tmp_path / "state").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (user.pw_uid, 0o750)


def test_a_directory_that_the_user_cannot_write_names_the_chown(tmp_path: Path) -> None:
    user = privilege.service_user()
    assert user
    with pytest.raises(OperatorError, match=f"chown {user.pw_name} "):
        privilege.own_directory(tmp_path, user)


def test_whoever_is_not_root_is_told_of_sudo_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixieboot.serve.privilege.os.access", lambda *_, **__: False)
    with pytest.raises(OperatorError, match="Use sudo"):
        privilege.own_directory(tmp_path, None)


def test_a_directory_that_cannot_be_made_is_named() -> None:
    with pytest.raises(OperatorError, match="cannot be made"):
        privilege.own_directory(Path("/proc/pixieboot"), None)


def test_no_user_at_all_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", missing)
    with pytest.raises(OperatorError, match="useradd --system pixieboot"):
        privilege.service_user()
