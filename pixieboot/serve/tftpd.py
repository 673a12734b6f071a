"""TFTP on the wire: requests on port 69, what they mean, and who is let in when many come at once.

Decides nothing about the protocol (pixieboot.tftp does) and nothing about paths (pixieboot.content does).
"""

import asyncio
import errno
import logging
import os
import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any

from pixieboot import content as paths
from pixieboot.content import FileBelow, Place, Rendered
from pixieboot.errors import OperatorError, WireError
from pixieboot.model import Arrival, Event, Mac
from pixieboot.serve.blocks import Blocks, Content
from pixieboot.serve.context import Context, Download
from pixieboot.serve.files import File, open_below, open_boot_file, open_root
from pixieboot.serve.rendered import mac_of, text_at
from pixieboot.serve.transfer import Line, Transfer, path_mtu
from pixieboot.serve.udp import UdpPort
from pixieboot.tftp import LARGEST_BLKSIZE, Limits, ReadTransfer, negotiate, netascii
from pixieboot.wire.tftp import Code, Error, ReadRequest, WriteRequest, decode, encode

OVERHEAD = 32  # IPv4, UDP and TFTP headers before a block
LONGEST_NETASCII = 16 << 20  # converted whole, in memory

TOTAL = 4000  # transfers at once, if the limit of open files allows
PER_SOURCE = 1000  # of them to one address: a whole rack behind one NAT
SILENT_PER_SOURCE = 256  # of those that have not acknowledged anything yet
FLOOD = 64  # of those altogether: what may wait until the first ACK waits
DESCRIPTORS = 3  # of one transfer: its socket, its stranger's socket, its file
SPARE_DESCRIPTORS = 512  # of the rest of the daemon
FORGET = 60.0  # seconds that packets of a finished transfer are kept ready for the next
SILENCES = 20  # failures of clients that were never heard, told as warnings within QUIET seconds; the others at level debug
QUIET = 60.0
FINISHED = 1024  # peers remembered in single_port mode, whose last packets may come twice

Peer = tuple[str, int]

log = logging.getLogger(__name__)


