"""h11 where httptools is not to be had: nearly as quick for machines that ask the same way each time.

Its rules are tested together with those of the other protocol classes in test_serve_httpd.py and test_serve_zerocopy.py.
"""

from pathlib import Path

import h11
import pytest

from pixieboot.serve import zerocopy
from pixieboot.serve.zerocopy_h11 import ZeroCopyH11
from tests.httphost import serving


def test_known_headers_are_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[object] = []
    next_event = h11.Connection.next_event

    def counted(self: h11.Connection) -> object:
        event = next_event(self)
        if type(event) is h11.Request:
            parsed.append(event.target)
        return event

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    monkeypatch.setattr(zerocopy.Connection, "vetted", {})
    with serving(tmp_path, ZeroCopyH11) as host, host.connect() as wire:
        for number in range(5):
            wire.send(f"GET /ipxe?mac=02-00-00-00-00-0{number} HTTP/1.1\nHost: x\nUser-Agent: iPXE/1.21")
            assert f"02:00:00:00:00:0{number}".encode() in wire.response().body
        assert parsed == [b"/ipxe?mac=02-00-00-00-00-00"]
        wire.send("GET /ipxe?mac=020000000001 HTTP/1.1\nHost: x\nContent-Length: 0")  # other headers: looked at afresh
        assert wire.response().status == 200
        wire.send("GET /ipxe?mac=nonsense HTTP/1.1\nHost: x\nUser-Agent: iPXE/1.21")  # no quick answer: the long way
        assert wire.response().status == 400
        assert len(parsed) == 3


REPEATED = [
    "GET /ipxe?mac=1\0 HTTP/1.1",
    "GET  /boot.ipxe HTTP/1.1",
    "GET /boot.ipxe\x7f HTTP/1.1",
    "GET /boot.ipxe HTTP/1.1 HTTP/1.1",
]


@pytest.mark.parametrize("line", REPEATED)
def test_known_headers_excuse_no_bad_request_line(tmp_path: Path, line: str) -> None:
    with serving(tmp_path, ZeroCopyH11) as host, host.connect() as wire:
        wire.send("GET /boot.ipxe HTTP/1.1\nHost: x")
        wire.response()
        wire.send(f"{line}\nHost: x")
        assert wire.response().status == 400
        assert wire.closed()
