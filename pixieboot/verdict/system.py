"""Verdicts on the end of a boot: done, the operating system and its documents, the local disk."""

from pixieboot.boots import Boot, Facts, base, duration, is_local, path_of
from pixieboot.policy import LOCAL_WAYS
from pixieboot.verdict.rule import DONE_PATIENCE, LOCAL_RETURN, LOOP, OS_PATIENCE, REINSTALL_WINDOW, Verdict, has_all, why


def installed(f: Facts) -> Verdict | None:
    if not f.done:
        return None
    took = duration(f.done[-1].at - f.boot.start)
    return Verdict("installed", "ok", f"It reported done, {took} after its first packet.")


def secrets_refused(f: Facts) -> Verdict | None:
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


def reinstalls(f: Facts) -> Verdict | None:
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


def local_failed(f: Facts) -> Verdict | None:
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


def local(f: Facts) -> Verdict | None:
    sent = next((e for e in reversed(f.boot.events) if is_local(e)), None)
    if sent is None or f.files:
        return None
    return Verdict("local-disk", "ok", f"It was told to start from its local disk: {why(sent, 'that is its profile')}.")


def document_failed(f: Facts) -> Verdict | None:
    bad = [e for e in f.documents if e.kind == "failed"]
    if not bad:
        return None
    return Verdict(
        "document-error",
        "failed",
        f"Its system asked for {path_of(bad[-1])} and the template failed: {why(bad[-1])}.",
        "Mend the template at that line; `pixieboot explain MACHINE` renders it without a boot.",
    )


def document_missing(f: Facts) -> Verdict | None:
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


def overdue(f: Facts) -> Verdict | None:
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


def never_done(f: Facts) -> Verdict | None:
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


def document_not_fetched(f: Facts) -> Verdict | None:
    """The kernel has its files but not the document that its arguments name."""
    kinds = [kind for kind in ("ignition", "cloud") if f.assignment.profile and kind in f.assignment.profile.documents]
    if not kinds or f.documents or not has_all(f) or not f.quiet(f.files[-1], OS_PATIENCE):
        return None
    return Verdict(
        "document-not-fetched",
        "failed",
        f"Kernel and initrd were fetched whole {duration(f.now - f.files[-1].at)} ago, but its system never asked for its "
        f"{kinds[0]} document.",
        "Look at its screen: the kernel may have no driver for the network card, or its arguments lack the URL "
        f"(`{{{{ url('{kinds[0]}') }}}}`). A console=ttyS0 argument shows more.",
    )


def booted(f: Facts) -> Verdict | None:
    sign = f.documents[-1] if f.documents else f.system
    if sign is None:
        return None
    what = f"asked for {path_of(sign).partition('?')[0]}" if f.documents else "asked for an address of its own"
    return Verdict(
        "booted", "ok", f"Its operating system runs: it {what}, {duration(sign.at - f.boot.start)} after its first packet."
    )
