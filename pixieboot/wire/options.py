"""DHCP options as operators write them: a name or number and a value -> the bytes on the wire (RFC 2132 and its successors).

Names are those of dnsmasq and of isc-dhcpd, for people bring their files along.  What a value means follows from the option;
where the option has no known form (vendor's, site's) it follows from the value, as in dnsmasq: a number takes the fewest
octets, dotted addresses four each, anything else is text.  "0x0102" and "01:02:03" are bytes for every option.
"""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

_HEX = re.compile(r"0[xX]((?:[0-9a-fA-F]{2})*)", re.ASCII)
_COLONS = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2})+", re.ASCII)
_DIGITS = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)

# number: (form, names of isc-dhcpd and of dnsmasq).  Forms are the keys of _FORMS.
_OPTIONS: Mapping[int, tuple[str, str]] = {
    1: ("address", "subnet-mask netmask"),
    2: ("int32", "time-offset"),
    3: ("addresses", "routers router"),
    4: ("addresses", "time-servers"),
    5: ("addresses", "ien116-name-servers"),
    6: ("addresses", "domain-name-servers dns-server"),
    7: ("addresses", "log-servers log-server"),
    8: ("addresses", "cookie-servers"),
    9: ("addresses", "lpr-servers lpr-server"),
    10: ("addresses", "impress-servers"),
    11: ("addresses", "resource-location-servers"),
    12: ("text", "host-name hostname"),
    13: ("uint16", "boot-size boot-file-size"),
    14: ("text", "merit-dump"),
    15: ("text", "domain-name"),
    16: ("address", "swap-server"),
    17: ("text", "root-path"),
    18: ("text", "extensions-path extension-path"),
    19: ("flag", "ip-forwarding ip-forward-enable"),
    20: ("flag", "non-local-source-routing"),
    21: ("pairs", "policy-filter"),
    22: ("uint16", "max-dgram-reassembly max-datagram-reassembly"),
    23: ("uint8", "default-ip-ttl default-ttl"),
    24: ("uint32", "path-mtu-aging-timeout"),
    25: ("uint16s", "path-mtu-plateau-table"),
    26: ("uint16", "interface-mtu mtu"),
    27: ("flag", "all-subnets-local"),
    28: ("address", "broadcast-address"),
    29: ("flag", "perform-mask-discovery"),
    30: ("flag", "mask-supplier"),
    31: ("flag", "router-discovery"),
    32: ("address", "router-solicitation-address router-solicitation"),
    33: ("pairs", "static-routes static-route"),
    34: ("flag", "trailer-encapsulation"),
    35: ("uint32", "arp-cache-timeout arp-timeout"),
    36: ("flag", "ieee802-3-encapsulation ethernet-encap"),
    37: ("uint8", "default-tcp-ttl tcp-ttl"),
    38: ("uint32", "tcp-keepalive-interval tcp-keepalive"),
    39: ("flag", "tcp-keepalive-garbage"),
    40: ("text", "nis-domain"),
    41: ("addresses", "nis-servers nis-server"),
    42: ("addresses", "ntp-servers ntp-server"),
    43: ("vendor", "vendor-encapsulated-options"),
    44: ("addresses", "netbios-name-servers netbios-ns"),
    45: ("addresses", "netbios-dd-server netbios-dd"),
    46: ("uint8", "netbios-node-type netbios-nodetype"),
    47: ("text", "netbios-scope"),
    48: ("addresses", "font-servers x-windows-fs"),
    49: ("addresses", "x-display-manager x-windows-dm"),
    58: ("uint32", "dhcp-renewal-time T1"),
    59: ("uint32", "dhcp-rebinding-time T2"),
    60: ("text", "vendor-class-identifier vendor-class"),
    62: ("text", "nwip-domain"),
    64: ("text", "nisplus-domain nis+-domain"),
    65: ("addresses", "nisplus-servers nis+-server"),
    66: ("text", "tftp-server-name tftp-server"),
    67: ("text", "bootfile-name"),
    68: ("addresses", "mobile-ip-home-agent mobile-ip-home"),
    69: ("addresses", "smtp-server"),
    70: ("addresses", "pop-server pop3-server"),
    71: ("addresses", "nntp-server"),
    72: ("addresses", "www-server"),
    73: ("addresses", "finger-server"),
    74: ("addresses", "irc-server"),
    75: ("addresses", "streettalk-server"),
    76: ("addresses", "streettalk-directory-assistance-server"),
    77: ("text", "user-class"),
    85: ("addresses", "nds-servers"),
    86: ("text", "nds-tree-name"),
    87: ("text", "nds-context"),
    88: ("names", "bcms-controller-names"),
    89: ("addresses", "bcms-controller-address"),
    98: ("text", "uap-servers"),
    100: ("text", "pcode posix-timezone"),
    101: ("text", "tcode tzdb-timezone"),
    108: ("uint32", "v6-only-preferred ipv6-only"),
    112: ("addresses", "netinfo-server-address"),
    113: ("text", "netinfo-server-tag"),
    114: ("text", "default-url v4-captive-portal"),
    116: ("uint8", "auto-config"),
    117: ("uint16s", "name-service-search"),
    119: ("names", "domain-search"),
    120: ("sip", "sip-servers sip-server"),
    121: ("routes", "rfc3442-classless-static-routes classless-static-route"),
    125: ("bytes", "vivso vendor-id-encap"),
    138: ("addresses", "capwap-ac-v4"),
    141: ("names", "sip-ua-cs-domains"),
    150: ("addresses", "tftp-server-address"),
    175: ("ipxe", "ipxe ipxe-encap-opts"),
    208: ("bytes", "pxelinux-magic"),
    209: ("text", "loader-configfile pxelinux-configfile"),
    210: ("text", "loader-pathprefix pxelinux-pathprefix"),
    211: ("uint32", "loader-reboottime pxelinux-reboottime"),
    213: ("text", "v4-access-domain"),
    249: ("routes", "ms-classless-static-routes"),
    252: ("text", "wpad"),
}
# Not the operator's to set, and where that is set instead.
_REFUSED: Mapping[int, tuple[str, str]] = {
    0: ("pad", "it is padding"),
    50: ("dhcp-requested-address", "only clients send it"),
    51: ("dhcp-lease-time", "set `lease_time` of the network"),
    52: ("dhcp-option-overload", "it is used when a reply is too long otherwise"),
    53: ("dhcp-message-type", "it is the message's own"),
    54: ("dhcp-server-identifier", "it is the address of the interface that answers"),
    55: ("dhcp-parameter-request-list", "only clients send it"),
    56: ("dhcp-message", "it says why a client was refused"),
    57: ("dhcp-max-message-size", "only clients send it"),
    61: ("dhcp-client-identifier", "it is the client's own"),
    80: ("rapid-commit", "an address is given in four messages, so that another server can be chosen"),
    82: ("relay-agent-information", "it is the relay's own"),
    93: ("client-arch pxe-system-type", "only clients send it"),
    94: ("client-interface-id pxe-interface-id", "only clients send it"),
    97: ("client-machine-id pxe-client-id", "it is the client's own"),
    255: ("end server-ip-address", "it ends the options, and the next server is always this host"),
}
_SUB_NAMES: Mapping[int, Mapping[str, int]] = {
    43: {
        "discovery-control": 6,
        "discovery-mcast-addr": 7,
        "boot-servers": 8,
        "boot-menu": 9,
        "menu-prompt": 10,
    },
    175: {
        "priority": 1,
        "keep-san": 8,
        "skip-san-boot": 9,
        "syslogs": 85,
        "cert": 91,
        "privkey": 92,
        "crosscert": 93,
        "no-pxedhcp": 176,
        "bus-id": 177,
        "use-cached": 178,
        "bios-drive": 189,
        "username": 190,
        "password": 191,
        "reverse-username": 192,
        "reverse-password": 193,
        "version": 235,
    },
}


