"""The nouns of a network boot.  Values only: no I/O, no clocks, no rules beyond what a name means.

IPv4 addresses are dotted strings ("192.168.77.10"): they hash, compare and print at no cost on the DHCP path.
Times are seconds: `at`, `now` and `expires` since 1970 (UTC), durations plain.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Network
from typing import Any


class _Empty(Mapping[Any, Any]):
    """A mapping without entries that a dataclass takes as a default (Python 3.11 refuses an unhashable one)."""

    def __getitem__(self, key: object) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    __hash__ = object.__hash__


EMPTY: Mapping[Any, Any] = _Empty()
NO_ADDRESS = "0.0.0.0"

_MAC = re.compile(r"[0-9a-f]{12}", re.ASCII)
_MAC_SPELLINGS = re.compile(
    r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|(?:[0-9a-f]{2}-){5}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4}|[0-9a-f]{12}", re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.ASCII)
# Boards of several makers ship all alike with these: they identify nobody (field: MSI boards with UUID FFFF…).
_RUBBISH_UUIDS = {"0" * 32, "f" * 32, "03000200040005000006000700080009", "00020003000400050006000700080009"}


class Mac(str):
    """An Ethernet address, always lower case with colons: "52:54:00:12:34:56"."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Mac":
        """Any usual spelling: colons, dashes, Cisco's dots, none; either case; %3A for a colon.  Raises ValueError."""
        plain = text.strip().lower().replace("%3a", ":")
        if not _MAC_SPELLINGS.fullmatch(plain):
            raise ValueError(f"{text!r} is not a MAC address such as 52:54:00:12:34:56")
        return cls.of(bytes.fromhex(re.sub(r"[-:.]", "", plain)))

    @classmethod
    def of(cls, octets: bytes) -> "Mac":
        """The address of six octets from the wire."""
        return cls(octets.hex(":"))

    @property
    def dashed(self) -> str:
        """52-54-00-12-34-56: the form of file names and URLs."""
        return self.replace(":", "-")

    @property
    def octets(self) -> bytes:
        return bytes.fromhex(self.replace(":", ""))

    @property
    def is_ethernet(self) -> bool:
        """Six octets?  The wire also brings none, and up to sixteen."""
        return len(self) == 17


NO_MAC = Mac("00:00:00:00:00:00")  # of who does not say its own, and whose address does not tell it


def parse_uuid(text: str) -> str | None:
    """The UUID in lower case with dashes; None if it is malformed or a placeholder that many boards share."""
    plain = text.strip().strip("{}").lower()
    if not _UUID.fullmatch(plain):
        return None
    return uuid_of(plain.replace("-", ""))


def uuid_of(digits: str) -> str | None:
    """parse_uuid for 32 lower-case hex digits."""
    if digits in _RUBBISH_UUIDS:
        return None
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


@lru_cache(4096)
def swap_uuid(uuid: str) -> str:
    """The same UUID with its first three fields in the other byte order (SMBIOS 2.6 §7.2.1; option 97 is little-endian)."""
    first, second, third, rest = uuid.split("-", 3)
    return "-".join([*(bytes.fromhex(part)[::-1].hex() for part in (first, second, third)), rest])


class Arch(Enum):
    """A client architecture, by the name that operators write.  UEFI HTTP Boot is a Loader, not an Arch of its own."""

    X86_BIOS = "x86-bios"
    PC98 = "pc98"
    ITANIUM = "itanium-efi"
    ALPHA = "alpha"
    ARC_X86 = "arc-x86"
    LEAN = "intel-lean"
    X86_EFI = "x86-efi"
    X64_EFI = "x64-efi"
    XSCALE_EFI = "xscale-efi"
    ARM32_EFI = "arm32-efi"
    ARM64_EFI = "arm64-efi"
    PPC_OPEN_FIRMWARE = "ppc-openfirmware"
    PPC_EPAPR = "ppc-epapr"
    PPC_OPAL = "ppc-opal"
    ARM32_UBOOT = "arm32-uboot"
    ARM64_UBOOT = "arm64-uboot"
    RISCV32_EFI = "riscv32-efi"
    RISCV64_EFI = "riscv64-efi"
    RISCV128_EFI = "riscv128-efi"
    S390 = "s390"
    S390_EXTENDED = "s390-extended"
    MIPS32_EFI = "mips32-efi"
    MIPS64_EFI = "mips64-efi"
    SUNWAY32_EFI = "sunway32-efi"
    SUNWAY64_EFI = "sunway64-efi"
    LOONGARCH32_EFI = "loongarch32-efi"
    LOONGARCH64_EFI = "loongarch64-efi"
    RPIBOOT = "rpiboot"

    def __init__(self, name: str) -> None:
        # bios | efi | uboot, or for the rest the name itself: the group label `platform`
        self.platform = name.rpartition("-")[2] if name.endswith(("-efi", "-bios", "-uboot")) else name


