"""A request taken apart, and the small replies, as values; what becomes of them over a wire is in test_serve_httpd.py."""

import io
from collections.abc import Mapping
from typing import Any

import pytest

from pixieboot.journal import Journal
from pixieboot.model import NO_MAC, Arch, Loader, Mac, Stage
from pixieboot.serve.requests import Refused, Reply, Request, Told, client_of, mac_in, missing, parts_of, read, split

MAC = Mac("52:54:00:12:34:56")

TARGETS = {  # target -> path, query
    "a path": (b"/ipxe", b"/ipxe", b""),
    "a query": (b"/ipxe?mac=1?2", b"/ipxe", b"mac=1?2"),
    "absolute": (b"http://192.0.2.1:8080/a?b", b"/a", b"b"),
    "absolute, in capitals, without a path": (b"HTTPS://x", b"/", b""),
    "nothing": (b"/", b"/", b""),
}


@pytest.mark.parametrize("target, path, query", TARGETS.values(), ids=TARGETS)
def test_split(target: bytes, path: bytes, query: bytes) -> None:
    assert split(target) == (path, query)


@pytest.mark.parametrize("target", [b"", b"*", b"ipxe", b"ftp://x/", b"x:80"])
def test_a_target_of_another_form_is_refused(target: bytes) -> None:
    with pytest.raises(Refused, match="neither a path nor an http address") as refused:
        split(target)
    assert refused.value.status == 400


PATHS = {
    "empty parts and dots": (b"//assets/./a//b/", ("assets", "a", "b")),
    "decoded": (b"/%61ssets%2fa%20b+c", ("assets", "a b+c")),
    "decoded once": (b"/a%252Eb", ("a%2Eb",)),
    "dots in a name": (b"/a..b/...", ("a..b", "...")),
    "UTF-8": ("/grün".encode(), ("grün",)),
    "the root": (b"/", ()),
}


@pytest.mark.parametrize("path, parts", PATHS.values(), ids=PATHS)
def test_parts(path: bytes, parts: tuple[str, ...]) -> None:
    assert parts_of(path) == parts


@pytest.mark.parametrize("path", [b"/a/..", b"/%2e%2e/a", b"/a%5cb", b"/a%00", b"/a\x7f", b"/%c0%ae", b"/a%0d%0ab"])
def test_what_could_mean_another_place_is_refused(path: bytes) -> None:
    with pytest.raises(Refused, match="Bad request") as refused:
        parts_of(path)
    assert refused.value.status == 400


def asked(target: str, method: str = "GET") -> Request:
    return read(method, target.encode(), "192.0.2.50", None, {})


def test_a_ticket_is_no_part_of_the_path_that_is_told() -> None:
    request = asked("/secret/TICKET/ignition?mac=1")
    assert (request.ticket, request.parts, request.path) == ("TICKET", ("ignition",), "/ignition")
    assert asked("/ignition").ticket is None
    assert (asked("/secret").ticket, asked("/secret").parts) == ("", ())
    with pytest.raises(Refused, match="two tickets"):
        asked("/secret/x/secret/TICKET/ignition")


def test_without_a_network_nothing_of_it_can_be_told() -> None:
    with pytest.raises(Refused, match="No network is served yet") as refused:
        asked("/ipxe").site  # noqa: B018
    assert refused.value.status == 503


def test_read_only() -> None:
    asked("/ipxe").only("GET")
    asked("/ipxe", "HEAD").only("GET")
    asked("/done", "POST").only("GET", "POST")
    with pytest.raises(Refused, match="/ipxe answers GET") as refused:
        asked("/ipxe", "POST").only("GET")
    assert (refused.value.status, refused.value.headers) == (405, ((b"Allow", b"HEAD, GET"),))


CLIENTS: Mapping[str, tuple[str, Mac | None, dict[str, Any]]] = {  # query, MAC known by its address -> what is known
    "nothing": ("", None, {"mac": NO_MAC, "arch": None, "labels": {}}),
    "by its address": ("", MAC, {"mac": MAC}),
    "the query counts more": ("mac=02-00-00-00-00-01", MAC, {"mac": "02:00:00:00:00:01"}),
    "the first of several": ("mac=525400123456&mac=020000000001&x=1&x=2", None, {"mac": MAC, "labels": {"x": "1"}}),
    "empty ones tell nothing": ("mac=&serial=&mac=525400123456", None, {"mac": MAC, "serial": None}),
    "capitals": ("MAC=525400123456", None, {"mac": MAC, "labels": {}}),
    "as iPXE says its architecture": ("arch=arm64&platform=efi", None, {"arch": Arch.ARM64_EFI}),
    "as this program says it": (f"arch={Arch.X64_EFI.value}", None, {"arch": Arch.X64_EFI}),
    "an architecture that nobody knows": ("arch=vax", None, {"arch": None, "labels": {"arch": "vax"}}),
    "what is no UTF-8": ("x=%ff", None, {"labels": {"x": "\ufffd"}}),
}


@pytest.mark.parametrize("query, known, wanted", CLIENTS.values(), ids=CLIENTS)
def test_client_of(query: str, known: Mac | None, wanted: dict[str, Any]) -> None:
    client = client_of(asked(f"/ipxe?{query}"), known, Loader.GRUB)
    assert (client.loader, client.stage, client.address) == (Loader.GRUB, Stage.SCRIPT, "192.0.2.50")
    assert {name: getattr(client, name) for name in wanted} == wanted


def test_a_mac_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="not a MAC address such as"):
        mac_in("52:54")


PIECES = {  # Range -> status, body, Content-Range
    "none": (None, 200, b"0123456789", None),
    "a part": (b"bytes=2-4", 206, b"234", b"bytes 2-4/10"),
    "the end": (b"bytes=-3", 206, b"789", b"bytes 7-9/10"),
    "beyond": (b"bytes=10-", 416, b"", b"bytes */10"),
    "nonsense": (b"lines=1", 200, b"0123456789", None),
}


@pytest.mark.parametrize("wanted, status, body, content_range", PIECES.values(), ids=PIECES)
def test_a_part_of_a_small_reply(wanted: bytes | None, status: int, body: bytes, content_range: bytes | None) -> None:
    part = Reply(200, b"0123456789").ranged(wanted)
    assert (part.status, part.body, dict(part.headers).get(b"Content-Range")) == (status, body, content_range)
    assert (b"Content-Length", b"%d" % len(body)) in part.head()


def test_a_fact_is_told_once_and_head_is_none() -> None:
    journal = Journal(io.StringIO())
    told = Told(Reply(500, b"broken\n"), None, MAC, "failed", {"path": "/ipxe"})
    assert told.record(asked("/ipxe", "HEAD"), journal) is told.reply and not journal.counts
    assert told.record(asked("/ipxe"), journal) is told.reply
    assert [(event.kind, event.level) for event in journal.timeline(MAC)] == [("failed", "alarm")]


def test_what_is_missing_is_told() -> None:
    journal = Journal(io.StringIO())
    reply = missing(journal, asked("/a?b"), MAC, "no such file")
    missing(journal, asked("/c"), MAC, "no such file", expected="it tries several names")
    assert (reply.status, reply.body) == (404, b"/a: no such file.\n")
    (first, second) = journal.timeline(MAC)
    assert (first.level, first.detail["why"]) == ("info", "no such file")
    assert (second.level, second.detail["why"]) == ("debug", "it tries several names")
