"""Before anything is blamed: is this host able to boot others?  One check a thing, each with how to mend it; changes nothing."""

import ctypes
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixieboot import config, firewall
from pixieboot.bootprogram import examine
from pixieboot.client import Daemon, Unreachable
from pixieboot.config import Settings
from pixieboot.errors import Faults, OperatorError
from pixieboot.firewall import Closed, Port
from pixieboot.model import Arch, Mac, Site
from pixieboot.registry import Registry
from pixieboot.serve import access
from pixieboot.serve.files import open_boot_file, remedy
from pixieboot.serve.links import ETHERNET, Link, Sites
from pixieboot.serve.neighbours import Neighbour
from pixieboot.serve.ports import others
from pixieboot.serve.privilege import USER

FREE_OCTETS, FREE_SHARE = 200 << 20, 0.03
OLD_IPXE = "1.0.0+git-2019"
BUILT = 1_700_000_000.0  # a clock before November 2023 stands wrong
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)

SysctlReader = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and what came of it.  mend: whole sentences or lines to type.

    level: ok | note (something is not there that nobody may need) | warning | fault.
    """

    name: str
    level: str
    what: str
    mend: str = ""


def examine_host(path: Path | None, probe: bool = True) -> Iterator[Check]:
    """Every check, one after the other, as each is done.  probe: ask the wire for other servers (3.5 s, needs root)."""
    try:
        settings = config.load(path, {})
    except Faults as error:
        yield from (Check("settings", "fault", f"{fault.where}: {fault.what}", fault.mend) for fault in error.faults)
        yield Check("settings", "warning", "the checks below are made with the defaults")
        settings = Settings()
    else:
        yield Check("settings", "ok", str(path) if path else "no file: the defaults hold")
        yield from check_registry(settings)
    sites = Sites(settings)
    daemon, pid = check_daemon(path)
    yield daemon
    yield from check_user(settings)
    yield from check_networks(settings, sites)
    yield from check_ports(settings, pid)
    yield from check_loaders(settings)
    yield from check_space(settings)
    yield from check_links(sites)
    yield from check_reverse_path(sites, _sysctl)
    yield from check_firewall(settings, sites)
    yield check_clock(time.time(), _kernel_says_synchronised())
    if probe:
        yield from check_neighbours(sites)


def check_registry(settings: Settings) -> Iterator[Check]:
    registry = Registry(settings.registry, settings.adopted)
    try:
        registry.load()
    except Faults as error:
        yield from (Check("registry", "fault", f"{fault.where}: {fault.what}", fault.mend) for fault in error.faults)
        return
    for fault in config.unresolved(settings, registry.current):
        yield Check("registry", "fault", f"{fault.where}: {fault.what}", fault.mend)
    now = registry.current
    counts = f"{len(now.machines)} machines, {len(now.groups)} groups, {len(now.profiles)} profiles"
    yield Check("registry", "ok", f"{settings.registry}: {counts}")
    yield from check_assets(settings, registry)


def check_assets(settings: Settings, registry: Registry) -> Iterator[Check]:
    """Kernels and initrds that profiles name, and that are not there: a line for each profile, a warning if it is in use."""
    now = registry.current
    used = {settings.unknown, *(each.profile for each in now.machines.values()), *(each.profile for each in now.groups.values())}
    for profile in now.profiles.values():
        variants = profile.arch.values()
        kernels = [profile.kernel, *(variant.kernel for variant in variants)]
        initrds = [*profile.initrd, *(initrd for variant in variants for initrd in variant.initrd or ())]
        named = dict.fromkeys(each for each in (*kernels, *initrds) if each and "://" not in each and "{" not in each)
        if not (lacking := [name for name in named if not (settings.assets / name.lstrip("/")).is_file()]):
            continue
        what = f"profile {profile.name} ({profile.where}) names {', '.join(lacking)}: not below {settings.assets}"
        if profile.name in used:
            mend = "Put it there, or mend the profile: the machine gets 404."
            yield Check("assets", "warning", what, mend)
        else:
            yield Check("assets", "note", f"{what}; nothing boots it yet but by the menu")


def check_daemon(path: Path | None) -> tuple[Check, int]:
    """Does the daemon answer?  With its process number; 0 if it does not run."""
    try:
        told = Daemon.find(path).get("/health")
    except (Unreachable, OperatorError, Faults) as error:
        mend = "Start it: sudo pixieboot serve, or systemctl start pixieboot."
        if os.geteuid():
            mend = f"Run doctor as root. If it does not run: {mend}"
        return Check("daemon", "warning", f"it does not answer: {error}", mend), 0
    if told["history"]:
        what = f"version {told['version']} runs; {told['history']}"
        return Check("daemon", "warning", what, "Make room on the disk of the state."), told["pid"]
    return Check("daemon", "ok", f"version {told['version']} answers"), told["pid"]


def check_user(settings: Settings) -> Iterator[Check]:
    """The daemon's user, and what it must be able to read."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        mend = f"useradd --system --no-create-home --shell /usr/sbin/nologin {USER}"
        yield Check("user", "warning", f"there is no user {USER}: the daemon would become nobody", mend)
        return
    yield Check("user", "ok", f"the daemon becomes {USER} ({user.pw_uid})")
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    state = access.state_directory(settings)
    for name, directory, write in (
        ("tftp.root", settings.tftp.root, False),
        ("assets", settings.assets, False),
        *([] if "://" in settings.registry else [("registry", Path(settings.registry), False)]),
        ("state", state, True),
    ):
        if not directory.exists():
            level, mend = ("warning", f"mkdir -p {directory}") if name == "assets" else ("note", "")
            yield Check(name, level, f"{directory} does not exist yet", mend)
        elif not _may(directory, user.pw_uid, groups, write):
            mend = f"chown {USER}: {directory}" if write else f"chmod a+rx {directory}, and a+x on every directory above it."
            yield Check(name, "fault", f"{USER} may not {'write' if write else 'read'} {directory}", mend)
        else:
            yield Check(name, "ok", f"{directory} is {'writable' if write else 'readable'} for {USER}")


