"""What only shows when a whole registry is read: names that lead nowhere, and identities that two machines claim."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pixieboot import render, sandbox
from pixieboot.errors import OperatorError
from pixieboot.inventory import LOCAL, MENU
from pixieboot.model import Group, Machine, Profile, swap_uuid
from pixieboot.registry.entries import Found
from pixieboot.registry.fields import nearest

_UUID_TAIL = 19  # from here on a UUID reads the same in both byte orders


class Consistency:
    """The entries of a registry, held against each other."""

    def __init__(
        self,
        root: Path,
        machines: list[Found[Machine]],
        groups: list[Found[Group]],
        profiles: list[Found[Profile]],
        templates: Mapping[str, str],
        faults: list[OperatorError],
    ) -> None:
        self._root, self._faults = root, faults
        self._machines, self._groups, self._profiles, self._templates = machines, groups, profiles, templates

    def check(self) -> None:
        """Everything at once: what is wrong goes to faults."""
        self._once("machine", ((entry.one.name, entry) for entry in self._machines), "name")
        self._once("group", ((entry.one.name, entry) for entry in self._groups), "name")
        self._once("profile", ((entry.one.name, entry) for entry in self._profiles), "name")
        profiles = {entry.one.name for entry in self._profiles} | {MENU.name, LOCAL.name}
        self._profiles_exist(self._machines, profiles)
        self._profiles_exist(self._groups, profiles)
        self._identities()
        for entry in self._profiles:
            self._templates_exist(entry)
            self._ignition_is_json(entry)
        self._includes_exist()

    def _profiles_exist(self, entries: Iterable[Found[Machine]] | Iterable[Found[Group]], profiles: set[str]) -> None:
        for entry in entries:
            name = entry.one.profile
            if name is not None and name not in profiles:
                mend = f"Profiles live in {self._root}/profiles.yaml and {self._root}/profiles/."
                self._fault(entry.where("profile"), f"profile {name!r} does not exist", f"{nearest(name, profiles)} {mend}".strip())

    def _templates_exist(self, entry: Found[Profile]) -> None:
        profile = entry.one
        named = [("script", profile.script)] if profile.script is not None else []
        for key, name in (*named, *profile.documents.items()):
            if name not in self._templates:
                where = entry.where(f"files.{key}" if f"files.{key}" in entry.lines else key)
                self._no_template(where, f"{key} of profile {profile.name} names the template {name!r}, which", str(name))

    def _ignition_is_json(self, entry: Found[Profile]) -> None:
        """What is not rendered can be looked at now; the rest is looked at when it is."""
        name = entry.one.documents.get("ignition", "")
        text = self._templates.get(name)
        if text is None or render.is_butane(name) or sandbox.has_markup(text):
            return
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{self._root}/templates/{name}:{error.lineno}"
            self._fault(
                where, f"this Ignition configuration is not JSON: {error.msg}", "Correct it, or call it NAME.bu if it is Butane."
            )

    def _includes_exist(self) -> None:
        built_in = set(sandbox.built_in_names())
        for name, text in self._templates.items():
            if sandbox.syntax_fault(text) is None:
                for line, other in sandbox.references(text):
                    if other not in self._templates and other not in built_in:
                        self._no_template(f"{self._root}/templates/{name}:{line}", f"the template {other!r}", other)

    def _no_template(self, where: str, what: str, name: str) -> None:
        near = nearest(name, self._templates)
        self._fault(where, f"{what} does not exist", f"{near} Templates live in {self._root}/templates.".strip())

    def _fault(self, where: str, what: str, mend: str) -> None:
        self._faults.append(OperatorError(where, what, mend))

    def _identities(self) -> None:
        machines = self._machines
        self._once("machine", ((mac, entry) for entry in machines for mac in entry.one.macs), "MAC address", "macs", "mac")
        tails = Counter(entry.one.uuid[_UUID_TAIL:] for entry in machines if entry.one.uuid)
        uuids = [(uuid, entry) for entry in machines if (uuid := entry.one.uuid) and tails[uuid[_UUID_TAIL:]] > 1]
        self._once("machine", ((min(uuid, swap_uuid(uuid)), entry) for uuid, entry in uuids), "UUID (in either byte order)", "uuid")
        serials = ((entry.one.serial.lower(), entry) for entry in machines if entry.one.serial)
        self._once("machine", serials, "serial number", "serial")
        self._once("machine", ((entry.one.address, entry) for entry in machines if entry.one.address), "address", "address")

    def _once(self, kind: str, claims: Iterable[tuple[str, Found[Any]]], what: str, *keys: str) -> None:
        """No two may claim the same: both places are told."""
        first: dict[str, Found[Any]] = {}
        for claim, entry in claims:
            other = first.setdefault(claim, entry)
            if other is entry:
                continue
            here, there = (one.where(next((key for key in keys if key in one.lines), "")) for one in (entry, other))
            if what == "name":
                self._fault(here, f"there is a {kind} {claim} already at {there}", "Rename one of the two.")
            else:
                sentence = f"{kind} {entry.one.name} has the {what} {claim} of {kind} {other.one.name} ({there})"
                self._fault(here, sentence, "Correct one of the two.")
