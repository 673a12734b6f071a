"""Other servers' files, fetched for machines: real servers on loopback that are slow, broken, wrong or gone."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pixieboot import config
from pixieboot.config import CacheSettings
from pixieboot.remote import Remote, path_of
from pixieboot.serve import fetch
from pixieboot.serve.zerocopy_h11 import H11Protocol, ZeroCopyH11
from tests.httphost import Host, Wire
from tests.httphost import serving as daemon
from tests.upstreamhost import Exchange, Origin, serving

BODY = os.urandom(700_001)
SHA256 = hashlib.sha256(BODY).hexdigest()
PEER = {"zero copy": None, "h11": ZeroCopyH11, "streamed": H11Protocol}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(vmlinuz=BODY) as origin:
        yield origin


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    with daemon(tmp_path) as host:
        yield host


def link(host: Host, url: str, sha256: str = "", once: bool = True) -> str:
    return path_of(host.context.sites.link_key, Remote(url, sha256, once))


def get(host: Host, url: str, sha256: str = "", once: bool = True) -> bytes:
    answer = host.get(link(host, url, sha256, once))
    assert answer.status == 200, answer.body
    return answer.body


def begin(host: Host, path: str) -> Wire:
    wire = host.connect()
    wire.send(f"GET {path} HTTP/1.1\nHost: x")
    return wire


def kinds(host: Host, *services: str) -> list[str]:
    return [event.kind for event in host.events if event.service in (services or ("fetch",)) and event.level != "debug"]


def until(reached: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_refused(host: Host, path: str) -> bool:
    """Is the machine told so, or cut off if it has got a part already?"""
    try:
        return host.get(path).status >= 500
    except (ConnectionError, EOFError):
        return True


def half(exchange: Exchange) -> None:
    """Half of it, then the connection breaks."""
    exchange.head(200, Content_Length=len(BODY), ETag='"one"')
    exchange.wfile.write(BODY[: len(BODY) // 2])


def stay_silent(exchange: Exchange) -> None:
    exchange.origin.over.wait(10)


@pytest.mark.parametrize("protocol", PEER.values(), ids=PEER)
def test_a_file_is_fetched_once_and_served_from_here(tmp_path: Path, origin: Origin, protocol: type) -> None:
    with daemon(tmp_path, protocol) as host:
        url = origin.url("/vmlinuz")
        first = host.get(link(host, url))
        assert (first.status, first.body) == (200, BODY) and first["content-length"] == str(len(BODY))
        until(lambda: "fetched" in kinds(host))
        second = host.get(link(host, url, SHA256))
        assert second.body == BODY and second["etag"] == first["etag"]
        part = host.get(link(host, url), Range="bytes=100-199", If_Range=first["etag"])
        assert part.status == 206 and part.body == BODY[100:200]
        assert host.ask(f"HEAD {link(host, url)} HTTP/1.1\nHost: x")["content-length"] == str(len(BODY))
        assert len(origin.asked) == 1 and origin.asked[0][1]["User-Agent"].startswith("pixieboot/")
        assert kinds(host) == ["started", "fetched"]


def test_small_and_empty_files(host: Host, origin: Origin) -> None:
    origin.files |= {"/small": b"x", "/none": b""}
    assert get(host, origin.url("/small"), hashlib.sha256(b"x").hexdigest()) == b"x"
    assert get(host, origin.url("/none")) == b""


def test_machines_get_bytes_as_they_arrive_and_one_that_comes_later_joins(host: Host, origin: Origin) -> None:
    go = threading.Event()

    def slowly(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=len(BODY), ETag='"one"')
        exchange.wfile.write(BODY[:1000])
        go.wait(10)
        exchange.wfile.write(BODY[1000:])

    origin.acts["/vmlinuz"] = slowly
    path = link(host, origin.url("/vmlinuz"))
    with begin(host, path) as first:
        head = first.socket.recv(65536)
        while head.count(b"\r\n\r\n") == 0 or len(head.partition(b"\r\n\r\n")[2]) < 1000:
            head += first.socket.recv(65536)
        assert b"Content-Length: 700001" in head and head.endswith(BODY[:1000])
        with begin(host, path) as second:
            second.rest = second.socket.recv(100)  # it is being answered before the file is here
            go.set()
            assert second.response().body == BODY
        first.rest = head
        assert first.response().body == BODY
    assert len(origin.asked) == 1


def test_the_event_loop_is_free_while_a_server_hangs(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE", 0.2)
    origin.acts["/vmlinuz"] = stay_silent
    with begin(host, link(host, origin.url("/vmlinuz"))) as waiting:
        assert host.get("/healthz").status == 200
        late = waiting.response()
    assert late.status == 504 and b"did not answer in time" in late.body


def test_a_server_that_is_down_is_told_and_asked_again_the_next_time(host: Host, origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answer = host.get(link(host, f"http://127.0.0.1:{port}/vmlinuz"))
    assert answer.status == 502 and b"cannot be reached (Connection refused)" in answer.body
    assert kinds(host, "fetch", "http") == ["failed", "failed"]
    assert host.events[-1].detail["url"].endswith("/vmlinuz")
    assert get(host, origin.url("/vmlinuz")) == BODY


def test_what_the_server_refuses_is_told(host: Host, origin: Origin) -> None:
    answer = host.get(link(host, origin.url("/nothing")))
    assert answer.status == 502 and b"/nothing answered 404 Not Found" in answer.body
    unknown = host.get(link(host, "http://nowhere.invalid/x"))
    assert unknown.status in (502, 504) and b"nowhere.invalid" in unknown.body


def test_a_broken_download_goes_on_where_it_was(host: Host, origin: Origin) -> None:
    origin.acts["/vmlinuz"] = [half]
    assert get(host, origin.url("/vmlinuz")) == BODY
    asked = origin.asked[1][1]
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={len(BODY) // 2}-", '"one"')


def test_a_server_without_ranges_sends_the_same_again(host: Host, origin: Origin) -> None:
    def whole(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=len(BODY), ETag='"one"')
        exchange.wfile.write(BODY)

    origin.acts["/vmlinuz"] = [half, whole]
    assert get(host, origin.url("/vmlinuz")) == BODY


def test_a_file_that_changes_in_the_middle_is_cut_off_and_never_mixed(host: Host, origin: Origin) -> None:
    other = os.urandom(len(BODY))
    origin.acts["/vmlinuz"] = [half]
    origin.files["/vmlinuz"], origin.etags["/vmlinuz"] = other, '"two"'
    assert is_refused(host, link(host, origin.url("/vmlinuz")))
    until(lambda: "failed" in kinds(host))
    assert "changed on its server" in next(event for event in host.events if event.kind == "failed").detail["why"]
    assert get(host, origin.url("/vmlinuz")) == other


@pytest.mark.parametrize("times", [fetch.TRIES + 2], ids=["always"])
def test_a_server_that_always_breaks_off_is_given_up_and_what_came_is_kept(host: Host, origin: Origin, times: int) -> None:
    def nothing(exchange: Exchange) -> None:
        exchange.head(206, Content_Length=1000, Content_Range=f"bytes {len(BODY) // 2}-{len(BODY) - 1}/{len(BODY)}")

    origin.acts["/vmlinuz"] = [half, *[nothing] * times]
    assert is_refused(host, link(host, origin.url("/vmlinuz")))
    until(lambda: "failed" in kinds(host, "http"))
    failed = next(event for event in host.events if (event.service, event.kind) == ("http", "failed"))
    assert "before the end" in failed.detail["why"] and failed.detail["url"] == origin.url("/vmlinuz")
    origin.acts.clear()
    assert get(host, origin.url("/vmlinuz")) == BODY
    assert origin.asked[-1][1]["Range"] == f"bytes={len(BODY) // 2}-"


def test_a_wrong_checksum_lets_no_machine_have_the_end_and_is_not_served_again(host: Host, origin: Origin) -> None:
    path, go = link(host, origin.url("/vmlinuz"), "0" * 64), threading.Event()

    def in_two(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=len(BODY))
        exchange.wfile.write(BODY[:300_000])
        go.wait(10)
        exchange.wfile.write(BODY[300_000:])

    origin.acts["/vmlinuz"] = [in_two]
    with begin(host, path) as wire:
        got = wire.socket.recv(1000)
        go.set()
        with pytest.raises(ConnectionError):
            while True:
                piece = wire.socket.recv(65536)
                if not piece:
                    raise ConnectionResetError
                got += piece
    assert len(got.partition(b"\r\n\r\n")[2]) <= len(BODY) - fetch.HELD_BACK
    until(lambda: "failed" in kinds(host))
    alarm = next(event for event in host.events if event.kind == "failed" and event.service == "fetch")
    assert alarm.level == "alarm" and SHA256 in alarm.detail["why"]
    again = host.get(path)
    assert again.status == 502 and b"is not served" in again.body and len(origin.asked) == 1
    assert get(host, origin.url("/vmlinuz"), SHA256) == BODY


def test_a_file_that_was_fetched_unchecked_is_checked_by_what_is_known_of_it(host: Host, origin: Origin) -> None:
    assert get(host, origin.url("/vmlinuz")) == BODY
    until(lambda: "fetched" in kinds(host))
    assert is_refused(host, link(host, origin.url("/vmlinuz"), "0" * 64))
    assert get(host, origin.url("/vmlinuz"), SHA256) == BODY and len(origin.asked) == 2


def test_without_a_length_the_machine_gets_it_when_it_is_whole(host: Host, origin: Origin) -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.head(200, Transfer_Encoding="chunked", ETag='"one"')
        for at in range(0, len(BODY), 99_999):
            piece = BODY[at : at + 99_999]
            exchange.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.wfile.write(b"0\r\n\r\n")

    origin.acts["/vmlinuz"] = [chunked]
    answer = host.get(link(host, origin.url("/vmlinuz")))
    assert answer.body == BODY and answer["content-length"] == str(len(BODY))
    assert get(host, origin.url("/vmlinuz")) == BODY and len(origin.asked) == 1


def test_an_end_that_nobody_can_tell_from_a_break_is_not_kept(host: Host, origin: Origin) -> None:
    def until_closed(exchange: Exchange) -> None:
        exchange.head(200)
        exchange.wfile.write(BODY)

    origin.acts["/vmlinuz"] = [until_closed]
    assert get(host, origin.url("/vmlinuz")) == BODY
    until(lambda: "fetched" in kinds(host))
    assert get(host, origin.url("/vmlinuz")) == BODY and len(origin.asked) == 2


def test_redirects_are_followed_but_not_out_of_http(host: Host, origin: Origin) -> None:
    origin.acts["/here"] = lambda exchange: exchange.head(302, Location="/vmlinuz", Content_Length=0)
    origin.acts["/file"] = lambda exchange: exchange.head(302, Location="file:///etc/passwd", Content_Length=0)
    origin.acts["/round"] = lambda exchange: exchange.head(302, Location="/round", Content_Length=0)
    assert get(host, origin.url("/here")) == BODY
    assert host.get(link(host, origin.url("/file"))).status == 502
    assert host.get(link(host, origin.url("/round"))).status == 502


def test_a_file_that_is_not_fetched_once_is_asked_for_each_time(
    host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FRESH", 0.0)
    url = origin.url("/vmlinuz")
    assert get(host, url, once=False) == BODY
    until(lambda: kinds(host)[-1:] == ["fetched"])
    assert get(host, url, once=False) == BODY
    assert origin.asked[1][1]["If-None-Match"] == '"one"' and kinds(host) == ["started", "fetched"]
    origin.files["/vmlinuz"], origin.etags["/vmlinuz"] = b"new", '"two"'
    assert get(host, url, once=False) == b"new"
    until(lambda: kinds(host).count("fetched") == 2)
    origin.acts["/vmlinuz"] = lambda exchange: exchange.head(503, Content_Length=0)
    assert get(host, url, once=False) == b"new"
    assert kinds(host)[-2:] == ["failed", "kept"]


def test_the_least_recently_used_goes_first_but_nothing_that_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: os.urandom(300_000) for name in "abcd"}
    with serving(**files) as origin, daemon(tmp_path, cache=CacheSettings(size=700_000)) as host:
        kept = tmp_path / "cache"
        for number, name in enumerate("ab"):
            assert get(host, origin.url(f"/{name}")) == files[name]
            until(lambda wanted=number + 1: kinds(host).count("fetched") == wanted)  # type: ignore[misc]
            os.utime(kept / fetch.key_of(origin.url(f"/{name}")), (number, number))
        hold = host.service._downloads._cache
        host.call(lambda: hold.users.update([fetch.key_of(origin.url("/a"))]))  # somebody loads it
        assert get(host, origin.url("/c")) == files["c"]
        until(lambda: kinds(host).count("fetched") == 3)
        assert {place.name.rpartition("-")[2] for place in kept.iterdir()} == {"a", "c"}
        until(lambda: "removed" in kinds(host))


def test_a_file_larger_than_the_cache_is_served_and_not_kept(tmp_path: Path, origin: Origin) -> None:
    with daemon(tmp_path, cache=CacheSettings(size=1000)) as host:
        assert get(host, origin.url("/vmlinuz")) == BODY
        until(lambda: not list((tmp_path / "cache").iterdir()))


def test_a_file_that_gets_its_name_while_the_cache_is_counted_is_counted_after_all(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in use no more, and the count after that use met neither its old name nor its new one."""
    places = fetch.Cache._places
    monkeypatch.setattr(fetch.Cache, "_places", lambda cache: iter(()) if cache.running else places(cache))
    with daemon(tmp_path, cache=CacheSettings(size=1000)) as host:

        def counted() -> bool:
            cache = host.service._downloads._cache
            return cache is not None and not cache.users and not cache._over

        monkeypatch.setattr("os.fsync", lambda fd: until(counted))
        assert get(host, origin.url("/vmlinuz")) == BODY
        until(lambda: not list((tmp_path / "cache").iterdir()))


