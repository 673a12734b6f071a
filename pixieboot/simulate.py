"""A software machine that boots: DISCOVER, TFTP, script, the first of kernel and initrd, with every answer told as it comes.

By wire: on another machine of the network, with a packet socket (root).  By the daemon itself: on its own host, which cannot
hear its own broadcasts; there the daemon is asked by its API what it would answer, and files are fetched over loopback.
"""

import http.client
import logging
import random
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

from pixieboot.bootprogram import examine
from pixieboot.boots import Boot, size
from pixieboot.client import Daemon
from pixieboot.errors import OperatorError, WireError
from pixieboot.model import IPXE_ARCHES, NO_ADDRESS, Arch, Event, Loader, Mac
from pixieboot.serve.packet import SERVER_ANSWERS, attach
from pixieboot.verdict import Verdict, judge
from pixieboot.wire import dhcp as wire
from pixieboot.wire import tftp
from pixieboot.wire.dhcp import Message
from pixieboot.wire.frame import BROADCAST_MAC, udp_frame

KINDS = {  # what --arch takes: architecture, its number in option 93, what asks first
    "x86-bios": (Arch.X86_BIOS, 0, Loader.FIRMWARE),
    "x86-efi": (Arch.X86_EFI, 6, Loader.FIRMWARE),
    "x64-efi": (Arch.X64_EFI, 7, Loader.FIRMWARE),
    "arm64-efi": (Arch.ARM64_EFI, 11, Loader.FIRMWARE),
    "x86-http": (Arch.X86_EFI, 15, Loader.FIRMWARE_HTTP),
    "x64-http": (Arch.X64_EFI, 16, Loader.FIRMWARE_HTTP),
    "arm64-http": (Arch.ARM64_EFI, 19, Loader.FIRMWARE_HTTP),
    "ipxe-bios": (Arch.X86_BIOS, 0, Loader.IPXE),
    "ipxe-x64": (Arch.X64_EFI, 7, Loader.IPXE),
    "ipxe-arm64": (Arch.ARM64_EFI, 11, Loader.IPXE),
    "raspberry-pi": (Arch.X86_BIOS, 0, Loader.RASPBERRY_PI),
}
OFFER_PATIENCE = 4.0  # EDK2's own
TRIES = 3
UNANSWERED = "no answer: a firewall on UDP 69, or on the ports that data comes from"
FIRST = 64 << 10  # octets of a kernel or initrd that are asked for
CHAINS = 8  # scripts that lead to scripts, until it is called a loop
PI_SERIAL = "5ca1ab1e"
PI_FILES = ("start4.elf", "config.txt", "cmdline.txt", "kernel8.img")
# Option 175 of an iPXE 1.21 with PXE extensions, HTTP, TFTP, DNS, bzImage, menus (ipxe.org/howto/dhcpd).
IPXE_FEATURES = bytes.fromhex("eb03011501") + b"".join(bytes((code, 1, 1)) for code in (0x10, 0x13, 0x15, 0x17, 0x18, 0x27))
_VARIABLE = re.compile(r"\$\{([^}:]+)(?::([^}]*))?\}")

Say = Callable[[str], None]


class Stopped(Exception):
    """The boot ends here: the sentence says why.  verdict: what only the machine itself can know, none if the server can tell."""

    def __init__(self, sentence: str, verdict: Verdict | None = None) -> None:
        super().__init__(sentence)
        self.verdict = verdict


class Way(Protocol):
    """How DHCP questions reach the server."""

    def ask(self, message: Message, port: int, server: str) -> Iterator[tuple[Message, str]]:
        """Send one message; the answers to it, each with the address that it came from, until patience ends."""
        ...


