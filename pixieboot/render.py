"""Steps and templates -> text: iPXE scripts, GRUB and PXELINUX configurations, and documents (Ignition, cloud-config, …).

Templates are the operator's and run in Jinja's sandbox; an undefined name is an error that names template, line and name.
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
from urllib.parse import quote, urlsplit

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pixieboot.errors import OperatorError
from pixieboot.inventory import Inventory
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

BUILT_IN = "pixieboot/"  # templates of ours; an operator's template of the same name takes its place
MENU_TIMEOUT = 20  # seconds until the menu boots the local disk
LONGEST_CLIENT_VALUE = 64
NETBOOT_XYZ = "http://boot.netboot.xyz"
# Kinds with an endpoint of their own (docs/reference.md, HTTP); all others are served at /files/KIND.
ENDPOINTS = ("ignition", "cloud", "generic", "metadata")
# cloud-init's NoCloud: its documents, and what stands in for one that the profile lacks.
SEED = {"user-data": "cloud", "meta-data": None, "vendor-data": None, "network-config": None}

_HOSTILE = re.compile(r"[^A-Za-z0-9._:-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_MARKUP = re.compile(r"\{[{%#]")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII)
_IMAGE_NAME = re.compile(r"[A-Za-z0-9._+-]+", re.ASCII)
_IPXE_OPERATORS = ("||", "&&", ";")  # as words of their own they end a command
_SAFE_IN_PATH = "/-._~!()*+,;=:@"
_VARIANT = Variant()


class RenderError(OperatorError):
    """A template that cannot be rendered.  str() tells the operator all; short is for the machine's screen."""

    @property
    def short(self) -> str:
        return f"pixieboot: {self.where}: {self.what}"


def ipxe(step: Step, client: Client, assignment: Assignment, site: Site, inventory: Inventory) -> str:
    """The step as an iPXE script."""
    page = _Page(client, assignment, site, inventory)
    match step:
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


def grub(step: Step, client: Client, assignment: Assignment, site: Site, inventory: Inventory, near: bool = False) -> str:
    """The step as a GRUB configuration.  What only iPXE can do (scripts, chains, the menu's tools) is left to iPXE.

    near: GRUB came from this host by TFTP and fetches the rest the same way, relative to its $root.  Debian's signed GRUB has no
    HTTP, and under Secure Boot it may load no module.
    """
    page = _Page(client, assignment, site, inventory, "/" if near else None)
    match step:
        case Boot(profile) if profile.menu:
            return page.built_in("menu.grub.j2", **page.menu(images=True))
        case Boot(profile) if profile.kernel:
            return page.built_in("kernel.grub.j2", profile=profile, image=page.image(profile), why=step.why)
        case LocalDisk() | Silence():
            return page.built_in("local.grub.j2", why=step.why)
    return page.built_in("ipxe.grub.j2", why=step.why, loaders=page.loaders())


def pxelinux(step: Step, client: Client, assignment: Assignment, site: Site, inventory: Inventory, near: bool = False) -> str:
    """The step as a PXELINUX configuration.  Scripts and chains are left to iPXE.

    near: files by TFTP, which every pxelinux.0 can; else they are URLs, which takes lpxelinux.0.
    """
    page = _Page(client, assignment, site, inventory, "::/" if near else None)
    match step:
        case Boot(profile) if profile.menu:
            return page.built_in("menu.pxelinux.j2", **page.menu(images=True))
        case Boot(profile) if profile.kernel:
            return page.built_in("kernel.pxelinux.j2", profile=profile, image=page.image(profile), why=step.why)
        case LocalDisk() | Silence():
            return page.built_in("local.pxelinux.j2", why=step.why)
    return page.built_in("ipxe.pxelinux.j2", why=step.why, nbp=f"{client.mac.dashed}/{site.loaders.get(Arch.X86_BIOS, '')}")


