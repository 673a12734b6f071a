"""Pixiecore's API from its other side: what a foreign server says that a machine shall boot, as profiles and machines of ours.

Parsing is pure: `spec_of` takes the octets of an answer, and everything in them is the peer's.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from pixieboot.errors import OperatorError, WireError
from pixieboot.inventory import Inventory
from pixieboot.model import Mac, Machine, Profile
from pixieboot.registry.foreign import Stamp
from pixieboot.registry.gotemplate import GoTemplate, TemplateFault
from pixieboot.registry.govalues import quoted
from pixieboot.sandbox import CONTROL

LONGEST_CMDLINE = 65536  # as a template; Linux takes some thousand
MACHINES = 4096  # answers kept; the one asked for longest ago goes first

_WORD = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^ \t"]|")+')
_MARK = re.compile("\x00(\\d+)\x00")
_MARKUP = re.compile(r"\{[{%#]")


@dataclass(frozen=True, slots=True)
class Spec:
    """What a machine shall boot.  kernel and initrd are absolute; args and message are templates of ours; script is text."""

    kernel: str | None
    initrd: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    message: str = ""
    script: str = ""


def prefix_of(source: str) -> str:
    """The address that the API's paths stand below, with a slash at its end."""
    url = source.removeprefix("pixiecore+")
    return url if url.endswith("/") else f"{url}/"


def question(source: str, mac: Mac) -> str:
    """What is asked about a machine: its MAC in lower case with colons, as they are."""
    return f"{prefix_of(source)}v1/boot/{mac}"


def spec_of(body: bytes, source: str, files: bool = False) -> Spec:
    """The answer of an API with status 200.  Keys that are not known are left out.  Raises WireError.

    files: may it name files of this host (file:///…)?
    """
    try:
        said = json.loads(body)
        json.dumps(said, ensure_ascii=False).encode()  # halves of surrogate pairs are texts to json, and to nobody else
    except (ValueError, RecursionError) as error:
        raise WireError(f"the answer is not JSON ({error})") from None
    if not isinstance(said, dict):
        raise WireError("the answer is not a JSON object")
    script = _text(said, "ipxe-script")
    if script:
        return Spec(None, script=script)
    base = f"{prefix_of(source)}v1"
    initrd = said.get("initrd") or []
    if not isinstance(initrd, list) or not all(isinstance(url, str) for url in initrd):
        raise WireError("initrd is not a list of texts")
    kernel = _text(said, "kernel")
    if not kernel:
        raise WireError("there is neither a kernel nor an ipxe-script")
    return Spec(
        _absolute(base, kernel, files),
        tuple(_absolute(base, url, files) for url in initrd),
        _args(said.get("cmdline"), base, files),
        "\n".join(literal(CONTROL.sub(" ", line)) for line in _text(said, "message").splitlines()),
    )


def _text(said: dict[str, Any], key: str) -> str:
    value = said.get(key)
    if value is not None and not isinstance(value, str):
        raise WireError(f"{key} is not a text")
    return value or ""


def _absolute(base: str, url: str, files: bool) -> str:
    """An address as the API means it: relative ones by RFC 3986 against PREFIX/v1."""
    try:
        found = urljoin(base, url)
        parts = urlsplit(found)
    except ValueError:
        raise WireError(f"{url!r} is no address") from None
    if parts.scheme == "file":
        if not files:
            raise WireError(f"{url} is a file of this host, and pixiecore.files is not set")
        return f"file://{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.netloc or not found.isprintable() or " " in found:
        raise WireError(f"{url!r} is no address of http, https or file")
    return found


