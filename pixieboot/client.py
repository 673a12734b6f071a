"""The command line's way to the running daemon: the UNIX socket for root, else TCP with the token."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from pixieboot import config
from pixieboot.errors import OperatorError
from pixieboot.serve import access

TIMEOUT = 10.0


class Unreachable(Exception):
    """The daemon does not answer: exit code 3."""


class Daemon:
    """A running daemon.  Every call is a connection of its own; nothing stays open but `follow`."""

    def __init__(self, unix: Path | None, tcp: tuple[str, int] | None, token: str = "") -> None:
        self._unix, self._tcp, self._token = unix, tcp, token

    @classmethod
    def find(cls, path: Path | None, environment: Mapping[str, str] = os.environ) -> "Daemon":
        """PIXIEBOOT_API (an URL, with PIXIEBOOT_TOKEN) if it is set, else the daemon of this host with those settings."""
        token = environment.get("PIXIEBOOT_TOKEN", "")
        if url := environment.get("PIXIEBOOT_API"):
            parts = urlsplit(url)
            if parts.scheme != "http" or not parts.hostname:
                raise OperatorError("PIXIEBOOT_API", f"{url!r} is no address of the API", "Write http://HOST:8080.")
            return cls(None, (parts.hostname, parts.port or 80), token)
        settings = config.load(path, {"state": environment["PIXIEBOOT_STATE"]} if environment.get("PIXIEBOOT_STATE") else {})
        unix = access.socket_path(settings)
        if not token:
            return cls(unix, None)
        host, _, port = settings.api.listen.rpartition(":")
        return cls(unix, (host or "127.0.0.1", int(port) if host else settings.http.port), token)

    def get(self, path: str, **query: str | int | None) -> Any:
        """The JSON answer to a GET.  Raises Unreachable, or OperatorError with what the daemon says against it."""
        given = {key: value for key, value in query.items() if value is not None}
        return self._call("GET", f"/api/v1{quote(path)}" + (f"?{urlencode(given)}" if given else ""))

    def all(self, name: str) -> list[dict[str, Any]]:
        """All machines, leases, groups or profiles, page after page.  Raises as `get`."""
        page = self.get(f"/{name}", limit=500)
        found: list[dict[str, Any]] = page[name]
        while page["next"] is not None:
            page = self.get(f"/{name}", limit=500, after=page["next"])
            found += page[name]
        return found

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a POST of this JSON.  Raises as `get`."""
        return self._call("POST", f"/api/v1{quote(path)}", json.dumps(body).encode())

    def follow(self, after: str = "") -> Iterator[dict[str, Any]]:
        """Events as they happen, until the daemon ends or the network breaks; then Unreachable.  after: the last id seen."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        connection = self._connect(60.0)
        try:
            response = self._send(connection, "GET", "/api/v1/events", None, headers)
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._why(error)) from None
        finally:
            connection.close()

    def _call(self, method: str, target: str, body: bytes | None = None) -> Any:
        connection = self._connect(TIMEOUT)
        try:
            return json.loads(self._send(connection, method, target, body, {}).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(self._why(error)) from None
        finally:
            connection.close()

    def _send(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        given = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            given["Authorization"] = f"Bearer {self._token}"
        connection.request(method, target, body, {**given, **headers})
        response = connection.getresponse()
        if response.status >= 400:
            raise _refused(response)
        return response

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        """The UNIX socket if it can be opened, else TCP."""
        error: OSError | None = None
        if self._unix:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            try:
                with access.short(self._unix) as name:
                    sock.connect(name)
                connection = http.client.HTTPConnection("localhost", timeout=timeout)
                connection.sock = sock
                return connection
            except OSError as failure:
                sock.close()
                error = failure
        if self._tcp:
            connection = http.client.HTTPConnection(*self._tcp, timeout=timeout)
            try:
                connection.connect()
                return connection
            except OSError as failure:
                error = failure
        raise Unreachable(self._why(error))

    def _why(self, error: Exception | None) -> str:
        if isinstance(error, PermissionError) and not self._tcp:
            return f"{self._unix}: only root may use it. Use sudo, or set PIXIEBOOT_TOKEN (`sudo pixieboot token` prints it)."
        place = f"{self._tcp[0]}:{self._tcp[1]}" if self._tcp else str(self._unix)
        reason = getattr(error, "strerror", None) or str(error) or "it hung up"
        return (
            f"{place}: no pixieboot answers there ({reason}). Is it running? `systemctl status pixieboot`, or: sudo pixieboot serve"
        )


def _refused(response: http.client.HTTPResponse) -> OperatorError | Unreachable:
    """What the daemon says against a request."""
    try:
        error = json.loads(response.read())["error"]
        return OperatorError(str(error["where"]), str(error["what"]), str(error["mend"]))
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"what answers is no pixieboot of this version (status {response.status})")
