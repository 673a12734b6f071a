"""Rendered scripts kept ready: a rack that asks for the same again and again is answered without rendering."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pixieboot.inventory import Inventory
from pixieboot.model import Event, Mac, MachineState, Site
from pixieboot.serve import zerocopy
from pixieboot.serve.context import Context
from pixieboot.serve.requests import Request, Told, date, read

ROOM = 8 << 20  # bytes of rendered scripts, and of the requests for them
EACH = 2000  # bytes that a remembered script takes besides

Key = tuple[bytes, str, str]  # target, peer, our address: all of a request that its script depends on


@dataclass(frozen=True, slots=True)
class _Script:
    """A rendered script and everything it depends on: the same client asking the same of the same registry gets the same bytes."""

    inventory: Inventory
    site: Site | None  # None: it came by no network that is served
    key: str
    state: MachineState
    mac: Mac | None
    kind: str
    detail: Mapping[str, Any]
    response: tuple[bytes, bytes]  # around the date


class ReadyScripts:
    """Whole responses by request, each good as long as all that it was made of is in force."""

    def __init__(self, context: Context, tell: Callable[[Request], Told | None]) -> None:
        """tell: the script that a request asks for, None if it asks for none.  What raises is not kept."""
        self._context, self._tell = context, tell
        self._scripts: dict[Key, _Script] = {}
        self._size = 0  # bytes, about

    def response(self, target: bytes, peer: str, local: str) -> bytes | None:
        """The whole response to a GET of a script that needs no file and no waiting, else None."""
        if not target.startswith((b"/ipxe?", b"/boot.ipxe")) or self._context.registry.foreign or self._context.boot_api:
            return None
        context, key = self._context, (target, peer, local)
        known = self._scripts.get(key)
        if (
            known is None
            or known.inventory is not context.registry.current
            or known.site is not context.sites.serving(local)
            or known.state != context.store.state(known.key)
        ):
            known = self._remember(key)
            if known is None:
                return None
        context.journal.record(Event(time.time(), known.mac, "http", known.kind, known.detail))
        before, after = known.response
        return before + date() + after

    def _remember(self, key: Key) -> _Script | None:
        target, peer, local = key
        site = self._context.sites.serving(local)
        try:
            request = read("GET", target, peer, site, {})
            told = self._tell(request)
        except Exception:  # the long way says what is wrong
            return None
        if told is None or told.reply.status != 200 or not told.lasting:
            return None
        before, after = zerocopy.response_head(200, told.reply.head()).split(date(), 1)
        store = self._context.store
        state_key = self._context.state_key(told.client) if told.client else ""
        known = _Script(
            self._context.registry.current,
            site,
            state_key,
            store.state(state_key),
            told.mac,
            told.kind,
            told.detail,
            (before, after + told.reply.body),
        )
        size = len(target) + len(before) + len(after) + len(told.reply.body) + EACH
        if size > ROOM // 64:  # one is not to push out all the others
            return known
        if self._size + size > ROOM:
            self._scripts.clear()
            self._size = 0
        self._size += size
        self._scripts[key] = known
        return known
