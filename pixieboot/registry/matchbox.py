"""A data directory of Matchbox (groups, profiles, ignition, cloud, generic), served as Matchbox serves it.

Differences that an operator sees are these: files are read when they change and not on every request, a metadata file is sorted,
and what cannot be rendered is told when it is loaded.  Butane configurations need the program `butane`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixieboot.errors import OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import Group, Profile
from pixieboot.registry import butane, ignition, strictyaml
from pixieboot.registry.foreign import JSON, Answer, Stamp, files_below, from_json, labels_of, not_found, parse_mac, read, texts
from pixieboot.registry.gotemplate import GoTemplate, TemplateFault
from pixieboot.registry.govalues import printed

BANNER = b"matchbox\n"
BOOT_IPXE = (
    b"#!ipxe\nchain ipxe?uuid=${uuid}&mac=${mac:hexhyp}&domain=${domain}&hostname=${hostname}&serial=${serial}"
    b"&arch=${buildarch:uristring}\n"
)
DIRECTORIES = ("groups", "profiles", "ignition", "cloud", "generic")
_ANSWERED_404 = "It is answered with 404 until it is mended."


@dataclass(frozen=True, slots=True)
class MatchboxGroup:
    id: str
    profile: str
    selector: Mapping[str, str]
    metadata: Mapping[str, Any]
    where: str

    @property
    def rank(self) -> tuple[int, str]:
        """Groups are tried from the highest rank on: most selectors, then the last of the alphabet."""
        return len(self.selector), ",".join(f"{key}={value}" for key, value in sorted(self.selector.items()))


@dataclass(frozen=True, slots=True)
class MatchboxProfile:
    id: str
    name: str
    kernel: str
    initrd: tuple[str, ...]
    args: tuple[str, ...]
    ignition_id: str
    cloud_id: str
    generic_id: str
    where: str


class Matchbox:
    """One state of the directory; answers without looking at files."""

    kind = "matchbox"

    def __init__(
        self, groups: list[MatchboxGroup], profiles: Mapping[str, MatchboxProfile], files: Mapping[tuple[str, str], str]
    ) -> None:
        """files: (directory, name) -> text."""
        self._groups = sorted(groups, key=lambda group: group.rank, reverse=True)
        self._profiles, self._files = profiles, files
        self._templates: dict[tuple[str, str], GoTemplate] = {}

    def answer(self, path: str, query: str) -> Answer | None:
        if path == "/":
            return Answer(200, BANNER)
        if path in ("/boot.ipxe", "/boot.ipxe.0"):
            return Answer(200, BOOT_IPXE)
        if path not in ("/ipxe", "/grub", "/ignition", "/cloud", "/generic", "/metadata"):
            return None
        labels = labels_of(query)
        group = self.select(labels)
        if group is None:
            return not_found("no group of Matchbox's matches", labels)
        data = variables(group, labels, query)
        if path == "/metadata":
            text = "".join(f"{key}={value}\n" for key, value in sorted(_leaves("", data)))
            return Answer(200, _encoded(text), "plain/text", f"group {group.id}", group.profile, labels)
        profile = self._profiles.get(group.profile)
        if profile is None:
            return not_found(f"group {group.id} names the profile {group.profile}, which there is not", labels)
        why = f"group {group.id}"
        match path:
            case "/ipxe":
                return Answer(200, _encoded(_ipxe(profile)), why=why, profile=profile.id, labels=labels)
            case "/grub":
                return Answer(200, _encoded(_grub(profile)), why=why, profile=profile.id, labels=labels)
            case "/ignition":
                return self._ignition(profile, group, data, labels)
            case "/cloud":
                return self._document("cloud", profile.cloud_id, profile, group, data, labels)
        return self._document("generic", profile.generic_id, profile, group, data, labels)

    def select(self, labels: Mapping[str, str]) -> MatchboxGroup | None:
        """The first group, in Matchbox's order, whose selectors all equal the labels."""
        for group in self._groups:
            if all(labels.get(key) == value for key, value in group.selector.items()):
                return group
        return None

    def _rendered(self, directory: str, name: str, data: Mapping[str, Any]) -> str:
        """Raises KeyError without such a file, TemplateFault if it cannot be rendered."""
        key = (directory, name)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = GoTemplate(self._files[key])
        return template.render(data)

    def _document(
        self,
        kind: str,
        name: str,
        profile: MatchboxProfile,
        group: MatchboxGroup,
        data: Mapping[str, Any],
        labels: Mapping[str, str],
    ) -> Answer:
        try:
            text = self._rendered(kind, name, data)
        except KeyError:
            return not_found(f"profile {profile.id} has no {kind} file {name!r}", labels)
        except TemplateFault as fault:
            return not_found(f"{kind}/{name}: {fault}", labels)
        if kind == "cloud" and not _is_user_data(text):
            return not_found(f"cloud/{name} is neither a cloud-config nor a script", labels)
        return Answer(200, _encoded(text), why=f"group {group.id}", profile=profile.id, labels=labels, ranges=True)

    def _ignition(
        self, profile: MatchboxProfile, group: MatchboxGroup, data: Mapping[str, Any], labels: Mapping[str, str]
    ) -> Answer:
        name = profile.ignition_id
        why = f"group {group.id}"
        try:
            if name.endswith((".ign", ".ignition")):
                body = ignition.marshalled(self._files["ignition", name])
            else:
                body = butane.translated(self._rendered("ignition", name, data))
        except KeyError:
            return not_found(f"profile {profile.id} has no ignition file {name!r}", labels)
        except (TemplateFault, ValueError) as fault:
            return not_found(f"ignition/{name}: {fault}", labels)
        return Answer(200, body, JSON, why, profile.id, labels)