def pixiecore(step: Boot, client: Client, assignment: Assignment, site: Site, inventory: Inventory) -> dict[str, Any]:
    """The step as Pixiecore's API tells it: kernel, initrd, cmdline and message, or ipxe-script."""
    if not step.profile.kernel:
        return {"ipxe-script": ipxe(step, client, assignment, site, inventory)}
    page = _Page(client, assignment, site, inventory)
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
    translate: Callable[[str], bytes] | None = None,
) -> str:
    """A document of the profile that this machine boots.  Raises OperatorError if it has none of this kind.

    translate: what makes Ignition of a Butane configuration (registry.butane), which is a program's work and not ours.
    """
    if kind == "metadata":
        return metadata(client, assignment)
    profile = assignment.profile
    name = profile.documents.get(kind) if profile else None
    if profile is None or name is None:
        title = f"profile {profile.name}" if profile else "no profile"
        known = ", ".join(sorted(profile.documents)) if profile else ""
        raise RenderError(profile.where if profile else "registry", f"{title} has no {kind}", f"It has: {known or 'no documents'}.")
    text = _Page(client, assignment, site, inventory).template(name, profile)
    if is_butane(name):
        text = _translated(name, text, translate)
    if kind == "ignition":
        _check_json(name, text)
    return text


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
    environment = _environment(_NO_TEMPLATES)
    return environment.get_template(f"{BUILT_IN}autoexec.ipxe.j2").render(url=_entry(f"{site.http_url}/ipxe"))


def _entry(base: str) -> str:
    """iPXE tells who it is; ${…:uristring} because a serial number with a space would end the address."""
    return (
        f"{base}?uuid=${{uuid}}&mac=${{mac:hexhyp}}&domain=${{domain:uristring}}&hostname=${{hostname:uristring}}"
        "&serial=${serial:uristring}&arch=${buildarch:uristring}&platform=${platform}"
    )


# --- what the registry asks at load --------------------------------------------------------------------------------------


def syntax_fault(text: str) -> tuple[int, str] | None:
    """(line, what) of the first syntax error of a template; None if it can be compiled."""
    try:
        _SYNTAX.parse(text)
        _SYNTAX.compile(text)
    except jinja2.TemplateSyntaxError as error:
        return error.lineno, (error.message or "syntax error").rstrip(".")
    return None


def references(text: str) -> list[tuple[int, str]]:
    """(line, name) of every template that this one includes, imports or extends by a fixed name."""
    found = []
    for node in _SYNTAX.parse(text).find_all(_REFERENCES):
        named = getattr(node, "template", None)
        if isinstance(named, jinja2.nodes.Const) and isinstance(named.value, str) and not getattr(node, "ignore_missing", False):
            found.append((node.lineno, named.value))
    return found


def built_in_names() -> list[str]:
    return [f"{BUILT_IN}{name}" for name in _PACKAGE.list_templates()]


def is_butane(name: str) -> bool:
    """Is a template of this name a Butane configuration, to be translated into Ignition?"""
    return name.removesuffix(".j2").endswith((".bu", ".butane"))


def has_markup(text: str) -> bool:
    return bool(_MARKUP.search(text))


# --- the sandbox ---------------------------------------------------------------------------------------------------------


class Names(dict[str, Any]):
    """A mapping that templates know by name, so that a message can say `vars.role`."""

    def __init__(self, _title: str, _values: Mapping[str, Any]) -> None:
        super().__init__(_values)
        self._title = _title


class _Undefined(jinja2.StrictUndefined):
    """Says what was looked for where, and what comes nearest."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, where = self._undefined_name, self._undefined_obj
        if self._undefined_hint:
            return self._undefined_hint
        if not isinstance(where, dict):
            return super()._undefined_message
        title = f"{where._title}.{name}" if isinstance(where, Names) else str(name)
        near = difflib.get_close_matches(str(name), list(map(str, where)), 1, 0.6)
        return f"{title} is not defined\n" + (f"Did you mean {near[0]!r}?" if near else "")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with no way out of the values it is given.  Data come before methods: vars.items is the variable of that name."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _finalize(value: Any) -> Any:
    """What {{ }} prints: never Python's own words for what is no value."""
    if value is None:
        raise jinja2.UndefinedError("this value is empty (null)\nGive it a value, or a stand-in with `| default('…', true)`.")
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise jinja2.UndefinedError("this is a function, not a value\nCall it, as in url('ignition').")
    return value