def _may(directory: Path, uid: int, groups: set[int], write: bool) -> bool:
    """May this user use the directory, and come to it?"""
    place = directory.resolve()
    above = all(permits(parent.stat(), uid, groups, 1) for parent in place.parents)
    return above and permits(place.stat(), uid, groups, 7 if write else 5)


def permits(status: os.stat_result, uid: int, groups: set[int], wanted: int) -> bool:
    """Do the mode bits give this user what is wanted (4 read, 2 write, 1 pass)?"""
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return (status.st_mode >> shift) & wanted == wanted


def check_networks(settings: Settings, sites: Sites) -> Iterator[Check]:
    """Which networks are served, and what keeps others from it."""
    for site in sites.sites:
        yield Check("network", "ok", f"{site.interface}: {site.network.mode}, as {site.address} in {site.subnet}")
    for note in sites.notes:
        yield Check("network", "warning", note, "Mend the interface, or name another one under `networks`.")
    if not sites.sites:
        named = ", ".join(link.name for link in sites.links.values()) or "none"
        what = f"no interface can be served (there are: {named})"
        mend = "Bring one up with an address; in a container use --network host or macvlan: Docker's bridge passes no broadcast."
        yield Check("network", "fault", what, mend)
    for site in sites.sites:
        if site.network.mode == "server" and not site.network.pools:
            what = f"{site.interface}: dhcp: server without pools leases reserved addresses only"
            yield Check("network", "warning", what, "Add pools: [A-B] to that network, if others shall get addresses too.")


