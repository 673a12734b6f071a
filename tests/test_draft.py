"""What an import has gathered: names that fit, options in their places, one chain."""

import pytest
import yaml

from pixieboot.registry.draft import Draft, is_address, mac_of


def test_names_fit_and_differ() -> None:
    draft = Draft()
    for name in ("web1", "web1", "a b/c", "-"):
        draft.machine("x:1", name, {})
    assert list(draft.machines) == ["web1", "web1-2", "a-b-c", "machine"]
    assert draft.report[0] == "x:1: the machine 'web1' is called web1-2 here"


def test_options_go_where_a_key_is() -> None:
    draft = Draft()
    network, machine = {"interface": "eth0"}, {"mac": "x"}
    for entry in (network, machine):
        draft.options("x:1", entry, "routers", ["10.0.0.1"])
        draft.options("x:1", entry, "224", ["0x01"])
    assert network == {"interface": "eth0", "routers": ["10.0.0.1"], "options": {224: "0x01"}}
    assert machine == {"mac": "x", "options": {"routers": "10.0.0.1", 224: "0x01"}}
    draft.options("x:2", machine, "routrs", ["10.0.0.1"])
    assert draft.report[0].startswith("x:2: option routrs: ")


def test_loaders() -> None:
    draft = Draft()
    draft.loader("x:1", 7, "ipxe.efi")
    draft.loader("x:2", 200, "y.efi")
    draft.loader("x:3", 16, "http://h/ipxe.efi")
    assert draft.loaders == {"x64-efi": "ipxe.efi"} and len(draft.report) == 2


def test_one_chain() -> None:
    draft = Draft()
    for url in ("http://a/", "http://a/", "http://b/", "menu.ipxe"):
        draft.chain("x:1", url)
    assert draft.profiles["imported"]["chain"] == "http://a/" and len(draft.report) == 2


def test_finished() -> None:
    draft = Draft(machines={"a": {"mac": mac_of("0:1:2:3:4:5")}}, report=["x:10: b", "x:9: a"])
    done = draft.finished()
    assert list(done.files) == ["pixieboot.yaml", "machines.yaml"] and done.report == ["x:9: a", "x:10: b"]
    assert yaml.safe_load(done.files["machines.yaml"]) == {"a": {"mac": "00:01:02:03:04:05"}}


@pytest.mark.parametrize("text, good", {"10.0.0.1": True, "10.0.0": False, "web1": False}.items())
def test_is_address(text: str, good: bool) -> None:
    assert is_address(text) is good


def test_mac_of() -> None:
    assert mac_of("0:1:2:3:4:F") == "00:01:02:03:04:0f" and mac_of("52-54-00-12-34-56") == "52:54:00:12:34:56"
    assert mac_of("0:1:2:3:4") is None
