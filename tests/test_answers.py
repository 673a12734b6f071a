"""Pages, bodies and ETags of the API."""

from typing import Any

import pytest

from pixieboot.model import Mac
from pixieboot.serve.answers import names
from pixieboot.serve.gate import LARGEST_BODY
from tests.test_api import BEARER, JSON, Served, served

__all__ = ["served"]


def test_pages(served: Served) -> None:
    for number in range(5):
        served.store.see(Mac(f"02:00:00:00:00:0{number}"), None, None, "", 1.0)
    names: list[str] = []
    after = ""
    while after is not None:
        page = served.ask(f"/api/v1/machines?limit=2&after={after}").json()
        names += [each["name"] for each in page["machines"]]
        after = page["next"]
    assert len(names) == len(set(names)) == page["total"] == 6
    for wrong in ("0", "-1", "many", "99999", "٣", "1" * 5000, "0" * 8 + "1" * 5000):
        assert served.ask(f"/api/v1/machines?limit={wrong}").status == 400


@pytest.mark.parametrize("path", ["machines", "groups", "profiles", "leases"])
def test_every_list_has_pages(served: Served, path: str) -> None:
    told = served.ask(f"/api/v1/{path}").json()
    first = served.ask(f"/api/v1/{path}?limit=1").json()
    assert len(first[path]) == 1 and first["total"] == told["total"] == len(told[path])
    assert (first["next"] is None) == (told["total"] == 1)
    if first["next"]:
        assert served.ask(f"/api/v1/{path}?after={first['next']}").json()[path] == told[path][1:]
    assert served.ask(f"/api/v1/{path}?after=gone").status == 404, "a loop over pages ends, whatever vanished meanwhile"


def test_which_etags_a_header_names() -> None:
    assert names('"a"', '"b", W/"a"') and names('"a"', "*") and not names('"a"', '"b"') and not names('"a"', "")


WRONG_BODIES = {
    "no JSON": (400, b"{"),
    "a key that is not there": (400, {"boat": "once"}),
    "an order that is not there": (400, {"boot": "never"}),
    "a list": (400, []),
    "a profile that is not there": (404, {"profile": "nope"}),
    "too large": (413, b" " * (LARGEST_BODY + 1)),
}


@pytest.mark.parametrize("status, body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_wrong_bodies(served: Served, status: int, body: Any) -> None:
    answer = served.ask("/api/v1/machines/web1/boot", JSON, "POST", body)
    assert answer.status == status and answer.json()["error"]["mend"]


def test_only_json_is_taken(served: Served) -> None:
    form = {**BEARER, "content-type": "application/x-www-form-urlencoded"}
    assert served.ask("/api/v1/machines/web1/boot", form, "POST", b"boot=local").status == 415
    assert served.ask("/api/v1/machines/web1/boot", BEARER, "POST", b'{"boot": "local"}').status == 415
