"""Options by name or number: what operators write, what goes on the wire, and what they are told when it is wrong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import DHCPOptions

from pixieboot.wire.dhcp import parts
from pixieboot.wire.options import _NUMBERS, _OPTIONS, name_of, number_of, option

CASES: dict[str, tuple[str | int, Any, tuple[int, str]]] = {
    "isc's name": ("ntp-servers", "10.0.0.1", (42, "0a000001")),
    "dnsmasq's name": ("ntp-server", "10.0.0.1", (42, "0a000001")),
    "dnsmasq's prefix": ("option:ntp-server", "10.0.0.1", (42, "0a000001")),
    "underscores and capitals": ("NTP_Servers", "10.0.0.1", (42, "0a000001")),
    "a number": (42, "10.0.0.1", (42, "0a000001")),
    "a number as text": ("42", "10.0.0.1", (42, "0a000001")),
    "several addresses in a list": (6, ["10.0.0.1", "10.0.0.2"], (6, "0a0000010a000002")),
    "several addresses at commas": (6, "10.0.0.1, 10.0.0.2", (6, "0a0000010a000002")),
    "one address": ("subnet-mask", "255.255.255.0", (1, "ffffff00")),
    "text": ("domain-name", "lab.example", (15, b"lab.example".hex())),
    "text that looks like bytes": ("host-name", "aa:bb", (12, b"aa:bb".hex())),
    "text from a number": ("host-name", 7, (12, "37")),
    "text from a list": ("root-path", ["a", "b"], (17, b"a,b".hex())),
    "text that says its bytes": ("bootfile-name", "0x6100", (67, "6100")),
    "T1": ("T1", 1800, (58, "00000708")),
    "an octet": ("default-ttl", "64", (23, "40")),
    "two octets": ("interface-mtu", 1500, (26, "05dc")),
    "a negative offset": ("time-offset", -3600, (2, "fffff1f0")),
    "several numbers": (25, [1500, 576], (25, "05dc0240")),
    "a flag": ("ip-forwarding", True, (19, "01")),
    "a flag in words": ("ip-forwarding", "off", (19, "00")),
    "domain names": ("domain-search", ["lab.example", "example."], (119, "036c6162076578616d706c6500076578616d706c6500")),
    "SIP servers by name": ("sip-servers", "sip.example", (120, "0003736970076578616d706c6500")),
    "SIP servers by address": ("sip-servers", "10.0.0.1", (120, "010a000001")),
    "routes (RFC 3442)": (
        "classless-static-route",
        "0.0.0.0/0,10.0.0.1,10.17.0.0/16,10.0.0.2,10.0.0.0/25,10.0.0.3",
        (121, "000a000001100a110a000002190a0000000a000003"),
    ),
    "routes as a mapping": (121, {"10.0.0.0/8": "10.0.0.1"}, (121, "080a0a000001")),
    "bytes": (125, "00:01:02", (125, "000102")),
    "bytes as such": (224, b"\1\2", (224, "0102")),
    "the contract's example": (224, "0x0102", (224, "0102")),
    "unknown: colons are bytes": (224, "01:02:ff", (224, "0102ff")),
    "unknown: an octet": (224, 7, (224, "07")),
    "unknown: digits are a number": (224, "300", (224, "012c")),
    "unknown: four octets": (224, 70_000, (224, "00011170")),
    "unknown: negative": (224, -1, (224, "ff")),
    "unknown: a flag": (224, False, (224, "00")),
    "unknown: addresses": (224, "10.0.0.1,10.0.0.2", (224, "0a0000010a000002")),
    "unknown: a list of addresses": (224, ["10.0.0.1"], (224, "0a000001")),
    "unknown: a list of octets": (224, [1, 2, 255], (224, "0102ff")),
    "unknown: a list of texts": (224, ["a", "b"], (224, b"a,b".hex())),
    "unknown: text": (224, "hello", (224, b"hello".hex())),
    "unknown: sub-options": (224, {1: "x"}, (224, "010178")),
    "option 43 as a mapping": (43, {6: 8, "menu-prompt": "0x00505845"}, (43, "0601080a0400505845ff")),
    "option 43 as bytes": ("vendor-encapsulated-options", "0x060108ff", (43, "060108ff")),
    "option 175 as a mapping": ("ipxe", {"no-pxedhcp": 1, 190: "me", "priority": -1}, (175, "b00101be026d650101ff")),
    "nested sub-options": (43, {1: {2: "10.0.0.1"}}, (43, "010602040a000001ff")),
}


@pytest.mark.parametrize("name, value, wanted", CASES.values(), ids=CASES)
def test_value(name: str | int, value: Any, wanted: tuple[int, str]) -> None:
    number, encoded = option(name, value)
    assert (number, encoded.hex()) == wanted


LONG = ".".join(["a" * 60] * 5)
FAULTS: dict[str, tuple[str | int, Any, str]] = {
    "a misspelt name": (
        "ntp-severs",
        "10.0.0.1",
        "option ntp-severs is not a name that dnsmasq or isc-dhcpd knows; the nearest is ntp-servers",
    ),
    "no name at all": ("xyzzy", 1, "option xyzzy is not a name that dnsmasq or isc-dhcpd knows; its number will do as well"),
    "a number of 5,000 digits": ("9" * 5000, 1, "option 99999999999999999999 does not exist; numbers go from 1 to 254"),
    "a number too large": (256, 1, "option 256 does not exist; numbers go from 1 to 254"),
    "a flag as a name": (True, 1, "option True is neither a name nor a number"),
    "not the operator's": (53, 1, "option 53 (dhcp-message-type) is not yours to set: it is the message's own"),
    "set elsewhere": (51, 1, "option 51 (dhcp-lease-time) is not yours to set: set `lease_time` of the network"),
    "no address": ("routers", "10.0.0", "option routers (3): '10.0.0' is not an IPv4 address such as 192.168.77.1"),
    "an address that is a number": (3, 7, "option 3: 7 is not an IPv4 address such as 192.168.77.1"),
    "two addresses for one": (1, "1.2.3.4,1.2.3.4", "option 1: '1.2.3.4,1.2.3.4' is 2 values; this option takes one address"),
    "an octet too large": (23, 256, "option 23: 256 is not between 0 and 255"),
    "an offset too small": (2, -(2**40), f"option 2: {-(2**40)} is not between -2147483648 and 2147483647"),
    "no number": (26, "large", "option 26: 'large' is not a whole number"),
    "a flag for a number": (26, True, "option 26: True is not a whole number"),
    "no flag": (19, "maybe", "option 19: 'maybe' is neither true nor false"),
    "empty text": (15, "", "option 15: it is empty; leave the option out instead"),
    "text with a NUL": (15, "a\0b", "option 15: 'a\\x00b' holds a NUL, which would end it"),
    "no text": (15, None, "option 15: None is not text"),
    "no domain name": (119, "lab..example", "option 119: 'lab..example' is not a domain name such as lab.example"),
    "a number for a name": (119, 7, "option 119: 7 is not a domain name such as lab.example"),
    "too long a name": (119, LONG, f"option 119: '{LONG}' is longer than a domain name may be"),
    "too few bytes": (1, "0x0102", "option 1: it has 2 octets, want 4"),
    "bytes of no address": ("ntp-servers", "0x0102030405", "option ntp-servers (42): it has 5 octets, want 4 for each value"),
    "too many bytes": ("mtu", "0x0005dc", "option mtu (26): it has 3 octets, want 2"),
    "half a pair": (33, "10.0.0.0", "option 33: it has 4 octets, want 8 for each value"),
    "no address at all": ("routers", [], "option routers (3): it is empty; leave the option out instead"),
    "bytes without any": (12, "0x", "option 12: it is empty; leave the option out instead"),
    "half a route": (121, "10.0.0.0/8", "option 121: '10.0.0.0/8' is not a list of DESTINATION/BITS and ROUTER in turn"),
    "no network": (121, "10.0.0.1/8,10.0.0.1", "option 121: '10.0.0.1/8' is not a network such as 10.0.0.0/8"),
    "no bytes": (125, "hello", "option 125: 'hello' is not bytes such as 0x0102 or 01:02"),
    "too large a number": (224, 2**40, f"option 224: {2**40} does not fit into 4 octets"),
    "option 43 as text": (43, "hello", "option 43: 'hello' is neither bytes such as 0x060108ff nor a mapping of sub-options"),
    "a misspelt sub-option": (
        175,
        {"no-pxedhpc": 1},
        "option 175: sub-option no-pxedhpc is not a number from 1 to 254; the nearest is no-pxedhcp",
    ),
    "a sub-option out of range": (43, {255: 1}, "option 43: sub-option 255 is not a number from 1 to 254"),
    "a bad sub-value": (43, {6: None}, "option 43: sub-option 6: None is not text"),
    "a sub-value too long": (43, {6: "x" * 256}, "option 43: sub-option 6: 256 octets, at most 255 fit"),
    "43 too long for firmware": (43, {6: "x" * 254}, "option 43: 257 octets; firmware reads only the first 255 of it"),
    "too long for a message": (224, "x" * 1025, "option 224: 1025 octets do not fit into one DHCP message"),
}


@pytest.mark.parametrize("name, value, sentence", FAULTS.values(), ids=FAULTS)
def test_fault(name: str | int, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        option(name, value)
    assert str(raised.value) == sentence


def test_every_name_leads_to_its_number() -> None:
    for number, (_, names) in _OPTIONS.items():
        assert {number_of(name) for name in names.split()} == {number}
        assert name_of(number) == names.split()[0]


def test_names_of_numbers_without_a_form() -> None:
    assert (name_of(53), name_of(224)) == ("dhcp-message-type", "224")


def test_dnsmasq_names() -> None:
    """Every name that `dnsmasq --help dhcp` prints (2.90) is known here, by the same number."""
    printed = """1 netmask 2 time-offset 3 router 6 dns-server 7 log-server 9 lpr-server 13 boot-file-size 15 domain-name
        16 swap-server 17 root-path 18 extension-path 19 ip-forward-enable 20 non-local-source-routing 21 policy-filter
        22 max-datagram-reassembly
        23 default-ttl 26 mtu 27 all-subnets-local 31 router-discovery 32 router-solicitation 33 static-route
        34 trailer-encapsulation 35 arp-timeout 36 ethernet-encap 37 tcp-ttl 38 tcp-keepalive 40 nis-domain 41 nis-server
        42 ntp-server 44 netbios-ns 45 netbios-dd 46 netbios-nodetype 47 netbios-scope 48 x-windows-fs 49 x-windows-dm 58 T1 59 T2
        60 vendor-class 64 nis+-domain 65 nis+-server 66 tftp-server 67 bootfile-name 68 mobile-ip-home 69 smtp-server
        70 pop3-server 71 nntp-server 74 irc-server 77 user-class 80 rapid-commit 93 client-arch 94 client-interface-id
        97 client-machine-id 100 posix-timezone 101 tzdb-timezone 108 ipv6-only 119 domain-search 120 sip-server
        121 classless-static-route 125 vendor-id-encap 150 tftp-server-address 255 server-ip-address""".split()
    for number, name in zip(printed[::2], printed[1::2], strict=True):
        assert _NUMBERS[name.lower()] == int(number)


def test_scapy_agrees_on_numbers() -> None:
    """Where scapy has a name for an option that we write as an address, it means an address by it as well."""
    for number, (form, _) in _OPTIONS.items():
        known = DHCPOptions.get(number)
        if form in ("address", "addresses") and known is not None and not isinstance(known, str):
            assert type(known).__name__ == "IPField", number


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 300) | st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(-1, 300) | st.text(max_size=12) | st.sampled_from(sorted(_NUMBERS)), values)
def test_any_value_is_bytes_or_a_sentence(name: str | int, value: Any) -> None:
    try:
        number, encoded = option(name, value)
    except ValueError as error:
        assert str(error).startswith("option ")
    else:
        assert 0 < number < 255 and isinstance(encoded, bytes) and len(encoded) <= 1024


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 254), st.binary(max_size=20), max_size=5))
def test_sub_options_read_back(found: dict[int, bytes]) -> None:
    assert dict(parts(option(43, found)[1])) == found
    assert dict(parts(option(175, found)[1])) == found
