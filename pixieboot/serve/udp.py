"""UDP on all interfaces at once: datagrams in with the interface they came by, out with the source address they need.

asyncio's DatagramProtocol hides the arrival interface, hence recvmsg with IP_PKTINFO on a socket of our own.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pixieboot.errors import OperatorError
from pixieboot.serve.loop import DirectLoop

IP_PKTINFO = 8  # linux/in.h; the socket module names it from Python 3.12 on
SO_RCVBUFFORCE, SO_MEMINFO = 33, 55
BATCH = 64  # datagrams taken per wake-up: other sockets of the loop get their turn after that
BUFFER = 4 << 20
TRUST = 16  # single datagrams in a row until it is worth looking for a second one
CROWDED = 4  # one part in so many of the receive buffer: some 1,600 DISCOVERs
LARGEST = 4096  # DHCP datagrams and TFTP requests are far smaller; what is cut off is no valid one
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
_DIAG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port: struct nlmsghdr
_DIAG_REQUEST = struct.Struct("=BB2xI48x")  # struct inet_diag_req_v2 for all states
_DIAG_ANSWER = struct.Struct("=40xI24xI")  # struct inet_diag_msg: idiag_if, idiag_inode
_PKTINFO = struct.Struct("=i4s4s")
_ANCILLARY = socket.CMSG_SPACE(_PKTINFO.size)
_SERVICES = {67: "DHCP", 69: "TFTP", 4011: "PXE boot server"}

OnDatagram = Callable[[bytes, tuple[str, int], int, str], object]
"""(datagram, peer, index of the arrival interface, our address that it was sent to or, for a broadcast, would answer from).

DONE as its answer says that it has left no callback and no timer to the loop.
"""
DONE = False

log = logging.getLogger(__name__)
dotted = lru_cache(4096)(socket.inet_ntoa)
_packed = lru_cache(4096)(socket.inet_aton)


class UdpPort:
    """One UDP port on every interface, those that come up later included."""

    def __init__(self, port: int, alone: bool = False) -> None:
        """alone: no other process may share the port, and what is sent to a broadcast address is ignored (RFC 1123 §4.2.3.4)."""
        self.port, self._alone = port, alone
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_datagram: OnDatagram | None = None
        self._pktinfo: dict[tuple[int, str], list[tuple[int, int, bytes]]] = {}
        self._batch = 1  # as many as there are likely to be: to find nothing costs half as much as a datagram
        self._full = 0  # wake-ups in a row that brought a whole batch
        self._deep = 0  # octets
        self.crowded = False  # more is waiting than even a building full of machines sends at once
        self.failures = 0

    def bind(self) -> None:
        """Take the port (needs root below 1024).  Raises OperatorError that names who holds it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Shared, because a DHCP server for other interfaces (libvirt's dnsmasq) may sit on the same port: see `others`.
            if not self._alone:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            _widen(sock)
            self._deep = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // CROWDED
            sock.setblocking(False)
            sock.bind(("", self.port))
        except OSError as error:
            sock.close()
            raise refusal(error, self.port, "udp") from None
        self._socket = sock

    def start(self, on_datagram: OnDatagram) -> None:
        """Hand every datagram to on_datagram from now on, on the running loop."""
        assert self._socket is not None, "bind() first"
        self._on_datagram, self._loop = on_datagram, asyncio.get_running_loop()
        if isinstance(self._loop, DirectLoop):
            self._loop.add_direct_reader(self._socket.fileno(), self._readable)
        else:
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        if self._socket is None:
            return
        if isinstance(self._loop, DirectLoop):
            self._loop.remove_direct_reader(self._socket.fileno())
        elif self._loop and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def send(self, datagram: bytes, peer: tuple[str, int], ifindex: int, source: str) -> None:
        """Send from our address `source` by that interface; 0 and "0.0.0.0" leave either to the kernel.  Raises OSError."""
        if self._socket is None:
            return
        ancillary = self._pktinfo.get((ifindex, source))
        if ancillary is None:
            if len(self._pktinfo) > 1024:
                self._pktinfo.clear()
            info = _PKTINFO.pack(ifindex, _packed(source), b"\0\0\0\0")
            ancillary = self._pktinfo[ifindex, source] = [(socket.IPPROTO_IP, IP_PKTINFO, info)]
        try:
            self._socket.sendmsg((datagram,), ancillary, 0, peer)
        except BlockingIOError:
            pass  # a full send buffer is a lost datagram: the client asks again

    def _readable(self) -> bool:
        """Take what is there, up to a limit.  True: something may be left for the loop to do."""
        assert self._socket is not None and self._on_datagram is not None
        receive, handle, busy = self._socket.recvmsg, self._on_datagram, False
        for _ in range(self._batch):
            try:
                datagram, ancillary, _, peer = receive(LARGEST, _ANCILLARY)
            except BlockingIOError:
                self._batch, self._full = max(self._batch // 2, 1), 0
                self.crowded = False
                return busy
            except OSError as error:  # ENETDOWN and the like come up here once: the socket stays good
                log.warning("UDP port %d: %s", self.port, error.strerror)
                return True
            try:
                ifindex, local, to = _PKTINFO.unpack(ancillary[0][2])
                if self._alone and to != local:
                    continue
                if handle(datagram, peer, ifindex, dotted(local)) is not DONE:
                    busy = True
            except Exception:
                self.failures += 1
                busy = True
                log.exception("UDP port %d: bug while handling %s from %s:%d", self.port, datagram.hex(), *peer)
            if self._socket is None:  # the handler closed us
                return True
        if self._batch == BATCH:
            self.crowded = int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4), sys.byteorder) > self._deep
        self._full += 1
        if self._batch > 1 or self._full >= TRUST:
            self._batch = min(self._batch * 2, BATCH)  # more may be there: the next wake-up comes at once
        return busy


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a port open.  name is empty where /proc does not tell (another user's, or another namespace's).

    ifindex: of the only interface that it hears (SO_BINDTODEVICE); 0: all.
    """

    pid: int
    name: str
    address: str
    ifindex: int = 0

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.name else "a process that /proc does not show"


def others(port: int, protocol: str = "udp") -> list[Holder]:
    """Which other processes have this port open on this host.  protocol: udp | tcp (listening sockets).  Never raises."""
    inodes: dict[str, str] = {}
    for family in ("", "6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{protocol}{family}").read_text().splitlines()[1:]:
                words = line.split()
                address, _, number = words[1].partition(":")
                if int(number, 16) == port and (protocol == "udp" or words[3] == "0A"):
                    inodes[words[9]] = _hex_address(address)
    if not inodes:
        return []
    found: dict[int, Holder] = {}
    own, devices = os.getpid(), _devices() if protocol == "udp" else {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or not inodes:
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        name = (process / "comm").read_text().strip()
                        inode = target[8:-1]
                        found[int(process.name)] = Holder(int(process.name), name, inodes.pop(inode), devices.get(inode, 0))
    found.pop(own, None)
    unseen = {Holder(0, "", address, devices.get(inode, 0)) for inode, address in inodes.items()}
    return [*found.values(), *unseen]


def _devices() -> dict[str, int]:
    """Inode of each UDP socket that is bound to an interface -> the interface's index (sock_diag(7)); {} where it is not told."""
    found: dict[str, int] = {}
    request = _DIAG_HEADER.pack(72, _SOCK_DIAG_BY_FAMILY, 0x301, 1, 0) + _DIAG_REQUEST.pack(
        socket.AF_INET, socket.IPPROTO_UDP, 0xFFFFFFFF
    )
    with suppress(OSError, struct.error), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(1.0)
        sock.send(request)
        while True:
            answer = sock.recv(1 << 16)
            while answer:
                length, kind = _DIAG_HEADER.unpack_from(answer)[:2]
                if kind != _SOCK_DIAG_BY_FAMILY:  # done, or an error
                    return found
                ifindex, inode = _DIAG_ANSWER.unpack_from(answer, 16)
                if ifindex:
                    found[str(inode)] = ifindex
                answer = answer[length + 3 & ~3 :]
    return found