def _sandbox(loader: jinja2.BaseLoader | None) -> _Sandbox:
    sandbox = _Sandbox(
        loader=loader,
        undefined=_Undefined,
        finalize=_finalize,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    sandbox.filters |= {"screen": _screen, "grub": _grub_word, "grub_url": _grub_url}
    return sandbox


_PACKAGE = jinja2.PackageLoader("pixieboot")
_NO_TEMPLATES: Mapping[str, str] = {}


class _Templates:
    """The compiled templates of one inventory."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self._sandbox = _sandbox(jinja2.FunctionLoader(self._load))
        self._strings: dict[str, jinja2.Template] = {}

    def _load(self, name: str) -> tuple[str, str, Callable[[], bool]] | None:
        if (text := self.texts.get(name)) is not None:
            return text, f"templates/{name}", lambda: True
        if name.startswith(BUILT_IN):
            try:
                text, _, _ = _PACKAGE.get_source(self._sandbox, name.removeprefix(BUILT_IN))
            except jinja2.TemplateNotFound:
                return None
            return text, f"templates/{name} (built in)", lambda: True
        return None

    def get_template(self, name: str) -> jinja2.Template:
        return self._sandbox.get_template(name)

    def from_string(self, text: str) -> jinja2.Template:
        found = self._strings.get(text)
        if found is None:
            code = self._sandbox.compile(text, "<value>", _VALUE)
            found = self._strings[text] = jinja2.Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))
        return found


_VALUE = "<value>"
_REFERENCES = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)
_latest: list[_Templates] = []


def _environment(texts: Mapping[str, str]) -> _Templates:
    """The compiled templates of an inventory; those of the last two are kept (one in force, one being looked at)."""
    for known in _latest:
        if known.texts is texts:
            return known
    _latest.insert(0, _Templates(texts))
    del _latest[2:]
    return _latest[0]


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
    def ipxe_args(self) -> tuple[str, ...]:
        """UEFI kernels find an initrd by its name only."""
        return self.args if self.own_initrd else (*(f"initrd={initrd.name}" for initrd in self.initrds), *self.args)


class _Page:
    """One client's answer: the names that its templates see.  near: how the boot program writes the root of our TFTP tree."""

    def __init__(self, client: Client, assignment: Assignment, site: Site, inventory: Inventory, near: str | None = None) -> None:
        self._client, self._assignment, self._site, self._inventory, self._near = client, assignment, site, inventory, near
        self._templates = _environment(inventory.templates)
        self._profile: Profile | None = None
        self._names: dict[str, Any] = {
            "vars": Names("vars", assignment.vars),
            "machine": Names("machine", _machine_names(assignment.machine)),
            "client": Names("client", client_names(client)),
            "base_url": site.http_url,
            "url": self.url,
            "asset": self.asset,
        }

    # What templates call.

    def url(self, kind: str) -> str:
        """Where the machine finds its document of this kind."""
        mac, base = self._client.mac.dashed, self._site.http_url
        if kind == "cloud-init":
            return f"{base}/cloud-init/{mac}/"
        if kind in SEED:
            return f"{base}/cloud-init/{mac}/{kind}"
        if kind in ("done", "boot.ipxe", "ipxe", "grub", "pxelinux"):
            return f"{base}/{kind}?mac={mac}"
        profile = self._profile
        if kind != "metadata" and profile and kind not in profile.documents:
            known = sorted({*profile.documents, "metadata", "done", "cloud-init"})
            near = difflib.get_close_matches(kind, known, 1, 0.6)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}."
            raise jinja2.UndefinedError(f"url({kind!r}): profile {profile.name} has no such document\n{hint}")
        path = kind if kind in ENDPOINTS else f"files/{quote(kind)}"
        return f"{base}/{path}?mac={mac}{self._labels()}"

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
        """The address of a file below assets; a URL stays what it is."""
        if _URL.match(path):
            return path
        return f"{self._site.http_url}/assets/{quote(path.lstrip('/'), safe=_SAFE_IN_PATH)}"

    # Rendering.

    def built_in(self, name: str, **values: Any) -> str:
        template = self._get(f"{BUILT_IN}{name}")
        return self._render(
            template, template.filename or name, {**self._names, "site": self._site, "near": self._near is not None, **values}
        )

    def template(self, name: str, profile: Profile) -> str:
        """One of the operator's templates."""
        self._profile = profile
        return self._render(self._get(name), f"templates/{name}", {**self._names, "profile": profile.name})

    def _get(self, name: str) -> jinja2.Template:
        try:
            return self._templates.get_template(name)
        except jinja2.TemplateError as error:
            raise _error(error, f"templates/{name}") from error

    def _render(self, template: jinja2.Template, where: str, names: Mapping[str, Any]) -> str:
        try:
            return template.render(names)
        except OperatorError:
            raise
        except Exception as error:  # whatever an expression of the operator's may raise
            raise _error(error, where) from error

    def value(self, text: str, profile: Profile, key: str) -> str:
        """A key of a profile, which may hold expressions: one line, whatever they give."""
        self._profile = profile
        if _MARKUP.search(text):
            try:
                text = self._templates.from_string(text).render({**self._names, "profile": profile.name})
            except Exception as error:
                raise _error(error, profile.where, f"{key} of profile {profile.name}: ") from error
        text = text.strip()
        if _CONTROL.search(text):
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
        kernel = self.link(variant.kernel or profile.kernel or "", profile, "kernel")
        urls = [self.link(text, profile, "initrd") for text in (profile.initrd if variant.initrd is None else variant.initrd)]
        args = self._args(profile.args if variant.args is None else variant.args, profile)
        message = self.message(profile)
        own = any(arg.startswith("initrd=") for arg in args) or urlsplit(kernel).path.rpartition("/")[2] == "wimboot"
        return Image(kernel, tuple(_named(urls)), tuple(args), message, own)

    def _args(self, texts: Iterable[str], profile: Profile) -> list[str]:
        args = [value for text in texts if (value := self.value(text, profile, "args"))]
        for word in " ".join(args).split():
            if word in _IPXE_OPERATORS or word.startswith("#"):
                what = f"args of profile {profile.name} holds the word {word!r}, which ends an iPXE command"
                raise RenderError(profile.where, what, "Leave it out.")
        return args

    def message(self, profile: Profile) -> tuple[str, ...]:
        lines = profile.message.splitlines()
        return tuple(_screen(self.value(line, profile, "message")) for line in lines)

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
            "efi": bool(self._client.arch and self._client.arch.platform == "efi"),
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
    labels = {name: clean(value) for name, value in client.labels.items()}
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


