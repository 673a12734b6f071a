"""A TFTP service on loopback in a thread of its own, a client as the RFCs want it, and a bad network to put between them.

The fixtures at the end: modules that want them say `root, server, client = tftphost.root, tftphost.server, tftphost.client`.
"""

import asyncio
import heapq
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from pixieboot.config import LOADERS, TftpSettings
from pixieboot.journal import Journal
from pixieboot.model import Event
from pixieboot.serve.context import Context
from pixieboot.serve.loop import DirectLoop
from pixieboot.serve.tftpd import TftpService
from pixieboot.wire.tftp import Ack, Data, Error, OptionAck, Packet, ReadRequest, decode, encode

Address = tuple[str, int]


class Server:
    """The service, its events and its faults, while a `with` lasts."""

    def __init__(self, root: Path, settings: TftpSettings | None = None):
        self.port = free_port()
        self.address: Address = ("127.0.0.1", self.port)
        self.events: list[Event] = []
        self.faults: list[Mapping[str, Any]] = []
        journal = Journal(sys.stderr, "warning")
        journal.listen(self.events.append)
        tftp = replace(settings or TftpSettings(), root=root, port=self.port)
        self.context = SimpleNamespace(
            settings=SimpleNamespace(tftp=tftp, assets=root.parent / "assets", loaders=LOADERS, networks=()),
            sites=SimpleNamespace(at=lambda ifindex: None, of_address=lambda local: "a site", sites=[]),
            journal=journal,
            downloads=[],
        )
        self.service = TftpService(cast(Context, self.context))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.service.bind()
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(0)
        assert not self.faults, self.faults

    def stop(self, grace: float) -> None:
        if self._thread.is_alive():
            self.call(self.service.stop(grace))
            self.loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(10)
            assert not self._thread.is_alive()

    def call(self, coroutine: Any) -> Any:
        """Run something on the service's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=DirectLoop) as runner, suppress(asyncio.CancelledError):
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        task = asyncio.current_task()
        assert task
        self._task = task
        self.loop.call_soon(self._ready.set)
        await self.service.run()

    def kinds(self, wait_for: str = "", seconds: float = 5.0) -> list[str]:
        """The kinds of all events; with wait_for not before one of that kind is there."""
        self.event(wait_for, seconds) if wait_for else None
        return [event.kind for event in self.events]

    def event(self, kind: str, seconds: float = 5.0) -> Event:
        """The first event of a kind, waited for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in list(self.events):
                if event.kind == kind:
                    return event
            time.sleep(0.005)
        raise AssertionError(f"no event {kind!r} among {self.events}")


