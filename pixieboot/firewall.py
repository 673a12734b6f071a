"""Would this host's firewall let a booting machine in, and which line would?  Reads rules as text; changes nothing.

An estimate: rules are read in order, conditions other than protocol, port, interface and state count as not met.  So a port
that is called open is open for everybody; one that is called closed may be open for some, and the message says so.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Port = tuple[str, int]  # ("udp", 69)


@dataclass(frozen=True, slots=True)
class Closed:
    """A port that a chain of rules closes, on this interface."""

    protocol: str
    port: int
    interface: str
    chain: str  # in the tool's own words: "nft chain inet filter input (policy drop)"


def closed_by_nft(ruleset: str, ports: Iterable[Port], interfaces: Sequence[str]) -> list[Closed]:
    """What `nft -j list ruleset` closes.  iptables-nft's rules are among them.  Raises ValueError for anything else."""
    entries = json.loads(ruleset)["nftables"]
    chains: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    rules: dict[tuple[str, str, str], list[Sequence[Mapping[str, Any]]]] = {}
    for entry in entries:
        if chain := entry.get("chain"):
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif rule := entry.get("rule"):
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule["expr"])
    inputs = [key for key, chain in chains.items() if chain.get("hook") == "input" and key[0] in ("ip", "inet")]
    found = []
    for protocol, port in ports:
        for interface in interfaces:
            for key in inputs:
                verdict = _nft_verdict(key, rules, protocol, port, interface, 0)
                policy = chains[key].get("policy", "accept")
                if verdict == "drop" or (verdict is None and policy == "drop"):
                    name = f"nft chain {' '.join(key)} (policy {policy})"
                    found.append(Closed(protocol, port, interface, name))
                    break
    return found


def _nft_verdict(
    chain: tuple[str, str, str],
    rules: Mapping[tuple[str, str, str], Sequence[Sequence[Mapping[str, Any]]]],
    protocol: str,
    port: int,
    interface: str,
    depth: int,
) -> str | None:
    """accept | drop | return, or None when the chain ends without a word."""
    for rule in rules.get(chain, ()):
        verdict: str | None = None
        for part in rule:
            if "match" in part:
                if not _nft_match(part["match"], protocol, port, interface):
                    break
            elif "accept" in part or "drop" in part or "reject" in part:
                verdict = "accept" if "accept" in part else "drop"
            elif "return" in part:
                return None
            elif ("jump" in part or "goto" in part) and depth < 16:
                target = part["jump" if "jump" in part else "goto"]["target"]
                verdict = _nft_verdict((chain[0], chain[1], target), rules, protocol, port, interface, depth + 1)
                if verdict is None and "goto" in part:
                    return None
            elif "xt" in part or "vmap" in part:
                break  # a condition of iptables' own that nft does not tell
        else:
            if verdict:
                return verdict
    return None


def _nft_match(match: Mapping[str, Any], protocol: str, port: int, interface: str) -> bool:
    """Would the first packet of a stranger on this interface to this port meet the condition?"""
    left, right, equal = match["left"], match["right"], match.get("op", "==") in ("==", "in")
    if not isinstance(left, dict):
        return False
    if payload := left.get("payload"):
        if payload.get("field") == "dport":
            if payload.get("protocol") not in (protocol, "th"):
                return False
            return _among(right, port) == equal
        return payload.get("field") == "protocol" and _among(right, protocol) == equal
    if meta := left.get("meta"):
        if meta["key"] in ("iifname", "iif"):
            return _among(right, interface) == equal
        if meta["key"] == "l4proto":
            return _among(right, protocol) == equal
        if meta["key"] == "nfproto":
            return _among(right, "ipv4") == equal
    if "ct" in left and left["ct"].get("key") == "state":
        return _among(right, "new") == equal
    return False


def _among(right: Any, value: str | int) -> bool:
    """Is value what the right side of a condition names: itself, a set, or a range?"""
    if isinstance(right, dict):
        if "set" in right:
            return any(_among(each, value) for each in right["set"])
        if "range" in right:
            low, high = right["range"]
            return isinstance(value, int) and low <= value <= high
        return False
    if isinstance(right, list):
        return any(_among(each, value) for each in right)
    if isinstance(right, str) and right.endswith("*"):
        return str(value).startswith(right[:-1])
    return bool(right == value)


