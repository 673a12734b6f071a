"""Files over HTTP, whole, in parts and on conditions, with each of the protocol classes, and as picky clients want them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.serve.zerocopy_h11 import ZeroCopyH11
from tests.httphost import BIG, MAC, PROTOCOLS, REGISTRY, SMALL, Host, answers, booting, lawful, serving, settle, without_date


@pytest.fixture(scope="module", params=PROTOCOLS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with booting(tmp_path_factory.mktemp("http"), request.param) as running:
        yield running


ANSWERS = {  # path -> status, content type, what the body contains
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
    "double slashes": ("//assets///small.bin", 200, "application/octet-stream", SMALL),
    "dots": ("/./assets/./small.bin", 200, "application/octet-stream", SMALL),
    "an encoded slash": ("/assets%2Fsmall.bin", 200, "application/octet-stream", SMALL),
    "encoded letters": ("/%61ssets/sm%61ll.bin", 200, "application/octet-stream", SMALL),
    "encoded once only": ("/assets/small%252Ebin", 404, "text/plain; charset=utf-8", b"No such file"),
    "no such asset": ("/assets/none", 404, "text/plain; charset=utf-8", b"/assets/none: "),
    "no listing": ("/assets/", 404, "text/plain; charset=utf-8", b""),
    "a FIFO": ("/assets/fifo", 403, "text/plain; charset=utf-8", b"not a regular file"),
    "a link out of assets": ("/assets/outside", 403, "text/plain; charset=utf-8", b"leaves the root"),
    "out by dots": ("/assets/../secret", 400, "text/plain; charset=utf-8", b".. in the path"),
    "out by encoded dots": ("/assets/%2e%2e/secret", 400, "text/plain; charset=utf-8", b".. in the path"),
    "out by a backslash": ("/assets/..%5csecret", 400, "text/plain; charset=utf-8", b"backslash"),
    "NUL": ("/assets/small.bin%00.txt", 400, "text/plain; charset=utf-8", b"control character"),
    "overlong UTF-8": ("/assets/%c0%ae%c0%ae/secret", 400, "text/plain; charset=utf-8", b"not UTF-8"),
}


@pytest.mark.parametrize("target, status, content_type, body", ANSWERS.values(), ids=ANSWERS)
def test_answer(host: Host, target: str, status: int, content_type: str, body: bytes) -> None:
    answers(host, target, status, content_type, body)


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
