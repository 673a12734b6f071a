"""The operator's API over ASGI, with a real registry, store and journal behind it."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest

from pixieboot.config import Settings
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Event, Lease, LeaseState, Mac, Site
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore, StoreError
from pixieboot.serve import api
from pixieboot.serve.api import Api, application
from pixieboot.serve.context import Context
from pixieboot.serve.feed import Feed
from pixieboot.serve.history import History
from pixieboot.serve.links import Sites
from pixieboot.serve.openapi import Endpoint
from tests.test_boots import DONE, FILES, MAC, UEFI, later
from tests.test_policy import a_site

TOKEN = "correct-horse-battery-staple"
BEARER = {"authorization": f"Bearer {TOKEN}", "host": "10.0.0.1:8080"}
JSON = {**BEARER, "content-type": "application/json"}
STRANGER = Mac("02:00:00:00:00:09")


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


async def call(app: Any, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
    """One request, without a socket."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(), "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": ("10.0.0.9", 999),
        "server": ("10.0.0.1", 8080), "root_path": "", "http_version": "1.1",
    }  # fmt: skip
    sent: list[Any] = []
    received = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(received, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(
        sent[0]["status"],
        {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


class Served:
    """An API with all that it stands on."""

    def __init__(self, directory: Path) -> None:
        (directory / "reg").mkdir()
        (directory / "reg" / "machines.yaml").write_text(
            "web1:\n  mac: '52:54:00:12:34:56'\n  profile: linux\n  address: 10.0.0.50\n"
        )
        (directory / "reg" / "groups.yaml").write_text("default: {profile: menu}\nefi: {match: {platform: efi}, profile: linux}\n")
        (directory / "reg" / "profiles.yaml").write_text("linux: {title: Linux, kernel: vmlinuz, initrd: [initrd.gz]}\n")
        settings = Settings(registry=str(directory / "reg"), state=f"sqlite:{directory}/state.db")
        registry = Registry(settings.registry, settings.adopted)
        registry.load()
        self.store = StateStore.open(directory / "state.db")
        self.journal = Journal(StringIO(), "warning")
        self.leases = Leases([Lease("10.0.0.77", STRANGER, STRANGER, LeaseState.BOUND, time.time() + 60, "pc")])
        self.sites = _Sites()
        self.context = Context(settings, registry, self.store, self.leases, self.journal, cast(Sites, self.sites))
        self.history = History(directory / "events.db", self.journal)
        self.feed = Feed(self.journal)
        self.api = Api(self.context, self.feed, self.history)
        self.tcp = application(self.api, TOKEN, lambda: "auto")
        self.unix = application(self.api, None, lambda: "auto")

    def ask(self, target: str, headers: Mapping[str, str] = BEARER, method: str = "GET", body: Any = None) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return asyncio.run(call(self.tcp, method, target, headers, content))

    def happen(self, *events: Event) -> None:
        for event in events:
            self.journal.record(event)

    def close(self) -> None:
        self.history.close()
        self.store.close()


class _Sites:
    """The networks, without links."""

    def __init__(self) -> None:
        self.sites: tuple[Site, ...] = (a_site(),)
        self.notes: tuple[str, ...] = ()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


# --- reading ---


def test_machines_described_and_heard(served: Served) -> None:
    served.store.see(STRANGER, None, "x64-efi", "PXEClient", 1000.0)
    served.happen(*later([*UEFI, *FILES], time.time()))
    told = served.ask("/api/v1/machines").json()
    assert [(each["name"], each["described"]) for each in told["machines"]] == [("web1", True), (STRANGER, False)]
    first = told["machines"][0]
    assert first["where"].endswith("machines.yaml:1") and first["next"] == {
        "profile": "linux", "boot": "always", "why": "machine web1: its own profile linux",
    }  # fmt: skip
    assert first["last_boot"]["verdict"]["name"] == "handed-over" and first["last_boot"]["stage"] == "files"
    assert told["machines"][1]["arch"] == "x64-efi" and told["machines"][1]["next"]["profile"] == "linux"


@pytest.mark.parametrize("name", ["web1", "52-54-00-12-34-56", "525400123456"])
def test_one_machine(served: Served, name: str) -> None:
    told = served.ask(f"/api/v1/machines/{name}").json()
    assert told["name"] == "web1" and told["description"]["address"] == "10.0.0.50"


def test_nobody(served: Served) -> None:
    for target in ("/api/v1/machines/nobody", f"/api/v1/machines/{STRANGER}", "/api/v1/machines/nobody/timeline"):
        answer = served.ask(target)
        assert answer.status == 404 and "machine" in answer.json()["error"]["where"]
    served.happen(Event(time.time(), STRANGER, "dhcp", "offered", {"arch": "x64-efi"}))
    assert served.ask(f"/api/v1/machines/{STRANGER}").json()["described"] is False


def test_etags(served: Served) -> None:
    first = served.ask("/api/v1/machines/web1")
    again = served.ask("/api/v1/machines/web1", {**BEARER, "if-none-match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    changed = served.ask("/api/v1/machines/web1/boot", {**JSON, "if-match": first.headers["etag"]}, "POST", {"boot": "once"})
    assert changed.status == 200 and changed.headers["etag"] != first.headers["etag"]
    stale = served.ask("/api/v1/machines/web1/boot", {**JSON, "if-match": first.headers["etag"]}, "POST", {"boot": "once"})
    assert stale.status == 412
    assert served.ask("/api/v1/machines/web1/boot", {**JSON, "if-match": "*"}, "POST", {"boot": "once"}).status == 200


def test_groups_profiles_and_health(served: Served) -> None:
    assert [each["name"] for each in served.ask("/api/v1/groups").json()["groups"]] == ["efi", "default"]
    assert {each["name"] for each in served.ask("/api/v1/profiles").json()["profiles"]} == {"menu", "local", "linux"}
    health = served.ask("/api/v1/health").json()
    assert health["networks"][0]["address"] == "10.0.0.1" and health["registry"]["machines"] == 1 and health["history"] == ""


def test_timeline(served: Served) -> None:
    now = time.time() - 1000
    served.happen(*later([*UEFI, *FILES, *DONE], now - 5000), *later(UEFI, now))
    told = served.ask("/api/v1/machines/web1/timeline").json()
    assert [boot["verdict"]["name"] for boot in told["boots"]] == ["installed", "script-stopped"]
    assert told["verdict"] == told["boots"][-1]["verdict"]
    assert told["boots"][0]["events"][0]["text"].startswith("offered 52-54-00-12-34-56/ipxe.efi")
    assert len(served.ask("/api/v1/machines/web1/timeline?limit=1").json()["boots"]) == 1


def test_timeline_of_a_silent_machine(served: Served) -> None:
    told = served.ask("/api/v1/machines/web1/timeline").json()
    assert told["boots"] == [] and told["verdict"]["name"] == "nothing-heard"


def test_timeline_without_a_file(served: Served) -> None:
    served.happen(*later(UEFI, time.time()))
    memory = application(Api(served.context, served.feed), None, lambda: "auto")
    assert len(asyncio.run(call(memory, "GET", "/api/v1/machines/web1/timeline", {})).json()["boots"]) == 1
    assert "memory only" in asyncio.run(call(memory, "GET", "/api/v1/health", {})).json()["history"]


def test_explain(served: Served) -> None:
    told = served.ask("/api/v1/explain?machine=web1&arch=x86-bios").json()
    assert told["machine"] == "web1" and told["answers"][0]["answer"].endswith("undionly.kpxe by TFTP")
    served.store.see(STRANGER, None, "x86-bios", "PXEClient", 1000.0)
    assert "x86-bios" in served.ask(f"/api/v1/explain?mac={STRANGER}").json()["client"], "as it was heard"
    for wrong in ("", "?mac=nonsense", "?machine=web1&arch=z80", "?machine=web1&loader=lilo"):
        assert served.ask(f"/api/v1/explain{wrong}").status in (400, 404)
    served.sites.sites = ()
    assert served.ask("/api/v1/explain?machine=web1").status == 503
    assert served.ask("/api/v1/machines/web1").json()["next"]["why"] == "no network is served yet"


def test_leases(served: Served) -> None:
    told = served.ask("/api/v1/leases").json()["leases"]
    assert [(each["address"], each["state"], each["machine"]) for each in told] == [
        ("10.0.0.50", "reserved", "web1"),
        ("10.0.0.77", "bound", None),
    ]


# --- writing ---


def test_an_order_is_kept_and_told(served: Served) -> None:
    served.store.set_state("web1", replace(served.store.state("web1"), done=5.0))
    answer = served.ask("/api/v1/machines/web1/boot", JSON, "POST", {"profile": "menu", "boot": "once"})
    assert answer.json()["next"] == {
        "profile": "menu",
        "boot": "once",
        "why": "machine web1: profile menu was ordered for its next boot",
    }
    state = served.store.state("web1")
    assert (state.boot, state.profile, state.done) == ("once", "menu", 0.0)
    assert served.ask("/api/v1/events?machine=web1").json()["events"][-1]["kind"] == "ordered"
    local = served.ask("/api/v1/machines/web1/boot", JSON, "POST", {"boot": "local"}).json()
    assert local["next"]["profile"] == "local" and local["order"]["profile"] is None
    served.store.set_state("web1", replace(state, done=7.0))
    assert "reported done" in served.ask("/api/v1/machines/web1").json()["next"]["why"]


def test_a_stranger_takes_orders_before_it_was_heard(served: Served) -> None:
    assert served.ask(f"/api/v1/machines/{STRANGER}/boot", JSON, "POST", {"profile": "linux"}).status == 200
    assert served.store.state(STRANGER).profile == "linux"


def test_a_full_disk_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(key: str, state: object) -> None:
        raise StoreError(28, "no room")

    monkeypatch.setattr(served.store, "keep_state", full)
    assert served.ask("/api/v1/machines/web1/boot", JSON, "POST", {"boot": "local"}).status == 507


def test_what_is_not_there_is_told_as_json(served: Served) -> None:
    assert served.ask("/api/v1/nothing").json()["error"]["what"] == "not found"
    wrong = served.ask("/api/v1/leases", JSON, "DELETE")
    assert wrong.status == 405 and "GET" in wrong.headers["allow"]


def test_front_door(served: Served) -> None:
    assert served.ask("/", {"host": "10.0.0.1"}).body.startswith(b"pixieboot: machines start at /boot.ipxe")
    assert served.ask("/", {"host": "10.0.0.1", "accept": "text/html"}).headers["location"] == "/ui/"


# --- events ---


def test_events(served: Served) -> None:
    served.happen(*later(UEFI, time.time()))
    told = served.ask("/api/v1/events?limit=3").json()["events"]
    assert [event["kind"] for event in told] == ["offered", "sent", "script"]
    before = served.ask(f"/api/v1/events?limit=2&before={told[0]['id']}").json()["events"]
    assert [event["kind"] for event in before] == ["started", "sent"]


def test_the_stream(served: Served) -> None:
    served.happen(Event(time.time(), MAC, "dhcp", "offered", {"hostname": "a\nb", "arch": object()}))

    async def story() -> bytes:
        sent: list[bytes] = []
        stream = served.api._stream("0-0")
        sent.append(await anext(stream))
        sent.append(await anext(stream))
        return b"".join(sent)

    text = asyncio.run(story()).decode()
    assert text.startswith(": pixieboot\n\nid: ") and text.count("\n") == 5, "a newline of a client's ends no event"

    async def ended() -> Answer:
        asyncio.get_running_loop().call_later(0.05, served.feed.stop)
        return await call(served.tcp, "GET", "/api/v1/events?after=0-0", {**BEARER, "accept": "text/event-stream"})

    answer = asyncio.run(ended())
    assert answer.headers["content-type"].startswith("text/event-stream") and b"offered" in answer.body


@pytest.mark.parametrize("endpoint", api.ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
@pytest.mark.parametrize("name", ["web1", "nobody", "a%2Fb", "é", "..", "'", "<script>"])
def test_every_answer_is_one_that_is_described(served: Served, endpoint: Endpoint, name: str) -> None:
    allowed = {*endpoint.statuses, 401, 403, 404, 405}
    headers = JSON if endpoint.body else BEARER
    for body in (None, b"\xff\xfe", {"boot": "once"}):
        answer = served.ask(f"/api/v1{endpoint.path.format(name=name)}", headers, endpoint.method, body)
        assert answer.status in allowed, answer
        if answer.status >= 400:
            assert set(answer.json()["error"]) == {"where", "what", "mend"}