def test_downloads_that_end_with_the_daemon_leave_its_threads_alone(
    host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(host, origin.url("/vmlinuz")) == BODY
    cache = host.service._downloads._cache
    assert cache is not None
    until(lambda: not cache.running)
    asked: list[str] = []
    monkeypatch.setattr(cache.loop, "run_in_executor", lambda *_: asked.append("room"))

    def end(stop: Callable[[], object]) -> None:
        download = cache.running["key"] = fetch.Download(cache, "key", Remote(origin.url("/vmlinuz")))
        stop()
        cache.ended(download)

    host.call(lambda: end(cache.stop))
    assert not asked
    host.call(lambda: end(lambda: None))
    assert asked == ["room"]


def test_a_full_disk_is_told(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.Cache, "_free", lambda self: 1000)
    answer = host.get(link(host, origin.url("/vmlinuz")))
    assert answer.status == 503 and b"0 MiB left" in answer.body


def test_a_server_that_never_ends_does_not_fill_the_disk(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.head(200, Transfer_Encoding="chunked")
        with suppress(OSError):
            for _ in range(100):
                exchange.wfile.write(b"%x\r\n%b\r\n" % (len(BODY), BODY))
        exchange.origin.over.wait(10)

    origin.acts["/vmlinuz"] = endless
    monkeypatch.setattr(fetch, "ROOM", 1 << 20)
    cache = Path(host.context.settings.state.removeprefix("sqlite:")).parent / "cache"

    def size() -> int:
        return sum(path.stat().st_size for path in cache.rglob("part"))

    monkeypatch.setattr(fetch.Cache, "_free", lambda self: fetch.FREE + (5 << 20) - size())
    answer = host.get(link(host, origin.url("/vmlinuz")))
    assert answer.status == 503 and b"MiB left" in answer.body
    assert size() == 0


def test_more_than_was_said_is_not_kept(host: Host, origin: Origin) -> None:
    half_of_it = len(BODY) // 2

    def longer(exchange: Exchange) -> None:
        span = f"bytes {half_of_it}-{len(BODY) - 1}/{len(BODY)}"
        exchange.head(206, Content_Length=len(BODY) - half_of_it + 500, Content_Range=span)
        exchange.wfile.write(BODY[half_of_it:] + bytes(500))

    origin.acts["/vmlinuz"] = [half, longer]
    assert is_refused(host, link(host, origin.url("/vmlinuz")))
    assert get(host, origin.url("/vmlinuz")) == BODY


def test_progress_is_told_to_each_machine_that_waits(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TELL", 0.0)
    go = threading.Event()

    def in_steps(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=len(BODY))
        exchange.wfile.write(BODY[: len(BODY) // 2])
        go.wait(10)
        exchange.wfile.write(BODY[len(BODY) // 2 :])

    origin.acts["/vmlinuz"] = in_steps
    with begin(host, link(host, origin.url("/vmlinuz"))) as wire:
        until(lambda: "progress" in kinds(host))
        go.set()
        assert wire.response().body == BODY
    progress = [event.detail["percent"] for event in host.events if event.kind == "progress"]
    assert progress and progress == sorted(set(progress))


def test_files_that_the_command_line_names_are_served_and_no_others(tmp_path: Path, origin: Origin) -> None:
    initrd = tmp_path / "my initrd"
    initrd.write_bytes(BODY[:100_000])
    settings = config.load(None, {"kernel": origin.url("/vmlinuz"), "initrds": (str(initrd),), "cmdline": "quiet"})
    with daemon(tmp_path / "d", boot=settings.boot, boot_files=settings.boot_files) as host:
        script = host.get("/ipxe?mac=52:54:00:00:00:01").body
        paths = [word.partition(b":8080")[2].decode() for word in script.split() if b"/remote/" in word]
        assert [host.get(path).body for path in paths] == [BODY, BODY[:100_000]]
        assert b" quiet " in script
        (tmp_path / "other").write_text("secret")
        assert host.get(link(host, f"file://{tmp_path}/other")).status == 403
        initrd.unlink()
        initrd.symlink_to(tmp_path / "other")
        assert host.get(paths[1]).status == 403
        assert host.get(link(host, "file:///proc/self/../etc/passwd")).status == 403


def test_forged_links_are_refused(host: Host, origin: Origin) -> None:
    path = link(host, origin.url("/vmlinuz"))
    for bad in (path[:20] + ("A" if path[20] != "A" else "B") + path[21:], "/remote/x/vmlinuz", "/remote/%C3%A4/v"):
        assert host.get(bad).status == 404
    assert not origin.asked
    assert host.ask(f"POST {path} HTTP/1.1\nHost: x\nContent-Length: 0").status == 405


def test_too_many_at_a_time_are_put_off(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", 0)
    assert host.get(link(host, origin.url("/vmlinuz"))).status == 503


KILLED = """
import sys, os
from pathlib import Path
from tests.httphost import serving
from pixieboot.remote import Remote, path_of
with serving(Path(sys.argv[1])) as host:
    wire = host.connect()
    wire.send("GET " + path_of(host.context.sites.link_key, Remote(sys.argv[2], "", True)) + " HTTP/1.1\\nHost: x")
    wire.rest = wire.socket.recv(70000)
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_no_half_file_and_the_rest_is_fetched(tmp_path: Path, origin: Origin) -> None:
    def stuck(exchange: Exchange) -> None:
        exchange.head(200, Content_Length=len(BODY), ETag='"one"')
        exchange.wfile.write(BODY[:300_000])
        exchange.origin.over.wait(20)

    origin.acts["/vmlinuz"] = [stuck]
    url = origin.url("/vmlinuz")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout and killed.stdout.readline() == "begun\n"
        part = tmp_path / "cache" / fetch.key_of(url) / "part"
        until(lambda: part.stat().st_size == 300_000)
        killed.kill()
    assert not (part.parent / "file").exists()
    with daemon(tmp_path) as host:
        assert get(host, url) == BODY
    assert origin.asked[1][1]["Range"] == "bytes=300000-"


def test_what_is_left_of_an_earlier_start_of_the_host_is_not_trusted(
    host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.acts["/vmlinuz"] = [half, lambda exchange: exchange.head(404, Content_Length=0)]
    assert is_refused(host, link(host, origin.url("/vmlinuz")))
    until(lambda: "failed" in kinds(host))
    monkeypatch.setattr(fetch, "boot_id", lambda: "another")
    assert get(host, origin.url("/vmlinuz")) == BODY
    assert "Range" not in origin.asked[-1][1]


def test_who_still_reads_an_old_part_never_gets_the_bytes_of_a_new_one(host: Host, origin: Origin) -> None:
    origin.acts["/vmlinuz"] = [half, lambda exchange: exchange.head(404, Content_Length=0)]
    url = origin.url("/vmlinuz")
    assert is_refused(host, link(host, url))
    until(lambda: "failed" in kinds(host))
    slow = os.open(
        Path(host.context.settings.state.removeprefix("sqlite:")).parent / "cache" / fetch.key_of(url) / "part", os.O_RDONLY
    )
    origin.files["/vmlinuz"], origin.etags["/vmlinuz"] = BODY[::-1], '"two"'
    assert get(host, url) == BODY[::-1] and os.fstat(slow).st_size == 0
    os.close(slow)


def test_a_part_that_no_longer_fits_is_begun_afresh(host: Host, origin: Origin) -> None:
    origin.acts["/vmlinuz"] = [half, lambda exchange: exchange.head(404, Content_Length=0)]
    assert is_refused(host, link(host, origin.url("/vmlinuz"), SHA256))
    until(lambda: "failed" in kinds(host))
    origin.acts["/vmlinuz"] = [lambda exchange: exchange.head(416, Content_Length=0)]
    assert get(host, origin.url("/vmlinuz"), SHA256) == BODY


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Len"], ids=["status line", "header"])
@pytest.mark.parametrize("sha256", ["", SHA256], ids=["unchecked", "checked"])
def test_a_server_that_breaks_off_in_its_headers_gives_no_empty_file(host: Host, origin: Origin, sent: bytes, sha256: str) -> None:
    def break_off(exchange: Exchange) -> None:
        exchange.wfile.write(sent)

    origin.acts["/vmlinuz"] = [break_off]
    answer = host.get(link(host, origin.url("/vmlinuz"), sha256))
    assert answer.status == 502 and b"broke off" in answer.body
    until(lambda: "failed" in kinds(host))
    assert get(host, origin.url("/vmlinuz"), sha256) == BODY


def test_a_server_that_gives_one_byte_a_connection_is_not_asked_for_ever(host: Host, origin: Origin) -> None:
    def one_byte(exchange: Exchange) -> None:
        at = int((exchange.headers.get("Range") or "bytes=0-")[6:-1])
        part = {"Content_Range": f"bytes {at}-{len(BODY) - 1}/{len(BODY)}"} if at else {}
        exchange.head(206 if at else 200, Content_Length=len(BODY) - at, ETag='"one"', **part)
        exchange.wfile.write(BODY[at : at + 1])

    origin.acts["/vmlinuz"] = one_byte
    assert is_refused(host, link(host, origin.url("/vmlinuz")))
    until(lambda: "failed" in kinds(host))
    assert len(origin.asked) == fetch.TRIES
