"""kill -9 in the middle of a storm of machines, fifty times: every ACK is remembered, and no address is ACKed to two of them."""

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from pixieboot import config
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve.context import Context
from pixieboot.serve.dhcpd import DhcpService
from pixieboot.serve.links import Sites
from tests.wire.client import ACK, DISCOVER, OFFER, REQUEST, Answer, mac
from tests.wire.servers import POOL, Lan, lan, ours, pixieboot

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, ours]
ROUNDS, IN_FLIGHT, BOUND = 50, 16, 50.0
MACHINES = len(POOL) - 5


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan("server") as it:
        it.force = True
        pixieboot(it)  # writes its files
        yield it


async def serve(path: Path) -> None:
    """DHCP as the daemon runs it: the same settings, store, leases and service."""
    settings = config.load(path, {})
    registry = Registry(settings.registry)
    registry.load()
    store = StateStore.open(settings.state.removeprefix("sqlite:"))
    leases = Leases(store.leases(), store.newest)
    with (path.parent / "log").open("a") as log:
        sites = Sites(settings)
        service = DhcpService(Context(settings, registry, store, leases, Journal(log), sites))
        service.bind()
        await service.run()


class Daemon:
    """The server in a process of its own, forked: fifty interpreters would take longer to start than all else."""

    def __init__(self, net: Lan) -> None:
        with net.server.entered():
            self._process = get_context("fork").Process(target=self._run, args=(net.directory / "pixieboot.yaml",), daemon=True)
            self._process.start()
        assert net.answers(self._process.is_alive), net.said()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()

    @staticmethod
    def _run(path: Path) -> None:
        asyncio.run(serve(path))


class Storm:
    """Machines that ask for a lease over and over; what they were promised stays in `acked`, over all rounds."""

    def __init__(self, net: Lan) -> None:
        self._client = net.client
        self._flying: dict[int, bytes] = {}
        self.acked: dict[str, bytes] = {}

    def blow(self, machines: list[bytes], seconds: float) -> None:
        """Keep some of these machines asking for so long."""
        dice = random.Random(len(self.acked))
        self._flying = {}
        for chaddr in dice.sample(machines, IN_FLIGHT):
            self._discover(chaddr)
        self._hear(machines, dice, seconds)

    def settle(self) -> None:
        """What the server had sent before it died counts as well."""
        self._hear([], random.Random(0), 0.02)

    def _hear(self, machines: list[bytes], dice: random.Random, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for answer in self._client.answers(lambda answer: answer.message.xid in self._flying, left):
                chaddr = self._flying[answer.message.xid]
                if answer.type == OFFER and machines:
                    self._request(answer, chaddr)
                elif answer.type == ACK:
                    address = answer.message.yiaddr
                    assert self.acked.setdefault(address, chaddr) == chaddr, f"{address} was ACKed to two machines"
                    del self._flying[answer.message.xid]
                    if machines:
                        self._discover(dice.choice(machines))

    def _discover(self, chaddr: bytes) -> None:
        question = self._client.message(DISCOVER, chaddr)
        self._flying[question.xid] = chaddr
        self._client.send(question)

    def _request(self, offer: Answer, chaddr: bytes) -> None:
        chosen = {50: socket.inet_aton(offer.message.yiaddr), 54: offer.message.options[54]}
        self._client.send(self._client.message(REQUEST, chaddr, chosen, xid=offer.message.xid))


def test_rfc2131_2_1_bindings_outlive_fifty_kills(net: Lan) -> None:
    dice, storm, start = random.Random(9), Storm(net), time.monotonic()
    for done in range(ROUNDS):
        known = min(IN_FLIGHT + 2 * done, MACHINES)  # in every round some that were never seen before
        daemon = Daemon(net)
        storm.blow([mac(0x10000 + number) for number in range(known)], dice.uniform(0.01, 0.15))
        daemon.kill()
        storm.settle()
        assert time.monotonic() - start < BOUND, f"only {done} rounds in {BOUND} s"
    daemon = Daemon(net)
    assert len(storm.acked) > MACHINES // 2
    for address, chaddr in storm.acked.items():
        (answer,) = net.client.ask(net.client.message(REQUEST, chaddr, {50: socket.inet_aton(address)}))
        assert (answer.type, answer.message.yiaddr) == (ACK, address)
    daemon.kill()
