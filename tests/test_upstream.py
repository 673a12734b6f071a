"""Asking other HTTP servers: what comes back, and in which words it is told when nothing does."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pixieboot.serve import upstream
from pixieboot.serve.upstream import Opener, Unanswered, unanswered
from tests.upstreamhost import Exchange, Origin, serving


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(page=b"hello") as origin:
        yield origin


def test_an_answer(origin: Origin) -> None:
    with Opener().get(origin.url("/page"), {"X-Who": "me"}, 5) as response:
        assert response.read() == b"hello"
    assert origin.asked[0][1]["X-Who"] == "me" and "X-pixieboot-checked" not in origin.asked[0][1]


def test_statuses_that_are_wanted_and_others(origin: Origin) -> None:
    with Opener().get(origin.url("/nothing"), {}, 5, (200, 404)) as response:
        assert response.status == 404
    with pytest.raises(Unanswered, match="answered 404 Not Found") as refused:
        Opener().get(origin.url("/nothing"), {}, 5)
    assert not refused.value.again
    origin.acts["/page"] = lambda exchange: exchange.head(503, Content_Length=0)
    with pytest.raises(Unanswered, match="503") as busy:
        Opener().get(origin.url("/page"), {}, 5)
    assert busy.value.again
    origin.acts["/page"] = lambda exchange: exchange.head(204)
    with pytest.raises(Unanswered, match="204"):
        Opener().get(origin.url("/page"), {}, 5)


def test_the_environment_names_the_proxy(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", origin.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    origin.files["http://elsewhere.example/x"] = b"by the proxy"
    with Opener().get("http://elsewhere.example/x", {}, 5) as response:
        assert response.read() == b"by the proxy"


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "nonsense", "http://[", "http://h/a b", "http://h:x/"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(Unanswered):
        Opener().get(url, {}, 5)


def test_a_redirect_from_https_to_http_needs_a_checksum() -> None:
    import urllib.request

    from pixieboot.serve.upstream import _Redirects

    request = urllib.request.Request("https://h/x")
    for checked in (True, False):
        request.checked = checked  # type: ignore[attr-defined]
        if checked:
            following = _Redirects().redirect_request(request, None, 302, "Found", {}, "http://h/x")
            assert following.full_url == "http://h/x" and following.checked
        else:
            with pytest.raises(Unanswered, match="leads from https to http://h/x"):
                _Redirects().redirect_request(request, None, 302, "Found", {}, "http://h/x")


ERRORS = {
    "late": (TimeoutError(), 504, "did not answer in time"),
    "no such name": (socket.gaierror(-2, "Name or service not known"), 502, "cannot be resolved (Name or service not known)"),
    "refused": (ConnectionRefusedError(111, "Connection refused"), 502, "cannot be reached (Connection refused)"),
    "certificate": (ssl.SSLCertVerificationError(1, "x"), 502, "is not trusted"),
    "no HTTP": (http.client.BadStatusLine("x"), 502, "does not speak HTTP (BadStatusLine)"),
    "anything": (ValueError("odd"), 502, "cannot be fetched (odd)"),
}


@pytest.mark.parametrize("error, status, words", ERRORS.values(), ids=ERRORS)
def test_errors_in_words(error: Exception, status: int, words: str) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed certificate"
    told = unanswered("http://mirror.example/x", error)
    assert told.status == status and words in told.sentence


@pytest.mark.parametrize("at", ["in the headers", "in the body"])
def test_one_that_sends_a_byte_now_and_then_is_given_up(origin: Origin, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def trickle(exchange: Exchange) -> None:
        if at == "in the body":
            exchange.head(200, Content_Length=100_000)
        else:
            exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(OSError):
            while not exchange.origin.over.wait(0.01):
                exchange.wfile.write(b"H")

    origin.acts["/page"] = trickle
    monkeypatch.setattr(upstream, "WINDOW", 0.05)
    with pytest.raises(Unanswered, match="sent less than 60 KiB in 0 s") as slow:
        try:
            with Opener().get(origin.url("/page"), {}, 5) as response:
                response.read()
        except OSError as error:
            raise unanswered(origin.url("/page"), error) from None
    assert slow.value.status == 504 and slow.value.again


def test_one_that_is_slow_in_parts_but_sends_enough_is_not_given_up(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def brisk(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=8000)
        for _ in range(8):
            exchange.origin.over.wait(0.02)
            exchange.wfile.write(bytes(1000))

    origin.acts["/page"] = brisk
    monkeypatch.setattr(upstream, "WINDOW", 0.04)
    monkeypatch.setattr(upstream, "LEAST", 100)
    with Opener().get(origin.url("/page"), {}, 5) as response:
        assert len(response.read()) == 8000
