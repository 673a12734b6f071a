"""A machine's events, split into its boots; what the events of one boot amount to.

Pure: the events are the journal's (Event), `now` is an argument.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pixieboot.model import Arch, Assignment, Event, Loader

GAP = 300.0  # seconds without a word after which whatever comes next belongs to another boot
OS_GAP = 3600.0  # an installer may be silent this long between its files and its `done`
AGAIN = 10.0  # seconds after which a machine that was sent to its disk and asks again was started again
LATE_SECS = 8  # `secs` of a first DISCOVER from which on earlier ones must have been lost
ENDPOINTS = ("/ignition", "/cloud", "/generic", "/metadata")  # documents that an operating system asks for
# Words of the reasons why a machine that wants to boot from here is not answered (policy.py, dhcp.py, inventory.py).
REFUSALS = (
    "answer: known", "unknown: ignore", "another PXE server", "no boot program", "it is not guessed", "no address is free",
    "dhcp: off", "boot: local", "boot: once", "on_timeout: local", "is the local disk",
)  # fmt: skip
# What the usual boot programs run on, to notice one that was handed to the wrong firmware.
LOADER_ARCHES = {
    "undionly.kpxe": Arch.X86_BIOS, "ipxe.pxe": Arch.X86_BIOS, "ipxe.kpxe": Arch.X86_BIOS, "pxelinux.0": Arch.X86_BIOS,
    "lpxelinux.0": Arch.X86_BIOS, "ipxe.efi": Arch.X64_EFI, "snponly.efi": Arch.X64_EFI, "shimx64.efi": Arch.X64_EFI,
    "bootx64.efi": Arch.X64_EFI, "grubx64.efi": Arch.X64_EFI, "ipxe-i386.efi": Arch.X86_EFI, "snponly-i386.efi": Arch.X86_EFI,
    "bootia32.efi": Arch.X86_EFI, "grubia32.efi": Arch.X86_EFI, "ipxe-arm64.efi": Arch.ARM64_EFI,
    "snponly-arm64.efi": Arch.ARM64_EFI, "bootaa64.efi": Arch.ARM64_EFI, "shimaa64.efi": Arch.ARM64_EFI,
    "grubaa64.efi": Arch.ARM64_EFI,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Boot:
    """The events of one boot, oldest first.  over: something later begins another boot, so nothing more will come."""

    events: tuple[Event, ...]
    over: bool = False

    @property
    def start(self) -> float:
        return self.events[0].at

    @property
    def end(self) -> float:
        return self.events[-1].at

    def all(self, service: str, *kinds: str) -> list[Event]:
        """The events of a service; of these kinds only, if any are named."""
        return [event for event in self.events if event.service == service and (not kinds or event.kind in kinds)]


def split(events: Iterable[Event]) -> list[Boot]:
    """The boots in a machine's events, oldest first.  What belongs to no network boot (lease renewals) is left out."""
    found: list[list[Event]] = []
    for event in sorted(events, key=lambda event: event.at):
        if event.service in ("api", "boot"):
            continue  # an operator's order, or a time that is up, is no sign of the machine
        if not found or _begins(event, found[-1]):
            found.append([])
        found[-1].append(event)
    kept = [run for run in found if any(is_netboot(event) for event in run)]
    return [Boot(tuple(run), over=run is not kept[-1]) for run in kept]


def _begins(event: Event, run: Sequence[Event]) -> bool:
    """Does event begin another boot than the one that run belongs to?"""
    silence = event.at - run[-1].at
    if silence > (OS_GAP if any(_is_script(before) for before in run) else GAP):
        return True
    # Where another server leases, only files are asked here: the boot program, or the entry of all scripts, begins anew.
    program = event.service == "tftp" and event.kind in ("probe", "started") and base(path_of(event)) in LOADER_ARCHES
    entry = event.service == "http" and base(path_of(event)) == "boot.ipxe"
    if (program or entry) and silence < 1:
        return False
    if not program and not entry and (event.service != "dhcp" or not is_netboot(event)):
        return False
    if any(before.kind == "done" for before in run) or (is_local(run[-1]) and silence > AGAIN):
        return True
    # A script is where the network's part of a boot ends; a firmware that asks again after it was started again.  Before
    # that, it is the same power-on: firmware tries PXE again, then HTTP Boot, and chained iPXE asks once more.
    return any(_is_script(before) for before in run)


def _is_script(event: Event) -> bool:
    return event.service == "http" and event.kind == "script"


