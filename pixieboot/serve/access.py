"""How the API is reached and by whom: the token's file, the UNIX socket, and what a request must show."""

import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from pixieboot.config import STATE_DIRECTORY, Settings
from pixieboot.errors import OperatorError

RUN = Path("/run/pixieboot")
COOKIE = "pixieboot"
LINK_KEY = 32  # octets


def state_directory(settings: Settings) -> Path:
    return Path(settings.state.removeprefix("sqlite:")).parent


def socket_path(settings: Settings) -> Path:
    """The API's UNIX socket: below /run for the host's own daemon, beside the state file for any other."""
    directory = state_directory(settings)
    return (RUN if directory == STATE_DIRECTORY else directory) / "api.sock"


def token_path(settings: Settings) -> Path:
    return state_directory(settings) / "api.token"


def read_token(settings: Settings) -> str:
    """The API's token, for the command line.  Raises OperatorError when there is none yet, or it may not be read."""
    path = token_path(settings)
    try:
        return path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        raise OperatorError(str(path), "there is no token yet", "The daemon makes it at its first start.") from None
    except OSError as error:
        raise OperatorError(str(path), f"it cannot be read: {error.strerror}", "Only root and the daemon may: use sudo.") from None


def make_token(settings: Settings) -> str:
    """The API's token, made at the first start.  0600: whoever reads it may decide what machines boot."""
    path = token_path(settings)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        token = read_token(settings)
        if len(token) < 16 or not token.isascii():
            raise OperatorError(
                str(path), "the token is too short to be one, or no text", "Remove the file: a new one is made."
            ) from None
        return token
    except OSError as error:
        raise OperatorError(str(path), f"the token cannot be written: {error.strerror}", "Name another --state.") from None
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def make_link_key(settings: Settings) -> bytes:
    """What signs the paths of other servers' files: made at the first start, so that they outlive a restart."""
    path = state_directory(settings) / "links.key"
    with suppress(OSError):
        key = path.read_bytes()
        if len(key) == LINK_KEY:
            return key
    key = secrets.token_bytes(LINK_KEY)
    new = path.with_name("links.key.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(key)
        new.rename(path)
    except OSError as error:
        raise OperatorError(str(path), f"the key of links cannot be written: {error.strerror}", "Name another --state.") from None
    return key


def cookie_of(token: str) -> str:
    """The page's login cookie: it proves the token without being it."""
    return hmac.new(token.encode(), b"pixieboot login cookie", hashlib.sha256).hexdigest()


def shows_token(token: str, authorization: str, cookie: str) -> bool:
    """Does a request show the token, or the cookie that was given for it?  Takes equally long for any wrong one."""
    scheme, _, shown = authorization.partition(" ")
    by_token = hmac.compare_digest(shown.strip().encode(), token.encode()) and scheme.lower() == "bearer"
    return bool(by_token | hmac.compare_digest(cookie.encode(), cookie_of(token).encode()))


def host_allowed(host: str, base_url: str) -> bool:
    """May a browser call us by this name?  A name of somebody else's that resolves to us is DNS rebinding."""
    name = host.rsplit(":", 1)[0] if ":" in host and not host.endswith("]") else host
    try:
        IPv4Address(name)
        return True
    except ValueError:
        pass
    own = socket.gethostname().lower()
    named = base_url.partition("://")[2].partition("/")[0].rsplit(":", 1)[0]
    return name.lower() in {"localhost", own, own.partition(".")[0], f"{own.partition('.')[0]}.local", named.lower(), "[::1]"} - {
        ""
    }


def same_origin(headers: Mapping[str, str]) -> bool:
    """Does a request that changes something come from our own page, or from no page at all?"""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def listen(path: Path) -> socket.socket:
    """The API's UNIX socket, which only root and the daemon's own user can open.  Raises OperatorError."""
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        if path.is_socket():
            if _answers(path):
                raise OperatorError(str(path), "another pixieboot answers there", "Stop it, or give this one its own --state.")
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            with short(path) as name:
                sock.bind(name)
        finally:
            os.umask(before)
        sock.listen(64)
    except OSError as error:
        what = f"the API's socket cannot be made: {error.strerror or error}"
        raise OperatorError(str(path), what, "The daemon must be able to write there: mend its rights.") from None
    return sock


@contextmanager
def short(path: Path) -> Iterator[str]:
    """The path in a form that a socket address holds: 107 octets are all it has."""
    if len(os.fsencode(path)) < 108:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as name:
        try:
            probe.connect(name)
        except OSError:
            return False
    return True