def check_ports(settings: Settings, pid: int) -> Iterator[Check]:
    """Is anybody else on our ports?  pid: of the daemon that runs, 0 for none."""
    for protocol, port, service in _ports(settings):
        holders = others(port, protocol)
        foreign = [str(holder) for holder in holders if not pid or holder.pid not in (pid, 0)]
        if not foreign:
            yield Check("port", "ok", f"{protocol} {port} ({service}) is {'ours' if holders else 'free'}")
            continue
        who = " and ".join(foreign)
        mend = f"Stop it: `ss -lnp 'sport = :{port}'` shows whose it is."
        if "dnsmasq" in who:
            mend = "It may be libvirt's (virsh net-list; virsh net-destroy default) or the host's own (systemctl stop dnsmasq)."
        elif "networkd" in who or "systemd-network" in who:
            mend = "Set DHCPServer=no for that link in /etc/systemd/network."
        # DHCP servers share their port, each for an interface of its own; nothing else can.
        level = "warning" if port in (67, 4011) else "fault"
        if os.geteuid() and not any(holder.name for holder in holders):
            level, mend = "warning", "Run doctor as root: it may be the daemon itself."  # only root sees whose sockets those are
        yield Check("port", level, f"{protocol} {port} ({service}) is held by {who}", mend)


def _ports(settings: Settings) -> list[tuple[str, int, str]]:
    ports = [("udp", settings.tftp.port, "TFTP"), ("tcp", settings.http.port, "HTTP")]
    if any(network.mode != "off" for network in settings.networks) or not settings.networks:
        ports = [("udp", 67, "DHCP"), ("udp", 4011, "PXE"), *ports]
    return ports


def check_loaders(settings: Settings) -> Iterator[Check]:
    """The boot programs: there, for the right machine, not of yesterday."""
    for arch, name in settings.loaders.items():
        try:
            with open_boot_file(settings.tftp.root, name.split("/"), settings.loaders.values(), settings.tftp.follow_links) as file:
                place = os.readlink(f"/proc/self/fd/{file.fd}")
                program = examine(os.pread(file.fd, file.size, 0))
        except OSError as error:
            what, mend = f"{arch.value}: {name}: {error.strerror or error}", remedy(name, settings.tftp.root)
            # Of no usual PC, and the operator did not name it.
            rare = arch not in (Arch.X86_BIOS, Arch.X64_EFI) and name == config.LOADERS.get(arch)
            level, what = ("note", f"{what}; only such machines need it") if rare else ("warning", what)
            yield Check("loader", level, what, f"{mend[0].upper()}{mend[1:]}.")
            continue
        said = f"{arch.value}: {place}"
        if arch.platform == "efi" and program.arch is not arch:
            real = program.arch.value if program.arch else "no EFI machine at all"
            yield Check("loader", "fault", f"{said} is made for {real}", f"Put the program for {arch.value} there.")
        elif program.version.startswith(OLD_IPXE):
            what = f"{said}: iPXE {program.version} has no HTTPS and is slow where IPv6 has no router"
            yield Check("loader", "warning", what, f"Put a current {name} from boot.ipxe.org into {settings.tftp.root}.")
        else:
            signed = ", signed" if program.signed else ", not signed: Secure Boot must be off" if arch.platform == "efi" else ""
            yield Check("loader", "ok", f"{said}{f', iPXE {program.version}' if program.version else ''}{signed}")


def check_space(settings: Settings) -> Iterator[Check]:
    """Room for state and assets."""
    for name, directory in (("state", access.state_directory(settings)), ("assets", settings.assets)):
        existing = next((place for place in (directory, *directory.parents) if place.exists()), Path("/"))
        usage = shutil.disk_usage(existing)
        said = f"{usage.free >> 20} MiB free for {name} on {existing}"
        if os.statvfs(existing).f_flag & os.ST_RDONLY and name == "state":
            yield Check("space", "fault", f"{existing} is mounted read-only", "mount -o remount,rw, or name another --state.")
        elif usage.free < FREE_OCTETS or usage.free < usage.total * FREE_SHARE:
            yield Check("space", "warning", said, "Leases that cannot be written are not given: make room.")
        else:
            yield Check("space", "ok", said)


def check_links(sites: Sites) -> Iterator[Check]:
    """Carrier, MTU, spanning tree and kind of each served interface."""
    for site in _one_each(sites.sites):
        link = sites.link(site.ifindex)
        if link is None:
            continue
        yield from check_link(link, Path("/sys/class/net"))


