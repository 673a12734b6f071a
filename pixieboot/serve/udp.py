"""UDP on all interfaces at once: datagrams in with the interface they came by, out with the source address they need.

asyncio's DatagramProtocol hides the arrival interface, hence recvmsg with IP_PKTINFO on a socket of our own.
"""

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from pixieboot.serve.loop import DirectLoop
from pixieboot.serve.ports import refusal

IP_PKTINFO = 8  # linux/in.h; the socket module names it from Python 3.12 on
SO_RCVBUFFORCE, SO_MEMINFO = 33, 55
BATCH = 64  # datagrams taken per wake-up: other sockets of the loop get their turn after that
BUFFER = 4 << 20
TRUST = 2  # single datagrams in a row until a second one is looked for: while HTTP is busy, 10 ms pass from one look to the next
CROWDED = 4  # one part in so many of the receive buffer: some 1,600 DISCOVERs
LARGEST = 4096  # DHCP datagrams and TFTP requests are far smaller; what is cut off is no valid one
_PKTINFO = struct.Struct("=i4s4s")
_ANCILLARY = socket.CMSG_SPACE(_PKTINFO.size)

OnDatagram = Callable[[bytes, tuple[str, int], int, str], object]
"""(datagram, peer, index of the arrival interface, our address that it was sent to or, for a broadcast, would answer from).

DONE as its answer says that it has left no callback and no timer to the loop.
"""
DONE = False


class Batch(Protocol):
    """Is told where datagrams that were there together begin and end, so that their answers may leave together."""

    def begin(self) -> None:
        """The first comes next."""

    def flush(self) -> bool:
        """That was the last.  Answers as OnDatagram."""


log = logging.getLogger(__name__)
_packed = lru_cache(4096)(socket.inet_aton)


class UdpPort:
    """One UDP port on every interface, those that come up later included."""

    def __init__(self, port: int, alone: bool = False) -> None:
        """alone: no other process may share the port, and what is sent to a broadcast address is ignored (RFC 1123 §4.2.3.4)."""
        self.port, self._alone = port, alone
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Callable[[int, int], tuple[bytes, Any, int, Any]]  # as socket.recvmsg, since start
        self._on_datagram: OnDatagram
        self._batch: Batch | None = None
        self._pktinfo: dict[tuple[int, str], list[tuple[int, int, bytes]]] = {}
        self._likely = 1  # taken per wake-up, as many as may be there: to find nothing costs half as much as a datagram
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

    def start(self, on_datagram: OnDatagram, batch: Batch | None = None) -> None:
        """Hand every datagram to on_datagram from now on, on the running loop; batch hears of wake-ups that may bring several."""
        assert self._socket is not None, "bind() first"
        self._receive, self._on_datagram, self._loop = self._socket.recvmsg, on_datagram, asyncio.get_running_loop()
        self._batch = batch
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
        receive, handle, busy = self._receive, self._on_datagram, False
        batch = self._batch if self._likely > 1 else None
        if batch:
            batch.begin()
        taken = pending = 0
        while taken < self._likely:
            try:
                datagram, ancillary, _, peer = receive(LARGEST, _ANCILLARY)
            except BlockingIOError:
                self.crowded = False
                if batch and pending > 1:  # who is answered now asks again at once
                    pending, busy = 0, batch.flush() or busy
                    batch.begin()
                    continue
                self._likely = max(self._likely // 2, 1)
                if taken < 2:
                    self._full = 0
                break
            except OSError as error:  # ENETDOWN and the like come up here once: the socket stays good
                log.warning("UDP port %d: %s", self.port, error.strerror)
                busy = True
                break
            taken, pending = taken + 1, pending + 1
            try:
                ifindex, local, ours = _arrival(ancillary[0][2])
                if self._alone and not ours:
                    continue
                if handle(datagram, peer, ifindex, local) is not DONE:
                    busy = True
            except Exception:
                self.failures += 1
                busy = True
                log.exception("UDP port %d: bug while handling %s from %s:%d", self.port, datagram.hex(), *peer)
            if self._socket is None:  # the handler closed us
                busy = True
                break
        else:
            if self._likely == BATCH and self._socket:
                used = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4)
                self.crowded = int.from_bytes(used, sys.byteorder) > self._deep
            self._full += 1
            if self._likely > 1 or self._full >= TRUST:
                self._likely = min(self._likely * 2, BATCH)  # more may be there: the next wake-up comes at once
        return (batch.flush() or busy) if batch else busy


@lru_cache(4096)
def _arrival(info: bytes) -> tuple[int, str, bool]:
    """What IP_PKTINFO tells: the interface, our address there, and whether it was sent to that."""
    ifindex, local, to = _PKTINFO.unpack(info)
    return ifindex, socket.inet_ntoa(local), to == local


def _widen(sock: socket.socket) -> None:
    """Room for a whole room of machines switched on at once; the plain option is cut to net.core.rmem_max."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
