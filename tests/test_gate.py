"""Who may ask the API, by TCP and by the UNIX socket."""

import asyncio
from collections.abc import Mapping

import pytest

from pixieboot.serve import access
from tests.test_api import BEARER, JSON, TOKEN, Served, call, served

__all__ = ["served"]

REFUSED = {
    "no token": (401, {"host": "10.0.0.1:8080"}),
    "a wrong token": (401, {"host": "10.0.0.1:8080", "authorization": "Bearer nonsense"}),
    "the token by another scheme": (401, {"host": "10.0.0.1:8080", "authorization": f"Basic {TOKEN}"}),
    "a wrong cookie": (401, {"host": "10.0.0.1:8080", "cookie": "pixieboot=nonsense"}),
    "the token as a cookie": (401, {"host": "10.0.0.1:8080", "cookie": f"pixieboot={TOKEN}"}),
    "a name of somebody else's (DNS rebinding)": (403, {**BEARER, "host": "evil.example"}),
    "no Host": (403, {"authorization": f"Bearer {TOKEN}"}),
}


@pytest.mark.parametrize("status, headers", REFUSED.values(), ids=REFUSED)
def test_refused(served: Served, status: int, headers: Mapping[str, str]) -> None:
    answer = served.ask("/api/v1/machines", headers)
    assert answer.status == status
    assert set(answer.json()["error"]) == {"where", "what", "mend"}


def test_a_browser_without_token_is_led_to_the_login(served: Served) -> None:
    answer = served.ask("/ui/", {"host": "10.0.0.1:8080", "accept": "text/html"})
    assert (answer.status, answer.headers["location"]) == (303, "/ui/login")


def test_let_in(served: Served) -> None:
    cookie = access.cookie_of(TOKEN)
    for headers in (BEARER, {"host": "localhost", "cookie": f"pixieboot={cookie}"}, {**BEARER, "host": "[::1]:8080"}):
        assert served.ask("/api/v1/machines", headers).status == 200
    assert asyncio.run(call(served.unix, "GET", "/api/v1/machines", {})).status == 200, "the UNIX socket needs no token"


def test_another_page_changes_nothing(served: Served) -> None:
    for foreign in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = served.ask("/api/v1/machines/web1/boot", {**JSON, **foreign}, "POST", {"boot": "local"})
        assert answer.status == 403
    own = {**JSON, "origin": "http://10.0.0.1:8080", "sec-fetch-site": "same-origin"}
    assert served.ask("/api/v1/machines/web1/boot", own, "POST", {"boot": "local"}).status == 200


def test_no_cors(served: Served) -> None:
    answer = served.ask("/api/v1/machines", {**BEARER, "origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
