"""The text of a boot path that is rendered for whoever asks: one answer for TFTP and for HTTP below /tftp/."""

from pixieboot import render
from pixieboot.content import Rendered
from pixieboot.model import Arch, Client, Loader, Mac, Silence, Site, Stage
from pixieboot.policy import next_boot
from pixieboot.serve.context import Context

NOBODY = Mac("00:00:00:00:00:00")  # asks without a MAC, and its address tells nothing

_LOADERS = {
    "pxelinux": (Loader.PXELINUX, Arch.X86_BIOS),
    "grub": (Loader.GRUB, None),
    "autoexec": (Loader.IPXE, None),
}


def text_at(place: Rendered, context: Context, site: Site, peer: str) -> bytes | None:
    """The configuration for who is named by the path, else for who is known by its address.

    None: there is nothing at this path for this client.  Raises OperatorError for a template that cannot be rendered.
    """
    if place.kind not in _LOADERS:
        return None
    loader, arch = _LOADERS[place.kind]
    mac = place.mac or context.journal.mac_of(place.address or peer) or NOBODY
    client = Client(mac, arch, loader, Stage.SCRIPT, place.uuid, place.serial, address=peer)
    assignment = context.assign(client, site)
    step = next_boot(client, assignment, site)
    if isinstance(step, Silence):
        return None
    if place.kind == "autoexec":
        return render.autoexec_ipxe(site).encode()
    write = render.grub if place.kind == "grub" else render.pxelinux
    return write(step, client, assignment, site, context.registry.current, near=True).encode()
