"""TFTP on the wire: requests on port 69, one connected socket for each transfer, whole windows in one system call.

Decides nothing about the protocol (pixieboot.tftp does) and nothing about paths (content.find does): it moves datagrams and timers,
and sees to it that nobody takes all there is.
"""

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from pixieboot import content as paths
from pixieboot.content import FileBelow, Place, Rendered
from pixieboot.errors import OperatorError, WireError
from pixieboot.model import Arrival, Event, Mac
from pixieboot.serve.blocks import Blocks, Chunk, Content
from pixieboot.serve.context import Context
from pixieboot.serve.files import File, open_boot_file
from pixieboot.serve.loop import DirectLoop
from pixieboot.serve.udp import UdpPort
from pixieboot.tftp import LARGEST_BLKSIZE, Limits, ReadTransfer, Send, negotiate, netascii
from pixieboot.wire.tftp import Code, Error, ReadRequest, WriteRequest, decode, encode

Peer = tuple[str, int]
Render = Callable[[Rendered, Arrival], bytes | None]
"""The text at a rendered path for who asks from there; None: there is nothing at this path for this client."""

LONGEST_PACKET = 400  # of a client in a transfer: ACKs and errors
IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DONT = 10, 14, 0  # linux/in.h
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
SEGMENTS, SEGMENTS_OCTETS = 64, 65000  # of one send with UDP GSO
OVERHEAD = 32  # IPv4, UDP and TFTP headers before a block
LONGEST_NETASCII = 16 << 20  # converted whole, in memory

TOTAL = 4000  # transfers at once, if the limit of open files allows
PER_SOURCE = 1000  # of them from one address: a whole rack behind one NAT
SILENT_PER_SOURCE = 256  # of those that have not acknowledged anything yet
DESCRIPTORS = 3  # of one transfer: its socket, its stranger's socket, its file
FORGET = 60.0  # seconds that packets of a finished transfer are kept ready for the next

log = logging.getLogger(__name__)


