"""One TFTP transfer on the wire: its socket, its timer, and the packets that its ReadTransfer wants sent."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol, cast

from pixieboot.errors import WireError
from pixieboot.model import Arrival, Mac
from pixieboot.serve.blocks import HEADER, Blocks, Chunk, Content, Window
from pixieboot.serve.context import Download
from pixieboot.serve.loop import LONGEST_DATAGRAM, Dialogue, DirectLoop
from pixieboot.tftp import ReadTransfer, Send
from pixieboot.wire.tftp import Code, Error, ReadRequest, decode, encode

IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DONT = 10, 14, 0  # linux/in.h
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h
SEGMENTS, SEGMENTS_OCTETS = 64, 65000  # of one send with UDP GSO
HEADERS = 28  # IPv4 and UDP
GRACE = 0.01  # seconds: timers that are due a little earlier are not worth a wake-up

LEVELS = {"sent": "info", "probe": "debug"}

log = logging.getLogger(__name__)


class Host(Protocol):
    """What a transfer needs of the service."""

    blocks: Blocks
    malformed: int

    def send(self, datagram: bytes, peer: tuple[str, int], local: str) -> None: ...
    def proven(self, transfer: "Transfer") -> None: ...
    def flooded(self) -> bool: ...
    def told_enough(self) -> bool: ...
    def ended(self, transfer: "Transfer") -> None: ...
    def record(self, mac: Mac | None, kind: str, detail: dict[str, Any], level: str = "info") -> None: ...


class Transfer:
    """A Dialogue: while every ACK is the one that is awaited and the next window lies whole in a chunk, nothing is to be decided.

    line: its own socket; None: everything goes through the port of requests (single_port).
    """

    __slots__ = (
        "_batch", "_began", "_chunk", "_host", "_line", "_loop", "_mac", "_machine", "_request", "_send_packets", "_started",
        "_stride", "_timer", "_trouble", "_wanted", "awaited", "content", "following", "local", "peer", "since",
    )  # fmt: skip

    def __init__(
        self, host: Host, request: ReadRequest, arrival: Arrival, content: Content, mac: Mac | None, machine: ReadTransfer,
        line: "Line | None",
    ) -> None:  # fmt: skip
        self.peer, self.local, self.content = arrival.peer, arrival.address, content
        self._host, self._request, self._mac, self._machine, self._line = host, request, mac, machine, line
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._stride = machine.terms.blksize + HEADER
        self._chunk: Chunk | None = None
        self._wanted: tuple[int, int] | None = None  # blocks that wait for the disk
        self._started = False
        self._trouble = ""
        self._batch = 1  # blocks in one send
        self._timer: asyncio.TimerHandle | None = None
        self.awaited, self.since = b"", 0.0
        self.following: Iterator[Window] = iter(())
        self._send_packets: Callable[[Any], object] = self._send_from_port
        if line:
            self._send_packets = line.socket.send

    @property
    def stalled(self) -> bool:
        """It waits for its client, and has repeated itself already."""
        self._catch_up()
        return self._machine.stalled

    @property
    def download(self) -> Download | None:
        """How far it came; None before its client has shown that it is there."""
        if not self._started:
            return None
        self._catch_up()
        sent = min(max(0, self._machine.acked) * self._machine.terms.blksize, self.content.size)
        return Download(self._request.filename, self.peer[0], self._mac, self.content.size, sent)

    def start(self) -> None:
        """Answer the request."""
        if self._line:
            self._line.listen(self)
            if not self._host.flooded():
                self._line.turn_strangers_away()
        self._carry_out(self._machine.start(self._began))
        self._timer = self._loop.call_at(self._machine.deadline, self._expire)

    def replaced_by(self, request: ReadRequest) -> bool:
        """The client asks again from the same port: is that a new transfer?  An old duplicate is dealt with here."""
        self._catch_up()
        machine = self._machine
        if request == self._request:
            if not machine.proven:
                self._carry_out(machine.again(self._loop.time()))
                return False
            if not machine.stalled:
                return False
        same = request.filename == self._request.filename
        machine.lose("the client began again" if same else "the client asked for another file")
        self._finish()
        return True

    def heard(self, datagram: bytes) -> bool:
        """A datagram of the client that is no request.  True: the loop has something to do now."""
        try:
            packet = decode(datagram)
        except WireError as error:
            self._host.malformed += 1
            log.debug("%s:%d: %s", *self.peer, error)
            return False
        self._catch_up()
        machine = self._machine
        starting = not machine.proven
        self._carry_out(machine.receive(packet, self._loop.time()))
        if machine.result or not self._timer or machine.deadline >= self._timer.when():
            return starting or machine.result is not None
        self._timer.cancel()  # brought forward
        self._timer = self._loop.call_at(machine.deadline, self._expire)
        return True

    def abort(self, why: str) -> None:
        """End it from our side; the client is told, if it has ever said anything."""
        self._catch_up()
        if self._machine.proven:
            with suppress(OSError):
                if self._line and self._batch > 1:
                    self._line.segment(0)
                self._send_packets(encode(Error(Code.UNDEFINED, why)))
        self._machine.lose(why)
        self._finish()

    def broken(self, error: OSError) -> None:
        """What the socket has told: the client's port is closed, say."""
        if isinstance(error, ConnectionRefusedError):
            self._catch_up()
            self._machine.lose("the client's port is closed")
            self._finish()
        else:
            self._trouble = error.strerror or str(error)

    def _catch_up(self) -> None:
        """Tell the machine how far the dialogue came by itself."""
        if self.since:
            sent = self._machine.sent
            self._machine.resume(sent + (int.from_bytes(self.awaited[2:]) - sent & 0xFFFF), self.since)
            self.since = 0.0

    def _go_on(self, chunk: Chunk) -> None:
        """Let the dialogue go on by itself with what follows in this chunk and in those that can be had at once."""
        self.awaited = self._machine.awaited
        self.following = chain.from_iterable(self._runs(chunk if self._machine.terms.windowsize <= self._batch else None))

    def _runs(self, chunk: Chunk | None) -> Iterator[Iterator[Window]]:
        machine, window = self._machine, self._machine.terms.windowsize
        while chunk:
            yield chunk.windows(machine.sent + 1, window, self._stride)
            self._catch_up()
            if machine.sent < chunk.last or chunk.last == machine.last:
                return
            chunk = self._find(machine.sent + 1, min(machine.sent + window, machine.last), self._loop.time())

    def _carry_out(self, send: Send) -> None:
        machine = self._machine
        if isinstance(send, bytes):
            try:
                self._send_packets(send)
            except OSError as error:
                self._trouble = error.strerror or str(error)
        elif send:
            if machine.proven and not self._started:
                self._tell_start()
            self._send(*send)
        if machine.result:
            self._finish()

    def _send(self, first: int, last: int) -> None:
        """These blocks, in as few system calls as the kernel allows."""
        stride, block = self._stride, first
        while block <= last:
            chunk = self._chunk
            if chunk is None or not chunk.first <= block <= chunk.last:
                chunk = self._load(block, last)
                if chunk is None:
                    return
            stop = min(last, chunk.last, block + self._batch - 1)
            try:
                self._send_packets(chunk.packets[(block - chunk.first) * stride : (stop - chunk.first + 1) * stride])
            except OSError as error:
                if self._batch > 1 and self._line and not isinstance(error, BlockingIOError):
                    self._batch = 1  # a device or a route that does not take segments
                    self._line.segment(0)
                    continue
                self._trouble = error.strerror or str(error)
                break  # lost, like on the wire: the timer sends it again
            block = stop + 1
        if self._machine.proven and self._chunk:
            self._go_on(self._chunk)

    def _find(self, first: int, last: int, now: float) -> Chunk | None:
        """The chunk with the first of these blocks, if it can be had at once."""
        self._chunk = None  # before the next is made: what is held counts
        self._chunk = self._host.blocks.find(self.content, self._machine.terms.blksize, first, last, now)
        return self._chunk

    def _load(self, first: int, last: int) -> Chunk | None:
        """The same; None: they will be sent when the disk has answered."""
        if self._wanted:
            self._wanted = first, last
            return None
        now = self._loop.time()
        chunk = self._find(first, last, now)
        if chunk is None:
            self._wanted = first, last
            self._host.blocks.fetch(self.content, self._machine.terms.blksize, first, last, now, self._loaded)
        return chunk

    def _loaded(self, outcome: Chunk | OSError) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._machine.result:
            return
        if isinstance(outcome, OSError):
            self.abort(f"the file cannot be read: {outcome.strerror or outcome}")
            return
        self._chunk = outcome
        self._catch_up()
        self._machine.sent_late(self._loop.time())
        self._send(*wanted)

    def _expire(self) -> None:
        self._catch_up()
        machine, now = self._machine, self._loop.time()
        if now + GRACE >= machine.deadline and not self._wanted:
            self._carry_out(machine.expire(now))
        if not machine.result:
            self._timer = self._loop.call_at(max(machine.deadline, now + GRACE), self._expire)

    def _tell_start(self) -> None:
        self._started = True
        self._host.proven(self)
        terms, line = self._machine.terms, self._line
        if line:
            line.turn_strangers_away()
        # Not before: an OACK may be longer than a segment.
        if line and terms.windowsize > 1 and self._stride + HEADERS <= line.mtu and line.segment(self._stride):
            self._batch = max(1, min(SEGMENTS, SEGMENTS_OCTETS // self._stride))
        detail = {"path": self._request.filename, "bytes": self.content.size, "peer": self.peer[0]}
        detail |= {"blksize": terms.blksize, "windowsize": terms.windowsize}
        self._host.record(self._mac, "started", detail)

    def _finish(self) -> None:
        result = self._machine.result
        assert result
        if self._timer:
            self._timer.cancel()
        if self._line:
            self._line.close()
        self._wanted = self._chunk = None
        self.following = iter(())
        detail: dict[str, Any] = {"path": self._request.filename, "peer": self.peer[0]}
        if result.kind == "sent":
            if not self._started:
                self._tell_start()
            detail |= {"bytes": self.content.size, "seconds": round(self._loop.time() - self._began, 3)}
        if result.why:
            detail["why"] = result.why + (f"; {self._trouble}" if self._trouble and result.kind == "failed" else "")
        self._host.ended(self)
        level = LEVELS.get(result.kind, "warning")
        if not self._machine.proven and level == "warning" and self._host.told_enough():
            level = "debug"  # a flood of forged requests is not to fill the disk
        self._host.record(self._mac, result.kind, detail, level)

    def _send_from_port(self, packets: Any) -> None:
        self._host.send(bytes(packets), self.peer, self.local)


class Line:
    """The connected socket of one transfer, and a second one on the same port that tells strangers that they are wrong here:
    what they send does not reach the first.
    """

    __slots__ = ("_loop", "_stranger", "mtu", "socket")

    def __init__(self, arrival: Arrival, ports: list[int]) -> None:
        """ports: to be tried in this order; 0: any that is free.  Raises OSError."""
        self._stranger: socket.socket | None = None
        self._loop = cast(DirectLoop, asyncio.get_running_loop())
        self.socket = _udp()
        try:
            if ports == [0]:  # not shared when it is chosen, so that it is a fresh one
                self.socket.bind((arrival.address, 0))
                _share(self.socket)
            else:  # many clients share the ports of a range
                _share(self.socket)
                _bind(self.socket, arrival.address, ports)
            self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            self.socket.connect(arrival.peer)
            self.mtu = self.socket.getsockopt(socket.IPPROTO_IP, IP_MTU)
        except OSError:
            self.socket.close()
            raise

    def listen(self, dialogue: Dialogue) -> None:
        self._loop.add_dialogue(self.socket.fileno(), dialogue)

    def turn_strangers_away(self) -> None:
        if self._stranger:
            return
        stranger = _udp()
        try:
            _share(stranger)
            stranger.bind(self.socket.getsockname())
            self._loop.add_direct_reader(stranger.fileno(), self._strange)
        except OSError:  # no more descriptors, say: the transfer matters more
            stranger.close()
        else:
            self._stranger = stranger

    def segment(self, octets: int) -> bool:
        """Cut each send into datagrams of so many octets; 0: do not.  False where this kernel cannot."""
        try:
            self.socket.setsockopt(SOL_UDP, UDP_SEGMENT, octets)
        except OSError:
            return False
        return True

    def close(self) -> None:
        for sock in (self.socket, self._stranger):
            if sock:
                self._loop.remove_direct_reader(sock.fileno())
                sock.close()

    def _strange(self) -> None:
        with suppress(OSError, WireError):
            assert self._stranger
            datagram, peer = self._stranger.recvfrom(LONGEST_DATAGRAM)
            if not isinstance(decode(datagram), Error):
                self._stranger.sendto(encode(Error(Code.UNKNOWN_TID, "this port serves another client")), peer)


def path_mtu(arrival: Arrival) -> int:
    """The MTU on the way to this client."""
    with _udp() as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sock.connect(arrival.peer)
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)


def _udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _share(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def _bind(sock: socket.socket, address: str, ports: list[int]) -> None:
    for port in ports[:-1]:
        with suppress(OSError):
            sock.bind((address, port))
            return
    sock.bind((address, ports[-1]))
