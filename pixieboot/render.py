"""Steps and templates -> text: iPXE scripts, configurations of GRUB, PXELINUX and Raspberry Pis, documents (Ignition, …).

What a client says of itself is data: before a template sees it, everything but [A-Za-z0-9._:-] becomes "_" and the rest is
cut at 64 characters, so that it can neither begin a line nor end an argument.  URLs are absolute, on
this host's address on that network: in proxy mode ${next-server} is the router.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import UndefinedError

from pixieboot import remote
from pixieboot.inventory import HOLD, Inventory
from pixieboot.model import (
    Arch,
    Assignment,
    Boot,
    Client,
    FetchScript,
    LoadNBP,
    LocalDisk,
    Machine,
    Profile,
    Silence,
    Site,
    Step,
    Variant,
)
from pixieboot.policy import local_way
from pixieboot.sandbox import BUILT_IN, CONTROL, IPXE_OPERATORS, Names, RenderError, clean, screen, templates_of

MENU_TIMEOUT = 20  # seconds until the menu boots the local disk
LONGEST_PI_LINE = 98  # characters of a line of config.txt that the firmware reads
NETBOOT_XYZ = "http://boot.netboot.xyz"
# Kinds with an endpoint of their own (docs/reference.md, HTTP); all others are served at /files/KIND.
ENDPOINTS = ("ignition", "cloud", "generic", "metadata")
# cloud-init's NoCloud: its documents, and what stands in for one that the profile lacks.
SEED = {"user-data": "cloud", "meta-data": None, "vendor-data": None, "network-config": None}

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII)
_IMAGE_NAME = re.compile(r"[A-Za-z0-9._+-]+", re.ASCII)
_SAFE_IN_PATH = "/-._~!()*+,;=:@"
_SERIAL_CONSOLE = re.compile(r"console=(serial|ttyAMA|ttyS)")
_VARIANT = Variant()

Translate = Callable[[str], bytes]  # Butane -> Ignition
Ticket = Callable[[str], str]  # address of a document with secrets, from the path on -> the same, good for one boot


def _no_ticket(address: str) -> str:
    """For a dry run: an address that nobody can use."""
    return f"/secret/PER-BOOT{address}"


def ipxe(step: Step, client: Client, assignment: Assignment, site: Site, inventory: Inventory, ticket: Ticket | None = None) -> str:
    """The step as an iPXE script."""
    page = _Page(client, assignment, site, inventory, ticket=ticket)
    match step:
        case Boot(profile) if profile is HOLD:
            return page.built_in("hold.ipxe.j2", why=step.why, url=_entry(f"{site.http_url}/ipxe"))
        case Boot(profile) if profile.script is not None:
            script = page.template(profile.script, profile)
            return script if script.startswith("#!ipxe") else f"#!ipxe\n{script}"
        case Boot(profile) if profile.chain is not None:
            url = page.link(profile.chain, profile, "chain")
            return page.built_in("chain.ipxe.j2", message=page.message(profile), url=url, why=step.why)
        case Boot(profile) if profile.menu:
            return page.built_in("menu.ipxe.j2", **page.menu())
        case Boot(profile):
            return page.built_in("kernel.ipxe.j2", profile=profile, image=page.image(profile), why=step.why)
        case LocalDisk(how):
            return page.built_in("local.ipxe.j2", how=how, why=step.why)
        case FetchScript(url) | LoadNBP(url):
            return page.built_in("chain.ipxe.j2", message=(), url=url, why=step.why)
        case Silence():
            return page.built_in("local.ipxe.j2", how="exit1", why=step.why)


def grub(
    step: Step,
    client: Client,
    assignment: Assignment,
    site: Site,
    inventory: Inventory,
    near: bool = False,
    ticket: Ticket | None = None,
) -> str:
    """The step as a GRUB configuration.  What only iPXE can do (scripts, chains, the menu's tools) is left to iPXE.

    near: GRUB came from this host by TFTP and fetches the rest the same way, relative to its $root.  Debian's signed GRUB has no
    HTTP, and under Secure Boot it may load no module.
    """
    page = _Page(client, assignment, site, inventory, "/" if near else None, ticket)
    match step:
        case Boot(profile) if profile.menu:
            return page.built_in("menu.grub.j2", **page.menu(images=True))
        case Boot(profile) if profile.kernel:
            return page.built_in("kernel.grub.j2", profile=profile, image=page.image(profile), why=step.why)
        case LocalDisk() | Silence():
            return page.built_in("local.grub.j2", why=step.why)
    return page.built_in("ipxe.grub.j2", why=step.why, loaders=page.loaders())


def pxelinux(
    step: Step,
    client: Client,
    assignment: Assignment,
    site: Site,
    inventory: Inventory,
    near: bool = False,
    ticket: Ticket | None = None,
) -> str:
    """The step as a PXELINUX configuration.  Scripts and chains are left to iPXE.

    near: files by TFTP, which every pxelinux.0 can; else they are URLs, which takes lpxelinux.0.
    """
    page = _Page(client, assignment, site, inventory, "::/" if near else None, ticket)
    match step:
        case Boot(profile) if profile.menu:
            return page.built_in("menu.pxelinux.j2", **page.menu(images=True))
        case Boot(profile) if profile.kernel:
            return page.built_in("kernel.pxelinux.j2", profile=profile, image=page.image(profile), why=step.why)
        case LocalDisk() | Silence():
            return page.built_in("local.pxelinux.j2", why=step.why)
    return page.built_in("ipxe.pxelinux.j2", why=step.why, nbp=f"{client.mac.dashed}/{site.loaders.get(Arch.X86_BIOS, '')}")


def raspberry_pi(
    kind: str,
    step: Step,
    client: Client,
    assignment: Assignment,
    site: Site,
    inventory: Inventory,
    ticket: Ticket | None = None,
) -> str | None:
    """The step as a Raspberry Pi's config.txt or cmdline.txt; None: its firmware has nothing to boot for this step.

    It fetches kernel and initrds by TFTP only, as paths beside its config.txt.
    """
    if not isinstance(step, Boot) or step.profile.menu:
        return None
    profile, page = step.profile, _Page(client, assignment, site, inventory, "", ticket)
    if kind in profile.documents:
        return page.template(profile.documents[kind], profile)
    if not profile.kernel:
        return None
    image = page.image(profile)
    if kind == "cmdline.txt":
        return " ".join(image.args) + "\n"
    for url in (image.kernel, *(initrd.url for initrd in image.initrds)):
        if _URL.match(url):
            what = f"profile {profile.name} has {url}, and a Raspberry Pi's firmware knows TFTP only"
            raise RenderError(profile.where, what, "Put the file below assets.")
    serial = any(_SERIAL_CONSOLE.match(word) for arg in image.args for word in arg.split())
    text = page.built_in("pi.config.j2", image=image, serial=serial, why=step.why)
    if longest := next((line for line in text.splitlines() if len(line) > LONGEST_PI_LINE and not line.startswith("#")), ""):
        what = f"profile {profile.name} makes a line of {len(longest)} characters in config.txt: {longest}"
        raise RenderError(profile.where, what, f"A Raspberry Pi reads {LONGEST_PI_LINE} characters of a line: use shorter paths.")
    return text


def pixiecore(
    step: Boot, client: Client, assignment: Assignment, site: Site, inventory: Inventory, ticket: Ticket | None = None
) -> dict[str, Any]:
    """The step as Pixiecore's API tells it: kernel, initrd, cmdline and message, or ipxe-script."""
    if not step.profile.kernel:
        return {"ipxe-script": ipxe(step, client, assignment, site, inventory, ticket)}
    page = _Page(client, assignment, site, inventory, ticket=ticket)
    image = page.image(step.profile)
    spec: dict[str, Any] = {
        "kernel": image.kernel,
        "initrd": [initrd.url for initrd in image.initrds],
        "cmdline": " ".join(image.args),
    }
    if image.message:
        spec["message"] = " ".join(image.message)
    return spec


def document(
    kind: str,
    client: Client,
    assignment: Assignment,
    site: Site,
    inventory: Inventory,
    translate: Translate | None = None,
    ticket: Ticket | None = None,
    secrets: Mapping[str, str] | None = None,
) -> str:
    """A document of the profile that this machine boots.  Raises OperatorError if it has none of this kind.

    translate: what makes Ignition of a Butane configuration (registry.butane), which is a program's work and not ours.
    secrets: the inventory's, for who may see them; an error never shows one.
    """
    if kind == "metadata":
        return metadata(client, assignment)
    profile = assignment.profile
    name = profile.documents.get(kind) if profile else None
    if profile is None or name is None:
        title = f"profile {profile.name}" if profile else "no profile"
        known = ", ".join(sorted(profile.documents)) if profile else ""
        raise RenderError(profile.where if profile else "registry", f"{title} has no {kind}", f"It has: {known or 'no documents'}.")
    page = _Page(client, assignment, site, inventory, ticket=ticket, secrets=secrets)
    try:
        text = page.template(name, profile)
        if is_butane(name):
            text = _translated(name, text, translate)
        if kind == "ignition":
            _check_json(name, text)
    except RenderError as error:
        raise page.discreet(error) from None
    return text


def holds_secrets(kind: str, profile: Profile | None, inventory: Inventory) -> bool:
    """Does this document of the profile ask for secrets?  Then it goes out by its per-boot address alone."""
    name = profile.documents.get(kind) if profile else None
    return name is not None and templates_of(inventory.templates).calls_secret(name)


def metadata(client: Client, assignment: Assignment) -> str:
    """The variables and the labels that chose the group as an env file: KEY=value, keys in upper case, nested ones joined by _."""
    values: dict[str, Any] = dict(assignment.vars)
    if assignment.group:
        values |= {key: value for key, value in assignment.group.match.items() if key != "subnet"}
    values["mac"] = client.mac
    lines = sorted(_leaves("", values))
    return "".join(f"{key}={value}\n" for key, value in lines)


def boot_ipxe() -> str:
    """/boot.ipxe: where every iPXE begins.  The address is relative, so it leads back to where this script came from."""
    return f"#!ipxe\nchain {_entry('ipxe')}\n"


def autoexec_ipxe(site: Site) -> str:
    """autoexec.ipxe beside the boot program: iPXE 2 runs it before it has an address, so it asks for one, and again if need be."""
    return templates_of(_NO_TEMPLATES).render(f"{BUILT_IN}autoexec.ipxe.j2", {"url": _entry(f"{site.http_url}/ipxe")})


def is_butane(name: str) -> bool:
    """Is a template of this name a Butane configuration, to be translated into Ignition?"""
    return name.removesuffix(".j2").endswith((".bu", ".butane"))


def _entry(base: str) -> str:
    """iPXE tells who it is; ${…:uristring} because a serial number with a space would end the address."""
    return (
        f"{base}?uuid=${{uuid}}&mac=${{mac:hexhyp}}&domain=${{domain:uristring}}&hostname=${{hostname:uristring}}"
        "&serial=${serial:uristring}&arch=${buildarch:uristring}&platform=${platform}"
    )


_NO_TEMPLATES: Mapping[str, str] = {}


# --- one answer ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Initrd:
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel with all that it is given.  own_initrd: its arguments name the initrds already."""

    kernel: str
    initrds: tuple[Initrd, ...]
    args: tuple[str, ...]
    message: tuple[str, ...]
    own_initrd: bool

    @property
    def over_http(self) -> bool:
        """Is any of its files to be had by HTTP alone?"""
        return any(_URL.match(url) for url in (self.kernel, *(initrd.url for initrd in self.initrds)))

    @property
    def ipxe_args(self) -> tuple[str, ...]:
        """UEFI kernels find an initrd by its name only."""
        return self.args if self.own_initrd else (*(f"initrd={initrd.name}" for initrd in self.initrds), *self.args)


class _Page:
    """One client's answer: the names that its templates see.  near: how the boot program writes the root of our TFTP tree."""

    def __init__(
        self,
        client: Client,
        assignment: Assignment,
        site: Site,
        inventory: Inventory,
        near: str | None = None,
        ticket: Ticket | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._assignment, self._site, self._inventory, self._near = client, assignment, site, inventory, near
        self._ticket, self._secrets, self._shown = ticket or _no_ticket, secrets, set[str]()
        self._templates = templates_of(inventory.templates)
        self._profile: Profile | None = None
        self._names: dict[str, Any] = {
            "vars": Names("vars", assignment.vars),
            "machine": Names("machine", _machine_names(assignment.machine)),
            "client": Names("client", client_names(client)),
            "base_url": site.http_url,
            "url": self.url,
            "asset": self.asset,
            "secret": self.secret,
        }

    # What templates call.

    def url(self, kind: str) -> str:
        """Where the machine finds its document of this kind."""
        mac, base = self._client.mac.dashed, self._site.http_url
        if kind == "cloud-init":
            return self._address(f"/cloud-init/{mac}/", *SEED, "cloud")
        if kind in SEED:
            return self._address(f"/cloud-init/{mac}/{kind}", kind, *filter(None, [SEED[kind]]))
        if kind in ("done", "boot.ipxe", "ipxe", "grub", "pxelinux"):
            return f"{base}/{kind}?mac={mac}"
        profile = self._profile
        if kind != "metadata" and profile and kind not in profile.documents:
            known = sorted({*profile.documents, "metadata", "done", "cloud-init"})
            near = difflib.get_close_matches(kind, known, 1, 0.6)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}."
            raise UndefinedError(f"url({kind!r}): profile {profile.name} has no such document\n{hint}")
        path = kind if kind in ENDPOINTS else f"files/{quote(kind)}"
        return self._address(f"/{path}?mac={mac}{self._labels()}", kind)

    def _address(self, path: str, *kinds: str) -> str:
        """The address of a document; a per-boot one if any of these kinds holds secrets."""
        if any(holds_secrets(kind, self._profile, self._inventory) for kind in kinds):
            path = self._ticket(path)
        return f"{self._site.http_url}{path}"

    def secret(self, name: str) -> str:
        """A secret of this machine, or of all."""
        if self._secrets is None:
            raise UndefinedError(
                "a secret may stand in documents only\nName the document with url(…): its address is good for one boot."
            )
        machine = self._assignment.machine
        own = f"{machine.name}/{name}" if machine else ""
        text = self._secrets.get(own, self._secrets.get(name))
        if text is None or "/" in name:
            near = difflib.get_close_matches(str(name), list(self._secrets), 1, 0.6)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UndefinedError(f"secret({name!r}) does not exist\n{hint}Secrets live below secrets/ of the registry.")
        self._shown.add(text)
        return text

    def discreet(self, error: RenderError) -> RenderError:
        """The error without any secret in it."""
        what, mend = error.what, error.mend
        for text in sorted(self._shown, key=len, reverse=True):
            for part in (text, *text.splitlines()):
                if part.strip():
                    what, mend = what.replace(part, "(secret)"), mend.replace(part, "(secret)")
        return RenderError(error.where, what, mend)

    def _labels(self) -> str:
        """The labels that led to this profile, so that the document is looked up the same way."""
        client, match = self._client, self._assignment.group.match if self._assignment.group else {}
        labels = {name: value for name, value in client.labels.items() if name in match and name != "mac"}
        if self._profile and (client.labels.get("profile") == self._profile.name or self._profile != self._assignment.profile):
            labels["profile"] = self._profile.name  # picked in the menu, or offered there
        if client.uuid and ("uuid" in match or self._assignment.machine):
            labels["uuid"] = client.uuid
        if client.serial and ("serial" in match or self._assignment.machine):
            labels["serial"] = client.serial
        if client.arch and ("arch" in match or "platform" in match):
            labels["arch"] = client.arch.value
        return "".join(f"&{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(labels.items()) if value)

    def asset(self, path: str) -> str:
        """The address of a file below assets; a URL stays what it is, unless its profile has this host fetch it."""
        if _URL.match(path):
            fetched = remote.named_by(self._profile, path) if self._profile else None
            return f"{self._site.http_url}{remote.path_of(self._site.link_key, fetched)}" if fetched else path
        return f"{self._site.http_url}/assets/{quote(path.lstrip('/'), safe=_SAFE_IN_PATH)}"

    # Rendering.

    def built_in(self, name: str, **values: Any) -> str:
        names = {**self._names, "site": self._site, "near": self._near is not None, **values}
        return self._templates.render(f"{BUILT_IN}{name}", names)

    def template(self, name: str, profile: Profile) -> str:
        """One of the operator's templates."""
        self._profile = profile
        return self._templates.render(name, {**self._names, "profile": profile.name})

    def value(self, text: str, profile: Profile, key: str) -> str:
        """A key of a profile, which may hold expressions: one line, whatever they give."""
        self._profile = profile
        names = {**self._names, "profile": profile.name}
        text = self._templates.value(text, names, profile.where, f"{key} of profile {profile.name}")
        text = text.strip()
        if CONTROL.search(text):
            what = f"{key} of profile {profile.name} has a line break or control character"
            raise RenderError(profile.where, what, "Make it one line.")
        return text

    def link(self, text: str, profile: Profile, key: str) -> str:
        """A path below assets, or a URL, as an absolute URL; or as a path of our TFTP tree for a program that came from there."""
        path = self.value(text, profile, key)
        url = self.asset(path) if self._near is None or _URL.match(path) else f"{self._near}assets/{path.lstrip('/')}"
        if " " in url:
            what = f"{key} of profile {profile.name} is {url!r}, an address with a space"
            raise RenderError(profile.where, what, "Write %20 for it.")
        return url

    def image(self, profile: Profile) -> Image:
        variant = profile.arch.get(self._client.arch, _VARIANT) if self._client.arch else _VARIANT
        if self._client.arch is Arch.RPIBOOT and variant is _VARIANT:
            variant = profile.arch.get(Arch.ARM64_EFI, _VARIANT)  # the same processor: a kernel for all of them is written once
        kernel = self.link(variant.kernel or profile.kernel or "", profile, "kernel")
        urls = [self.link(text, profile, "initrd") for text in (profile.initrd if variant.initrd is None else variant.initrd)]
        args = self._args(profile.args if variant.args is None else variant.args, profile)
        message = self.message(profile)
        own = any(arg.startswith("initrd=") for arg in args) or remote.last_part(kernel) == "wimboot"
        return Image(kernel, tuple(_named(urls)), tuple(args), message, own)

    def _args(self, texts: Iterable[str], profile: Profile) -> list[str]:
        args = [value for text in texts if (value := self.value(text, profile, "args"))]
        for word in " ".join(args).split():
            if word in IPXE_OPERATORS or word.startswith("#"):
                what = f"args of profile {profile.name} holds the word {word!r}, which ends an iPXE command"
                raise RenderError(profile.where, what, "Leave it out.")
        return args

    def message(self, profile: Profile) -> tuple[str, ...]:
        lines = profile.message.splitlines()
        return tuple(screen(self.value(line, profile, "message")) for line in lines)

    def menu(self, images: bool = False) -> dict[str, Any]:
        """What the built-in menu shows.  images: with each profile's kernel; a profile that cannot be rendered is left out."""
        entries = []
        for number, profile in enumerate(self._inventory.profiles.values()):
            if profile.menu or profile.local:
                continue
            image = None
            if images:
                try:
                    image = self.image(profile) if profile.kernel else None
                except RenderError:
                    continue
            entries.append({"label": f"p{number}", "name": profile.name, "title": profile.title or profile.name, "image": image})
        machine = self._assignment.machine
        return {
            "who": machine.name if machine else self._client.mac,
            "entries": entries,
            "seconds": MENU_TIMEOUT,
            "how": local_way(self._client, self._assignment),
            "netboot_xyz": NETBOOT_XYZ,
            "entry_point": _entry(f"{self._site.http_url}/ipxe"),
            "why": self._assignment.why,
            "loaders": self.loaders(),
        }

    def loaders(self) -> dict[str, str]:
        """GRUB's name of a processor -> the address of iPXE for it."""
        base = (
            f"{self._site.http_url}/tftp/{self._client.mac.dashed}"
            if self._near is None
            else f"{self._near}{self._client.mac.dashed}"
        )
        cpus = {"x86_64": Arch.X64_EFI, "i386": Arch.X86_EFI, "arm64": Arch.ARM64_EFI}
        return {cpu: f"{base}/{quote(self._site.loaders[arch])}" for cpu, arch in cpus.items() if arch in self._site.loaders}


def client_names(client: Client) -> dict[str, Any]:
    """What templates may know of a client: harmless characters only; what it did not tell is not defined."""
    labels = {clean(name): clean(value) for name, value in client.labels.items()}
    names: dict[str, Any] = {
        "mac": client.mac,
        "uuid": client.uuid,
        "serial": clean(client.serial) if client.serial else None,
        "arch": client.arch.value if client.arch else None,
        "platform": client.arch.platform if client.arch else None,
        "ip": client.address,
        "hostname": labels.get("hostname"),
    }
    return {name: value for name, value in names.items() if value} | {"query": Names("client.query", labels)}


def _machine_names(machine: Machine | None) -> dict[str, Any]:
    if machine is None:
        return {}
    names = {
        "name": machine.name,
        "mac": machine.macs[0] if machine.macs else None,
        "macs": list(machine.macs),
        "uuid": machine.uuid,
        "serial": machine.serial,
        "address": machine.address,
        "hostname": machine.hostname,
    }
    return {name: value for name, value in names.items() if value}


def _named(urls: list[str]) -> Iterable[Initrd]:
    """Names that a kernel or wimboot can find: the files' own where they are fit and differ, else initrd0, initrd1 …"""
    names = [remote.last_part(url) for url in urls]
    for number, (url, name) in enumerate(zip(urls, names, strict=True)):
        fit = _IMAGE_NAME.fullmatch(name) and names.count(name) == 1
        yield Initrd(name if fit else f"initrd{number}", url)


def _leaves(prefix: str, values: Mapping[Any, Any]) -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}".upper()
        if isinstance(value, Mapping):
            yield from _leaves(f"{name}_", value)
        elif isinstance(value, bool):
            yield name, "true" if value else "false"
        elif isinstance(value, (str, int, float)):
            yield name, CONTROL.sub(" ", str(value))


def _translated(name: str, text: str, translate: Translate | None) -> str:
    try:
        if translate is None:
            raise ValueError("a Butane configuration needs the program butane")
        return translate(text).decode()
    except ValueError as error:
        raise RenderError(f"templates/{name}", str(error), "Install butane, or write the configuration as Ignition.") from error


def _check_json(name: str, text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        what = f"the rendered Ignition configuration is not JSON ({error})"
        raise RenderError(f"templates/{name}", what, f"Look at line {line} of its output; `| tojson` quotes a value.") from error