class TftpService:
    """All TFTP of the daemon."""

    def __init__(self, context: Context, render: Render = lambda place, arrival: None) -> None:
        self._context, self._render = context, render
        self._port = UdpPort(context.settings.tftp.port)
        self.transfers: dict[Peer, Transfer] = {}
        self._contents: dict[object, Content] = {}
        self.blocks = Blocks()
        self.malformed = 0
        self._ports = _Ports()
        self._total = TOTAL
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Take port 69.  Raises OperatorError."""
        self._port.bind()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = TOTAL * DESCRIPTORS + 512
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._total = max(16, min(TOTAL, (soft - 512) // DESCRIPTORS))

    async def run(self) -> None:
        """Serve until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._port.start(self._on_datagram)
        try:
            while True:
                await asyncio.sleep(FORGET / 4)
                self.blocks.sweep(self._loop.time() - FORGET)
        finally:
            self._end_all()

    async def stop(self, grace: float) -> None:
        """No new transfers; those under way get grace seconds to finish, then an ERROR."""
        self._port.close()
        end = time.monotonic() + grace
        while self.transfers and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._end_all()

    def _end_all(self) -> None:
        for transfer in list(self.transfers.values()):
            transfer.abort("the server is being stopped")
        self._port.close()
        self.blocks.close()

    def _on_datagram(self, datagram: bytes, peer: Peer, ifindex: int, local: str) -> None:
        if not self._serves(ifindex, local):
            return
        try:
            packet = decode(datagram)
        except WireError as error:
            self.malformed += 1
            log.debug("%s:%d: %s", *peer, error)
            return
        transfer = self.transfers.get(peer)
        arrival = Arrival(self._port.port, peer, ifindex, local, time.time())
        match packet:
            case ReadRequest():
                if not transfer or transfer.replaced_by(packet):
                    self._answer(packet, arrival)
            case WriteRequest(filename):
                self._refuse(arrival, None, filename, "this server is read-only")
            case _ if self._context.settings.tftp.single_port and transfer:
                transfer.heard(datagram)

    def _serves(self, ifindex: int, local: str) -> bool:
        return local.startswith("127.") or ifindex == 1 or self._context.sites.at(ifindex) is not None

    def _answer(self, request: ReadRequest, arrival: Arrival) -> None:
        path = request.filename
        place = paths.find(path)
        if request.mode not in ("octet", "netascii"):
            self._refuse(arrival, place.mac, path, f"mode {request.mode} is not served, want octet or netascii", Code.ILLEGAL)
            return
        try:
            content = self._content(place, arrival, request.mode)
        except OperatorError as error:
            self._fail(arrival, place.mac, path, str(error))
            return
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            self._miss(arrival, place, path, error.strerror or "no such file")
            return
        except OSError as error:
            self._refuse(arrival, place.mac, path, error.strerror or str(error))
            return
        try:
            self._begin(request, arrival, content, place.mac)
        except OSError as error:
            content.release()
            self._fail(arrival, place.mac, path, f"no socket for the transfer: {error.strerror}")

    def _content(self, place: Place, arrival: Arrival, mode: str) -> Content:
        """What the path stands for.  Raises OSError, and OperatorError for a template that cannot be rendered."""
        match place:
            case FileBelow():
                return self._file_content(self._open(place), mode)
            case Rendered():
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    return self._file_content(self._open(place.file), mode)
                octets = self._render(place, arrival)
                if octets is None:
                    raise FileNotFoundError(errno.ENOENT, "there is nothing to say to this client")
                return Content(netascii(octets) if mode == "netascii" else octets)
        raise FileNotFoundError(errno.ENOENT, place.why)

    def _open(self, place: FileBelow) -> File:
        settings = self._context.settings
        root, follow = settings.tftp.root, settings.tftp.follow_links
        if place.mac:  # a directory of that name may really exist: Raspberry Pis can be told to ask there (TFTP_PREFIX=2)
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return open_boot_file(root, (place.mac.dashed, *place.parts), (), follow)
        return open_boot_file(root, place.parts, settings.loaders.values(), follow)

    def _file_content(self, file: File, mode: str) -> Content:
        if mode == "netascii":
            with file:
                if file.size > LONGEST_NETASCII:
                    limit = f"netascii is served up to {LONGEST_NETASCII >> 20} MiB; ask in mode octet"
                    raise PermissionError(errno.EFBIG, limit)
                return Content(netascii(os.pread(file.fd, file.size, 0)))
        shared = self._contents.get(file.identity)
        if shared and shared.users:
            file.close()
            shared.users += 1
            return shared
        content = self._contents[file.identity] = Content(file)
        return content

    def _begin(self, request: ReadRequest, arrival: Arrival, content: Content, mac: Mac | None) -> None:
        settings = self._context.settings.tftp
        if not self._make_room(arrival.peer[0]):
            content.release()
            self._context.journal.record(
                Event(arrival.now, mac, "tftp", "refused", {"why": "too many transfers", "peer": arrival.peer[0]}, "warning")
            )
            return
        line: _Line | None = None
        if not settings.single_port:
            line = _Line(arrival, settings.ports, self._ports)
        mtu = line.mtu if line else _path_mtu(arrival)
        largest = settings.max_blksize or mtu - OVERHEAD
        limits = Limits(min(largest, LARGEST_BLKSIZE), settings.max_windowsize)
        machine = ReadTransfer(negotiate(request, content.size, limits), content.size)
        transfer = Transfer(self, request, arrival, content, mac, machine, line)
        self.transfers[arrival.peer] = transfer
        transfer.start()

    def _make_room(self, source: str) -> bool:
        return len(self.transfers) < self._total

    def forget(self, transfer: "Transfer") -> None:
        self.transfers.pop(transfer.peer, None)
        transfer.content.release()
        if not transfer.content.users:
            self._contents.pop(transfer.content.identity, None)

    def record(self, mac: Mac | None, kind: str, detail: dict[str, Any], level: str = "info") -> None:
        self._context.journal.record(Event(time.time(), mac, "tftp", kind, detail, level))

    def send(self, datagram: bytes, peer: Peer, local: str) -> None:
        self._port.send(datagram, peer, 0, local)

    def _miss(self, arrival: Arrival, place: Place, path: str, why: str) -> None:
        self._error(arrival, Code.NOT_FOUND, "File not found")
        file = place.file if isinstance(place, Rendered) else place
        expected = file.expected if isinstance(file, FileBelow) else ""
        detail = {"path": path, "peer": arrival.peer[0], "why": expected or why}
        self.record(place.mac, "missing", detail, "debug" if expected else "info")

    def _refuse(self, arrival: Arrival, mac: Mac | None, path: str, why: str, code: Code = Code.ACCESS) -> None:
        self._error(arrival, code, why)
        self.record(mac, "refused", {"path": path, "peer": arrival.peer[0], "why": why}, "warning")

    def _fail(self, arrival: Arrival, mac: Mac | None, path: str, why: str) -> None:
        self._error(arrival, Code.UNDEFINED, why)
        self.record(mac, "failed", {"path": path, "peer": arrival.peer[0], "why": why}, "warning")

    def _error(self, arrival: Arrival, code: Code, message: str) -> None:
        with suppress(OSError):
            self.send(encode(Error(code, message.replace("\0", " "))), arrival.peer, arrival.address)