def _args(cmdline: Any, base: str, files: bool) -> tuple[str, ...]:
    """The kernel's arguments: a Go template with the function URL, or the older form of key and value."""
    urls: list[str] = []

    def mark(url: Any) -> str:
        if not isinstance(url, str):
            raise WireError("URL wants a text")
        urls.append(_absolute(base, url, files))
        return f"\0{len(urls) - 1}\0"

    match cmdline:
        case None:
            return ()
        case str():
            if len(cmdline) > LONGEST_CMDLINE:
                raise WireError(f"cmdline is longer than {LONGEST_CMDLINE} characters")
            if "\0" in cmdline:
                raise WireError("cmdline holds a NUL")
            try:
                text = GoTemplate(cmdline, {"URL": mark}).render({}).strip()
            except TemplateFault as fault:
                raise WireError(f"cmdline: {fault.what}") from None
        case dict():
            text = " ".join(_pair(key, cmdline[key], mark) for key in sorted(cmdline))
        case _:
            raise WireError("cmdline is neither a text nor an object")
    if CONTROL.search(_MARK.sub("", text).replace("\t", " ")):
        raise WireError("cmdline holds a line break or a control character")
    return tuple(_template(word, urls) for word in _WORD.findall(text))


def _pair(key: str, value: Any, mark: Any) -> str:
    match value:
        case bool():
            return key  # whichever it is
        case str():
            return f"{key}={quoted(value)}"
        case {"url": str(url)}:
            return f"{key}={mark(url)}"
    raise WireError(f"cmdline: the value of {key} is neither a text, nor true or false, nor {{url}}")


def _template(word: str, urls: list[str]) -> str:
    """A word with addresses marked in it, as a template of ours."""
    parts = _MARK.split(word)  # text and number by turns
    return "".join(f"{{{{ asset({_string(urls[int(part)])}) }}}}" if at % 2 else literal(part) for at, part in enumerate(parts))


def literal(text: str) -> str:
    """A template that comes out as this text."""
    return f"{{{{ {_string(text)} }}}}" if _MARKUP.search(text) else text


def _string(text: str) -> str:
    """A string constant of Jinja, without anything that could end the expression."""
    escaped = "".join(
        character
        if character.isascii() and character.isprintable() and character not in "\\\"'{}%#"
        else f"\\U{ord(character):08x}"
        for character in text
    )
    return f'"{escaped}"'


class PixiecoreMachines:
    """A registry of the machines that an API was asked about: none at first, and each as it answered last."""

    foreign = None

    def __init__(self) -> None:
        self.notes: list[OperatorError] = []
        self._known: OrderedDict[Mac, tuple[Spec, Machine, Profile]] = OrderedDict()
        self._scripts: dict[str, str] = {}

    def signature(self) -> dict[str, Stamp]:
        return {}

    def load(self, version: int) -> Inventory:
        known: Iterable[tuple[Spec, Machine, Profile]] = self._known.values()
        return Inventory.build([m for _, m, _ in known], [], [p for _, _, p in known], self._scripts, version)

    def knows(self, mac: Mac) -> bool:
        return mac in self._known

    def learn(self, mac: Mac, spec: Spec | None) -> bool:
        """Keep what a machine shall boot; None: it is not to be booted.  False if that was known."""
        before = self._known.pop(mac, None)
        if spec is None and before is None:
            return False
        name = f"{mac.dashed}.ipxe"
        if before and spec and before[0] == spec:
            self._known[mac] = before
            return False
        scripts = {other: text for other, text in self._scripts.items() if other != name}
        if spec:
            if spec.script:
                scripts[name] = literal(spec.script)
            profile = Profile(
                f"pixiecore-{mac.dashed}",
                kernel=spec.kernel and literal(spec.kernel),
                initrd=tuple(literal(url) for url in spec.initrd),
                args=spec.args,
                message=spec.message,
                script=name if spec.script else None,
                cache="fresh",
                where="registry",
            )
            machine = Machine(str(mac), macs=(mac,), profile=profile.name, where="registry")
            self._known[mac] = spec, machine, profile
            while len(self._known) > MACHINES:
                gone, _ = self._known.popitem(last=False)
                scripts.pop(f"{gone.dashed}.ipxe", None)
        if scripts != self._scripts:
            self._scripts = scripts  # else the same object, so that templates stay compiled
        return True
