"""Why did it not boot?  One boot judged: what came of it, in a sentence, and what to try next.

Pure: `now` is an argument.  RULES is the whole knowledge, read from top to bottom: the
first rule that fits a boot is its verdict, so what came later in a boot stands above what came earlier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pixieboot.boots import GAP, LOADER_ARCHES, Boot, Facts, base, duration, is_local, loader_of, path_of, progress, size
from pixieboot.content import EXPECTED_MISSES
from pixieboot.model import Assignment, Event, Loader
from pixieboot.policy import LOCAL_WAYS

# How long a machine may be silent before "it is still at it" becomes "it stopped here" (measured, with OVMF, ROMs and iPXE).
OFFER_PATIENCE = 15.0  # EDK2 collects offers for 3.8 s; ROMs repeat at 4, 8, 16 s
LOADER_PATIENCE = 60.0  # STP after its driver drops the link: 30 to 50 s
SCRIPT_PATIENCE = 30.0  # iPXE of 2019 fetches its script up to 17 s after its lease
FILE_PATIENCE = 60.0  # a kernel of 60 MiB by 10 Mbit/s; nothing is heard of it before it is through
TRANSFER_PATIENCE = 30.0
FETCH_PATIENCE = 600.0  # a gigabyte from a slow server: news of it comes at each tenth
OS_PATIENCE = 120.0
DONE_PATIENCE = 3600.0
LOCAL_RETURN = 90.0  # back on the wire this soon after it was sent to its disk: the disk did not start
LOOP = 3
REINSTALL_WINDOW = 3 * 3600.0

SECOND_STAGES = {"shimx64.efi": "grubx64.efi", "bootx64.efi": "grubx64.efi", "shimaa64.efi": "grubaa64.efi"}


# Why a machine was not answered, by words of the reason that was recorded: the verdict's name, and what mends it.
REASONS = (
    ("answer: known", "unknown-not-answered", "Describe it in machines.yaml, or set answer: all."),
    (
        "unknown: ignore",
        "unknown-ignored",
        "Describe it in machines.yaml, write a group that matches it, or set unknown: menu.",
    ),
    (
        "another PXE server",
        "unknown-left-alone",
        "Describe it in machines.yaml, or set `unknown` in pixieboot.yaml: then it is answered all the same.",
    ),
    ("no boot program", "no-loader-for-arch", "Add a file for this architecture under `loaders` in pixieboot.yaml."),
    (
        "IANA has not assigned",
        "unknown-arch",
        "Its firmware needs an update that makes it say an architecture of RFC 4578; until then start it from a USB stick with "
        "iPXE.",
    ),
    (
        "no address is free",
        "pool-exhausted",
        "Widen `pools`, shorten `lease_time`, or look in `pixieboot leases` for machines that hold several.",
    ),
    (
        "dhcp: off",
        "dhcp-off",
        "That network says dhcp: off, so another server must send it here: `pixieboot router-help` prints the lines.",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a boot.  name: the rule, stable for programs; outcome: ok | going | failed | ignored; next_step: what to try."""

    name: str
    outcome: str
    sentence: str
    next_step: str = ""


def judge(boot: Boot, now: float, assignment: Assignment | None = None, earlier: Sequence[Boot] = ()) -> Verdict:
    """What came of this boot.  assignment: what the machine is to boot today; earlier: its boots before this one, oldest first."""
    facts = Facts(boot, now, assignment or Assignment(), earlier)
    verdict = next(found for rule in RULES if (found := rule(facts)))
    if verdict.name != "late-link" and (secs := facts.late):
        note = (
            f" Its first packet came {secs} s late: earlier ones were lost, as behind a switch port that is still in STP listening."
        )
        return Verdict(verdict.name, verdict.outcome, verdict.sentence + note, verdict.next_step)
    return verdict


def nothing_heard(who: str) -> Verdict:
    """The verdict on a machine that has no boot at all."""
    return Verdict(
        "nothing-heard",
        "failed",
        f"Nothing was heard of {who}.",
        "Is network boot first in its firmware's boot order, its cable in a port of this network, and its MAC right? "
        "`pixieboot events -f` shows every machine that asks; `pixieboot doctor` checks this host.",
    )


Rule = Callable[[Facts], Verdict | None]


def _why(event: Event, otherwise: str = "no reason was recorded") -> str:
    """The recorded reason, to stand at the end of a sentence."""
    return str(event.detail.get("why") or otherwise).rstrip(".")


# --- the end of a boot: done, the operating system, the local disk ---


def _installed(f: Facts) -> Verdict | None:
    if not f.done:
        return None
    took = duration(f.done[-1].at - f.boot.start)
    return Verdict("installed", "ok", f"It reported done, {took} after its first packet.")


def _secrets_refused(f: Facts) -> Verdict | None:
    bad = [e for e in f.boot.all("http", "refused") if e.detail.get("secrets") and e.level == "alarm"]
    if not bad:
        return None
    event = bad[-1]
    return Verdict(
        "secrets-refused",
        "failed",
        f"{event.detail.get('peer') or 'Somebody'} asked for {path_of(event)}, which holds secrets, and was refused: "
        f"{event.detail.get('why')}.",
        "If that was the machine itself, add the MAC of that card to its macs and boot it again. If not, somebody on its network "
        "has read its script: look who has that address, and change the secrets.",
    )


