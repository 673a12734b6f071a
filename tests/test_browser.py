"""The page in a real browser: a boot watched live, machines adopted and ordered about, by mouse and by keyboard alone."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.model import Event, Mac
from pixieboot.serve.api import application
from pixieboot.serve.context import Download
from pixieboot.serve.web import OPEN_PATHS, Pages
from tests.browser import Browser, program
from tests.test_api import TOKEN
from tests.test_boots import DONE, FILES, MAC, UEFI, later
from tests.test_operator import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium here: Debian has the package, Ubuntu a snap only"),
]
STRANGER = Mac("02:00:00:00:00:09")
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
SCREENS = os.environ.get("PIXIEBOOT_SCREENSHOTS")  # a directory: pictures for people to look at


class Site(Running):
    """The daemon's page on a TCP port of loopback."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = f"http://127.0.0.1:{self.port}"

    def applications(self) -> None:
        self.tcp = application(self.api, TOKEN, lambda: "auto", Pages(self.api, TOKEN).routes(), OPEN_PATHS)

    def tell(self, *events: Event, start: float | None = None) -> None:
        """In the daemon's own thread, as the services do."""
        moment = time.time() if start is None else start
        for event in later([*events], moment) if start is not None else events:
            self.in_loop(lambda event=event: self.journal.record(event))  # type: ignore[misc]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path)
    yield running
    running.close()


@pytest.fixture
def page(site: Site, chromium: Browser) -> Iterator[Browser]:
    """Logged in, at the list of machines."""
    chromium.screen(1280, 800)
    chromium.open(f"{site.url}/ui/login")
    chromium.wait("document.activeElement.id === 'token'")
    chromium.type(TOKEN)
    chromium.press("Enter")
    chromium.wait("document.querySelector('#live.on')")
    chromium.errors.clear()
    yield chromium
    assert not chromium.errors, chromium.errors
    chromium.open("about:blank")


def picture(browser: Browser, name: str) -> None:
    if SCREENS:
        browser.screenshot(Path(SCREENS) / f"{name}.png")


def test_login_and_a_wrong_token(site: Site, chromium: Browser) -> None:
    chromium.screen(1280, 800)
    chromium.open(f"{site.url}/ui/")
    chromium.wait("location.pathname === '/ui/login' && document.activeElement.id === 'token'")
    picture(chromium, "login")
    chromium.type("nonsense")
    chromium.press("Enter")
    chromium.wait("document.querySelector('[role=alert]').textContent.includes('not the token')")
    chromium.wait("document.activeElement.id === 'token'")
    chromium.type(TOKEN)
    chromium.press("Enter")
    chromium.wait("document.querySelector('#live.on')")
    assert "web1" in chromium.text()
    chromium.click("header form button")
    chromium.wait("location.pathname === '/ui/login'")
    chromium.open("about:blank")


def test_a_boot_is_watched_live_from_discover_to_done(site: Site, page: Browser) -> None:
    row = "document.getElementById('m-web1')"
    assert page.evaluate(f"{row}.innerText.includes('never')")
    page.evaluate("window.before = document")
    for events, stage in ((UEFI[:1], "dhcp"), (UEFI, "script"), ([*UEFI, *FILES], "files"), ([*UEFI, *FILES, *DONE], "done")):
        site.tell(*events[-2:], start=time.time())
        page.wait(f"{row}.querySelector('.bar.at-{stage}')")
    page.wait(f"{row}.querySelector('.verdict.ok')")
    assert page.evaluate("window.before === document"), "nothing was loaded anew"
    page.click("#m-web1 a")
    page.wait("document.querySelector('.strip rect.done') && document.querySelector('#live.on')")
    picture(page, "machine")
    site.tell(*UEFI[:1], start=time.time() + 400)
    page.wait("document.querySelectorAll('article.boot').length === 2")


def test_a_download_under_way(site: Site, page: Browser) -> None:
    sent = [10 << 20]
    site.context.downloads.append(lambda: [Download("/assets/initrd.gz", "10.0.0.9", MAC, 200 << 20, sent[0])])
    site.tell(*UEFI, start=time.time() - 12)
    page.wait("document.querySelector('#m-web1 progress').value === 5")
    picture(page, "machines-going")
    sent[0] = 100 << 20
    page.wait("document.querySelector('#m-web1 progress').value === 50")
    assert "initrd.gz, 100.0 MiB of 200.0 MiB" in page.text()


def test_adopt_change_and_forget(site: Site, page: Browser) -> None:
    site.store.see(STRANGER, None, "x64-efi", "PXEClient:Arch:00007", time.time())
    site.tell(*(Event(event.at, STRANGER, event.service, event.kind, event.detail) for event in later(UEFI, time.time())))
    page.wait("document.querySelector('a[href$=\"#adopt\"]')")
    page.click("a[href$='#adopt']")
    page.wait("document.getElementById('name')")
    picture(page, "stranger")
    page.click("#name")
    page.type("web1")
    page.press("Enter")
    page.wait("document.querySelector('[role=alert]').textContent.includes('described in a file')")
    page.errors.clear()  # the browser tells of the status
    page.evaluate("document.getElementById('name').select()")
    page.click("#name")
    page.evaluate("document.getElementById('name').select()")
    page.type("web9")
    page.press("Enter")
    page.wait("location.pathname === '/ui/machines/web9' && document.getElementById('describe')")
    assert site.context.registry.current.machines["web9"].macs == (STRANGER,)
    page.click("#describe summary")
    page.evaluate("document.getElementById('boots-profile').value = 'menu'")
    page.click("#describe .main")
    page.wait("document.querySelector('.facts strong')?.textContent === 'menu'")
    assert site.context.registry.current.machines["web9"].profile == "menu"
    page.click("#describe summary")
    page.click("#describe .danger")
    page.wait("location.pathname === '/ui/' && document.querySelector('#live.on')")
    assert "web9" not in site.context.registry.current.machines


