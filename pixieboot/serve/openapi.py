"""The description of the API (OpenAPI 3.1), made from the table of its operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from pixieboot import __version__
from pixieboot.boots import STAGES
from pixieboot.model import LeaseState

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
OPTIONAL: Schema = {"type": ["string", "null"]}
NUMBER: Schema = {"type": "number", "description": "Seconds since 1970."}
LATER: Schema = {"type": ["number", "null"], "description": "Seconds since 1970."}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation.  answer: the name of Api's method; told: the schema of its answer; query, headers: parameter -> schema."""

    method: str
    path: str
    answer: str
    told: str
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: type[BaseModel] | None = None
    headers: Mapping[str, Schema] = field(default_factory=dict)
    statuses: tuple[int, ...] = (200,)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(of: Schema | str) -> Schema:
    return {"type": "array", "items": _ref(of) if isinstance(of, str) else of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _page(name: str, of: str) -> Schema:
    return _object(**{name: _list(of)}, total=COUNT, next=OPTIONAL)


def _or_null(name: str) -> Schema:
    return {"anyOf": [_ref(name), {"type": "null"}]}


_ORDER = _object(
    boot=OPTIONAL, profile=OPTIONAL, done=LATER, reply_style=OPTIONAL, local_boot=OPTIONAL, deadline=LATER, overdue=LATER,
)  # fmt: skip
_NEXT = _object(profile=OPTIONAL, boot={"enum": ["always", "once", "local"]}, why=TEXT)
_VERDICT = _object(name=TEXT, outcome={"enum": ["ok", "going", "failed", "ignored"]}, sentence=TEXT, next_step=TEXT)
_DOWNLOADS = _list(_object(path=TEXT, bytes=COUNT, sent=COUNT, percent=COUNT, text=TEXT))
_BOOT = {
    "start": NUMBER, "end": NUMBER, "over": FLAG, "stage": {"enum": list(STAGES)}, "progress": TEXT, "verdict": _ref("Verdict"),
}  # fmt: skip
_EVENT = {
    "at": NUMBER, "mac": OPTIONAL, "service": TEXT, "kind": TEXT, "level": {"enum": ["debug", "info", "warning", "error", "alarm"]},
    "detail": ANY,
}  # fmt: skip
_MACHINE: Mapping[str, Schema] = {
    "name": TEXT, "described": FLAG, "adopted": FLAG, "where": OPTIONAL, "macs": _list(TEXT), "address": OPTIONAL,
    "hostname": OPTIONAL, "order": _ORDER, "next": _NEXT, "arch": OPTIONAL, "vendor": OPTIONAL, "last_seen": LATER,
    "last_boot": _or_null("Boot"),
    "downloads": _DOWNLOADS,
}  # fmt: skip
SCHEMAS: Mapping[str, Schema] = {
    "Error": _object(error=_object(where=TEXT, what=TEXT, mend=TEXT)),
    "Verdict": _VERDICT,
    "Boot": _object(**_BOOT),
    "Machine": _object(**_MACHINE),
    "DescribedMachine": _object(**_MACHINE, description={"type": ["object", "null"]}),
    "Machines": _page("machines", "Machine"),
    "Group": _object(name=TEXT, match=ANY, profile=OPTIONAL, vars=ANY, loader=ANY, where=TEXT),
    "Groups": _page("groups", "Group"),
    "Profile": _object(
        name=TEXT, title=TEXT, kernel=OPTIONAL, initrd=_list(TEXT), args=_list(TEXT), documents=ANY, script=OPTIONAL,
        chain=OPTIONAL, local=FLAG, menu=FLAG,
        once_timeout={"type": ["number", "null"], "description": "Seconds."}, on_timeout=OPTIONAL,
        where=TEXT,
    ),
    "Profiles": _page("profiles", "Profile"),
    "Lease": _object(
        address=TEXT, mac=OPTIONAL, state={"enum": [*(state.value for state in LeaseState), "reserved"]}, expires=LATER,
        hostname=TEXT, machine=OPTIONAL, client=TEXT,
    ),
    "Leases": _page("leases", "Lease"),
    "Event": _object(id=TEXT, **_EVENT),
    "Events": _object(events=_list("Event")),
    "Timeline": _object(
        name=TEXT, macs=_list(TEXT), verdict=_ref("Verdict"), downloads=_DOWNLOADS,
        boots=_list(_object(**_BOOT, events=_list(_object(**_EVENT, text=TEXT)))),
    ),
    "Ordered": _object(name=TEXT, order=_ORDER, next=_NEXT),
    "Answer": _object(answer=OPTIONAL, why=TEXT, server=TEXT),
    "Explanation": _object(
        client=TEXT, machine=OPTIONAL, machine_where=TEXT, profile=OPTIONAL, profile_where=TEXT, why=TEXT, vars=ANY, templates=ANY,
        selectors=_list(ANY), answers=_list(_object(stage=TEXT, answer=TEXT, why=TEXT, text=TEXT, fault=TEXT)),
    ),
    "Health": _object(
        version=TEXT, pid=COUNT, services=_list(_object(name=TEXT, ports=TEXT, state=TEXT)), networks=_list(ANY),
        loaders=_list(_object(arch=TEXT, name=TEXT, place=TEXT, size=COUNT, mend=TEXT)), notes=_list(TEXT), registry=ANY,
        history=TEXT,
    ),
}  # fmt: skip


def openapi(endpoints: Sequence[Endpoint], summaries: Mapping[str, str], name_pattern: str) -> dict[str, Any]:
    """summaries: what each answer is, by its name.  name_pattern: of names that may be given to machines."""
    paths: dict[str, dict[str, Any]] = {}
    models: dict[str, Any] = {}
    for endpoint in endpoints:
        parameters = [_parameter(name, "query", schema) for name, schema in endpoint.query.items()]
        parameters += [_parameter(name, "header", schema) for name, schema in endpoint.headers.items()]
        if "{name}" in endpoint.path:
            schema = {"type": "string", "minLength": 1, **({"pattern": name_pattern} if endpoint.method == "PUT" else {})}
            parameters.insert(0, _parameter("name", "path", {**schema, "description": "Name, MAC, UUID or serial number."}))
        operation: dict[str, Any] = {
            "operationId": f"{endpoint.answer}_{endpoint.method.lower()}",
            "summary": summaries[endpoint.answer],
            "parameters": parameters,
            "responses": {str(status): _response(status, endpoint) for status in sorted({*endpoint.statuses, 401, 403})},
        }
        if endpoint.body:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(endpoint.body.__name__)}}}
            model = endpoint.body.model_json_schema(ref_template="#/components/schemas/{model}")
            models |= model.pop("$defs", {})
            models[endpoint.body.__name__] = model
        paths.setdefault(f"/api/v1{endpoint.path}", {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "pixieboot", "version": __version__, "description": "Machines, their boots, and what they boot next."},
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, **models},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`pixieboot token` prints it."}},
        },
        "security": [{"token": []}],
    }


def _parameter(name: str, place: str, schema: Schema) -> dict[str, Any]:
    rest = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": place, "required": place == "path", "description": schema["description"], "schema": rest}


def _response(status: int, endpoint: Endpoint) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= 400:
        response["content"] = {"application/json": {"schema": _ref("Error")}}
    elif status in (200, 201):
        plain = endpoint.told == "text/plain"
        response["content"] = {"text/plain": {"schema": TEXT}} if plain else {"application/json": {"schema": _ref(endpoint.told)}}
        if endpoint.answer == "events":
            response["content"]["text/event-stream"] = {"schema": TEXT}
    if status in (200, 201, 304) and (304 in endpoint.statuses or endpoint.headers):
        response["headers"] = {"ETag": {"description": "Changes with the answer.", "schema": TEXT}}
    return response