def _reinstalls(f: Facts) -> Verdict | None:
    """The same profile was booted to its last file again and again."""
    if not f.scripts or not f.files or f.order == "once":
        return None
    profile = f.scripts[-1].detail.get("profile")
    recent = [boot for boot in f.earlier if f.boot.start - boot.start < REINSTALL_WINDOW]
    again = [boot for boot in recent if _profile_of(boot) == profile and any(e.kind == "sent" for e in boot.all("http"))]
    if profile is None or len(again) + 1 < LOOP:
        return None
    return Verdict(
        "reinstall-loop",
        "failed",
        f"It started {profile} {len(again) + 1} times in {duration(f.boot.start - again[0].start)} and never reported done.",
        "If that profile installs: `pixieboot boot NAME --once` boots it once, then the local disk; "
        "the installer's last step must call /done?mac=… (see docs/reference.md). If it is diskless, look why it restarts.",
    )


def _profile_of(boot: Boot) -> object:
    scripts = boot.all("http", "script")
    return scripts[-1].detail.get("profile") if scripts else None


def _local_failed(f: Facts) -> Verdict | None:
    before = f.earlier[-1] if f.earlier else None
    if before is None or f.boot.start - before.end > LOCAL_RETURN:
        return None
    sent = next((e for e in reversed(before.events) if is_local(e)), None)
    if sent is None:
        return None
    machine = f.assignment.machine
    how = sent.detail.get("local_boot") or (machine.local_boot if machine else "auto")
    now = f.assignment.state.local_boot
    others = ", ".join(way for way in LOCAL_WAYS if way != how)
    mend = f"Its firmware may want another way: set local_boot to one of {others}."
    if now and now != how and (machine is None or machine.local_boot == "auto"):
        mend = f"Its firmware may want another way: {now} is tried from now on, and kept if it stays away."
    return Verdict(
        "local-disk-failed",
        "failed",
        f"It came back {duration(f.boot.start - before.end)} after it was sent to its local disk (local_boot: {how}).",
        f"{mend} Or the disk holds nothing that starts.",
    )


def _local(f: Facts) -> Verdict | None:
    sent = next((e for e in reversed(f.boot.events) if is_local(e)), None)
    if sent is None or f.files:
        return None
    return Verdict("local-disk", "ok", f"It was told to start from its local disk: {_why(sent, 'that is its profile')}.")


def _document_failed(f: Facts) -> Verdict | None:
    bad = [e for e in f.documents if e.kind == "failed"]
    if not bad:
        return None
    return Verdict(
        "document-error",
        "failed",
        f"Its system asked for {path_of(bad[-1])} and the template failed: {_why(bad[-1])}.",
        "Mend the template at that line; `pixieboot explain MACHINE` renders it without a boot.",
    )


def _document_missing(f: Facts) -> Verdict | None:
    bad = [e for e in f.missing(f.documents) if not base(path_of(e)).startswith(("vendor-data", "network-config"))]
    good = {path_of(e) for e in f.documents if e not in bad}
    bad = [e for e in bad if path_of(e) not in good]
    if not bad or f.done:
        return None
    kind = path_of(bad[-1]).partition("?")[0]
    return Verdict(
        "document-missing",
        "failed",
        f"Its system asked for {kind}, which its profile does not have.",
        f"Name a template under `{kind.strip('/').partition('/')[0]}` in the profile, or take the URL out of its kernel arguments.",
    )


def _overdue(f: Facts) -> Verdict | None:
    """Its time was up in this boot, or before it and it has not begun again."""
    state = f.assignment.state
    if f.order != "once" or not state.overdue or state.deadline or state.done or f.assignment.profile is None:
        return None
    if f.files and f.boot.start > state.overdue:
        return None
    what, mend = _WHEN_LATE.get(f.assignment.profile.on_timeout, _WHEN_LATE["again"])
    return Verdict(
        "once-overdue",
        "failed",
        f"Its installation did not report done within {duration(f.assignment.profile.once_timeout)} (once_timeout): {what}.",
        f"{mend} The installer's last step must call /done?mac=… (late-command, phone_home, Ignition unit).",
    )


_WHEN_LATE = {  # on_timeout -> what becomes of it, and the way out
    "again": ("it installs again at its next boot", "If it is installed: `pixieboot boot NAME --local`."),
    "hold": ("it is held and boots nothing", "`pixieboot boot NAME --once` installs it again, `--local` starts its disk."),
    "local": ("it starts from its local disk", "`pixieboot boot NAME --once` installs it again."),
}  # fmt: skip


def _never_done(f: Facts) -> Verdict | None:
    if f.order != "once" or not f.files or f.failed(f.files) or f.missing(f.files) or f.assignment.state.done > f.boot.start:
        return None
    if not f.scripts or not f.quiet(f.files[-1], DONE_PATIENCE):
        return None
    return Verdict(
        "never-done",
        "failed",
        f"It fetched everything {duration(f.now - f.files[-1].at)} ago and never reported done: it installs again at its next "
        "boot.",
        "The installer's last step must call /done?mac=… (late-command, phone_home, Ignition unit). "
        "If it is installed: `pixieboot boot NAME --local`.",
    )


def _document_not_fetched(f: Facts) -> Verdict | None:
    """The kernel has its files but not the document that its arguments name."""
    kinds = [kind for kind in ("ignition", "cloud") if f.assignment.profile and kind in f.assignment.profile.documents]
    if not kinds or f.documents or not _has_all(f) or not f.quiet(f.files[-1], OS_PATIENCE):
        return None
    return Verdict(
        "document-not-fetched",
        "failed",
        f"Kernel and initrd were fetched whole {duration(f.now - f.files[-1].at)} ago, but its system never asked for its "
        f"{kinds[0]} document.",
        "Look at its screen: the kernel may have no driver for the network card, or its arguments lack the URL "
        f"(`{{{{ url('{kinds[0]}') }}}}`). A console=ttyS0 argument shows more.",
    )


