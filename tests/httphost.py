"""A whole HTTP service on 127.0.0.1 for tests, and a raw client that sees every byte."""

import asyncio
import io
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn.server

from pixieboot.config import HttpSettings, Settings, TftpSettings
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Event, Network
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve import parsers
from pixieboot.serve.bootapi import BootApi
from pixieboot.serve.context import Context
from pixieboot.serve.httpd import HttpService
from pixieboot.serve.links import IFF_BROADCAST, IFF_UP, Link, Sites
from pixieboot.serve.zerocopy_h11 import H11Protocol, ZeroCopyH11

ETH7 = Link(7, "eth7", b"\2\0\0\0\0\7", 1500, IFF_UP | IFF_BROADCAST, 1, (IPv4Interface("192.0.2.1/24"),))
MAC = "52:54:00:12:34:56"
REGISTRY = {
    "machines.yaml": f"web1: {{mac: {MAC}, profile: linux, vars: {{role: controller}}}}\n"
    "disk1: {mac: 02:00:00:00:00:01, boot: local, local_boot: http404}\n"
    "once1: {mac: 02:00:00:00:00:02, profile: linux, boot: once}\n"
    "bad1: {mac: 02:00:00:00:00:03, profile: broken}\n",
    "profiles.yaml": "linux:\n  kernel: vmlinuz\n  initrd: [initrd.gz]\n  args: [console=ttyS0]\n  ignition: worker.ign.j2\n"
    "  cloud: cloud.yaml.j2\n  files: {kickstart: el.ks.j2, meta-data: meta.j2}\n"
    "broken: {script: broken.ipxe.j2}\nother: {kernel: other/vmlinuz}\n",
    "groups.yaml": "arm: {match: {arch: arm64-efi}, profile: other}\n",
    "templates/worker.ign.j2": '{"ignition": {"version": "3.4.0"}, "role": "{{ vars.role }}"}',
    "templates/cloud.yaml.j2": "#cloud-config\nhostname: {{ machine.name }}\n",
    "templates/el.ks.j2": "# kickstart for {{ client.mac }}\n",
    "templates/meta.j2": "instance-id: {{ client.mac }}\n",
    "templates/broken.ipxe.j2": "#!ipxe\necho {{ vars.nothing }}\n",
}
BIG = os.urandom(3_000_001)
SMALL = os.urandom(3000)
IMF_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
# uvicorn sleeps for a tenth of a second at each end, which a hundred services of tests need not.
HASTY = SimpleNamespace(**{**vars(asyncio), "sleep": lambda seconds: asyncio.sleep(seconds / 20)})
PROTOCOLS = {"httptools": getattr(parsers, "ZeroCopyHttpTools", None), "h11": ZeroCopyH11, "plain": H11Protocol}


