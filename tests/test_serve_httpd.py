"""HTTP as machines need it, on real sockets: each rule of it (RFC 9110, RFC 9112) against each of the protocol classes."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from pixieboot.errors import OperatorError
from pixieboot.model import Mac, Network
from pixieboot.registry import sqlite
from pixieboot.serve import httpd, parsers
from pixieboot.serve.httpd import HttpService
from pixieboot.serve.zerocopy_h11 import H11Protocol, ZeroCopyH11
from tests import netns
from tests.httphost import ETH7, Host, Response, serving, settle

MAC = "52:54:00:12:34:56"
REGISTRY = {
    "machines.yaml": f"web1: {{mac: {MAC}, profile: linux, vars: {{role: controller}}}}\n"
    "disk1: {mac: 02:00:00:00:00:01, boot: local, local_boot: http404}\n"
    "once1: {mac: 02:00:00:00:00:02, profile: linux, boot: once}\n"
    "bad1: {mac: 02:00:00:00:00:03, profile: broken}\n",
    "profiles.yaml": "linux:\n  kernel: vmlinuz\n  initrd: [initrd.gz]\n  args: [console=ttyS0]\n  ignition: worker.ign.j2\n"
    "  cloud: cloud.yaml.j2\n  files: {kickstart: el.ks.j2, meta-data: meta.j2}\n"
    "broken: {script: broken.ipxe.j2}\nother: {kernel: other/vmlinuz}\n",
    "groups.yaml": "arm: {match: {arch: arm64-efi}, profile: other}\n",
    "templates/worker.ign.j2": '{"ignition": {"version": "3.4.0"}, "role": "{{ vars.role }}"}',
    "templates/cloud.yaml.j2": "#cloud-config\nhostname: {{ machine.name }}\n",
    "templates/el.ks.j2": "# kickstart for {{ client.mac }}\n",
    "templates/meta.j2": "instance-id: {{ client.mac }}\n",
    "templates/broken.ipxe.j2": "#!ipxe\necho {{ vars.nothing }}\n",
}
BIG = os.urandom(3_000_001)
SMALL = os.urandom(3000)
IMF_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
PROTOCOLS = {"httptools": getattr(parsers, "ZeroCopyHttpTools", None), "h11": ZeroCopyH11, "plain": H11Protocol}


@pytest.fixture(scope="module", params=["httptools", "h11", "plain"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    protocol = PROTOCOLS[request.param]
    if protocol is None:
        pytest.skip("httptools is not installed")
    directory = tmp_path_factory.mktemp("http")
    (directory / "assets/images").mkdir(parents=True)
    (directory / "tftp").mkdir()
    files = {
        "assets/big.bin": BIG,
        "assets/small.bin": SMALL,
        "assets/empty": b"",
        "assets/images/a b+c%.img": b"odd name",
        "tftp/snp.efi": SMALL,
        "tftp/pxelinux": b"pxelinux",
        "secret": b"outside",
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / "assets/inside").symlink_to("images/a b+c%.img")
    (directory / "assets/outside").symlink_to("../secret")
    os.mkfifo(directory / "assets/fifo")
    with serving(directory, protocol, REGISTRY) as running:
        yield running


# --- what is answered ----------------------------------------------------------------------------------------------------

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
    "health": ("/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
    "an asset": ("/assets/small.bin", 200, "application/octet-stream", SMALL),
    "an asset under the old name": ("/images/small.bin", 200, "application/octet-stream", SMALL),
    "a name with everything": ("/assets/images/a%20b+c%25.img", 200, "application/vnd.efi-img", b"odd name"),
    "a link inside assets": ("/assets/inside", 200, "application/octet-stream", b"odd name"),
    "an EFI program": ("/tftp/snp.efi", 200, "application/efi", SMALL),
    "below the MAC directory": ("/tftp/52-54-00-12-34-56/snp.efi", 200, "application/efi", SMALL),
    "a name to which .0 was added": ("/tftp/pxelinux.0", 200, "application/octet-stream", b"pxelinux"),
    "a rendered path of the TFTP tree": (
        "/tftp/pxelinux.cfg/01-52-54-00-12-34-56",
        200,
        "text/plain; charset=utf-8",
        b"/assets/vmlinuz",
    ),
    "absolute form": ("http://192.0.2.1:8080/assets/small.bin", 200, "application/octet-stream", SMALL),
    "absolute form, wrong host, capitals": ("HTTP://elsewhere/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
    "double slashes": ("//assets///small.bin", 200, "application/octet-stream", SMALL),
    "dots": ("/./assets/./small.bin", 200, "application/octet-stream", SMALL),
    "an encoded slash": ("/assets%2Fsmall.bin", 200, "application/octet-stream", SMALL),
    "encoded letters": ("/%61ssets/sm%61ll.bin", 200, "application/octet-stream", SMALL),
    "encoded once only": ("/assets/small%252Ebin", 404, "text/plain; charset=utf-8", b"No such file"),
    "no such asset": ("/assets/none", 404, "text/plain; charset=utf-8", b"/assets/none: "),
    "no listing": ("/assets/", 404, "text/plain; charset=utf-8", b""),
    "no such path": ("/nothing", 404, "text/plain; charset=utf-8", b"there is no such path"),
    "a FIFO": ("/assets/fifo", 403, "text/plain; charset=utf-8", b"not a regular file"),
    "a link out of assets": ("/assets/outside", 403, "text/plain; charset=utf-8", b"leaves the root"),
    "out by dots": ("/assets/../secret", 400, "text/plain; charset=utf-8", b".. in the path"),
    "out by encoded dots": ("/assets/%2e%2e/secret", 400, "text/plain; charset=utf-8", b".. in the path"),
    "out by a backslash": ("/assets/..%5csecret", 400, "text/plain; charset=utf-8", b"backslash"),
    "NUL": ("/assets/small.bin%00.txt", 400, "text/plain; charset=utf-8", b"control character"),
    "overlong UTF-8": ("/assets/%c0%ae%c0%ae/secret", 400, "text/plain; charset=utf-8", b"not UTF-8"),
    "a MAC that is none": ("/ipxe?mac=52:54:00:12:34", 400, "text/plain; charset=utf-8", b"not a MAC address such as"),
    "a MAC that is none, in a path": ("/cloud-init/x/user-data", 400, "text/plain; charset=utf-8", b"not a MAC address such as"),
}


@pytest.mark.parametrize("target, status, content_type, body", ANSWERS.values(), ids=ANSWERS)
def test_answer(host: Host, target: str, status: int, content_type: str, body: bytes) -> None:
    got = host.get(target)
    assert (got.status, got["content-type"]) == (status, content_type)
    assert body in got.body
    lawful(got)


@pytest.mark.parametrize("target", [case[0] for case in ANSWERS.values()], ids=ANSWERS)
def test_head_is_get_without_body(host: Host, target: str) -> None:
    with host.connect() as wire:
        wire.send(f"GET {target} HTTP/1.1\nHost: x")
        got = wire.response()
        wire.send(f"HEAD {target} HTTP/1.1\nHost: x")
        head = wire.response(head=True)
        wire.send("GET /healthz HTTP/1.1\nHost: x")  # a body after HEAD would stand here
        assert wire.response().body == b"ok\n"
    assert without_date(head) == without_date(got)


def lawful(got: Response) -> None:
    """What holds for every reply."""
    assert all(re.fullmatch(r"([A-Z][a-z]*|ETag)(-[A-Z][a-z]*)*", name) for name in got.names), got.names
    assert len(set(got.names)) == len(got.names)
    assert int(got["content-length"]) == len(got.body)
    assert IMF_DATE.fullmatch(got["date"])
    assert not {"server", "location", "transfer-encoding", "content-encoding"} & set(got.headers)
    assert all(got.headers.values())  # an empty value locks up EDK2 (edk2 #7443)


def without_date(got: Response) -> bytes:
    return re.sub(rb"Date: [^\r]*\r\n", b"", got.raw_head)


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


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST"])
@pytest.mark.parametrize("target", ["/assets/small.bin", f"/ipxe?mac={MAC}", "/nothing", "/tftp/snp.efi"])
def test_read_only(host: Host, method: str, target: str) -> None:
    with host.connect() as wire:
        wire.send(f"{method} {target} HTTP/1.1\nHost: x\nContent-Length: 0")
        got = wire.response()
        assert (got.status, got["allow"]) == (405, "HEAD, GET")
        lawful(got)


@pytest.mark.parametrize("request_line", ["GET /done?mac={}", "POST /done?mac={}", "POST /done?mac={}&x=1"])
def test_done_ends_once(host: Host, request_line: str) -> None:
    mac = "02:00:00:00:00:02"
    host.call(lambda: host.context.store.set_state("once1", host.context.store.state("nobody")))
    assert b"assets/vmlinuz" in host.get(f"/ipxe?mac={mac}").body
    before = time.time()
    told = host.context.journal.counts.get(("http", "done"), 0)
    got = host.ask(request_line.format(mac) + " HTTP/1.1\nHost: x\nContent-Length: 0")
    assert (got.status, got.body) == (200, b"done\n")
    assert before <= host.context.store.state("once1").done <= time.time()
    assert host.context.journal.counts["http", "done"] == told + 1
    assert "done" in [event.kind for event in host.context.journal.timeline(Mac(mac))]
    script = host.get(f"/ipxe?mac={mac}")
    assert b"assets/vmlinuz" not in script.body and script.status == 200


def test_made_up_machines_that_are_done_do_not_fill_the_state(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.call(lambda: host.context.store.set_state("once1", host.context.store.state("nobody")))
    monkeypatch.setattr(sqlite, "DISCOVERED", len(host.context.store.states()) + 2)
    statuses = [host.get(f"/done?mac=06:00:00:00:00:0{number}").status for number in range(4)]
    assert statuses == [200, 200, 503, 503]
    assert host.get("/done?mac=06:00:00:00:00:00").status == 200, "there is room for it already"
    assert host.get("/done?mac=02:00:00:00:00:02").status == 200, "it is described"


def test_head_of_done_changes_nothing(host: Host) -> None:
    host.call(lambda: host.context.store.set_state("once1", host.context.store.state("nobody")))
    assert host.ask("HEAD /done?mac=02:00:00:00:00:02 HTTP/1.1\nHost: x").status == 200
    assert host.context.store.state("once1").done == 0


def test_who_asks_without_a_mac_is_known_by_the_address_of_its_last_script(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        (host.context.settings.assets / "small.bin").write_bytes(SMALL)
        assert b"menu pixieboot" in host.get("/ipxe").body
        host.get(f"/ipxe?mac={MAC}")
        assert b"assets/vmlinuz" in host.get("/ipxe").body
        host.events.clear()
        host.get("/assets/small.bin")
        assert [(event.mac, event.kind) for event in host.heard(1)] == [(MAC, "sent")]


def test_an_edit_is_in_the_next_script(host: Host) -> None:
    """Rendered scripts are remembered; never beyond what they were made of."""
    assert b"assets/other" not in host.get(f"/ipxe?mac={MAC}").body
    old = host.context.store.state("web1")
    host.call(lambda: host.context.store.set_state("web1", replace(old, profile="other")))
    assert b"assets/other" in host.get(f"/ipxe?mac={MAC}").body
    host.call(lambda: host.context.store.set_state("web1", old))
    assert b"assets/other" not in host.get(f"/ipxe?mac={MAC}").body


@pytest.mark.parametrize("longer", [0, 30_000], ids=["many requests", "long requests"])
def test_remembered_scripts_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: int) -> None:
    monkeypatch.setattr(httpd, "REMEMBERED", 400_000)
    with serving(tmp_path, ZeroCopyH11, REGISTRY) as host, host.connect() as wire:
        for number in range(200):
            wire.send(f"GET /ipxe?mac={MAC}&number={number}{'x' * longer} HTTP/1.1\nHost: x")
            assert wire.response().status == 200
        kept = host.service._remembered
        assert sum(len(key[0]) + len(known.response[1]) for key, known in kept.items()) < 400_000
        assert bool(kept) == (not longer)


def test_events(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        (host.context.settings.assets / "big.bin").write_bytes(BIG)
        host.get(f"/ipxe?mac={MAC}")
        host.get("/assets/big.bin")
        host.get("/assets/none")
        script, started, sent, missing = host.heard(4)
    assert (script.kind, script.mac, script.detail["profile"], script.detail["status"]) == ("script", MAC, "linux", 200)
    assert script.detail["path"] == "/ipxe" and "its own profile linux" in script.detail["why"]
    assert (started.kind, started.detail["bytes"], started.level) == ("started", len(BIG), "debug")
    assert (sent.kind, sent.detail["bytes"], sent.detail["path"], sent.mac) == ("sent", len(BIG), "/assets/big.bin", MAC)
    assert sent.detail["seconds"] > 0
    assert (missing.kind, missing.detail["path"]) == ("missing", "/assets/none")


def test_done_wants_to_know_who(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        got = host.get("/done")
        assert (got.status, got.body) == (400, b"Which machine is done? Add ?mac=52:54:00:12:34:56 to the address.\n")
        host.get(f"/ipxe?mac={MAC}")
        assert host.get("/done").status == 200  # known by its address now
        assert host.context.store.state("web1").done


# --- files: ranges and conditions ----------------------------------------------------------------------------------------

SIZE = len(BIG)
RANGES = {  # Range -> status, first, end
    "a-b": ("bytes=0-99", 206, 0, 100),
    "one byte": ("bytes=5-5", 206, 5, 6),
    "a-b, large": ("bytes=100-2000000", 206, 100, 2000001),
    "a-b beyond the end": ("bytes=2999990-9999999", 206, 2999990, SIZE),
    "a-": ("bytes=2000000-", 206, 2000000, SIZE),
    "a-, the last byte": (f"bytes={SIZE - 1}-", 206, SIZE - 1, SIZE),
    "-n": ("bytes=-10", 206, SIZE - 10, SIZE),
    "-n, more than there is": ("bytes=-99999999", 206, 0, SIZE),
    "capitals and spaces": ("Bytes= 1-2", 206, 1, 3),
    "beyond": (f"bytes={SIZE}-", 416, 0, 0),
    "beyond, closed": (f"bytes={SIZE}-{SIZE + 5}", 416, 0, 0),
    "the last no bytes": ("bytes=-0", 416, 0, 0),
    "several": ("bytes=0-1,5-6", 200, 0, SIZE),
    "backwards": ("bytes=9-5", 200, 0, SIZE),
    "nonsense of iPXE's sanboot": ("bytes=u-u", 200, 0, SIZE),
    "nothing": ("bytes=-", 200, 0, SIZE),
    "signs": ("bytes=+1-2", 200, 0, SIZE),
    "other digits": ("bytes=1_0-20", 200, 0, SIZE),
    "another unit": ("lines=1-2", 200, 0, SIZE),
    "no unit": ("1-2", 200, 0, SIZE),
}


@pytest.mark.parametrize("wanted, status, first, end", RANGES.values(), ids=RANGES)
def test_range(host: Host, wanted: str, status: int, first: int, end: int) -> None:
    with host.connect() as wire:
        wire.send(f"GET /assets/big.bin HTTP/1.1\nHost: x\nRange: {wanted}")
        got = wire.response()
        wire.send(f"HEAD /assets/big.bin HTTP/1.1\nHost: x\nRange: {wanted}")
        assert without_date(wire.response(head=True)) == without_date(got)
    assert got.status == status
    assert got["accept-ranges"] == "bytes"
    lawful(got)
    if status == 416:
        assert got["content-range"] == f"bytes */{SIZE}"
    else:
        assert got.body == BIG[first:end]
        assert got.headers.get("content-range") == (f"bytes {first}-{end - 1}/{SIZE}" if status == 206 else None)


def test_an_empty_file(host: Host) -> None:
    got = host.get("/assets/empty")
    assert (got.status, got["content-length"], got.body) == (200, "0", b"")
    assert host.get("/assets/empty", Range="bytes=0-").status == 416
    assert host.get("/assets/empty", Range="bytes=-5")["content-range"] == "bytes */0"


CONDITIONS = {  # headers with E for our ETag, D for our date -> status, whole
    "If-Match, same": ({"If_Match": "E"}, 200),
    "If-Match, among others": ({"If_Match": '"a", E'}, 200),
    "If-Match, any": ({"If_Match": "*"}, 200),
    "If-Match, other": ({"If_Match": '"a"'}, 412),
    "If-Match, weak": ({"If_Match": "W/E"}, 412),
    "If-Match of EDK2 that resumes": ({"If_Match": "E", "Range": "bytes=100-"}, 206),
    "If-Match of EDK2, file replaced": ({"If_Match": '"old"', "Range": "bytes=100-"}, 412),
    "If-Unmodified-Since, same": ({"If_Unmodified_Since": "D", "Range": "bytes=100-"}, 206),
    "If-Unmodified-Since, older": ({"If_Unmodified_Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 412),
    "If-Unmodified-Since counts not beside If-Match": (
        {"If_Match": "E", "If_Unmodified_Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
        200,
    ),
    "If-Unmodified-Since, no date": ({"If_Unmodified_Since": "yesterday"}, 200),
    "If-None-Match, same": ({"If_None_Match": "E"}, 304),
    "If-None-Match, weak": ({"If_None_Match": "W/E"}, 304),
    "If-None-Match, any": ({"If_None_Match": "*"}, 304),
    "If-None-Match, other": ({"If_None_Match": '"a"'}, 200),
    "If-None-Match before Range": ({"If_None_Match": "E", "Range": "bytes=1-2"}, 304),
    "If-Modified-Since, same": ({"If_Modified_Since": "D"}, 304),
    "If-Modified-Since, older": ({"If_Modified_Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
    "If-Modified-Since counts not beside If-None-Match": ({"If_None_Match": '"a"', "If_Modified_Since": "D"}, 200),
    "If-Range, same": ({"If_Range": "E", "Range": "bytes=1-2"}, 206),
    "If-Range, other": ({"If_Range": '"a"', "Range": "bytes=1-2"}, 200),
    "If-Range, weak": ({"If_Range": "W/E", "Range": "bytes=1-2"}, 200),
    "If-Range, our date": ({"If_Range": "D", "Range": "bytes=1-2"}, 206),
    "If-Range, later date": ({"If_Range": "Sat, 01 Jan 2050 00:00:00 GMT", "Range": "bytes=1-2"}, 200),
}


@pytest.mark.parametrize("headers, status", CONDITIONS.values(), ids=CONDITIONS)
def test_condition(host: Host, headers: dict[str, str], status: int) -> None:
    known = host.ask("HEAD /assets/big.bin HTTP/1.1\nHost: x")
    filled = {
        name: value.replace("E", known["etag"]) if name in ("If_Match", "If_None_Match", "If_Range") and "E" in value else value
        for name, value in headers.items()
    }
    filled = {name: known["last-modified"] if value == "D" else value for name, value in filled.items()}
    got = host.get("/assets/big.bin", **filled)
    assert got.status == status
    assert got["etag"] == known["etag"]
    if status == 304:
        assert got.body == b"" and "content-type" not in got.headers
    if status == 200:
        assert got.body == BIG


def test_a_replaced_file_has_another_etag(host: Host) -> None:
    path = host.context.settings.assets / "changing"
    path.write_bytes(b"one")
    first = host.get("/assets/changing")["etag"]
    assert first.startswith('"') and first == host.get("/assets/changing")["etag"]
    path.with_suffix(".new").write_bytes(b"two")
    os.utime(path.with_suffix(".new"), ns=(1, path.stat().st_mtime_ns))
    path.with_suffix(".new").rename(path)
    assert host.get("/assets/changing")["etag"] != first  # same size, same time: the inode tells


# --- connections ---------------------------------------------------------------------------------------------------------


def test_keep_alive(host: Host) -> None:
    with host.connect() as wire:
        for target in (f"/ipxe?mac={MAC}", "/assets/big.bin", "/nothing", "/assets/small.bin", "/boot.ipxe") * 2:
            wire.send(f"GET {target} HTTP/1.1\nHost: x\nConnection: keep-alive")
            got = wire.response()
            assert "connection" not in got.headers
            lawful(got)


def test_pipelined_requests_are_answered_in_order(host: Host) -> None:
    targets = ["/assets/big.bin", f"/ipxe?mac={MAC}", "/assets/small.bin", "/nothing", "/boot.ipxe", "/assets/big.bin", "/healthz"]
    alone = [host.get(target).body for target in targets]
    with host.connect() as wire:
        wire.send(b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets))
        assert [wire.response().body for _ in targets] == alone


def test_a_request_in_single_bytes(host: Host) -> None:
    with host.connect() as wire:
        for octet in b"GET /assets/small.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\n":
            wire.send(bytes([octet]))
        assert wire.response().body == SMALL[1:3]


def test_http_1_0_without_host_closes_after_the_reply(host: Host) -> None:
    for target in ("/assets/big.bin", "/boot.ipxe", f"/ipxe?mac={MAC}"):
        with host.connect() as wire:
            wire.send(f"GET {target} HTTP/1.0")
            got = wire.response()
            assert got.status == 200 and got["connection"] == "close"
            lawful(got)
            assert wire.closed()


def test_connection_close_is_honoured(host: Host) -> None:
    for target in ("/assets/big.bin", "/boot.ipxe", f"/ipxe?mac={MAC}"):
        with host.connect() as wire:
            wire.send(f"GET {target} HTTP/1.1\nHost: x\nConnection: close")
            got = wire.response()
            assert got["connection"] == "close"
            assert wire.closed()


def test_half_closed_clients_get_their_answer(host: Host, request: pytest.FixtureRequest) -> None:
    if "plain" in request.node.name:
        pytest.skip("uvicorn's own class closes at once; ours replaces it wherever its hooks work")
    with host.connect() as wire:
        wire.send("GET /assets/big.bin HTTP/1.1\nHost: x")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.response().body == BIG
        assert wire.closed()


REFUSED = {
    "length and chunks": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths that differ": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a length with a sign": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
    "a length with other digits": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\nabcd",
    "a negative length": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "chunks in HTTP/1.0": "POST /done HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": "POST /done HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a coding around chunks": "POST /done HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding spelt nearly so": "POST /done HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no length": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n",
    "a length beyond all bounds": "POST /done HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nx",
    "a line break that is none": "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\rContent-Length: 5\r\n\r\n",
    "a space in the target": "GET /heal thz HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.2": "GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n",
    "no Host": "GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "space before the colon": "GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "no version": "GET /healthz\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "NUL in a header": "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED)
def test_refused_and_closed(host: Host, request_bytes: str, request: pytest.FixtureRequest) -> None:
    if "plain" in request.node.name:
        pytest.skip("uvicorn's own class is the last resort: it has its own rules")
    with host.connect() as wire:
        wire.send(request_bytes.encode("latin-1"))
        got = wire.response()
        assert got.status in (400, 501) and got["connection"] == "close"
        assert re.fullmatch(rb"[A-Z][^\n]*\.\n", got.body), got.body
        assert all(name[0].isupper() for name in got.names)
        assert wire.closed()
    assert host.get("/healthz").status == 200


@pytest.mark.parametrize("size", ["+5", "0x5", "5 ;", "-1"])
def test_chunks_with_another_size_than_one_reads_end_the_connection(host: Host, size: str, request: pytest.FixtureRequest) -> None:
    if "plain" in request.node.name:
        pytest.skip("uvicorn's own class is the last resort: it has its own rules")
    with host.connect() as wire:
        wire.send(
            f"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0".encode() + b"\r\n\r\n"
        )
        assert wire.response().status in (400, 405)  # the path is told wrong before the body is looked at, or the body first
        wire.socket.settimeout(5)
        rest = wire.rest
        with suppress(ConnectionResetError):
            while piece := wire.socket.recv(4096):
                rest += piece
        assert b"hello" not in rest and b" 200 " not in rest


def test_a_body_is_no_request(host: Host) -> None:
    body = "GET /assets/small.bin HTTP/1.1\r\nHost: x\r\n\r\n"
    with host.connect() as wire:
        for method, status in (("GET", 200), ("POST", 405)):
            wire.send(f"{method} /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            assert wire.response().status == status
        wire.send("GET /boot.ipxe HTTP/1.1\nHost: x")
        assert wire.response().body.startswith(b"#!ipxe")


@pytest.mark.parametrize("spread", ["one header", "many headers", "the target", "without an end", "without an end, slowly"])
def test_heads_of_more_than_32_kib_are_refused(host: Host, spread: str, request: pytest.FixtureRequest) -> None:
    if "plain" in request.node.name:
        pytest.skip("uvicorn's own class has its own limit")
    filler = {
        "one header": "X: " + "a" * 70000 + "\r\n\r\n",
        "many headers": "".join(f"X-{number}: {'b' * 100}\r\n" for number in range(700)) + "\r\n",
        "the target": "\r\n",
        "without an end": "X: " + "a" * 700000,
        "without an end, slowly": "X: " + "a" * 70000,
    }[spread]
    target = "/" + "t" * 70000 if spread == "the target" else "/healthz"
    with host.connect() as wire:
        data = f"GET {target} HTTP/1.1\r\nHost: x\r\n{filler}".encode()
        try:
            for at in range(0, len(data), 4096 if "slowly" in spread else len(data)):
                wire.socket.sendall(data[at : at + (4096 if "slowly" in spread else len(data))])
                time.sleep(0.001)
        except ConnectionError:
            return  # closed while we were still talking: as good
        assert wire.response().status == 431
        assert wire.closed()


def test_an_expected_body_is_not_asked_for_where_it_is_not_wanted(host: Host) -> None:
    with host.connect() as wire:
        wire.send("POST /done?mac=02:00:00:00:00:02 HTTP/1.1\nHost: x\nContent-Length: 5\nExpect: 100-continue")
        assert wire.response().status == 200


def test_a_body_is_read_past(host: Host) -> None:
    with host.connect() as wire:
        wire.send(b"POST /done?mac=02:00:00:00:00:02 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert wire.response().status == 200
        wire.send(
            b"POST /done?mac=02:00:00:00:00:02 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        )
        assert wire.response().status == 200
        wire.send("GET /healthz HTTP/1.1\nHost: x")
        assert wire.response().body == b"ok\n"


TYPES = {  # extension -> Content-Type; EDK2's HTTP Boot knows the first three (HttpBootSupport.c)
    ".efi": "application/efi",
    ".EFI": "application/efi",
    ".iso": "application/vnd.efi-iso",
    ".img": "application/vnd.efi-img",
    ".ipxe": "text/plain; charset=utf-8",
    ".cfg": "text/plain; charset=utf-8",
    ".ign": "application/json",
    ".gz": "application/octet-stream",
    "": "application/octet-stream",
}


@pytest.mark.parametrize("extension, content_type", TYPES.items(), ids=TYPES)
@pytest.mark.parametrize("tree", ["assets", "tftp"])
def test_content_type(host: Host, tree: str, extension: str, content_type: str) -> None:
    settings = host.context.settings
    ((settings.assets if tree == "assets" else settings.tftp.root) / f"type{extension}").write_bytes(SMALL)
    got = host.ask(f"GET /{tree}/type{extension} HTTP/1.1\nHost: x\nAccept-Encoding: gzip, br")
    assert (got.body, got["content-type"]) == (SMALL, content_type)
    lawful(got)


def test_a_websocket_is_not_had(host: Host) -> None:
    with host.connect() as wire:
        wire.send("GET /healthz HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13")
        assert wire.response().status == 200


# --- clients with rules of their own -------------------------------------------------------------------------------------


def test_edk2_http_boot(host: Host) -> None:
    """HEAD, then GET on the same connection; sizes its memory by HEAD; takes no redirect, no chunks, no empty header value."""
    request = "{} /tftp/52-54-00-12-34-56/snp.efi HTTP/1.1\nHost: 127.0.0.1:8080\nAccept: */*\nUser-Agent: UefiHttpBoot/1.0"
    with host.connect() as wire:
        wire.send(request.format("HEAD"))
        head = wire.response(head=True)
        wire.send(request.format("GET"))
        got = wire.response()
    assert head.status == got.status == 200
    assert head["content-length"] == got["content-length"] == str(len(SMALL))
    assert got["content-type"] == "application/efi"
    assert got.body == SMALL
    lawful(got)


def test_grub_2_06(host: Host) -> None:
    """Reads line by line; knows `HTTP/1.1 CODE`, `Content-Length: ` and `Transfer-Encoding: chunked` in exactly this case."""
    with host.connect() as wire:
        wire.send("GET /assets/big.bin HTTP/1.1\nHost: 127.0.0.1\nUser-Agent: GRUB 2.06-13+deb12u1\nRange: bytes=0-")
        lines = wire.response().raw_head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 20")
    assert [int(line[16:]) for line in lines if line.startswith(b"Content-Length: ")] == [SIZE]


def test_ipxe(host: Host) -> None:
    """One connection for each script and file, with its own headers."""
    for target in ("/boot.ipxe", f"/ipxe?uuid=&mac={MAC}&domain=&hostname=&serial=&arch=x86_64&platform=efi", "/assets/big.bin"):
        got = host.ask(f"GET {target} HTTP/1.1\nConnection: keep-alive\nUser-Agent: iPXE/1.21.1+git\nHost: 127.0.0.1:8080")
        assert got.status == 200 and int(got["content-length"]) == len(got.body)


CURL = {
    "whole": ([], BIG),
    "a range": (["-r", "1000-2000000"], BIG[1000:2000001]),
    "the end": (["-r", "-1234567"], BIG[-1234567:]),
    "HTTP/1.0": (["--http1.0"], BIG),
    "as slow as 20 MB/s": (["--limit-rate", "20M"], BIG),
    "compression offered": (["--compressed"], BIG),
}


@pytest.mark.parametrize("options, body", CURL.values(), ids=CURL)
def test_curl(host: Host, options: list[str], body: bytes) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = f"http://127.0.0.1:{host.port}/assets/big.bin"
    assert subprocess.run(["curl", "-sSf", *options, url], capture_output=True, check=True, timeout=20).stdout == body


def test_curl_resumes(host: Host, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "part").write_bytes(BIG[:777_777])
    url = f"http://127.0.0.1:{host.port}/assets/big.bin"
    subprocess.run(["curl", "-sSf", "-C", "-", "-o", tmp_path / "part", url], check=True, timeout=20)
    assert (tmp_path / "part").read_bytes() == BIG


def test_pixiecore_answer_is_json(host: Host) -> None:
    spec = json.loads(host.get(f"/v1/boot/{MAC}").body)
    assert spec["initrd"] == ["http://192.0.2.1:8080/assets/initrd.gz"]


# --- strangers -----------------------------------------------------------------------------------------------------------


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


def test_only_served_interfaces_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as host:
        admits = host.service.admits
        assert admits("127.0.0.1", 1) and admits("192.0.2.1", 7) and admits("192.0.2.1", 1) and admits("192.0.2.1", None)
        assert not admits("198.51.100.1", 9)
        assert not admits("192.0.2.1", 9)  # our address, but asked by another interface
        second = replace(ETH7, addresses=(*ETH7.addresses, IPv4Interface("198.51.100.1/24")))
        host.call(lambda: host.context.sites.links.update({7: second}))
        assert admits("198.51.100.1", 7)


def test_without_a_network_only_health_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, networks=(Network(interface="eth9"),)) as host:
        assert host.get("/healthz").status == 200
        got = host.get(f"/ipxe?mac={MAC}")
        assert (got.status, got.body) == (503, b"No network is served yet: `pixieboot doctor` says why.\n")


def test_a_taken_port_is_named_with_its_holder(tmp_path: Path) -> None:
    with serving(tmp_path) as host:
        other = HttpService(host.context)
        host.context.settings = replace(host.context.settings, http=replace(host.context.settings.http, port=host.port))
        with pytest.raises(OperatorError, match=f"TCP port {host.port}"):
            other.bind()


@pytest.mark.slow
@pytest.mark.needs_root
def test_only_served_interfaces_are_answered_on_a_real_wire() -> None:
    """Nobody is answered who comes in by a link that is not served, whichever address of ours it asks."""
    served, unserved = "10.77.0.1", "10.99.0.1"
    # Not pytest's tmp_path: the daemon reads its files as its own user, for whom that is closed.
    with TemporaryDirectory(prefix="pixieboot-http-") as name, netns.Network("http") as network:
        directory = Path(name)
        for path in (directory, directory / "registry", directory / "state"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        (directory / "pixieboot.yaml").write_text(
            f"networks: [{{interface: eth0, dhcp: proxy}}]\nregistry: {name}/registry\nstate: sqlite:{name}/state/state.db\n"
        )
        first, second = network.switch("first"), network.switch("second")
        server, near = first.host("server", f"{served}/24"), first.host("near", "10.77.0.2/24")
        second.plug(server, "eth1", f"{unserved}/24")
        far = second.host("far", "10.99.0.2/24")
        far.ip("route", "add", served, "via", unserved)
        near.ip("route", "add", unserved, "via", served)

        def asked(host: Any, address: str) -> tuple[int, str]:
            got = host.run("curl", "-s", "--max-time", "3", f"http://{address}:8080/healthz", check=False)
            return got.returncode, got.stdout

        daemon = server.start(
            sys.executable, "-m", "pixieboot", "serve", "-c", f"{name}/pixieboot.yaml", cwd=Path(__file__).parent.parent
        )
        try:
            deadline = time.monotonic() + 15
            while asked(server, "127.0.0.1")[0] and time.monotonic() < deadline:
                time.sleep(0.1)
            answers = {
                "near, at the served address": asked(near, served),
                "near, at the other address": asked(near, unserved)[1],
                "far, at its own link's address": asked(far, unserved)[1],
                "far, at the served address": asked(far, served)[1],
                "the host itself": asked(server, served),
            }
        finally:
            server.stop(daemon)
    assert answers == {
        "near, at the served address": (0, "ok\n"),
        "near, at the other address": "",
        "far, at its own link's address": "",
        "far, at the served address": "",
        "the host itself": (0, "ok\n"),
    }


# --- what is no boot path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [PROTOCOLS["httptools"], PROTOCOLS["h11"]], ids=["httptools", "h11"])
def test_other_applications(tmp_path: Path, protocol: type[asyncio.Protocol] | None) -> None:
    """The API's answers get our header names and date; a stream's head does not wait for its first words."""
    if protocol is None:
        pytest.skip("httptools is not installed")
    go_on = threading.Event()

    async def words() -> AsyncIterator[bytes]:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        yield b"data: 1\n\n"

    rest = Starlette(
        routes=[
            Route("/ui/", lambda request: PlainTextResponse("page", headers={"x-frame-options": "DENY"})),
            Route("/stream", lambda request: StreamingResponse(words(), media_type="text/event-stream")),
        ]
    )
    with serving(tmp_path, protocol, rest=rest) as host:
        got = host.get("/ui/")
        assert (got.status, got.body) == (200, b"page")
        assert set(got.names) == {"Date", "Content-Length", "Content-Type", "X-Frame-Options"}
        lawful(got)
        assert host.get("/boot.ipxe").body.startswith(b"#!ipxe")
        assert host.get("/other").status == 404
        with host.connect() as wire:
            wire.send("GET /stream HTTP/1.1\nHost: x")
            head = wire.socket.recv(4096)
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head and head.endswith(b"\r\n\r\n")
            go_on.set()
            rest_of_it = b""
            while not rest_of_it.endswith(b"0\r\n\r\n"):
                rest_of_it += wire.socket.recv(4096)
            assert rest_of_it == b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"
            wire.send("GET /healthz HTTP/1.1\nHost: x")
            assert wire.response().body == b"ok\n"
        with host.connect() as wire:
            wire.send("GET /stream HTTP/1.0")
            assert b"".join(iter(lambda: wire.socket.recv(4096), b"")).endswith(b"\r\n\r\ndata: 1\n\n")


@pytest.mark.parametrize("protocol", [PROTOCOLS["httptools"], PROTOCOLS["h11"]], ids=["httptools", "h11"])
def test_an_upload_that_waits_is_told_to_go_on(tmp_path: Path, protocol: type[asyncio.Protocol] | None) -> None:
    """curl asks so before it sends a body (RFC 9110 §10.1.1)."""
    if protocol is None:
        pytest.skip("httptools is not installed")

    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    with serving(tmp_path, protocol, rest=Starlette(routes=[Route("/upload", length, methods=["PUT"])])) as host:
        with host.connect() as wire:
            wire.socket.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            told = b""
            while not told.endswith(b"\r\n\r\n"):
                told += wire.socket.recv(100)
            assert told.startswith(b"HTTP/1.1 100 ")
            wire.send(b"hello")
            assert wire.response().body == b"5"


def test_a_foreign_registry_answers_its_paths(tmp_path: Path) -> None:
    boot = {"kernel": "/assets/k", "initrd": ["/assets/i"], "args": ["a=b"]}
    registry = {
        "groups/web.json": json.dumps({"id": "web", "profile": "p", "selector": {"mac": MAC}}),
        "profiles/p.json": json.dumps({"id": "p", "cloud_id": "c", "boot": boot}),
        "cloud/c": "#cloud-config\n",
    }
    with serving(tmp_path, registry=registry) as host:
        for name in (tmp_path / "registry").iterdir():
            if name.name == "templates":
                name.rmdir()
        host.context.registry.load()
        assert host.get("/").body == b"matchbox\n"
        assert b"domain=${domain}&" in host.get("/boot.ipxe").body
        script = host.get(f"/ipxe?mac={MAC.upper()}")
        assert script.body == b"#!ipxe\nkernel /assets/k a=b\ninitrd /assets/i\nboot\n"
        assert host.ask(f"POST /ipxe?mac={MAC} HTTP/1.1\nHost: x\nContent-Length: 0").body == script.body  # method-agnostic
        assert host.get("/ipxe?mac=nonsense").status == 404
        assert host.get(f"/cloud?mac={MAC}", Range="bytes=0-5").body == b"#cloud"
        (tmp_path / "assets/k").write_bytes(SMALL)
        assert host.get("/assets/k").body == SMALL
        lawful(script)


# --- the end -------------------------------------------------------------------------------------------------------------


def test_transfers_under_way_may_finish_and_idle_connections_end(tmp_path: Path) -> None:
    with serving(tmp_path) as host:
        (host.context.settings.assets / "huge").write_bytes(b"x" * 50_000_000)
        with host.connect() as idle, host.connect() as busy:
            idle.send("GET /healthz HTTP/1.1\nHost: x")
            idle.response()
            busy.send("GET /assets/huge HTTP/1.1\nHost: x")
            busy.rest = busy.socket.recv(1000)
            stopping = asyncio.run_coroutine_threadsafe(host.service.stop(5), host.loop)
            assert idle.closed()
            assert len(busy.response().body) == 50_000_000
            assert busy.closed()
            stopping.result(5)


def test_transfers_that_take_too_long_are_cut_off(tmp_path: Path) -> None:
    with serving(tmp_path) as host:
        (host.context.settings.assets / "huge").write_bytes(b"x" * 50_000_000)
        with host.connect() as stalled:
            stalled.send("GET /assets/huge HTTP/1.1\nHost: x")
            stalled.socket.recv(1000)
            start = time.monotonic()
            asyncio.run_coroutine_threadsafe(host.service.stop(0.3), host.loop).result(5)
            assert time.monotonic() - start < 1.5


def test_how_far_a_download_came_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, ZeroCopyH11) as host:
        (tmp_path / "assets" / "initrd").write_bytes(bytes(64 << 20))
        with host.connect() as wire:
            wire.send("GET /assets/initrd HTTP/1.1\nHost: x")
            settle(lambda: [each for service in host.context.downloads for each in service() if each.sent])
            (download,) = [each for service in host.context.downloads for each in service()]
            assert (download.path, download.size) == ("/assets/initrd", 64 << 20) and 0 < download.sent < 64 << 20
            wire.response()
        settle(lambda: not [each for service in host.context.downloads for each in service()])