def _booted(f: Facts) -> Verdict | None:
    sign = f.documents[-1] if f.documents else f.system
    if sign is None:
        return None
    what = f"asked for {path_of(sign).partition('?')[0]}" if f.documents else "asked for an address of its own"
    return Verdict(
        "booted", "ok", f"Its operating system runs: it {what}, {duration(sign.at - f.boot.start)} after its first packet."
    )


# --- kernel and initrd ---


def _file_missing(f: Facts) -> Verdict | None:
    sent = {base(path_of(e)) for e in f.files if e.kind == "sent"}
    bad = [e for e in f.missing(f.files) if base(path_of(e)) not in sent and not path_of(e).endswith((".sig", ".asc"))]
    if not bad:
        return None
    path = path_of(bad[0])
    return Verdict(
        "file-missing",
        "failed",
        f"Its script named {path}, which is not there (404).",
        "Put the file below `assets` (not a link that leads out of it, and readable by the user pixieboot), or mend the path in "
        "the profile.",
    )


def _file_error(f: Facts) -> Verdict | None:
    bad = [e for e in f.files if e.kind == "refused" or (e.kind == "failed" and "seconds" not in e.detail)]
    if not bad:
        return None
    return Verdict(
        "file-error",
        "failed",
        f"{path_of(bad[-1])} could not be read: {_why(bad[-1])}.",
        "The user pixieboot must be able to read it (chmod a+r, and a+x on the folders above); "
        "else the disk or the network file system below `assets` is at fault.",
    )


def _file_aborted(f: Facts) -> Verdict | None:
    broken = [e for e in f.failed(f.files) if "seconds" in e.detail]
    if not broken or not f.quiet(broken[-1], TRANSFER_PATIENCE):
        return None
    event = broken[-1]
    return Verdict(
        "file-aborted",
        "failed",
        f"{path_of(event)} broke off after {duration(float(event.detail['seconds']))}.",
        "A machine with too little memory for the initrd closes here, and so does one that lost its link or was switched off. "
        "Compare the size with its RAM, then try another cable or port, or snponly instead of iPXE's own driver.",
    )


def _upstream_failed(f: Facts) -> Verdict | None:
    """What this host was to fetch from another server did not come."""
    bad = [e for e in f.failed(f.files) if e.detail.get("url")]
    if not bad:
        return None
    why = str(bad[-1].detail.get("why"))
    mend = f"From this host, `curl -I {bad[-1].detail['url']}` should answer 200; then start the machine again."
    if "sha256" in why:
        mend = "If the file was replaced on purpose, correct `sha256` in the profile. If not, do not trust that server."
    return Verdict("upstream-failed", "failed", f"{base(path_of(bad[-1]))} could not be fetched for it: {why}.", mend)


def _fetching(f: Facts) -> Verdict | None:
    """This host is still fetching what the machine waits for."""
    latest = {e.detail.get("url"): e for e in f.boot.all("fetch")}
    going = [e for e in latest.values() if e.kind in ("asked", "started", "progress")]
    if not going or f.quiet(going[-1], FETCH_PATIENCE):
        return None
    percent = going[-1].detail.get("percent")
    far = f", {percent} % are here" if percent else ""
    return Verdict("fetching", "going", f"It waits for {going[-1].detail.get('url')}, which this host is fetching{far}.")


def _file_stalled(f: Facts) -> Verdict | None:
    ended = {path_of(e) for e in f.files if e.kind != "started"}
    open_ones = [e for e in f.files if e.kind == "started" and path_of(e) not in ended]
    if not open_ones or not f.quiet(open_ones[-1], TRANSFER_PATIENCE):
        return None
    event = open_ones[-1]
    whole = f" ({size(event.detail['bytes'])})" if event.detail.get("bytes") else ""
    return Verdict(
        "file-stalled",
        "failed",
        f"{path_of(event)} was begun and never came to its end{whole}.",
        "The machine was switched off, lost its link, or a firewall dropped the connection. Its screen tells which.",
    )


def _files_incomplete(f: Facts) -> Verdict | None:
    """Some of the files, but not all that the profile names."""
    wanted = f.wanted_files()
    sent = {base(path_of(e)) for e in f.files if e.kind == "sent"}
    lacking = [name for name in wanted if name not in sent]
    if not wanted or not sent.intersection(wanted) or not lacking or not f.quiet(f.files[-1], TRANSFER_PATIENCE):
        return None
    return Verdict(
        "files-incomplete",
        "failed",
        f"It fetched {', '.join(name for name in wanted if name in sent)} and never asked for {lacking[0]}.",
        "iPXE stopped between the two: too little memory, or an image that it cannot use (`exec format error` on its screen: "
        "a build without that image type, or a kernel of another architecture).",
    )


def _has_all(f: Facts) -> bool:
    sent = {base(path_of(e)) for e in f.files if e.kind == "sent"}
    return bool(f.files) and (set(f.wanted_files()) <= sent if f.wanted_files() else bool(sent))


