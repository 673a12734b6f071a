"""Verdicts on TFTP, and on the Raspberry Pi, whose whole boot it is."""

from pixieboot.boots import Facts, base, loader_of, path_of, size
from pixieboot.content import EXPECTED_MISSES
from pixieboot.model import Event, Loader
from pixieboot.verdict.rule import OFFER_PATIENCE, TRANSFER_PATIENCE, Verdict, why


def nbp_missing(f: Facts) -> Verdict | None:
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


def pi(f: Facts) -> Verdict | None:
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


def tftp_no_data(f: Facts) -> Verdict | None:
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


def tftp_mtu(f: Facts) -> Verdict | None:
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


def tftp_lossy(f: Facts) -> Verdict | None:
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


def tftp_client_error(f: Facts) -> Verdict | None:
    broken = [e for e in f.failed(f.transfers) if "the client ended it" in str(e.detail.get("why"))]
    if not broken or f.nbps or f.scripts or not f.quiet(broken[-1], OFFER_PATIENCE):
        return None
    return Verdict(
        "tftp-client-gave-up",
        "failed",
        f"It broke off {path_of(broken[-1])}: {why(broken[-1])}.",
        "The firmware has no room for a file of this size, or does not want it: try a smaller boot program "
        "(undionly.kpxe, snponly.efi).",
    )


def tftp_refused(f: Facts) -> Verdict | None:
    """We did not want to send it: a link out of the root, a folder, a file without read permission, too many transfers."""
    refused = [e for e in f.transfers if e.kind in ("refused", "failed") and not _agreed(f, e) and e.detail.get("why")]
    refused = [e for e in refused if "no answer" not in str(e.detail["why"]) and "the client ended it" not in str(e.detail["why"])]
    if not refused or f.nbps or f.scripts:
        return None
    return Verdict(
        "tftp-refused",
        "failed",
        f"It asked for {path_of(refused[-1]) or 'a file'} by TFTP and was refused: {why(refused[-1])}.",
        "The file must be a regular one below tftp.root and readable by the user pixieboot; "
        "links that lead out of it need tftp: {follow_links: true}.",
    )


def probe_only(f: Facts) -> Verdict | None:
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
