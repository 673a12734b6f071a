"""What every service shares: one registry, one store, one journal, one view of the networks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pixieboot.config import Settings
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Assignment, Client, Mac, Site
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve.links import Sites
from pixieboot.serve.way import Way


class Asks(Protocol):
    """Somebody else who says what machines boot (bootapi.py)."""

    def holds(self, client: Client, then: Callable[[], None]) -> bool: ...
    async def latest(self, mac: Mac) -> tuple[int, str] | None: ...


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
    way: Way = field(init=False)

    def __post_init__(self) -> None:
        self.way = Way(self.registry, self.store, self.journal)

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