def _handed_over(f: Facts) -> Verdict | None:
    if not _has_all(f):
        return None
    total = sum(int(e.detail.get("bytes") or 0) for e in f.files if e.kind == "sent")
    return Verdict(
        "handed-over",
        "ok",
        f"It fetched everything ({size(total)}) {duration(f.files[-1].at - f.boot.start)} after its first packet: its kernel has "
        "taken over.",
        "If its screen stays black: add console=tty0 console=ttyS0,115200 to the arguments, and check that the kernel fits "
        f"the architecture{f' ({f.arch})' if f.arch else ''}; with Secure Boot the kernel must be signed too.",
    )


# --- the script ---


def _script_error(f: Facts) -> Verdict | None:
    bad = [e for e in f.scripts if int(e.detail.get("status") or 200) >= 500]
    if not bad or bad[-1] is not f.scripts[-1]:
        return None
    return Verdict(
        "script-error",
        "failed",
        f"Its script could not be written: {_why(bad[-1], 'the template failed')}.",
        "Mend the template or the variable at that place; `pixieboot explain MACHINE` renders it without a boot.",
    )


def _script_unknown(f: Facts) -> Verdict | None:
    bad = [e for e in f.scripts if int(e.detail.get("status") or 200) == 404]
    if not bad or bad[-1] is not f.scripts[-1] or is_local(bad[-1]):
        return None
    return Verdict(
        "script-refused",
        "ignored",
        f"It asked for a script and got 404: {_why(bad[-1], 'nobody described this machine')}.",
        "Describe it in machines.yaml, write a group that matches it, or set unknown: menu.",
    )


def _menu(f: Facts) -> Verdict | None:
    if not f.scripts or f.files or f.scripts[-1].detail.get("profile") != "menu":
        return None
    return Verdict(
        "menu",
        "going" if not f.boot.over else "ok",
        f"The menu stands on its screen: {_why(f.scripts[-1], 'that is its profile')}.",
        "Choose there, or give it a profile: `pixieboot boot MACHINE PROFILE`. Without a choice it starts from its local disk.",
    )


def _chained(f: Facts) -> Verdict | None:
    profile = f.assignment.profile
    if not f.scripts or f.files or profile is None or not profile.chain or f.scripts[-1].detail.get("profile") != profile.name:
        return None
    return Verdict(
        "chained",
        "ok",
        f"It was sent on to {profile.chain}, where pixieboot cannot see it.",
        "If it stops there: the machine needs DNS and a way out, and an iPXE built with HTTPS for https URLs.",
    )


def _script_without_files(f: Facts) -> Verdict | None:
    if not f.scripts or f.files or not f.quiet(f.scripts[-1], FILE_PATIENCE):
        return None
    wanted = f.wanted_files()
    return Verdict(
        "script-stopped",
        "failed",
        f"It got its script and asked for nothing after it{f' (next was {wanted[0]})' if wanted else ''}.",
        "Its screen shows iPXE's error: a command it does not know, a kernel URL on another host, or not enough memory. "
        "`pixieboot explain MACHINE` prints the script that it got.",
    )


# --- from the boot program to the script ---


def _loader_loop(f: Facts) -> Verdict | None:
    """The same boot program again and again, and no script."""
    if f.scripts or len(f.nbps) < LOOP or f.nbps[-1].at - f.nbps[0].at > GAP:
        return None
    name = base(path_of(f.nbps[-1]))
    if f.ipxe is not None and f.ipxe.service == "tftp":
        cause = "iPXE runs, but its DHCP requests do not show that they are iPXE's: a relay or router takes out option 77"
    else:
        cause = "it never runs as far as its own DHCP request"
    return Verdict(
        "loader-loop",
        "failed",
        f"It loaded {name} {len(f.nbps)} times in {duration(f.nbps[-1].at - f.nbps[0].at)} and never asked for a script: {cause}.",
        "pixieboot offers the other driver variant (snponly ↔ ipxe) from now on. If that loops too: disable Secure Boot or "
        "set loader: shimx64.efi, and load an iPXE with an embedded script that chains to /boot.ipxe.",
    )


def _wrong_arch(f: Facts) -> Verdict | None:
    if f.scripts or f.ipxe:
        return None
    for event in f.nbps or [e for e in f.transfers if e.kind in ("started", "failed", "probe")] or f.offers:
        name = base(path_of(event) or str(event.detail.get("nbp") or event.detail.get("url") or ""))
        made_for = LOADER_ARCHES.get(name)
        if made_for and f.arch and made_for.value != f.arch:
            return Verdict(
                "wrong-loader-arch",
                "failed",
                f"Its firmware is {f.arch} and was given {name}, which runs on {made_for.value}.",
                f"Set `loader` of the machine, group or profile to {{{f.arch}: FILE}}, or mend `loaders` in pixieboot.yaml.",
            )
    return None


def _second_stage_missing(f: Facts) -> Verdict | None:
    shim = next((e for e in f.nbps if base(path_of(e)) in SECOND_STAGES), None)
    wanted = SECOND_STAGES[base(path_of(shim))] if shim else ""
    lacking = (
        [e for e in f.transfers if e.kind == "missing" and base(path_of(e)).startswith(wanted.partition(".")[0])] if shim else []
    )
    if not shim or not lacking or any(base(path_of(e)) == base(path_of(lacking[-1])) and e.kind == "sent" for e in f.transfers):
        return None
    return Verdict(
        "second-stage-missing",
        "failed",
        f"{base(path_of(shim))} ran (Secure Boot is content) and asked for {path_of(lacking[-1])}, which is not there.",
        f"Put it beside {base(path_of(shim))} below tftp.root, under exactly that name.",
    )