def is_local(event: Event) -> bool:
    """Does this answer send the machine to its own disk?"""
    why = str(event.detail.get("why"))
    disk = any(mark in why for mark in ("(boot: local)", "(boot: once)", "(on_timeout: local)", "is the local disk"))
    return disk or (event.kind == "script" and event.detail.get("profile") == "local")


def is_netboot(event: Event) -> bool:
    """Does only a machine that boots over the network cause this?"""
    detail = event.detail
    if event.service != "dhcp":
        return event.service in ("pxe", "tftp", "http")
    if event.kind == "ignored":
        return bool(detail.get("arch")) or any(mark in str(detail.get("why")) for mark in REFUSALS)
    return bool(detail.get("nbp") or detail.get("url") or detail.get("arch"))


def stage(boot: Boot) -> str:
    """How far this boot came: dhcp | loader | ipxe | script | files | system | done."""
    facts = Facts(boot, boot.end, Assignment(), ())
    if facts.done:
        return "done"
    if facts.documents or facts.system:
        return "system"
    if facts.files:
        return "files"
    if facts.scripts:
        return "script"
    if facts.ipxe:
        return "ipxe"
    return "loader" if facts.transfers else "dhcp"


STAGES = ("dhcp", "loader", "ipxe", "script", "files", "system", "done")


def phases(boot: Boot) -> list[tuple[str, float, float]]:
    """(stage, start, end) of the parts of a boot, for a picture.  A boot only goes forward: what comes late belongs to the last."""
    found: list[tuple[str, float, float]] = []
    reached = 0
    for event in boot.events:
        reached = max(reached, STAGES.index(_stage_of(event)))
        if not found or found[-1][0] != STAGES[reached]:
            found.append((STAGES[reached], event.at, event.at))
        else:
            found[-1] = (STAGES[reached], found[-1][1], event.at)
    # Each part lasts until the next one begins: the time between is spent, whatever it was spent with.
    ends = [*(start for _, start, _ in found[1:]), boot.end]
    return [(name, start, end) for (name, start, _), end in zip(found, ends, strict=True)]


def _stage_of(event: Event) -> str:
    if event.service == "tftp":
        return "loader"
    if event.service == "http":
        if event.kind == "done":
            return "done"
        path = path_of(event)
        if is_document(path):
            return "system"
        return (
            "script"
            if event.kind == "script" or path.startswith("/boot.ipxe")
            else "loader"
            if path.startswith("/tftp/")
            else "files"
        )
    return "ipxe" if loader_of(event) == Loader.IPXE.value else "dhcp"


def progress(boot: Boot) -> str:
    """What is being loaded at the moment, such as "initrd.img (45.0 MiB)"; empty when nothing is."""
    running: dict[str, Event] = {}
    for event in boot.events:
        if event.service in ("tftp", "http") and (path := path_of(event)):
            if event.kind == "started":
                running[path] = event
            else:
                running.pop(path, None)
    if boot.over or not running:
        return ""
    event = list(running.values())[-1]
    whole = event.detail.get("bytes")
    return base(path_of(event)) + (f" ({size(whole)})" if whole else "")


