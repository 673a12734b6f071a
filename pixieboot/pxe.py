"""Who a DHCP client is, and the boot data that its firmware understands (PXE 2.1, RFC 4578, UEFI HTTP Boot, iPXE, Raspberry Pi).

Which program a client gets is policy.next_boot's answer; here it is only put into the fields where that client looks:

  style    option 43                    what the firmware does with it
  direct   06 01 08 ff                  takes the boot file of this very offer; no port 4011, no menu
  binl     none                         asks port 4011 again and takes the boot file of that answer
  menu     6, 8, 9, 10: one item, 0 s   shows a menu of one, and asks port 4011 for the item

No style suits all: some vendors' UEFI ignores proxies that send 43.6 = 8, some ROMs ignore those that do not.  A BIOS starts
with direct and UEFI with binl, the file in both answers; Styles moves on when a client keeps asking.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from pixieboot.model import ARCH_CODES, NO_ADDRESS, Arch, Assignment, Client, FetchScript, Loader, LoadNBP, Mac, Site, uuid_of
from pixieboot.wire.dhcp import (
    BOOT_FILE,
    CLIENT_ARCH,
    CLIENT_UUID,
    HOST_NAME,
    IPXE,
    TFTP_SERVER,
    USER_CLASS,
    VENDOR,
    VENDOR_CLASS,
    Message,
    packed,
    parts,
)

PXE_CLIENT, HTTP_CLIENT, APPLE = b"PXEClient", b"HTTPClient", b"AAPLBSDPC"
DIRECT = bytes.fromhex("060108ff")
BOOT_ITEM = 71  # sub-option of 43: which item of the menu, and which layer
ITEM_TYPE = b"\x80\x00"  # ours in the menu; types from 0x8000 on are free for vendors
CREDENTIALS = 0x8000  # bit of the layer: the client wants a signed boot (BIS), which nobody speaks any more
# Byte for byte what the boot ROM of a Raspberry Pi looks for; it checks the text, and takes the first item on a Pi 4.
RASPBERRY_PI = bytes.fromhex("0601030a0400505845") + b"\x09\x14\x00\x00\x11Raspberry Pi Boot\xff"
OLD_RASPBERRY_PI = bytes.fromhex("0601030a0400505845") + b"\x09\x17\x00\x00\x14Raspberry Pi Boot   \xff"  # a Pi 3 wants the blanks
RASPBERRY_PI_OUIS = frozenset(("b8:27:eb", "dc:a6:32", "e4:5f:01", "28:cd:c1", "d8:3a:dd", "2c:cf:67", "88:a2:9e"))
OLD_PI_OUI, OLD_PI_DELAY = "b8:27:eb", 2.0  # the ROM of a Pi 3 hangs when DHCP and TFTP both answer within 2 s
NO_PXEDHCP = bytes.fromhex("b00101")  # in option 175: iPXE need not wait for a proxy offer
_HTTP_FEATURE, _NO_PXEDHCP_CODE = 19, 176
STYLES = ("binl", "direct", "menu")  # in the order in which they are tried


def client_of(message: Message) -> Client:
    """Who asks, from what it says of itself.  Total: any message gives a client."""
    option = message.options.get
    return _client(
        message.chaddr,
        message.ciaddr,
        option(VENDOR_CLASS),
        option(CLIENT_ARCH),
        option(CLIENT_UUID),
        option(USER_CLASS),
        option(IPXE),
        option(HOST_NAME),
    )


@lru_cache(4096)
def _client(
    chaddr: bytes,
    ciaddr: str,
    vendor: bytes | None,
    arches: bytes | None,
    guid: bytes | None,
    classes: bytes | None,
    ipxe: bytes | None,
    hostname: bytes | None,
) -> Client:
    """client_of by the parts of the message that it looks at: a machine says the same of itself again and again."""
    mac = Mac.of(chaddr)
    arch, code, http = _arch(arches, vendor or b"")
    loader, serial = Loader.FIRMWARE, None
    if classes is not None or ipxe is not None:
        loader = _ipxe(classes or b"", ipxe)
    if loader is Loader.FIRMWARE:
        if _is_raspberry_pi(mac, vendor, arches, arch, code, guid):
            loader, serial = Loader.RASPBERRY_PI, _pi_serial(guid or b"")
            arch = Arch.RPIBOOT  # it says 0, a PC's BIOS
        elif (vendor is not None and vendor.startswith(HTTP_CLIENT)) or (http and not (vendor or b"").startswith(PXE_CLIENT)):
            loader = Loader.FIRMWARE_HTTP
    labels = {}
    if vendor:
        labels["vendor"] = said(vendor)
    if hostname:
        labels["hostname"] = said(hostname)
    return Client(
        mac,
        arch,
        loader,
        uuid=uuid_in(guid) if guid else None,
        serial=serial,
        vendor_class=labels.get("vendor", ""),
        address=None if ciaddr == NO_ADDRESS else ciaddr,
        arch_code=code,
        labels=MappingProxyType(labels),
    )


def calls_itself_boot_client(message: Message, client: Client) -> bool:
    """Does it say by option 60 that it wants boot data, or is it an iPXE or a Raspberry Pi, known otherwise?"""
    return (
        message.options.get(VENDOR_CLASS, b"").startswith((PXE_CLIENT, HTTP_CLIENT))
        or client.loader is Loader.IPXE
        or client.loader is Loader.RASPBERRY_PI
    )


def is_boot_client(message: Message, client: Client) -> bool:
    """Has it any use for boot data?  U-Boot only tells its architecture; an operating system's DHCP client nothing of it."""
    return CLIENT_ARCH in message.options or calls_itself_boot_client(message, client)


