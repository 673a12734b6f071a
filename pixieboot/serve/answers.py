"""What every answer to an operator's program has in common: JSON, an ETag, and refusals that say where, what and how to mend it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PAGE, LARGEST_PAGE = 200, 2000
T = TypeVar("T")


class Refusal(Exception):
    """An answer other than 2xx: status and the three parts of every message to operators."""

    def __init__(self, status: int, where: str, what: str, mend: str) -> None:
        super().__init__(what)
        self.status, self.where, self.what, self.mend = status, where, what, mend

    def response(self) -> JSONResponse:
        return JSONResponse({"error": {"where": self.where, "what": self.what, "mend": self.mend}}, self.status)


def etag(value: Any) -> str:
    """A strong ETag of this content (RFC 9110 §8.8.3)."""
    return f'"{hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]}"'


def names(tag: str, header: str) -> bool:
    """Is this ETag among those of an If-Match or If-None-Match header?  * stands for any."""
    return header.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in header.split(",")]


def tagged(request: Request, value: dict[str, Any], tag: str = "") -> Response:
    """A JSON answer with its ETag; 304 if the client has it already."""
    tag = tag or etag(value)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if names(tag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return JSONResponse(value, headers=headers)


def limit(request: Request) -> int:
    """How many entries of a list are asked for, 1 to LARGEST_PAGE.  Raises Refusal."""
    text = request.query_params.get("limit", str(PAGE))
    if not (len(text) < 10 and text.isascii() and text.isdigit() and 0 < int(text) <= LARGEST_PAGE):
        raise Refusal(
            400, "limit", f"{text[:20]!r} is not a number from 1 to {LARGEST_PAGE}", "Ask for less, and for more with `after`."
        )
    return int(text)


def page(request: Request, values: Sequence[T], name: Callable[[T], str]) -> tuple[Sequence[T], dict[str, Any]]:
    """(the values that `limit` and `after` ask for, {"total": how many there are, "next": `after` of the next page or None})."""
    start, count = 0, limit(request)
    if after := request.query_params.get("after"):
        start = next((number + 1 for number, each in enumerate(values) if name(each) == after), 0)
        if not start:
            raise Refusal(404, "after", f"{after[:80]!r} is not in the list, or not any more", "Begin with the first page again.")
    following = name(values[start + count - 1]) if start + count < len(values) else None
    return values[start : start + count], {"total": len(values), "next": following}


async def body(request: Request, model: type[BaseModel]) -> Any:
    """The JSON body as this model.  Raises Refusal with every fault of it."""
    takes_json(request)
    return checked(model, await request.body())


def takes_json(request: Request, *others: str) -> None:
    """Raises Refusal for a body that does not say that it is JSON, or one of the others."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("application/json", *others):
        raise Refusal(415, "Content-Type", f"{content_type or 'nothing'} is not taken", "Send application/json.")


def checked(model: type[BaseModel], value: bytes | dict[str, Any]) -> Any:
    """JSON text or a value as this model.  Raises Refusal with every fault of it."""
    try:
        return model.model_validate_json(value) if isinstance(value, bytes) else model.model_validate(value)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        raise Refusal(400, "body", faults, f"It has these keys: {', '.join(model.model_fields)}.") from None