class TftpService:
    """All TFTP of the daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._port = UdpPort(context.settings.tftp.port, alone=True)
        self._transfers: dict[Peer, Transfer] = {}
        self._guests = Guests()
        self._contents: dict[object, Content] = {}
        self._finished: dict[Peer, None] = {}
        self._turn = 0
        self._silences: deque[float] = deque(maxlen=SILENCES)
        self.blocks = Blocks()
        self.malformed = 0
        context.downloads.append(self._downloads)

    def bind(self) -> None:
        """Take port 69.  Raises OperatorError."""
        self._port.bind()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = TOTAL * DESCRIPTORS + SPARE_DESCRIPTORS
        if soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self._guests.total = max(16, min(TOTAL, (soft - SPARE_DESCRIPTORS) // DESCRIPTORS))

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        self._port.start(self._on_datagram)
        try:
            while True:
                await asyncio.sleep(FORGET / 4)
                self.blocks.sweep(loop.time() - FORGET)
        finally:
            self._end()

    def _downloads(self) -> Iterator[Download]:
        for transfer in tuple(self._transfers.values()):
            if download := transfer.download:
                yield download

    async def stop(self, grace: float) -> None:
        """No new transfers; those under way get grace seconds to finish, then they are told."""
        if not self._context.settings.tftp.single_port:
            self._port.close()
        self._guests.total = 0
        end = time.monotonic() + grace
        while self._transfers and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._end()

    def _end(self) -> None:
        for transfer in list(self._transfers.values()):
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
        arrival = Arrival(self._port.port, peer, ifindex, local, time.time())
        transfer = self._transfers.get(peer)
        match packet:
            case ReadRequest():
                if not transfer or transfer.replaced_by(packet):
                    self._answer(packet, arrival)
            case WriteRequest(filename):
                self._refuse(arrival, None, filename, "this server is read-only")
            case _ if not self._context.settings.tftp.single_port:
                pass
            case _ if transfer:
                transfer.heard(datagram)
            case _ if not isinstance(packet, Error) and peer not in self._finished:
                self._error(arrival, Code.UNKNOWN_TID, "there is no transfer with this client")

    def _serves(self, ifindex: int, local: str) -> bool:
        return self._context.sites.at(ifindex) is not None or ifindex == 1 or local.startswith("127.")

    def _near(self, address: str) -> bool:
        """A private address, or one of a network in the settings."""
        if not _public(address):
            return True
        networks = [site.subnet for site in self._context.sites.sites]
        networks += [network.subnet for network in self._context.settings.networks if network.subnet]
        return any(IPv4Address(address) in network for network in networks)

    def _answer(self, request: ReadRequest, arrival: Arrival) -> None:
        path = request.filename
        place = paths.find(path)
        mac = mac_of(place, self._context)
        if request.mode not in ("octet", "netascii"):
            self._refuse(arrival, mac, path, f"mode {request.mode} is not served, want octet or netascii", Code.ILLEGAL)
            return
        if not self._near(arrival.peer[0]):
            # Silence as well: what answers the whole internet is used to flood others.
            detail = {"path": path, "peer": arrival.peer[0], "why": "a public address outside of the networks served here"}
            self.record(mac, "refused", detail, "warning")
            return
        if not self._guests.admit(arrival.peer[0]):
            # Silence: a boot ROM asks again in a second, but takes an error for the end.
            detail = {"path": path, "peer": arrival.peer[0], "why": "too many transfers at once"}
            self.record(mac, "refused", detail, "warning")
            return
        try:
            content = self._content(place, arrival, request.mode)
        except OperatorError as error:
            self._fail(arrival, mac, path, str(error))
            return
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            self._miss(arrival, place, mac, path, error.strerror or "no such file")
            return
        except OSError as error:
            self._refuse(arrival, mac, path, error.strerror or str(error))
            return
        try:
            self._begin(request, arrival, content, mac)
        except OSError as error:
            content.release()
            self._fail(arrival, mac, path, f"no socket for the transfer: {error.strerror}")

    def _content(self, place: Place, arrival: Arrival, mode: str) -> Content:
        """What the path stands for.  Raises OSError, and OperatorError for a template that cannot be rendered."""
        match place:
            case FileBelow():
                return self._file_content(self._open(place), mode)
            case Rendered():
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    return self._file_content(self._open(place.file), mode)
                sites = self._context.sites
                site = sites.of_address(arrival.address) or sites.at(arrival.ifindex)
                octets = text_at(place, self._context, site, arrival.peer[0]) if site else None
                if octets is None and place.shared:
                    return self._file_content(self._open(place.shared), mode)
                if octets is None:
                    raise FileNotFoundError(errno.ENOENT, "there is nothing to say to this client")
                return Content(netascii(octets) if mode == "netascii" else octets)
        raise FileNotFoundError(errno.ENOENT, place.why)

    def _open(self, place: FileBelow) -> File:
        settings = self._context.settings
        root, follow = settings.tftp.root, settings.tftp.follow_links
        for parts in place.places[:-1]:
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return open_boot_file(root, parts, (), follow)
        try:
            return open_boot_file(root, place.parts, settings.loaders.values(), follow)
        except (FileNotFoundError, NotADirectoryError):
            if len(place.parts) < 2 or place.parts[0] not in ("assets", "images"):
                raise
        # As HTTP serves them: the signed GRUB of Debian and pxelinux.0 can fetch a kernel by TFTP only.
        assets = open_root(settings.assets)
        try:
            return open_below(assets, place.parts[1:], follow_links=True)
        finally:
            os.close(assets)

    def _file_content(self, file: File, mode: str) -> Content:
        if mode == "netascii":
            with file:
                if file.size > LONGEST_NETASCII:
                    limit = f"netascii is served up to {LONGEST_NETASCII >> 20} MiB; ask in mode octet"
                    raise OSError(errno.EFBIG, limit)
                return Content(netascii(os.pread(file.fd, file.size, 0)))
        shared = self._contents.get(file.identity)
        if shared and shared.users:
            file.close()
            shared.users += 1
            return shared
        content = self._contents[file.identity] = Content(file, self._contents.pop)
        return content

    def _begin(self, request: ReadRequest, arrival: Arrival, content: Content, mac: Mac | None) -> None:
        settings = self._context.settings.tftp
        line = None if settings.single_port else Line(arrival, self._ports(settings.ports))
        mtu = line.mtu if line else path_mtu(arrival)
        limits = Limits(min(settings.max_blksize or mtu - OVERHEAD, LARGEST_BLKSIZE), settings.max_windowsize)
        machine = ReadTransfer(negotiate(request, content.size, limits), content.size)
        transfer = Transfer(self, request, arrival, content, mac, machine, line)
        self._transfers[arrival.peer] = transfer
        self._guests.enter(transfer)
        transfer.start()

    def _ports(self, ports: tuple[int, int]) -> list[int]:
        """Our ports for the next transfer, in the order to try them: each has its turn, so that one is not used twice in a row."""
        first, last = ports
        if not last:
            return [0]
        count = last - first + 1
        self._turn = (self._turn + 1) % count
        return [first + (self._turn + step) % count for step in range(count)]

    def send(self, datagram: bytes, peer: Peer, local: str) -> None:
        """From the port of requests.  Raises OSError."""
        self._port.send(datagram, peer, 0, local)

    def proven(self, transfer: Transfer) -> None:
        self._guests.proven(transfer)

    def ended(self, transfer: Transfer) -> None:
        self._transfers.pop(transfer.peer, None)
        self._guests.leave(transfer)
        transfer.content.release()
        if self._context.settings.tftp.single_port:
            self._finished[transfer.peer] = None
            if len(self._finished) > FINISHED:
                del self._finished[next(iter(self._finished))]

    def flooded(self) -> bool:
        """So many clients are silent that each gets no more than it must."""
        return self._guests.silent > FLOOD

    def told_enough(self) -> bool:
        """The log has heard of so many clients that never answered that one more tells nothing."""
        now = time.monotonic()
        if len(self._silences) == SILENCES and now - self._silences[0] < QUIET:
            return True
        self._silences.append(now)
        return False

    def record(self, mac: Mac | None, kind: str, detail: dict[str, Any], level: str = "info") -> None:
        self._context.journal.record(Event(time.time(), mac, "tftp", kind, detail, level))

    def _miss(self, arrival: Arrival, place: Place, mac: Mac | None, path: str, why: str) -> None:
        self._error(arrival, Code.NOT_FOUND, "File not found")
        file = place.shared or place.file if isinstance(place, Rendered) else place
        expected = file.expected if isinstance(file, FileBelow) else ""
        detail = {"path": path, "peer": arrival.peer[0], "why": expected or why}
        self.record(mac, "missing", detail, "debug" if expected else "info")

    def _refuse(self, arrival: Arrival, mac: Mac | None, path: str, why: str, code: Code = Code.ACCESS) -> None:
        self._error(arrival, code, why)
        self.record(mac, "refused", {"path": path, "peer": arrival.peer[0], "why": why}, "warning")

    def _fail(self, arrival: Arrival, mac: Mac | None, path: str, why: str) -> None:
        self._error(arrival, Code.UNDEFINED, why)
        self.record(mac, "failed", {"path": path, "peer": arrival.peer[0], "why": why}, "warning")

    def _error(self, arrival: Arrival, code: Code, message: str) -> None:
        with suppress(OSError):
            self.send(encode(Error(code, message)), arrival.peer, arrival.address)


class Guests:
    """Who is being served, and who has to give way: whoever has not proven its address first, whoever has most next.

    A request alone proves nothing: its sender's address may be forged.  The first ACK does.
    """

    def __init__(self) -> None:
        self.total = TOTAL
        self._count = 0
        self._silent: dict[Peer, Transfer] = {}  # oldest first, as in the two below
        self._silent_of: dict[str, dict[Peer, Transfer]] = {}
        self._proven_of: dict[str, dict[Peer, Transfer]] = {}

    @property
    def silent(self) -> int:
        return len(self._silent)

    def admit(self, source: str) -> bool:
        """Is there a place for one more transfer to this address?  Somebody else's may be ended to make one."""
        if not self.total:
            return False
        silent, proven = self._silent_of.get(source, {}), self._proven_of.get(source, {})
        if len(silent) >= SILENT_PER_SOURCE or (silent and len(silent) + len(proven) >= PER_SOURCE):
            _displace(next(iter(silent.values())))
        elif len(proven) >= PER_SOURCE:
            return False
        if self._count < self.total:
            return True
        if self._silent:
            _displace(next(iter(self._silent.values())))
            return True
        largest = max(self._proven_of.values(), key=len, default=proven)
        if len(largest) <= len(proven) + 1:
            return False
        _displace(next((transfer for transfer in largest.values() if transfer.stalled), next(reversed(largest.values()))))
        return True

    def enter(self, transfer: Transfer) -> None:
        self._count += 1
        self._silent[transfer.peer] = transfer
        self._silent_of.setdefault(transfer.peer[0], {})[transfer.peer] = transfer

    def proven(self, transfer: Transfer) -> None:
        if self._silent.pop(transfer.peer, None):
            _remove(self._silent_of, transfer.peer)
            self._proven_of.setdefault(transfer.peer[0], {})[transfer.peer] = transfer

    def leave(self, transfer: Transfer) -> None:
        self._count -= 1
        self._silent.pop(transfer.peer, None)
        _remove(self._silent_of, transfer.peer)
        _remove(self._proven_of, transfer.peer)


@lru_cache(4096)
def _public(address: str) -> bool:
    return IPv4Address(address).is_global


def _displace(transfer: Transfer) -> None:
    transfer.abort("it gave way to other clients")


def _remove(by_source: dict[str, dict[Peer, Transfer]], peer: Peer) -> None:
    if peers := by_source.get(peer[0]):
        peers.pop(peer, None)
        if not peers:
            del by_source[peer[0]]
