"""What is rendered for a machine that asks by HTTP: boot scripts, Pixiecore's answers, and documents, with or without secrets."""

import asyncio
import functools
import json
from dataclasses import replace
from typing import Any

from pixieboot import render, sandbox
from pixieboot.errors import OperatorError
from pixieboot.model import Assignment, Boot, Client, Loader, LocalDisk, Mac, Silence, Site, Step
from pixieboot.policy import booted, next_boot
from pixieboot.registry import butane
from pixieboot.registry.sqlite import StoreError
from pixieboot.serve.context import Context
from pixieboot.serve.requests import JSON, NO_STORE, TEXT, Refused, Reply, Request, Told, client_of, mac_in, named
from pixieboot.serve.tickets import Denied, Tickets

SCRIPT_LOADERS = {"ipxe": Loader.IPXE, "grub": Loader.GRUB, "pxelinux": Loader.PXELINUX}


class Documents:
    """Answers who asks what its machine boots, and for the files that its system reads first."""

    def __init__(self, context: Context, tickets: Tickets) -> None:
        self._context, self._tickets = context, tickets

    async def answer(self, request: Request) -> Told | None:
        """What is rendered for a machine: scripts and documents, the ones that can be signed.  None: no such path."""
        if told := self.script(request):
            return told
        match request.parts:
            case (kind,) if kind in render.ENDPOINTS:
                return await self._document(request, kind, client_of(request, self._peer_mac(request)))
            case ("files", kind):
                return await self._document(request, kind, client_of(request, self._peer_mac(request)))
            case ("cloud-init", mac, part) if part in render.SEED:
                return await self._seed(request, part, client_of(request, mac_in(mac)))
            case ("v1", "boot", mac) | ("pixiecore", "v1", "boot", mac) if request.ticket is None:
                return self._pixiecore(request, client_of(request, mac_in(mac)))
        return None

    def script(self, request: Request) -> Told | None:
        """What boot loaders ask for by the name of their language.  None: it is something else."""
        match request.parts:
            case ("boot.ipxe" | "boot.ipxe.0",) if request.ticket is None:
                return self._entry(request)
            case ("ipxe" | "grub" | "pxelinux",) if request.ticket is None:
                return self._script(request)
        return None

    def _entry(self, request: Request) -> Told:
        body = render.boot_ipxe().encode()
        return Told(Reply(200, body), None, None, "sent", {"path": request.path, "bytes": len(body), "peer": request.peer})

    def _script(self, request: Request) -> Told:
        """The machine's script for the loader that asks."""
        client = client_of(request, self._peer_mac(request), SCRIPT_LOADERS[request.parts[0]])
        assignment, step = self._next(client, request.site)
        key = self._context.state_key(client)
        if request.method == "GET" and client.loader is Loader.IPXE and isinstance(step, LocalDisk):
            if self._context.local_boot.back_from_disk(key, client.mac, assignment, step.how):
                assignment, step = self._next(client, request.site)
        detail: dict[str, Any] = {
            "path": request.path,
            "profile": booted(step),
            "why": step.why,
            "status": 200,
            "peer": request.peer,
        }
        if isinstance(step, LocalDisk):
            detail["local_boot"] = step.how
        reply, issued = _refusal(step), list[str]()
        if reply is None:
            render_script = getattr(render, request.parts[0])  # ipxe, grub or pxelinux
            try:
                ticket = self._issuing(request, issued)
                text = render_script(step, client, assignment, request.site, self._context.registry.current, ticket=ticket)
                reply = Reply(200, text.encode(), headers=NO_STORE)
                if isinstance(step, Boot):
                    self._context.deadlines.begins(key, assignment, step.profile)
            except OperatorError as error:
                detail["why"] = str(error)
                reply = Reply(500, _shown(error))
        detail["status"] = reply.status
        return Told(reply, client, named(client), "script", detail, lasting=not issued and not isinstance(step, LocalDisk))

    def _pixiecore(self, request: Request, client: Client) -> Told:
        """Pixiecore's API, the server's side: what a foreign Pixiecore shall boot this machine with; 404: leave it alone."""
        assignment, step = self._next(client, request.site)
        mac, detail = named(client), {"path": request.path, "profile": booted(step), "why": step.why, "peer": request.peer}
        if not isinstance(step, Boot):
            reply = Reply(404, f"No boot data: {step.why}.\n".encode())
            return Told(reply, client, mac, "script", {**detail, "status": 404})
        try:
            ticket = self._issuing(request, [])
            spec = render.pixiecore(step, client, assignment, request.site, self._context.registry.current, ticket)
            reply = Reply(200, json.dumps(spec).encode() + b"\n", JSON, NO_STORE)
        except OperatorError as error:
            reply, detail["why"] = Reply(500, _shown(error)), str(error)
        return Told(reply, client, mac, "script", {**detail, "status": reply.status})

    async def _document(self, request: Request, kind: str, client: Client) -> Told:
        """A rendered template of the machine's profile.  One that holds secrets: for who shows its ticket, and once."""
        request.only("GET")
        assignment, step = self._next(client, request.site)
        detail: dict[str, Any] = {
            "path": request.path,
            "profile": assignment.profile.name if assignment.profile else None,
            "peer": request.peer,
        }
        mac = named(client)
        # A machine that just reported done asks once more, and one that boots from disk may read its seed: the profile decides.
        if assignment.profile is None or isinstance(step, Silence):
            return Told(Reply(404, f"No {kind}: {step.why}.\n".encode()), client, mac, "missing", {**detail, "why": step.why})
        if kind != "metadata" and kind not in assignment.profile.documents:
            why = f"profile {assignment.profile.name} has no {kind}"
            return Told(Reply(404, f"No {kind}: {why}.\n".encode()), client, mac, "missing", {**detail, "why": why})
        inventory, tickets = self._context.registry.current, self._tickets
        secrets = inventory.secrets if render.holds_secrets(kind, assignment.profile, inventory) else None
        asking = tickets.asking(request.ticket, request.parts, request.query, request.peer, self._context.state_key(client))
        try:
            if secrets is not None:
                tickets.check(asking, assignment, client.mac)
            work = functools.partial(
                render.document, kind, client, assignment, request.site, inventory,
                translate=butane.translated, ticket=self._issuing(request, []), secrets=secrets,
            )  # fmt: skip
            translates = kind != "metadata" and render.is_butane(assignment.profile.documents[kind])
            body = (await asyncio.to_thread(work) if translates else work()).encode()
            if secrets is not None and request.method == "GET":
                tickets.check(asking, assignment, client.mac)  # somebody may have come while it was translated
                if not self._context.may_note(client):
                    raise Refused(503, "Too many machines that nobody described: describe this one.\n")
                await tickets.use(asking)
                detail["secrets"] = True
        except Denied as denied:
            told = Reply(403, f"No {kind}: {denied}.\n".encode(), headers=NO_STORE)
            level = "alarm" if denied.alarm else "warning"
            return Told(told, client, mac, "refused", {**detail, "why": str(denied), "secrets": True}, level=level)
        except StoreError as error:
            raise Refused(503, "The state cannot be written, so no secret is given out.\n") from error
        except OperatorError as error:
            return Told(Reply(500, _shown(error)), client, mac, "failed", {**detail, "why": str(error), "status": 500})
        reply = Reply(200, body, JSON if kind == "ignition" else TEXT, NO_STORE)
        return Told(reply, client, mac, "sent", {**detail, "bytes": len(body)})

    async def _seed(self, request: Request, part: str, client: Client) -> Told:
        """One file of cloud-init's NoCloud seed; a part that the profile does not have is there and empty."""
        assignment, _ = self._next(client, request.site)
        documents = assignment.profile.documents if assignment.profile else {}
        for kind in (part, render.SEED[part]):
            if kind and kind in documents:
                return await self._document(request, kind, client)
        detail = {"path": request.path, "bytes": 0, "peer": request.peer}
        return Told(Reply(200, b"", headers=NO_STORE), client, named(client), "sent", detail)

    def _next(self, client: Client, site: Site) -> tuple[Assignment, Step]:
        assignment = self._context.assign(client, site)
        picked = self._context.registry.current.profiles.get(client.labels.get("profile", ""))
        if picked and assignment.profile and assignment.profile.menu:
            why = f"{assignment.why}; {picked.name} was picked there"
            assignment = replace(assignment, profile=picked, why=why)
        return assignment, next_boot(client, assignment, site)

    def _issuing(self, request: Request, issued: list[str]) -> render.Ticket:
        """Hands out per-boot addresses to who asks, and notes that it did."""

        def ticket(address: str) -> str:
            issued.append(address)
            return self._tickets.issue(address, request.peer)

        return ticket

    def _peer_mac(self, request: Request) -> Mac | None:
        return self._context.journal.mac_of(request.peer)


def _refusal(step: Step) -> Reply | None:
    """404 for who gets no boot data, or is sent to its disk in that way."""
    if isinstance(step, Silence) or (isinstance(step, LocalDisk) and step.how == "http404"):
        return Reply(404, f"No boot data: {step.why}.\n".encode())
    return None


def _shown(error: OperatorError) -> bytes:
    """What a machine's screen shows of a mistake in the registry; the log says how to mend it."""
    return (error.short if isinstance(error, sandbox.RenderError) else str(error)).encode() + b"\n"
