"""The operator's API (docs/reference.md): what machines are, did and shall do next.  JSON for programs, one stream of events.

ENDPOINTS is the whole of it: the routes and /openapi.json are both made from that table.  By TCP a request shows the token, by
the UNIX socket it need not: only root and the daemon's user can open that.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pixieboot import __version__
from pixieboot.boots import Boot, split, tell
from pixieboot.dhcp import Reply, respond
from pixieboot.errors import Faults, OperatorError, WireError
from pixieboot.explain import explain, pretend
from pixieboot.inventory import Inventory
from pixieboot.journal import event_json
from pixieboot.leases import Leases
from pixieboot.model import (
    Arch,
    Arrival,
    Assignment,
    Client,
    Event,
    Loader,
    Mac,
    Machine,
    MachineState,
    Site,
    Stage,
)
from pixieboot.pxe import client_of
from pixieboot.registry.sqlite import StoreError
from pixieboot.serve import access
from pixieboot.serve.context import Context
from pixieboot.serve.feed import Feed
from pixieboot.serve.history import History
from pixieboot.serve.metrics import CONTENT_TYPE, Metrics
from pixieboot.serve.views import (
    boot_json,
    description,
    group_json,
    last_address,
    lease_json,
    profile_json,
    state_json,
    verdict_json,
)
from pixieboot.verdict import judge, nothing_heard
from pixieboot.wire.dhcp import DISCOVER, decode, encode

PAGE, LARGEST_PAGE = 200, 2000
REJUDGE = 10.0  # seconds after which silence alone may change a verdict
LARGEST_BODY = 256 << 10
BREATH = 4  # machines judged between two looks at the sockets: DHCP must not wait for a table


class Refusal(Exception):
    """An answer other than 2xx: status and the three parts of every message to operators."""

    def __init__(self, status: int, where: str, what: str, mend: str) -> None:
        super().__init__(what)
        self.status, self.where, self.what, self.mend = status, where, what, mend

    def response(self) -> JSONResponse:
        return JSONResponse({"error": {"where": self.where, "what": self.what, "mend": self.mend}}, self.status)


class BootOrder(BaseModel):
    """What a machine boots next.  profile null: the registry's.  boot null: as it was."""

    model_config = ConfigDict(extra="forbid")
    profile: str | None = None
    boot: Literal["once", "always", "local"] | None = None


class Question(BaseModel):
    """A DHCP datagram, as a machine would send it to this port; interface null: the first network."""

    model_config = ConfigDict(extra="forbid")
    datagram: str
    port: Literal[67, 4011] = 67
    interface: str | None = None


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


