"""Asking an API of Pixiecore's kind, over real HTTP: scripts, files, failures, and what is kept when it is gone."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pixieboot.model import Arch, Client, Loader, Mac
from pixieboot.serve import bootapi
from pixieboot.serve.bootapi import BootApi
from tests.httphost import Host
from tests.httphost import serving as daemon
from tests.upstreamhost import Exchange, Origin, serving

MAC = Mac("52:54:00:12:34:56")
ASKED = f"/api/v1/boot/{MAC}"
KERNEL = os.urandom(100_000)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as origin:
        origin.files["/api/k"] = KERNEL
        yield origin


@pytest.fixture
def host(tmp_path: Path, origin: Origin) -> Iterator[Host]:
    with daemon(tmp_path, source=f"pixiecore+{origin.url('/api')}", unknown="ignore") as host:
        yield host


def says(origin: Origin, **keys: Any) -> None:
    origin.files[ASKED] = json.dumps(keys).encode()


def api_of(host: Host) -> BootApi:
    assert isinstance(host.context.boot_api, BootApi)
    return host.context.boot_api


def links(script: bytes) -> list[str]:
    """The paths of a script's links to us."""
    base = b"http://192.0.2.1:8080"
    return [word.removeprefix(base).decode() for word in script.split() if word.startswith(base + b"/remote/")]


def test_a_machine_boots_what_the_api_says(host: Host, origin: Origin) -> None:
    says(origin, kernel="k", initrd=["/i"], cmdline='a={{ URL "cfg" }}', message="Hello")
    origin.files |= {"/i": b"initrd", "/api/cfg": b"config"}
    script = host.get("/ipxe?mac=52-54-00-12-34-56")
    assert script.status == 200 and b"echo Hello" in script.body
    bodies = [host.get(path).body for path in links(script.body.replace(b"a=http", b"a= http"))]
    assert bodies == [KERNEL, b"config", b"initrd"]
    path, headers = origin.asked[0]
    assert path == ASKED and "Range" not in headers
    event = next(event for event in host.events if event.service == "pixiecore")
    assert (event.mac, event.kind, event.detail["boots"]) == (MAC, "answered", origin.url("/api/k"))


def test_it_is_asked_for_each_script_and_what_it_says_now_counts(host: Host, origin: Origin) -> None:
    says(origin, **{"ipxe-script": "#!ipxe\necho {{ one }}\n"})
    assert host.get(f"/ipxe?mac={MAC}").body == b"#!ipxe\necho {{ one }}\n"
    says(origin, **{"ipxe-script": "#!ipxe\necho two\n"})
    assert host.get(f"/ipxe?mac={MAC}").body == b"#!ipxe\necho two\n"
    del origin.files[ASKED]
    refused = host.get(f"/ipxe?mac={MAC}")
    assert refused.status == 404 and b"nobody described this machine" in refused.body
    assert [path for path, _ in origin.asked] == [ASKED] * 3