def test_reinstall_once_and_local_by_keyboard_alone(site: Site, page: Browser) -> None:
    page.tab_to("#m-web1 a")
    page.press("Enter")
    page.wait("location.pathname === '/ui/machines/web1' && document.querySelector('#live.on')")
    page.tab_to("#profile")
    page.press("ArrowDown")
    chosen = page.evaluate("document.getElementById('profile').value")
    page.tab_to("#once")
    page.press("Enter")
    page.wait("document.querySelector('.facts dd').textContent.includes('(once)')")
    state = site.store.state("web1")
    assert (state.boot, state.profile) == ("once", chosen) and chosen
    page.wait("document.activeElement.id === 'once'")
    page.tab_to("#local")
    page.press("Enter")
    page.wait("document.querySelector('.facts dd').textContent.includes('(boot: local)')")
    assert site.store.state("web1").boot == "local"


def test_hostile_text_is_text(site: Site, page: Browser) -> None:
    site.store.see(STRANGER, None, HOSTILE, HOSTILE, time.time())
    for address in ("/ui/", "/ui/log", f"/ui/machines/{STRANGER}"):
        page.open(f"{site.url}{address}")
        page.wait("document.querySelector('#live.on')")
        detail = {"hostname": HOSTILE, "nbp": HOSTILE, "arch": HOSTILE, "why": f"{HOSTILE} {address}"}
        site.tell(Event(time.time(), STRANGER, "dhcp", "offered", detail))
        page.wait("document.querySelector('main').innerText.includes('<script>document.title')")
        assert page.evaluate("document.title") != "owned" and page.evaluate("document.querySelectorAll('main img').length") == 0


def test_empty_states_say_what_to_do_next(site: Site, page: Browser, tmp_path: Path) -> None:
    (tmp_path / "reg" / "machines.yaml").unlink()
    (tmp_path / "reg" / "groups.yaml").unlink()
    site.context.registry.load()
    for address, said in (
        ("/ui/", "network boot first"), ("/ui/profiles", "groups.yaml"), ("/ui/?find=nobody", "Show all machines"),
        (f"/ui/machines/{STRANGER}", "Adopt it"), ("/ui/health", "doctor"), ("/ui/log", "newest first"),
    ):  # fmt: skip
        page.open(f"{site.url}{address}")
        assert said in page.text(), address
        picture(page, f"empty{address.replace('/', '-').replace('?', '-')}")


@pytest.mark.parametrize("width, dark", [(360, False), (360, True), (1280, True)])
def test_no_page_is_wider_than_its_screen(site: Site, page: Browser, width: int, dark: bool) -> None:
    site.store.see(STRANGER, None, "x64-efi", "PXEClient:Arch:00007:UNDI:003016", time.time())
    site.tell(*UEFI, *FILES, *DONE, start=time.time() - 3000)
    site.tell(*UEFI, start=time.time() - 900)
    page.screen(width, 780, dark)
    for name in ("", "machines/web1", "machines/web1/explain", f"machines/{STRANGER}", "profiles", "leases", "log", "health"):
        page.open(f"{site.url}/ui/{name}")
        page.wait("document.querySelector('#live.on')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        dim = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, dim[4:-1].split(", "))) < 200) == dark
        picture(page, f"{name.replace('/', '-') or 'machines'}-{width}{'-dark' if dark else ''}")


def test_five_hundred_machines(site: Site, page: Browser) -> None:
    for number in range(500):
        mac = Mac.of(bytes((2, 0, 0, 1, number >> 8, number & 255)))
        site.store.see(mac, None, "x64-efi", "PXEClient", time.time())
        site.tell(*(Event(e.at, mac, e.service, e.kind, e.detail) for e in later([*UEFI, *FILES], time.time() - 30)))
    page.open(f"{site.url}/ui/")
    page.wait("document.querySelectorAll('tbody tr').length === 501 && document.querySelector('#live.on')")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    sent = page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd")
    mac, times = Mac("02:00:00:01:01:00"), []
    for number in range(6):
        page.evaluate(
            f"window.old = document.getElementById('m-{mac}'); window.seen = new Promise(done => new MutationObserver(() => {{"
            f" if (document.getElementById('m-{mac}') !== window.old) requestAnimationFrame(() => done(Date.now() / 1000)); }})"
            ".observe(document.querySelector('#machines'), {childList: true, subtree: true})); 1"
        )
        at = time.time()
        site.tell(Event(at, mac, "http", "done", {"machine": "x", "number": number}))
        times.append(page.evaluate("window.seen") - at)
    page.wait(f"document.getElementById('m-{mac}').querySelector('.at-done')")
    visible = [round(each * 1000) for each in times[1:]]
    print(f"first paint {paint:.0f} ms (answer whole after {sent:.0f} ms); event visible after {visible} ms")
    assert paint < 5000 and min(times) < 3, "five times what a quiet machine takes, and more"
