"""Scripts and documents as machines fetch them, with each of the protocol classes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.httphost import MAC, PROTOCOLS, REGISTRY, SMALL, Host, answers, booting, serving


@pytest.fixture(scope="module", params=PROTOCOLS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with booting(tmp_path_factory.mktemp("http"), request.param) as running:
        yield running


ANSWERS = {  # path -> status, content type, what the body contains
    "the entry": ("/boot.ipxe", 200, "text/plain; charset=utf-8", b"chain ipxe?uuid=${uuid}&mac=${mac:hexhyp}"),
    "the entry under PXELINUX's name": ("/boot.ipxe.0", 200, "text/plain; charset=utf-8", b"#!ipxe\nchain ipxe?"),
    "a machine's script": (f"/ipxe?mac={MAC}", 200, "text/plain; charset=utf-8", b"http://192.0.2.1:8080/assets/vmlinuz"),
    "as GRUB configuration": (f"/grub?mac={MAC}", 200, "text/plain; charset=utf-8", b"linux "),
    "as PXELINUX configuration": (f"/pxelinux?mac={MAC}", 200, "text/plain; charset=utf-8", b"LABEL"),
    "a stranger gets the menu": ("/ipxe?mac=02:00:00:00:00:99", 200, "text/plain; charset=utf-8", b"menu pixieboot"),
    "what was picked in the menu": ("/ipxe?mac=020000000099&profile=linux", 200, "text/plain; charset=utf-8", b"/assets/vmlinuz"),
    "a pick where no menu was shown": (f"/ipxe?mac={MAC}&profile=other", 200, "text/plain; charset=utf-8", b"/assets/vmlinuz"),
    "the architecture of iPXE": (
        "/ipxe?mac=020000000099&arch=arm64&platform=efi",
        200,
        "text/plain; charset=utf-8",
        b"other/vmlinuz",
    ),
    "sent to its disk by 404": ("/ipxe?mac=02:00:00:00:00:01", 404, "text/plain; charset=utf-8", b"boot: local"),
    "Ignition": (f"/ignition?mac={MAC}", 200, "application/json", b'"role": "controller"'),
    "cloud-config": (f"/cloud?mac={MAC}", 200, "text/plain; charset=utf-8", b"hostname: web1"),
    "no generic in this profile": (f"/generic?mac={MAC}", 404, "text/plain; charset=utf-8", b"has no generic"),
    "metadata": (f"/metadata?mac={MAC}", 200, "text/plain; charset=utf-8", b"ROLE=controller\n"),
    "another template": (f"/files/kickstart?mac={MAC}", 200, "text/plain; charset=utf-8", b"# kickstart for 52:54:00:12:34:56\n"),
    "NoCloud user-data falls back to cloud": (f"/cloud-init/{MAC}/user-data", 200, "text/plain; charset=utf-8", b"hostname: web1"),
    "NoCloud meta-data": (f"/cloud-init/{MAC}/meta-data", 200, "text/plain; charset=utf-8", b"instance-id: 52:54:00:12:34:56\n"),
    "Pixiecore's API": (f"/v1/boot/{MAC}", 200, "application/json", b'"kernel": "http://192.0.2.1:8080/assets/vmlinuz"'),
    "bootcfg's path for it": (f"/pixiecore/v1/boot/{MAC}", 200, "application/json", b'"cmdline": "console=ttyS0"'),
    "Pixiecore leaves a local machine alone": ("/v1/boot/02:00:00:00:00:01", 404, "text/plain; charset=utf-8", b"boot: local"),
    "a mistake in a template": (
        "/ipxe?mac=02:00:00:00:00:03",
        500,
        "text/plain; charset=utf-8",
        b"templates/broken.ipxe.j2:2: vars.nothing",
    ),
    "a MAC that is none": ("/ipxe?mac=52:54:00:12:34", 400, "text/plain; charset=utf-8", b"not a MAC address such as"),
    "a MAC that is none, in a path": ("/cloud-init/x/user-data", 400, "text/plain; charset=utf-8", b"not a MAC address such as"),
}


@pytest.mark.parametrize("target, status, content_type, body", ANSWERS.values(), ids=ANSWERS)
def test_answer(host: Host, target: str, status: int, content_type: str, body: bytes) -> None:
    answers(host, target, status, content_type, body)


SPELLINGS = [
    "52:54:00:12:34:56",
    "52-54-00-12-34-56",
    "525400123456",
    "5254.0012.3456",
    "52%3A54%3A00%3A12%3A34%3A56",
    "52:54:00:12:34:56".upper(),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_spelling_of_a_mac(host: Host, spelling: str) -> None:
    for target in (
        f"/ipxe?mac={spelling}",
        f"/v1/boot/{spelling}",
        f"/ipxe?uuid=&mac={spelling}&mac=02:00:00:00:00:01",
        f"/ipxe?MAC={spelling}",
    ):
        assert b"assets/vmlinuz" in host.get(target).body, target


@pytest.mark.parametrize("part", ["vendor-data", "network-config"])
def test_absent_seed_parts_are_there_and_empty(host: Host, part: str) -> None:
    got = host.get(f"/cloud-init/{MAC}/{part}")
    assert (got.status, got.body) == (200, b"")


def test_pixiecore_answer_is_json(host: Host) -> None:
    spec = json.loads(host.get(f"/v1/boot/{MAC}").body)
    assert spec["initrd"] == ["http://192.0.2.1:8080/assets/initrd.gz"]


def test_who_asks_without_a_mac_is_known_by_the_address_of_its_last_script(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        (host.context.settings.assets / "small.bin").write_bytes(SMALL)
        assert b"menu pixieboot" in host.get("/ipxe").body
        host.get(f"/ipxe?mac={MAC}")
        assert b"assets/vmlinuz" in host.get("/ipxe").body
        host.events.clear()
        host.get("/assets/small.bin")
        assert [(event.mac, event.kind) for event in host.heard(1)] == [(MAC, "sent")]


def test_ignored_machines_get_404(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY, unknown="ignore") as host:
        for target in (
            "/ipxe?mac=02:00:00:00:00:99",
            "/grub?mac=020000000099",
            "/v1/boot/02:00:00:00:00:99",
            "/ignition?mac=020000000099",
        ):
            got = host.get(target)
            assert (got.status, b"unknown machines get no boot data (unknown: ignore)" in got.body) == (404, True), target
        assert host.get(f"/ipxe?mac={MAC}").status == 200
