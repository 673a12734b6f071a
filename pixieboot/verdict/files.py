"""Verdicts on what a boot is about: the script, kernel and initrd."""

from pixieboot.boots import Facts, base, duration, is_local, path_of, size
from pixieboot.verdict.rule import FETCH_PATIENCE, FILE_PATIENCE, TRANSFER_PATIENCE, Verdict, has_all, why


def file_missing(f: Facts) -> Verdict | None:
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


def file_error(f: Facts) -> Verdict | None:
    bad = [e for e in f.files if e.kind == "refused" or (e.kind == "failed" and "seconds" not in e.detail)]
    if not bad:
        return None
    return Verdict(
        "file-error",
        "failed",
        f"{path_of(bad[-1])} could not be read: {why(bad[-1])}.",
        "The user pixieboot must be able to read it (chmod a+r, and a+x on the folders above); "
        "else the disk or the network file system below `assets` is at fault.",
    )


def file_aborted(f: Facts) -> Verdict | None:
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


def upstream_failed(f: Facts) -> Verdict | None:
    """What this host was to fetch from another server did not come."""
    bad = [e for e in f.failed(f.files) if e.detail.get("url")]
    if not bad:
        return None
    why = str(bad[-1].detail.get("why"))
    mend = f"From this host, `curl -I {bad[-1].detail['url']}` should answer 200; then start the machine again."
    if "sha256" in why:
        mend = "If the file was replaced on purpose, correct `sha256` in the profile. If not, do not trust that server."
    return Verdict("upstream-failed", "failed", f"{base(path_of(bad[-1]))} could not be fetched for it: {why}.", mend)


def fetching(f: Facts) -> Verdict | None:
    """This host is still fetching what the machine waits for."""
    latest = {e.detail.get("url"): e for e in f.boot.all("fetch")}
    going = [e for e in latest.values() if e.kind in ("asked", "started", "progress")]
    if not going or f.quiet(going[-1], FETCH_PATIENCE):
        return None
    percent = going[-1].detail.get("percent")
    far = f", {percent} % are here" if percent else ""
    return Verdict("fetching", "going", f"It waits for {going[-1].detail.get('url')}, which this host is fetching{far}.")


def file_stalled(f: Facts) -> Verdict | None:
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


def files_incomplete(f: Facts) -> Verdict | None:
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


def handed_over(f: Facts) -> Verdict | None:
    if not has_all(f):
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


def script_error(f: Facts) -> Verdict | None:
    bad = [e for e in f.scripts if int(e.detail.get("status") or 200) >= 500]
    if not bad or bad[-1] is not f.scripts[-1]:
        return None
    return Verdict(
        "script-error",
        "failed",
        f"Its script could not be written: {why(bad[-1], 'the template failed')}.",
        "Mend the template or the variable at that place; `pixieboot explain MACHINE` renders it without a boot.",
    )


def script_unknown(f: Facts) -> Verdict | None:
    bad = [e for e in f.scripts if int(e.detail.get("status") or 200) == 404]
    if not bad or bad[-1] is not f.scripts[-1] or is_local(bad[-1]):
        return None
    return Verdict(
        "script-refused",
        "ignored",
        f"It asked for a script and got 404: {why(bad[-1], 'nobody described this machine')}.",
        "Describe it in machines.yaml, write a group that matches it, or set unknown: menu.",
    )


def menu(f: Facts) -> Verdict | None:
    if not f.scripts or f.files or f.scripts[-1].detail.get("profile") != "menu":
        return None
    return Verdict(
        "menu",
        "going" if not f.boot.over else "ok",
        f"The menu stands on its screen: {why(f.scripts[-1], 'that is its profile')}.",
        "Choose there, or give it a profile: `pixieboot boot MACHINE PROFILE`. Without a choice it starts from its local disk.",
    )


def chained(f: Facts) -> Verdict | None:
    profile = f.assignment.profile
    if not f.scripts or f.files or profile is None or not profile.chain or f.scripts[-1].detail.get("profile") != profile.name:
        return None
    return Verdict(
        "chained",
        "ok",
        f"It was sent on to {profile.chain}, where pixieboot cannot see it.",
        "If it stops there: the machine needs DNS and a way out, and an iPXE built with HTTPS for https URLs.",
    )


def script_without_files(f: Facts) -> Verdict | None:
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