class Wire:
    """By Ethernet frames on an interface of this machine."""

    def __init__(self, interface: str) -> None:
        try:
            index = socket.if_nametoindex(interface)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        except PermissionError:
            raise OperatorError("simulate", "packet sockets need root", "Use sudo.") from None
        except OSError as error:
            raise OperatorError("--interface", f"{interface}: {error.strerror or error}", "`ip link` lists them.") from None
        self._socket.bind((interface, 0x0800))
        attach(self._socket, SERVER_ANSWERS)  # else a loader that is fetched in between fills the queue, and the next OFFER is lost
        # Answers to a MAC that is not the card's own are heard only in promiscuous mode (packet(7)).
        membership = struct.pack("iHH8s", index, 1, 0, b"")
        self._socket.setsockopt(263, 1, membership)

    def ask(self, message: Message, port: int, server: str) -> Iterator[tuple[Message, str]]:
        payload = wire.encode(message, 1472)
        if port != 67:
            yield from self._ask_directly(message, payload, server, port)
            return
        frame = udp_frame(BROADCAST_MAC, message.chaddr, NO_ADDRESS, 68, "255.255.255.255", 67, payload)
        self._socket.send(frame)
        until = time.monotonic() + OFFER_PATIENCE
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                received = self._socket.recv(4096)
            except TimeoutError:
                return
            at = 14 + (received[14] & 15) * 4
            if received[23] != 17 or received[at : at + 4] != struct.pack("!HH", 67, 68):
                continue
            with suppress(WireError):
                answer = wire.decode(received[at + 8 :])
                if answer.op == 2 and answer.xid == message.xid:
                    yield answer, socket.inet_ntoa(received[26:30])

    def _ask_directly(self, message: Message, payload: bytes, server: str, port: int) -> Iterator[tuple[Message, str]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(OFFER_PATIENCE)
            try:
                sock.sendto(payload, (server, port))
                datagram, (address, _) = sock.recvfrom(4096)
                yield wire.decode(datagram), address
            except (OSError, WireError):
                return


class Inside:
    """By the daemon's API, on its own host."""

    def __init__(self, daemon: Daemon, interface: str | None) -> None:
        self._daemon, self._interface = daemon, interface

    def ask(self, message: Message, port: int, server: str) -> Iterator[tuple[Message, str]]:
        body = {"datagram": wire.encode(message, 1472).hex(), "port": port, "interface": self._interface}
        told = self._daemon.post("/simulate", body)
        if told["answer"] is None:
            raise Stopped(f"the daemon does not answer: {told['why']}")
        answer = wire.decode(bytes.fromhex(told["answer"]))
        yield answer, told["server"]


@dataclass(slots=True)
class Machine:
    """The machine that is played."""

    mac: Mac
    arch: Arch
    code: int
    first: Loader
    way: Way
    say: Say
    release: bool
    whole: bool = False  # fetch kernel and initrd to their end
    events: list[Event] = field(default_factory=list)
    address: str = NO_ADDRESS
    server: str = NO_ADDRESS
    loops_back: bool = False
    secure_boot: bool = False  # refuse programs without a signature

    def boot(self) -> Verdict:
        """Play the whole boot; the verdict is the one that the server would pass on what we saw."""
        fault = ""
        try:
            if self.first is Loader.RASPBERRY_PI:
                self._boot_pi()
            else:
                self._boot_pc()
        except Stopped as stopped:
            fault = str(stopped)
            self.say(f"STOP  {fault}")
            if stopped.verdict:
                return stopped.verdict
        if not self.events:
            mend = (
                "Is the daemon running, on this interface, and is no firewall or switch between? On its own host leave out -i, "
                "and try `pixieboot doctor`."
            )
            return Verdict("nothing-heard", "failed", fault or "Nobody answered.", mend)
        verdict = judge(Boot(tuple(self.events), over=True), self.events[-1].at)
        if fault and verdict.outcome != "failed":
            return Verdict(
                "stopped", "failed", f"It stopped: {fault}.", "`pixieboot why` and `pixieboot explain` on the server tell more."
            )
        return verdict

    def _boot_pc(self) -> None:
        if self.first is not Loader.IPXE:
            path = self._dhcp(self.first)
            if "://" in path:
                program = self._http(path, whole=True)
            else:
                program = self._tftp(path)
            self._check_program(path, program)
        path = self._dhcp(Loader.IPXE)
        if "://" not in path:
            raise Stopped(f"iPXE was told to load {path} again: the server does not see that iPXE runs")
        self._script(path, 0)

    def _boot_pi(self) -> None:
        self._dhcp(Loader.RASPBERRY_PI)
        folder, found, waiting = f"{PI_SERIAL}/", 0, deque(PI_FILES)
        while waiting:
            name, content = waiting.popleft(), None
            with suppress(Stopped):
                content = self._tftp(f"{folder}{name}")
            if content is None and folder and not found:  # no folder of its own: it goes on at the top
                folder = ""
                with suppress(Stopped):
                    content = self._tftp(name)
            if content is None:
                continue
            found += 1
            if name == "config.txt" and (named := _pi_kernel(content.decode("utf-8", "replace"))):
                waiting = deque(("cmdline.txt", *named))
        if not found:
            raise Stopped(f"none of its files is there: {', '.join(PI_FILES)} below {PI_SERIAL}/ or at the top of tftp.root")

    # --- DHCP ---

    def _dhcp(self, loader: Loader) -> str:
        """Ask as this program; what it is told to load (a path by TFTP, or a URL).  Takes and gives back a lease, if one is "
        "offered."""
        name = "iPXE" if loader is Loader.IPXE else "firmware"
        discover = self._message(1, loader)
        offers: list[tuple[Message, str]] = []
        for attempt in range(TRIES):
            discover.secs = 4 * attempt
            self.say(f"DHCP  {name} asks: DISCOVER{f', try {attempt + 1}' if attempt else ''}")
            for offer, sender in self.way.ask(discover, 67, ""):
                offers.append((offer, sender))
                self.say(f"      {self._told(offer, sender)}")
                if self._has_boot(offer) and any(each.yiaddr != NO_ADDRESS for each, _ in offers):
                    break
            if any(self._has_boot(offer) for offer, _ in offers):
                break
        lease = next(((offer, sender) for offer, sender in offers if offer.yiaddr != NO_ADDRESS), None)
        boot = next(((offer, sender) for offer, sender in offers if self._has_boot(offer)), None)
        if lease and not isinstance(self.way, Inside):
            self._take(lease[0], lease[1], loader)
        if boot is None:
            raise Stopped("nobody offered an address or boot data" if not offers else "an address was offered, but no boot data")
        return self._boot_path(*boot, loader)

    def _take(self, offer: Message, sender: str, loader: Loader) -> None:
        """REQUEST the lease, and RELEASE it when the machine is made up."""
        server = offer.address(wire.SERVER_ID) or sender
        request = self._message(3, loader)
        request.xid = offer.xid
        request.options |= {50: wire.packed(offer.yiaddr), 54: wire.packed(server)}
        for answer, _ in self.way.ask(request, 67, server):
            if answer.type == 5:
                self.address = answer.yiaddr
                self.say(f"      {server} leased {answer.yiaddr}")
                self._note("dhcp", "acked", address=answer.yiaddr, arch=self.arch.value, loader=loader.value)
                break
            if answer.type == 6:
                self.say(f"      {server} refused {offer.yiaddr} (NAK)")
                self._note("dhcp", "naked", address=offer.yiaddr, why=f"{server} said NAK")
                break
        else:
            self.say(f"      {server} did not confirm {offer.yiaddr}")
        if self.release and self.address != NO_ADDRESS:
            release = self._message(7, loader)
            release.ciaddr = self.address
            release.options = {53: b"\x07", 54: wire.packed(server)}
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
                sock.sendto(wire.encode(release, 1472), (server, 67))

    def _boot_path(self, offer: Message, sender: str, loader: Loader) -> str:
        """What an offer with boot data says to load; asks port 4011 where the offer sends the client there."""
        server = offer.siaddr if offer.siaddr != NO_ADDRESS else offer.address(wire.SERVER_ID) or sender
        self.server = server
        path = (offer.file or offer.options.get(67, b"")).rstrip(b"\0").decode("utf-8", "replace")
        if not path and loader is Loader.RASPBERRY_PI and b"Raspberry Pi Boot" in offer.options.get(43, b""):
            path = PI_FILES[0]
        if not path:
            self.say(f"PXE   the offer names no file: ask {server}:4011")
            request = self._message(3, loader)
            request.ciaddr = self.address
            answers = list(self.way.ask(request, 4011, server))
            if not answers:
                self._note("dhcp", "offered", nbp="", arch=self.arch.value, loader=loader.value)
                raise Stopped(f"{server} does not answer on port 4011")
            path = (answers[0][0].file or answers[0][0].options.get(67, b"")).rstrip(b"\0").decode("utf-8", "replace")
            self.say(f"      {server} says: {path or 'nothing'}")
            self._note("pxe", "acked", nbp=path, arch=self.arch.value, loader=loader.value)
        key = "url" if "://" in path else "nbp"
        self._note("dhcp", "offered", **{key: path, "arch": self.arch.value, "loader": loader.value})
        if not path:
            raise Stopped("boot data without a file to load")
        return path

    def _message(self, kind: int, loader: Loader) -> Message:
        """A request as that program would write it."""
        vendor = "HTTPClient" if loader is Loader.FIRMWARE_HTTP else "PXEClient"
        uuid = b"\0" + bytes.fromhex("706978696562" + "4f6f" * 2) + self.mac.octets
        options = {
            53: bytes((kind,)),
            55: bytes((1, 3, 6, 12, 15, 43, 54, 60, 66, 67, 97, 175)),
            57: struct.pack("!H", 1472),
            60: f"{vendor}:Arch:{self.code:05}:UNDI:003016".encode(),
            93: struct.pack("!H", self.code),
            94: b"\1\3\x10",
            97: uuid,
        }
        if loader is Loader.IPXE:
            options |= {77: b"iPXE", 175: IPXE_FEATURES, 61: b"\1" + self.mac.octets}
            options[93] = struct.pack("!H", {15: 6, 16: 7, 19: 11}.get(self.code, self.code))
            options[60] = f"PXEClient:Arch:{options[93][1]:05}:UNDI:003010".encode()
        if loader is Loader.RASPBERRY_PI:
            options[60] = b"PXEClient:Arch:00000:UNDI:002001"
            options[97] = b"\0RPi4" + bytes.fromhex("1403c100") + self.mac.octets[-4:] + bytes.fromhex(PI_SERIAL)[::-1]
        return Message(
            1, 1, 6, 0, random.getrandbits(32), 0, 0x8000, NO_ADDRESS, NO_ADDRESS, NO_ADDRESS, NO_ADDRESS, self.mac.octets, b"",
            b"", options,
        )  # fmt: skip

    def _has_boot(self, offer: Message) -> bool:
        vendor = offer.options.get(60, b"")
        return bool(offer.file or offer.options.get(67)) or (
            vendor.startswith((b"PXEClient", b"HTTPClient")) and 43 in offer.options
        )

    def _told(self, offer: Message, sender: str) -> str:
        """An offer in words."""
        words = [f"{sender} offers"]
        if offer.yiaddr != NO_ADDRESS:
            words.append(f"address {offer.yiaddr}")
        if file := (offer.file or offer.options.get(67, b"")).rstrip(b"\0"):
            words.append(f"file {file.decode('utf-8', 'replace')}")
            words.append(f"from {offer.siaddr}")
        if vendor := offer.options.get(60, b""):
            words.append(f"as {vendor.decode('utf-8', 'replace')}")
        return " ".join(words)

    # --- files ---

    def _tftp(self, path: str) -> bytes:
        """A whole file by TFTP, as a ROM reads it: its size first, then the file."""
        host = "127.0.0.1" if self.loops_back else self.server
        began = time.monotonic()
        try:
            total = tftp_size(host, path)
            if total is not None:
                self._note("tftp", "probe", path=path)
            self._note("tftp", "started", path=path, bytes=total or 0, blksize=1428)
            content = tftp_read(host, path)
        except TransferError as error:
            self.say(f"TFTP  {path}: {error}")
            kind = "missing" if "not found" in str(error).lower() else "failed"
            self._note("tftp", kind, path=path, why=str(error))
            raise Stopped(f"{path} by TFTP: {error}") from None
        seconds = time.monotonic() - began
        lie = "" if total in (None, len(content)) else ", NOT the size it said"
        self.say(f"TFTP  {path}: {size(len(content))} in {seconds:.2f} s{lie}")
        self._note("tftp", "sent", path=path, bytes=len(content), seconds=seconds)
        return content

    def _check_program(self, path: str, content: bytes) -> None:
        """Would this firmware run what it got?"""
        program = examine(content)
        efi = self.arch.platform == "efi"
        made_for = program.arch.value if program.arch else "a BIOS or nothing that is known"
        if (program.arch is not self.arch) if efi else (program.arch is not None):
            sentence = f"{path} is made for {made_for}, and this firmware is {self.arch.value}"
            mend = f"Put another file there, or name another one: loaders: {{{self.arch.value}: FILE}} in pixieboot.yaml."
            raise Stopped(sentence, Verdict("wrong-loader-arch", "failed", f"{sentence}.", mend))
        version = f", iPXE {program.version}" if program.version else ""
        self.say(f"      it is made for {made_for}{version}{', signed' if program.signed else ''}")
        if self.secure_boot and not program.signed:
            self.say("      Secure Boot: not signed, so not run; the firmware tries HTTP Boot")
            self._dhcp(Loader.FIRMWARE_HTTP)
            raise Stopped(f"Secure Boot refuses {path}: nobody signed it")

    def _http(self, url: str, whole: bool = False) -> bytes:
        """The first of a file by HTTP, or all of it."""
        began = time.monotonic()
        path = urlsplit(url).path + (f"?{query}" if (query := urlsplit(url).query) else "")
        try:
            status, headers, content = http_get(url, None if whole or self.whole else FIRST, self.loops_back)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.say(f"HTTP  {url}: {error}")
            raise Stopped(f"{url}: {error}") from None
        total = int(headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length") or len(content))
        if status >= 400:
            text = content.decode("utf-8", "replace").strip().partition("\n")[0]
            self.say(f"HTTP  {url}: {status} {text}")
            if not path.startswith("/ipxe"):
                self._note("http", "missing" if status == 404 else "failed", path=path, why=text)
            raise Stopped(f"{url}: {status} {text}")
        self.say(f"HTTP  {url}: {status}, {size(total)}{'' if len(content) >= total else f', the first {size(len(content))} read'}")
        if not path.startswith(("/ipxe", "/boot.ipxe")):
            self._note("http", "sent", path=path, bytes=total, seconds=time.monotonic() - began)
        return content

    # --- scripts ---

    def _script(self, url: str, depth: int) -> None:
        """Fetch a script and do what it says, as far as it goes straight on."""
        if depth >= CHAINS:
            raise Stopped(f"{CHAINS} scripts lead to each other: a loop")
        try:
            text = self._http(url, whole=True).decode("utf-8", "replace")
        except Stopped as stopped:
            if urlsplit(url).path == "/ipxe":
                status = 404 if ": 404" in str(stopped) else 500
                self._note("http", "script", path="/ipxe", profile=None, status=status, why=str(stopped))
            raise
        if not text.startswith("#!ipxe"):
            raise Stopped(f"{url} is no iPXE script: it begins with {text[:20]!r}")
        for line in text.splitlines():
            self.say(f"      | {line}")
        commands = [line.split() for line in text.splitlines() if line.strip() and not line.startswith(("#", ":"))]
        if urlsplit(url).path == "/ipxe":
            menu = any(words[0] in ("menu", "choose") for words in commands)
            loads = any(words[0] in ("kernel", "chain", "initrd", "imgfetch") for words in commands)
            profile = "menu" if menu else "local" if not loads else "its own"
            self._note("http", "script", path="/ipxe", profile=profile, status=200, why="as the script says")
            if menu:
                self.say("      a menu: the machine waits for somebody to choose")
                return
        for words in commands:
            target = _target(words)
            if words[0] == "chain" and target:
                self._script(urljoin(url, self._expand(target)), depth + 1)
                return
            if words[0] in ("kernel", "initrd", "module", "imgfetch") and target:
                self._http(urljoin(url, self._expand(target)))
            if words[0] in ("boot", "exit", "sanboot", "goto"):
                return

    def _expand(self, text: str) -> str:
        """iPXE's variables, as this machine would fill them in."""
        build, platform = next((key for key, arch in IPXE_ARCHES.items() if arch is self.arch), ("x86_64", "efi"))
        raw = self.mac.octets
        values: Mapping[str, str] = {
            "mac": self.mac, "net0/mac": self.mac, "buildarch": build, "platform": platform, "next-server": self.server,
            "net0/ip": self.address, "ip": self.address, "uuid": "", "serial": "", "hostname": "", "domain": "", "asset": "",
        }  # fmt: skip

        def value(match: re.Match[str]) -> str:
            name, form = match[1], match[2]
            if name.endswith("mac") and form in ("hexhyp", "hexraw"):
                return raw.hex("-") if form == "hexhyp" else raw.hex()
            return values.get(name, "")

        return _VARIABLE.sub(value, text)

    def _note(self, service: str, kind: str, **detail: Any) -> None:
        self.events.append(Event(time.time(), self.mac, service, kind, detail))


def _pi_kernel(config: str) -> list[str]:
    """Kernel and initrds that a Raspberry Pi's config.txt names."""
    kernels, initrds = [], []
    for line in config.splitlines():
        if line.startswith("kernel="):
            kernels = [line.removeprefix("kernel=")]
        elif line.startswith("initramfs "):
            initrds = line.split()[1].split(",")
    return kernels + initrds


def _target(words: Sequence[str]) -> str:
    """The URL of an iPXE command: its first word that is no option."""
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word in ("--name", "-n", "--timeout", "-t") and rest:
            rest.pop(0)
        elif not word.startswith("-"):
            return word
    return ""


class TransferError(Exception):
    """A transfer that did not come to its end."""


def tftp_size(host: str, path: str) -> int | None:
    """The size that the server tells, by a request that is broken off at once, as ROMs do.  None: it tells none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        for _ in range(TRIES):
            try:
                sock.sendto(tftp.encode(tftp.ReadRequest(path, "octet", {"tsize": "0"})), (host, 69))
                datagram, peer = sock.recvfrom(65535)
                answer = tftp.decode(datagram)
                break
            except TimeoutError:
                continue
            except (OSError, WireError) as error:
                raise TransferError(str(error)) from None
        else:
            raise TransferError(UNANSWERED)
        if isinstance(answer, tftp.Error):
            raise TransferError(f"{answer.message} (error {answer.code})")
        sock.sendto(tftp.encode(tftp.Error(8, "User aborted the transfer")), peer)
        return int(answer.options["tsize"]) if isinstance(answer, tftp.OptionAck) and "tsize" in answer.options else None


def tftp_read(host: str, path: str, blksize: int = 1428) -> bytes:
    """A whole file, by a client that shares no line with our server.  Raises TransferError."""
    # Loaded when it is needed: the daemon's own start is not to wait for it.
    from tftpy import TftpClient  # type: ignore[import-untyped]
    from tftpy.TftpShared import TftpException, TftpTimeout  # type: ignore[import-untyped]

    logging.getLogger("tftpy").setLevel(logging.CRITICAL)  # what goes wrong is told by the exception
    content = BytesIO()
    try:
        TftpClient(host, 69, {"blksize": blksize}).download(path, content, timeout=2, retries=TRIES)
    except TftpTimeout:
        raise TransferError(UNANSWERED) from None
    except (TftpException, OSError) as error:
        raise TransferError(str(error)) from None
    return content.getvalue()


def http_get(url: str, first: int | None, loops_back: bool) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers in lower case and content; only its first octets if that is asked."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("only http is played")
    connection = http.client.HTTPConnection("127.0.0.1" if loops_back else parts.hostname, parts.port or 80, timeout=10)
    try:
        headers = {"User-Agent": "iPXE/pixieboot-simulate", "Host": parts.netloc}
        if first is not None:
            headers["Range"] = f"bytes=0-{first - 1}"
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers)
        response = connection.getresponse()
        content = response.read(first) if first is not None else response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content
    finally:
        connection.close()
