"""Why did it not boot?  One boot judged: what came of it, in a sentence, and what to try next.

Pure: `now` is an argument.  RULES is the whole knowledge, read from top to bottom: the first rule that fits a boot is its
verdict, so what came later in a boot stands above what came earlier.  The rules themselves are sorted by stage: system, files,
loader, tftp, dhcp.
"""

from collections.abc import Sequence

from pixieboot.boots import Boot, Facts, duration, progress, tell
from pixieboot.model import Assignment, Event
from pixieboot.verdict import dhcp, files, loader, system, tftp
from pixieboot.verdict.rule import Rule, Verdict

__all__ = ["RULES", "Verdict", "judge", "nothing_heard"]


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


def nothing_heard(who: str, last: Event | None = None) -> Verdict:
    """The verdict on a machine that has no boot at all.  last: what it was heard to do all the same."""
    if last:
        return Verdict(
            "no-netboot",
            "failed",
            f"{who} was heard, but not as a machine that boots over the network; last: {tell(last)}.",
            "Is network boot first in its firmware's boot order? `pixieboot events` shows all that it asked.",
        )
    return Verdict(
        "nothing-heard",
        "failed",
        f"Nothing was heard of {who}.",
        "Is network boot first in its firmware's boot order, its cable in a port of this network, and its MAC right? "
        "`pixieboot events -f` shows every machine that asks; `pixieboot doctor` checks this host.",
    )


def going(f: Facts) -> Verdict | None:
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
    system.secrets_refused,
    system.installed,
    system.document_failed,
    system.document_missing,
    system.overdue,
    system.never_done,
    system.reinstalls,
    system.document_not_fetched,
    system.booted,
    files.upstream_failed,
    files.fetching,
    files.file_missing,
    files.file_error,
    files.file_aborted,
    files.file_stalled,
    files.files_incomplete,
    files.handed_over,
    system.local_failed,
    system.local,
    files.script_error,
    files.script_unknown,
    files.menu,
    files.chained,
    files.script_without_files,
    tftp.pi,
    loader.wrong_arch,
    loader.second_stage_missing,
    loader.modules_missing,
    loader.config_missing,
    loader.http_lacking,
    loader.grub_lost,
    loader.loader_loop,
    loader.ipxe_without_script,
    loader.secure_boot,
    loader.ipxe_lost_link,
    loader.http_boot_refused,
    loader.nbp_no_ipxe,
    tftp.nbp_missing,
    tftp.tftp_client_error,
    tftp.tftp_refused,
    tftp.tftp_mtu,
    tftp.tftp_no_data,
    tftp.tftp_lossy,
    tftp.probe_only,
    dhcp.other_server,
    dhcp.declined,
    dhcp.naked,
    dhcp.api,
    dhcp.ignored,
    dhcp.late,
    dhcp.no_tftp_after_4011,
    dhcp.offer_not_taken,
    going,
)
