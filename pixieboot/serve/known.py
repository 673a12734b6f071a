"""What the daemon knows of machines, put together from registry, store, journal and history: for the API and the page alike."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from pixieboot import __version__
from pixieboot.boots import Boot, split, tell
from pixieboot.config import Settings
from pixieboot.inventory import Inventory
from pixieboot.journal import event_json
from pixieboot.model import Arch, Assignment, Client, Event, Loader, Mac, Machine, MachineState, Site, Stage
from pixieboot.policy import booted, next_boot
from pixieboot.registry.sqlite import Discovered
from pixieboot.serve.answers import Refusal
from pixieboot.serve.context import Context, Download
from pixieboot.serve.files import open_boot_file, remedy
from pixieboot.serve.history import History
from pixieboot.serve.views import boot_json, download_json, last_address, lease_json, state_json, verdict_json
from pixieboot.verdict import judge, nothing_heard

REJUDGE = 10.0  # seconds after which silence alone may change a verdict
BREATH = 4  # machines judged between two looks at the sockets: DHCP must not wait for a table


@dataclass(frozen=True, slots=True)
class Who:
    """A machine as an operator names it: described, or known by its MAC alone."""

    name: str
    machine: Machine | None
    macs: tuple[Mac, ...]

    @property
    def key(self) -> str:
        """Its name in the state store."""
        return self.machine.name if self.machine else self.macs[0]


class Known:
    """Questions about machines; nothing is changed by any of them."""

    def __init__(self, context: Context, history: History | None = None) -> None:
        """history None: events are kept in memory only."""
        self._context, self._history = context, history
        self._judged: dict[str, tuple[Any, float, dict[str, Any]]] = {}  # machine -> on what facts, when, its last boot

    def all(self) -> list[Who]:
        """All machines: those described, then those only heard, by name."""
        who = [Who(machine.name, machine, machine.macs) for machine in self._context.registry.current.machines.values()]
        known = {mac for each in who for mac in each.macs}
        who.sort(key=lambda each: each.name)
        who += sorted((Who(seen.mac, None, (seen.mac,)) for seen in self._strangers(known)), key=lambda each: each.name)
        return who

    async def summaries(self, chosen: Iterable[Who]) -> AsyncIterator[dict[str, Any]]:
        """A summary of each; the loop gets its turns in between."""
        running = self._context.running()
        for number, who in enumerate(chosen):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            yield self.summary(who, running)

    def _strangers(self, known: set[Mac]) -> list[Discovered]:
        machine_of = self._context.registry.current.machine_of
        return [
            seen
            for seen in self._context.store.discovered()
            if seen.mac not in known and machine_of(Client(seen.mac, uuid=seen.uuid)) is None
        ]

    def all_leases(self) -> list[dict[str, Any]]:
        """Leases and reservations, by address."""
        machines = self._context.registry.current.machines.values()
        owner = {mac: machine.name for machine in machines for mac in machine.macs}
        leases = [lease_json(lease, owner.get(lease.mac)) for lease in self._context.leases.all()]
        taken = {lease["address"] for lease in leases}
        leases += [
            {
                "address": machine.address,
                "mac": machine.macs[0] if machine.macs else None,
                "state": "reserved",
                "expires": None,
                "hostname": machine.hostname or "",
                "machine": machine.name,
                "client": machine.macs[0] if machine.macs else "",
            }
            for machine in machines
            if machine.address and machine.address not in taken
        ]
        leases.sort(key=lambda lease: tuple(map(int, str(lease["address"]).split("."))))
        return leases

    def health(self) -> dict[str, Any]:
        """The daemon itself: what it serves, and what is wrong with it."""
        context = self._context
        inventory, settings = context.registry.current, context.settings
        # A service that fails ends the daemon: those that are on do run.
        dhcp = not settings.networks or any(network.mode != "off" for network in settings.networks)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "services": [
                {"name": "DHCP", "ports": "67, 4011", "state": "runs" if dhcp else "off: every network says `dhcp: off`"},
                {"name": "TFTP", "ports": str(settings.tftp.port), "state": "runs"},
                {"name": "HTTP", "ports": str(settings.http.port), "state": "runs"},
                {"name": "API", "ports": settings.api.listen.replace("same", str(settings.http.port)), "state": "runs"},
            ],
            "loaders": [_loader(settings, arch, name) for arch, name in settings.loaders.items()],
            "networks": [
                {
                    "interface": site.interface,
                    "dhcp": site.network.mode,
                    "address": site.address,
                    "subnet": str(site.subnet),
                    "http_url": site.http_url,
                    "unknown": site.unknown,
                }
                for site in context.sites.sites
            ],
            "notes": list(context.sites.notes),
            "registry": {
                "source": settings.registry,
                "machines": len(inventory.machines),
                "groups": len(inventory.groups),
                "profiles": len(inventory.profiles),
            },
            "history": self._history.error if self._history else "events are kept in memory only",
        }

    def who(self, name: str, strangers: bool = False) -> Who:
        """The machine of this name, MAC, UUID or serial.  strangers: any MAC will do, also one that was never heard."""
        machine = self._context.registry.current.find(name)
        if machine:
            return Who(machine.name, machine, machine.macs)
        try:
            mac = Mac.parse(name)
        except ValueError:
            mac = None
        if mac and (strangers or self._context.journal.timeline(mac) or self._context.store.seen(mac)):
            return Who(mac, None, (mac,))
        if not name and strangers:
            raise Refusal(400, "mac", "no machine is named", "Add ?mac=52:54:00:12:34:56 or ?machine=NAME.")
        mend = "`pixieboot machines` lists all that are described or were heard."
        raise Refusal(404, f"machine {name}", "there is no machine of this name, MAC, UUID or serial", mend)

    def summary(self, who: Who, running: Mapping[Mac, Sequence[Download]] | None = None) -> dict[str, Any]:
        """A machine in a list: cheap, from memory alone.  running: Context.running(), for those who ask for many."""
        machine = who.machine
        seen = next((seen for mac in who.macs if (seen := self._context.store.seen(mac))), None)
        events = [event for mac in who.macs for event in self._context.journal.timeline(mac)]
        return {
            "name": who.name,
            "described": machine is not None,
            "adopted": machine is not None and self._context.registry.is_adopted(machine),
            "where": machine.where if machine else None,
            "macs": list(who.macs),
            "address": (machine.address if machine else None) or last_address(events),
            "hostname": machine.hostname if machine else None,
            "order": state_json(self._context.store.state(who.key)),
            "next": self.next(who),
            "arch": seen.arch if seen else None,
            "vendor": seen.vendor if seen else None,
            "last_seen": seen.last_seen if seen else None,
            "last_boot": self._last_boot(who, events),
            "downloads": self.downloads(who, running),
        }

    def downloads(self, who: Who, running: Mapping[Mac, Sequence[Download]] | None = None) -> list[dict[str, Any]]:
        """What is on its way to it just now, and how far each came."""
        running = self._context.running() if running is None else running
        return [download_json(each) for mac in who.macs for each in running.get(mac, ())]

    def _last_boot(self, who: Who, events: Sequence[Event]) -> dict[str, Any] | None:
        """The last boot and its verdict; remembered while nothing new happens, for a page that is drawn again and again."""
        if not events:
            return None
        now = time.time()
        facts = (len(events), events[-1], self._context.store.state(who.key), self.inventory.version)
        known = self._judged.get(who.key)
        if known and known[0] == facts and now - known[1] < REJUDGE:
            return known[2]
        boots = split(events)
        if not boots:
            return None
        last = {**boot_json(boots[-1]), "verdict": verdict_json(judge(boots[-1], now, self.assignment(who), boots[:-1]))}
        if len(self._judged) > 20_000:
            self._judged.clear()
        self._judged[who.key] = (facts, now, last)
        return last

    async def boots(self, who: Who) -> list[Boot]:
        """All boots that are remembered of a machine, oldest first."""
        history = self._history
        if history is None:
            return split(event for mac in who.macs for event in self._context.journal.timeline(mac))
        loop = asyncio.get_running_loop()
        stored = [await loop.run_in_executor(None, history.timeline, mac) for mac in who.macs]
        return split(event for events in stored for event in events)

    async def timeline(self, who: Who) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """(the machine's boots, the newest last, with verdicts and events; the verdict on the last, or on its silence)."""
        boots = await self.boots(who)
        assignment, now = self.assignment(who), time.time()
        told = [
            {
                **boot_json(boot),
                "verdict": verdict_json(judge(boot, now, assignment, boots[:number])),
                "events": [{**event_json(event), "text": tell(event)} for event in boot.events],
            }
            for number, boot in enumerate(boots)
        ]
        return told, told[-1]["verdict"] if told else self.silence(who)

    def silence(self, who: Who) -> dict[str, str]:
        """The verdict on a machine that has no boot."""
        heard = [event for mac in who.macs for event in self._context.journal.timeline(mac) if event.service == "dhcp"]
        return verdict_json(nothing_heard(who.name, max(heard, key=lambda event: event.at, default=None)))

    @property
    def inventory(self) -> Inventory:
        return self._context.registry.current

    def state(self, who: Who) -> MachineState:
        return self._context.store.state(who.key)

    def known_arch(self, who: Who) -> Arch | None:
        """The architecture that the machine named when it was heard."""
        seen = next((seen for mac in who.macs if (seen := self._context.store.seen(mac))), None)
        return _known_arch(seen.arch) if seen else None

    def site(self, who: Who) -> Site:
        """The network on which the machine would ask: that of its address, else the first."""
        sites = self._context.sites.sites
        if not sites:
            raise Refusal(503, "networks", "no network is served yet", "`pixieboot doctor` says why.")
        address = who.machine.address if who.machine else None
        return next((site for site in sites if address and _inside(address, site)), sites[0])

    def assignment(self, who: Who) -> Assignment | None:
        """What the machine is to boot, as its script request would be told."""
        sites = self._context.sites.sites
        if not sites or not who.macs:
            return None
        return self._context.assign(self._asking(who), self.site(who))

    def _asking(self, who: Who) -> Client:
        """The machine when it asks for its script."""
        uuid = who.machine.uuid if who.machine else None
        return Client(who.macs[0], self.known_arch(who), Loader.IPXE, Stage.SCRIPT, uuid=uuid)

    def next(self, who: Who) -> dict[str, Any]:
        assignment = self.assignment(who)
        if assignment is None:
            return {"profile": None, "boot": "always", "why": "no network is served yet"}
        step = next_boot(self._asking(who), assignment, self.site(who))
        return {"profile": booted(step), "boot": assignment.order, "why": step.why}


def _loader(settings: Settings, arch: Arch, name: str) -> dict[str, Any]:
    """A boot program: where it was found, or how to get it."""
    told: dict[str, Any] = {"arch": arch.value, "name": name, "place": "", "size": 0, "mend": ""}
    root = settings.tftp.root
    try:
        with open_boot_file(root, name.split("/"), settings.loaders.values(), settings.tftp.follow_links) as file:
            return {**told, "place": os.readlink(f"/proc/self/fd/{file.fd}"), "size": file.size}
    except (FileNotFoundError, NotADirectoryError):
        return {**told, "mend": remedy(name, root)}
    except OSError as error:
        return {**told, "mend": f"It cannot be read: {error.strerror}."}


def _inside(address: str, site: Site) -> bool:
    return IPv4Address(address) in site.subnet


def _known_arch(text: str | None) -> Arch | None:
    return next((arch for arch in Arch if arch.value == text), None)
