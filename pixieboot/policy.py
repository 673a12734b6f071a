"""THE HEART: what does this client boot next?

One pure function, asked afresh at every stage of a boot: the firmware's DISCOVER, port 4011, iPXE's DISCOVER, the script
GET.  It remembers nothing; what was learned or ordered enters as `assignment.state`.  Every answer says why, and what to
change if that is not what the operator wants: the log, the timeline, `explain` and the web page all print that sentence.
"""

from dataclasses import dataclass, replace

from pixieboot.inventory import HOLD
from pixieboot.model import (
    Arch,
    Assignment,
    Boot,
    Client,
    FetchScript,
    Loader,
    LoadNBP,
    LocalDisk,
    MachineState,
    Profile,
    Silence,
    Site,
    Stage,
    Step,
)

# Ways to the local disk, and which is tried after which when the machine is back at once.
LOCAL_WAYS = ("sanboot", "exit1", "exit0", "http404")
BACK_AT_ONCE = 60.0  # seconds: who asks again this soon did not start from its disk
LOOP_LIMIT = 3  # loads of one NBP in two minutes that led to no script: it will not work the next time either
# What to try when the default NBP was loaded again and again: the firmware's own network driver instead of iPXE's, or the reverse.
ALTERNATES = {
    "ipxe.efi": "snponly.efi",
    "snponly.efi": "ipxe.efi",
    "undionly.kpxe": "ipxe.pxe",
    "ipxe.pxe": "undionly.kpxe",
}


def next_boot(client: Client, assignment: Assignment, site: Site) -> Step:
    """What does this client boot next?  Total: never raises, whatever the client sent."""
    if site.answer == "known" and not assignment.known:
        return Silence(f"{assignment.why}; only known machines are answered (answer: known)")
    profile = assignment.profile
    if profile is None:
        left = "get no boot data (unknown: ignore)"
        if site.foreign_pxe:
            left = f"are left to another PXE server on {site.interface} (set `unknown` to boot them)"
        return Silence(f"{assignment.why}; unknown machines {left}")
    if local := _local_disk(client, assignment, profile):
        return local
    if client.stage is Stage.SCRIPT:
        return _boot(profile, assignment)
    match client.loader:
        case Loader.IPXE:
            return FetchScript(f"{site.http_url}/boot.ipxe", f"iPXE runs already: chain to its script; {assignment.why}")
        case Loader.RASPBERRY_PI:
            return LoadNBP("bootcode.bin", "tftp", f"Raspberry Pi: it asks for its own files by TFTP; {assignment.why}")
        case Loader.GRUB | Loader.PXELINUX:
            return Silence(f"{client.loader.value} took its boot data from the firmware's lease already")
    return _load_nbp(client, client.arch, assignment, site)


def _boot(profile: Profile, assignment: Assignment) -> Boot:
    """The profile; or what becomes of an installation whose time is up."""
    if assignment.order != "once" or not assignment.state.overdue:
        return Boot(profile, assignment.vars, assignment.why)
    late = f"its installation did not report done in time (profile {profile.name}: on_timeout: {profile.on_timeout})"
    if profile.on_timeout == "hold":
        return Boot(HOLD, assignment.vars, f"{late}: it waits until `pixieboot boot NAME` says what to do")
    return Boot(profile, assignment.vars, f"{assignment.why}; {late}: it is installed again")


def _local_disk(client: Client, assignment: Assignment, profile: Profile) -> LocalDisk | None:
    """The local disk, if that is what this machine boots now, in the way that its platform understands."""
    state, order = assignment.state, assignment.order
    if order == "local":
        why = "it boots from its local disk (boot: local)"
    elif order == "once" and state.done:
        why = "it was installed once and reported done (boot: once); `pixieboot boot NAME --once` installs it again"
    elif order == "once" and state.overdue and profile.on_timeout == "local":
        why = "its installation did not report done in time (on_timeout: local); `pixieboot boot NAME --once` installs it again"
    elif profile.local:
        why = f"profile {profile.name} is the local disk; {assignment.why}"
    else:
        return None
    how = local_way(client, assignment)
    return LocalDisk(how, why)


