"""What every service shares: one registry, one store, one journal, one view of the networks."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from pixieboot.config import Settings
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Assignment, Client, Mac, Site
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve.deadlines import Deadlines
from pixieboot.serve.links import Sites
from pixieboot.serve.localboot import LocalBoot


class Asks(Protocol):
    """Somebody else who says what machines boot (bootapi.py)."""

    def holds(self, client: Client, then: Callable[[], None]) -> bool: ...
    async def latest(self, mac: Mac) -> tuple[int, str] | None: ...


@dataclass(frozen=True, slots=True)
class Download:
    """A file on its way to a machine.  mac None: it did not say who it is, its address (peer) may tell."""

    path: str
    peer: str
    mac: Mac | None
    size: int
    sent: int


@dataclass(slots=True)
class Context:
    """settings and sites are replaced whole on a reload; the rest live as long as the daemon."""

    settings: Settings
    registry: Registry
    store: StateStore
    leases: Leases
    journal: Journal
    sites: Sites
    boot_api: Asks | None = None  # if the registry is one that is asked by HTTP
    # Set when the start is over for machines: from then on the rest, which only operators need, may take the processor.
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    deadlines: Deadlines = field(init=False)
    local_boot: LocalBoot = field(init=False)
    # Each service's running downloads: looked at when somebody wants to know, at no cost to those who send.
    downloads: list[Callable[[], Iterable[Download]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadlines = Deadlines(self.registry, self.store, self.journal)
        self.local_boot = LocalBoot(self.store, self.journal)

    def running(self) -> dict[Mac, list[Download]]:
        """The downloads that are under way, by machine."""
        found: dict[Mac, list[Download]] = {}
        for service in self.downloads:
            for each in service():
                if mac := each.mac or self.journal.mac_of(each.peer):
                    found.setdefault(mac, []).append(each)
        return found

    def state_key(self, client: Client) -> str:
        """Under which name the store keeps what was ordered or learned: the machine's name, else its MAC."""
        machine = self.registry.current.machine_of(client)
        return machine.name if machine else client.mac

    def may_note(self, client: Client) -> bool:
        """Is there room to note what this client did?  Made-up MACs fill neither memory nor disk."""
        return self.registry.current.machine_of(client) is not None or self.store.has_room(client.mac)

    def assign(self, client: Client, site: Site) -> Assignment:
        """Who this client is and what it is to boot, with what was ordered and learned."""
        return self.registry.current.assign(client, site, self.store.state(self.state_key(client)))
