"""The operator's API (docs/reference.md): what machines are, did and shall do next.  JSON for programs, one stream of events.

ENDPOINTS is the whole of it: the routes and /openapi.json are both made from that table.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, RootModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pixieboot.dhcp import Reply, respond
from pixieboot.errors import Faults, OperatorError, WireError
from pixieboot.explain import explain, pretend
from pixieboot.leases import Leases
from pixieboot.model import Arch, Arrival, Loader
from pixieboot.pxe import client_of
from pixieboot.registry import butane
from pixieboot.serve.answers import LARGEST_PAGE, Refusal, body, checked, limit, page, tagged, takes_json
from pixieboot.serve.context import Context
from pixieboot.serve.feed import Feed
from pixieboot.serve.gate import Gate
from pixieboot.serve.history import History
from pixieboot.serve.known import Known
from pixieboot.serve.metrics import CONTENT_TYPE, Metrics
from pixieboot.serve.openapi import Endpoint, Schema, openapi
from pixieboot.serve.views import description, group_json, profile_json, state_json
from pixieboot.serve.writing import NAME, BootOrder, Condition, Description, Writing
from pixieboot.wire.dhcp import DISCOVER, decode, encode


class Question(BaseModel):
    """A DHCP datagram, as a machine would send it to this port; interface null: the first network."""

    model_config = ConfigDict(extra="forbid")
    datagram: str
    port: Literal[67, 4011] = 67
    interface: str | None = None


class Patch(RootModel[dict[str, JsonValue]]):
    """Keys of a machine's description that change; null takes one out (RFC 7396)."""