# IANA "Processor Architecture Types" -> (Arch, over HTTP).  9 is x64: RFC 4578 printed 7 and 9 swapped (erratum 4624).
ARCH_CODES: Mapping[int, tuple[Arch, bool]] = {
    0: (Arch.X86_BIOS, False),
    1: (Arch.PC98, False),
    2: (Arch.ITANIUM, False),
    3: (Arch.ALPHA, False),
    4: (Arch.ARC_X86, False),
    5: (Arch.LEAN, False),
    6: (Arch.X86_EFI, False),
    7: (Arch.X64_EFI, False),
    8: (Arch.XSCALE_EFI, False),
    9: (Arch.X64_EFI, False),
    10: (Arch.ARM32_EFI, False),
    11: (Arch.ARM64_EFI, False),
    12: (Arch.PPC_OPEN_FIRMWARE, False),
    13: (Arch.PPC_EPAPR, False),
    14: (Arch.PPC_OPAL, False),
    15: (Arch.X86_EFI, True),
    16: (Arch.X64_EFI, True),
    17: (Arch.X64_EFI, True),
    18: (Arch.ARM32_EFI, True),
    19: (Arch.ARM64_EFI, True),
    20: (Arch.X86_BIOS, True),
    21: (Arch.ARM32_UBOOT, False),
    22: (Arch.ARM64_UBOOT, False),
    23: (Arch.ARM32_UBOOT, True),
    24: (Arch.ARM64_UBOOT, True),
    25: (Arch.RISCV32_EFI, False),
    26: (Arch.RISCV32_EFI, True),
    27: (Arch.RISCV64_EFI, False),
    28: (Arch.RISCV64_EFI, True),
    29: (Arch.RISCV128_EFI, False),
    30: (Arch.RISCV128_EFI, True),
    31: (Arch.S390, False),
    32: (Arch.S390_EXTENDED, False),
    33: (Arch.MIPS32_EFI, False),
    34: (Arch.MIPS64_EFI, False),
    35: (Arch.SUNWAY32_EFI, False),
    36: (Arch.SUNWAY64_EFI, False),
    37: (Arch.LOONGARCH32_EFI, False),
    38: (Arch.LOONGARCH32_EFI, True),
    39: (Arch.LOONGARCH64_EFI, False),
    40: (Arch.LOONGARCH64_EFI, True),
    41: (Arch.RPIBOOT, False),
}

# iPXE's ${buildarch} and ${platform} -> Arch, so that DHCP and script choose alike.
IPXE_ARCHES: Mapping[tuple[str, str], Arch] = {
    ("i386", "pcbios"): Arch.X86_BIOS,
    ("x86_64", "pcbios"): Arch.X86_BIOS,
    ("i386", "efi"): Arch.X86_EFI,
    ("x86_64", "efi"): Arch.X64_EFI,
    ("arm32", "efi"): Arch.ARM32_EFI,
    ("arm64", "efi"): Arch.ARM64_EFI,
    ("riscv32", "efi"): Arch.RISCV32_EFI,
    ("riscv64", "efi"): Arch.RISCV64_EFI,
    ("loong64", "efi"): Arch.LOONGARCH64_EFI,
}


