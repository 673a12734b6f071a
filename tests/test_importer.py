"""Data directories of Matchbox and bootcfg -> files of ours; and what cannot be imported."""
# ruff: noqa: E501  (files and reports are kept whole)

from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.registry.importer import imported
from tests.importing import taken_over, written
from tests.registryfiles import tree


def test_matchbox(tmp_path: Path) -> None:
    files = {
        "groups/default.json": {"id": "the default", "profile": "install"},
        "groups/node1.json": {
            "id": "node1",
            "profile": "install",
            "selector": {"mac": "52-54-00-a1-9c-ae"},
            "metadata": {"port": 8080, "keys": ["a"], "net": {"mtu": 1.5}},
        },
        "profiles/install.json": {"id": "install", "name": "Install", "boot": {"kernel": "/assets/k", "initrd": ["/assets/i"], "args": ["a"]}},
        "profiles/disk.json": {"id": "disk"},
        "generic/x.cfg": "{{.port}}",
    }  # fmt: skip
    source = tree(tmp_path / "matchbox", files)
    settings, inventory, report = taken_over(tmp_path, source)
    assert settings.assets == source / "assets"
    node1 = inventory.groups["node1"]
    assert (node1.match, node1.vars) == ({"mac": "52:54:00:a1:9c:ae"}, {"port": 8080, "keys": ["a"], "net": {"mtu": 1.5}})
    install = inventory.profiles["install"]
    assert (install.title, install.kernel, install.initrd, install.args) == ("Install", "k", ("i",), ("a",))
    assert inventory.profiles["disk"].local
    assert "'the default' is called the-default here" in report and "the-default" in inventory.groups
    report.remove("'the default' is called the-default here")
    assert [line.rpartition(": ")[2] for line in report] == [
        "a template in Go's language: write it in Jinja's, or serve the directory as it is (`registry: DIRECTORY`)".rpartition(
            ": "
        )[2],
        "profile disk has no kernel: here it boots the local disk".rpartition(": ")[2],
    ]


def test_bootcfg(tmp_path: Path) -> None:
    source = tmp_path / "bootcfg"
    (source / "boot/mac").mkdir(parents=True)
    (source / "boot/mac/52:54:00:a1:9c:ae").write_text('{"kernel": "/images/k", "cmdline": {"b": "1", "a": ""}}')
    (source / "boot/default").write_text('{"kernel": "/images/d"}')
    settings, inventory, report = taken_over(tmp_path, source)
    assert settings.assets == source / "images" and report == []
    assert inventory.profiles["default"].kernel == "d"
    (group,) = [group for group in inventory.groups.values() if group.match]
    assert group.profile and inventory.profiles[group.profile].args == ("a", "b=1")


REFUSED = {
    "a file of nobody's": ("x.conf", "hello world\n", "this is neither a dnsmasq.conf nor a dhcpd.conf"),
    "an open string": ("dhcpd.conf", 'host a {\n hardware "\n', "unexpected '\"'"),
}


@pytest.mark.parametrize("name, text, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_imported(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        imported(written(tmp_path, name, text))


def test_a_directory_of_nobodys(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="this is a directory of neither Matchbox nor bootcfg"):
        imported(tmp_path)
    with pytest.raises(OperatorError, match="it cannot be read"):
        imported(tmp_path / "nothing")
