"""The page: machines and their boots, live; rendered here, and htmx swaps what changes.  Works without JavaScript too.

Everything that a client or a file said reaches the page as text: templates escape it, and the policy for content allows no
script but our own files.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pixieboot import __version__
from pixieboot.boots import STAGES, Boot, duration, phases, size, tell
from pixieboot.explain import explain, pretend
from pixieboot.journal import event_json, printable
from pixieboot.model import Arch, Loader
from pixieboot.registry import butane
from pixieboot.serve import access, api
from pixieboot.serve.answers import Refusal, checked
from pixieboot.serve.api import Api
from pixieboot.serve.known import Who
from pixieboot.serve.views import boot_json, description, group_json, profile_json, verdict_json
from pixieboot.serve.writing import BootOrder, Condition, Description
from pixieboot.verdict import judge

ROOT = Path(__file__).parent.parent / "web"
STATIC = {path.name: path for path in (ROOT / "static").iterdir()}
ROWS = 100  # machines that are drawn anew at once; the page asks for more in turns
PICTURE = 600  # width of a boot's picture, in its own units
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
__all__ = ["OPEN_PATHS", "Pages", "api"]
OPEN_PATHS = ("/ui/login", "/ui/static/")


class Pages:
    """The pages, on what the API knows."""

    def __init__(self, operations: Api, token: str | None) -> None:
        """token None: the UNIX socket; nobody logs in there."""
        self._api, self._known, self._token = operations, operations.known, token
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(ROOT / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_without_controls,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            ago=lambda at: f"{duration(time.time() - at)} ago",
            clock=lambda at: time.strftime("%H:%M:%S", time.localtime(at)),
            date=lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)),
            duration=duration,
            block=lambda text: Markup("\n").join(printable(line, 2000) for line in text.splitlines()),
            size=size,
            path=lambda text: quote(str(text), safe=""),
            id=lambda text: f"m-{text}",
        )
        self._templates.globals.update(version=__version__, stages=STAGES)

    def routes(self) -> list[Route]:
        return [
            Route("/ui", lambda request: RedirectResponse("/ui/", 303)),
            Route("/ui/", self.machines),
            Route("/ui/machines", self.machine_list),
            Route("/ui/rows", self.rows),
            Route("/ui/machines/{name}", self.machine),
            Route("/ui/machines/{name}/boots", self.boots),
            Route("/ui/machines/{name}/boot", self.order, methods=["POST"]),
            Route("/ui/machines/{name}/adopt", self.adopt, methods=["POST"]),
            Route("/ui/machines/{name}/describe", self.describe, methods=["POST"]),
            Route("/ui/machines/{name}/forget", self.forget, methods=["POST"]),
            Route("/ui/machines/{name}/explain", self.explanation),
            Route("/ui/leases", self.leases),
            Route("/ui/profiles", self.profiles),
            Route("/ui/log", self.log),
            Route("/ui/health", self.health),
            Route("/ui/login", self.login, methods=["GET", "POST"]),
            Route("/ui/logout", self.logout, methods=["POST"]),
            Route("/ui/static/{name}", self.static),
        ]

    async def _page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page, drawn in a thread: a table of a thousand machines must not keep DHCP waiting."""
        text = await asyncio.to_thread(self._templates.get_template(name).render, values)
        return HTMLResponse(text, status, SECURITY)

    async def static(self, request: Request) -> Response:
        path = STATIC.get(request.path_params["name"])
        if path is None:
            raise Refusal(404, request.url.path, "there is no such file", "Load the page again.")
        kinds = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
        headers = {**SECURITY, "Cache-Control": "public, max-age=3600"}
        return FileResponse(path, media_type=kinds.get(path.suffix, "text/plain; charset=utf-8"), headers=headers)

    # --- login ---

    async def login(self, request: Request) -> Response:
        """The token once, then a cookie that only this page may use."""
        if self._token is None:
            return RedirectResponse("/ui/", 303)
        if request.method == "GET":
            return await self._page("login.html", wrong=False)
        shown = (await _form(request)).get("token", "")
        if not access.shows_token(self._token, f"Bearer {shown}", ""):
            return await self._page("login.html", 403, wrong=True)
        response = RedirectResponse("/ui/", 303)
        response.set_cookie(access.COOKIE, access.cookie_of(self._token), max_age=30 * 86400, httponly=True, samesite="strict")
        return response

    async def logout(self, request: Request) -> Response:
        response = RedirectResponse("/ui/login", 303)
        response.delete_cookie(access.COOKIE)
        return response

    # --- machines ---

    async def machines(self, request: Request) -> Response:
        """All machines, then strangers to adopt."""
        return await self._page("machines.html", **await self._all(request), here="/ui/")

    async def machine_list(self, request: Request) -> Response:
        """The part of that page that changes."""
        return await self._page("_machines.html", **await self._all(request))

    async def rows(self, request: Request) -> Response:
        """The rows of the machines with these MACs."""
        wanted = {name for name in request.query_params.get("macs", "").split()[:ROWS] if name}
        machines = [who for who in self._known.all() if not wanted.isdisjoint(who.macs)]
        return await self._page("_rows.html", machines=[each async for each in self._known.summaries(machines)])

    async def _all(self, request: Request) -> dict[str, Any]:
        find = request.query_params.get("find", "").strip()
        told = [each async for each in self._known.summaries(self._known.all())]
        if find:
            words = find.lower()
            told = [
                each
                for each in told
                if words in f"{each['name']} {' '.join(each['macs'])} {each['address']} {each['hostname']}".lower()
            ]
        described, strangers = ([each for each in told if each["described"] is known] for known in (True, False))
        return {"machines": described, "strangers": strangers, "find": find}

    async def machine(self, request: Request) -> Response:
        """One machine: what it boots next, and its boots."""
        return await self._machine(self._known.who(request.path_params["name"], strangers=True))

    async def _machine(self, who: Who, problem: Refusal | None = None, name: str = "") -> Response:
        """problem: why the last form was not taken, name: what stood in it."""
        status, described = problem.status if problem else 200, description(who.machine)
        told = {**await self._told(who), "description": described, "problem": problem, "called": name}
        return await self._page("machine.html", status, **told, here="/ui/")

    async def boots(self, request: Request) -> Response:
        """The part of that page that changes."""
        who = self._known.who(request.path_params["name"])
        return await self._page("_boots.html", **await self._told(who))

    async def _told(self, who: Who) -> dict[str, Any]:
        boots = await self._known.boots(who)
        assignment, now = self._known.assignment(who), time.time()
        told = [
            {
                **boot_json(boot),
                "verdict": verdict_json(judge(boot, now, assignment, boots[:number])),
                "events": [{**event_json(event), "text": tell(event), "offset": event.at - boot.start} for event in boot.events],
                "picture": picture(boot),
            }
            for number, boot in enumerate(boots)
        ]
        profiles = sorted(self._known.inventory.profiles)
        silent = self._known.silence(who)
        return {"machine": self._known.summary(who), "boots": told[::-1], "profiles": profiles, "silent": silent}

    async def order(self, request: Request) -> Response:
        """What the machine boots next, by the form of its page."""
        who = self._known.who(request.path_params["name"], strangers=True)
        form = await _form(request)
        order = form.get("boot") or None
        if order not in (None, "once", "always", "local"):
            raise Refusal(400, "boot", f"{order!r} is no order", "Use the form of the page.")
        await self._api.writing.order(who, BootOrder(profile=form.get("profile") or None, boot=order))  # type: ignore[arg-type]
        if request.headers.get("hx-request"):
            return await self._page("_boots.html", **await self._told(who))
        return _to_machine(who)

    async def adopt(self, request: Request) -> Response:
        """Describe a machine that was heard, under the name that the form gives it."""
        who, form = self._known.who(request.path_params["name"], strangers=True), await _form(request)
        name = form.get("name", "").strip()
        try:
            given = checked(Description, {"macs": list(who.macs), "profile": form.get("profile") or None})
            made, _ = await self._api.writing.put(name, given, Condition(if_none_match="*"))
        except Refusal as problem:
            return await self._machine(who, problem, name)
        return _to_machine(made)

    async def describe(self, request: Request) -> Response:
        """Change the description of a machine that was adopted."""
        who, form = self._known.who(request.path_params["name"]), await _form(request)
        try:
            changes = {key: form[key].strip() or None for key in ("profile", "boot", "address", "hostname") if key in form}
            return _to_machine(await self._api.writing.patch(who.name, changes))
        except Refusal as problem:
            return await self._machine(who, problem)

    async def forget(self, request: Request) -> Response:
        await _form(request)
        await self._api.writing.delete(request.path_params["name"])
        return RedirectResponse("/ui/", 303)

    async def explanation(self, request: Request) -> Response:
        """A dry run for this machine, as any firmware."""
        who = self._known.who(request.path_params["name"], strangers=True)
        query = request.query_params
        arch = next((each for each in Arch if each.value == query.get("arch")), None) or self._known.known_arch(who) or Arch.X64_EFI
        loader = next((each for each in Loader if each.value == query.get("loader")), Loader.FIRMWARE)
        client = pretend(who.machine, who.macs[0] if who.macs else None, arch, loader)
        facts = client, self._known.inventory, self._known.site(who), self._known.state(who)
        told = await asyncio.to_thread(explain, *facts, butane.translated)
        arches = [each.value for each in (Arch.X86_BIOS, Arch.X86_EFI, Arch.X64_EFI, Arch.ARM64_EFI, Arch.RPIBOOT)]
        loaders = [each.value for each in Loader]
        machine = self._known.summary(who)
        return await self._page(
            "explain.html",
            machine=machine,
            told=told.as_json(),
            arch=(client.arch or arch).value,
            loader=client.loader.value,
            arches=arches,
            loaders=loaders,
            here="/ui/",
        )

    # --- the rest ---

    async def leases(self, request: Request) -> Response:
        return await self._page("leases.html", leases=self._known.all_leases(), here="/ui/leases")

    async def profiles(self, request: Request) -> Response:
        """Profiles with who boots them, and groups in the order in which they are tried."""
        told = [each async for each in self._known.summaries(self._known.all())]
        users: dict[str | None, list[str]] = {}
        for each in told:
            users.setdefault(each["next"]["profile"], []).append(each["name"])
        inventory = self._known.inventory
        groups = [group_json(group) for group in sorted(inventory.groups.values(), key=lambda g: (-len(g.match), g.name))]
        profiles = [{**profile_json(profile), "users": users.get(name, [])} for name, profile in sorted(inventory.profiles.items())]
        return await self._page("profiles.html", profiles=profiles, groups=groups, here="/ui/profiles")

    async def log(self, request: Request) -> Response:
        return await self._page("log.html", events=self._api.feed.latest(300)[::-1], here="/ui/log")

    async def health(self, request: Request) -> Response:
        return await self._page("health.html", health=self._known.health(), here="/ui/health")


def _without_controls(value: Any) -> Any:
    """What a template prints: control and bidirectional characters of clients are shown, not obeyed."""
    return printable(value, 2000) if type(value) is str else value


def picture(boot: Boot) -> list[dict[str, Any]]:
    """The parts of a boot as places in a strip of PICTURE units; the shortest stays visible."""
    whole = max(boot.end - boot.start, 0.001)
    parts: list[dict[str, Any]] = []
    for name, start, end in phases(boot):
        width = max(3.0, PICTURE * (end - start) / whole)
        x = min(PICTURE * (start - boot.start) / whole, PICTURE - width)
        parts.append({"stage": name, "x": round(x, 1), "width": round(width, 1), "took": duration(end - start)})
    return parts


def _to_machine(who: Who) -> Response:
    return RedirectResponse(f"/ui/machines/{quote(who.name, safe='')}", 303)


async def _form(request: Request) -> Mapping[str, str]:
    """The fields of a form, each once.  Raises Refusal for anything else than a form."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "Content-Type", f"{kind or 'nothing'} is no form", "Use the form of the page.")
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[0] for name, values in fields.items()}