class Loader(Enum):
    """What program on the client is asking."""

    FIRMWARE = "firmware"  # a PXE ROM: loads a file by TFTP
    FIRMWARE_HTTP = "firmware-http"  # UEFI HTTP Boot: loads a file by URL
    IPXE = "ipxe"
    GRUB = "grub"
    PXELINUX = "pxelinux"
    RASPBERRY_PI = "raspberry-pi"  # fetches its own ladder of files by TFTP, no boot file


class Stage(Enum):
    """Which question of a boot this is: which program (DHCP, 4011) or what that program shall do (its script)."""

    DHCP = "dhcp"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as far as this request tells.

    arch is None when the client did not say, or says a number that IANA has not assigned (arch_code keeps it).
    uuid is canonical (parse_uuid).  labels are group labels beside those that Inventory derives: hostname, vendor,
    subnet, and every query parameter, values as the client sent them.
    """

    mac: Mac
    arch: Arch | None = None
    loader: Loader = Loader.FIRMWARE
    stage: Stage = Stage.DHCP
    uuid: str | None = None
    serial: str | None = None
    vendor_class: str = ""
    address: str | None = None
    arch_code: int | None = None
    labels: Mapping[str, str] = EMPTY


@dataclass(frozen=True, slots=True)
class Profile:
    """What a machine may boot.  Kernel and initrds are paths below assets, or URLs; args and the like are templates."""

    name: str
    title: str = ""
    kernel: str | None = None
    initrd: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    arch: Mapping[Arch, "Variant"] = EMPTY
    documents: Mapping[str, str] = EMPTY  # kind (ignition, cloud, generic, preseed, …) -> template file
    message: str = ""
    script: str | None = None  # template of a whole iPXE script, instead of a kernel
    chain: str | None = None  # URL to chain to, instead of a kernel
    local: bool = False
    menu: bool = False  # the built-in menu
    once_timeout: float = 0.0  # seconds in which an installation (boot: once) must report done; 0: for ever
    on_timeout: str = "again"  # again | hold | local
    loader: Mapping[str, str] = EMPTY  # arch name or "*" -> NBP
    cache: str = ""  # its URLs are served from here: "once" fetched, they stay; "fresh", the server is asked if they changed
    sha256: Mapping[str, str] = EMPTY  # URL, or the last part of its path -> checksum in hex
    where: str = ""  # FILE:LINE


@dataclass(frozen=True, slots=True)
class Variant:
    """What one architecture boots instead: None leaves the profile's own."""

    kernel: str | None = None
    initrd: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Machines that share labels.  An empty match fits every machine."""

    name: str
    match: Mapping[str, str] = EMPTY
    profile: str | None = None
    vars: Mapping[str, Any] = EMPTY
    options: Mapping[int, bytes] = EMPTY
    loader: Mapping[str, str] = EMPTY
    where: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that the operator described."""

    name: str
    macs: tuple[Mac, ...] = ()
    uuid: str | None = None
    serial: str | None = None
    address: str | None = None  # reservation
    hostname: str | None = None
    profile: str | None = None
    boot: str = "always"  # always | once | local
    vars: Mapping[str, Any] = EMPTY
    local_boot: str = "auto"  # auto | exit0 | exit1 | sanboot | http404
    loader: Mapping[str, str] = EMPTY
    options: Mapping[int, bytes] = EMPTY
    reply_delay: float = 0.0
    reply_style: str = "auto"  # auto | direct | binl | menu
    where: str = ""


