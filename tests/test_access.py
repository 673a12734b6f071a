"""Token, cookie, names and the UNIX socket of the API."""

from pathlib import Path

import pytest

from pixieboot.config import Settings
from pixieboot.errors import OperatorError
from pixieboot.serve import access


def test_the_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(state=f"sqlite:{tmp_path}/state.db")
    with pytest.raises(Exception, match="no token yet"):
        access.read_token(settings)
    token = access.make_token(settings)
    assert len(token) > 40 and access.make_token(settings) == token == access.read_token(settings)
    assert access.token_path(settings).stat().st_mode & 0o777 == 0o600
    for wrong in (b"short\n", b"\xff\xfe" * 30):
        access.token_path(settings).write_bytes(wrong)
        with pytest.raises(OperatorError, match="too short"):
            access.make_token(settings)
    with pytest.raises(Exception, match="cannot be written"):
        access.make_token(Settings(state=f"sqlite:{tmp_path}/none/state.db"))


def test_the_key_of_links_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    settings = Settings(state=f"sqlite:{tmp_path}/state.db")
    key = access.make_link_key(settings)
    assert len(key) == 32 and access.make_link_key(settings) == key
    assert (tmp_path / "links.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "links.key").write_bytes(b"cut off")
    assert access.make_link_key(settings) not in (key, b"cut off")
    with pytest.raises(OperatorError, match="cannot be written"):
        access.make_link_key(Settings(state=f"sqlite:{tmp_path}/none/state.db"))


def test_where_the_socket_is(tmp_path: Path) -> None:
    assert access.socket_path(Settings()) == Path("/run/pixieboot/api.sock")
    assert access.socket_path(Settings(state=f"sqlite:{tmp_path}/state.db")) == tmp_path / "api.sock"


def test_a_socket_of_a_long_path_and_of_a_dead_daemon(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / "api.sock"
    path.parent.mkdir()
    first = access.listen(path)
    with pytest.raises(Exception, match="another pixieboot answers"):
        access.listen(path)
    first.close()
    access.listen(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Exception, match="cannot be made"):
        access.listen(tmp_path / "no" / "such" / "api.sock")


def test_names_by_which_a_browser_may_call_us() -> None:
    allowed = ("10.0.0.1", "10.0.0.1:8080", "localhost:8080", "[::1]:8080", "boot.example:8080")
    assert all(access.host_allowed(host, "http://boot.example:8080") for host in allowed)
    assert not any(access.host_allowed(host, "auto") for host in ("evil.example", "", "10.0.0.1.evil.example", "auto.evil"))


def test_the_cookie_is_not_the_token() -> None:
    cookie = access.cookie_of("token")
    assert access.shows_token("token", "", cookie) and access.shows_token("token", "bearer token", "")
    assert not access.shows_token("token", f"Bearer {cookie}", "token") and not access.shows_token("token", "", "")
