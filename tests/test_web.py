"""The page: what it shows, who sees it, and that nothing a client says becomes more than text."""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from pixieboot.boots import Boot
from pixieboot.model import Event, Mac
from pixieboot.serve import access
from pixieboot.serve.api import application
from pixieboot.serve.context import Download
from pixieboot.serve.web import OPEN_PATHS, STATIC, Pages, picture
from tests.test_api import TOKEN, Answer, Served, call
from tests.test_boots import DONE, FILES, UEFI, later

HOST = {"host": "10.0.0.1:8080"}
COOKIE = {**HOST, "cookie": f"pixieboot={access.cookie_of(TOKEN)}"}
FORM = {**COOKIE, "content-type": "application/x-www-form-urlencoded", "origin": "http://10.0.0.1:8080"}
STRANGER = Mac("02:00:00:00:00:09")
HOSTILE = '<script>alert(1)</script>"\x1b[2J\u202e{{ 7*7 }}'
VOID = {"meta", "link", "input", "br", "rect", "img"}


class Checked(HTMLParser):
    """Tags that are opened are closed, and nothing inline runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on") or name == "style" or name.startswith("hx-on")]
        assert tag != "script" or given.get("src", "").startswith("/ui/static/")  # type: ignore[union-attr]
        if "id" in given:
            assert given["id"] not in self.ids
            self.ids.append(str(given["id"]))
        if tag in ("select", "input"):
            assert given.get("id"), "a field without a label"

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


class Paged(Served):
    """The API with the page on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.tcp = application(self.api, TOKEN, lambda: "auto", Pages(self.api, TOKEN).routes(), OPEN_PATHS)
        self.unix = application(self.api, None, lambda: "auto", Pages(self.api, None).routes(), OPEN_PATHS)

    def page(self, path: str, headers: Mapping[str, str] = COOKIE) -> str:
        answer = self.ask(path, headers)
        assert answer.status == 200, answer.body
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        text = answer.body.decode()
        Checked(text)
        return text


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Paged]:
    made = Paged(tmp_path)
    yield made
    made.close()


PAGES = ("/ui/", "/ui/machines", "/ui/machines/web1", "/ui/machines/web1/boots", "/ui/machines/web1/explain", "/ui/leases",
         "/ui/profiles", "/ui/log", "/ui/health")  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_whole_empty_and_full(served: Paged, path: str) -> None:
    served.page(path)
    served.store.see(STRANGER, None, "x64-efi", "PXEClient", time.time())
    served.happen(*later([*UEFI, *FILES, *DONE], time.time() - 3000), *later(UEFI, time.time() - 900))
    served.page(path)


@pytest.mark.parametrize("path", PAGES)
def test_nobody_sees_it_without_the_token(served: Paged, path: str) -> None:
    assert served.ask(path, HOST).status == 401
    led = served.ask(path, {**HOST, "accept": "text/html"})
    assert (led.status, led.headers["location"]) == (303, "/ui/login")