def closed_by_iptables(saved: str, ports: Iterable[Port], interfaces: Sequence[str]) -> list[Closed]:
    """What `iptables-save` closes, in its table filter."""
    policy, rules = "ACCEPT", dict[str, list[str]]()
    in_filter = False
    for line in saved.splitlines():
        if line.startswith("*"):
            in_filter = line.strip() == "*filter"
        elif in_filter and line.startswith(":INPUT "):
            policy = line.split()[1]
        elif in_filter and line.startswith("-A "):
            rules.setdefault(line.split()[1], []).append(line)
    found = []
    for protocol, port in ports:
        for interface in interfaces:
            verdict = _iptables_verdict("INPUT", rules, protocol, port, interface, 0)
            if (verdict or policy) in ("DROP", "REJECT"):
                found.append(Closed(protocol, port, interface, f"iptables chain INPUT (policy {policy})"))
    return found


def _iptables_verdict(
    chain: str, rules: Mapping[str, Sequence[str]], protocol: str, port: int, interface: str, depth: int
) -> str | None:
    for rule in rules.get(chain, ()):
        if not _iptables_match(rule, protocol, port, interface):
            continue
        target = re.search(r" -[jg] (\S+)", rule)
        if target is None:
            continue
        if target[1] in ("ACCEPT", "DROP", "REJECT"):
            return target[1]
        if target[1] == "RETURN":
            return None
        if depth < 16 and (verdict := _iptables_verdict(target[1], rules, protocol, port, interface, depth + 1)):
            return verdict
    return None


def _iptables_match(rule: str, protocol: str, port: int, interface: str) -> bool:
    if (match := re.search(r"(! )?-i (\S+)", rule)) and _wild(match[2], interface) == bool(match[1]):
        return False
    if (match := re.search(r"(! )?-p (\S+)", rule)) and (match[2] in (protocol, "all")) == bool(match[1]):
        return False
    if (match := re.search(r"(! )?--dports? (\S+)", rule)) and _in_ports(match[2], port) == bool(match[1]):
        return False
    if match := re.search(r"--(?:ctstate|state) (\S+)", rule):
        return "NEW" in match[1].split(",")
    return not re.search(r" -[sd] | --sport| -m (?!tcp|udp|conntrack|state|multiport|comment)", rule)


def _wild(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _in_ports(text: str, port: int) -> bool:
    for part in text.split(","):
        low, _, high = part.partition(":")
        if int(low) <= port <= int(high or low):
            return True
    return False


def masquerades(saved: str) -> list[str]:
    """Rules of `iptables-save -t nat` that rewrite the source whatever the way out: also that of our own replies."""
    rules = [line for line in saved.splitlines() if line.startswith("-A POSTROUTING") and "-j MASQUERADE" in line]
    return [rule for rule in rules if " -o " not in rule and " ! -d " not in rule]


def opening_lines(tool: str, closed: Sequence[Closed]) -> list[str]:
    """The lines that open these ports with that tool: nft | iptables | ufw | firewalld."""
    by_protocol: dict[str, list[int]] = {}
    for each in closed:
        if each.port not in by_protocol.setdefault(each.protocol, []):
            by_protocol[each.protocol].append(each.port)
    interfaces = sorted({each.interface for each in closed})
    lines = []
    for protocol, ports in sorted(by_protocol.items()):
        numbers = ", ".join(map(str, sorted(ports)))
        for interface in interfaces:
            if tool == "nft":
                chain = next(each.chain for each in closed).split(" (")[0].removeprefix("nft chain ")
                lines.append(f'nft insert rule {chain} iifname "{interface}" {protocol} dport {{ {numbers} }} accept')
            elif tool == "iptables":
                dports = numbers.replace(" ", "")
                lines.append(f"iptables -I INPUT -i {interface} -p {protocol} -m multiport --dports {dports} -j ACCEPT")
            elif tool == "ufw":
                lines.append(f"ufw allow in on {interface} proto {protocol} to any port {numbers.replace(' ', '')}")
        if tool == "firewalld":
            lines += [f"firewall-cmd --permanent --add-port={port}/{protocol}" for port in sorted(ports)]
    return [*lines, "firewall-cmd --reload"] if tool == "firewalld" else lines