def check_link(link: Link, sysfs: Path) -> Iterator[Check]:
    directory = sysfs / link.name
    if _read(directory / "carrier") == "0":
        yield Check("link", "fault", f"{link.name} has no carrier", "Plug the cable in, or switch the other end on.")
    if link.mtu < 1500:
        what = f"{link.name} carries {link.mtu} octets: TFTP blocks are made smaller, other hosts may not know"
        yield Check("link", "warning", what, f"ip link set {link.name} mtu 1500, unless a tunnel or VLAN needs it so.")
    elif link.mtu > 1500:
        what = f"{link.name} has jumbo frames ({link.mtu}): boot ROMs have none"
        yield Check("link", "warning", what, "Set tftp: {max_blksize: 1468}, unless all of the network has them.")
    if _read(directory / "bridge" / "stp_state") == "1":
        delay = int(_read(directory / "bridge" / "forward_delay") or 0) / 100
        what = f"the bridge {link.name} runs spanning tree: a port that comes up is deaf for {2 * delay:.0f} s"
        yield Check("link", "warning", what, f"ip link set {link.name} type bridge stp_state 0, if there is no loop.")
    if (directory / "wireless").exists():
        yield Check("link", "warning", f"{link.name} is Wi-Fi: many access points drop broadcasts", "Serve from a cable.")
    if link.type != ETHERNET:
        yield Check("link", "warning", f"{link.name} is no Ethernet: replies can only be broadcast", "Serve from Ethernet.")


def check_reverse_path(sites: Sites, read: SysctlReader) -> Iterator[Check]:
    """Strict reverse path filtering drops the packets of clients that have no address yet, or come by another way."""
    for site in _one_each(sites.sites):
        strict = max(int(read(f"net/ipv4/conf/{name}/rp_filter") or 0) for name in ("all", site.interface)) == 1
        siblings = [
            other.interface for other in sites.sites if other.ifindex != site.ifindex and other.subnet.overlaps(site.subnet)
        ]
        if strict and siblings:
            what = f"{site.interface} and {siblings[0]} are in one subnet, and rp_filter is strict: one of them hears nobody"
            yield Check("reverse path", "warning", what, f"sysctl net.ipv4.conf.{site.interface}.rp_filter=2")


def check_firewall(settings: Settings, sites: Sites) -> Iterator[Check]:
    """Do the rules let boot traffic in?"""
    interfaces = [site.interface for site in _one_each(sites.sites)]
    ports: list[Port] = [(protocol, port) for protocol, port, _ in _ports(settings)]
    tool, closed, seen = "nft", list[Closed](), False
    if (ruleset := _output("nft", "-j", "list", "ruleset")) is not None:
        seen = True
        with suppress(ValueError, KeyError, TypeError):
            closed = firewall.closed_by_nft(ruleset, ports, interfaces)
    if not closed and (saved := _output("iptables-save")) is not None:
        seen, tool = True, "iptables"
        closed = firewall.closed_by_iptables(saved, ports, interfaces)
    if not seen:
        what = "the rules cannot be read" if os.geteuid() else "neither nft nor iptables is installed: no firewall on this host"
        yield Check("firewall", "warning" if os.geteuid() else "ok", what, "Run doctor as root." if os.geteuid() else "")
        return
    for rule in firewall.masquerades(_output("iptables-save", "-t", "nat") or ""):
        what = f"this rule rewrites addresses on every way out, ours too: {rule}"
        yield Check("firewall", "warning", what, "Limit it to the interface that leads out: add `-o UPLINK`.")
    if not closed:
        yield Check("firewall", "ok", "no rule closes our ports")
    else:
        if _output("firewall-cmd", "--state") is not None:
            tool = "firewalld"
        elif "Status: active" in (_output("ufw", "status") or ""):
            tool = "ufw"
        what = ", ".join(f"{each.protocol} {each.port} on {each.interface}" for each in closed)
        lines = "\n".join(firewall.opening_lines(tool, closed))
        yield Check("firewall", "fault", f"{closed[0].chain} lets these not in from everybody: {what}", lines)
    if not settings.tftp.single_port and settings.tftp.ports == (0, 0) and closed:
        what = "TFTP answers from a port of its own for each transfer; stateful rules above must let established traffic in"
        yield Check("firewall", "warning", what, "Or set tftp: {single_port: true}: everything then comes from port 69.")


