"""What operators change through API and page: what a machine boots next, and the description of machines that no file describes.

A machine is described in the operator's files or here, never in both.  What is described here is a file too, below the state
directory, with the keys of machines/NAME.yaml; it enters the registry together with all others, or not at all.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from pixieboot.errors import Faults
from pixieboot.model import Event, Mac, Machine, MachineState
from pixieboot.registry.fields import is_name
from pixieboot.registry.sqlite import FRESH, StoreError
from pixieboot.registry.strictyaml import is_writable
from pixieboot.serve.answers import Refusal, checked, etag, names
from pixieboot.serve.context import Context
from pixieboot.serve.known import Known, Who
from pixieboot.serve.views import description, state_json

_PAIR = "[0-9A-Fa-f]{2}"
_QUAD = "[0-9A-Fa-f]{4}"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
MacText = Annotated[
    str,
    StringConstraints(pattern=rf"^(({_PAIR}:){{5}}{_PAIR}|({_PAIR}-){{5}}{_PAIR}|({_QUAD}\.){{2}}{_QUAD}|[0-9A-Fa-f]{{12}})$"),
]
UuidText = Annotated[str, StringConstraints(pattern=rf"^[0-9A-Fa-f]{{8}}(-{_QUAD}){{3}}-[0-9A-Fa-f]{{12}}$")]
AddressText = Annotated[str, StringConstraints(pattern=rf"^({_OCTET}\.){{3}}{_OCTET}$")]
HostnameText = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")]
SecondsText = Annotated[str, StringConstraints(pattern="^[0-9]{1,9}[smhd]$")]


def _is_writable(value: JsonValue) -> bool:
    """Would templates get each number in it as that number again?"""
    match value:
        case dict():
            return all(map(_is_writable, value.values()))
        case list():
            return all(map(_is_writable, value))
        case int() | float():
            return is_writable(value)
    return True


class BootOrder(BaseModel):
    """What a machine boots next.  profile null: the registry's.  boot null: as it was."""

    model_config = ConfigDict(extra="forbid")
    profile: str | None = None
    boot: Literal["once", "always", "local"] | None = None