def test_login(served: Paged) -> None:
    Checked(served.ask("/ui/login", HOST).body.decode())
    form = {**HOST, "content-type": "application/x-www-form-urlencoded"}
    wrong = served.ask("/ui/login", form, "POST", b"token=nonsense")
    assert wrong.status == 403 and b"not the token" in wrong.body and "set-cookie" not in wrong.headers
    right = served.ask("/ui/login", form, "POST", f"token={TOKEN}".encode())
    assert (right.status, right.headers["location"]) == (303, "/ui/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert served.ask("/ui/", {**HOST, "cookie": cookie.partition(";")[0]}).status == 200
    assert served.ask("/ui/login", {**form, "origin": "http://evil.example"}, "POST", f"token={TOKEN}".encode()).status == 403
    out = served.ask("/ui/logout", FORM, "POST", b"")
    assert out.status == 303 and 'pixieboot=""' in out.headers["set-cookie"]


def test_the_unix_socket_needs_no_login(served: Paged) -> None:
    def ask(path: str) -> Answer:
        return asyncio.run(call(served.unix, "GET", path, {}))

    assert ask("/ui/").status == 200 and ask("/ui/login").status == 303 and ask("/ui").status == 303


def test_machines_and_strangers(served: Paged) -> None:
    served.store.see(STRANGER, None, "x64-efi", "PXEClient", time.time())
    served.happen(*later([*UEFI, *FILES], time.time() - 30))
    text = served.page("/ui/")
    assert "1 machine<" in text and "handed-over" in text and 'href="/ui/machines/web1"' in text
    assert f'href="/ui/machines/{quote(STRANGER, safe="")}#adopt"' in text
    assert "web1" in served.page("/ui/machines?find=WEB") and "web1" not in served.page("/ui/machines?find=nobody")
    assert "web1" in served.page("/ui/?find=10.0.0.50")


def test_a_boot_with_its_verdict_and_picture(served: Paged) -> None:
    served.happen(*later(UEFI, time.time() - 900))
    text = served.page("/ui/machines/web1")
    assert "asked for nothing after it" in text and "<strong>Next:</strong>" in text
    assert re.search(r'<rect class="script" x="[0-9.]+" y="0" width="[0-9.]+"', text)
    assert "asked for its script: flatcar" in text


def test_a_machine_that_was_never_heard(served: Paged) -> None:
    assert "Nothing was heard of web1." in served.page("/ui/machines/web1")


def test_orders_by_form(served: Paged) -> None:
    done = served.ask("/ui/machines/web1/boot", FORM, "POST", b"profile=menu&boot=once")
    assert (done.status, done.headers["location"]) == (303, "/ui/machines/web1")
    assert (served.store.state("web1").boot, served.store.state("web1").profile) == ("once", "menu")
    part = served.ask("/ui/machines/web1/boot", {**FORM, "hx-request": "true"}, "POST", b"profile=&boot=local")
    assert part.status == 200 and b"<html" not in part.body and b"(boot: local)" in part.body
    assert served.ask("/ui/machines/web1/boot", FORM, "POST", b"boot=never").status == 400
    assert served.ask("/ui/machines/web1/boot", FORM, "POST", b"profile=nope&boot=once").status == 404
    assert served.ask("/ui/machines/web1/boot", {**FORM, "content-type": "text/plain"}, "POST", b"boot=once").status == 415
    foreign = {**FORM, "origin": "http://evil.example"}
    assert served.ask("/ui/machines/web1/boot", foreign, "POST", b"boot=once").status == 403
    assert served.store.state("web1").boot == "local"


def test_explain_as_any_firmware(served: Paged) -> None:
    text = served.page("/ui/machines/web1/explain?arch=x86-bios&loader=firmware")
    assert "undionly.kpxe by TFTP" in text and "<pre" in text and "#!ipxe" in text
    assert "ipxe.efi by TFTP" in served.page("/ui/machines/web1/explain?arch=nonsense&loader=nonsense")
    served.store.see(Mac("52:54:00:12:34:56"), None, "x86-bios", "PXEClient", 1.0)
    assert "undionly.kpxe by TFTP" in served.page("/ui/machines/web1/explain"), "as it was heard"
    text = served.page("/ui/machines/web1/explain?arch=rpiboot&loader=firmware")
    assert "config.txt" in text and "<option selected>raspberry-pi" in text


@pytest.mark.parametrize("path", [*PAGES, f"/ui/machines/{STRANGER}", f"/ui/machines/{STRANGER}/explain"])
def test_hostile_text_is_text(served: Paged, path: str) -> None:
    served.store.see(STRANGER, None, HOSTILE, HOSTILE, time.time())
    facts = {
        "offered": ("dhcp", {"nbp": HOSTILE, "arch": HOSTILE, "hostname": HOSTILE}),
        "script": ("http", {"profile": HOSTILE}),
        "failed": ("tftp", {"path": HOSTILE, "why": HOSTILE}),
        "missing": ("http", {"path": HOSTILE}),
    }
    for kind, (service, detail) in facts.items():
        served.happen(Event(time.time(), STRANGER, service, kind, detail))
    text = served.page(path)
    assert "<script>alert" not in text and "\x1b" not in text and "\u202e" not in text
    if path == f"/ui/machines/{STRANGER}":
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7*7 }}" in text


def test_static_files(served: Paged) -> None:
    for name in STATIC:
        answer = served.ask(f"/ui/static/{name}", HOST)
        assert answer.status == 200 and answer.headers["x-content-type-options"] == "nosniff"
    assert served.ask("/ui/static/page.css", HOST).headers["content-type"].startswith("text/css")
    for wrong in ("nothing", "..%2fweb.py", "%2e%2e"):
        assert served.ask(f"/ui/static/{wrong}", HOST).status == 404


def test_pages_name_only_what_is_there() -> None:
    templates = Path(STATIC["page.css"]).parent.parent / "templates"
    text = "".join(path.read_text() for path in templates.iterdir())
    named = set(re.findall(r"/ui/static/([^\"]+)", text))
    assert named <= set(STATIC)
    assert "http://" not in text and "https://" not in text, "nothing is loaded from elsewhere"


def test_a_picture_fills_its_width() -> None:
    parts = picture(Boot((*UEFI, *FILES, *DONE)))
    assert [part["stage"] for part in parts] == ["dhcp", "loader", "ipxe", "script", "files", "done"]
    assert all(0 <= part["x"] and part["x"] + part["width"] <= 600.1 for part in parts)
    assert picture(Boot(tuple(UEFI[:1])))[0]["width"] == 3.0