class Transfer:
    """One ReadTransfer with its socket and its timer."""

    __slots__ = (
        "_batch", "_began", "_chunk", "_line", "_loop", "_machine", "_receive", "_request", "_send_packets", "_service", "_started",
        "_stride", "_timer", "_trouble", "_wanted", "content", "local", "mac", "peer",
    )  # fmt: skip

    def __init__(
        self, service: TftpService, request: ReadRequest, arrival: Arrival, content: Content, mac: Mac | None,
        machine: ReadTransfer, line: "_Line | None",
    ) -> None:  # fmt: skip
        self.peer, self.local, self.mac, self.content = arrival.peer, arrival.address, mac, content
        self._service, self._request, self._machine, self._line = service, request, machine, line
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._stride = machine.terms.blksize + 4
        self._chunk: Chunk | None = None
        self._wanted: tuple[int, int] | None = None
        self._started = False
        self._trouble = ""
        self._batch = 1
        self._timer: asyncio.TimerHandle | None = None
        self._receive: Callable[[int], bytes] | None = None
        self._send_packets: Callable[[Any], object] = self._send_from_port
        if line:
            self._receive, self._send_packets = line.socket.recv, line.socket.send
            if machine.terms.windowsize > 1 and self._stride + 28 <= line.mtu and line.segment(self._stride):
                self._batch = max(1, min(SEGMENTS, SEGMENTS_OCTETS // self._stride))

    def start(self) -> None:
        if self._line:
            self._line.listen(self._loop, self._readable)
        machine = self._machine
        self._carry_out(machine.start(self._began))
        self._timer = self._loop.call_at(machine.deadline, self._expire)

    def replaced_by(self, request: ReadRequest) -> bool:
        """The client asks again from the same port: is that a new transfer?  An old duplicate is dealt with here."""
        machine = self._machine
        if request == self._request:
            if not machine.proven:
                self._carry_out(machine.again(self._loop.time()))
                return False
            if not machine.stalled:
                return False
        machine.lose(
            "the client asked for another file" if request.filename != self._request.filename else "the client began again"
        )
        self._finish()
        return True

    def heard(self, datagram: bytes) -> None:
        """A datagram of the client that is no request."""
        try:
            packet = decode(datagram)
        except WireError as error:
            self._service.malformed += 1
            log.debug("%s:%d: %s", *self.peer, error)
            return
        self._carry_out(self._machine.receive(packet, self._loop.time()))

    def abort(self, why: str) -> None:
        """End it from our side, and say so."""
        self._tell(Code.UNDEFINED, why)
        self._machine.lose(why)
        self._finish()

    def _readable(self) -> bool:
        """The socket has a packet.  True: more was done than to send the next window (pixieboot.serve.loop)."""
        assert self._receive
        try:
            datagram = self._receive(LONGEST_PACKET)
        except BlockingIOError:
            return False
        except ConnectionRefusedError:
            self._machine.lose("the client's port is closed")
            self._finish()
            return True
        except OSError as error:
            self._trouble = error.strerror or str(error)
            return True
        machine, chunk = self._machine, self._chunk
        if datagram == machine.awaited and chunk and (span := machine.advance(monotonic())):
            first, last = span
            ahead = first - chunk.first
            if ahead >= 0 and last <= chunk.last and last - first < self._batch:
                stride = self._stride
                try:
                    self._send_packets(chunk.packets[ahead * stride : (last - chunk.first + 1) * stride])
                    return False
                except OSError:
                    pass
            self._send(first, last)
            return True
        if machine.result:
            self._finish()
        else:
            self.heard(datagram)
        return True

    def _carry_out(self, send: Send) -> None:
        if isinstance(send, bytes):
            try:
                self._send_packets(send)
            except OSError as error:
                self._trouble = error.strerror or str(error)
        elif send:
            if self._machine.proven and not self._started:
                self._tell_start()
            self._send(*send)
        if self._machine.result:
            self._finish()

    def _send(self, first: int, last: int) -> None:
        """These blocks, in as few system calls as the kernel allows."""
        stride = self._stride
        while first <= last:
            chunk = self._chunk
            if chunk is None or not chunk.first <= first <= chunk.last:
                chunk = self._load(first, last)
                if chunk is None:
                    return
            stop = min(last, chunk.last, first + self._batch - 1)
            try:
                self._send_packets(chunk.packets[(first - chunk.first) * stride : (stop - chunk.first + 1) * stride])
            except OSError as error:
                if self._batch > 1 and self._line and not isinstance(error, BlockingIOError):
                    self._batch = 1  # a device or a route that does not take segments
                    self._line.segment(0)
                    continue
                self._trouble = error.strerror or str(error)
                return  # lost, like on the wire: the timer sends it again
            first = stop + 1

    def _load(self, first: int, last: int) -> Chunk | None:
        if self._wanted:
            self._wanted = first, last
            return None
        service, blksize, now = self._service, self._machine.terms.blksize, self._loop.time()
        chunk = service.blocks.find(self.content, blksize, first, last, now)
        if chunk is None:
            self._wanted = first, last
            service.blocks.fetch(self.content, blksize, first, last, now, self._loaded)
        self._chunk = chunk
        return chunk

    def _loaded(self, outcome: Chunk | OSError) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._machine.result:
            return
        if isinstance(outcome, OSError):
            self.abort(f"the file cannot be read: {outcome.strerror or outcome}")
            return
        self._chunk = outcome
        self._machine.deadline = self._loop.time() + 1
        self._send(*wanted)

    def _expire(self) -> None:
        machine, now = self._machine, self._loop.time()
        if now >= machine.deadline and not self._wanted:
            self._carry_out(machine.expire(now))
        if not machine.result:
            self._timer = self._loop.call_at(max(machine.deadline, now + 0.01), self._expire)

    def _tell_start(self) -> None:
        self._started = True
        terms = self._machine.terms
        options = {"blksize": terms.blksize, "windowsize": terms.windowsize}
        self._service.record(
            self.mac, "started", {"path": self._request.filename, "bytes": self.content.size, "peer": self.peer[0], **options}
        )

    def _finish(self) -> None:
        result = self._machine.result
        assert result
        if self._timer:
            self._timer.cancel()
        if self._line:
            self._line.close(self._loop)
        self._wanted = None
        self._chunk = None
        detail: dict[str, Any] = {"path": self._request.filename, "peer": self.peer[0]}
        if result.kind == "sent":
            if not self._started:
                self._tell_start()
            detail |= {"bytes": self.content.size, "seconds": round(self._loop.time() - self._began, 3)}
        if result.why:
            detail["why"] = result.why + (f"; {self._trouble}" if self._trouble and result.kind == "failed" else "")
        self._service.forget(self)
        self._service.record(self.mac, result.kind, detail, {"sent": "info", "probe": "debug"}.get(result.kind, "warning"))

    def _tell(self, code: Code, message: str) -> None:
        with suppress(OSError):
            if self._batch > 1 and self._line:
                self._line.segment(0)
            self._send_packets(encode(Error(code, message)))

    def _send_from_port(self, packets: Any) -> None:
        self._service.send(bytes(packets), self.peer, self.local)


class _Ports:
    """Our ports of transfers where the operator named a range: one after the other."""

    def __init__(self) -> None:
        self._next = 0

    def candidates(self, ports: tuple[int, int]) -> list[int]:
        first, last = ports
        if not last:
            return [0]
        count = last - first + 1
        self._next = (self._next + 1) % count
        return [first + (self._next + step) % count for step in range(count)]


class _Line:
    """The connected socket of one transfer, and a second one on the same port that tells strangers that they are wrong here."""

    __slots__ = ("_stranger", "mtu", "socket")

    def __init__(self, arrival: Arrival, ports: tuple[int, int], source: _Ports) -> None:
        self.socket = _udp()
        self._stranger = _udp()
        try:
            for sock in (self.socket, self._stranger):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for port in source.candidates(ports):
                try:
                    self._stranger.bind((arrival.address, port))
                    break
                except OSError:
                    if port == 0:
                        raise
            self.socket.bind(self._stranger.getsockname())
            for sock in (self.socket, self._stranger):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            self.socket.connect(arrival.peer)
            self.mtu = self.socket.getsockopt(socket.IPPROTO_IP, IP_MTU)
        except OSError:
            self.socket.close()
            self._stranger.close()
            raise

    def listen(self, loop: asyncio.AbstractEventLoop, readable: Callable[[], object]) -> None:
        if isinstance(loop, DirectLoop):
            loop.add_direct_reader(self.socket.fileno(), readable)
        else:
            loop.add_reader(self.socket.fileno(), readable)
        loop.add_reader(self._stranger.fileno(), self._strange)

    def segment(self, octets: int) -> bool:
        """Cut each send into datagrams of so many octets; 0: do not.  False where this kernel cannot."""
        try:
            self.socket.setsockopt(SOL_UDP, UDP_SEGMENT, octets)
        except OSError:
            return False
        return True

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        if isinstance(loop, DirectLoop):
            loop.remove_direct_reader(self.socket.fileno())
        else:
            loop.remove_reader(self.socket.fileno())
        loop.remove_reader(self._stranger.fileno())
        self.socket.close()
        self._stranger.close()

    def _strange(self) -> None:
        with suppress(OSError):
            datagram, peer = self._stranger.recvfrom(LONGEST_PACKET)
            with suppress(WireError):
                if not isinstance(decode(datagram), Error):
                    self._stranger.sendto(encode(Error(Code.UNKNOWN_TID, "this port serves another client")), peer)


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _path_mtu(arrival: Arrival) -> int:
    """The MTU on the way to this client."""
    with _udp() as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sock.connect(arrival.peer)
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