class Api:
    """The answers.  One object for TCP and UNIX socket."""

    def __init__(self, context: Context, feed: Feed, history: History | None = None) -> None:
        self._context, self.feed, self._history = context, feed, history
        self.numbers = Metrics(context, history)
        self._judged: dict[str, tuple[Any, float, dict[str, Any]]] = {}  # machine -> on what facts, when, its last boot

    # --- reading ---

    def all(self) -> list[Who]:
        """All machines: those described, then those only heard, by name."""
        who = [Who(machine.name, machine, machine.macs) for machine in self._context.registry.current.machines.values()]
        known = {mac for each in who for mac in each.macs}
        who.sort(key=lambda each: each.name)
        who += sorted((Who(seen.mac, None, (seen.mac,)) for seen in self._strangers(known)), key=lambda each: each.name)
        return who

    async def everybody(self) -> AsyncIterator[dict[str, Any]]:
        """A summary of each; the loop gets its turns in between."""
        for number, who in enumerate(self.all()):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            yield self.summary(who)

    async def machines(self, request: Request) -> Response:
        """All machines: those described, then those only heard, by name."""
        who = self.all()
        limit, after = _limit(request), request.query_params.get("after", "")
        start = next((number + 1 for number, each in enumerate(who) if each.name == after), 0) if after else 0
        page = []
        for number, each in enumerate(who[start : start + limit]):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            page.append(self.summary(each))
        following = who[start + limit - 1].name if start + limit < len(who) else None
        return _tagged(request, {"machines": page, "total": len(who), "next": following})

    def _strangers(self, known: set[Mac]) -> list[Any]:
        machine_of = self._context.registry.current.machine_of
        return [
            seen
            for seen in self._context.store.discovered()
            if seen.mac not in known and machine_of(Client(seen.mac, uuid=seen.uuid)) is None
        ]

    async def machine(self, request: Request) -> Response:
        """One machine: what is described, ordered and known of it."""
        who = self._who(request.path_params["name"])
        answer = {**self.summary(who), "description": description(who.machine)}
        return _tagged(request, answer, self._version(who))

    async def groups(self, request: Request) -> Response:
        """All groups, those with most labels first: the order in which they are tried."""
        groups = sorted(self._context.registry.current.groups.values(), key=lambda group: (-len(group.match), group.name))
        return _tagged(request, {"groups": [group_json(group) for group in groups]})

    async def profiles(self, request: Request) -> Response:
        """All profiles, the built-in ones among them."""
        return _tagged(
            request, {"profiles": [profile_json(profile) for profile in self._context.registry.current.profiles.values()]}
        )

    async def timeline(self, request: Request) -> Response:
        """The machine's boots, the newest last, each with its verdict and events."""
        who = self._who(request.path_params["name"])
        boots = await self.boots(who)
        limit = _limit(request)
        assignment, now = self.assignment(who), time.time()
        told = [
            {
                **boot_json(boot),
                "verdict": verdict_json(judge(boot, now, assignment, boots[:number])),
                "events": [{**event_json(event), "text": tell(event)} for event in boot.events],
            }
            for number, boot in enumerate(boots)
        ][-limit:]
        verdict = told[-1]["verdict"] if told else verdict_json(nothing_heard(who.name))
        return JSONResponse({"name": who.name, "macs": list(who.macs), "boots": told, "verdict": verdict})

    async def explanation(self, request: Request) -> Response:
        """What a client would be answered at every stage, and why; nothing is sent."""
        query = request.query_params
        name = query.get("machine") or query.get("mac") or query.get("uuid") or ""
        arch = _choice(Arch, query.get("arch"), "arch")
        loader = _choice(Loader, query.get("loader"), "loader") or Loader.FIRMWARE
        who = self._who(name, strangers=True)
        arch = arch or self.known_arch(who) or Arch.X64_EFI
        client = pretend(who.machine, who.macs[0] if who.macs else None, arch, loader)
        site = self.site(who)
        told = explain(client, self._context.registry.current, site, self._context.store.state(who.key))
        return JSONResponse(told.as_json())

    async def leases(self, request: Request) -> Response:
        """Every address: leased, offered, in quarantine or reserved."""
        return _tagged(request, {"leases": self.all_leases()})

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

    async def events(self, request: Request) -> Response:
        """The newest events; as text/event-stream when asked for, from Last-Event-ID on."""
        if "text/event-stream" in request.headers.get("accept", ""):
            after = request.headers.get("last-event-id") or request.query_params.get("after", "")
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._stream(after), media_type="text/event-stream", headers=headers)
        mac = self._who(name).macs[0] if (name := request.query_params.get("machine")) else None
        found = self.feed.latest(_limit(request), mac, request.query_params.get("before", ""))
        return JSONResponse({"events": found})

    async def _stream(self, after: str) -> AsyncIterator[bytes]:
        yield b": pixieboot\n\n"
        async for event in self.feed.live(after):
            if event is None:
                yield b":\n\n"
            else:
                yield f"id: {event['id']}\ndata: {json.dumps(event)}\n\n".encode()

    async def health(self, request: Request) -> Response:
        """The daemon: version, networks, registry, what is wrong with it."""
        return JSONResponse(self.health_json())

    def health_json(self) -> dict[str, Any]:
        """The same as a value."""
        context = self._context
        inventory = context.registry.current
        return {
            "version": __version__,
            "pid": os.getpid(),
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
                "source": context.settings.registry,
                "machines": len(inventory.machines),
                "groups": len(inventory.groups),
                "profiles": len(inventory.profiles),
            },
            "history": self._history.error if self._history else "events are kept in memory only",
        }

    async def metrics(self, request: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(await self.numbers.render(), media_type=CONTENT_TYPE)

    # --- writing ---

    async def order(self, request: Request) -> Response:
        """Order what the machine boots next.  Kept on disk before the answer."""
        who = self._who(request.path_params["name"], strangers=True)
        self._if_match(request, who)
        order = await _body(request, BootOrder)
        state = await self.put_order(who, order)
        return JSONResponse(
            {"name": who.name, "order": state_json(state), "next": self._next(who)}, headers={"ETag": self._version(who)}
        )

    async def put_order(self, who: Who, order: BootOrder) -> MachineState:
        """Keep an order, for the API and the page alike."""
        profiles = self._context.registry.current.profiles
        if order.profile is not None and order.profile not in profiles:
            mend = f"There are {', '.join(sorted(profiles))}."
            raise Refusal(404, f"profile {order.profile}", "there is no such profile", mend)
        state = self._context.store.state(who.key)
        # A new order is a new beginning: what was done belongs to the one before.
        ordered = replace(state, profile=order.profile, boot=order.boot or state.boot, done=0.0)
        try:
            await self._context.store.keep_state(who.key, ordered)
        except StoreError as error:
            raise Refusal(507, "state", str(error), "Make room on the disk: the order counts until the daemon ends.") from None
        detail = {"machine": who.name, "profile": order.profile, "boot": ordered.boot}
        self._context.journal.record(Event(time.time(), who.macs[0] if who.macs else None, "api", "ordered", detail))
        return ordered

    async def refuse_change(self, request: Request) -> Response:
        """Machines are described in files; what they boot next is ordered at …/boot."""
        name = request.path_params["name"]
        machine = self._context.registry.current.find(name)
        source = self._context.settings.registry
        if machine is None and request.method != "PUT":
            raise Refusal(404, f"machine {name}", "there is no such machine", "GET /api/v1/machines lists them.")
        if machine is None:
            what, where = "machines are described in files", f"{source}/machines.yaml"
            raise Refusal(409, where, what, f"Write it there, or into {source}/machines/{name}.yaml: it counts within a second.")
        mend = "Change it there: it counts within a second. What it boots next is ordered at …/boot."
        raise Refusal(409, machine.where, f"machine {machine.name} is described in a file", mend)

    async def simulate(self, request: Request) -> Response:
        """What a DHCP datagram would be answered.  Nothing is sent, leased or noted; DISCOVER and port 4011 only."""
        question = await _body(request, Question)
        sites = self._context.sites.sites
        site = next((site for site in sites if question.interface in (None, site.interface)), None)
        if site is None:
            raise Refusal(404, "interface", f"{question.interface or 'no network'} is not served", "GET /api/v1/health lists them.")
        try:
            message = decode(bytes.fromhex(question.datagram))
        except (ValueError, WireError) as error:
            raise Refusal(400, "datagram", str(error), "Send the hexadecimal digits of one DHCP message.") from None
        if question.port == 67 and message.type != DISCOVER:
            raise Refusal(400, "datagram", "only DISCOVER can be played on port 67", "A REQUEST would take a lease.")
        client = client_of(message)
        assignment = self._context.assign(client, site)
        peer = (message.ciaddr, 68)
        arrival = Arrival(question.port, peer, site.ifindex, site.address, time.time())
        # Leases of its own, so that no address is set aside for a machine that does not exist.
        answer = respond(message, client, arrival, assignment, site, Leases(self._context.leases.all()))
        if isinstance(answer, Reply):
            octets = encode(answer.message, answer.limit).hex()
            return JSONResponse({"answer": octets, "why": answer.why, "server": site.address})
        return JSONResponse({"answer": None, "why": answer.why, "server": site.address})

    # --- for all of them ---

    def who(self, name: str, strangers: bool = False) -> Who:
        return self._who(name, strangers)

    def _who(self, name: str, strangers: bool = False) -> Who:
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

    def summary(self, who: Who) -> dict[str, Any]:
        """A machine in a list: cheap, from memory alone."""
        machine = who.machine
        seen = next((seen for mac in who.macs if (seen := self._context.store.seen(mac))), None)
        events = [event for mac in who.macs for event in self._context.journal.timeline(mac)]
        return {
            "name": who.name,
            "described": machine is not None,
            "where": machine.where if machine else None,
            "macs": list(who.macs),
            "address": (machine.address if machine else None) or last_address(events),
            "hostname": machine.hostname if machine else None,
            "order": state_json(self._context.store.state(who.key)),
            "next": self._next(who),
            "arch": seen.arch if seen else None,
            "vendor": seen.vendor if seen else None,
            "last_seen": seen.last_seen if seen else None,
            "last_boot": self._last_boot(who, events),
        }

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
        machine = who.machine
        client = Client(who.macs[0], self.known_arch(who), Loader.IPXE, Stage.SCRIPT, uuid=machine.uuid if machine else None)
        return self._context.assign(client, self.site(who))

    def _next(self, who: Who) -> dict[str, Any]:
        assignment = self.assignment(who)
        if assignment is None:
            return {"profile": None, "boot": "always", "why": "no network is served yet"}
        order = assignment.state.boot or (assignment.machine.boot if assignment.machine else "always")
        local = order == "local" or (order == "once" and assignment.state.done > 0)
        profile = "local" if local else assignment.profile.name if assignment.profile else None
        why = "it was installed once and reported done" if order == "once" and local else assignment.why
        return {"profile": profile, "boot": order, "why": "boot: local was ordered" if order == "local" else why}

    def _version(self, who: Who) -> str:
        """The ETag of what was described and ordered: changes when either does, not with every packet."""
        return _etag([description(who.machine), state_json(self._context.store.state(who.key))])

    def _if_match(self, request: Request, who: Who) -> None:
        wanted = request.headers.get("if-match")
        if wanted and wanted != "*" and self._version(who) not in [tag.strip() for tag in wanted.split(",")]:
            mend = "Read it again, look what changed, then write again with the new ETag."
            raise Refusal(412, "If-Match", f"{who.name} was changed in the meantime", mend)


def _inside(address: str, site: Site) -> bool:
    return IPv4Address(address) in site.subnet


def _known_arch(text: str | None) -> Arch | None:
    return next((arch for arch in Arch if arch.value == text), None)


def _choice(kind: Any, text: str | None, where: str) -> Any:
    """A member of an Enum by its value, None for nothing.  Raises Refusal."""
    if text is None:
        return None
    for member in kind:
        if member.value == text.lower():
            return member
    raise Refusal(400, where, f"{text!r} is none that is known", f"Write one of {', '.join(member.value for member in kind)}.")


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= LARGEST_PAGE):
        raise Refusal(
            400, "limit", f"{text[:20]!r} is not a number from 1 to {LARGEST_PAGE}", "Ask for less, and for more with `after`."
        )
    return int(text)


