"""What other programs were told -> settings and registry files of pixieboot's, and a report of what could not be carried over.

Sources: dnsmasq.conf, ISC dhcpd.conf, and data directories of Matchbox and bootcfg v0.  Nothing is written here: files come back as
texts, so that they can be shown, compared, and put where the operator wants them.
"""

import re
from pathlib import Path
from typing import Any

from pixieboot.errors import OperatorError
from pixieboot.registry.bootcfg import BootcfgDirectory
from pixieboot.registry.dhcpdconf import DhcpdFile
from pixieboot.registry.dnsmasqconf import read_dnsmasq
from pixieboot.registry.draft import Draft, Imported
from pixieboot.registry.foreign import read, whole
from pixieboot.registry.kinds import is_bootcfg, is_matchbox
from pixieboot.registry.matchbox import MatchboxDirectory


def imported(source: Path) -> Imported:
    """The source as files of ours.  Raises OperatorError if it is none of the sources that are known."""
    draft = Draft()
    if source.is_dir():
        if is_matchbox(source):
            _from_inventory(draft, MatchboxDirectory(source), source)
        elif is_bootcfg(source):
            _from_inventory(draft, BootcfgDirectory(source), source)
        else:
            raise OperatorError(str(source), "this is a directory of neither Matchbox nor bootcfg", "Name its data directory.")
        return draft.finished()
    notes: list[OperatorError] = []
    text = read(str(source), notes)
    if text is None:
        raise notes[0]
    if re.search(r"^\s*(?:subnet\s+[0-9.]+\s+netmask|host\s+\S+\s*\{|shared-network\s)", text, re.MULTILINE):
        DhcpdFile(draft, source, text).run()
    elif re.search(r"^\s*(?:dhcp-[a-z]+|pxe-[a-z]+|enable-tftp|tftp-root|interface)\b", text, re.MULTILINE):
        read_dnsmasq(draft, source, text)
    else:
        raise OperatorError(
            str(source), "this is neither a dnsmasq.conf nor a dhcpd.conf", "Name one of these, or a data directory."
        )
    return draft.finished()


def _from_inventory(draft: Draft, directory: MatchboxDirectory | BootcfgDirectory, source: Path) -> None:
    """Groups and profiles as they are; templates stay with their program's language."""
    inventory = directory.load(1)
    names = {
        name: re.sub(r"[^A-Za-z0-9._-]", "-", name).strip("-._") or "unnamed" for name in (*inventory.groups, *inventory.profiles)
    }
    draft.report += (f"{old!r} is called {new} here" for old, new in sorted(names.items()) if old != new)
    for group in inventory.groups.values():
        entry: dict[str, Any] = {"match": dict(group.match)} if group.match else {}
        if group.profile:
            entry["profile"] = names[group.profile]
        if group.vars:
            entry["vars"] = whole(dict(group.vars))
        draft.groups[names[group.name]] = entry
    for profile in inventory.profiles.values():
        if profile.where == "built in":
            continue
        wanted: dict[str, Any] = {"title": profile.title} if profile.title else {}
        if profile.kernel:
            wanted |= {"kernel": profile.kernel, "initrd": list(profile.initrd), "args": list(profile.args)}
            draft.profiles[names[profile.name]] = {key: value for key, value in wanted.items() if value}
        else:
            draft.profiles[names[profile.name]] = {**wanted, "local": True}
            draft.note(profile.where, f"profile {profile.name} has no kernel: here it boots the local disk")
    draft.settings["assets"] = str(source.absolute() / ("assets" if directory.kind == "matchbox" else "images"))
    draft.report += (f"{note.where}: {note.what}" for note in directory.notes)
    for path in sorted(path for name in ("ignition", "cloud", "generic") for path in (source / name).rglob("*") if path.is_file()):
        draft.note(
            str(path), "a template in Go's language: write it in Jinja's, or serve the directory as it is (`registry: DIRECTORY`)"
        )