def test_five_hundred_machines_within_a_second(served: Paged) -> None:
    for number in range(500):
        mac = Mac.of(bytes((2, 0, 0, 1, number >> 8, number & 255)))
        served.store.see(mac, None, "x64-efi", "PXEClient", time.time())
        for event in later([*UEFI, *FILES], time.time() - 30):
            served.journal.record(Event(event.at, mac, event.service, event.kind, event.detail))
    began = time.process_time()
    text = served.page("/ui/")
    took = time.process_time() - began
    assert text.count("handed-over") >= 500
    print(f"500 machines in {took:.2f} s")
    assert took < 4, f"{took:.2f} s of processor time (under 1 s on a quiet machine)"


def test_adopted_changed_and_forgotten_by_forms(served: Paged) -> None:
    served.store.see(STRANGER, None, "x64-efi", "PXEClient", time.time())
    page = f"/ui/machines/{STRANGER}"
    for name, said in (("no good", "cannot be the name"), ("web1", "described in a file")):
        refused = served.ask(f"{page}/adopt", FORM, "POST", f"name={name}".encode())
        Checked(refused.body.decode())
        assert refused.status in (400, 409) and said in refused.body.decode() and f'value="{name}"' in refused.body.decode()
    made = served.ask(f"{page}/adopt", FORM, "POST", b"name=web9&profile=menu")
    assert (made.status, made.headers["location"]) == (303, "/ui/machines/web9")
    assert served.context.registry.current.machines["web9"].profile == "menu"
    assert 'id="describe"' in served.page("/ui/machines/web9") and 'id="describe"' not in served.page("/ui/machines/web1")
    taken = served.ask("/ui/machines/web9/describe", FORM, "POST", b"profile=&boot=once&address=10.0.0.50&hostname=")
    assert taken.status == 409 and "has the address 10.0.0.50 of machine web1" in taken.body.decode()
    changed = served.ask("/ui/machines/web9/describe", FORM, "POST", b"profile=&boot=once&address=10.0.0.51&hostname=")
    machine = served.context.registry.current.machines["web9"]
    assert changed.status == 303 and (machine.profile, machine.boot, machine.address) == (None, "once", "10.0.0.51")
    for action in ("adopt", "describe", "forget"):
        assert served.ask(f"/ui/machines/web9/{action}", {**FORM, "origin": "http://evil.example"}, "POST", b"").status == 403
        assert served.ask(f"/ui/machines/web9/{action}", {**FORM, "content-type": "text/plain"}, "POST", b"").status == 415
    assert served.ask("/ui/machines/web1/forget", FORM, "POST", b"").status == 409
    assert served.ask("/ui/machines/web9/forget", FORM, "POST", b"").headers["location"] == "/ui/"
    assert "web9" not in served.context.registry.current.machines


def test_rows_of_single_machines(served: Paged) -> None:
    served.store.see(STRANGER, None, "x64-efi", "PXEClient", time.time())
    text = served.page(f"/ui/rows?macs={STRANGER}+nonsense")
    assert text.count("<tr ") == 1 and f'id="m-{STRANGER}"' in text
    assert served.page("/ui/rows?macs=52:54:00:12:34:56").count('id="m-web1"') == 1
    assert "<tr " not in served.page("/ui/rows")


def test_what_is_being_loaded(served: Paged) -> None:
    served.happen(*later(UEFI, time.time() - 5))
    served.context.downloads.append(lambda: [Download("/assets/initrd.gz", "10.0.0.50", None, 200 << 20, 90 << 20)])
    served.happen(Event(time.time(), Mac("52:54:00:12:34:56"), "dhcp", "acked", {"address": "10.0.0.50"}))
    for path in ("/ui/", "/ui/machines/web1"):
        text = served.page(path)
        assert '<progress max="100" value="45"' in text and "initrd.gz, 90.0 MiB of 200.0 MiB" in text
    told = served.ask("/api/v1/machines/web1/timeline").json()["downloads"]
    assert told == [{"path": "/assets/initrd.gz", "bytes": 200 << 20, "sent": 90 << 20, "percent": 45,
                     "text": "initrd.gz, 90.0 MiB of 200.0 MiB"}]  # fmt: skip


def test_health_of_services_and_loaders(served: Paged, tmp_path: Path) -> None:
    (tmp_path / "tftp").mkdir()
    (tmp_path / "tftp" / "undionly.kpxe").write_bytes(bytes(5000))
    settings = served.context.settings
    served.context.settings = replace(settings, tftp=replace(settings.tftp, root=tmp_path / "tftp"))
    text = served.page("/ui/health")
    assert "67, 4011" in text and f"{tmp_path}/tftp/undionly.kpxe" in text and "4.9 KiB" in text