def _grub_lost(f: Facts) -> Verdict | None:
    """GRUB was loaded and never came back: in proxy mode it asks the router."""
    grub = next((e for e in f.transfers if e.kind == "sent" and base(path_of(e)).startswith("grub") and ".efi" in path_of(e)), None)
    if grub is None or f.scripts:
        return None
    if any(e.at > grub.at for e in f.transfers if "grub" in path_of(e)) or not f.quiet(grub, TRANSFER_PATIENCE):
        return None
    return Verdict(
        "grub-asks-router",
        "failed",
        f"{base(path_of(grub))} was fetched whole and asked this host for nothing after it.",
        "GRUB takes its TFTP server from the router's lease, so it cannot work in proxy mode: load iPXE, "
        "use dhcp: server, or set next-server (siaddr) to this host in the router.",
    )


def _config_missing(f: Facts) -> Verdict | None:
    """PXELINUX's or GRUB's ladder of configuration files, without one that is there."""
    ladders = (("pxelinux.cfg/", "pxelinux.0", "PXELINUX"), ("grub.cfg", "grub", "GRUB"))
    for mark, _, name in ladders:
        asked = [e for e in f.transfers if mark in path_of(e)]
        if asked and all(e.kind == "missing" for e in asked) and f.quiet(asked[-1], SCRIPT_PATIENCE):
            return Verdict(
                "loader-config-missing",
                "failed",
                f"{name} runs and found no configuration: it asked for {len(asked)} names from {path_of(asked[0])} to "
                f"{path_of(asked[-1])}.",
                "That ladder is normal; one of its names must exist. pixieboot renders it from the registry when the machine has "
                "a profile: `pixieboot explain MACHINE` tells why it has none.",
            )
    return None


def _modules_missing(f: Facts) -> Verdict | None:
    lacking = next((e for e in f.transfers if e.kind == "missing" and path_of(e).endswith((".c32", ".mod"))), None)
    if lacking is None or any(base(path_of(e)) == base(path_of(lacking)) and e.kind == "sent" for e in f.transfers):
        return None
    return Verdict(
        "loader-module-missing",
        "failed",
        f"Its boot program runs and asked for its own part {path_of(lacking)}, which is not there.",
        f"Copy {base(path_of(lacking))} from the same version of the package (syslinux or GRUB) into that folder below tftp.root.",
    )


def _ipxe_without_script(f: Facts) -> Verdict | None:
    """iPXE got its URL by DHCP and did not fetch it."""
    offers = [e for e in f.offers if loader_of(e) == Loader.IPXE.value]
    if f.scripts or not offers or any(e for e in f.boot.all("http") if e.at > offers[0].at):
        return None
    if not f.quiet(offers[-1], SCRIPT_PATIENCE):
        return None
    url = str(offers[-1].detail.get("url") or "its script")
    if len(offers) >= LOOP:
        return Verdict(
            "ipxe-misses-offer",
            "failed",
            f"iPXE asked {len(offers)} times, was told {url} each time and never fetched it.",
            "Another DHCP server's answer wins, or this one comes too late (iPXE waits 2 s for a proxy): `pixieboot doctor` "
            "looks for "
            "others. An iPXE in the network card without HTTP does the same: chain to a full one (loader: undionly.kpxe or "
            "ipxe.efi).",
        )
    return Verdict(
        "http-unreachable",
        "failed",
        f"iPXE was told to fetch {url} and no request arrived.",
        "A firewall on this host closes the HTTP port (`pixieboot doctor` prints the line that opens it), http.base_url names "
        "an address that the machine cannot reach, or its iPXE has no HTTP.",
    )


def _ipxe_lost_link(f: Facts) -> Verdict | None:
    """iPXE asked for autoexec.ipxe by TFTP (so it runs), and never sent a DHCP request of its own."""
    sign = f.ipxe
    if sign is None or sign.service == "dhcp" or f.scripts or not f.quiet(sign, LOADER_PATIENCE):
        return None
    return Verdict(
        "ipxe-lost-link",
        "failed",
        "iPXE started, then nothing more came from it: the network card did not come up again under its driver.",
        "Use the firmware's driver: loader: snponly.efi (undionly.kpxe on a BIOS). On a managed switch set the port to "
        "edge/portfast: iPXE drops the link once, and spanning tree then blocks it for 30 s.",
    )


def _http_boot_refused(f: Facts) -> Verdict | None:
    """UEFI HTTP Boot: the URL was offered; either it was not fetched, or what came was not run."""
    offers = [e for e in f.offers if loader_of(e) == Loader.FIRMWARE_HTTP.value]
    if not offers or f.scripts or f.ipxe or len(f.offers) > len(offers):
        return None
    fetched = [e for e in f.boot.all("http") if path_of(e).startswith("/tftp/")]
    if not fetched:
        if not f.quiet(offers[-1], OFFER_PATIENCE):
            return None
        return Verdict(
            "http-boot-not-fetched",
            "failed",
            f"UEFI HTTP Boot was offered {offers[-1].detail.get('url')} and no request arrived.",
            "Its firmware may allow https only (look for `Allow HTTP connections`), or a firewall closes the HTTP port.",
        )
    return None


