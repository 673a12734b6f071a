"""The description of the API: it names all that there is, and what it promises is true of real answers."""

from typing import Any

import pytest

from pixieboot.serve import api
from pixieboot.serve.openapi import SCHEMAS, Endpoint
from tests.test_api import Served, served
from tests.test_boots import FILES, UEFI, later

__all__ = ["served"]


def test_openapi_describes_every_route(served: Served) -> None:
    told = served.ask("/openapi.json").json()
    assert told == served.ask("/api/v1/openapi.json").json()
    described = {(path, method) for path, methods in told["paths"].items() for method in methods}
    assert described == {(f"/api/v1{each.path}", each.method.lower()) for each in api.ENDPOINTS}
    for methods in told["paths"].values():
        for operation in methods.values():
            assert operation["summary"] and "401" in operation["responses"]
    assert "boot" in told["components"]["schemas"]["BootOrder"]["properties"]


def fits(value: Any, schema: Any) -> bool:
    """As much of JSON Schema as the description uses; in an object, no key may be left undescribed."""
    if "$ref" in schema:
        return fits(value, SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
        "object": dict,
        "array": list,
    }
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, kinds[kind]) for kind in types):
        return False
    if isinstance(value, list):
        return all(fits(each, schema["items"]) for each in value)
    if isinstance(value, dict) and "properties" in schema:
        return value.keys() == schema["properties"].keys() and all(fits(value[key], of) for key, of in schema["properties"].items())
    return True


@pytest.mark.parametrize("endpoint", [e for e in api.ENDPOINTS if e.method == "GET" and e.told in SCHEMAS], ids=lambda e: e.path)
def test_answers_have_the_keys_that_are_described(served: Served, endpoint: Endpoint) -> None:
    served.happen(*later([*UEFI, *FILES], 1000.0))
    query = "?machine=web1" if endpoint.path == "/explain" else ""
    told = served.ask(f"/api/v1{endpoint.path.format(name='web1')}{query}").json()
    assert fits(told, SCHEMAS[endpoint.told]), told
    assert not fits({**told, "more": 1}, SCHEMAS[endpoint.told])
