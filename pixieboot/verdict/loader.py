"""Verdicts on the way from the boot program to its script."""

from pixieboot.boots import GAP, LOADER_ARCHES, Facts, base, duration, loader_of, path_of
from pixieboot.model import Loader
from pixieboot.verdict.rule import LOADER_PATIENCE, LOOP, OFFER_PATIENCE, SCRIPT_PATIENCE, TRANSFER_PATIENCE, Verdict

SECOND_STAGES = {"shimx64.efi": "grubx64.efi", "bootx64.efi": "grubx64.efi", "shimaa64.efi": "grubaa64.efi"}


def loader_loop(f: Facts) -> Verdict | None:
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


def wrong_arch(f: Facts) -> Verdict | None:
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


def second_stage_missing(f: Facts) -> Verdict | None:
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


def grub_lost(f: Facts) -> Verdict | None:
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


def config_missing(f: Facts) -> Verdict | None:
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


def http_lacking(f: Facts) -> Verdict | None:
    """GRUB or PXELINUX got its configuration by TFTP, and of its profile's files none is asked for: they are fetched by HTTP."""
    configs = [e for e in f.transfers if e.kind == "sent" and ("grub.cfg" in path_of(e) or "pxelinux.cfg/" in path_of(e))]
    profile = f.assignment.profile
    named = (profile.kernel, *profile.initrd) if profile and profile.cache else ()
    urls = [path for path in named if path and "://" in path]
    if not configs or not urls or f.files or f.scripts or not f.quiet(configs[-1], TRANSFER_PATIENCE):
        return None
    name = "PXELINUX" if "pxelinux" in path_of(configs[-1]) else "GRUB"
    return Verdict(
        "loader-without-http",
        "failed",
        f"{name} has its configuration and never asked for {base(urls[0])}, which comes from another server by way of HTTP alone.",
        "Debian's signed GRUB and pxelinux.0 have no HTTP: put the files below assets, from where they go by TFTP, or boot by iPXE "
        "(or lpxelinux.0).",
    )


def modules_missing(f: Facts) -> Verdict | None:
    lacking = next((e for e in f.transfers if e.kind == "missing" and path_of(e).endswith((".c32", ".mod"))), None)
    if lacking is None or any(base(path_of(e)) == base(path_of(lacking)) and e.kind == "sent" for e in f.transfers):
        return None
    return Verdict(
        "loader-module-missing",
        "failed",
        f"Its boot program runs and asked for its own part {path_of(lacking)}, which is not there.",
        f"Copy {base(path_of(lacking))} from the same version of the package (syslinux or GRUB) into that folder below tftp.root.",
    )


def ipxe_without_script(f: Facts) -> Verdict | None:
    """iPXE got its URL by DHCP and did not fetch it."""
    offers = [e for e in f.offers if loader_of(e) == Loader.IPXE.value]
    later = [e for e in (*f.boot.all("http"), *f.boot.all("tftp", "started")) if offers and e.at > offers[0].at]
    if f.scripts or not offers or later:
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


def ipxe_lost_link(f: Facts) -> Verdict | None:
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


def http_boot_refused(f: Facts) -> Verdict | None:
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


def secure_boot(f: Facts) -> Verdict | None:
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


def nbp_no_ipxe(f: Facts) -> Verdict | None:
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