def _secure_boot(f: Facts) -> Verdict | None:
    """UEFI fetched a boot program whole and asked for another one: it refused to run the first.

    At once, or by HTTP Boot: EDK2 comes to that a minute later, when it has tried PXE over IPv6.  What comes by PXE again after
    a while may as well be somebody's reset of a machine that hung.
    """
    if f.scripts or f.ipxe or not f.nbps or not f.arch.endswith("-efi"):
        return None
    sent = f.nbps[0]
    name = base(path_of(sent))
    if name in SECOND_STAGES:
        return None
    after = next((e for e in f.boot.events if e.at > sent.at and e.service == "dhcp"), None)
    if after is None or (after.at - sent.at > OFFER_PATIENCE and loader_of(after) != Loader.FIRMWARE_HTTP.value):
        return None
    return Verdict(
        "secure-boot",
        "failed",
        f"Its firmware fetched {name} whole, did not run it and looked for something else {duration(after.at - sent.at)} later: "
        "Secure Boot refuses a program that nobody it trusts has signed.",
        "Switch Secure Boot off in its firmware, or set loader: shimx64.efi with a signed second stage beside it. If it is off, "
        "the file is for another architecture or damaged: `pixieboot doctor` says what each boot program is.",
    )


def _nbp_no_ipxe(f: Facts) -> Verdict | None:
    if f.scripts or f.ipxe or not f.nbps or not f.quiet(f.nbps[-1], LOADER_PATIENCE):
        return None
    name = base(path_of(f.nbps[-1]))
    if f.arch.endswith("-efi"):
        advice = (
            "Try its other variant (loader: snponly.efi, or ipxe.efi), then without Secure Boot. Its screen shows which: "
            "`Security Violation` or a hang at `initialising devices`."
        )
    else:
        advice = "Try the other variant: loader: ipxe.pxe (its own driver) instead of undionly.kpxe (the ROM's), or the reverse."
    return Verdict("loader-silent", "failed", f"{name} was fetched whole, and nothing came from it since.", advice)


# --- TFTP ---


def _nbp_missing(f: Facts) -> Verdict | None:
    sent = {base(path_of(e)) for e in f.transfers if e.kind == "sent"}
    lacking = [
        e
        for e in f.missing([*f.transfers, *(e for e in f.boot.all("http") if path_of(e).startswith("/tftp/"))])
        if base(path_of(e)) not in EXPECTED_MISSES
        and base(path_of(e)) not in sent
        and "pxelinux.cfg" not in path_of(e)
        and ".cfg" not in path_of(e)
    ]
    if not lacking or f.scripts or f.nbps or _is_pi(f):
        return None
    name = base(path_of(lacking[0]))
    return Verdict(
        "loader-missing",
        "failed",
        f"It asked for {path_of(lacking[0])}, which is not there.",
        f"Put {name} below tftp.root; Debian's and Ubuntu's package `ipxe` has undionly.kpxe and ipxe.efi, and pixieboot finds "
        "them there.",
    )


def _is_pi(f: Facts) -> bool:
    return any(loader_of(e) == Loader.RASPBERRY_PI.value for e in f.boot.events)


def _pi(f: Facts) -> Verdict | None:
    if not _is_pi(f) or f.scripts or f.files:
        return None
    sent = [e for e in f.transfers if e.kind == "sent"]
    if not f.transfers:
        if not f.quiet(f.last, OFFER_PATIENCE):
            return None
        return Verdict(
            "pi-no-tftp",
            "failed",
            "The Raspberry Pi was answered and asked this host for no file.",
            "Some of its firmware asks the router instead: set TFTP_IP in its EEPROM (rpi-eeprom-config) to this host, or let "
            "pixieboot lease too (dhcp: server). A Pi 3 that is answered too fast: reply_delay: 2s.",
        )
    kernels = [e for e in sent if "assets/" in path_of(e) or base(path_of(e)).startswith(("kernel", "vmlinuz", "Image"))]
    if kernels:
        return Verdict("handed-over", "ok", f"The Raspberry Pi fetched {base(path_of(kernels[0]))}: its kernel has taken over.")
    firmware = any(base(path_of(e)).startswith(("start", "bootcode")) for e in sent)
    if not f.quiet(f.transfers[-1], TRANSFER_PATIENCE):
        return None
    if firmware or any(base(path_of(e)) == "config.txt" for e in sent):
        return Verdict(
            "pi-no-kernel",
            "failed",
            "The Raspberry Pi fetched its firmware but no kernel.",
            "Give the machine a profile with a kernel below assets; or put config.txt, cmdline.txt, the device tree and a kernel "
            "below tftp.root, or in a folder of its serial number or MAC there.",
        )
    first = next((e for e in f.transfers if e.kind == "missing"), f.transfers[0])
    return Verdict(
        "pi-no-firmware",
        "failed",
        f"The Raspberry Pi asked for its firmware files and found none (first {path_of(first)}).",
        "Copy the boot partition of Raspberry Pi OS to tftp.root, or to a folder of its serial number there.",
    )


def _tftp_no_data(f: Facts) -> Verdict | None:
    """A request came in, but nothing that we sent was ever answered."""
    broken = [e for e in _broken_by_silence(f) if not _agreed(f, e)]
    if not broken:
        return None
    return Verdict(
        "tftp-data-blocked",
        "failed",
        f"It asked for {path_of(broken[-1])} by TFTP, and not one packet of the answer was acknowledged.",
        "TFTP data comes from another UDP port than 69: a firewall, NAT or Docker's bridge on the way drops it. "
        "tftp: {single_port: true} sends everything from 69; tftp: {ports: 30000-30100} makes a range to open.",
    )