def local_way(client: Client, assignment: Assignment) -> str:
    """How a loader that runs on this client is sent to the local disk."""
    how = assignment.machine.local_boot if assignment.machine else "auto"
    if how == "auto":
        # sanboot on UEFI and exit on a BIOS leave half of all machines at a firmware prompt (netboot.xyz #1276).
        how = assignment.state.local_boot or ("exit1" if client.arch and client.arch.platform == "efi" else "sanboot")
    return how


@dataclass(frozen=True, slots=True)
class DiskTries:
    """Of a machine that is sent to its disk again and again: how often it was back at once, how many ways led nowhere."""

    back: int = 0
    ways: int = 0

    @property
    def exhausted(self) -> bool:
        """Has every way led nowhere?"""
        return self.ways > 0 and self.ways % len(LOCAL_WAYS) == 0


def back_from_disk(away: float, how: str, tries: DiskTries, assignment: Assignment) -> tuple[DiskTries, MachineState, str]:
    """The machine asks again, `away` seconds after it was sent to its disk in this way: (tries by now, what is learned, why).

    why is empty unless another way is tried from now on.  One that led to the disk before gets a second chance: somebody may
    just have pressed a button.
    """
    state = assignment.state
    if assignment.machine and assignment.machine.local_boot != "auto":
        return tries, state, ""
    if away >= BACK_AT_ONCE:
        return DiskTries(), state if state.local_boot_works else replace(state, local_boot=how, local_boot_works=True), ""
    if state.local_boot_works and not tries.back:
        return replace(tries, back=1), state, ""
    follower = LOCAL_WAYS[(LOCAL_WAYS.index(how) + 1) % len(LOCAL_WAYS)]
    tries = DiskTries(ways=tries.ways + 1)
    why = f"it was back {away:.0f} s after {how}: {follower} is tried"
    if tries.exhausted:
        why += "; no way has led to its disk, which may hold nothing that starts"
    return tries, replace(state, local_boot=follower, local_boot_works=False), why


def _load_nbp(client: Client, arch: Arch | None, assignment: Assignment, site: Site) -> Step:
    """The boot program for this firmware: named by machine, group or profile, else by the loader table."""
    if arch is None:
        if client.arch_code is None:
            return Silence("the client does not say its architecture, and it is not guessed (RFC 4578 §2.1)")
        number = client.arch_code
        return Silence(f"the client says architecture {number}, which IANA has not assigned: it is not guessed (RFC 4578 §2.1)")
    nbp, source = _nbp(arch, assignment, site)
    if nbp is None:
        return Silence(f"no boot program for {arch.value}; add `{arch.value}: FILE` under loaders in pixieboot.yaml")
    why = f"{arch.value} firmware: load {nbp} first ({source}); {assignment.why}"
    if source == "loaders" and assignment.state.loader_fetches >= LOOP_LIMIT and nbp in ALTERNATES:
        why = f"{nbp} was loaded {assignment.state.loader_fetches} times and never asked for its script: {ALTERNATES[nbp]} instead"
        nbp = ALTERNATES[nbp]
    # The MAC before the file name tells whose transfer it is, without any table of sessions (Pixiecore's way).
    # UEFI may show its UUID instead (htype 1, hlen 16), which names no directory.
    path = f"{client.mac.dashed}/{nbp}" if client.mac.is_ethernet else nbp
    if client.loader is Loader.FIRMWARE_HTTP:
        return LoadNBP(f"{site.http_url}/tftp/{path}", "http", why)
    return LoadNBP(path, "tftp", why)


def _nbp(arch: Arch, assignment: Assignment, site: Site) -> tuple[str | None, str]:
    """The boot program's file name and where it is written: machine, then group, then profile, then the loader table."""
    for holder, source in ((assignment.machine, "machine"), (assignment.group, "group"), (assignment.profile, "profile")):
        if holder and (nbp := holder.loader.get(arch.value) or holder.loader.get("*")):
            return nbp, f"loader of {source} {holder.name}"
    return site.loaders.get(arch), "loaders"


def booted(step: Step) -> str | None:
    """The name of the profile that a step boots; None: it boots nothing yet, or nothing at all."""
    return step.profile.name if isinstance(step, Boot) else "local" if isinstance(step, LocalDisk) else None
