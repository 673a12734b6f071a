"""A dry run: what would this client be answered at every stage of a boot, and why?  No packet, no state, no surprise.

The same functions decide here and on the wire (Inventory.assign, policy.next_boot, render); this module only asks them and
keeps what they say.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pixieboot import render
from pixieboot.errors import OperatorError
from pixieboot.inventory import FRESH, Inventory, in_subnet, labels_of
from pixieboot.model import (
    Arch,
    Assignment,
    Boot,
    Client,
    FetchScript,
    Group,
    Loader,
    LoadNBP,
    LocalDisk,
    Mac,
    Machine,
    MachineState,
    Profile,
    Silence,
    Site,
    Stage,
    Step,
    swap_uuid,
)
from pixieboot.policy import next_boot
from pixieboot.render import Translate

NOBODY = Mac("02:00:00:00:00:01")  # stands for a machine whose MAC is not known: locally administered, nobody's


@dataclass(frozen=True, slots=True)
class Check:
    """One label of a group's match.  result: same | differs | unknown (the client has not told it at this stage)."""

    label: str
    wanted: str
    actual: str | None
    result: str


@dataclass(frozen=True, slots=True)
class Selector:
    """How a group did.  result: chosen | matches (another one has more labels) | may match (once more is known) | differs."""

    group: str
    where: str
    profile: str | None
    result: str
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets at one stage.  text: the script or document itself; fault: why there is none."""

    stage: str
    answer: str
    why: str
    text: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that decides over one client's boot.  *_where is FILE:LINE."""

    client: str
    machine: str | None
    machine_where: str
    profile: str | None
    profile_where: str
    why: str
    vars: dict[str, Any]
    templates: dict[str, str]
    selectors: tuple[Selector, ...]
    answers: tuple[Answer, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def pretend(machine: Machine | None, mac: Mac | None, arch: Arch, loader: Loader) -> Client:
    """The client that this machine, or a stranger with this MAC, would be with that firmware."""
    mac = mac or (machine.macs[0] if machine and machine.macs else NOBODY)
    # The firmware of a Raspberry Pi is a program of its own.
    if loader is Loader.RASPBERRY_PI or (arch is Arch.RPIBOOT and loader is Loader.FIRMWARE):
        arch, loader = Arch.RPIBOOT, Loader.RASPBERRY_PI
    if machine is None:
        return Client(mac, arch, loader)
    return Client(mac, arch, loader, uuid=machine.uuid, serial=machine.serial, address=machine.address)


def explain(
    client: Client, inventory: Inventory, site: Site, state: MachineState = FRESH, translate: Translate | None = None
) -> Explanation:
    """The whole boot of this client on this network, asked stage by stage.  translate: as for render.document."""
    machine = inventory.machine_of(client)
    at_script = _at_script(client, machine)
    if client.loader is not Loader.RASPBERRY_PI:
        client = replace(client, serial=None)  # firmware's DHCP and iPXE's do not tell it; a Raspberry Pi's does
    assignment = inventory.assign(at_script, site, state)
    profile = assignment.profile
    arch = client.arch.value if client.arch else "unknown architecture"
    return Explanation(
        client=f"{client.mac} as {arch}, {client.loader.value}, on {site.interface}",
        machine=machine.name if machine else None,
        machine_where=machine.where if machine else "",
        profile=profile.name if profile else None,
        profile_where=profile.where if profile else "",
        why=assignment.why,
        vars=dict(assignment.vars),
        templates=dict(profile.documents) | ({"script": profile.script} if profile.script else {}) if profile else {},
        selectors=_selectors(at_script, machine, inventory, site, assignment),
        answers=tuple(_answers(client, at_script, inventory, site, state, translate)),
    )


def _at_script(client: Client, machine: Machine | None) -> Client:
    """The same client when its loader asks for the script: it tells more then."""
    loader = client.loader if client.loader in (Loader.GRUB, Loader.PXELINUX) else Loader.IPXE
    return replace(client, loader=loader, stage=Stage.SCRIPT, serial=client.serial or (machine.serial if machine else None))


def _selectors(
    client: Client, machine: Machine | None, inventory: Inventory, site: Site, assignment: Assignment
) -> tuple[Selector, ...]:
    """All groups in the order in which they are tried."""
    found = []
    for group in sorted(inventory.groups.values(), key=lambda group: (-len(group.match), group.name)):
        checks = tuple(_checks(group, client, machine, site))
        results = {check.result for check in checks}
        if "differs" in results:
            result = "differs"
        elif "unknown" in results:
            result = "may match"
        else:
            result = "chosen" if assignment.group is not None and group.name == assignment.group.name else "matches"
        found.append(Selector(group.name, group.where, group.profile, result, checks))
    return tuple(found)


def _checks(group: Group, client: Client, machine: Machine | None, site: Site) -> Sequence[Check]:
    labels = labels_of(client, machine)
    checks = []
    for label, wanted in group.match.items():
        actual = labels.get(label)
        if label == "subnet":
            actual = client.address or str(site.subnet)
            same = in_subnet(wanted, client, site)
        else:
            same = actual is not None and wanted.lower() in (actual.lower(), swap_uuid(actual) if label == "uuid" else "")
        checks.append(Check(label, wanted, actual, "same" if same else "unknown" if actual is None else "differs"))
    return checks


def _answers(
    client: Client, at_script: Client, inventory: Inventory, site: Site, state: MachineState, translate: Translate | None
) -> list[Answer]:
    """Every stage from the first packet on, as far as the answers lead."""
    answers = []
    if client.loader not in (Loader.GRUB, Loader.PXELINUX):
        step = next_boot(client, inventory.assign(client, site, state), site)
        stage = "iPXE's DHCP" if client.loader is Loader.IPXE else "firmware's DHCP"
        if site.network.mode == "off":
            answers.append(Answer(stage, "nothing: dhcp is off on this network, another server must send it here", step.why))
        else:
            answers.append(Answer(stage, said(step), step.why))
        if isinstance(step, Silence | LocalDisk):
            return answers
        if isinstance(step, LoadNBP):
            if site.network.mode == "proxy" and step.over == "tftp" and client.loader is Loader.FIRMWARE:
                style = state.reply_style or (_style(inventory.machine_of(client)))
                why = f"reply style {style}: firmware that combines two servers' offers may ask here once more"
                answers.append(Answer("port 4011", said(step), why))
            if client.loader is Loader.RASPBERRY_PI:
                return answers + [_pi(name, at_script, inventory, site, state) for name in ("config.txt", "cmdline.txt")]
            as_ipxe = replace(client, loader=Loader.IPXE)
            step = next_boot(as_ipxe, inventory.assign(as_ipxe, site, state), site)
            answers.append(Answer("iPXE's DHCP", said(step), step.why))
    assignment = inventory.assign(at_script, site, state)
    step = next_boot(at_script, assignment, site)
    answers.append(_script(step, at_script, assignment, site, inventory))
    if isinstance(step, Boot):
        answers += [_document(kind, at_script, assignment, site, inventory, translate) for kind in sorted(step.profile.documents)]
    return answers


def _pi(name: str, client: Client, inventory: Inventory, site: Site, state: MachineState) -> Answer:
    """What the firmware of a Raspberry Pi is told, unless tftp.root has a file of its own for it."""
    assignment = inventory.assign(client, site, state)
    step = next_boot(client, assignment, site)
    try:
        text = render.raspberry_pi(name, step, client, assignment, site, inventory)
    except OperatorError as error:
        return Answer(name, said(step), step.why, fault=str(error))
    return Answer(name, said(step) if text else "the file of that name below tftp.root, if there is one", step.why, text=text or "")


def _style(machine: Machine | None) -> str:
    return machine.reply_style if machine else "auto"


def _script(step: Step, client: Client, assignment: Assignment, site: Site, inventory: Inventory) -> Answer:
    stage = f"{client.loader.value}'s script"
    if isinstance(step, Silence):
        return Answer(stage, said(step), step.why)
    renderer = {Loader.GRUB: render.grub, Loader.PXELINUX: render.pxelinux}.get(client.loader, render.ipxe)
    try:
        return Answer(stage, said(step), step.why, text=renderer(step, client, assignment, site, inventory))
    except OperatorError as error:
        return Answer(stage, said(step), step.why, fault=str(error))


def _document(
    kind: str, client: Client, assignment: Assignment, site: Site, inventory: Inventory, translate: Translate | None
) -> Answer:
    template = assignment.profile.documents[kind] if assignment.profile else ""
    stage, answer = f"document {kind}", f"template {template}"
    shown = {name: f"(secret {name})" for name in inventory.secrets}
    try:
        text = render.document(kind, client, assignment, site, inventory, translate, secrets=shown)
        return Answer(stage, answer, "its profile names it", text=text)
    except OperatorError as error:
        return Answer(stage, answer, "its profile names it", fault=str(error))


def said(step: Step) -> str:
    """A step in words."""
    match step:
        case LoadNBP(path, over):
            return f"load {path} by {over.upper()}"
        case FetchScript(url):
            return f"fetch {url}"
        case Boot(profile):
            return f"boot {_what(profile)}"
        case LocalDisk(how):
            return f"start from the local disk ({how})"
    return "no answer"


def _what(profile: Profile) -> str:
    if profile.menu:
        return "the menu"
    target = profile.kernel or profile.chain or profile.script or "another architecture's files"
    return f"{profile.name} ({target})"