def _arch(codes: bytes | None, vendor: bytes) -> tuple[Arch | None, int | None, bool]:
    """(architecture, the number it comes from, over HTTP): the first known code of option 93, else `Arch:` in option 60."""
    numbers = [int.from_bytes(codes[at : at + 2], "big") for at in range(0, len(codes) - 1, 2)] if codes else []
    if not numbers:
        digits = vendor.partition(b":Arch:")[2][:5]
        if digits.isdigit():
            numbers = [int(digits)]
    for number in numbers:
        if number in ARCH_CODES:
            arch, http = ARCH_CODES[number]
            return arch, number, http
    return None, numbers[0] if numbers else None, False


def _ipxe(classes: bytes, ipxe: bytes | None) -> Loader:
    """IPXE if it says so (77) or shows its features (175; FlexBoot says no more) and can fetch a script by HTTP.

    A NIC's own iPXE without HTTP is firmware like any other: it loads ours first.
    """
    found = user_classes(classes)
    if ipxe is None:
        return Loader.IPXE if b"iPXE" in found else Loader.FIRMWARE
    features = {code for code, _ in parts(ipxe)}
    if b"gPXE" in found or (features and _HTTP_FEATURE not in features):
        return Loader.FIRMWARE
    return Loader.IPXE


def user_classes(value: bytes) -> list[bytes]:
    """Option 77 as RFC 3004 has it, lengths before texts; if the lengths do not tile it, one raw text (iPXE and many others)."""
    classes, at = [], 0
    while at < len(value):
        length = value[at]
        if not length or at + 1 + length > len(value):
            return [value]
        classes.append(value[at + 1 : at + 1 + length])
        at += 1 + length
    return classes


def _is_raspberry_pi(
    mac: Mac, vendor: bytes | None, arches: bytes | None, arch: Arch | None, code: int | None, guid: bytes | None
) -> bool:
    """Is it the boot ROM of one, known by its GUID or its MAC, not UEFI or an operating system on the same board?

    The ROM says it is a BIOS (arch 0).  Some leave option 60 out of their REQUEST (rpi-eeprom #82), but not 93 and 97.
    """
    if not ((guid and guid[1:4] == b"RPi") or mac[:8] in RASPBERRY_PI_OUIS):
        return False
    if code is not None and arch not in (Arch.X86_BIOS, Arch.RPIBOOT):
        return False
    return vendor.startswith(PXE_CLIENT) if vendor is not None else arches is not None or guid is not None


def _pi_serial(guid: bytes) -> str | None:
    """The serial number that the board's TFTP paths start with, 8 lower-case hex digits.

    GUIDs are "RPi4", board revision, end of the MAC, serial; before 2020 the serial four times over.  Numbers in them are
    little-endian.  The ROM of a Pi 3 repeats one octet (0x44), which tells nothing.
    """
    if len(guid) != 17 or not (guid[1:4] == b"RPi" or guid[1:5] * 4 == guid[1:]) or len(set(guid[1:])) == 1:
        return None
    return f"{int.from_bytes(guid[13:], 'little'):08x}"


@lru_cache(4096)
def uuid_in(guid: bytes) -> str | None:
    """The UUID in option 97; None for another type of identifier, and for a placeholder that many boards share."""
    return uuid_of(guid[1:].hex()) if len(guid) == 17 and guid[0] == 0 else None


def said(value: bytes) -> str:
    """A client's text, up to a NUL at its end.  Whatever it holds: whoever prints it has to escape it."""
    return value.rstrip(b"\0").decode("utf-8", "replace")


def style_of(client: Client, assignment: Assignment, leasing: bool) -> str:
    """How this firmware is told its boot file: as the operator says, else as was learned, else as most of its kind need it.

    "" for iPXE, UEFI HTTP Boot and the Raspberry Pi, which know only one way.
    """
    if client.loader is not Loader.FIRMWARE:
        return ""
    machine = assignment.machine
    if machine and machine.reply_style != "auto":
        return machine.reply_style
    if assignment.state.reply_style in STYLES:
        return assignment.state.reply_style
    # Our own lease with option 60 but without 43.6 would be taken for BINL, and the file in it ignored (edk2 #8149).
    return "direct" if leasing or client.arch is Arch.X86_BIOS or client.arch is None else "binl"


