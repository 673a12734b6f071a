"""bootcfg v0's directory, written by hand after its documentation: every endpoint byte by byte, the ladder, statuses."""

from pathlib import Path
from typing import Any

import pytest

from pixieboot.registry import Registry
from pixieboot.registry.foreign import Foreign
from pixieboot.registry.kinds import is_bootcfg
from tests.registryfiles import tree

UUID = "16e7d8a7-bfa9-428b-9117-363341bb330b"
FILES: dict[str, Any] = {
    f"boot/uuid/{UUID}": {
        "kernel": "/images/coreos/899.6.0/coreos_production_pxe.vmlinuz",
        "initrd": ["/images/coreos/899.6.0/coreos_production_pxe_image.cpio.gz"],
        "cmdline": {"cloud-config-url": "http://b/cloud?uuid=${uuid}&mac=${net0/mac:hexhyp}", "coreos.autologin": "", "retries": 5},
    },
    "boot/mac/52:54:00:a1:9c:ae": {"kernel": "/images/k", "initrd": ["/images/a", "/images/b"], "cmdline": {}},
    "boot/default": {"kernel": "/images/default"},
    "cloud/uuid/" + UUID: "#cloud-config\ncoreos:\n  etcd2:\n    name: node1\n",
    "cloud/default": "#cloud-config\n",
    "cloud/mac/52:54:00:a1:9c:ae": "#!/bin/sh\n",
}


@pytest.fixture
def bootcfg(tmp_path: Path) -> Foreign:
    registry = Registry(str(tree(tmp_path, FILES)))
    registry.load()
    assert registry.foreign and registry.foreign.kind == "bootcfg"
    return registry.foreign


BYTES: dict[str, tuple[str, str, str]] = {  # path, query, body
    "the entry": (
        "/boot.ipxe",
        "",
        "#!ipxe\nchain ipxe?uuid=${uuid}&mac=${net0/mac:hexhyp}&ip=${ip}&domain=${domain}&hostname=${hostname}&serial=${serial}\n",
    ),
    "iPXE by UUID": (
        "/ipxe",
        f"uuid={UUID}&mac=52-54-00-a1-9c-ae",
        "#!ipxe\nkernel /images/coreos/899.6.0/coreos_production_pxe.vmlinuz "
        "cloud-config-url=http://b/cloud?uuid=${uuid}&mac=${net0/mac:hexhyp} coreos.autologin retries=5\n"
        "initrd /images/coreos/899.6.0/coreos_production_pxe_image.cpio.gz\nboot\n",
    ),
    "iPXE by MAC, two initrds": (
        "/ipxe",
        "uuid=x&mac=52-54-00-A1-9C-AE",
        "#!ipxe\nkernel /images/k\ninitrd /images/a\ninitrd /images/b\nboot\n",
    ),
    "iPXE for everybody": ("/ipxe", "", "#!ipxe\nkernel /images/default\ninitrd \nboot\n"),
    "Pixiecore": (
        "/pixiecore/v1/boot/52:54:00:a1:9c:ae",
        "",
        '{"kernel":"/images/k","initrd":["/images/a","/images/b"],"cmdline":{}}',
    ),
    "Pixiecore for everybody": (
        "/pixiecore/v1/boot/00:00:00:00:00:01",
        "",
        '{"kernel":"/images/default","initrd":null,"cmdline":null}',
    ),
    "cloud-config by UUID": ("/cloud", f"uuid={UUID}", "#cloud-config\ncoreos:\n  etcd2:\n    name: node1\n"),
    "cloud-config for everybody": ("/cloud", "mac=00:00:00:00:00:01", "#cloud-config\n"),
}


@pytest.mark.parametrize("path, query, body", BYTES.values(), ids=BYTES)
def test_bytes(bootcfg: Foreign, path: str, query: str, body: str) -> None:
    answer = bootcfg.answer(path, query)
    assert answer and (answer.status, answer.body.decode()) == (200, body)
    assert answer.content_type == ("application/json" if "pixiecore" in path else "text/plain; charset=utf-8")


STATUSES: dict[str, tuple[str, str, int, bytes]] = {
    "a script is no cloud-config": ("/cloud", "mac=52:54:00:a1:9c:ae", 404, b"404 page not found\n"),
    "no MAC for Pixiecore": ("/pixiecore/v1/boot/nonsense", "", 400, b"address nonsense: invalid MAC address\n"),
    "a UUID that leads out of the directory is a name like any other": ("/ipxe", "uuid=../../../etc/passwd", 200, b""),
}


@pytest.mark.parametrize("path, query, status, body", STATUSES.values(), ids=STATUSES)
def test_statuses(bootcfg: Foreign, path: str, query: str, status: int, body: bytes) -> None:
    answer = bootcfg.answer(path, query)
    assert answer and answer.status == status and (status == 200 or answer.body == body)


def test_without_a_default_nobody_is_let_in(tmp_path: Path) -> None:
    registry = Registry(str(tree(tmp_path, {"boot/uuid/x": {"kernel": "k"}})))
    registry.load()
    assert registry.foreign
    for path in ("/ipxe", "/cloud", "/pixiecore/v1/boot/00:00:00:00:00:01"):
        answer = registry.foreign.answer(path, "mac=00:00:00:00:00:01")
        assert answer and answer.status == 404
    assert registry.foreign.answer("/images/x", "") is None


def test_a_uuid_in_upper_case_finds_its_file(bootcfg: Foreign) -> None:
    answer = bootcfg.answer("/ipxe", f"uuid={UUID.upper()}")
    assert answer and answer.why == f"boot/uuid/{UUID}"


def test_a_bad_file_costs_itself_and_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {**FILES, "boot/mac/52:54:00:a1:9c:ae": "{", "boot/uuid/x": {"kernel": 5}})
    registry = Registry(str(tmp_path))
    registry.load()
    assert sorted(map(str, registry.notes)) == [
        f"{tmp_path}/boot/mac/52:54:00:a1:9c:ae:1: this is not JSON: Expecting property name enclosed in double quotes. "
        "This file is left out until it is.",
        f"{tmp_path}/boot/uuid/x: a value is of the wrong kind. This file is left out until it is mended.",
    ]


def test_dhcp_and_explain_see_the_same_choice(tmp_path: Path) -> None:
    registry = Registry(str(tree(tmp_path, FILES)))
    registry.load()
    inventory = registry.current
    assert {frozenset(group.match.items()) for group in inventory.groups.values()} == {
        frozenset({("uuid", UUID)}),
        frozenset({("mac", "52:54:00:a1:9c:ae")}),
        frozenset(),
    }
    assert inventory.profiles["default"].kernel == "default"


def test_recognised_by_its_directories(tmp_path: Path) -> None:
    assert not is_bootcfg(tmp_path)
    tree(tmp_path, {"boot/grub.cfg": ""})
    assert not is_bootcfg(tmp_path)
    tree(tmp_path, {"boot/default": "{}"})
    assert is_bootcfg(tmp_path)