async def _body(request: Request, model: type[BaseModel]) -> Any:
    """The JSON body as this model.  Raises Refusal with every fault of it."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "Content-Type", f"{content_type or 'nothing'} is not taken", "Send application/json.")
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        raise Refusal(400, "body", faults, f"It has these keys: {', '.join(model.model_fields)}.") from None


def _etag(value: Any) -> str:
    return f'"{hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]}"'


def _tagged(request: Request, value: dict[str, Any], tag: str = "") -> Response:
    """A JSON answer with its ETag; 304 if the client has it already."""
    tag = tag or _etag(value)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if tag in [each.strip() for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(value, headers=headers)


# --- routes, and what /openapi.json says of them ---


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation.  answer: the name of Api's method; query: parameter -> what it means."""

    method: str
    path: str
    answer: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: type[BaseModel] | None = None
    statuses: tuple[int, ...] = (200,)


_PAGED = {"limit": f"How many at most, 1 to {LARGEST_PAGE}."}
_AFTER = {"after": "The name after which to go on: `next` of the page before."}
_PRETENDED = {
    "mac": "MAC in any spelling.",
    "machine": "Or its name, UUID or serial.",
    "arch": "Pretended architecture, such as x64-efi.",
    "loader": "Pretended program: firmware, firmware-http, ipxe, grub, pxelinux, raspberry-pi.",
}
_OF = {"machine": "Of this machine only.", "before": "Older than this id."}
ENDPOINTS = (
    Endpoint("GET", "/machines", "machines", {**_PAGED, **_AFTER}, statuses=(200, 304, 400)),
    Endpoint("GET", "/machines/{name}", "machine", statuses=(200, 304, 404)),
    Endpoint("PUT", "/machines/{name}", "refuse_change", statuses=(409,)),
    Endpoint("PATCH", "/machines/{name}", "refuse_change", statuses=(404, 409)),
    Endpoint("DELETE", "/machines/{name}", "refuse_change", statuses=(404, 409)),
    Endpoint("POST", "/machines/{name}/boot", "order", body=BootOrder, statuses=(200, 400, 404, 412, 413, 415, 507)),
    Endpoint("GET", "/machines/{name}/timeline", "timeline", _PAGED, statuses=(200, 400, 404)),
    Endpoint("POST", "/simulate", "simulate", body=Question, statuses=(200, 400, 404, 413, 415)),
    Endpoint("GET", "/groups", "groups", statuses=(200, 304)),
    Endpoint("GET", "/profiles", "profiles", statuses=(200, 304)),
    Endpoint("GET", "/explain", "explanation", _PRETENDED, statuses=(200, 400, 404, 503)),
    Endpoint("GET", "/leases", "leases", statuses=(200, 304)),
    Endpoint("GET", "/events", "events", {**_PAGED, **_OF}, statuses=(200, 400, 404)),
    Endpoint("GET", "/health", "health"),
    Endpoint("GET", "/metrics", "metrics"),
)