def refusal(error: OSError, port: int, protocol: str = "udp", address: str = "") -> OperatorError:
    """Why this port could not be had, in the operator's words: who holds it, or which right is missing."""
    where = f"{protocol.upper()} port {port}" + (f" on {address}" if address else "")
    service = _SERVICES.get(port, "this service") if protocol == "udp" else "this service"
    if error.errno == errno.EADDRINUSE:
        holders = others(port, protocol)
        who = " and ".join(map(str, holders)) or "another process"
        stop = " ".join(f"`kill {holder.pid}`" for holder in holders if holder.pid)
        mend = f"Stop it{f' ({stop}, or its service)' if stop else ''}: {service} cannot share the port with it."
        return OperatorError(where, f"{who} holds it", mend)
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperatorError(where, "this user may not open it", "Start pixieboot as root: it drops root once its ports are open.")
    if error.errno == errno.EADDRNOTAVAIL:
        return OperatorError(where, "this host does not have that address", "Name an address of this host.")
    return OperatorError(
        where, f"it could not be opened: {error.strerror}", "Free what the kernel says is missing and start again."
    )


def _widen(sock: socket.socket) -> None:
    """Room for a whole room of machines switched on at once; the plain option is cut to net.core.rmem_max."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)


def _hex_address(text: str) -> str:
    """/proc's spelling of an address: 32-bit words in host order."""
    if len(text) == 8:
        return socket.inet_ntoa(struct.pack("=I", int(text, 16)))
    words = struct.pack("=4I", *(int(text[at : at + 8], 16) for at in range(0, 32, 8)))
    return socket.inet_ntop(socket.AF_INET6, words)
