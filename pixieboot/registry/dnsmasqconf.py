"""dnsmasq.conf -> settings and machines of ours: ranges, hosts, options, boot files by architecture, TFTP."""

import re
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from pixieboot.registry.draft import ELSEWHERE, Draft, is_address, mac_of

# Client system architectures as pxe-service names them.
_CSA = {
    "x86pc": 0, "pc98": 1, "ia64_efi": 2, "alpha": 3, "arc_x86": 4, "intel_lean_client": 5, "ia32_efi": 6, "x86-64_efi": 7,
    "xscale_efi": 8, "bc_efi": 9, "arm32_efi": 10, "arm64_efi": 11,
}  # fmt: skip
_SILENT = {  # what has no meaning here, and nobody misses
    "port", "log-dhcp", "log-queries", "log-facility", "log-async", "bind-interfaces", "bind-dynamic", "no-daemon", "user", "group",
    "keep-in-foreground", "pid-file", "domain-needed", "bogus-priv", "no-resolv", "no-hosts", "no-poll", "cache-size", "local",
    "expand-hosts", "enable-tftp", "dhcp-no-override", "tftp-no-blocksize", "dhcp-lease-max", "dhcp-leasefile", "quiet-dhcp",
    "quiet-tftp", "strict-order", "localise-queries", "filterwin2k", "dhcp-sequential-ip", "dhcp-option-pxe", "pxe-prompt",
}  # fmt: skip
_DNS_KEYS = {
    "address",
    "server",
    "host-record",
    "cname",
    "mx-host",
    "srv-host",
    "ptr-record",
    "txt-record",
    "addn-hosts",
    "resolv-file",
}


def read_dnsmasq(draft: Draft, source: Path, text: str) -> None:
    entries = list(_dnsmasq_entries(source, text))
    _Tags(draft, entries).read()
    options: list[tuple[str, list[str]]] = []
    for where, key, value in entries:
        fields = [part.strip() for part in value.split(",")] if value else []
        tags = [part for part in fields if re.match(r"(?:tag|set|net):", part)]
        plain = [part for part in fields if part not in tags]
        match key:
            case "interface":
                draft.networks += [{"interface": name, "dhcp": "proxy"} for name in fields if not name.startswith("lo")]
            case "dhcp-range":
                _dnsmasq_range(draft, where, plain)
            case "dhcp-host":
                _dnsmasq_host(draft, where, [part for part in fields if not part.startswith(("set:", "net:", "tag:"))], tags)
            case "dhcp-option" | "dhcp-option-force":
                if tags:
                    draft.note(where, f"option for {', '.join(tags)} only: give it to a group or a machine")
                else:
                    options.append((where, plain))
            case "domain":
                options.append((where, ["option:domain-name", fields[0].split("/")[0]]))
            case "dhcp-authoritative" | "no-ping":
                name, flag = ("authoritative", True) if key == "dhcp-authoritative" else ("probe", False)
                options.append((where, [f"={name}", str(flag)]))
            case "dhcp-ignore" if "tag:!known" in fields or "#known" in fields:
                draft.settings["answer"] = "known"
            case "tftp-root":
                draft.settings.setdefault("tftp", {})["root"] = fields[0]
            case "tftp-port-range":
                draft.settings.setdefault("tftp", {})["ports"] = "-".join(fields)
            case "tftp-single-port":
                draft.settings.setdefault("tftp", {})["single_port"] = True
            case "dhcp-boot" | "dhcp-match" | "dhcp-userclass" | "dhcp-vendorclass" | "pxe-service":
                pass  # read before, all of them together
            case _ if key in _DNS_KEYS:
                draft.note(where, f"{key}: pixieboot serves no DNS")
            case _ if key not in _SILENT:
                draft.note(where, f"{key} is not carried over")
    for network in draft.networks:
        for where, plain in options:
            if plain and plain[0].startswith("="):
                if network["dhcp"] == "server":
                    network[plain[0][1:]] = plain[1] == "True"
            elif network["dhcp"] == "server" and plain:
                draft.options(where, network, plain[0].removeprefix("option:"), plain[1:] or [""])


def _dnsmasq_entries(source: Path, text: str) -> Iterator[tuple[str, str, str]]:
    """(place, key, value) of every line; a # begins a comment at the start of a word."""
    for number, line in enumerate(text.splitlines(), 1):
        line = re.sub(r"(?:^|\s)#.*", "", line).strip().removeprefix("--")
        if line:
            key, _, value = line.partition("=")
            yield f"{source}:{number}", key.strip(), value.strip().strip('"')


def _dnsmasq_range(draft: Draft, where: str, fields: list[str]) -> None:
    if not fields or ":" in fields[0]:
        draft.note(where, "dhcp-range: IPv6 is not served")
        return
    interface = None
    if not is_address(fields[0]):
        interface, fields = fields[0], fields[1:]
    first, *rest = fields
    network = next(
        (known for known in draft.networks if interface in (None, known.get("interface")) and "pools" not in known), None
    )
    if network is None:
        network = {"interface": interface} if interface else {}
        draft.networks.append(network)
        if not interface:
            mask = next((part for part in rest[1:] if part.startswith("255.")), None)
            network["subnet"] = str(IPv4Network(f"{first}/{mask or '255.255.255.0'}", strict=False))
            if mask is None:
                draft.note(where, f"no interface and no netmask is named: {network['subnet']} is a guess")
    if "proxy" in rest:
        network["dhcp"] = "proxy"
        return
    network["dhcp"] = "server"
    network["pools"] = [] if rest[:1] == ["static"] else [f"{first}-{rest[0]}" if rest and is_address(rest[0]) else first]
    if lease := next((part for part in rest if re.fullmatch(r"[0-9]{1,9}[smhdw]?|infinite", part)), None):
        network["lease_time"] = "365d" if lease == "infinite" else _weeks(lease)