class Failed(Exception):
    """The server said ERROR."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"{error.code} {error.message}")
        self.code, self.message = error.code, error.message


class Client:
    """One UDP port that asks a server.  peer: its port for this transfer, once it has answered."""

    def __init__(self, server: Address, patience: float = 1.0, local: str = "127.0.0.1") -> None:
        self.server = self.peer = server
        self._patience = patience
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((local, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def only_from(self, address: Address) -> None:
        """Hear nobody else any more, as behind a filter."""
        self._socket.connect(address)

    def ask(self, path: str, mode: str = "octet", /, **options: object) -> None:
        self.raw(encode(ReadRequest(path, mode, {name: str(value) for name, value in options.items()})), self.server)

    def send(self, packet: Packet) -> None:
        """To the port that answered."""
        self.raw(encode(packet), self.peer)

    def raw(self, datagram: bytes, to: Address) -> None:
        self._socket.sendto(datagram, to)

    def hear(self, seconds: float = 2.0) -> Packet | None:
        """The next packet, or None."""
        self._socket.settimeout(seconds)
        try:
            datagram, self.peer = self._socket.recvfrom(70000)
        except (TimeoutError, BlockingIOError):
            return None
        return decode(datagram)

    def hear_all(self, seconds: float = 0.25) -> list[Packet]:
        """Everything that comes until it has been quiet for so long."""
        return list(iter(lambda: self.hear(seconds), None))

    def rest(self, blksize: int) -> bytes:
        """What follows the ACK that was sent last, block by block."""
        received = b""
        while isinstance(packet := self.hear(), Data):
            received += packet.payload
            self.send(Ack(packet.block))
            if len(packet.payload) < blksize:
                break
        return received

    def fetch(self, path: str, mode: str = "octet", /, **options: object) -> bytes:
        """The whole file.  Raises Failed, and TimeoutError when nothing comes any more."""
        received, blksize, windowsize = bytearray(), 512, 1
        following, in_window, answered, gap, tries = 1, 0, False, False, 0
        self.ask(path, mode, **options)
        while tries < 60:
            packet = self.hear(self._patience)
            if packet is None:
                tries, in_window, gap = tries + 1, 0, False
                if answered:
                    self.send(Ack((following - 1) & 0xFFFF))
                else:
                    self.ask(path, mode, **options)
                continue
            match packet:
                case Error():
                    raise Failed(packet)
                case OptionAck(agreed) if following == 1:
                    blksize, windowsize = int(agreed.get("blksize", 512)), int(agreed.get("windowsize", 1))
                    answered = True
                    self.send(Ack(0))
                case Data(block, payload) if block == following & 0xFFFF:
                    received += payload
                    answered, gap, tries = True, False, 0
                    following, in_window = following + 1, in_window + 1
                    if len(payload) < blksize:
                        self.send(Ack(block))
                        return bytes(received)
                    if in_window >= windowsize:
                        in_window = 0
                        self.send(Ack(block))
                case Data(block) if (block - following) & 0xFFFF < 32768:  # ahead: something was lost
                    if not gap:
                        gap, in_window = True, 0
                        self.send(Ack((following - 1) & 0xFFFF))
                case Data(block) if block == (following - 1) & 0xFFFF and not gap:  # again: our ACK was lost
                    in_window = 0
                    self.send(Ack(block))
        raise TimeoutError(f"{len(received)} octets, then nothing")


class BadNetwork:
    """Forwards between clients and a server, with a port of its own for each that the server uses; loses, repeats and reorders."""

    def __init__(self, server: Address, harm: float, seed: int = 1) -> None:
        self.address: Address
        self._server, self._harm, self._chance = server, harm, random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._late: list[tuple[float, int, socket.socket, bytes, Address]] = []
        self._order, self._over = 0, False
        self._listener = self._open()
        self.address = self._listener.getsockname()
        self._selector.register(self._listener, selectors.EVENT_READ, self._from_client)
        self._inner: dict[Address, socket.socket] = {}
        self._outer: dict[tuple[Address, Address], socket.socket] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            cast(socket.socket, key.fileobj).close()
        self._selector.close()

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        return sock

    def _from_client(self, sock: socket.socket, datagram: bytes, client: Address) -> None:
        if client not in self._inner:
            inner = self._inner[client] = self._open()
            self._selector.register(inner, selectors.EVENT_READ, lambda sock, datagram, tid: self._back(client, datagram, tid))
        self._carry(self._inner[client], datagram, self._server)

    def _back(self, client: Address, datagram: bytes, tid: Address) -> None:
        if (client, tid) not in self._outer:
            outer = self._outer[client, tid] = self._open()
            inner = self._inner[client]
            self._selector.register(outer, selectors.EVENT_READ, lambda sock, datagram, client: self._carry(inner, datagram, tid))
        self._carry(self._outer[client, tid], datagram, client)

    def _carry(self, sock: socket.socket, datagram: bytes, to: Address) -> None:
        chance, harm = self._chance.random, self._harm
        if chance() < harm:
            return
        for _ in range(2 if chance() < harm else 1):
            if chance() < harm:
                self._order += 1
                heapq.heappush(self._late, (time.monotonic() + chance() * 0.005, self._order, sock, datagram, to))
            else:
                with suppress(OSError):
                    sock.sendto(datagram, to)

    def _run(self) -> None:
        while not self._over:
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, sock, datagram, to = heapq.heappop(self._late)
                with suppress(OSError):
                    sock.sendto(datagram, to)
            for key, _ in self._selector.select(0.001 if self._late else 0.05):
                sock = cast(socket.socket, key.fileobj)
                with suppress(OSError):
                    for _ in range(64):
                        key.data(sock, *sock.recvfrom(70000))


def free_port() -> int:
    """Below the ports that the kernel gives to sockets: none of them takes it before the server does."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
            port = random.randrange(20_000, 32_000)
            sock.bind(("127.0.0.1", port))
            return port


CONTENT = bytes(range(256)) * 40 + b"end"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tftproot"
    (root / "dir").mkdir(parents=True)
    (root / "file").write_bytes(CONTENT)
    (root / "dir" / "inner").write_bytes(b"inner")
    (root / "small").write_bytes(b"small")
    (root / "text").write_bytes(b"one\ntwo\r")
    return root


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    with Server(root) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client