class Api:
    """The answers.  One object for TCP and UNIX socket."""

    def __init__(self, context: Context, feed: Feed, history: History | None = None) -> None:
        self._context, self.feed = context, feed
        self.known = Known(context, history)
        self.writing = Writing(context, self.known)
        self.numbers = Metrics(context, history)

    # --- reading ---

    async def machines(self, request: Request) -> Response:
        """All machines: those described, then those only heard, by name."""
        chosen, place = page(request, self.known.all(), lambda who: who.name)
        return tagged(request, {"machines": [each async for each in self.known.summaries(chosen)], **place})

    async def machine(self, request: Request) -> Response:
        """One machine: what is described, ordered and known of it."""
        who = self.known.who(request.path_params["name"])
        answer = {**self.known.summary(who), "description": description(who.machine)}
        return tagged(request, answer, self.writing.version(who))

    async def groups(self, request: Request) -> Response:
        """All groups, those with most labels first: the order in which they are tried."""
        groups = sorted(self.known.inventory.groups.values(), key=lambda group: (-len(group.match), group.name))
        chosen, place = page(request, groups, lambda group: group.name)
        return tagged(request, {"groups": [group_json(group) for group in chosen], **place})

    async def profiles(self, request: Request) -> Response:
        """All profiles, the built-in ones among them."""
        chosen, place = page(request, list(self.known.inventory.profiles.values()), lambda profile: profile.name)
        return tagged(request, {"profiles": [profile_json(profile) for profile in chosen], **place})

    async def timeline(self, request: Request) -> Response:
        """The machine's boots, the newest last, each with its verdict and events."""
        who = self.known.who(request.path_params["name"])
        count = limit(request)
        told, verdict = await self.known.timeline(who)
        downloads = self.known.downloads(who)
        return JSONResponse(
            {"name": who.name, "macs": list(who.macs), "boots": told[-count:], "verdict": verdict, "downloads": downloads}
        )

    async def explanation(self, request: Request) -> Response:
        """What a client would be answered at every stage, and why; nothing is sent."""
        query = request.query_params
        name = query.get("machine") or query.get("mac") or query.get("uuid") or ""
        arch = _choice(Arch, query.get("arch"), "arch")
        loader = _choice(Loader, query.get("loader"), "loader") or Loader.FIRMWARE
        who = self.known.who(name, strangers=True)
        arch = arch or self.known.known_arch(who) or Arch.X64_EFI
        client = pretend(who.machine, who.macs[0] if who.macs else None, arch, loader)
        facts = client, self.known.inventory, self.known.site(who), self.known.state(who)
        told = await asyncio.to_thread(explain, *facts, butane.translated)  # butane is a program that may take its time
        return JSONResponse(told.as_json())

    async def leases(self, request: Request) -> Response:
        """Every address: leased, offered, in quarantine or reserved."""
        chosen, place = page(request, self.known.all_leases(), lambda lease: str(lease["address"]))
        return tagged(request, {"leases": list(chosen), **place})

    async def events(self, request: Request) -> Response:
        """The newest events; as text/event-stream when asked for, from Last-Event-ID on."""
        if "text/event-stream" in request.headers.get("accept", ""):
            after = request.headers.get("last-event-id") or request.query_params.get("after", "")
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._stream(after), media_type="text/event-stream", headers=headers)
        macs = self.known.who(name).macs if (name := request.query_params.get("machine")) else None
        found = self.feed.latest(limit(request), macs, request.query_params.get("before", ""))
        return JSONResponse({"events": found})

    async def _stream(self, after: str) -> AsyncIterator[bytes]:
        yield b": pixieboot\n\n"
        async for events in self.feed.live(after):
            told = [f"id: {event['id']}\ndata: {json.dumps(event)}\n\n" for event in events]
            yield "".join(told or [":\n\n"]).encode()

    async def health(self, request: Request) -> Response:
        """The daemon: version, networks, services, loaders, registry, what is wrong with it."""
        return JSONResponse(self.known.health())

    async def metrics(self, request: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(await self.numbers.render(), media_type=CONTENT_TYPE)

    # --- writing ---

    async def put(self, request: Request) -> Response:
        """Describe a machine that no file describes.  One that exists is replaced, with If-Match only."""
        given = await body(request, Description)
        who, new = await self.writing.put(request.path_params["name"], given, _condition(request))
        answer = {**self.known.summary(who), "description": description(who.machine)}
        return JSONResponse(answer, 201 if new else 200, {"ETag": self.writing.version(who)})

    async def patch(self, request: Request) -> Response:
        """Change keys of the description of a machine that no file describes; null takes one out (RFC 7396)."""
        takes_json(request, "application/merge-patch+json")
        given = checked(Patch, await request.body()).root
        who = await self.writing.patch(request.path_params["name"], given, _condition(request))
        answer = {**self.known.summary(who), "description": description(who.machine)}
        return JSONResponse(answer, headers={"ETag": self.writing.version(who)})

    async def delete(self, request: Request) -> Response:
        """Describe a machine no longer, if no file does; it is a stranger again."""
        await self.writing.delete(request.path_params["name"], _condition(request))
        return Response(status_code=204)

    async def order(self, request: Request) -> Response:
        """Order what the machine boots next.  Kept on disk before the answer."""
        who = self.known.who(request.path_params["name"], strangers=True)
        order = await body(request, BootOrder)
        state = await self.writing.order(who, order, _condition(request))
        told = {"name": who.name, "order": state_json(state), "next": self.known.next(who)}
        return JSONResponse(told, headers={"ETag": self.writing.version(who)})

    async def simulate(self, request: Request) -> Response:
        """What a DHCP datagram would be answered.  Nothing is sent, leased or noted; DISCOVER and port 4011 only."""
        question = await body(request, Question)
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


def _condition(request: Request) -> Condition:
    return Condition(request.headers.get("if-match"), request.headers.get("if-none-match"))


def _choice(kind: Any, text: str | None, where: str) -> Any:
    """A member of an Enum by its value, None for nothing.  Raises Refusal."""
    if text is None:
        return None
    for member in kind:
        if member.value == text.lower():
            return member
    raise Refusal(400, where, f"{text!r} is none that is known", f"Write one of {', '.join(member.value for member in kind)}.")


# --- routes, and what /openapi.json says of them ---


_LIMIT: Mapping[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "description": "How many at most."}
}
_LISTED: Mapping[str, Schema] = {
    **_LIMIT,
    "after": {"type": "string", "description": "The `next` of the page before."},
}
_PRETENDED: Mapping[str, Schema] = {
    "mac": {"type": "string", "description": "MAC in any spelling."},
    "machine": {"type": "string", "description": "Or its name, UUID or serial."},
    "arch": {"enum": [arch.value for arch in Arch], "description": "Pretended architecture."},
    "loader": {"enum": [loader.value for loader in Loader], "description": "Pretended program."},
}
_OF: Mapping[str, Schema] = {
    "machine": {"type": "string", "description": "Of this machine only."},
    "before": {"type": "string", "description": "Older than this id."},
}
_IF_MATCH = {"If-Match": {"type": "string", "description": "The ETag that the machine must still have; `*`: it must exist."}}
_IF_NONE_MATCH = {"If-None-Match": {"type": "string", "description": "`*`: only if it is not described yet."}}
_BODY, _WRITES = (400, 413, 415), (404, 409, 412, 507)
ENDPOINTS = (
    Endpoint("GET", "/machines", "machines", "Machines", _LISTED, statuses=(200, 304, 400, 404)),
    Endpoint("GET", "/machines/{name}", "machine", "DescribedMachine", statuses=(200, 304, 404)),
    Endpoint(
        "PUT",
        "/machines/{name}",
        "put",
        "DescribedMachine",
        body=Description,
        headers={**_IF_MATCH, **_IF_NONE_MATCH},
        statuses=(200, 201, 428, *_BODY, *_WRITES),
    ),
    Endpoint(
        "PATCH", "/machines/{name}", "patch", "DescribedMachine", body=Patch, headers=_IF_MATCH, statuses=(200, *_BODY, *_WRITES)
    ),
    Endpoint("DELETE", "/machines/{name}", "delete", "", headers=_IF_MATCH, statuses=(204, *_WRITES)),
    Endpoint(
        "POST",
        "/machines/{name}/boot",
        "order",
        "Ordered",
        body=BootOrder,
        headers=_IF_MATCH,
        statuses=(200, 404, 412, 507, *_BODY),
    ),
    Endpoint("GET", "/machines/{name}/timeline", "timeline", "Timeline", _LIMIT, statuses=(200, 400, 404)),
    Endpoint("POST", "/simulate", "simulate", "Answer", body=Question, statuses=(200, 404, *_BODY)),
    Endpoint("GET", "/groups", "groups", "Groups", _LISTED, statuses=(200, 304, 400, 404)),
    Endpoint("GET", "/profiles", "profiles", "Profiles", _LISTED, statuses=(200, 304, 400, 404)),
    Endpoint("GET", "/explain", "explanation", "Explanation", _PRETENDED, statuses=(200, 400, 404, 503)),
    Endpoint("GET", "/leases", "leases", "Leases", _LISTED, statuses=(200, 304, 400, 404)),
    Endpoint("GET", "/events", "events", "Events", {**_LIMIT, **_OF}, statuses=(200, 400, 404)),
    Endpoint("GET", "/health", "health", "Health"),
    Endpoint("GET", "/metrics", "metrics", "text/plain"),
)