class Description(BaseModel):
    """A machine, with the keys that it would have in a file.  Which machine it is, a MAC, UUID or serial number must say."""

    model_config = ConfigDict(extra="forbid")
    macs: list[MacText] | None = None
    uuid: UuidText | None = None
    serial: Text | None = None
    address: AddressText | None = None
    hostname: HostnameText | None = None
    profile: Text | None = None
    boot: Literal["always", "once", "local"] | None = None
    vars: dict[str, JsonValue] | None = None
    local_boot: Literal["auto", "exit0", "exit1", "sanboot", "http404"] | None = None
    loader: Text | dict[Text, Text] | None = None
    options: dict[Text, str | int | bool | list[str | int]] | None = Field(None, description="DHCP options by name or number.")
    reply_delay: SecondsText | None = None
    reply_style: Literal["auto", "direct", "binl", "menu"] | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Headers of a request that writes (RFC 9110 §13.1): what must be, or must not be, for the write to happen."""

    if_match: str | None = None
    if_none_match: str | None = None


class Writing:
    """The changes, one at a time.  Each is on disk before it is answered, and told to the journal."""

    def __init__(self, context: Context, known: Known) -> None:
        self._context, self._known = context, known
        self._lock = asyncio.Lock()

    async def order(self, who: Who, order: BootOrder, condition: Condition = Condition()) -> MachineState:
        """Keep what the machine boots next.  Raises Refusal."""
        profiles = self._context.registry.current.profiles
        async with self._lock:
            self._check(condition, who.name, who)
            if order.profile is not None and order.profile not in profiles:
                mend = f"There are {', '.join(sorted(profiles))}."
                raise Refusal(404, f"profile {order.profile}", "there is no such profile", mend)
            state = self._context.store.state(who.key)
            # A new order is a new beginning: what was done belongs to the one before.
            ordered = replace(state, profile=order.profile, boot=order.boot or state.boot, done=0.0, deadline=0.0, overdue=0.0)
            await self._keep_state(who.key, ordered, ": the order counts until the daemon ends")
            self._record(who, "ordered", profile=order.profile, boot=ordered.boot)
        return ordered

    async def put(self, name: str, given: Description, condition: Condition = Condition()) -> tuple[Who, bool]:
        """Describe the machine so, and in no other way than so; (it, is it new?).  Raises Refusal."""
        async with self._lock:
            known = self._context.registry.current.find(name)
            who = Who(known.name, known, known.macs) if known else None
            if known:
                self._in_no_file(known)
            elif not is_name(name):
                mend = "Use letters, digits, dots, dashes and underscores, up to 128."
                raise Refusal(400, "name", f"{name[:80]!r} cannot be the name of a machine", mend)
            self._check(condition, name, who)
            if known and condition.if_match is None:
                mend = "Read it and send its ETag as If-Match; or change single keys with PATCH."
                raise Refusal(428, "If-Match", f"machine {known.name} is described already", mend)
            if known:
                return await self._describe(known.name, given), False
            return await self._describe_new(name, given), True

    async def patch(self, name: str, patch: Mapping[str, Any], condition: Condition = Condition()) -> Who:
        """Change these keys of its description, and take out those that are null (RFC 7396).  Raises Refusal."""
        async with self._lock:
            machine = self._adopted(name, condition)
            try:
                before = await asyncio.to_thread(self._context.registry.adopted_description, machine)
            except OSError as error:
                raise Refusal(507, machine.where, f"it cannot be read: {error.strerror}", "Look after that disk.") from None
            return await self._describe(machine.name, checked(Description, merged(before, patch)))

    async def delete(self, name: str, condition: Condition = Condition()) -> None:
        """Describe it no longer; what was ordered of it is forgotten too.  Raises Refusal."""
        async with self._lock:
            machine = self._adopted(name, condition)
            await self._put_in_force(machine.name, None)
            await self._keep_state(machine.name, FRESH, ": it is forgotten, but what was ordered of it not for good")
            self._record(Who(machine.name, machine, machine.macs), "forgotten")

    def version(self, who: Who) -> str:
        """The ETag of what was described and ordered: changes when either does, not with every packet."""
        return etag([description(who.machine), state_json(self._context.store.state(who.key))])

    def _adopted(self, name: str, condition: Condition) -> Machine:
        """The machine that the API described under this name."""
        who = self._known.who(name)
        if who.machine is None:
            mend = "Describe it first: PUT /api/v1/machines/NAME with its MAC."
            raise Refusal(409, f"machine {who.name}", "it was only heard, nobody described it", mend)
        self._in_no_file(who.machine)
        self._check(condition, who.name, who)
        return who.machine

    def _in_no_file(self, machine: Machine) -> None:
        if not self._context.registry.is_adopted(machine):
            mend = "Change it there: it counts within a second. What it boots next is ordered at …/boot."
            raise Refusal(409, machine.where, f"machine {machine.name} is described in a file", mend)

    def _check(self, condition: Condition, name: str, who: Who | None) -> None:
        """who None: there is no such machine yet."""
        tag = self.version(who) if who else ""
        if condition.if_match is not None and not (who and names(tag, condition.if_match)):
            mend = "Read it again, look what changed, then write again with the new ETag."
            raise Refusal(412, "If-Match", f"{name} was changed in the meantime" if who else f"there is no machine {name}", mend)
        if condition.if_none_match is not None and who and names(tag, condition.if_none_match):
            raise Refusal(412, "If-None-Match", f"machine {who.name} is described already", "Choose another name, or PATCH it.")

    async def _describe(self, name: str, given: Description) -> Who:
        if not _is_writable(given.vars):
            raise Refusal(409, f"machine {name}", "vars: a number is not finite or has too many digits", "Send it as a text.")
        await self._put_in_force(name, {key: value for key, value in given.model_dump().items() if value not in (None, {}, [])})
        machine = self._context.registry.current.machines[name]
        who = Who(name, machine, machine.macs)
        self._record(who, "described", profile=machine.profile)
        return who

    async def _describe_new(self, name: str, given: Description) -> Who:
        """What was ordered and learned while it was nobody's goes on under its name; it is on disk there before the description."""
        store = self._context.store
        macs = [Mac.parse(mac) for mac in given.macs or ()]
        heard = next((mac for mac in macs if store.state(mac) != FRESH), None) if store.state(name) == FRESH else None
        if heard is None:
            return await self._describe(name, given)
        try:
            await self._keep_state(name, store.state(heard))
            made = await self._describe(name, given)
        except Refusal:
            store.set_state(name, FRESH)
            raise
        store.set_state(name, store.state(heard))  # which may know more by now
        store.set_state(heard, FRESH)
        return made

    async def _put_in_force(self, name: str, content: Mapping[str, Any] | None) -> None:
        registry = self._context.registry
        try:
            await asyncio.to_thread(registry.describe, name, content)
        except Faults as error:
            # The file is not there, and shall not be: what is wrong is what was sent, unless another file is.
            own = [fault for fault in error.faults if fault.where.startswith(f"{registry.path_of(name)}:")]
            where = f"machine {name}" if own else error.faults[0].where
            what = "; ".join(fault.what for fault in own or error.faults[:1])
            raise Refusal(409, where, what, (own or error.faults)[0].mend) from None
        except OSError as error:
            mend = "Make room on that disk, or mend its rights."
            raise Refusal(507, str(registry.path_of(name)), f"it cannot be written: {error.strerror or error}", mend) from None

    async def _keep_state(self, key: str, state: MachineState, otherwise: str = "") -> None:
        try:
            await self._context.store.keep_state(key, state)
        except StoreError as error:
            mend = f"Make room on that disk, or mend its rights{otherwise}."
            raise Refusal(507, "state", error.strerror or str(error), mend) from None

    def _record(self, who: Who, kind: str, **detail: object) -> None:
        mac = who.macs[0] if who.macs else None
        self._context.journal.record(Event(time.time(), mac, "api", kind, {"machine": who.name, **detail}))


def merged(target: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """The target with a JSON merge patch in it (RFC 7396)."""
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value) if isinstance(value, Mapping) else value
    return result
