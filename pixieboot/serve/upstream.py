"""HTTP towards other servers, in threads: what the standard library's client does, with its errors in words for operators.

urllib takes proxies from the environment (http_proxy, https_proxy, no_proxy) and certificates from the system.  Imported only
by daemons that ask somebody: TLS costs ten MiB.
"""

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pixieboot import __version__


class Unanswered(Exception):
    """No usable answer.  status: of our own answer to a machine; again: may it go better the next time?"""

    def __init__(self, sentence: str, status: int = 502, again: bool = False) -> None:
        super().__init__(sentence)
        self.sentence, self.status, self.again = sentence, status, again


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
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
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
