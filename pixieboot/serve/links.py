"""Where the daemon stands: the links and addresses of this host, live, and the networks it serves on them.

Links come from rtnetlink (RFC 3549), read whole at start and again whenever the kernel says that something changed: a link
that comes up late, or an address that DHCP brings or changes, is followed without a restart.
"""

import asyncio
import fnmatch
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from pixieboot.config import Settings
from pixieboot.model import Network, Site

SETTLE = 0.1  # seconds: one link that comes up is half a dozen notifications
UNSERVED = ("lo", "docker*", "veth*", "virbr*")
IFF_UP, IFF_BROADCAST, IFF_RUNNING = 0x1, 0x2, 0x40
ETHERNET = 1

_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
_GROUPS = 0x1 | 0x10  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR
_NLMSG, _IFINFO, _IFADDR, _ATTR = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface and its IPv4 addresses, primary first."""

    index: int
    name: str
    mac: bytes
    mtu: int
    flags: int
    type: int  # ARPHRD_*: 1 is Ethernet
    addresses: tuple[IPv4Interface, ...] = ()

    @property
    def usable(self) -> bool:
        """Up, able to broadcast, and addressed: a network can be served here."""
        return bool(self.flags & IFF_UP and self.flags & IFF_BROADCAST and self.addresses)


def read_links() -> list[Link]:
    """All links of this network namespace with their IPv4 addresses, by index."""
    links: dict[int, Link] = {}
    for kind, body in _dump(_RTM_GETLINK):
        if kind != _RTM_NEWLINK:
            continue
        _, arphrd, index, flags, _ = _IFINFO.unpack_from(body)
        attributes = _attributes(body[_IFINFO.size :])
        name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        mtu = int.from_bytes(attributes.get(_IFLA_MTU, b"\xdc\x05\0\0"), sys.byteorder)
        links[index] = Link(index, name, attributes.get(_IFLA_ADDRESS, b""), mtu, flags, arphrd)
    for kind, body in _dump(_RTM_GETADDR):
        if kind != _RTM_NEWADDR:
            continue
        family, prefix, _, _, index = _IFADDR.unpack_from(body)
        attributes = _attributes(body[_IFADDR.size :])
        local = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if family == socket.AF_INET and local and index in links:
            address = IPv4Interface((local, prefix))
            links[index] = replace(links[index], addresses=(*links[index].addresses, address))
    return [links[index] for index in sorted(links)]


def _dump(request: int) -> Iterator[tuple[int, bytes]]:
    """(type, body) of every message with which the kernel answers a dump request."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        body = struct.pack("=B15x", socket.AF_INET if request == _RTM_GETADDR else socket.AF_UNSPEC)
        sock.send(_NLMSG.pack(_NLMSG.size + len(body), request, _REQUEST_DUMP, 1, 0) + body)
        while True:
            for kind, message in _messages(sock.recv(1 << 18)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -int.from_bytes(message[:4], sys.byteorder, signed=True)
                    raise OSError(number, os.strerror(number))
                yield kind, message


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSG.size <= len(datagram):
        length, kind, _, _, _ = _NLMSG.unpack_from(datagram, at)
        if length < _NLMSG.size:
            return
        yield kind, datagram[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3


def _attributes(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTR.size <= len(octets):
        length, kind = _ATTR.unpack_from(octets, at)
        if length < _ATTR.size:
            break
        found[kind & 0x3FFF] = octets[at + _ATTR.size : at + length]
        at += (length + 3) & ~3
    return found


class LinkWatch:
    """Calls back, on the loop, some moments after links or addresses changed."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """On the running loop; needs no privilege."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        sock.setblocking(False)
        sock.bind((0, _GROUPS))
        self._socket, self._loop = sock, asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)
        self._on_change()  # what changed between reading the links and now

    def close(self) -> None:
        if self._due:
            self._due.cancel()
        if self._socket:
            if self._loop and not self._loop.is_closed():
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None and self._loop is not None
        # What a message says does not matter: everything is read afresh.  ENOBUFS, notifications lost, comes to the same.
        with suppress(OSError):
            while True:
                self._socket.recv(1 << 16)
        if self._due is None:
            self._due = self._loop.call_later(SETTLE, self._changed)

    def _changed(self) -> None:
        self._due = None
        try:
            self._on_change()
        except Exception:
            log.exception("links changed, but could not be followed")


class Sites:
    """The networks that this daemon serves, as they are now: one Site per served address and per relayed subnet."""

    def __init__(self, settings: Settings, links: Callable[[], Sequence[Link]] = read_links, link_key: bytes = b"") -> None:
        """link_key signs the paths of other servers' files (remote.py); without it those of this run only are known."""
        self._settings, self._read, self.link_key = settings, links, link_key or os.urandom(32)
        self._foreign_pxe: set[int] = set()
        self._watch = LinkWatch(self.rebuild)
        self.version = 0  # grows with every change
        self.links: dict[int, Link] = {}
        self.sites: tuple[Site, ...] = ()
        self.notes: tuple[str, ...] = ()  # what keeps a network from being served, in the operator's words
        self.on_change: list[Callable[[], None]] = []
        self._on_link: dict[int, tuple[Site, ...]] = {}
        self._by_address: dict[str, Site] = {}
        self._relays: tuple[Network, ...] = ()
        self._relayed: dict[tuple[str, int], Site | None] = {}
        self._routed: dict[tuple[str, int], Site | None] = {}
        self.rebuild()

    def start(self) -> None:
        """Follow links and addresses from now on, on the running loop."""
        self._watch.start()

    def close(self) -> None:
        self._watch.close()

    def reload(self, settings: Settings) -> None:
        """Serve by these settings from now on."""
        self._settings = settings
        self.rebuild()

    def at(self, ifindex: int) -> Site | None:
        """The network served on this interface; its first where it has several.  None: not ours, stay silent."""
        here = self.on_link(ifindex)
        return here[0] if here else None

    def on_link(self, ifindex: int) -> tuple[Site, ...]:
        """The networks served on this interface in the mode of its first."""
        return self._on_link.get(ifindex, ())

    def of_address(self, local: str) -> Site | None:
        """The network served from this address of ours; on loopback the first of all.  None: not served there."""
        site = self._by_address.get(local)
        if site is None and local.startswith("127."):
            return self.sites[0] if self.sites else None
        return site

    def serving(self, local: str) -> Site | None:
        """The network that an address of ours belongs to; a second address of an interface is served like its first."""
        if site := self.of_address(local):
            return site
        holders = (link for link in self.links.values() if any(str(address.ip) == local for address in link.addresses))
        return next((site for link in holders if (site := self.at(link.index))), None)

    def for_relay(self, address: str, ifindex: int = 0) -> Site | None:
        """The network behind a relay, by its subnet-selecting address (82.5, 118 or giaddr), and by where its packets arrive.

        The interface that they arrive by need not be served itself.  None: no subnet for it, stay silent (RFC 2131 §4.3.1).
        """
        key = (address, ifindex)
        if key not in self._relayed:
            if len(self._relayed) > 4096:
                self._relayed.clear()
            self._relayed[key] = self._find_relayed(address, ifindex)
        return self._relayed[key]

    def for_client(self, address: str, ifindex: int) -> Site | None:
        """The network of a client that has this address already: on that interface, behind a router, else the interface's first."""
        key = (address, ifindex)
        if key not in self._routed:
            if len(self._routed) > 4096:
                self._routed.clear()
            wanted = IPv4Address(address)
            local = (site for site in self.sites if site.ifindex == ifindex and wanted in site.subnet)
            behind = any(network.subnet and wanted in network.subnet for network in self._relays)
            routed = self.for_relay(address, ifindex) if behind else None
            self._routed[key] = next(local, None) or routed or self.at(ifindex)
        return self._routed[key]

    def link(self, ifindex: int) -> Link | None:
        return self.links.get(ifindex)

    def link_named(self, name: str) -> Link | None:
        return next((link for link in self.links.values() if link.name == name), None)

    def mark_foreign_pxe(self, ifindex: int, present: bool = True) -> None:
        """Another PXE server answers on this interface: strangers are left to it unless `unknown` is set."""
        if present != (ifindex in self._foreign_pxe):
            (self._foreign_pxe.add if present else self._foreign_pxe.discard)(ifindex)
            self.rebuild()

    def rebuild(self) -> None:
        """Read the links and work out anew which networks are served.  Calls on_change if any of that differs."""
        try:
            links = {link.index: link for link in self._read()}
        except OSError as error:
            log.warning("the kernel does not tell its links: %s", error.strerror)
            return
        notes: list[str] = []
        served = list(self._served(links, notes))
        relays = tuple(network for network in self._settings.networks if not network.interface)
        if (links, tuple(served), relays, tuple(notes)) == (self.links, self.sites, self._relays, self.notes):
            return
        self.links, self.sites, self._relays, self.notes = links, tuple(served), relays, tuple(notes)
        self.version += 1
        self._relayed, self._routed = {}, {}
        self._on_link, self._by_address = {}, {}
        for site in served:
            self._by_address[site.address] = site
            here = self.on_link(site.ifindex)
            if not here or here[0].network.mode == site.network.mode:
                self._on_link[site.ifindex] = (*here, site)
        for callback in self.on_change:
            callback()

    def _served(self, links: Mapping[int, Link], notes: list[str]) -> Iterator[Site]:
        networks = self._settings.networks
        if not networks:
            yield from self._default_sites(links, notes)
            return
        named = {link.name: link for link in links.values()}
        for network in networks:
            if not network.interface:
                continue
            link = named.get(network.interface)
            if link is None:
                notes.append(f"{network.interface}: there is no such interface (yet); it is served as soon as it appears")
            elif not link.usable:
                missing = "up" if not link.flags & IFF_UP else "addressed" if not link.addresses else "able to broadcast"
                notes.append(f"{network.interface}: it is not {missing} (yet); it is served as soon as it is")
            else:
                chosen = _addresses_of(link, network)
                if not chosen:
                    missing = str(network.subnet or f"the subnet of its pools ({IPv4Address(network.pools[0].first)})")
                    notes.append(f"{network.interface}: it has no address in {missing}")
                for address in chosen:
                    subnet = network.subnet or address.network
                    for pool in network.pools if network.mode == "server" else ():
                        first, last = IPv4Address(pool.first), IPv4Address(pool.last)
                        if not (first in subnet and last in subnet):
                            notes.append(f"{network.interface}: what of the pool {first}-{last} is not in {subnet} is not leased")
                    yield self._site(network, link, address)

    def _default_sites(self, links: Mapping[int, Link], notes: list[str]) -> Iterator[Site]:
        """Every usable interface in proxy mode, but one only of several in the same subnet (a Pi's Wi-Fi and Ethernet)."""
        taken: dict[IPv4Network, str] = {}
        candidates = [
            link for link in links.values() if link.usable and not any(fnmatch.fnmatch(link.name, name) for name in UNSERVED)
        ]
        for link in sorted(candidates, key=lambda link: (not link.flags & IFF_RUNNING, _wireless(link.name), link.index)):
            address = link.addresses[0]
            if (first := taken.setdefault(address.network, link.name)) != link.name:
                notes.append(f"{link.name}: same subnet {address.network} as {first}, which answers for both")
                continue
            yield self._site(Network(interface=link.name), link, address)

    def _site(self, network: Network, link: Link, address: IPv4Interface) -> Site:
        settings = self._settings
        own = str(address.ip)
        base = settings.http.base_url
        foreign_pxe = settings.unknown is None and link.index in self._foreign_pxe
        return Site(
            network=network,
            interface=link.name,
            ifindex=link.index,
            address=own,
            subnet=network.subnet or address.network,
            http_url=f"http://{own}:{settings.http.port}" if base == "auto" else base.rstrip("/"),
            loaders=self._settings.loaders,
            unknown=settings.unknown or ("ignore" if foreign_pxe else "menu"),
            foreign_pxe=foreign_pxe,
            answer=settings.answer,
            link_key=self.link_key,
        )

    def _find_relayed(self, address: str, ifindex: int) -> Site | None:
        wanted = IPv4Address(address)
        for site in self.sites:
            if wanted in site.subnet:
                return site
        if wanted.is_multicast or wanted.is_loopback or int(wanted) == 0xFFFFFFFF:
            return None  # no relay has such an address
        arrival = self.at(ifindex)
        if not self._settings.networks:
            return arrival  # proxy mode knows no subnets: whoever points a relay at us wants our boot data
        for network in self._relays:
            if network.subnet and wanted in network.subnet:
                link = self.links.get(ifindex) or (self.links.get(self.sites[0].ifindex) if self.sites else None)
                if link and link.addresses:
                    own = IPv4Interface(f"{arrival.address}/32") if arrival else link.addresses[0]
                    return self._site(network, link, own)
        return None


def _addresses_of(link: Link, network: Network) -> tuple[IPv4Interface, ...]:
    """Our addresses on this link that the network means: those in its subnet if it names one, else in its pools' subnet."""
    if network.subnet:
        return tuple(address for address in link.addresses if address.ip in network.subnet)[:1]
    if network.pools:
        for address in link.addresses:
            if IPv4Address(network.pools[0].first) in address.network:
                return (address,)
        if network.mode == "server":
            return ()  # addresses that are leased from another subnet than ours reach nobody
    return link.addresses


def _wireless(name: str) -> bool:
    return name.startswith("wl")