@dataclass(frozen=True, slots=True)
class MachineState:
    """What was ordered or learned about a machine since it was described.  Lives in the state store, never in files.

    boot and profile override the registry's when set.  done is when it last reported done (0: never since it was armed).
    """

    boot: str | None = None
    profile: str | None = None
    done: float = 0.0
    reply_style: str | None = None  # the style that worked, or the next one to try
    local_boot: str | None = None  # the way to the local disk that worked
    local_boot_works: bool = False  # it stayed away once it was sent there
    loader_fetches: int = 0  # loads of the same NBP in the last two minutes without a script: the loop guard
    deadline: float = 0.0  # until when the installation under way must report done; 0: none is, or it has no limit
    overdue: float = 0.0  # when the last one had to, and did not (0: there is none)
    fetched: tuple[tuple[str, str, float], ...] = ()  # documents with secrets: which of which boot, by which address, when


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the registry and the state store say of a client, and why."""

    machine: Machine | None = None
    group: Group | None = None
    profile: Profile | None = None
    vars: Mapping[str, Any] = EMPTY
    state: MachineState = field(default_factory=MachineState)
    why: str = ""

    @property
    def known(self) -> bool:
        return self.machine is not None or self.group is not None

    @property
    def order(self) -> str:
        """always | once | local: what was ordered, else what the registry says."""
        return self.state.boot or (self.machine.boot if self.machine else "always")


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses first to last, both included, as integers in host order."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Network:
    """One entry of `networks` in the settings (docs/reference.md), with its defaults."""

    interface: str | None = None
    subnet: IPv4Network | None = None
    mode: str = "proxy"  # proxy | server | off
    pools: tuple[Pool, ...] = ()
    routers: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    domain: str | None = None
    lease_time: int = 12 * 3600
    min_lease_time: int = 120
    max_lease_time: int = 7 * 86400
    authoritative: bool = False
    identify_by: str = "mac"  # mac | client-id
    probe: bool = True
    options: Mapping[int, bytes] = EMPTY
    force: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """One network as the daemon stands in it now: who we are there, and what it was told to do there."""

    network: Network
    interface: str  # the interface that packets of this network arrive by, also those of a relay
    ifindex: int
    address: str  # ours on that interface: siaddr, option 54, source
    subnet: IPv4Network
    http_url: str  # "http://192.168.77.1:8080", no slash at the end
    loaders: Mapping[Arch, str]  # NBP below tftp.root by architecture
    unknown: str = "menu"  # menu | ignore | local | name of a profile
    foreign_pxe: bool = False  # unknown is ignore because another PXE server answers here
    answer: str = "all"  # all | known
    link_key: bytes = field(default=b"", repr=False)  # signs the paths of other servers' files (remote.py)


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all at this stage."""

    why: str


@dataclass(frozen=True, slots=True)
class LoadNBP:
    """Fetch and run a boot program.  path: below tftp.root with the MAC's directory before it (tftp), or a URL (http)."""

    path: str
    over: str  # tftp | http
    why: str


@dataclass(frozen=True, slots=True)
class FetchScript:
    """iPXE runs: fetch this script."""

    url: str
    why: str


@dataclass(frozen=True, slots=True)
class Boot:
    """Boot this profile (its kernel, script, chain or the menu)."""

    profile: Profile
    vars: Mapping[str, Any]
    why: str


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """Leave the network and start from disk.  how: exit0 | exit1 | sanboot | http404; to firmware: no boot data."""

    how: str
    why: str


Step = Silence | LoadNBP | FetchScript | Boot | LocalDisk


class LeaseState(Enum):
    OFFERED = "offered"
    BOUND = "bound"
    DECLINED = "declined"
    EXPIRED = "expired"


# A Lease and an Event are not changed either (the journal alone counts in `repeated`), but made by the thousand: a frozen one
# takes three times as long to make.
@dataclass(slots=True, unsafe_hash=True)
class Lease:
    """An address and who holds it.  client is the key (RFC 2131 §4.2): the MAC, or "id:" + option 61 in hex."""

    address: str
    client: str
    mac: Mac
    state: LeaseState
    expires: float
    hostname: str = ""
    client_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a datagram reached us.  address is ours on that interface; now is in seconds since 1970."""

    port: int
    peer: tuple[str, int]
    ifindex: int
    address: str
    now: float


@dataclass(slots=True, unsafe_hash=True)
class Event:
    """One fact of a boot.  service: dhcp | tftp | http | registry | serve …; kind: one word or two; detail: plain values.

    level: debug (normal noise: probes, expected misses) | info | warning | alarm (somebody must look).
    """

    at: float
    mac: Mac | None
    service: str
    kind: str
    detail: Mapping[str, Any] = EMPTY
    level: str = "info"
    repeated: int = field(default=0, init=False, compare=False)  # times that the same was heard again soon after
