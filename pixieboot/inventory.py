"""The registry as one immutable value, and the question it answers: who is this client, and what is it to boot?

Choice (docs/reference.md): a machine's own profile; else the matching group with most labels, ties broken by name; else
`unknown`.  `vars` merge default group <- group <- machine, key by key.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType
from typing import Any

from pixieboot.model import (
    EMPTY,
    NO_ADDRESS,
    Assignment,
    Client,
    Group,
    Mac,
    Machine,
    MachineState,
    Profile,
    Site,
    Stage,
    parse_uuid,
    swap_uuid,
)

MENU = Profile("menu", title="Menu", menu=True, where="built in")
LOCAL = Profile("local", title="Local disk", local=True, where="built in")
HOLD = Profile("hold", title="Held", where="built in")  # waits until an operator decides; nobody can choose it
FRESH = MachineState()
_IDENTITIES = ("mac", "uuid", "serial")  # labels that single out one machine: groups that ask for them are indexed


@dataclass(frozen=True, slots=True)
class Inventory:
    """Machines, groups, profiles and templates of one moment.  Replaced whole, never changed; made by `build`."""

    version: int
    machines: Mapping[str, Machine]
    groups: Mapping[str, Group]
    profiles: Mapping[str, Profile]  # the built-in menu and local among them
    templates: Mapping[str, str]  # name below templates/ -> text
    secrets: Mapping[str, str] = field(repr=False)  # NAME, or MACHINE/NAME for one machine's own -> text
    _by_mac: Mapping[str, Machine] = field(repr=False)
    _by_uuid: Mapping[str, Machine] = field(repr=False)
    _by_serial: Mapping[str, Machine] = field(repr=False)
    _by_identity: Mapping[tuple[str, str], tuple[Group, ...]] = field(repr=False)
    _general: tuple[Group, ...] = field(repr=False)
    _default_vars: Mapping[str, Any] = field(repr=False)
    _named: frozenset[str] = field(repr=False)  # MACs that a machine or a group names
    knows_uuids: bool = field(repr=False)  # is any machine described by its UUID?
    _alike: bool = field(repr=False)  # no group asks for more of a client than MAC, kind and subnet

    @classmethod
    def build(
        cls,
        machines: Iterable[Machine] = (),
        groups: Iterable[Group] = (),
        profiles: Iterable[Profile] = (),
        templates: Mapping[str, str] = EMPTY,
        version: int = 0,
        secrets: Mapping[str, str] = EMPTY,
    ) -> "Inventory":
        """Index what the registry's files say.  Identities must be unique and names resolve: the store checks both."""
        named = {machine.name: machine for machine in machines}
        by_uuid: dict[str, Machine] = {}
        for machine in named.values():
            if machine.uuid:
                # Firmware and SMBIOS disagree on the byte order of the first three fields: either finds the machine.
                by_uuid[machine.uuid] = by_uuid[swap_uuid(machine.uuid)] = machine
        ranked = sorted(groups, key=lambda group: (-len(group.match), group.name))
        by_identity: dict[tuple[str, str], list[Group]] = {}
        general: list[Group] = []
        for group in ranked:
            label = next((label for label in _IDENTITIES if label in group.match), None)
            if label is None:
                general.append(group)
            else:
                by_identity.setdefault((label, group.match[label].lower()), []).append(group)
        default = next((group for group in ranked if not group.match), None)
        return cls(
            version=version,
            machines=MappingProxyType(named),
            groups=MappingProxyType({group.name: group for group in ranked}),
            profiles=MappingProxyType({p.name: p for p in (MENU, LOCAL, *profiles)}),
            templates=templates,
            secrets=secrets,
            _by_mac={mac: machine for machine in named.values() for mac in machine.macs},
            _by_uuid=by_uuid,
            _by_serial={machine.serial.lower(): machine for machine in named.values() if machine.serial},
            _by_identity={key: tuple(found) for key, found in by_identity.items()},
            _general=tuple(general),
            _default_vars=default.vars if default else EMPTY,
            _named=frozenset(
                [mac for machine in named.values() for mac in machine.macs]
                + [identity for label, identity in by_identity if label == "mac"]
            ),
            knows_uuids=bool(by_uuid),
            _alike=not any(label in group.match for group in ranked for label in ("uuid", "serial", "hostname")),
        )

    def machine_of(self, client: Client) -> Machine | None:
        """The machine that this client is, by MAC, else by UUID (either byte order), else by serial number."""
        return (
            self._by_mac.get(client.mac)
            or (self._by_uuid.get(client.uuid) if client.uuid else None)
            or (self._by_serial.get(client.serial.lower()) if client.serial else None)
        )

    def is_stranger(self, mac: Mac, uuid: str | None) -> bool:
        """Is a client with this MAC and UUID, at the stage of DHCP, assigned what any other of its kind is?"""
        return self._alike and mac not in self._named and uuid not in self._by_uuid

    def describes(self, mac: Mac, uuid: str | None) -> bool:
        """Is there a machine with this MAC or UUID?"""
        return mac in self._by_mac or uuid in self._by_uuid

    def find(self, text: str) -> Machine | None:
        """The machine that an operator means: by name, MAC in any spelling, UUID or serial number."""
        if machine := self.machines.get(text):
            return machine
        try:
            if machine := self._by_mac.get(Mac.parse(text)):
                return machine
        except ValueError:
            pass
        return self._by_uuid.get(parse_uuid(text) or "") or self._by_serial.get(text.lower())

    def assign(self, client: Client, site: Site, state: MachineState = FRESH) -> Assignment:
        """Who this client is and what it is to boot here.

        profile is None when nobody described the client and `unknown` says ignore.
        """
        machine = self.machine_of(client)
        group, awaited = self._match(client, machine, site)
        profile, why = self._choose(machine, group, site, state)
        if awaited and (profile is None or profile.local) and not (machine and (machine.profile or state.profile)):
            # A label that DHCP cannot know may still decide: let the client come as far as its script.
            group, profile = awaited, MENU
            missing = ", ".join(sorted(_missing(awaited, labels_of(client, machine))))
            why = f"group {awaited.name} may match once the client tells its {missing}"
        variables = self._default_vars
        if group and group.vars:
            variables = {**variables, **group.vars}
        if machine and machine.vars:
            variables = {**variables, **machine.vars}
        return Assignment(machine, group, profile, variables, state, why)

    def _choose(self, machine: Machine | None, group: Group | None, site: Site, state: MachineState) -> tuple[Profile | None, str]:
        """The profile and the sentence that says where it comes from."""
        who = f"machine {machine.name}" if machine else "nobody described this machine"
        if state.profile and state.profile in self.profiles:
            return self.profiles[state.profile], f"{who}: profile {state.profile} was ordered for its next boot"
        if machine and machine.profile:
            return self.profiles[machine.profile], f"{who}: its own profile {machine.profile}"
        if group and group.profile:
            labels = " ".join(f"{key}={value}" for key, value in sorted(group.match.items())) or "everything"
            return self.profiles[group.profile], f"{who}: profile {group.profile} of group {group.name} ({labels})"
        if site.unknown == "ignore" and not machine:
            return None, f"{who} and no group matches"
        # A described machine without any profile is not a stranger: it gets the menu rather than silence.
        name = site.unknown if site.unknown in self.profiles else MENU.name
        return self.profiles[name], f"{who} and no group matches: profile {name} (unknown: {site.unknown})"

    def _match(self, client: Client, machine: Machine | None, site: Site) -> tuple[Group | None, Group | None]:
        """(the best group that matches, the best one that may match once the client tells more; None for none)."""
        labels = labels_of(client, machine)
        candidates = self._general
        indexed: list[Group] = []
        if self._by_identity:
            for name in _IDENTITIES:
                indexed += self._by_identity.get((name, labels.get(name, "").lower()), ())
            if client.uuid:
                indexed += self._by_identity.get(("uuid", swap_uuid(client.uuid)), ())
        if indexed:
            candidates = tuple(sorted((*indexed, *candidates), key=lambda group: (-len(group.match), group.name)))
        awaited, may_tell_more = None, client.stage is Stage.DHCP
        for group in candidates:
            unknown = False
            for name, wanted in group.match.items():
                if name == "subnet":
                    if not in_subnet(wanted, client, site):
                        break
                elif (actual := labels.get(name)) is None:
                    unknown = True
                    if not may_tell_more:
                        break
                elif actual != wanted and actual.lower() != wanted.lower():
                    if name != "uuid" or swap_uuid(actual) != wanted.lower():
                        break
            else:
                if not unknown:
                    return group, awaited
                if awaited is None:
                    awaited = group
        if awaited is None and may_tell_more and "serial" not in labels:
            awaited = next((g for (name, _), found in self._by_identity.items() if name == "serial" for g in found), None)
        return None, awaited


def labels_of(client: Client, machine: Machine | None) -> dict[str, str]:
    """Everything that a group may match on, but for the subnet; what the registry says of a machine fills the gaps."""
    labels = dict(client.labels)
    labels["mac"] = client.mac
    uuid = client.uuid or (machine.uuid if machine else None)
    serial = client.serial or (machine.serial if machine else None)
    if uuid:
        labels["uuid"] = uuid
    if serial:
        labels["serial"] = serial
    if machine and machine.hostname:
        labels["hostname"] = machine.hostname
    if client.arch:
        labels["arch"] = client.arch.value
        labels["platform"] = client.arch.platform
    return labels


def _missing(group: Group, labels: Mapping[str, str]) -> set[str]:
    return {name for name in group.match if name != "subnet" and name not in labels}


def in_subnet(wanted: str, client: Client, site: Site) -> bool:
    """Is the client's address in the subnet; before it has one, is the network that it asks on?"""
    subnet = _network(wanted)
    if client.address and client.address != NO_ADDRESS:
        return IPv4Address(client.address) in subnet
    return site.subnet.subnet_of(subnet)


@lru_cache(1024)
def _network(text: str) -> IPv4Network:
    return IPv4Network(text)
