"""Settings: pixieboot.yaml (docs/reference.md) with the options of the command line above it.

An option wins over its environment variable, which wins over the file, which wins over the defaults.  All faults are told,
each with its line.  Nothing here changes once it is read: a reload makes new Settings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote

from pixieboot import sandbox
from pixieboot.errors import Faults, OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import Arch, Network, Pool, Profile
from pixieboot.registry import Registry
from pixieboot.registry.fields import Fields, listed, nearest
from pixieboot.registry.kinds import is_bootcfg, is_matchbox
from pixieboot.registry.strictyaml import Node, parse, read_text
from pixieboot.remote import last_part

STATE_DIRECTORY = Path("/var/lib/pixieboot")
LOADERS: Mapping[Arch, str] = {
    Arch.X86_BIOS: "undionly.kpxe",
    Arch.X86_EFI: "ipxe-i386.efi",
    Arch.X64_EFI: "ipxe.efi",
    Arch.ARM64_EFI: "ipxe-arm64.efi",
}
MODES = ("proxy", "server", "off")
API = "pixiecore+"  # how a registry begins that is asked by HTTP
UNKNOWN = ("menu", "ignore", "local")  # or the name of a profile

_KEYS = (
    "networks", "answer", "unknown", "tftp", "http", "api", "assets", "registry", "state", "loaders", "cache", "pixiecore", "log",
    "key_ring",
)  # fmt: skip
_NETWORK_KEYS = (
    "interface", "subnet", "dhcp", "pools", "routers", "dns", "domain", "lease_time", "min_lease_time", "max_lease_time",
    "authoritative", "identify_by", "probe", "options", "force",
)  # fmt: skip
_TFTP_KEYS = ("root", "port", "single_port", "ports", "max_blksize", "max_windowsize", "follow_links")
_OPTIONS = {  # key of the overrides -> how the operator wrote it
    "interfaces": "--interface (PIXIEBOOT_INTERFACE)",
    "dhcp": "--dhcp (PIXIEBOOT_DHCP)",
    "pool": "--pool (PIXIEBOOT_POOL)",
    "http_port": "--http-port (PIXIEBOOT_HTTP_PORT)",
    "tftp_root": "--tftp-root (PIXIEBOOT_TFTP_ROOT)",
    "assets": "--assets (PIXIEBOOT_ASSETS)",
    "state": "--state (PIXIEBOOT_STATE)",
    "key_ring": "--key-ring-path (PIXIEBOOT_KEY_RING_PATH)",
    "kernel": "--kernel (PIXIEBOOT_KERNEL)",
    "initrds": "--initrd (PIXIEBOOT_INITRD)",
    "cmdline": "--cmdline (PIXIEBOOT_CMDLINE)",
    "message": "--message (PIXIEBOOT_MESSAGE)",
}
_INTERFACE = re.compile(r"[!-.0-9:-~]{1,15}", re.ASCII)  # what Linux takes: no slash, no white space (dev_valid_name)
_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?", re.ASCII)
_BASE_URL = re.compile(r"https?://[^/?#\s]+(?:/[^?#\s]*)?", re.ASCII)
_API_URL = re.compile(r"pixiecore\+https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[!-~]*)?", re.ASCII)
_WORD = re.compile(r'(?:\{\{.*?\}\}|"[^"]*"|\S)+')
_ID = re.compile(r'\{\{-?\s*ID\s+"([^"]*)"\s*-?\}\}')  # how Pixiecore's --cmdline names a further file
_HOST_PORT = re.compile(r"([0-9.]{7,15}|localhost):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TftpSettings:
    """ports: first and last local port of transfers, 0-0 leaves them to the kernel.  max_blksize None: what the MTU allows."""

    root: Path = STATE_DIRECTORY / "tftproot"
    port: int = 69
    single_port: bool = False
    ports: tuple[int, int] = (0, 0)
    max_blksize: int | None = None
    max_windowsize: int = 64
    follow_links: bool = False


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """base_url: `auto` is http://ADDRESS-OF-THAT-INTERFACE:PORT."""

    port: int = 8080
    base_url: str = "auto"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """listen: `same` is the port of machines; else ADDRESS:PORT."""

    listen: str = "same"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """size: bytes of other servers' files that are kept below the state directory; those unused for longest go first."""

    size: int = 10 << 30


