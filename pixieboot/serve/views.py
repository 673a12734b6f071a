"""The nouns as plain values, as the API writes them.  Times are seconds since 1970."""

from collections.abc import Sequence
from typing import Any

from pixieboot.boots import Boot, base, progress, size, stage
from pixieboot.journal import plain
from pixieboot.model import Event, Group, Lease, Machine, MachineState, Profile
from pixieboot.serve.context import Download
from pixieboot.verdict import Verdict


def boot_json(boot: Boot) -> dict[str, Any]:
    return {"start": boot.start, "end": boot.end, "over": boot.over, "stage": stage(boot), "progress": progress(boot)}


def verdict_json(verdict: Verdict) -> dict[str, str]:
    return {
        "name": verdict.name,
        "outcome": verdict.outcome,
        "sentence": verdict.sentence,
        "next_step": verdict.next_step,
    }


def state_json(state: MachineState) -> dict[str, Any]:
    return {
        "boot": state.boot,
        "profile": state.profile,
        "done": state.done or None,
        "reply_style": state.reply_style,
        "local_boot": state.local_boot,
        "deadline": state.deadline or None,
        "overdue": state.overdue or None,
    }


def lease_json(lease: Lease, machine: str | None) -> dict[str, Any]:
    return {
        "address": lease.address,
        "mac": lease.mac,
        "state": lease.state.value,
        "expires": lease.expires,
        "hostname": lease.hostname,
        "machine": machine,
        "client": lease.client,
    }


def download_json(download: Download) -> dict[str, Any]:
    return {
        "path": download.path,
        "bytes": download.size,
        "sent": download.sent,
        "percent": 100 * download.sent // max(1, download.size),
        "text": f"{base(download.path)}, {size(download.sent)} of {size(download.size)}",
    }


def description(machine: Machine | None) -> dict[str, Any] | None:
    """What is described of it, in the form in which the API takes a description."""
    if machine is None:
        return None
    return {
        "macs": list(machine.macs),
        "uuid": machine.uuid,
        "serial": machine.serial,
        "address": machine.address,
        "hostname": machine.hostname,
        "profile": machine.profile,
        "boot": machine.boot,
        "vars": plain(machine.vars),
        "local_boot": machine.local_boot,
        "loader": machine.loader.get("*") or dict(machine.loader),
        "options": {str(code): f"0x{value.hex()}" for code, value in machine.options.items()},
        "reply_delay": f"{machine.reply_delay:.0f}s",
        "reply_style": machine.reply_style,
    }


def group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "match": dict(group.match),
        "profile": group.profile,
        "vars": plain(group.vars),
        "loader": dict(group.loader),
        "where": group.where,
    }


def profile_json(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "title": profile.title,
        "kernel": profile.kernel,
        "initrd": list(profile.initrd),
        "args": list(profile.args),
        "documents": dict(profile.documents),
        "script": profile.script,
        "chain": profile.chain,
        "local": profile.local,
        "menu": profile.menu,
        "once_timeout": profile.once_timeout or None,
        "on_timeout": profile.on_timeout,
        "where": profile.where,
    }


def last_address(events: Sequence[Event]) -> str | None:
    """The address that the machine was last seen with."""
    for event in reversed(events):
        if address := event.detail.get("address") or event.detail.get("peer"):
            return str(address)
    return None
