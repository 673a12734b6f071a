"""Verdicts on DHCP: who was not answered, and what became of an offer."""

from pixieboot.boots import Facts, base, loader_of
from pixieboot.model import Loader
from pixieboot.verdict.rule import LOOP, OFFER_PATIENCE, Verdict, why

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
        "it is not guessed",
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


def other_server(f: Facts) -> Verdict | None:
    """It took the boot data of somebody else."""
    other = next((e for e in reversed(f.boot.events) if "another server" in str(e.detail.get("why"))), None)
    if other is None or f.transfers or f.boot.all("http"):
        return None
    return Verdict(
        "other-server-won",
        "failed",
        f"It did not take our offer: {why(other)}.",
        "Two servers offer boot data on this network: switch the other one's off (its options 66 and 67, next-server), "
        "or on libvirt take the <bootp> element out of the network.",
    )


def declined(f: Facts) -> Verdict | None:
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


def naked(f: Facts) -> Verdict | None:
    naks = f.boot.all("dhcp", "naked")
    if not naks or f.boot.all("dhcp", "acked") or f.transfers or not f.quiet(naks[-1], OFFER_PATIENCE):
        return None
    return Verdict(
        "address-refused",
        "failed",
        f"It asked for an address that it may not have here and was told so ({why(naks[-1], 'DHCPNAK')}), then gave up.",
        "It should ask afresh at once: start it again. If it stays, forget its lease there or give it a reservation (address: …).",
    )


def api(f: Facts) -> Verdict | None:
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


def ignored(f: Facts) -> Verdict | None:
    """Not answered on purpose: the reason that was recorded, sorted by what mends it."""
    if not f.ignored or f.offers or f.transfers or f.boot.all("http"):
        return None
    reason = why(f.ignored[-1])
    for mark, name, mend in REASONS:
        if mark in reason:
            return Verdict(name, "ignored", f"It was not answered: {reason}.", mend)
    return Verdict("ignored", "ignored", f"It was not answered: {reason}.", "If that is not wanted, change what the reason names.")


def late(f: Facts) -> Verdict | None:
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


def offer_not_taken(f: Facts) -> Verdict | None:
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


def no_tftp_after_4011(f: Facts) -> Verdict | None:
    if not f.asked_4011 or f.transfers or f.boot.all("http") or not f.quiet(f.asked_4011[-1], OFFER_PATIENCE):
        return None
    nbp = base(str(f.asked_4011[-1].detail.get("nbp") or "its boot program"))
    return Verdict(
        "tftp-blocked",
        "failed",
        f"It asked port 4011, was told to load {nbp}, and no TFTP request arrived.",
        "A firewall on this host closes UDP 69: `pixieboot doctor` prints the line that opens it.",
    )