def clean(text: str) -> str:
    """A value from the wire as it may stand in a script or on a kernel's command line."""
    return _HOSTILE.sub("_", text[:LONGEST_CLIENT_VALUE])


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
    names = [urlsplit(url).path.rpartition("/")[2] for url in urls]
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
            yield name, _CONTROL.sub(" ", str(value))


def _screen(text: str) -> str:
    """Text for `echo` and `item`: one line, no settings expanded, no word that ends the command."""
    text = _CONTROL.sub(" ", text).replace("${", "$ {")
    return " ".join(f"'{word}'" if word in _IPXE_OPERATORS or word.startswith("#") else word for word in text.split())


def _grub_word(text: str) -> str:
    """One word of a GRUB command: quoted where GRUB would read more than a word."""
    return text if re.fullmatch(r"[A-Za-z0-9_./:=,@%+-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _grub_url(url: str) -> str:
    """http://HOST:PORT/PATH as GRUB writes it: (http,HOST:PORT)/PATH; a path stays one below $root.  No HTTPS, no %xx."""
    if url.startswith("/"):
        return _grub_word(url)
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise jinja2.UndefinedError(f"GRUB cannot fetch {url}: it speaks http only\nPut the file below assets.")
    return _grub_word(f"(http,{parts.netloc}){parts.path}" + (f"?{parts.query}" if parts.query else ""))


def _translated(name: str, text: str, translate: Callable[[str], bytes] | None) -> str:
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


def _error(error: Exception, where: str, prefix: str = "") -> RenderError:
    """What went wrong, at the template's line that the traceback tells."""
    line: int | None = None
    if isinstance(error, jinja2.TemplateSyntaxError):
        where, line = error.filename or where, error.lineno
    elif isinstance(error, jinja2.TemplateNotFound):
        mend = "Templates live below templates/ of the registry."
        return RenderError(where, f"{prefix}the template {error.name!r} does not exist", mend)
    trace = error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith("templates/"):
            where, line = file, trace.tb_lineno
        trace = trace.tb_next
    what, _, mend = str(error).partition("\n")
    if not isinstance(error, jinja2.TemplateError):
        what = f"{what} ({type(error).__name__})"
    if not mend:
        undefined = isinstance(error, jinja2.UndefinedError)
        mend = "Define it under vars of the machine, its group or the default group." if undefined else "Correct the template."
    what = re.sub(r"^'([^']*)' is undefined$", r"\1 is not defined", what)
    return RenderError(f"{where}:{line}" if line else where, f"{prefix}{what.rstrip('.')}", mend)


_SYNTAX = _sandbox(None)  # compiles, and looks nothing up