def _tftp_mtu(f: Facts) -> Verdict | None:
    """The small OACK came through and the first large block did not: an MTU on the way that is smaller than blksize."""
    for event in _broken_by_silence(f):
        start = _agreed(f, event)
        blksize = int(start.detail.get("blksize") or 0) if start else 0
        if blksize > 1200 and _block(event) == 1:
            return Verdict(
                "tftp-mtu",
                "failed",
                f"It never got the first block of {path_of(event)}, {blksize} bytes long, although small packets come through.",
                "A link on the way (VLAN, VPN, tunnel) carries smaller packets: set tftp: {max_blksize: 1200} and compare.",
            )
    return None


def _tftp_lossy(f: Facts) -> Verdict | None:
    broken = _broken_by_silence(f)
    if not broken:
        return None
    start = _agreed(f, broken[-1])
    amount = max(0, _block(broken[-1]) - 1) * int(start.detail.get("blksize") or 512) if start else 0
    return Verdict(
        "tftp-lossy",
        "failed",
        f"{path_of(broken[-1])} broke off after {size(amount)}: it fell silent, or packets are lost on the way.",
        "Try another cable, port and switch; if it stops at the same place each time, tftp: "
        "{max_blksize: 1024, max_windowsize: 1}.",
    )


def _broken_by_silence(f: Facts) -> list[Event]:
    """Transfers of the boot program that ended because the client said nothing any more."""
    if f.nbps or f.scripts:
        return []
    return [e for e in f.failed(f.transfers) if "no answer" in str(e.detail.get("why"))]


def _agreed(f: Facts, failure: Event) -> Event | None:
    """The event that says that the client answered at all, with the terms of the transfer."""
    return next((e for e in f.transfers if e.kind == "started" and path_of(e) == path_of(failure) and e.at <= failure.at), None)


def _block(failure: Event) -> int:
    """The block that was never acknowledged; 0 when it was not even the first."""
    words = str(failure.detail.get("why")).replace(",", " ").split()
    return int(words[words.index("DATA") + 1]) if "DATA" in words else 0


def _tftp_client_error(f: Facts) -> Verdict | None:
    broken = [e for e in f.failed(f.transfers) if "the client ended it" in str(e.detail.get("why"))]
    if not broken or f.nbps or f.scripts or not f.quiet(broken[-1], OFFER_PATIENCE):
        return None
    return Verdict(
        "tftp-client-gave-up",
        "failed",
        f"It broke off {path_of(broken[-1])}: {_why(broken[-1])}.",
        "The firmware has no room for a file of this size, or does not want it: try a smaller boot program "
        "(undionly.kpxe, snponly.efi).",
    )


def _tftp_refused(f: Facts) -> Verdict | None:
    """We did not want to send it: a link out of the root, a folder, a file without read permission, too many transfers."""
    refused = [e for e in f.transfers if e.kind in ("refused", "failed") and not _agreed(f, e) and e.detail.get("why")]
    refused = [e for e in refused if "no answer" not in str(e.detail["why"]) and "the client ended it" not in str(e.detail["why"])]
    if not refused or f.nbps or f.scripts:
        return None
    return Verdict(
        "tftp-refused",
        "failed",
        f"It asked for {path_of(refused[-1]) or 'a file'} by TFTP and was refused: {_why(refused[-1])}.",
        "The file must be a regular one below tftp.root and readable by the user pixieboot; "
        "links that lead out of it need tftp: {follow_links: true}.",
    )


def _probe_only(f: Facts) -> Verdict | None:
    probes = [e for e in f.transfers if e.kind == "probe"]
    if not probes or len(probes) != len(f.transfers) or not f.quiet(probes[-1], OFFER_PATIENCE):
        return None
    return Verdict(
        "size-probe-only",
        "failed",
        f"It asked for the size of {path_of(probes[-1])} (that is normal) and never for the file.",
        "A file that is too large for the ROM, or of no use to it, ends so: is it the right boot program for "
        f"{f.arch or 'this architecture'}?",
    )


# --- DHCP ---


def _other_server(f: Facts) -> Verdict | None:
    """It took the boot data of somebody else."""
    other = next((e for e in reversed(f.boot.events) if "another server" in str(e.detail.get("why"))), None)
    if other is None or f.transfers or f.boot.all("http"):
        return None
    return Verdict(
        "other-server-won",
        "failed",
        f"It did not take our offer: {_why(other)}.",
        "Two servers offer boot data on this network: switch the other one's off (its options 66 and 67, next-server), "
        "or on libvirt take the <bootp> element out of the network.",
    )


def _declined(f: Facts) -> Verdict | None:
    declined = f.boot.all("dhcp", "declined")
    if not declined or f.transfers or f.boot.all("http"):
        return None
    address = declined[-1].detail.get("address") or "its address"
    return Verdict(
        "address-in-use",
        "failed",
        f"It refused {address}, because somebody else answers at that address.",
        "A machine with a fixed address sits inside the pool: move it or the pool. `pixieboot leases` shows the quarantine.",
    )


def _naked(f: Facts) -> Verdict | None:
    naks = f.boot.all("dhcp", "naked")
    if not naks or f.boot.all("dhcp", "acked") or f.transfers or not f.quiet(naks[-1], OFFER_PATIENCE):
        return None
    return Verdict(
        "address-refused",
        "failed",
        f"It asked for an address that it may not have here and was told so ({_why(naks[-1], 'DHCPNAK')}), then gave up.",
        "It should ask afresh at once: start it again. If it stays, forget its lease there or give it a reservation (address: …).",
    )


