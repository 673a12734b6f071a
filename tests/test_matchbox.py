"""Matchbox's directory, written by hand after its documentation: every endpoint byte by byte, selection, statuses, notes."""
# ruff: noqa: E501  (messages are kept whole: they are what an operator reads)

from pathlib import Path
from typing import Any

import pytest

from pixieboot.registry import Registry, butane
from pixieboot.registry.foreign import Answer, Foreign
from pixieboot.registry.kinds import is_matchbox
from tests.registryfiles import tree

FILES: dict[str, Any] = {
    "groups/default.json": {"id": "default", "name": "Default", "profile": "install"},
    "groups/node1.json": {
        "id": "node1",
        "name": "node1",
        "profile": "etcd",
        "selector": {"mac": "52-54-00-A1-9C-AE", "os": "installed"},
        "metadata": {
            "domain_name": "node1.example.com",
            "etcd_name": "node1",
            "port": 2379,
            "big": 1000000,
            "debug": True,
            "none": None,
            "ssh_authorized_keys": ["ssh-rsa A", "ssh-rsa B"],
            "net": {"gateway": "172.18.0.1", "deep": {"mtu": 1500}},
        },
    },
    "groups/region-b.json": {"id": "region-b", "profile": "etcd", "selector": {"region": "b", "zone": "z"}},
    "groups/region-a.json": {"id": "region-a", "profile": "install", "selector": {"region": "b", "area": "z"}},
    "groups/lost.json": {"id": "lost", "profile": "nowhere", "selector": {"lost": "yes"}},
    "groups/upper.json": {"id": "upper", "profile": "etcd", "selector": {"uuid": "4C4C4544-0042-3510-8052-B4C04F4E3732"}},
    "profiles/install.json": {
        "id": "install",
        "name": "Container Linux install",
        "boot": {
            "kernel": "/assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz",
            "initrd": ["/assets/coreos/1967.3.0/coreos_production_pxe_image.cpio.gz", "http://x.example/two.gz"],
            "args": ["initrd=a.cpio.gz", "coreos.config.url=http://m/ignition?uuid=${uuid}&mac=${mac:hexhyp}", 'x="a b"'],
        },
        "ignition_id": "raw.ign",
    },
    "profiles/etcd.json": {
        "id": "etcd",
        "boot": {"kernel": "http://k/vmlinuz"},
        "ignition_id": "etcd.yaml",
        "cloud_id": "cloud.yaml",
        "generic_id": "setup.cfg",
    },
    "ignition/raw.ign": {
        "systemd": {"units": [{"contents": "[Service]\nExecStart=/bin/a > /b && c", "name": "a.service", "enabled": False}]},
        "ignition": {"version": "3.3.0"},
        "unknown": 1,
    },
    "ignition/etcd.yaml": "variant: flatcar\nversion: 1.0.0\nname: {{.etcd_name}}\n",
    "cloud/cloud.yaml": "#cloud-config\nhostname: {{.domain_name}}\n{{if index . `ssh_authorized_keys`}}ssh_authorized_keys:\n"
    "{{range $k := .ssh_authorized_keys}}  - {{$k}}\n{{end}}{{end}}",
    "generic/setup.cfg": "mac={{.mac}} os={{.os}} port={{.port}} big={{.big}} q={{.request.query.os}} raw={{.request.raw_query}}\n",
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(str(tree(tmp_path, FILES)))
    registry.load()
    return registry


@pytest.fixture
def matchbox(registry: Registry) -> Foreign:
    assert registry.foreign
    return registry.foreign


NODE1 = "mac=52:54:00:a1:9c:ae&os=installed"
BYTES: dict[str, tuple[str, str, str, str]] = {  # path, query, Content-Type, body
    "the banner": ("/", "", "text/plain; charset=utf-8", "matchbox\n"),
    "the entry": (
        "/boot.ipxe",
        "",
        "text/plain; charset=utf-8",
        "#!ipxe\nchain ipxe?uuid=${uuid}&mac=${mac:hexhyp}&domain=${domain}&hostname=${hostname}&serial=${serial}"
        "&arch=${buildarch:uristring}\n",
    ),
    "iPXE, two initrds": (
        "/ipxe",
        "mac=52-54-00-00-00-01",
        "text/plain; charset=utf-8",
        "#!ipxe\nkernel /assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz initrd=a.cpio.gz "
        'coreos.config.url=http://m/ignition?uuid=${uuid}&mac=${mac:hexhyp} x="a b"\n'
        "initrd /assets/coreos/1967.3.0/coreos_production_pxe_image.cpio.gz\n"
        "initrd http://x.example/two.gz\nboot\n",
    ),
    "iPXE, a kernel alone": ("/ipxe", NODE1, "text/plain; charset=utf-8", "#!ipxe\nkernel http://k/vmlinuz\nboot\n"),
    "GRUB": (
        "/grub",
        "",
        "text/plain; charset=utf-8",
        'default=0\nfallback=1\ntimeout=1\nmenuentry "CoreOS (EFI)" {\necho "Loading kernel"\n'
        'linuxefi "/assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz" initrd=a.cpio.gz '
        'coreos.config.url=http://m/ignition?uuid=${uuid}&mac=${mac:hexhyp} x="a b"\n'
        'echo "Loading initrd"\ninitrdefi  "/assets/coreos/1967.3.0/coreos_production_pxe_image.cpio.gz" "http://x.example/two.gz"\n}\n'
        'menuentry "CoreOS (BIOS)" {\necho "Loading kernel"\n'
        'linux "/assets/coreos/1967.3.0/coreos_production_pxe.vmlinuz" initrd=a.cpio.gz '
        'coreos.config.url=http://m/ignition?uuid=${uuid}&mac=${mac:hexhyp} x="a b"\n'
        'echo "Loading initrd"\ninitrd  "/assets/coreos/1967.3.0/coreos_production_pxe_image.cpio.gz" "http://x.example/two.gz"\n}\n',
    ),
    "raw Ignition, in the types of 3.4": (
        "/ignition",
        "",
        "application/json",
        '{"ignition":{"config":{"replace":{"verification":{}}},"proxy":{},"security":{"tls":{}},"timeouts":{},"version":"3.4.0"},'
        '"kernelArguments":{},"passwd":{},"storage":{},"systemd":{"units":[{"contents":"[Service]\\nExecStart=/bin/a \\u003e /b '
        '\\u0026\\u0026 c","enabled":false,"name":"a.service"}]}}',
    ),
    "cloud-config": (
        "/cloud",
        NODE1,
        "text/plain; charset=utf-8",
        "#cloud-config\nhostname: node1.example.com\nssh_authorized_keys:\n  - ssh-rsa A\n  - ssh-rsa B\n",
    ),
    "generic": (
        "/generic",
        NODE1 + "&x=%20y",
        "text/plain; charset=utf-8",
        f"mac=52:54:00:a1:9c:ae os=installed port=2379 big=1e+06 q=installed raw={NODE1}&x=%20y\n",
    ),
    "metadata": (
        "/metadata",
        NODE1,
        "plain/text",
        "BIG=1e+06\nDEBUG=true\nDOMAIN_NAME=node1.example.com\nETCD_NAME=node1\nMAC=52:54:00:a1:9c:ae\nNET_DEEP_MTU=1500\n"
        "NET_GATEWAY=172.18.0.1\nOS=installed\nPORT=2379\nREQUEST_QUERY_MAC=52:54:00:a1:9c:ae\nREQUEST_QUERY_OS=installed\n"
        f"REQUEST_RAW_QUERY={NODE1}\n",
    ),
}


@pytest.mark.parametrize("path, query, content_type, body", BYTES.values(), ids=BYTES)
def test_bytes(matchbox: Foreign, path: str, query: str, content_type: str, body: str) -> None:
    answer = matchbox.answer(path, query)
    assert answer and (answer.status, answer.content_type, answer.body.decode()) == (200, content_type, body)


def test_the_entry_has_two_names(matchbox: Foreign) -> None:
    assert matchbox.answer("/boot.ipxe.0", "") == matchbox.answer("/boot.ipxe", "")


SELECTED: dict[str, tuple[str, str | None]] = {  # query, group
    "nothing said": ("", "default"),
    "a MAC in dashes and upper case": ("mac=52-54-00-A1-9C-AE&os=installed", "node1"),
    "a MAC of Cisco's": ("mac=5254.00a1.9cae&os=installed", "node1"),
    "a MAC without separators is none": ("mac=525400a19cae&os=installed", "default"),
    "half of the selectors": ("mac=52:54:00:a1:9c:ae", "default"),
    "a tie goes to the last of the alphabet": ("region=b&zone=z&area=z", "region-b"),
    "labels are compared by case": ("uuid=4c4c4544-0042-3510-8052-b4c04f4e3732", "default"),
    "a UUID as it is written": ("uuid=4C4C4544-0042-3510-8052-B4C04F4E3732", "upper"),
    "the first of two values": ("lost=yes&lost=no", "lost"),
    "the key mac in upper case is another label": ("MAC=52:54:00:a1:9c:ae&os=installed", "default"),
    "a plus is a space": ("region=b&zone=+z", "default"),
    "an escape that is none drops its pair": ("lost=yes%zz", "default"),
}


@pytest.mark.parametrize("query, group", SELECTED.values(), ids=SELECTED)
def test_selection(matchbox: Foreign, query: str, group: str) -> None:
    answer = matchbox.answer("/metadata", query)
    assert answer and answer.why == f"group {group}"


MISSING: dict[str, tuple[str, str, str]] = {  # path, query, why
    "a profile that there is not": ("/ipxe", "lost=yes", "group lost names the profile nowhere, which there is not"),
    "a document that the profile has not": ("/cloud", "", "profile install has no cloud file ''"),
    "a key that is missing": ("/generic", "region=b&zone=z", "generic/setup.cfg: line 1: map has no entry for key 'mac'"),
}


@pytest.mark.parametrize("path, query, why", MISSING.values(), ids=MISSING)
def test_what_is_missing_is_404_in_gos_words(matchbox: Foreign, path: str, query: str, why: str) -> None:
    answer = matchbox.answer(path, query)
    assert answer and (answer.status, answer.body, answer.why) == (404, b"404 page not found\n", why)


def test_without_a_default_nobody_is_let_in(tmp_path: Path) -> None:
    registry = Registry(str(tree(tmp_path, {name: text for name, text in FILES.items() if name != "groups/default.json"})))
    registry.load()
    assert registry.foreign
    for path in ("/ipxe", "/grub", "/ignition", "/cloud", "/generic", "/metadata"):
        answer = registry.foreign.answer(path, "mac=52:54:00:00:00:01")
        assert answer and answer.status == 404


def test_other_paths_are_not_matchboxs(matchbox: Foreign) -> None:
    assert matchbox.answer("/assets/x", "") is None and matchbox.answer("/done", "") is None


def test_a_butane_configuration(matchbox: Foreign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(butane, "program", lambda: None)
    answer = matchbox.answer("/ignition", NODE1)
    assert answer and (answer.status, "butane" in answer.why) == (404, True)
    fake = tmp_path / "butane"
    fake.write_text('#!/bin/sh\nprintf \'{"was":"%s"}\\n\' "$(tail -n 1)"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(butane, "program", lambda: str(fake))
    answer = matchbox.answer("/ignition", NODE1)
    assert answer and (answer.status, answer.content_type, answer.body) == (200, "application/json", b'{"was":"name: node1"}')


USER_DATA = {
    "a script": ("#!/bin/bash\necho hi\n", 200),
    "a cloud-config": ("#cloud-config  \na: 1\n", 200),
    "a cloud-config that is no YAML": ("#cloud-config\na: [\n", 404),
    "neither": ("hello\n", 404),
}


@pytest.mark.parametrize("text, status", USER_DATA.values(), ids=USER_DATA)
def test_user_data(tmp_path: Path, text: str, status: int) -> None:
    registry = Registry(str(tree(tmp_path, {**FILES, "cloud/cloud.yaml": text})))
    registry.load()
    assert registry.foreign
    answer = registry.foreign.answer("/cloud", NODE1)
    assert answer and answer.status == status


NOTES: dict[str, tuple[str, Any, str]] = {  # file, content, note
    "a group that is no JSON": ("groups/x.json", "{\n,", "$/groups/x.json:2: this is not JSON: Expecting property name enclosed in "
                                "double quotes. This file is left out until it is."),
    "a group that is a list": ("groups/x.json", [], "$/groups/x.json:1: this is not a JSON object. This file is left out until it is."),
    "a group without an id": ("groups/x.json", {"profile": "etcd"}, "$/groups/x.json: the group has no id. "
                              "This group is left out until it is mended."),
    "a group without a profile": ("groups/x.json", {"id": "x"}, "$/groups/x.json: the group names no profile. "
                                  "This group is left out until it is mended."),
    "a selector of numbers": ("groups/x.json", {"id": "x", "profile": "etcd", "selector": {"rack": 7}},
                              "$/groups/x.json: the selector is not a mapping of texts. This group is left out until it is mended."),
    "a selector's MAC": ("groups/x.json", {"id": "x", "profile": "etcd", "selector": {"mac": "zz"}},
                         "$/groups/x.json: 'zz' is not a MAC address. This group is left out until it is mended."),
    "metadata of the wrong kind": ("groups/x.json", {"id": "x", "profile": "etcd", "metadata": [1]},
                                   "$/groups/x.json: the metadata is not an object. This group is left out until it is mended."),
    "a profile without an id": ("profiles/x.json", {}, "$/profiles/x.json: the profile has no id. "
                                "This profile is left out until it is mended."),
    "a profile's initrd": ("profiles/x.json", {"id": "x", "boot": {"initrd": "a"}}, "$/profiles/x.json: a value of the profile is of the "
                           "wrong kind. This profile is left out until it is mended."),
    "a cmdline of old": ("profiles/x.json", {"id": "x", "boot": {"cmdline": {}}}, "$/profiles/x.json: boot.cmdline is of bootcfg's time "
                         "and not used. Write the arguments as a list, boot.args."),
    "a document that is not there": ("profiles/x.json", {"id": "x", "cloud_id": "c"}, "$/profiles/x.json: cloud_id names 'c', which does "
                                     "not exist. Put it into $/cloud."),
    "a template of another kind": ("generic/x", "\n{{template `a`}}", "$/generic/x:2: {{template}} is not supported. "
                                   "It is answered with 404 until it is mended."),
    "Ignition that is no JSON": ("ignition/x.ign", "{", "$/ignition/x.ign: this is not JSON (Expecting property name enclosed in double "
                                 "quotes: line 1 column 2 (char 1)). It is answered with 404 until it is mended."),
}  # fmt: skip


@pytest.mark.parametrize("name, content, note", NOTES.values(), ids=NOTES)
def test_a_bad_file_costs_itself_and_is_named(
    tmp_path: Path, name: str, content: Any, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(butane, "program", lambda: "butane")
    registry = Registry(str(tree(tmp_path, {**FILES, name: content})))
    registry.load()
    lost = f"{tmp_path}/groups/lost.json: profile 'nowhere' does not exist. Profiles live in {tmp_path}/profiles."
    assert sorted(map(str, registry.notes)) == sorted([lost, note.replace("$", str(tmp_path))])
    assert registry.foreign
    answer = registry.foreign.answer("/ipxe", NODE1)
    assert answer and answer.status == 200


def test_dhcp_and_explain_see_the_same_groups(registry: Registry) -> None:
    inventory = registry.current
    assert inventory.groups["node1"].match == {"mac": "52:54:00:a1:9c:ae", "os": "installed"}
    profile = inventory.profiles["install"]
    assert profile.kernel == "coreos/1967.3.0/coreos_production_pxe.vmlinuz"
    assert profile.initrd[1] == "http://x.example/two.gz"


def test_an_edit_is_in_force(registry: Registry, tmp_path: Path) -> None:
    assert not registry.changed()
    (tmp_path / "generic/setup.cfg").write_text("new\n")
    assert registry.changed() and registry.reload() is None and registry.foreign
    answer = registry.foreign.answer("/generic", NODE1)
    assert answer and answer.body == b"new\n"


def test_a_directory_of_our_own_is_not_taken_for_matchboxs(tmp_path: Path) -> None:
    tree(tmp_path, {"groups/g.yaml": "profile: menu\n", "profiles/p.yaml": "local: true\n"})
    assert not is_matchbox(tmp_path)
    tree(tmp_path, {"groups/g.json": "{}", "machines.yaml": ""})
    assert not is_matchbox(tmp_path)
    registry = Registry(str(tmp_path))
    assert "ends in .yaml" in str(registry.reload()) and registry.foreign is None


def test_answers_are_values() -> None:
    assert Answer(200, b"x") == Answer(200, b"x", "text/plain; charset=utf-8")
