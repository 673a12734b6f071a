"""Rules of nft and iptables, read as they are printed."""

import json
import subprocess
from typing import Any

import pytest

from pixieboot.firewall import Closed, closed_by_iptables, closed_by_nft, masquerades, opening_lines
from tests.netns import Network

TFTP = [("udp", 69)]


def ruleset(*rules: list[dict[str, Any]], policy: str = "drop", more: tuple[dict[str, Any], ...] = ()) -> str:
    chain = {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": policy}
    entries: list[dict[str, Any]] = [{"metainfo": {}}, {"chain": chain}, *more]
    entries += [{"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": rule}} for rule in rules]
    return json.dumps({"nftables": entries})


def dport(right: Any, protocol: str = "udp", op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def ip(field: str, right: str) -> dict[str, Any]:
    return {"match": {"left": {"payload": {"protocol": "ip", "field": field}}, "right": right}}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
STATE = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
JUMPED = ({"rule": {"family": "inet", "table": "filter", "chain": "boot", "expr": [dport(69), ACCEPT]}},)
NFT = {  # rules, policy, closed?
    "no rules, policy accept": (ruleset(policy="accept"), False),
    "no rules, policy drop": (ruleset(), True),
    "our port": (ruleset([dport(69), ACCEPT]), False),
    "another port": (ruleset([dport(68), ACCEPT]), True),
    "a set of ports": (ruleset([dport({"set": [67, 69]}), ACCEPT]), False),
    "a range": (ruleset([dport({"range": [60, 70]}), ACCEPT]), False),
    "tcp is not udp": (ruleset([dport(69, "tcp"), ACCEPT]), True),
    "any transport": (ruleset([dport(69, "th"), ACCEPT]), False),
    "all but ours": (ruleset([dport(69, op="!="), ACCEPT]), True),
    "only established": (ruleset([STATE, ACCEPT]), True),
    "our interface": (ruleset([meta("iifname", "eth0"), ACCEPT]), False),
    "interfaces by pattern": (ruleset([meta("iifname", "eth*"), ACCEPT]), False),
    "the loopback": (ruleset([meta("iifname", "lo"), ACCEPT]), True),
    "udp at large": (ruleset([meta("l4proto", "udp"), ACCEPT]), False),
    "ipv4 at large": (ruleset([meta("nfproto", "ipv4"), {"counter": {}}, ACCEPT]), False),
    "a mark that nobody sets": (ruleset([meta("mark", 1), ACCEPT]), True),
    "from one host only": (ruleset([ip("saddr", "10.0.0.1"), ACCEPT]), True),
    "the protocol field": (ruleset([ip("protocol", "udp"), ACCEPT]), False),
    "dropped although the policy accepts": (ruleset([dport(69), DROP], policy="accept"), True),
    "rejected": (ruleset([{"reject": {}}], policy="accept"), True),
    "return to the policy": (ruleset([{"return": None}], [ACCEPT]), True),
    "by a chain of its own": (ruleset([{"jump": {"target": "boot"}}], more=JUMPED), False),
    "goto that ends without a word": (ruleset([{"goto": {"target": "empty"}}], [ACCEPT]), True),
    "jump that ends without a word": (ruleset([{"jump": {"target": "empty"}}], [ACCEPT]), False),
    "a condition of iptables' own": (ruleset([{"xt": {}}, ACCEPT]), True),
    "something strange": (ruleset([{"match": {"left": "x", "right": 1}}, ACCEPT]), True),
    "a named set": (ruleset([dport({"prefix": {}}), ACCEPT]), True),
}  # fmt: skip


@pytest.mark.parametrize("rules, closed", NFT.values(), ids=NFT)
def test_nft(rules: str, closed: bool) -> None:
    found = closed_by_nft(rules, TFTP, ["eth0"])
    assert bool(found) is closed
    assert all("nft chain inet filter input (policy" in each.chain for each in found)


SAVED = """*nat
:INPUT DROP [0:0]
COMMIT
*filter
:INPUT {policy} [0:0]
{rules}
COMMIT
"""
IPTABLES = {
    "policy accept": ("ACCEPT", "", False),
    "policy drop": ("DROP", "", True),
    "our port": ("DROP", "-A INPUT -p udp -m udp --dport 69 -j ACCEPT", False),
    "several ports": ("DROP", "-A INPUT -p udp -m multiport --dports 67,69:70 -j ACCEPT", False),
    "other ports": ("DROP", "-A INPUT -p udp -m multiport --dports 67,70:71 -j ACCEPT", True),
    "not ours": ("DROP", "-A INPUT -p udp -m udp ! --dport 69 -j ACCEPT", True),
    "tcp": ("DROP", "-A INPUT -p tcp -m tcp --dport 69 -j ACCEPT", True),
    "interface": ("DROP", "-A INPUT -i eth+ -j ACCEPT", False),
    "other interface": ("DROP", "-A INPUT -i lo -j ACCEPT", True),
    "all but another interface": ("DROP", "-A INPUT ! -i lo -j ACCEPT", False),
    "established": ("DROP", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", True),
    "new": ("DROP", "-A INPUT -m conntrack --ctstate NEW -j ACCEPT", False),
    "from one host": ("DROP", "-A INPUT -s 10.0.0.1/32 -j ACCEPT", True),
    "rejected at the end": ("ACCEPT", "-A INPUT -j REJECT --reject-with icmp-port-unreachable", True),
    "own chain": ("DROP", "-A INPUT -j boot\n-A boot -p udp --dport 69 -j ACCEPT", False),
    "own chain that returns": ("DROP", "-A INPUT -j boot\n-A boot -j RETURN\n-A boot -j ACCEPT", True),
    "a log line says nothing": ("ACCEPT", '-A INPUT -j LOG\n-A INPUT -m comment --comment "x"', False),
}


@pytest.mark.parametrize("policy, rules, closed", IPTABLES.values(), ids=IPTABLES)
def test_iptables(policy: str, rules: str, closed: bool) -> None:
    assert bool(closed_by_iptables(SAVED.format(policy=policy, rules=rules), TFTP, ["eth0"])) is closed


def test_masquerades() -> None:
    everywhere = "-A POSTROUTING -s 10.0.0.0/24 -j MASQUERADE"
    harmless = "-A POSTROUTING -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE\n-A POSTROUTING -o eth1 -j MASQUERADE"
    assert masquerades(f"*nat\n{harmless}\n{everywhere}\nCOMMIT\n") == [everywhere]


LINES = {
    "nft": ['nft insert rule inet filter input iifname "eth0" tcp dport { 8080 } accept',
            'nft insert rule inet filter input iifname "eth0" udp dport { 67, 69 } accept'],
    "iptables": ["iptables -I INPUT -i eth0 -p tcp -m multiport --dports 8080 -j ACCEPT",
                 "iptables -I INPUT -i eth0 -p udp -m multiport --dports 67,69 -j ACCEPT"],
    "ufw": ["ufw allow in on eth0 proto tcp to any port 8080", "ufw allow in on eth0 proto udp to any port 67,69"],
    "firewalld": ["firewall-cmd --permanent --add-port=8080/tcp", "firewall-cmd --permanent --add-port=67/udp",
                  "firewall-cmd --permanent --add-port=69/udp", "firewall-cmd --reload"],
}  # fmt: skip
CLOSED = [Closed(*port, "eth0", "nft chain inet filter input (policy drop)") for port in (("udp", 69), ("udp", 67), ("tcp", 8080))]


@pytest.mark.parametrize("tool, lines", LINES.items(), ids=LINES)
def test_opening_lines(tool: str, lines: list[str]) -> None:
    assert opening_lines(tool, CLOSED) == lines


@pytest.mark.needs_root
def test_nft_itself_prints_what_is_read_here_and_takes_what_is_advised() -> None:
    with Network("nft") as network:
        host = network.switch().host("server", "10.77.0.2/24")
        host.run("nft", "add table inet filter")
        host.run("nft", "add chain inet filter input { type filter hook input priority 0; policy drop; }")
        host.run("nft", "add rule inet filter input ct state established,related accept")
        host.run("nft", 'add rule inet filter input iifname "lo" accept')
        host.run("nft", "add rule inet filter input udp dport { 67, 4011 } accept")

        def rules() -> str:
            command = ["ip", "netns", "exec", host.namespace, "nft", "-j", "list", "ruleset"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        ports = [("udp", 67), ("udp", 4011), ("udp", 69), ("tcp", 8080)]
        found = closed_by_nft(rules(), ports, ["eth0"])
        assert [(each.protocol, each.port) for each in found] == [("udp", 69), ("tcp", 8080)]
        for line in opening_lines("nft", found):
            host.run("nft", line.removeprefix("nft "))
        assert closed_by_nft(rules(), ports, ["eth0"]) == []