@cache  # two applications tell it
def described() -> dict[str, Any]:
    """/openapi.json."""
    summaries = {each.answer: (getattr(Api, each.answer).__doc__ or "").partition("\n")[0] for each in ENDPOINTS}
    return openapi(ENDPOINTS, summaries, NAME)


def routes(api: Api) -> list[Route]:
    """Everything below /api/v1, and /openapi.json."""
    description = described()

    async def openapi_json(request: Request) -> Response:
        return JSONResponse(description)

    async def front(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/ui/", 303)
        return PlainTextResponse("pixieboot: machines start at /boot.ipxe, operators at /ui/\n")

    answers: dict[str, dict[str, Answer]] = {}
    for endpoint in ENDPOINTS:
        answers.setdefault(endpoint.path, {})[endpoint.method] = getattr(api, endpoint.answer)
    return [
        *(Route(f"/api/v1{path}", _by_method(methods), methods=list(methods)) for path, methods in answers.items()),
        Route("/openapi.json", openapi_json),
        Route("/api/v1/openapi.json", openapi_json),
        Route("/metrics", api.metrics),
        Route("/", front),
    ]


Answer = Callable[[Request], Awaitable[Response]]


def _by_method(methods: Mapping[str, Answer]) -> Answer:
    """One route a path, so that a refused method is told all that there are."""

    async def answer(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return answer


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
