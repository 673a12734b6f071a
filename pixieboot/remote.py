"""Files of other servers that this host fetches for its machines, and the paths by which machines ask for them.  Pure.

A path carries the address itself, under a signature that only this host can make: no table has to survive a restart, and nobody
can have a file fetched that the registry does not name.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from pixieboot.model import Profile

PREFIX = "remote"
SCHEMES = ("http://", "https://", "file:///")

_TAG = 16  # octets of the signature
_SHA256 = 32
_ONCE, _CHECKED = 1, 2  # bits of the octet before the address
_NAME = re.compile(r"[^A-Za-z0-9._+-]")


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of another server, or with file:/// one of this host.

    sha256: in hex, "" if nobody said; once: what was fetched is kept as it is, else the server is asked each time if it changed.
    """

    url: str
    sha256: str = ""
    once: bool = False

    @property
    def name(self) -> str:
        """The last part of its path, fit for a path of ours."""
        return _NAME.sub("_", last_part(self.url))[-64:].lstrip(".") or "file"


def named_by(profile: Profile, url: str) -> Remote | None:
    """The file that a profile means by this address; None: machines fetch it themselves."""
    if not profile.cache or not url.lower().startswith(SCHEMES):
        return None
    return Remote(url, checksum(profile.sha256, url), profile.cache == "once")


def checksum(sums: Mapping[str, str], url: str) -> str:
    """What `sha256` of a profile says of this address: by the whole of it, else by its name."""
    return sums.get(url) or sums.get(last_part(url), "")


def last_part(url: str) -> str:
    """Of the path of an address, however wrong the address may be: "vmlinuz"."""
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    return path.partition("://")[2].partition("/")[2].rpartition("/")[2] if "://" in path else path.rpartition("/")[2]


def path_of(key: bytes, remote: Remote) -> str:
    """/remote/TOKEN/NAME: the same for the same file, as long as the key is."""
    sha256 = bytes.fromhex(remote.sha256)
    flags = (_ONCE if remote.once else 0) | (_CHECKED if sha256 else 0)
    said = bytes([flags]) + sha256 + remote.url.encode()
    token = urlsafe_b64encode(_signature(key, said) + said).decode().rstrip("=")
    return f"/{PREFIX}/{token}/{remote.name}"


def of_token(key: bytes, token: str) -> Remote | None:
    """The file of a path that we made; None: not one of ours."""
    try:
        octets = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except ValueError:
        return None
    tag, said = octets[:_TAG], octets[_TAG:]
    if not hmac.compare_digest(tag, _signature(key, said)):
        return None
    end = 1 + _SHA256 if said[0] & _CHECKED else 1
    return Remote(said[end:].decode(), said[1:end].hex(), bool(said[0] & _ONCE))


def _signature(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, said, hashlib.sha256)[:_TAG]
