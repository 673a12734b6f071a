"""Does a machine get on with what its firmware was told?

One that asks again and again is told its boot program in another style; one that loads the program again and again, and never
asks for its script, is given the other program.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pixieboot.dhcp import Reply
from pixieboot.model import Client, Event, Loader, Mac
from pixieboot.policy import LOOP_LIMIT
from pixieboot.pxe import STYLES, Styles
from pixieboot.serve.context import Context

LOOP_SECONDS = 120.0
REMEMBERED = 4096  # clients whose boot is followed at once


@dataclass(slots=True)
class _Boot:
    """How far one client has come, while it boots."""

    style: str = ""
    tried: int = 0  # styles that led nowhere
    loads: int = 0  # of its NBP, without its script being asked for
    since: float = 0.0


class Progress:
    """What became of the answers of one daemon.  Learned things go to the state store, facts to the journal."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._styles = Styles()
        self._boots: OrderedDict[Mac, _Boot] = OrderedDict()

    def watch(self, reply: Reply, mac: Mac, asker: Callable[[], Client], detail: Mapping[str, Any], now: float) -> None:
        """Does the client understand how it was told its boot file?  asker: who it is, needed only if it does not."""
        if reply.kind == "pxe acked":
            self._styles.progressed(mac)
        elif reply.style and reply.kind == "offered" and (follower := self._styles.asked(mac, reply.style, now)):
            self._change_style(asker(), reply.style, follower, detail, now)

    def on_event(self, event: Event) -> None:
        """A transfer or a script request: the client understood us, or goes in circles."""
        mac = event.mac
        if mac is None:
            return
        self._styles.progressed(mac)
        if event.kind == "script":
            if mac in self._boots:
                self._boots[mac].loads = 0
        elif event.kind == "sent" and (nbp := self._nbp_of(mac)) and str(event.detail.get("path", "")).endswith(nbp):
            boot = self._boot_of(mac, event.at)
            if boot.style:
                why = f"the boot program was fetched: style {boot.style} stays"
                self._record(mac, "style works", {"style": boot.style, "why": why}, event.at, "info")
                boot.style, boot.tried = "", 0
            self._count_load(mac, nbp, boot, event.at)

    def _change_style(self, client: Client, style: str, follower: str, told: Mapping[str, Any], now: float) -> None:
        """The client keeps asking: it does not understand this style of answer.  Use the next one (field: edk2 #6944, #8149)."""
        context = self._context
        machine = context.registry.current.machine_of(client)
        if (machine and machine.reply_style != "auto") or not context.may_note(client):
            return
        key = context.state_key(client)
        context.store.set_state(key, replace(context.store.state(key), reply_style=follower))
        boot = self._boot_of(client.mac, now)
        boot.style, boot.tried = follower, boot.tried + 1
        asked = f"it asked {Styles.PATIENCE} times; neither port 4011 nor a transfer followed style {style}"
        if boot.tried % len(STYLES):
            self._record(client.mac, "style", {"style": follower, "why": f"{asked}: {follower} is tried next"}, now)
            return
        mend = f"let the router itself send option 67 {told.get('nbp', '')}, and our address as next-server and option 66"
        self._record(client.mac, "style", {"style": follower, "why": f"{asked}, nor any other style: {mend}"}, now, "alarm")

    def _nbp_of(self, mac: Mac) -> str:
        """The boot program that this client's firmware was told last to load, without its directory; "" if it was told none."""
        for event in reversed(self._context.journal.timeline(mac)):
            if event.detail.get("loader") == Loader.FIRMWARE.value and (path := event.detail.get("nbp") or event.detail.get("url")):
                return str(path).rpartition("/")[2]
        return ""

    def _count_load(self, mac: Mac, nbp: str, boot: _Boot, now: float) -> None:
        """The same program again and again, and never its script: after three the other one is offered (ipxe #908, #913, #922)."""
        if now - boot.since > LOOP_SECONDS:
            boot.loads, boot.since = 0, now
        boot.loads += 1
        if boot.loads < LOOP_LIMIT:
            return
        context = self._context
        if not context.may_note(Client(mac)):
            return
        key = context.state_key(Client(mac))
        state = context.store.state(key)
        # From the usual program to its alternate, and if that goes in circles too, back.
        context.store.set_state(key, replace(state, loader_fetches=0 if state.loader_fetches else boot.loads))
        why = f"{nbp} was loaded {boot.loads} times in {LOOP_SECONDS:.0f} s and never asked for its script: another is tried"
        self._record(mac, "loop", {"nbp": nbp, "why": why}, now)
        boot.loads = 0

    def _boot_of(self, mac: Mac, now: float) -> _Boot:
        boot = self._boots.get(mac)
        if boot is None:
            boot = self._boots[mac] = _Boot(since=now)
            if len(self._boots) > REMEMBERED:
                self._boots.popitem(last=False)
        return boot

    def _record(self, mac: Mac, kind: str, detail: dict[str, Any], at: float, level: str = "warning") -> None:
        self._context.journal.record(Event(at, mac, "dhcp", kind, detail, level))