def option(name_or_number: str | int, value: object) -> tuple[int, bytes]:
    """The number of an option and its value in wire form.  Raises ValueError with a sentence for the operator."""
    number = number_of(name_or_number)
    label = f"option {name_or_number}" if str(name_or_number) == str(number) else f"option {name_or_number} ({number})"
    form = _OPTIONS[number][0] if number in _OPTIONS else "guess"
    try:
        encoded = _explicit_bytes(value) if form not in ("vendor", "ipxe") or not isinstance(value, Mapping) else None
        if encoded is None or (form == "text" and isinstance(value, str) and _COLONS.fullmatch(value)):
            encoded = _FORMS[form](value)
        _check_size(encoded, form)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if number in (43, 67) and len(encoded) > 255:
        raise ValueError(f"{label}: {len(encoded)} octets; firmware reads only the first 255 of it")
    if len(encoded) > 1024:
        raise ValueError(f"{label}: {len(encoded)} octets do not fit into one DHCP message")
    return number, encoded


def number_of(name_or_number: str | int) -> int:
    """The number of an option that operators may set.  Raises ValueError that names the nearest known name."""
    if isinstance(name_or_number, bool):
        raise ValueError(f"option {name_or_number!r} is neither a name nor a number")
    text = str(name_or_number).strip()
    if text.isascii() and text.isdigit():
        number = int(text[:10])
        if number > 255 or len(text) > 10:
            raise ValueError(f"option {text[:20]} does not exist; numbers go from 1 to 254")
    else:
        name = text.lower().removeprefix("option:").replace("_", "-")
        if name not in _NUMBERS:
            close = get_close_matches(name, _NUMBERS, 1, 0.5)
            near = f"; the nearest is {close[0]}" if close else "; its number will do as well"
            raise ValueError(f"option {text} is not a name that dnsmasq or isc-dhcpd knows{near}")
        number = _NUMBERS[name]
    if number in _REFUSED:
        names, reason = _REFUSED[number]
        raise ValueError(f"option {text} ({names.split()[0]}) is not yours to set: {reason}")
    return number