@dataclass
class Host:
    """The service and what it works with.  call runs a function on its loop."""

    context: Context
    service: HttpService
    events: list[Event] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def port(self) -> int:
        return self.service.port

    def connect(self) -> "Wire":
        return Wire(socket.create_connection(("127.0.0.1", self.port), timeout=10))

    def ask(self, request: str | bytes) -> "Response":
        """One request on a connection of its own.  Lines may end in a bare newline; the blank line may be missing."""
        with self.connect() as wire:
            wire.send(request)
            return wire.response(head="HEAD" in str(request)[:6])

    def get(self, target: str, **headers: str) -> "Response":
        lines = [f"GET {target} HTTP/1.1", "Host: x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        return self.ask("\n".join(lines))

    def heard(self, count: int) -> list[Event]:
        """The first events, once there are so many: files are told of after their last byte."""
        deadline = time.monotonic() + 5
        while len(self.events) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.events

    def call(self, work: Callable[[], Any]) -> Any:
        async def on_loop() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(10)


@dataclass(frozen=True)
class Response:
    status: int
    raw_head: bytes
    names: tuple[str, ...]
    headers: Mapping[str, str]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return self.headers[name]


class Wire:
    """One TCP connection, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self.rest = sock, b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, request: str | bytes) -> None:
        if isinstance(request, str):
            request = request.replace("\r\n", "\n").rstrip("\n").replace("\n", "\r\n").encode() + b"\r\n\r\n"
        self.socket.sendall(request)

    def response(self, head: bool = False) -> Response:
        """The next response.  head: it answers a HEAD request."""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self._piece()
        raw, _, self.rest = self.rest.partition(b"\r\n\r\n")
        lines = raw.decode().split("\r\n")
        fields = [tuple(line.split(": ", 1)) for line in lines[1:]]
        headers = {name.lower(): value for name, value in fields}
        status = int(lines[0].split()[1])
        length = 0 if head or status == 304 else int(headers["content-length"])
        whole = bytearray(self.rest)
        while len(whole) < length:
            whole += self._piece()
        body, self.rest = bytes(whole[:length]), bytes(whole[length:])
        return Response(status, raw, tuple(name for name, _ in fields), headers, body)

    def closed(self, within: float = 5) -> bool:
        """Does the other side close now, without another byte?"""
        self.socket.settimeout(within)
        try:
            return self.rest == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def _piece(self) -> bytes:
        piece = self.socket.recv(1 << 20)
        if not piece:
            raise EOFError(f"closed after {self.rest[-200:]!r}")
        return piece


@contextmanager
def serving(
    directory: Path,
    protocol: type[asyncio.Protocol] | None = None,
    registry: Mapping[str, str] | None = None,
    rest: Any = None,
    source: str = "",
    **settings: Any,
) -> Iterator[Host]:
    """An HTTP service with this registry (file name -> text), assets and tftp below directory.  protocol None: its choice."""
    for name in ("assets", "tftp", "registry/templates"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name, text in (registry or {}).items():
        (directory / "registry" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "registry" / name).write_text(text)
    described = Registry(source or str(directory / "registry"), boot=settings.get("boot"))
    described.load()
    settings.setdefault("networks", (Network(interface="eth7"),))
    settings.setdefault("state", f"sqlite:{directory}/state.db")
    wanted = Settings(
        http=HttpSettings(port=0, base_url="http://192.0.2.1:8080"),
        tftp=TftpSettings(root=directory / "tftp"),
        assets=directory / "assets",
        registry=described.source,
        **settings,
    )
    store = StateStore.open(directory / "state.db")
    journal = Journal(io.StringIO())
    sites = Sites(wanted, lambda: [ETH7])
    context = Context(wanted, described, store, Leases(()), journal, sites)
    if described.machines is not None:
        context.boot_api = BootApi(context, described.machines)
    host = Host(context, HttpService(context, rest))
    journal.listen(host.events.append)
    host.service.bind()

    chosen, patch = parsers.chosen, pytest.MonkeyPatch()

    async def given() -> type[asyncio.Protocol]:
        return protocol or await chosen()

    patch.setattr(parsers, "chosen", given)
    patch.setattr(uvicorn.server, "asyncio", HASTY)
    thread = threading.Thread(target=host.loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(host.service.run(), host.loop)
    try:
        while not host.service.ready:
            assert not running.done(), running.exception()
            time.sleep(0.005)
        yield host
    finally:
        asyncio.run_coroutine_threadsafe(host.service.stop(0.5), host.loop).result(10)
        running.result(10)
        host.loop.call_soon_threadsafe(host.loop.stop)
        thread.join(10)
        patch.undo()
        host.loop.close()
        store.close()


def settle(condition: Any, within: float = 20, begin: Any = None) -> None:
    """Wait until condition holds; begin: which must have held before."""
    end = time.monotonic() + within
    while begin and not begin() and time.monotonic() < end:
        time.sleep(0.002)
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def booting(directory: Path, protocol: str) -> Iterator[Host]:
    """An HTTP service with REGISTRY and a few files, by one of PROTOCOLS."""
    if PROTOCOLS[protocol] is None:
        pytest.skip("httptools is not installed")
    (directory / "assets/images").mkdir(parents=True)
    (directory / "tftp").mkdir()
    files = {
        "assets/big.bin": BIG,
        "assets/small.bin": SMALL,
        "assets/empty": b"",
        "assets/images/a b+c%.img": b"odd name",
        "tftp/snp.efi": SMALL,
        "tftp/pxelinux": b"pxelinux",
        "secret": b"outside",
    }
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / "assets/inside").symlink_to("images/a b+c%.img")
    (directory / "assets/outside").symlink_to("../secret")
    os.mkfifo(directory / "assets/fifo")
    with serving(directory, PROTOCOLS[protocol], REGISTRY) as running:
        yield running


def lawful(got: Response) -> None:
    """What holds for every reply."""
    assert all(re.fullmatch(r"([A-Z][a-z]*|ETag)(-[A-Z][a-z]*)*", name) for name in got.names), got.names
    assert len(set(got.names)) == len(got.names)
    assert int(got["content-length"]) == len(got.body)
    assert IMF_DATE.fullmatch(got["date"])
    assert not {"server", "location", "transfer-encoding", "content-encoding"} & set(got.headers)
    assert all(got.headers.values())  # an empty value locks up EDK2 (edk2 #7443)


def without_date(got: Response) -> bytes:
    return re.sub(rb"Date: [^\r]*\r\n", b"", got.raw_head)


def answers(host: Host, target: str, status: int, content_type: str, body: bytes) -> None:
    """That target is answered so, lawfully; and HEAD of it with the same head."""
    with host.connect() as wire:
        wire.send(f"GET {target} HTTP/1.1\nHost: x")
        got = wire.response()
        assert (got.status, got["content-type"]) == (status, content_type)
        assert body in got.body
        lawful(got)
        wire.send(f"HEAD {target} HTTP/1.1\nHost: x")
        head = wire.response(head=True)
        wire.send("GET /healthz HTTP/1.1\nHost: x")  # a body after HEAD would stand here
        assert wire.response().body == b"ok\n"
    assert without_date(head) == without_date(got)
