"""Who may ask: by TCP the token, a Host that is ours and, to change something, no foreign page."""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pixieboot.serve import access
from pixieboot.serve.answers import Refusal

LARGEST_BODY = 256 << 10


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
