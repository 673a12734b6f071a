"""What an import has gathered so far: settings, machines, groups and profiles to be written, and what could not be carried over."""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import yaml

from pixieboot.model import ARCH_CODES, Mac
from pixieboot.registry.fields import is_name
from pixieboot.wire.options import option

CHAIN = "imported"  # the profile that iPXE was sent to
ELSEWHERE = "boot programs come from here now, put them into tftp.root"
_OWN_OPTIONS = {3: "routers", 6: "dns", 15: "domain"}  # options that a network has a key for


@dataclass(slots=True)
class Imported:
    """files: name below the registry -> text.  report: what is not in them, each with its place."""

    files: dict[str, str]
    report: list[str]


class _Plain(yaml.SafeDumper):
    """Writes everything out: no anchors for what happens to be the same."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Plain.add_multi_representer(str, lambda dumper, text: dumper.represent_str(str(text)))  # Mac is a str of its own


@dataclass(slots=True)
class Draft:
    """What is known so far."""

    settings: dict[str, Any] = field(default_factory=dict)
    networks: list[dict[str, Any]] = field(default_factory=list)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    loaders: dict[str, str] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)

    def note(self, where: str, what: str) -> None:
        self.report.append(f"{where}: {what}")

    def machine(self, where: str, name: str, entry: dict[str, Any]) -> None:
        """One more machine; a name that is taken, or cannot be one, gets another."""
        wanted = re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-.") or "machine"
        chosen, number = wanted, 1
        while chosen in self.machines or not is_name(chosen):
            number += 1
            chosen = f"{wanted}-{number}"
        if chosen != name:
            self.note(where, f"the machine {name!r} is called {chosen} here")
        self.machines[chosen] = entry

    def loader(self, where: str, code: int, file: str) -> None:
        arch = ARCH_CODES.get(code)
        if arch is None:
            self.note(where, f"the architecture {code} is not known")
        elif arch[1] or "://" in file:
            self.note(
                where, f"{file} for {arch[0].value}: boot programs come from here now, by HTTP boot too, put them into tftp.root"
            )
        else:
            self.loaders[arch[0].value] = file

    def chain(self, where: str, url: str) -> None:
        """iPXE goes there, whoever it is."""
        if "://" not in url:
            self.note(where, f"iPXE was sent to the file {url}, which is not an address: make a profile with a `script` of it")
            return
        if CHAIN in self.profiles and self.profiles[CHAIN]["chain"] != url:
            self.note(where, f"iPXE was sent to {url} too: only the first address is carried over")
            return
        self.profiles[CHAIN] = {"title": "What iPXE was sent to before", "chain": url}
        self.groups.setdefault("default", {"profile": CHAIN})

    def options(self, where: str, entry: dict[str, Any], name: str, values: list[str]) -> None:
        """A DHCP option of a network or a machine; what pixieboot has a key for goes there."""
        value: Any = values[0] if len(values) == 1 else values
        try:
            code, _ = option(name, value)
        except ValueError as error:
            self.note(where, f"option {name}: {str(error).rstrip('.')}")
            return
        key = _OWN_OPTIONS.get(code)
        if key and ("dhcp" in entry or "interface" in entry or "subnet" in entry):
            entry[key] = values[0] if key == "domain" else values
        else:
            entry.setdefault("options", {})[name if not name.isdigit() else int(name)] = value

    def finished(self) -> Imported:
        for network in self.networks:
            if "interface" not in network:
                what = "if this host stands in that network itself, and not behind a relay, add `interface: NAME`"
                self.note(f"network {network['subnet']}", what)
        settings = {"registry": ".", **self.settings}  # the files beside it, wherever they are looked over
        if self.networks:
            settings["networks"] = self.networks
        if self.loaders:
            settings["loaders"] = self.loaders
        parts = {
            "pixieboot.yaml": settings,
            "machines.yaml": self.machines,
            "groups.yaml": self.groups,
            "profiles.yaml": self.profiles,
        }
        files = {
            name: yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
            for name, content in parts.items()
            if content
        }
        return Imported(files, sorted(self.report, key=_by_line))


def _by_line(line: str) -> tuple[str, int]:
    place = re.match(r"(.*?):([0-9]+): ", line)
    return (place[1], int(place[2])) if place else (line, 0)


def is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def mac_of(text: str) -> str | None:
    """Six octets, each of one digit or two."""
    if not re.fullmatch(r"[0-9A-Fa-f]{1,2}(?:[:-][0-9A-Fa-f]{1,2}){5}", text):
        return None
    return str(Mac.of(bytes(int(part, 16) for part in re.split("[:-]", text))))