def variables(group: MatchboxGroup, labels: Mapping[str, str], query: str) -> dict[str, Any]:
    """What templates see: the group's metadata, its selectors over it, the request over both."""
    data = {**group.metadata, **{key.lower(): value for key, value in group.selector.items()}}
    data["request"] = {"query": dict(labels), "raw_query": query}
    return data


def _ipxe(profile: MatchboxProfile) -> str:
    initrds = "".join(f"\ninitrd {url}" for url in profile.initrd)
    return f"#!ipxe\nkernel {profile.kernel}{''.join(f' {arg}' for arg in profile.args)}{initrds}\nboot\n"


def _grub(profile: MatchboxProfile) -> str:
    args = "".join(f" {arg}" for arg in profile.args)
    initrds = "".join(f' "{url}"' for url in profile.initrd)
    entries = "".join(
        f'menuentry "CoreOS ({firmware})" {{\necho "Loading kernel"\nlinux{suffix} "{profile.kernel}"{args}\n'
        f'echo "Loading initrd"\ninitrd{suffix} {initrds}\n}}\n'
        for firmware, suffix in (("EFI", "efi"), ("BIOS", ""))
    )
    return f"default=0\nfallback=1\ntimeout=1\n{entries}"


def _leaves(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """KEY and value of every string, bool and number; lists and nulls have no form in an env file."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _leaves(f"{prefix}{key}_", value)
        elif isinstance(value, (str, bool, float)):
            found.append((f"{prefix}{key}".upper(), printed(value)))
    return found


def _is_user_data(text: str) -> bool:
    first = text.split("\n", 1)[0].rstrip()
    if first == "#cloud-config":
        return strictyaml.is_yaml(text)
    return first.startswith("#!")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# --- loading -------------------------------------------------------------------------------------------------------------


class MatchboxDirectory:
    """The files of a directory of Matchbox's."""

    kind = "matchbox"

    def __init__(self, root: Path) -> None:
        self._root = root
        self.foreign: Matchbox | None = None
        self.notes: list[OperatorError] = []

    def signature(self) -> dict[str, Stamp]:
        return {path: stamp for path, _, stamp in files_below(self._root, *DIRECTORIES)}

    def load(self, version: int) -> Inventory:
        """Reads everything; what is wrong with a file is a note, and the file is left out."""
        notes: list[OperatorError] = []
        groups = [
            group
            for path, name, _ in files_below(self._root, "groups")
            if (group := _group(path, name, notes)) is not None
        ]  # fmt: skip
        profiles = {
            Path(name).stem: profile
            for path, name, _ in files_below(self._root, "profiles")
            if (profile := _profile(path, name, notes)) is not None
        }
        files = {
            (directory, name): text
            for directory in ("ignition", "cloud", "generic")
            for path, name, _ in files_below(self._root, directory)
            if (text := read(path, notes)) is not None
        }
        self._look_through(groups, profiles, files, notes)
        self.foreign, self.notes = Matchbox(groups, profiles, files), notes
        return Inventory.build([], _native_groups(groups, profiles), _native_profiles(profiles), {}, version)

    def _look_through(
        self,
        groups: list[MatchboxGroup],
        profiles: Mapping[str, MatchboxProfile],
        files: Mapping[tuple[str, str], str],
        notes: list[OperatorError],
    ) -> None:
        """Notes on everything that will be a 404 later."""
        for group in groups:
            if group.profile not in profiles:
                notes.append(
                    OperatorError(
                        group.where, f"profile {group.profile!r} does not exist", f"Profiles live in {self._root}/profiles."
                    )
                )
        for profile in profiles.values():
            for kind, name in (("ignition", profile.ignition_id), ("cloud", profile.cloud_id), ("generic", profile.generic_id)):
                if name and (kind, name) not in files:
                    notes.append(
                        OperatorError(
                            profile.where, f"{kind}_id names {name!r}, which does not exist", f"Put it into {self._root}/{kind}."
                        )
                    )
        for (kind, name), text in files.items():
            where = f"{self._root}/{kind}/{name}"
            try:
                if kind == "ignition" and name.endswith((".ign", ".ignition")):
                    ignition.marshalled(text)
                    continue
                GoTemplate(text)
            except TemplateFault as fault:
                notes.append(OperatorError(f"{where}:{fault.line}", fault.what, _ANSWERED_404))
            except ValueError as fault:
                notes.append(OperatorError(where, str(fault), _ANSWERED_404))
            else:
                if kind == "ignition" and not butane.program():
                    notes.append(OperatorError(where, "a Butane configuration needs the program butane", butane.MEND))


def _group(path: str, name: str, notes: list[OperatorError]) -> MatchboxGroup | None:
    text = read(path, notes)
    value = from_json(path, text, notes) if text is not None else None
    if value is None:
        return None
    selector, metadata = value.get("selector") or {}, value.get("metadata") or {}
    what = None
    if not isinstance(value.get("id"), str) or not value["id"]:
        what = "the group has no id"
    elif not isinstance(value.get("profile"), str) or not value["profile"]:
        what = "the group names no profile"
    elif not isinstance(selector, dict) or not all(isinstance(one, str) for one in selector.values()):
        what = "the selector is not a mapping of texts"
    elif not isinstance(metadata, dict):
        what = "the metadata is not an object"
    else:
        for key, wanted in selector.items():
            if key.lower() == "mac":
                mac = parse_mac(wanted)
                what = f"{wanted!r} is not a MAC address" if mac is None else what
                selector = {**selector, key: mac}
    if what:
        notes.append(OperatorError(path, what, "This group is left out until it is mended."))
        return None
    return MatchboxGroup(value["id"], value["profile"], selector, metadata, path)


def _profile(path: str, name: str, notes: list[OperatorError]) -> MatchboxProfile | None:
    text = read(path, notes)
    value = from_json(path, text, notes) if text is not None else None
    if value is None:
        return None
    boot = value.get("boot") or {}
    ids = {key: value.get(key) or "" for key in ("id", "name", "ignition_id", "cloud_id", "generic_id")}
    initrd, args = (texts(boot.get(key)) for key in ("initrd", "args")) if isinstance(boot, dict) else (None, None)
    if (
        not ids["id"]
        or initrd is None
        or args is None
        or not all(isinstance(one, str) for one in (*ids.values(), boot.get("kernel") or ""))
    ):
        what = "the profile has no id" if not ids["id"] else "a value of the profile is of the wrong kind"
        notes.append(OperatorError(path, what, "This profile is left out until it is mended."))
        return None
    if "cmdline" in boot:
        notes.append(
            OperatorError(path, "boot.cmdline is of bootcfg's time and not used", "Write the arguments as a list, boot.args.")
        )
    return MatchboxProfile(kernel=boot.get("kernel") or "", initrd=tuple(initrd), args=tuple(args), where=path, **ids)


def _native_groups(groups: list[MatchboxGroup], profiles: Mapping[str, MatchboxProfile]) -> list[Group]:
    """The same choice for DHCP and `explain`."""
    return [
        Group(group.id, group.selector, group.profile if group.profile in profiles else None, group.metadata, where=group.where)
        for group in groups
    ]


def _native_profiles(profiles: Mapping[str, MatchboxProfile]) -> list[Profile]:
    return [
        Profile(
            name,
            title=profile.name,
            kernel=profile.kernel.removeprefix("/assets/") or None,
            initrd=tuple(url.removeprefix("/assets/") for url in profile.initrd),
            args=profile.args,
            where=profile.where,
        )
        for name, profile in profiles.items()
    ]