def delay_of(client: Client, assignment: Assignment) -> float:
    """Seconds to wait before answering."""
    wanted = assignment.machine.reply_delay if assignment.machine else 0.0
    if client.loader is Loader.RASPBERRY_PI and client.mac.startswith(OLD_PI_OUI):
        return max(wanted, OLD_PI_DELAY)
    return wanted


def add_boot_data(
    reply: Message, request: Message, client: Client, step: LoadNBP | FetchScript, site: Site, style: str, leasing: bool
) -> dict[int, bytes]:
    """Fill siaddr, sname and file, and return the options that go with them (PXE 2.1 §2.2), as the firmware's kind wants them.

    leasing: the reply carries an address as well.  style "": the file and no option 43, as on port 4011.
    """
    asked, options = request.options, {}
    reply.siaddr = site.address
    reply.sname = site.address.encode()
    target = (step.url if isinstance(step, FetchScript) else step.path).encode()
    if client.loader is Loader.RASPBERRY_PI:
        # Its ROM fetches its own ladder of files; only the menu's text and the server count.
        options[VENDOR_CLASS] = PXE_CLIENT
        options[VENDOR] = OLD_RASPBERRY_PI if client.mac.startswith(OLD_PI_OUI) else RASPBERRY_PI
        if leasing:
            options[TFTP_SERVER] = reply.sname
    else:
        http = isinstance(step, LoadNBP) and step.over == "http"
        if VENDOR_CLASS in asked or not leasing:
            options[VENDOR_CLASS] = HTTP_CLIENT if http else PXE_CLIENT
        if style == "menu" and IPXE not in asked:
            options[VENDOR] = menu(site, _title(step))
        else:
            if style == "direct" and VENDOR_CLASS in options:
                options[VENDOR] = DIRECT
            if len(target) <= 127:
                reply.file = target
            wanted = asked.get(55, b"")
            if http or len(target) > 127 or BOOT_FILE in wanted:
                options[BOOT_FILE] = target
            if TFTP_SERVER in wanted and not http:
                options[TFTP_SERVER] = reply.sname
        if leasing and (IPXE in asked or client.loader is Loader.IPXE):
            options[IPXE] = NO_PXEDHCP
    if asked.get(CLIENT_UUID):
        options[CLIENT_UUID] = asked[CLIENT_UUID]
    return options


def _title(step: LoadNBP | FetchScript) -> bytes:
    return b"pixieboot" if isinstance(step, FetchScript) else step.path.rpartition("/")[2].encode()[:200]


def menu(site: Site, title: bytes) -> bytes:
    """Option 43 of a menu with one item, taken at once (PXE 2.1 §2.1, table 2-1)."""
    servers = ITEM_TYPE + b"\x01" + packed(site.address)
    item = ITEM_TYPE + bytes((len(title),)) + title
    prompt = b"\0PXE"
    body = b"\x06\x01\x03" + b"".join(bytes((code, len(value))) + value for code, value in ((10, prompt), (8, servers), (9, item)))
    return body + b"\xff"


def boot_item(message: Message) -> bytes | None:
    """Sub-option 71 of a client's option 43: the type and layer of the item it chose; None if it names none."""
    return next((value for code, value in parts(message.options.get(VENDOR, b"")) if code == BOOT_ITEM and len(value) == 4), None)


def with_no_pxedhcp(configured: bytes) -> bytes:
    """An operator's option 175 with `no-pxedhcp` before it, unless the operator said something about that already."""
    if any(code == _NO_PXEDHCP_CODE for code, _ in parts(configured)):
        return configured
    return NO_PXEDHCP + configured


@dataclass(slots=True)
class _Asking:
    since: float
    last: float
    times: int


class Styles:
    """Which reply style comes next for a firmware that keeps asking: three DISCOVERs, and neither port 4011 nor a transfer follows.

    Remembers a few thousand clients that are booting now; what was learned lives in the state store.
    """

    PATIENCE = 3
    APART = 2.0  # seconds; iPXE asks twice within one
    SESSION = 120.0
    REMEMBERED = 4096

    def __init__(self) -> None:
        self._asking: OrderedDict[Mac, _Asking] = OrderedDict()

    def asked(self, mac: Mac, style: str, now: float) -> str | None:
        """A firmware's DISCOVER was answered in this style.  The one to use from now on, when it leads nowhere; None: keep it."""
        entry = self._asking.get(mac)
        if entry is None or not 0 <= now - entry.since < self.SESSION:
            self._asking[mac] = _Asking(now, now, 1)
            self._asking.move_to_end(mac)
            if len(self._asking) > self.REMEMBERED:
                self._asking.popitem(last=False)
            return None
        if now - entry.last < self.APART:
            return None
        entry.last, entry.times = now, entry.times + 1
        if entry.times < self.PATIENCE:
            return None
        del self._asking[mac]
        return STYLES[(STYLES.index(style) + 1) % len(STYLES)] if style in STYLES else None

    def progressed(self, mac: Mac) -> None:
        """Port 4011 was asked or a transfer began: the style is understood."""
        self._asking.pop(mac, None)