def openapi() -> dict[str, Any]:
    """The description of the API (OpenAPI 3.1)."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        parameters: list[dict[str, Any]] = [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in endpoint.query.items()
        ]
        if "{name}" in endpoint.path:
            named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            parameters.insert(0, {**named, "description": "Name, MAC, UUID or serial number."})
        statuses = sorted({*endpoint.statuses, 401, 403})
        operation: dict[str, Any] = {
            "operationId": f"{endpoint.answer}_{endpoint.method.lower()}",
            "summary": (getattr(Api, endpoint.answer).__doc__ or "").strip().partition("\n")[0],
            "parameters": parameters,
            "responses": {str(status): _openapi_response(status, endpoint) for status in statuses},
        }
        if endpoint.body:
            schema = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(f"/api/v1{endpoint.path}", {})[endpoint.method.lower()] = operation
    parts = {"where": {"type": "string"}, "what": {"type": "string"}, "mend": {"type": "string"}}
    error = {
        "type": "object",
        "properties": {"error": {"type": "object", "properties": parts, "required": list(parts)}},
        "required": ["error"],
    }
    models = {endpoint.body.__name__: endpoint.body.model_json_schema() for endpoint in ENDPOINTS if endpoint.body}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pixieboot", "version": __version__, "description": "Machines, their boots, and what they boot next."},
        "paths": paths,
        "components": {
            "schemas": {"Error": error, **models},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`pixieboot token` prints it."}},
        },
        "security": [{"token": []}],
    }


def _openapi_response(status: int, endpoint: Endpoint) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= 400:
        response["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    elif status == 200:
        response["content"] = {"application/json": {"schema": {"type": "object"}}}
        if endpoint.answer == "metrics":
            response["content"] = {"text/plain": {"schema": {"type": "string"}}}
        if endpoint.answer == "events":
            response["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return response


def routes(api: Api) -> list[Route]:
    """Everything below /api/v1, and /openapi.json."""
    described = openapi()

    async def openapi_json(request: Request) -> Response:
        return JSONResponse(described)

    async def front(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/ui/", 303)
        return PlainTextResponse("pixieboot: machines start at /boot.ipxe, operators at /ui/\n")

    found = [
        Route(f"/api/v1{e.path}", getattr(api, e.answer), methods=[e.method], name=f"{e.answer}_{e.method}") for e in ENDPOINTS
    ]
    return [
        *found,
        Route("/openapi.json", openapi_json),
        Route("/api/v1/openapi.json", openapi_json),
        Route("/metrics", api.metrics),
        Route("/", front),
    ]


Call = Callable[[Request], Awaitable[Response]]


class Gate:
    """Who may ask: by TCP the token, a Host that is ours and, to change something, no foreign page."""

    def __init__(self, app: ASGIApp, token: str | None, base_url: Callable[[], str], open_paths: Sequence[str] = ()) -> None:
        """token None: the UNIX socket, where the file's mode decides.  open_paths: prefixes that need no token."""
        self._app, self._token, self._base_url, self._open = app, token, base_url, tuple(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            response = refusal.response()
            if refusal.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
                if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                    await RedirectResponse("/ui/login", 303)(scope, receive, send)
                    return
            await response(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _refusal(self, request: Request) -> Refusal | None:
        headers = request.headers
        if self._token is None:
            return None
        if not access.host_allowed(headers.get("host", ""), self._base_url()):
            mend = "Use this host's address or name, or set http.base_url to the name that you use."
            return Refusal(403, "Host", f"{headers.get('host', '')[:80]!r} is not a name of this server", mend)
        if request.method not in ("GET", "HEAD") and not access.same_origin(headers):
            return Refusal(403, "Origin", "the request comes from another page", "Only pixieboot's own page may change something.")
        path = request.url.path
        if path == "/" or path.startswith(self._open):
            return None
        if not access.shows_token(self._token, headers.get("authorization", ""), request.cookies.get(access.COOKIE, "")):
            mend = "Send `Authorization: Bearer TOKEN`; `sudo pixieboot token` prints it."
            return Refusal(401, "Authorization", "the token is missing or wrong", mend)
        return None


def _bounded(receive: Receive) -> Receive:
    """No body larger than any that makes sense."""
    taken = 0

    async def bounded() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > LARGEST_BODY:
            raise Refusal(413, "body", f"it is larger than {LARGEST_BODY} octets", "Send less.")
        return message

    return bounded


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where, mend = f"{request.method} {request.url.path}", "/openapi.json describes the API."
    response = Refusal(error.status_code, where, HTTPStatus(error.status_code).phrase.lower(), mend).response()
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _on_operator_error(request: Request, error: Exception) -> Response:
    fault = error.faults[0] if isinstance(error, Faults) else error
    assert isinstance(fault, OperatorError)
    return Refusal(400, fault.where, fault.what, fault.mend).response()


def application(
    api: Api, token: str | None, base_url: Callable[[], str], more: Sequence[Route] = (), open_paths: Sequence[str] = ()
) -> Gate:
    """The ASGI application for one way in: a token by TCP, None on the UNIX socket."""
    handlers: Any = {Refusal: _on_refusal, HTTPException: _on_http, OperatorError: _on_operator_error, Faults: _on_operator_error}
    return Gate(Starlette(routes=[*routes(api), *more], exception_handlers=handlers), token, base_url, open_paths)
