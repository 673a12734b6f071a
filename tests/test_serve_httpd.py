"""HTTP as machines need it, on real sockets: each rule of it (RFC 9110, RFC 9112) against each of the protocol classes."""

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pixieboot.errors import OperatorError
from pixieboot.model import Mac, Network
from pixieboot.registry import sqlite
from pixieboot.serve.httpd import HttpService
from tests import netns
from tests.httphost import BIG, ETH7, MAC, PROTOCOLS, REGISTRY, SMALL, Host, answers, booting, lawful, serving


@pytest.fixture(scope="module", params=PROTOCOLS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with booting(tmp_path_factory.mktemp("http"), request.param) as running:
        yield running


# --- what is answered ----------------------------------------------------------------------------------------------------


ANSWERS = {  # path -> status, content type, what the body contains
    "health": ("/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
    "absolute form, wrong host, capitals": ("HTTP://elsewhere/healthz", 200, "text/plain; charset=utf-8", b"ok\n"),
    "no such path": ("/nothing", 404, "text/plain; charset=utf-8", b"there is no such path"),
}


@pytest.mark.parametrize("target, status, content_type, body", ANSWERS.values(), ids=ANSWERS)
def test_answer(host: Host, target: str, status: int, content_type: str, body: bytes) -> None:
    answers(host, target, status, content_type, body)


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


def test_done_wants_to_know_who(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        got = host.get("/done")
        assert (got.status, got.body) == (400, b"Which machine is done? Add ?mac=52:54:00:12:34:56 to the address.\n")
        host.get(f"/ipxe?mac={MAC}")
        assert host.get("/done").status == 200  # known by its address now
        assert host.context.store.state("web1").done


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


def test_a_websocket_is_not_had(host: Host) -> None:
    with host.connect() as wire:
        wire.send("GET /healthz HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13")
        assert wire.response().status == 200


# --- strangers -----------------------------------------------------------------------------------------------------------


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