def test_the_signature_is_of_what_the_api_says_now(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    class Echo:
        def sign(self, text: bytes, armoured: bool) -> bytes:
            return text

    monkeypatch.setattr(host.service, "_signer", Echo())
    for word in ("one", "two"):
        says(origin, **{"ipxe-script": f"#!ipxe\necho {word}\n"})
        assert host.get(f"/ipxe.sig?mac={MAC}").body == f"#!ipxe\necho {word}\n".encode()


def test_grub_and_pixiecores_own_side(host: Host, origin: Origin) -> None:
    says(origin, kernel="k", cmdline={"quiet": True})
    assert b" quiet" in host.get(f"/grub?mac={MAC}").body
    spec = json.loads(host.get(f"/v1/boot/{MAC}").body)
    assert host.get(spec["kernel"].removeprefix("http://192.0.2.1:8080")).body == KERNEL


def test_the_last_answer_is_kept_while_the_api_is_gone(host: Host, origin: Origin) -> None:
    says(origin, kernel="k")
    first = host.get(f"/ipxe?mac={MAC}")
    for act in (
        lambda e: e.head(500, Content_Length=0),
        lambda e: e.wfile.write(b"rubbish"),
        lambda e: e.head(200, Content_Length=0),
    ):
        origin.acts[ASKED] = act
        assert links(host.get(f"/ipxe?mac={MAC}").body) == links(first.body)
    why = [event.detail["why"] for event in host.events if event.kind == "failed"]
    assert len(why) == 3 and all("its last answer is kept" in sentence for sentence in why)


def test_without_any_answer_the_machine_is_told_why(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.acts[ASKED] = lambda exchange: exchange.head(500, Content_Length=0)
    refused = host.get(f"/ipxe?mac={MAC}")
    assert refused.status == 502 and b"answered 500" in refused.body
    monkeypatch.setattr(bootapi, "SECONDS", 0.1)

    def silent(exchange: Exchange) -> None:
        exchange.origin.over.wait(5)

    origin.acts[ASKED] = silent
    late = host.get(f"/ipxe?mac={MAC}")
    assert late.status == 504 and b"in time" in late.body
    says(origin, kernel="file:///etc/passwd")
    origin.acts.clear()
    assert b"pixiecore.files is not set" in host.get(f"/ipxe?mac={MAC}").body
    says(origin, kernel="k" * bootapi.LONGEST)
    assert b"more than" in host.get(f"/ipxe?mac={MAC}").body


def test_files_of_this_host_are_served_below_the_directory_that_the_settings_name(tmp_path: Path, origin: Origin) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "k 1").write_bytes(KERNEL)
    (tmp_path / "secret").write_bytes(b"secret")
    with daemon(tmp_path / "d", source=f"pixiecore+{origin.url('/api')}", pixiecore_files=images) as host:
        for path, status in (
            (f"{images}/k%201", 200),
            (f"{tmp_path}/secret", 403),
            (f"{images}/../secret", 404),
            (f"{images}/no", 404),
        ):
            says(origin, kernel=f"file://{path}")
            answer = host.get(links(host.get(f"/ipxe?mac={MAC}").body)[0])
            assert answer.status == status, path
            assert status != 200 or answer.body == KERNEL


def test_links_outlive_the_daemon(tmp_path: Path, origin: Origin) -> None:
    says(origin, kernel="k")
    paths = []
    for _ in range(2):
        with daemon(tmp_path, source=f"pixiecore+{origin.url('/api')}") as host:
            host.context.sites.link_key = b"kept in the state directory"
            host.call(host.context.sites.rebuild)
            paths.append(links(host.get(f"/ipxe?mac={MAC}").body))
            assert host.get(paths[0][0]).body == KERNEL
    assert paths[0] == paths[1] or len(paths) == 2


def test_only_machines_that_boot_from_the_network_are_asked_about(host: Host, origin: Origin) -> None:
    api, called = api_of(host), threading.Event()
    laptop, firmware = Client(MAC), Client(MAC, Arch.X64_EFI, Loader.FIRMWARE)
    assert not host.call(lambda: api.holds(laptop, called.set)) and not origin.asked
    says(origin, kernel="k")
    assert host.call(lambda: api.holds(firmware, called.set)) and called.wait(5)
    assert not host.call(lambda: api.holds(firmware, called.set))  # it is known, and was asked about a moment ago
    assert len(origin.asked) == 1 and host.context.registry.current.machine_of(firmware)


def test_a_flood_of_strangers_is_bounded(host: Host, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootapi, "WAITING", 3)
    go = threading.Event()

    def stuck(exchange: Exchange) -> None:
        go.wait(5)
        exchange.head(404, Content_Length=0)

    called: list[int] = []
    clients = [Client(Mac.of(number.to_bytes(6)), Arch.X86_BIOS) for number in range(6)]
    for client in clients:
        origin.acts[f"/api/v1/boot/{client.mac}"] = stuck
    held = host.call(lambda: [api_of(host).holds(c, lambda: called.append(1)) for c in clients])
    assert held == [True] * 6
    go.set()
    deadline = time.monotonic() + 5
    while len(called) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(called) == 3 and host.context.registry.current.machines == {}