@dataclass(frozen=True, slots=True)
class LogSettings:
    """level: debug | info | warning | error; format: text | json, one object a line."""

    level: str = "info"
    format: str = "text"


@dataclass(frozen=True, slots=True)
class Settings:
    """networks (): every interface that can be served, in proxy mode.  unknown None: not set, which means menu with care."""

    networks: tuple[Network, ...] = ()
    answer: str = "all"
    unknown: str | None = None
    tftp: TftpSettings = field(default_factory=TftpSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    assets: Path = STATE_DIRECTORY / "assets"
    registry: str = "/etc/pixieboot"
    state: str = f"sqlite:{STATE_DIRECTORY}/state.db"
    loaders: Mapping[Arch, str] = field(default_factory=lambda: dict(LOADERS))
    cache: CacheSettings = field(default_factory=CacheSettings)
    pixiecore_files: Path | None = None  # below which an API may name files of this host
    boot: Profile | None = None  # what every machine boots (serve --kernel): no registry is read then
    boot_files: frozenset[str] = frozenset()  # the file:/// addresses of that
    log: LogSettings = field(default_factory=LogSettings)
    key_ring: Path | None = None
    path: Path | None = None
    unknown_where: str = ""

    def file_of(self, url: str) -> tuple[Path, str] | None:
        """(root, path below it) of a file:/// address that machines may have; None: they may not."""
        path = unquote(url.removeprefix("file://"))
        if url in self.boot_files:
            return Path("/"), path
        if self.pixiecore_files and PurePath(path).is_relative_to(self.pixiecore_files):
            return self.pixiecore_files, str(PurePath(path).relative_to(self.pixiecore_files))
        return None

    @property
    def adopted(self) -> Path:
        """The directory of the machines that the API described."""
        return Path(self.state.removeprefix("sqlite:")).parent / "adopted"


def load(path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """The settings of this file (None: the defaults) with the options of `serve` above it.  Raises Faults with all of them."""
    settings, faults = _read(path, overrides)
    if faults:
        raise Faults(faults)
    return settings


def check(path: Path | None) -> str:
    """Settings and registry in one pass: a sentence about what was read.  Raises Faults with everything that is wrong."""
    settings, faults = _read(path, {})
    registry = Registry(settings.registry, settings.adopted)
    try:
        registry.load()
    except Faults as error:
        faults += error.faults
    else:
        faults += (*unresolved(settings, registry.current), *registry.notes)
    if settings.key_ring and not settings.key_ring.is_file():
        mend = "Write it with `gpg --export-secret-keys KEY`, or correct key_ring."
        faults.append(OperatorError(f"key_ring {settings.key_ring}", "there is no such file", mend))
    if faults:
        raise Faults(faults)
    now = registry.current
    notes = "".join(f"\n{caution}" for caution in cautions(settings, now))
    counts = f"{len(now.machines)} machines, {len(now.groups)} groups, {len(now.profiles)} profiles, {len(now.templates)} templates"
    return f"{path or 'no settings file: the defaults'}, {settings.registry}: {counts}; no faults.{notes}"


def cautions(settings: Settings, inventory: Inventory) -> list[str]:
    """What is right by the letter and will not work on the wire, in the operator's words."""
    proxies = [network.interface or str(network.subnet) for network in settings.networks if network.mode == "proxy"]
    if settings.networks and not proxies:
        return []
    found = [(f"{settings.path}: loaders", name) for name in settings.loaders.values() if _starts_grub(name)]
    for title, holders in (("machine", inventory.machines), ("group", inventory.groups), ("profile", inventory.profiles)):
        for holder in holders.values():
            found += [(f"{holder.where}: {title} {holder.name}", name) for name in holder.loader.values() if _starts_grub(name)]
    if not found:
        return []
    (where, name), more = found[0], f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return [
        f"{where}{more}: {name} does not boot beside a router ({', '.join(proxies) or 'every network'}: proxy): GRUB asks the "
        "router, not this host, for its files by TFTP. Set `dhcp: server` there, or name this host as next-server on the router "
        "(see `pixieboot router-help`). UEFI HTTP Boot is no way round: Debian's signed GRUB has no HTTP."
    ]


def _starts_grub(name: str) -> bool:
    """Is this shim, or GRUB itself, by the names that distributions give them?"""
    return name.rpartition("/")[2].lower().startswith(("shim", "grub", "bootnet"))


def unresolved(settings: Settings, inventory: Inventory) -> list[OperatorError]:
    """What the settings name that the registry does not have."""
    if settings.unknown is None or settings.unknown in UNKNOWN or settings.unknown in inventory.profiles:
        return []
    mend = nearest(settings.unknown, [*UNKNOWN, *inventory.profiles], f"Write {listed(UNKNOWN)}, or the name of a profile.")
    return [OperatorError(settings.unknown_where, f"unknown names the profile {settings.unknown!r}, which does not exist", mend)]


def parse_pool(text: str) -> Pool:
    """ "A-B", both included, or one address.  Raises ValueError with a clause."""
    first, dash, last = (part.strip() for part in text.partition("-"))
    try:
        pool = Pool(int(IPv4Address(first)), int(IPv4Address(last if dash else first)))
    except ValueError:
        raise ValueError(f"{text!r} is not a range of IPv4 addresses") from None
    if pool.first > pool.last:
        raise ValueError(f"the pool {text} ends before it begins")
    return pool


_POOL_MEND = "Write the first and the last address, such as 192.168.77.100-192.168.77.199."


def _read(path: Path | None, overrides: Mapping[str, Any]) -> tuple[Settings, list[OperatorError]]:
    faults: list[OperatorError] = []
    node = None
    if path and (text := read_text(str(path), faults)) is not None:
        node = parse(text, str(path), faults)
    settings = _settings(Fields(node or Node(None, 1), str(path or "pixieboot.yaml"), "the settings", _KEYS, faults), path)
    return _Overrides(overrides, faults).apply(settings), faults


def _settings(fields: Fields, path: Path | None) -> Settings:
    base = path.parent if path else Path.cwd()
    default = Settings()
    tftp = _section(fields, "tftp", _TFTP_KEYS)
    http = _section(fields, "http", ("port", "base_url"))
    log = _section(fields, "log", ("level", "format"))
    registry = _registry(fields, base) or default.registry
    return Settings(
        networks=_networks(fields),
        answer=fields.choice("answer", ("all", "known"), "all"),
        unknown=fields.text("unknown") or ("ignore" if registry.startswith(API) else None),
        tftp=TftpSettings(
            root=_path(tftp, "root", default.tftp.root, base),
            port=tftp.integer("port", 1, 65535, 69),
            single_port=tftp.flag("single_port", False),
            ports=tftp.parsed("ports", _ports, "Write the first and the last port, such as 30000-30999.") or (0, 0),
            max_blksize=None if tftp.text("max_blksize", "auto") == "auto" else tftp.size("max_blksize", 8, 65464, 1428),
            max_windowsize=tftp.integer("max_windowsize", 1, 65535, 64),
            follow_links=tftp.flag("follow_links", False),
        ),
        http=HttpSettings(
            port=http.integer("port", 1, 65535, 8080),
            base_url=http.parsed("base_url", _base_url, "Write auto, or for example http://192.168.77.1:8080.") or "auto",
        ),
        api=ApiSettings(
            _section(fields, "api", ("listen",)).parsed("listen", _listen, "Write same, or for example 127.0.0.1:8081.") or "same"
        ),
        assets=_path(fields, "assets", _foreign_assets(registry) or default.assets, base),
        registry=registry,
        state=_state(fields, base) or default.state,
        loaders={**LOADERS, **fields.by_arch("loaders")},
        cache=CacheSettings(_section(fields, "cache", ("size",)).size("size", 0, 1 << 50, default.cache.size)),
        pixiecore_files=base / files if (files := _section(fields, "pixiecore", ("files",)).text("files")) else None,
        log=LogSettings(
            level=log.choice("level", ("debug", "info", "warning", "error"), "info"),
            format=log.choice("format", ("text", "json"), "text"),
        ),
        key_ring=base / key_ring if (key_ring := fields.text("key_ring")) else None,
        path=path,
        unknown_where=fields.where("unknown") if fields.has("unknown") else "",
    )


def _section(fields: Fields, key: str, known: Sequence[str]) -> Fields:
    return Fields(fields.nodes.get(key) or Node(None, fields.line), fields.file, key, known, fields.faults)


def _path(fields: Fields, key: str, default: Path, base: Path) -> Path:
    """A path of the file; a relative one is meant from the directory of the file."""
    text = fields.text(key)
    return default if text is None else base / text


def _foreign_assets(registry: str) -> Path | None:
    """Where Matchbox and bootcfg keep their kernels: beside the rest, unless the settings say otherwise."""
    root = Path(registry)
    try:
        names = ("images", "assets") if is_bootcfg(root) else ("assets",) if is_matchbox(root) else ()
        return next((root / name for name in names if (root / name).is_dir()), None)
    except OSError:  # it may not be read: the registry says so when it is loaded
        return None


def _registry(fields: Fields, base: Path) -> str | None:
    text = fields.text("registry")
    if text is None or "://" not in text:
        return text and str(base / text)
    if not _API_URL.fullmatch(text):
        mend = "Write a directory, or pixiecore+http://HOST/PREFIX."
        fields.fault(fields.nodes["registry"], f"registry is {text!r}, which is no registry that pixieboot has", mend)
        return None
    return text


def _state(fields: Fields, base: Path) -> str | None:
    text = fields.text("state")
    if text is None:
        return None
    scheme, colon, rest = text.partition(":")
    if not colon or scheme != "sqlite" or not rest or rest.startswith("//"):
        mend = f"Write sqlite: and a path, such as {Settings.__dataclass_fields__['state'].default}."
        fields.fault(fields.nodes["state"], f"state is {text!r}, which is no store that pixieboot has", mend)
        return None
    return f"sqlite:{base / rest}"


def _ports(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not re.fullmatch(r"[0-9]{1,5}-[0-9]{1,5}", text, re.ASCII) or not int(first) <= int(last) <= 65535:
        raise ValueError(f"ports is {text!r}, want a range such as 30000-30999")
    return int(first), int(last)


def _base_url(text: str) -> str:
    if text != "auto" and not _BASE_URL.fullmatch(text):
        raise ValueError(f"base_url is {text!r}, not the address of a web server")
    return text.rstrip("/")


def _listen(text: str) -> str:
    match = _HOST_PORT.fullmatch(text)
    if text == "same":
        return text
    try:
        if match and 0 < int(match[2]) < 65536 and (match[1] == "localhost" or IPv4Address(match[1])):
            return text
    except ValueError:
        pass
    raise ValueError(f"listen is {text!r}, want ADDRESS:PORT")


def _networks(fields: Fields) -> tuple[Network, ...]:
    node = fields.nodes.get("networks")
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        fields.fault(node, f"networks is {node.kind}, not a list", "Begin each network with a dash: `- interface: eth0`.")
        return ()
    networks: list[Network] = []
    for entry in node.value:
        network = _network(entry, fields)
        key = (network.interface, network.subnet)
        twin = next((other for other in networks if (other.interface, other.subnet) == key), None)
        if twin and key != (None, None):
            what = f"{network.interface or network.subnet} is described already at {twin.where}"
            fields.fault(entry, what, "Make one network of the two.")
        for other in networks:
            for pool in network.pools:
                if any(pool.first <= theirs.last and theirs.first <= pool.last for theirs in other.pools):
                    what = f"the pool {_pool_text(pool)} overlaps one of the network at {other.where}"
                    fields.fault(entry, what, "Give every address to one network only.")
        networks.append(network)
    return tuple(networks)


def _network(node: Node, parent: Fields) -> Network:
    entry = Fields(node, parent.file, "a network", _NETWORK_KEYS, parent.faults)
    interface = entry.parsed("interface", _interface, "Write a name that `ip link` shows, such as eth0.")
    subnet = entry.parsed("subnet", _subnet, "Write the network's own address, such as 10.20.0.0/24.")
    if isinstance(node.value, dict) and not entry.has("interface") and not entry.has("subnet"):
        mend = "Add `interface: eth0`, or the subnet behind a relay."
        entry.fault(node, "the network names neither an interface nor a subnet", mend)
    mode = entry.choice("dhcp", MODES, "proxy")
    pools = tuple(pool for item in entry.scalars("pools") if (pool := entry.parse(item, parse_pool, _POOL_MEND)))
    if mode == "server" and not entry.has("pools"):
        mend = "Add `pools: [192.168.77.100-192.168.77.199]`, or `pools: []` if only reservations are to be leased."
        entry.fault(entry.nodes.get("dhcp", node), "dhcp: server without pools has no address to lease", mend)
    if mode != "server" and pools:
        entry.fault(entry.nodes["pools"], f"pools are there, but dhcp is {mode}", "Write `dhcp: server`, or remove the pools.")
    for pool in pools:
        if subnet and not (IPv4Address(pool.first) in subnet and IPv4Address(pool.last) in subnet):
            what = f"the pool {_pool_text(pool)} does not lie in {subnet}"
            entry.fault(entry.nodes["pools"], what, "Correct the pool or the subnet.")
    default = Network()
    lease_time = int(entry.seconds("lease_time", default.lease_time, 2))
    shortest = int(entry.seconds("min_lease_time", min(default.min_lease_time, lease_time), 2))
    longest = int(entry.seconds("max_lease_time", max(default.max_lease_time, lease_time), 2))
    if not shortest <= lease_time <= longest:
        mend = "Let min_lease_time <= lease_time <= max_lease_time."
        entry.fault(node, f"lease_time of {lease_time} s does not lie between {shortest} and {longest} s", mend)
    return Network(
        interface=interface,
        subnet=subnet,
        mode=mode,
        pools=pools,
        routers=entry.addresses("routers"),
        dns=entry.addresses("dns"),
        domain=entry.parsed("domain", _domain, "Write for example lab.example."),
        lease_time=lease_time,
        min_lease_time=shortest,
        max_lease_time=longest,
        authoritative=entry.flag("authoritative", False),
        identify_by=entry.choice("identify_by", ("mac", "client-id"), "mac"),
        probe=entry.flag("probe", True),
        options=entry.options(),
        force=entry.flag("force", False),
        where=f"{entry.file}:{entry.line}",
    )


def _pool_text(pool: Pool) -> str:
    return f"{IPv4Address(pool.first)}-{IPv4Address(pool.last)}"


def _interface(text: str) -> str:
    if not _INTERFACE.fullmatch(text) or text in (".", ".."):
        raise ValueError(f"{text!r} is no name of an interface")
    return text


def _subnet(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 network") from None


def _domain(text: str) -> str:
    if len(text) > 253 or not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is not a domain name")
    return text.rstrip(".")


class _Overrides:
    """The options of `serve` and their environment variables, put above the settings of the file."""

    def __init__(self, given: Mapping[str, Any], faults: list[OperatorError]) -> None:
        self._given, self._faults = given, faults

    def apply(self, settings: Settings) -> Settings:
        given = self._given
        if path := given.get("tftp_root"):
            settings = replace(settings, tftp=replace(settings.tftp, root=Path(path).absolute()))
        if path := given.get("assets"):
            settings = replace(settings, assets=Path(path).absolute())
        if path := given.get("key_ring"):
            settings = replace(settings, key_ring=Path(path).absolute())
        if port := given.get("http_port"):
            settings = replace(settings, http=replace(settings.http, port=port))
        if state := given.get("state"):
            settings = replace(settings, state=self._parsed("state", state, "state", _state) or settings.state)
        boot, files = self._boot()
        return replace(settings, networks=self._networks(settings.networks), boot=boot, boot_files=files)

    def _boot(self) -> tuple[Profile | None, frozenset[str]]:
        """What --kernel and its fellows have every machine boot, and the files of this host among it."""
        given = self._given
        if not given.get("kernel"):
            for option in ("initrds", "cmdline", "message"):
                if given.get(option):
                    self._fault(option, "it is not said with which kernel", "Add --kernel FILE or URL.")
            return None, frozenset()
        files: set[str] = set()
        kernel = self._file("kernel", given["kernel"], files)
        initrds = tuple(self._file("initrds", text, files) for text in given.get("initrds", ()))
        cmdline = _ID.sub(lambda match: f'{{{{ asset("{self._file("cmdline", match[1], files)}") }}}}', given.get("cmdline") or "")
        for option, text in (("cmdline", cmdline), ("message", given.get("message") or "")):
            if fault := sandbox.syntax_fault(text):
                self._fault(option, fault[1], "Correct the expression between {{ and }}.")
        title = last_part(kernel)
        profile = Profile(
            "command-line", title, kernel, initrds, tuple(_WORD.findall(cmdline)), message=given.get("message") or "",
            cache="fresh", where="--kernel",
        )  # fmt: skip
        return profile, frozenset(files)

    def _file(self, option: str, text: str, files: set[str]) -> str:
        """The address of a file that is named by URL or path; what is of this host is noted in files."""
        if text.startswith(("http://", "https://")):
            return text
        if "://" in text:
            self._fault(option, f"{text} is neither a file nor an http or https address", "Name one of these.")
            return text
        path = Path(text).resolve()
        try:
            if not path.is_file():
                self._fault(option, f"{text} is no file", "Name a file of this host, or a URL.")
            else:
                path.open("rb").close()
        except OSError as error:
            mend = "The user pixieboot must be able to read it: put it below /var/lib/pixieboot, or mend its rights."
            self._fault(option, f"{text} cannot be read ({error.strerror})", mend)
        url = f"file://{quote(str(path))}"
        files.add(url)
        return url

    def _parsed(self, option: str, text: str, key: str, read: Any) -> Any:
        """An option's text through the reader of the same key of the file."""
        own: list[OperatorError] = []
        value = read(Fields(Node({key: Node(text, 0, text)}, 0, lines={key: 0}), "", option, (key,), own), Path.cwd())
        self._faults += (OperatorError(_OPTIONS[option], fault.what, fault.mend) for fault in own)
        return value

    def _fault(self, option: str, what: str, mend: str) -> None:
        self._faults.append(OperatorError(_OPTIONS[option], what, mend))

    def _networks(self, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        """-i leaves these interfaces only, each as the file describes it; --dhcp and --pool are for all that are left."""
        given = self._given
        if names := given.get("interfaces"):
            networks = tuple(found for name in dict.fromkeys(names) for found in self._described(name, networks))
        mode = given.get("dhcp")
        if mode is not None and mode not in MODES:
            self._fault("dhcp", f"{mode!r} is no mode", nearest(str(mode), MODES, f"Write {listed(MODES)}."))
            mode = None
        pools = self._pools()
        if not networks and (pools or mode in ("server", "off")):
            option = "dhcp" if mode in ("server", "off") else "pool"
            self._fault(option, "it is not said on which network", "Name the interface, such as -i eth1.")
            return networks
        if mode:
            networks = tuple(replace(network, mode=mode, pools=network.pools if mode == "server" else ()) for network in networks)
        servers = [network for network in networks if network.mode == "server"]
        if pools and len(servers) != 1:
            mend = "Name the one interface: -i eth1 --dhcp server --pool A-B." if servers else "Add --dhcp server."
            self._fault("pool", f"{len(servers)} networks lease addresses, and a pool belongs to one", mend)
        elif pools:
            networks = tuple(replace(network, pools=pools) if network.mode == "server" else network for network in networks)
        elif mode == "server" and any(not network.pools for network in servers):
            self._fault("dhcp", "a server without a pool has no address to lease", f"Add --pool. {_POOL_MEND}")
        return networks

    def _described(self, name: str, networks: tuple[Network, ...]) -> list[Network]:
        try:
            _interface(name)
        except ValueError as error:
            self._fault("interfaces", str(error), "Write a name that `ip link` shows, such as eth0.")
            return []
        found = [network for network in networks if network.interface == name]
        return found or [Network(interface=name, where="--interface")]

    def _pools(self) -> tuple[Pool, ...]:
        text = self._given.get("pool")
        if not text:
            return ()
        try:
            return tuple(parse_pool(part) for part in text.split(","))
        except ValueError as error:
            self._fault("pool", str(error), _POOL_MEND)
            return ()
