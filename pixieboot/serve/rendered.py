"""The text of a boot path that is rendered for whoever asks: one answer for TFTP and for HTTP below /tftp/."""

from functools import partial

from pixieboot import render
from pixieboot.content import FileBelow, Place, Rendered
from pixieboot.model import NO_MAC, Arch, Boot, Client, Loader, Mac, Machine, Silence, Site, Stage
from pixieboot.policy import next_boot
from pixieboot.serve.context import Context
from pixieboot.serve.tickets import Tickets

PI_3 = "b827eb"  # models up to the 3: the rest of the MAC is the end of the serial number
_LOADERS = {
    "pxelinux": (Loader.PXELINUX, Arch.X86_BIOS),
    "grub": (Loader.GRUB, None),
    "autoexec": (Loader.IPXE, None),
    "config.txt": (Loader.RASPBERRY_PI, Arch.RPIBOOT),
    "cmdline.txt": (Loader.RASPBERRY_PI, Arch.RPIBOOT),
}


def mac_of(place: Place, context: Context) -> Mac | None:
    """The machine that a path names; a Raspberry Pi's serial number is known from its DHCP, or is the end of its MAC."""
    match place:
        case FileBelow(serial=str(serial)) | Rendered(serial=str(serial)):
            if mac := context.journal.mac_of(serial):
                return mac
            if machine := _of_serial(serial, context):
                return machine.macs[0] if machine.macs else None
            older = Mac.parse(PI_3 + serial[2:])
            return older if context.journal.timeline(older) or context.registry.current.find(older) else None
        case _:
            return place.mac


def _of_serial(serial: str, context: Context) -> Machine | None:
    return context.registry.current.machine_of(Client(NO_MAC, serial=serial))


def text_at(place: Rendered, context: Context, site: Site, peer: str) -> bytes | None:
    """The configuration for who is named by the path, else for who is known by its address.

    None: there is nothing at this path for this client.  Raises OperatorError for a template that cannot be rendered.
    """
    loader, arch = _LOADERS[place.kind]
    mac = mac_of(place, context)
    if mac is None and not (place.serial and _of_serial(place.serial, context)):
        mac = context.journal.mac_of(place.address or peer)
    mac = mac or NO_MAC
    client = Client(mac, arch, loader, Stage.SCRIPT, place.uuid, place.serial, address=peer)
    assignment = context.assign(client, site)
    step = next_boot(client, assignment, site)
    if isinstance(step, Silence):
        return None
    if place.kind == "autoexec":
        return render.autoexec_ipxe(site).encode()
    if isinstance(step, Boot):
        context.deadlines.begins(context.state_key(client), assignment, step.profile)
    ticket = partial(Tickets(context).issue, peer=peer)
    if loader is Loader.RASPBERRY_PI:
        text = render.raspberry_pi(place.kind, step, client, assignment, site, context.registry.current, ticket)
        return None if text is None else text.encode()
    write = render.grub if place.kind == "grub" else render.pxelinux
    return write(step, client, assignment, site, context.registry.current, near=True, ticket=ticket).encode()