@dataclass(slots=True)
class Facts:
    """What a boot's events amount to: each rule reads from here."""

    boot: Boot
    now: float
    assignment: Assignment
    earlier: Sequence[Boot]
    offers: list[Event] = field(init=False)
    ignored: list[Event] = field(init=False)
    transfers: list[Event] = field(init=False)  # TFTP of any kind
    scripts: list[Event] = field(init=False)
    files: list[Event] = field(init=False)  # kernels, initrds and the like by HTTP
    documents: list[Event] = field(init=False)
    done: list[Event] = field(init=False)
    nbps: list[Event] = field(init=False)  # boot programs that were sent whole, by TFTP or HTTP
    ipxe: Event | None = field(init=False)  # the first sign that iPXE runs
    system: Event | None = field(init=False)  # the first sign of the operating system: DHCP without firmware after the files

    def __post_init__(self) -> None:
        boot = self.boot
        self.offers = boot.all("dhcp", "offered")
        self.ignored = [e for e in (*boot.all("dhcp", "ignored"), *boot.all("pxe", "ignored")) if is_netboot(e)]
        self.transfers = boot.all("tftp")
        http = boot.all("http")
        self.scripts = [e for e in http if e.kind == "script"]
        self.done = [e for e in http if e.kind == "done"]
        self.documents = [e for e in http if is_document(path_of(e))]
        other = ("/tftp/", "/boot.ipxe", "/favicon", "/api", "/ui")
        self.files = [
            e
            for e in http
            if e not in self.documents
            and e.kind not in ("script", "done")
            and not path_of(e).startswith(other)
            and not path_of(e).endswith((".sig", ".asc"))
        ]
        offered = {base(e.detail["nbp"]) for e in (*self.offers, *boot.all("pxe", "acked")) if e.detail.get("nbp")}
        offered |= {base(e.detail["url"]) for e in self.offers if e.detail.get("url") and loader_of(e) != Loader.IPXE.value}
        over_http = [e for e in http if path_of(e).startswith("/tftp/")]
        self.nbps = [
            e
            for e in (*self.transfers, *over_http)
            if e.kind == "sent" and (base(path_of(e)) in offered or base(path_of(e)) in LOADER_ARCHES)
        ]
        self.ipxe = next((e for e in boot.events if e.service == "dhcp" and loader_of(e) == Loader.IPXE.value), None) or next(
            (e for e in boot.events if base(path_of(e)) in ("autoexec.ipxe", "boot.ipxe")), None
        )
        last_file = self.files[-1].at if self.files else None
        self.system = next(
            (e for e in boot.events if last_file is not None and e.at > last_file and e.service == "dhcp" and not is_netboot(e)),
            None,
        )

    @property
    def order(self) -> str:
        """always | once | local: what was ordered, else what the registry says."""
        return self.assignment.order

    @property
    def last(self) -> Event:
        return self.boot.events[-1]

    def quiet(self, since: Event, patience: float) -> bool:
        """Has the machine been silent for longer than a healthy one would be, or begun another boot?

        It is not silent while it loads something by TFTP, which may take minutes and always has an end that is told.
        """
        silence = self.now - max(since.at, self.last.at)
        return self.boot.over or silence > (max(patience, OS_GAP) if self.in_transfer else patience)

    @property
    def in_transfer(self) -> bool:
        """Was a TFTP transfer begun that has not ended?"""
        running = {path_of(e) for e in self.transfers if e.kind == "started"}
        return any(next(e for e in reversed(self.transfers) if path_of(e) == path).kind == "started" for path in running)

    @property
    def arch(self) -> str:
        """The architecture that the firmware named, as operators write it; empty when unknown."""
        named = [e for e in self.boot.events if e.detail.get("arch")]
        first = next((e for e in named if loader_of(e) != Loader.IPXE.value), named[0] if named else None)
        return arch_of(first) if first else ""

    @property
    def late(self) -> int:
        """`secs` of the first DISCOVER, if it shows that earlier ones were lost; else 0.

        iPXE says 4 in its first packet, 8 in its second, and so on, whatever the time: it waits 1 s, then 2, then 4, at most 10.
        """
        first = next((e for e in self.boot.events if e.service == "dhcp"), None)
        secs = int(first.detail.get("secs") or 0) if first is not None and first is self.boot.events[0] else 0
        if first is not None and loader_of(first) == Loader.IPXE.value:
            secs = sum(min(1 << lost, 10) for lost in range(min(secs // 4, 100) - 1))
        return secs if secs >= LATE_SECS else 0

    @property
    def asked_4011(self) -> list[Event]:
        return self.boot.all("pxe", "acked")

    def wanted_files(self) -> tuple[str, ...]:
        """Kernel and initrds of the profile, for this architecture; empty when it has none or is unknown."""
        profile = self.assignment.profile
        if profile is None:
            return ()
        variant = next((v for arch, v in profile.arch.items() if arch.value == self.arch), None)
        kernel = variant.kernel if variant and variant.kernel else profile.kernel
        initrd = variant.initrd if variant and variant.initrd is not None else profile.initrd
        return tuple(base(path) for path in (kernel, *initrd) if path)

    def missing(self, events: Sequence[Event]) -> list[Event]:
        """What was asked for and not there."""
        return [e for e in events if e.kind == "missing"]

    def failed(self, events: Sequence[Event]) -> list[Event]:
        """Transfers that broke off and were not repeated with success."""
        whole = {path_of(e): e.at for e in events if e.kind == "sent"}
        return [e for e in events if e.kind == "failed" and whole.get(path_of(e), 0.0) < e.at]


def tell(event: Event) -> str:
    """An event in a few words for a timeline: what happened, then why.  Values of clients are in it as they came: escape them."""
    detail = event.detail
    named = _FACTS.get((event.service, event.kind))
    said = named(detail) if named else f"{event.service} {event.kind}"
    if not named and (path := path_of(event)):
        said += f" {path}"
    if (status := detail.get("status")) and status != 200:
        said += f" ({status})"
    if why := detail.get("why") or detail.get("error"):
        said += f": {why}"
    return said


def _amount(detail: Mapping[str, Any]) -> str:
    took = f" in {float(detail['seconds']):.1f} s" if detail.get("seconds") is not None else ""
    return f", {size(detail['bytes'])}{took}" if detail.get("bytes") is not None else ""


def _offer(detail: Mapping[str, Any]) -> str:
    what = f" {detail.get('nbp') or detail.get('url')}" if detail.get("nbp") or detail.get("url") else ""
    address = f" {detail['address']}" if detail.get("address") else ""
    return f"offered{address}{what}"


_FACTS: Mapping[tuple[str, str], Callable[[Mapping[str, Any]], str]] = {
    ("dhcp", "offered"): _offer,
    ("dhcp", "acked"): lambda d: f"leased {d.get('address', 'its address')}",
    ("dhcp", "naked"): lambda d: "refused the address it asked for",
    ("dhcp", "declined"): lambda d: f"found {d.get('address', 'its address')} in use",
    ("dhcp", "released"): lambda d: f"gave back {d.get('address', 'its address')}",
    ("dhcp", "ignored"): lambda d: "not answered",
    ("pxe", "acked"): lambda d: f"asked port 4011, told to load {d.get('nbp') or d.get('url') or 'nothing'}",
    ("pxe", "ignored"): lambda d: "asked port 4011, not answered",
    ("tftp", "probe"): lambda d: f"asked for the size of {d.get('path')}",
    ("tftp", "started"): lambda d: f"began to load {d.get('path')} by TFTP ({size(d.get('bytes'))})",
    ("tftp", "sent"): lambda d: f"loaded {d.get('path')} by TFTP{_amount(d)}",
    ("tftp", "missing"): lambda d: f"asked for {d.get('path')} by TFTP, which is not there",
    ("tftp", "failed"): lambda d: f"TFTP of {d.get('path')} broke off",
    ("tftp", "refused"): lambda d: f"TFTP of {d.get('path', 'a file')} refused",
    ("http", "script"): lambda d: f"asked for its script: {d.get('profile') or 'no profile'}",
    ("http", "started"): lambda d: f"began to load {d.get('path')} ({size(d.get('bytes'))})",
    ("http", "sent"): lambda d: f"loaded {d.get('path')}{_amount(d)}",
    ("http", "document"): lambda d: f"read {d.get('path')}{_amount(d)}",
    ("http", "missing"): lambda d: f"asked for {d.get('path')}, which is not there",
    ("http", "refused"): lambda d: f"asked for {d.get('path')}, refused",
    ("http", "failed"): lambda d: f"{d.get('path')} broke off",
    ("http", "done"): lambda d: "reported done",
    ("pixiecore", "answered"): lambda d: f"the API has it boot {d.get('boots')}",
    ("pixiecore", "failed"): lambda d: "the API did not say what it boots",
    ("fetch", "asked"): lambda d: f"waits for {d.get('url')}",
    ("fetch", "started"): lambda d: f"{d.get('url')} is being fetched for it ({size(d.get('bytes'))})",
    ("fetch", "progress"): lambda d: f"{d.get('percent')} % of {d.get('url')} are here",
    ("fetch", "fetched"): lambda d: f"{d.get('url')} was fetched for it{_amount(d)}",
    ("fetch", "failed"): lambda d: f"{d.get('url')} could not be fetched",
    ("api", "ordered"): lambda d: f"ordered by an operator: {d.get('boot') or 'as before'} {d.get('profile') or ''}".rstrip(),
}


def path_of(event: Event) -> str:
    return str(event.detail.get("path") or "")


def base(path: str) -> str:
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]


def loader_of(event: Event) -> str:
    return str(event.detail.get("loader") or "").lower().replace("_", "-")


def arch_of(event: Event) -> str:
    return str(event.detail["arch"]).lower().replace("_", "-")


def is_document(path: str) -> bool:
    return path.partition("?")[0] in ENDPOINTS or path.startswith(("/files/", "/cloud-init/"))


def duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: Any) -> str:
    count = int(count or 0)
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
