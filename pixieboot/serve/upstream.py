"""HTTP towards other servers, in threads: what the standard library's client does, with its errors in words for operators.

urllib takes proxies from the environment (http_proxy, https_proxy, no_proxy) and certificates from the system.  Imported only
by daemons that ask somebody: TLS costs ten MiB.
"""

import http.client
import io
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pixieboot import __version__

WINDOW = 60.0  # seconds of waiting for a server, in which it has to send
LEAST = 60 * 1024  # bytes: slower than that no machine's user would wait, and few downloads are allowed at a time


class Unanswered(Exception):
    """No usable answer.  status: of our own answer to a machine; again: may it go better the next time?"""

    def __init__(self, sentence: str, status: int = 502, again: bool = False) -> None:
        super().__init__(sentence)
        self.sentence, self.status, self.again = sentence, status, again


class _TooSlow(OSError):
    """A server that sends now and then, so that no time-out ends it."""


class _Paced(io.RawIOBase):
    """What a connection brings, status line and headers too.  Counts only the time in which the server is waited for."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw, self._waited, self._brought = raw, 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._waited >= WINDOW:
            if self._brought < LEAST:
                raise _TooSlow
            self._waited, self._brought = 0.0, 0
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        self._waited += time.monotonic() - began
        self._brought += count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.fp = io.BufferedReader(_Paced(self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(context=self._tls)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req, context=self._tls)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but for those that take away what TLS gave."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        checked = getattr(req, "checked", False)
        if req.type == "https" and urlsplit(newurl).scheme != "https" and not checked:
            raise Unanswered(f"{req.full_url} leads from https to {newurl}: name that address, or a sha256")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following:
            following.checked = checked  # type: ignore[attr-defined]
        return following


class Opener:
    """A client for http and https, and nothing else (no ftp, no file)."""

    def __init__(self) -> None:
        self._director = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(),
            _Https(),
            _Redirects(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._director.add_handler(handler)

    def get(
        self, url: str, headers: Mapping[str, str], timeout: float, statuses: tuple[int, ...] = (200,), checked: bool = False
    ) -> Any:
        """The response to a GET, open, for its body to be read.  Raises Unanswered.

        timeout: seconds without a byte; checked: whoever asks knows the checksum, and needs no TLS to trust what comes.
        """
        try:
            request = urllib.request.Request(url, headers={"User-Agent": f"pixieboot/{__version__}", "Accept": "*/*", **headers})
            request.checked = checked  # type: ignore[attr-defined]
            response = self._director.open(request, timeout=timeout)
            if response is None:
                raise Unanswered(f"{url} is no http or https address")
            if response.status in statuses:
                return response
            response.close()
            raise Unanswered(f"{url} answered {response.status} {response.reason}".rstrip())
        except urllib.error.HTTPError as error:
            if error.code in statuses:
                return error
            error.close()
            raise Unanswered(f"{url} answered {error.code} {error.reason}".rstrip(), again=error.code >= 500) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unanswered(url, error) from None


def unanswered(url: str, error: Exception) -> Unanswered:
    """An error of the client's in words."""
    reason = getattr(error, "reason", error)
    host = url.partition("://")[2].partition("/")[0] or url
    match reason:
        case _TooSlow():
            return Unanswered(f"{host} sent less than {LEAST >> 10} KiB in {WINDOW:.0f} s", 504, True)
        case TimeoutError():
            return Unanswered(f"{host} did not answer in time", 504, True)
        case socket.gaierror():
            return Unanswered(f"the name {host} cannot be resolved ({reason.strerror})", 502, True)
        case ssl.SSLCertVerificationError():
            return Unanswered(f"the certificate of {host} is not trusted ({reason.verify_message})")
        case OSError():
            return Unanswered(f"{host} cannot be reached ({reason.strerror or reason})", 502, True)
        case http.client.HTTPException():
            return Unanswered(f"{host} broke off or does not speak HTTP ({type(reason).__name__})", 502, True)
    return Unanswered(f"{url} cannot be fetched ({reason})")