def name_of(number: int) -> str:
    """The usual name of an option; its number where it has none."""
    found = _OPTIONS.get(number) or _REFUSED.get(number)
    if found is None:
        return str(number)
    return (found[1] if number in _OPTIONS else found[0]).split()[0]


def _explicit_bytes(value: object) -> bytes | None:
    """Bytes that are written as such; None for any other value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if match := _HEX.fullmatch(value.strip()):
            return bytes.fromhex(match[1])
        if _COLONS.fullmatch(value.strip()):
            return bytes.fromhex(value.strip().replace(":", ""))
    return None


def _items(value: object) -> list[object]:
    """A list as it is, a text at its commas, anything else alone."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value]


def _address(value: object) -> bytes:
    items = _items(value)
    if len(items) != 1:
        raise ValueError(f"{value!r} is {len(items)} values; this option takes one address")
    return _one_address(items[0])


def _one_address(value: object) -> bytes:
    try:
        if isinstance(value, str):
            return IPv4Address(value.strip()).packed
    except AddressValueError:
        pass
    raise ValueError(f"{value!r} is not an IPv4 address such as 192.168.77.1")


def _addresses(value: object) -> bytes:
    return b"".join(_one_address(item) for item in _items(value))


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value)
    raise ValueError(f"{value!r} is not a whole number")


def _integer(octets: int, signed: bool = False) -> Callable[[object], bytes]:
    def encode(value: object) -> bytes:
        number = _number(value)
        try:
            return number.to_bytes(octets, "big", signed=signed)
        except OverflowError:
            low, high = (-(1 << 8 * octets - 1), (1 << 8 * octets - 1) - 1) if signed else (0, (1 << 8 * octets) - 1)
            raise ValueError(f"{number} is not between {low} and {high}") from None

    return encode


def _uint16s(value: object) -> bytes:
    encode = _integer(2)
    return b"".join(encode(item) for item in _items(value))


def _flag(value: object) -> bytes:
    known = {"true": 1, "yes": 1, "on": 1, "1": 1, "false": 0, "no": 0, "off": 0, "0": 0}
    found = known.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return bytes((found,))


def _text(value: object) -> bytes:
    if isinstance(value, list | tuple):
        return ",".join(_text(item).decode() for item in value).encode()
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not text")
    text = str(value)
    if not text:
        raise ValueError("it is empty; leave the option out instead")
    if "\0" in text:
        raise ValueError(f"{value!r} holds a NUL, which would end it")
    return text.encode()


def _names(value: object) -> bytes:
    """Domain names as DNS has them, without compression: not every client undoes it (RFC 3397 §2, RFC 1035 §3.1)."""
    return b"".join(_domain(item) for item in _items(value))


def _domain(value: object) -> bytes:
    labels = value.rstrip(".").split(".") if isinstance(value, str) else [""]
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{value!r} is not a domain name such as lab.example")
    encoded = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
    if len(encoded) > 255:
        raise ValueError(f"{value!r} is longer than a domain name may be")
    return encoded


def _sip(value: object) -> bytes:
    """SIP servers: names after a 0, addresses after a 1 (RFC 3361 §3)."""
    try:
        return b"\1" + _addresses(value)
    except ValueError:
        return b"\0" + _names(value)


def _routes(value: object) -> bytes:
    """Destination and router in turn: "10.0.0.0/8,192.168.77.1,…", or a mapping of one to the other (RFC 3442)."""
    items: list[object] = []
    if isinstance(value, Mapping):
        for pair in value.items():
            items += pair
    else:
        items = _items(value)
    if not items or len(items) % 2:
        raise ValueError(f"{value!r} is not a list of DESTINATION/BITS and ROUTER in turn")
    encoded = b""
    for destination, router in zip(items[::2], items[1::2], strict=True):
        try:
            network = IPv4Network(str(destination))
        except (AddressValueError, NetmaskValueError, ValueError):
            raise ValueError(f"{destination!r} is not a network such as 10.0.0.0/8") from None
        significant = (network.prefixlen + 7) // 8
        encoded += bytes((network.prefixlen,)) + network.network_address.packed[:significant] + _one_address(router)
    return encoded