def _weeks(lease: str) -> str:
    if lease.endswith("w"):
        return f"{int(lease[:-1]) * 7}d"
    return lease if lease[-1].isalpha() else f"{lease}s"


def _dnsmasq_host(draft: Draft, where: str, fields: list[str], tags: list[str]) -> None:
    entry: dict[str, Any] = {}
    macs: list[str] = []
    name = None
    for part in fields:
        if part == "ignore":
            draft.note(where, "a machine to be ignored is not carried over: there is no such order")
            return
        if part.startswith("id:"):
            draft.note(where, f"{part}: machines are known by MAC, UUID or serial number")
        elif is_address(part):
            entry["address"] = part
        elif mac_of(part):
            macs.append(mac_of(part) or "")
        elif re.fullmatch(r"(?:[0-9A-Fa-f]{1,2}|\*)(?:[:-](?:[0-9A-Fa-f]{1,2}|\*)){5}", part):
            draft.note(where, f"{part}: a pattern of MAC addresses is not carried over")
        elif not re.fullmatch(r"[0-9]{1,9}[smhdw]?|infinite", part):
            name = part
    if tags:
        draft.note(where, f"{', '.join(tags)}: what hangs on tags is not carried over")
    if not macs:
        draft.note(where, "a machine without a MAC address is not carried over")
        return
    entry = {"mac": macs[0], **entry} if len(macs) == 1 else {"macs": macs, **entry}
    if name:
        entry["hostname"] = name
    draft.machine(where, name or macs[0].replace(":", "-"), entry)


class _Tags:
    """Tags -> which architecture they stand for, or iPXE; then what each is sent."""

    def __init__(self, draft: Draft, entries: list[tuple[str, str, str]]) -> None:
        self._draft, self._entries = draft, entries
        self._arches: dict[str, int] = {}
        self._ipxe: set[str] = set()

    def read(self) -> None:
        for where, key, value in self._entries:
            fields = [part.strip() for part in value.split(",")]
            if key in ("dhcp-match", "dhcp-userclass", "dhcp-vendorclass"):
                self._tag(where, key, fields)
        for where, key, value in self._entries:
            fields = [part.strip() for part in value.split(",")]
            if key == "dhcp-boot":
                self._boot(where, fields)
            elif key == "pxe-service":
                self._service(where, fields)

    def _tag(self, where: str, key: str, fields: list[str]) -> None:
        tag, rest = re.sub(r"^(?:set|tag|net):", "", fields[0]), ",".join(fields[1:])
        if (key == "dhcp-userclass" and "ipxe" in rest.lower()) or re.match(r"(?:encap:)?175\b|option:ipxe", rest):
            self._ipxe.add(tag)
        elif arch := re.fullmatch(r"(?:option:client-arch|93),([0-9]+)", rest):
            self._arches[tag] = int(arch[1])
        elif arch := re.search(r"PXEClient:Arch:([0-9]{5})", rest):
            self._arches[tag] = int(arch[1])
        else:
            self._draft.note(where, f"the tag {tag} stands for neither an architecture nor iPXE")

    def _boot(self, where: str, fields: list[str]) -> None:
        tags = [re.sub(r"^(?:tag|net):", "", part) for part in fields if re.match(r"(?:tag|net):", part)]
        plain = [part for part in fields if not re.match(r"(?:tag|net):", part)]
        if not plain or not plain[0]:
            return
        file = plain[0]
        if len(plain) > 1 and any(plain[1:]):
            self._draft.note(where, f"{file} came from another server ({', '.join(filter(None, plain[1:]))}): {ELSEWHERE}")
        if any(tag in self._ipxe for tag in tags):
            self._draft.chain(where, file)
        elif codes := [self._arches[tag] for tag in tags if tag in self._arches]:
            for code in codes:
                self._draft.loader(where, code, file.lstrip("/"))
        elif all(tag.startswith("!") and tag[1:] in {*self._ipxe, *self._arches} for tag in tags):
            if "://" in file:
                self._draft.chain(where, file)
            else:
                self._draft.loader(where, 0, file.lstrip("/"))
        else:
            self._draft.note(where, f"{file} for {', '.join(tags)}: what hangs on such tags is not carried over")

    def _service(self, where: str, fields: list[str]) -> None:
        tags = [part for part in fields if re.match(r"(?:tag|net):", part)]
        plain = [part for part in fields if part not in tags]
        code = _CSA.get(plain[0].lower()) if plain else None
        file = plain[2] if len(plain) > 2 else ""
        if code is None or not file or file.isdigit():
            self._draft.note(where, "this pxe-service is not carried over")
        elif any(re.sub(r"^(?:tag|net):", "", tag) in self._ipxe for tag in tags):
            self._draft.chain(where, file)
        else:
            self._draft.loader(where, code, file.lstrip("/"))