def _api(f: Facts) -> Verdict | None:
    """The API that says what machines boot did not say so."""
    said = f.boot.all("pixiecore")
    if not said or f.offers or f.transfers or f.files:
        return None
    if said[-1].kind == "failed":
        why = str(said[-1].detail.get("why"))
        return Verdict(
            "api-failed",
            "failed",
            f"It is not known what it boots: {why}.",
            "Look at the server that `registry` names, and its log.",
        )
    if said[-1].detail.get("boots") == "nothing":
        return Verdict("api-refuses", "ignored", "The server that `registry` names does not have it boot.", "Describe it there.")
    return None


def _ignored(f: Facts) -> Verdict | None:
    """Not answered on purpose: the reason that was recorded, sorted by what mends it."""
    if not f.ignored or f.offers or f.transfers or f.boot.all("http"):
        return None
    why = _why(f.ignored[-1])
    for mark, name, mend in REASONS:
        if mark in why:
            return Verdict(name, "ignored", f"It was not answered: {why}.", mend)
    return Verdict("ignored", "ignored", f"It was not answered: {why}.", "If that is not wanted, change what the reason names.")


def _late(f: Facts) -> Verdict | None:
    """Only the last of its tries reached us, and nothing followed."""
    if not f.late or f.transfers or f.asked_4011 or f.boot.all("http") or not f.quiet(f.last, OFFER_PATIENCE):
        return None
    return Verdict(
        "late-link",
        "failed",
        f"Its first packet here said it had been trying for {f.late} s: the earlier ones were lost, and it gave up.",
        "The switch port is in STP listening and learning for 30 s: set it to edge/portfast. Energy-efficient Ethernet and slow "
        "negotiation do the same; a small unmanaged switch between the two shows it.",
    )


def _offer_not_taken(f: Facts) -> Verdict | None:
    """Offered, and then neither a request on 4011 nor a file."""
    offers = [e for e in f.offers if (e.detail.get("nbp") or e.detail.get("url")) and loader_of(e) != Loader.IPXE.value]
    if not offers or f.transfers or f.asked_4011 or f.boot.all("http") or not f.quiet(offers[-1], OFFER_PATIENCE):
        return None
    acked = f.boot.all("dhcp", "acked")
    what = base(str(offers[-1].detail.get("nbp") or offers[-1].detail.get("url")))
    if acked:
        return Verdict(
            "tftp-not-asked",
            "failed",
            f"It took its lease and was told to load {what}, but no TFTP request arrived.",
            "A firewall on this host closes UDP 69 (`pixieboot doctor` prints the line that opens it), or another server's "
            "next-server won.",
        )
    if len(offers) >= LOOP:
        return Verdict(
            "offer-ignored",
            "failed",
            f"It was offered {what} {len(offers)} times and took none: firmware that cannot combine the router's offer with ours.",
            "pixieboot tries the other reply styles by itself. If all fail: set reply_style: direct (or menu) for the machine, or "
            "let the router name this host: `pixieboot router-help` prints its lines.",
        )
    return Verdict(
        "offer-not-taken",
        "failed",
        f"It was offered {what}, and neither asked port 4011 nor fetched the file.",
        "No lease from the router (a PXE client needs both), or another PXE server's offer won: `pixieboot doctor` looks for "
        "others. "
        "A firewall may close UDP 4011 and 69 here.",
    )


def _no_tftp_after_4011(f: Facts) -> Verdict | None:
    if not f.asked_4011 or f.transfers or f.boot.all("http") or not f.quiet(f.asked_4011[-1], OFFER_PATIENCE):
        return None
    nbp = base(str(f.asked_4011[-1].detail.get("nbp") or "its boot program"))
    return Verdict(
        "tftp-blocked",
        "failed",
        f"It asked port 4011, was told to load {nbp}, and no TFTP request arrived.",
        "A firewall on this host closes UDP 69: `pixieboot doctor` prints the line that opens it.",
    )


# --- nothing wrong so far ---


def _going(f: Facts) -> Verdict | None:
    last = f.last
    since = duration(f.now - f.boot.start)
    if running := progress(f.boot):
        return Verdict("loading", "going", f"It loads {running}, {since} after its first packet.")
    if f.boot.over:
        return Verdict(
            "interrupted",
            "failed",
            f"It was started again {duration(last.at - f.boot.start)} after its first packet, before it came further.",
        )
    return Verdict("going", "going", f"It is under way: last was {last.service} {last.kind}, {duration(f.now - last.at)} ago.")


# What came later in a boot stands above what came earlier; what is certain above what is likely.
RULES: tuple[Rule, ...] = (
    _secrets_refused, _installed, _document_failed, _document_missing, _overdue, _never_done, _reinstalls,
    _document_not_fetched, _booted,
    _upstream_failed, _fetching, _file_missing, _file_error, _file_aborted, _file_stalled, _files_incomplete, _handed_over,
    _local_failed, _local, _script_error, _script_unknown, _menu, _chained, _script_without_files,
    _pi, _wrong_arch, _second_stage_missing, _modules_missing, _config_missing, _grub_lost, _loader_loop, _ipxe_without_script,
    _secure_boot, _ipxe_lost_link, _http_boot_refused, _nbp_no_ipxe,
    _nbp_missing, _tftp_client_error, _tftp_refused, _tftp_mtu, _tftp_no_data, _tftp_lossy, _probe_only,
    _other_server, _declined, _naked, _api, _ignored, _late, _no_tftp_after_4011, _offer_not_taken, _going,
)  # fmt: skip
