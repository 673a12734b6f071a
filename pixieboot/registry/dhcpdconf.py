"""ISC's dhcpd.conf -> settings and machines of ours: subnets, pools, hosts, options, boot files by architecture."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from pixieboot.errors import OperatorError
from pixieboot.registry.draft import ELSEWHERE, Draft, is_address, mac_of

_TOKEN = re.compile(r'\s+|#[^\n]*|("(?:[^"\\]|\\.)*"|[{};,]|[^\s{};,"#]+)')
_SILENT = {
    "ddns-update-style", "ddns-updates", "log-facility", "allow", "lease-file-name", "pid-file-name", "omapi-port",
    "use-host-decl-names", "one-lease-per-client", "update-static-leases", "ping-timeout", "always-broadcast",
    "infinite-is-reserved",
}  # fmt: skip


@dataclass(slots=True)
class _Statement:
    words: list[str]
    where: str
    body: list["_Statement"] | None = None

    @property
    def text(self) -> str:
        return " ".join(self.words)


class DhcpdFile:
    """A dhcpd.conf: statements and blocks, what stands outside holding within."""

    def __init__(self, draft: Draft, source: Path, text: str) -> None:
        self._draft, self._source = draft, source
        self._tokens = list(self._read(text))
        self._at = 0

    def _read(self, text: str) -> Iterator[tuple[str, int]]:
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise OperatorError(f"{self._source}:{line}", f"unexpected {text[at]!r}", "Close the quotes.")
            if match[1]:
                yield match[1], line
            line += match[0].count("\n")
            at = match.end()

    def run(self) -> None:
        self._block(self._statements(), {"dhcp": "server"}, None)

    def _statements(self, depth: int = 0) -> list[_Statement]:
        found: list[_Statement] = []
        words: list[str] = []
        line = 1
        while self._at < len(self._tokens) and depth < 50:
            token, here = self._tokens[self._at]
            self._at += 1
            line = line if words else here
            if token == "}":
                break
            if token == "{":
                found.append(_Statement(words, f"{self._source}:{line}", self._statements(depth + 1)))
                words = []
            elif token == ";":
                if words:
                    found.append(_Statement(words, f"{self._source}:{line}"))
                words = []
            else:
                words.append(token.strip('"') if token.startswith('"') else token)
        return found

    def _block(self, statements: list[_Statement], inherited: Mapping[str, Any], network: dict[str, Any] | None) -> None:
        """network: the subnet that these statements stand in; inherited: what holds in every network within."""
        common = {key: dict(value) if isinstance(value, dict) else value for key, value in inherited.items()}
        target = common if network is None else network
        for statement in statements:  # what holds for all may stand below them
            if statement.body is None:
                self._statement(statement, target)
        for statement in statements:
            if statement.body is not None:
                self._nested(statement, common, network)

    def _nested(self, statement: _Statement, common: dict[str, Any], network: dict[str, Any] | None) -> None:
        match statement.words:
            case ["subnet", address, "netmask", mask]:
                try:
                    subnet = str(IPv4Network(f"{address}/{mask}"))
                except ValueError:
                    self._draft.note(statement.where, f"{address}/{mask} is not an IPv4 network")
                    return
                inner = {"subnet": subnet, **{key: _copied(value) for key, value in common.items()}, "pools": []}
                self._draft.networks.append(inner)
                self._block(statement.body or [], {}, inner)
            case ["host", name]:
                self._host(statement, name, {})
            case ["group", *_]:
                self._group(statement, common, network)
            case ["pool" | "shared-network", *_]:
                self._block(statement.body or [], common, network)
            case ["if" | "elsif" | "else", *_]:
                self._condition(statement, common if network is None else network)
            case _:
                self._draft.note(statement.where, f"{statement.text} is not carried over")

    def _group(self, statement: _Statement, common: dict[str, Any], network: dict[str, Any] | None) -> None:
        """What a group says is for the machines in it."""
        hosts = [inner for inner in statement.body or [] if inner.words[:1] == ["host"] and len(inner.words) == 2]
        shared: dict[str, Any] = {}
        for inner in statement.body or []:
            match inner.words:
                case ["option", name, *values] if inner.body is None:
                    self._draft.options(inner.where, shared, name, [value for value in values if value != ","])
                case ["filename", file] if "://" not in file:
                    shared["loader"] = file.lstrip("/")
                case _ if inner.body is None:
                    self._statement(inner, shared)
        for host in hosts:
            self._host(host, host.words[1], shared)
        self._block([inner for inner in statement.body or [] if inner.body is not None and inner not in hosts], common, network)

    def _statement(self, statement: _Statement, target: dict[str, Any]) -> None:
        draft, where = self._draft, statement.where
        match statement.words:
            case ["range", first, last]:
                target.setdefault("pools", []).append(f"{first}-{last}")
            case ["range", "dynamic-bootp", first, last]:
                target.setdefault("pools", []).append(f"{first}-{last}")
            case ["range", only]:
                target.setdefault("pools", []).append(only)
            case ["default-lease-time" | "max-lease-time" | "min-lease-time" as key, seconds]:
                target[{"d": "lease_time"}.get(key[0], key.replace("-", "_"))] = f"{seconds}s"
            case ["authoritative"]:
                target["authoritative"] = True
            case ["ping-check", flag]:
                target["probe"] = flag in ("true", "on")
            case ["deny" | "ignore", "unknown-clients" | "unknown"]:
                draft.settings["answer"] = "known"
            case ["deny" | "ignore", *_]:
                draft.note(where, f"{statement.text} is not carried over")
            case ["option", name, *values] if "=" not in values:
                if name.lower() in ("domain-search", "arch", "client-arch") or "." in name or "code" in values:
                    draft.note(where, f"option {name} is not carried over")
                else:
                    draft.options(where, target, name, [value for value in values if value != ","])
            case ["filename", file]:
                self._file(where, file, None)
            case ["next-server", server]:
                draft.note(where, f"next-server {server}: {ELSEWHERE}")
            case ["server-name", *_]:
                pass
            case [word, *_] if word not in _SILENT:
                draft.note(where, f"{statement.text} is not carried over")

    def _host(self, statement: _Statement, name: str, shared: Mapping[str, Any]) -> None:
        entry: dict[str, Any] = {key: _copied(value) for key, value in shared.items() if key in ("options", "loader")}
        for inner in statement.body or []:
            match inner.words:
                case ["hardware", "ethernet", text] if mac := mac_of(text):
                    entry["mac"] = mac
                case ["fixed-address", address, *more] if is_address(address):
                    entry["address"] = address
                    if more:
                        self._draft.note(inner.where, "of several fixed addresses the first is carried over")
                case ["option", "host-name", hostname]:
                    entry["hostname"] = hostname
                case ["option", option_name, *values]:
                    self._draft.options(inner.where, entry, option_name, [value for value in values if value != ","])
                case ["filename", file] if "://" not in file:
                    entry["loader"] = file.lstrip("/")
                case _:
                    self._draft.note(inner.where, f"{inner.text} of host {name} is not carried over")
        if "mac" not in entry:
            self._draft.note(statement.where, f"host {name} has no Ethernet address and is not carried over")
            return
        if "hostname" not in entry and re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", name):
            entry["hostname"] = name
        self._draft.machine(statement.where, name, entry)

    def _condition(self, statement: _Statement, target: dict[str, Any]) -> None:
        """if … { filename "…"; }: by architecture, or by iPXE's user class."""
        text = statement.text
        ipxe = re.search(r"user-class.*ipxe", text, re.IGNORECASE) is not None
        codes = {_code(match) for match in re.findall(r"(?:arch\S*|93)\s*=\s*(\S+)", text)}
        codes |= {int(match) for match in re.findall(r"PXEClient:Arch:([0-9]{5})", text)}
        for inner in statement.body or []:
            match inner.words:
                case ["filename", file]:
                    if ipxe:
                        self._draft.chain(inner.where, file)
                    elif codes:
                        for code in codes:
                            self._file(inner.where, file, code)
                    elif statement.words[0] == "else":
                        self._file(inner.where, file, None)
                    else:
                        self._draft.note(inner.where, f"{file} under the condition `{text}` is not carried over")
                case ["if" | "elsif" | "else", *_]:
                    self._condition(inner, target)
                case ["next-server", server]:
                    self._draft.note(inner.where, f"next-server {server}: {ELSEWHERE}")
                case _:
                    self._draft.note(inner.where, f"{inner.text} under the condition `{text}` is not carried over")

    def _file(self, where: str, file: str, code: int | None) -> None:
        if "://" in file and code is None:
            self._draft.chain(where, file)
        else:
            self._draft.loader(where, 0 if code is None else code, file.lstrip("/"))


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value


def _code(text: str) -> int:
    """00:07, 0x0007 or 7."""
    try:
        return int(text.replace(":", ""), 16) if ":" in text else int(text, 0)
    except ValueError:
        return -1