def _bytes(value: object) -> bytes:
    raise ValueError(f"{value!r} is not bytes such as 0x0102 or 01:02")


def _guess(value: object) -> bytes:
    """A value of an option whose form nobody told us: flag, number, addresses or text, whichever it looks like."""
    if isinstance(value, bool):
        return _flag(value)
    if isinstance(value, Mapping):
        return _encapsulated(value, {})
    if isinstance(value, int):
        return _shortest(value)
    if isinstance(value, list | tuple):
        if all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 255 for item in value):
            return bytes(value)
        try:
            return _addresses(value)
        except ValueError:
            return _text(value)
    if isinstance(value, str):
        if _DIGITS.fullmatch(value):
            return _shortest(int(value))
        try:
            return _addresses(value)
        except ValueError:
            pass
    return _text(value)


def _shortest(number: int) -> bytes:
    """1, 2 or 4 octets, whichever is enough."""
    signed = number < 0
    for octets in (1, 2, 4):
        try:
            return number.to_bytes(octets, "big", signed=signed)
        except OverflowError:
            continue
    raise ValueError(f"{number} does not fit into 4 octets")


def _encapsulated(value: object, names: Mapping[str, int]) -> bytes:
    """Sub-options, from a mapping of their numbers (or names) to values."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is neither bytes such as 0x060108ff nor a mapping of sub-options")
    encoded = b""
    for key, sub_value in value.items():
        number = names.get(str(key).strip().lower())
        if number is None:
            text = str(key).strip()
            if isinstance(key, bool) or not (text.isascii() and text.isdigit() and 0 < int(text) < 255):
                close = get_close_matches(text.lower(), names, 1, 0.5)
                near = f"; the nearest is {close[0]}" if close else ""
                raise ValueError(f"sub-option {key} is not a number from 1 to 254{near}")
            number = int(text)
        explicit = None if isinstance(sub_value, Mapping) else _explicit_bytes(sub_value)
        try:
            content = _guess(sub_value) if explicit is None else explicit
        except ValueError as error:
            raise ValueError(f"sub-option {key}: {error}") from None
        if len(content) > 255:
            raise ValueError(f"sub-option {key}: {len(content)} octets, at most 255 fit")
        encoded += bytes((number, len(content))) + content
    return encoded


def _vendor(value: object) -> bytes:
    return _encapsulated(value, _SUB_NAMES[43]) + b"\xff"


def _ipxe(value: object) -> bytes:
    return _encapsulated(value, _SUB_NAMES[175])


# (octets of each value, is it one value?)  Firmware drops the whole message for one option of a wrong length (EDK2, Dhcp4Option.c).
_SIZES: Mapping[str, tuple[int, bool]] = {
    "address": (4, True),
    "addresses": (4, False),
    "pairs": (8, False),
    "uint8": (1, True),
    "uint16": (2, True),
    "uint32": (4, True),
    "int32": (4, True),
    "uint16s": (2, False),
    "flag": (1, True),
    "text": (1, False),
    "names": (1, False),
}


def _check_size(encoded: bytes, form: str) -> None:
    unit, single = _SIZES.get(form, (0, False))
    if not unit:
        return
    if not encoded:
        raise ValueError("it is empty; leave the option out instead")
    if len(encoded) != unit if single else len(encoded) % unit:
        raise ValueError(f"it has {len(encoded)} octets, want {unit}{'' if single else ' for each value'}")


_FORMS: Mapping[str, Callable[[object], bytes]] = {
    "address": _address,
    "addresses": _addresses,
    "pairs": _addresses,
    "uint8": _integer(1),
    "uint16": _integer(2),
    "uint32": _integer(4),
    "int32": _integer(4, signed=True),
    "uint16s": _uint16s,
    "flag": _flag,
    "text": _text,
    "names": _names,
    "sip": _sip,
    "routes": _routes,
    "bytes": _bytes,
    "guess": _guess,
    "vendor": _vendor,
    "ipxe": _ipxe,
}
_NUMBERS: Mapping[str, int] = {
    name.lower(): number
    for table in (
        {number: names for number, (_, names) in _OPTIONS.items()},
        {number: names for number, (names, _) in _REFUSED.items()},
    )
    for number, names in table.items()
    for name in names.split()
}
