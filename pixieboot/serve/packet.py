"""Below IP: a sender of Ethernet frames, ARP questions, and a tap for other servers' answers.

All three are AF_PACKET sockets, opened while the daemon is still root; afterwards they serve links that appear later too.
"""

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from pixieboot.errors import OperatorError
from pixieboot.serve.links import Link
from pixieboot.wire.frame import BROADCAST_MAC, ETH_IP

ETH_ARP = 0x0806
SO_ATTACH_FILTER = 26
BATCH = 64
SENDERS = 4  # interfaces that frames are sent by without naming them anew
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")

# Classic BPF: (code, jump if true, jump if false, operand); see linux/filter.h.
_LOAD_BYTE, _LOAD_HALF, _LOAD_HALF_X, _IP_LENGTH_X = 0x30, 0x28, 0x48, 0xB1
_EQUAL, _ANY_BIT, _RETURN = 0x15, 0x45, 0x06
ARP_REPLIES = ((_LOAD_HALF, 0, 0, 20), (_EQUAL, 0, 1, 2), (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0))
"""ARP replies (operation 2)."""
SERVER_ANSWERS = (
    (_LOAD_BYTE, 0, 0, 23),
    (_EQUAL, 0, 7, 17),  # UDP
    (_LOAD_HALF, 0, 0, 20),
    (_ANY_BIT, 5, 0, 0x1FFF),  # not a later fragment
    (_IP_LENGTH_X, 0, 0, 14),
    (_LOAD_HALF_X, 0, 0, 14),
    (_EQUAL, 0, 2, 67),  # from a server
    (_LOAD_HALF_X, 0, 0, 16),
    (_EQUAL, 1, 0, 68),  # to a client
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFF),
)
"""UDP from port 67 to port 68: what DHCP servers say to clients, whoever they are."""

log = logging.getLogger(__name__)


class Frames:
    """Sends whole Ethernet frames.  Its sockets have protocol 0: they never receive any."""

    def __init__(self) -> None:
        self._spare: list[socket.socket] = []
        self._bound: dict[int, socket.socket] = {}

    def bind(self) -> None:
        """Open the sockets; needs root, but tying them to an interface later does not."""
        self._spare = [open_packet_socket(0) for _ in range(SENDERS)]

    def close(self) -> None:
        for sock in (*self._spare, *self._bound.values()):
            sock.close()
        self._spare, self._bound = [], {}

    def send(self, link: Link, frame: bytes) -> None:
        """Raises OSError: the link is gone or down, or the frame is larger than its MTU."""
        sock = self._bound.get(link.index) or self._tie(link)
        try:
            sock.send(frame)
        except BlockingIOError:
            pass  # a full send buffer is a lost frame: the client asks again
        except OSError as error:
            if error.errno == errno.ENXIO:  # its interface was deleted: one that comes may have the same number
                self._spare.append(self._bound.pop(link.index))
            raise

    def _tie(self, link: Link) -> socket.socket:
        """A socket for this interface: to name it with each frame costs as much again as to send one."""
        if not self._spare:
            if not self._bound:
                raise OSError("the packet sockets are not open")
            self._spare.append(self._bound.pop(next(iter(self._bound))))
        sock = self._spare[-1]
        sock.bind((link.name, 0))
        if sock.getsockname()[4] != link.mac:
            raise OSError(errno.ENODEV, f"{link.name} is another card by now")
        self._bound[link.index] = self._spare.pop()
        return sock


class Tap:
    """Receives the frames of one protocol that its filter lets through, from every interface."""

    def __init__(self, protocol: int, program: tuple[tuple[int, int, int, int], ...]) -> None:
        self._protocol, self._program = protocol, program
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_frame: Callable[[bytes, str], None] | None = None

    def bind(self) -> None:
        """Open it; nothing that the filter does not let through is ever handed on."""
        self._socket = open_packet_socket(self._protocol)
        attach(self._socket, self._program)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)  # what came before the filter was in place

    def start(self, on_frame: Callable[[bytes, str], None]) -> None:
        """Hand every frame, and the name of its interface, to on_frame from now on."""
        assert self._socket is not None, "bind() first"
        self._on_frame, self._loop = on_frame, asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        if self._socket is None:
            return
        if self._loop and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _readable(self) -> None:
        assert self._on_frame is not None
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                frame, address = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:  # ENETDOWN: a link went away
                log.debug("packet socket: %s", error.strerror)
                return
            try:
                self._on_frame(frame, address[0])
            except Exception:
                log.exception("packet socket: bug while handling %s from %s", frame.hex(), address[0])


class Arp:
    """Asks a link who has an address.  The answers of all questions come to one callback."""

    def __init__(self) -> None:
        self._tap, self._frames = Tap(ETH_ARP, ARP_REPLIES), Frames()

    def bind(self) -> None:
        self._tap.bind()
        self._frames.bind()

    def start(self, on_holder: Callable[[str, bytes, str], None]) -> None:
        """on_holder(address, MAC of six octets, interface) for every ARP reply seen."""

        def on_frame(frame: bytes, interface: str) -> None:
            if len(frame) >= 14 + _ARP.size:
                _, _, _, _, _, mac, address, _, _ = _ARP.unpack_from(frame, 14)
                on_holder(socket.inet_ntoa(address), mac, interface)

        self._tap.start(on_frame)

    def ask(self, link: Link, address: str) -> None:
        """Send an ARP probe (RFC 5227 §2.1.1): sender address 0, so that nobody's cache is touched.  Raises OSError."""
        question = _ARP.pack(1, ETH_IP, 6, 4, 1, link.mac, b"\0\0\0\0", b"\0" * 6, socket.inet_aton(address))
        self._frames.send(link, _ETHERNET.pack(BROADCAST_MAC, link.mac, ETH_ARP) + question)

    def close(self) -> None:
        self._tap.close()
        self._frames.close()


def open_packet_socket(protocol: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    except PermissionError:
        raise OperatorError(
            "packet socket", "this user may not open one", "Start pixieboot as root, or with CAP_NET_RAW (see the systemd unit)."
        ) from None
    sock.setblocking(False)
    return sock


def attach(sock: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    """From now on only frames that the program lets through come into this packet socket's queue."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
