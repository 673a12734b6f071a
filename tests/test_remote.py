"""Links to other servers' files: they say what was signed, whatever the address holds, and nothing else opens them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.model import Profile
from pixieboot.remote import Remote, named_by, of_token, path_of

KEY = b"k" * 32
SUM = "ab" * 32


@given(st.builds(Remote, st.text(max_size=200), st.sampled_from(["", SUM]), st.booleans()))
def test_a_link_says_what_was_signed(remote: Remote) -> None:
    try:
        remote.url.encode()
        path = path_of(KEY, remote)
    except ValueError:  # no address at all: lone surrogates, a bracket without its fellow
        return
    _, prefix, token, name = path.split("/")
    assert prefix == "remote" and name and name.isascii() and not name.startswith(".")
    assert of_token(KEY, token) == remote
    assert of_token(b"another", token) is None


@given(st.text(max_size=100))
def test_nothing_else_opens_anything(token: str) -> None:
    assert of_token(KEY, token) is None


def test_the_same_file_has_the_same_link() -> None:
    assert path_of(KEY, Remote("http://h/a")) == path_of(KEY, Remote("http://h/a")) != path_of(KEY, Remote("http://h/a", once=True))


NAMES = {
    "the last part of the path": ("http://h/a/vmlinuz?x=1", "vmlinuz"),
    "no path": ("http://h", "file"),
    "a directory": ("http://h/a/", "file"),
    "what a path may not hold": ("http://h/a%2Fb c", "a_2Fb_c"),
    "hidden": ("http://h/..x", "x"),
}


@pytest.mark.parametrize("url, name", NAMES.values(), ids=NAMES)
def test_names(url: str, name: str) -> None:
    assert Remote(url).name == name


PROFILES = {
    "not cached": (Profile("p"), "http://h/a/k", None),
    "by its name": (Profile("p", cache="once", sha256={"k": SUM}), "http://h/a/k?v=1", Remote("http://h/a/k?v=1", SUM, True)),
    "by its address": (Profile("p", cache="fresh", sha256={"http://h/k": SUM}), "http://h/k", Remote("http://h/k", SUM)),
    "no checksum": (Profile("p", cache="once", sha256={"j": SUM}), "HTTPS://h/k", Remote("HTTPS://h/k", "", True)),
    "tftp": (Profile("p", cache="once"), "tftp://h/k", None),
}


@pytest.mark.parametrize("profile, url, remote", PROFILES.values(), ids=PROFILES)
def test_what_a_profile_means_by_an_address(profile: Profile, url: str, remote: Remote | None) -> None:
    assert named_by(profile, url) == remote