def check_clock(now: float, synchronised: bool | None) -> Check:
    stamp = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    if now < BUILT:
        return Check(
            "clock", "fault", f"it says {stamp}", "Set it (a Raspberry Pi has no clock of its own): timedatectl set-ntp true."
        )
    if synchronised is False:
        return Check(
            "clock", "warning", f"it says {stamp}, and nothing keeps it right", "timedatectl set-ntp true, or install chrony."
        )
    return Check("clock", "ok", f"it says {stamp}")


def check_neighbours(sites: Sites) -> Iterator[Check]:
    """Who else answers DHCP and PXE on our networks?  Asks the wire, by scapy in a process of its own."""
    asked = [site for site in _one_each(sites.sites) if (link := sites.link(site.ifindex)) and link.type == ETHERNET]
    macs = [f"{site.interface}={Mac.of(link.mac)}" for site in asked if (link := sites.link(site.ifindex))]
    done = subprocess.run([sys.executable, "-m", "pixieboot.probe", *macs], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"
        yield Check("neighbours", "warning", f"the wire cannot be asked: {reason}", "Run doctor as root.")
        return
    answers = json.loads(done.stdout)
    own = {str(address.ip) for link in sites.links.values() for address in link.addresses}
    for site in asked:
        heard = [answer for answer in answers if answer["interface"] == site.interface and answer["address"] not in own]
        yield from judge_neighbours(site, [_neighbour(site, answer) for answer in heard])


def _neighbour(site: Site, answer: dict[str, Any]) -> Neighbour:
    address, mac = answer["address"], Mac(answer["mac"])
    return Neighbour(site.interface, site.ifindex, address, mac, answer["leases"], answer["pxe"], time.time())


def judge_neighbours(site: Site, found: Sequence[Neighbour]) -> Iterator[Check]:
    """Does what answers on this network go with what we are to do there?"""
    leasing = [str(each) for each in found if each.leases]
    pxe = [str(each) for each in found if each.pxe]
    if site.network.mode == "server" and leasing:
        mend = "Set dhcp: proxy there, switch the other one off, or set force: true."
        level = "warning" if site.network.force else "fault"
        yield Check("neighbours", level, f"{site.interface}: {' and '.join(leasing)} leases addresses too", mend)
    elif site.network.mode == "proxy" and not leasing:
        what = f"{site.interface}: nobody leases addresses there, so no machine can boot from our answers alone"
        yield Check("neighbours", "warning", what, "Switch the router's DHCP on, or set dhcp: server with a pool.")
    else:
        yield Check("neighbours", "ok", f"{site.interface}: {' and '.join(leasing) or 'no other DHCP server'}")
    if pxe:
        mend = "Machines take either answer: take next-server and boot file (options 66, 67) out of the other one."
        yield Check("neighbours", "warning", f"{site.interface}: {' and '.join(pxe)} offers boot data too", mend)


def _one_each(sites: Iterable[Site]) -> list[Site]:
    """One site for each interface."""
    return list({site.ifindex: site for site in reversed(list(sites))}.values())[::-1]


def _kernel_says_synchronised() -> bool | None:
    """Does something keep the clock right (adjtimex)?  None: the kernel does not tell."""
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).adjtimex(buffer) < 0:
        return None
    status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value
    return not status & _UNSYNCHRONISED


def _sysctl(name: str) -> str:
    return _read(Path("/proc/sys") / name)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _output(*command: str) -> str | None:
    """What a command prints; None if it is not installed or does not work."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def as_json(checks: Sequence[Check]) -> str:
    told = [{"name": each.name, "level": each.level, "what": each.what, "mend": each.mend} for each in checks]
    return json.dumps({"checks": told, "ok": all(each.level != "fault" for each in checks)}, indent=2)
