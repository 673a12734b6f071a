"""The command line.  It reads arguments, calls one function and prints; imports are local so that each command starts fast.

Exit codes: 0 done, 1 it ran and the answer is no, 2 the operator's input is wrong, 3 the daemon could not be reached.
"""

import gc
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pixieboot import __version__
from pixieboot.errors import Faults, OperatorError

CONFIG = "/etc/pixieboot/pixieboot.yaml"


def inherited(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """An option that may also stand before the subcommand: `machines --json list`."""
    name = str(parameter.name)
    if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE and context.parent:
        return context.parent.params.get(name) or value
    return value


config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    envvar="PIXIEBOOT_CONFIG",
    callback=inherited,
    help=f"Settings file.  [default: {CONFIG} if it exists]",
)


def operator_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print what the operator got wrong, one fault a line, and exit with 2: never a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Faults as error:
            for fault in error.faults:
                click.echo(str(fault), err=True)
        except OperatorError as error:
            click.echo(str(error), err=True)
        sys.exit(2)

    return wrapped


# Commands of other modules, imported when they are called: `serve` shall not wait for tables and probes.
ELSEWHERE = {
    "boot": "pixieboot.operator",
    "doctor": "pixieboot.operator",
    "events": "pixieboot.operator",
    "explain": "pixieboot.operator",
    "leases": "pixieboot.operator",
    "machines": "pixieboot.operator",
    "router-help": "pixieboot.operator",
    "simulate": "pixieboot.operator",
    "token": "pixieboot.operator",
    "why": "pixieboot.operator",
}


class Commands(click.Group):
    """The commands of this module and of ELSEWHERE."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *ELSEWHERE])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in ELSEWHERE:
            return super().get_command(context, name)
        command = getattr(import_module(ELSEWHERE[name]), name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pixieboot")
def main() -> None:
    """Netboot server: DHCP or proxyDHCP, TFTP and HTTP from one machine registry.

    Start with: sudo pixieboot serve
    """


@main.command()
@config_option
@click.option("-i", "--interface", "interfaces", multiple=True, envvar="PIXIEBOOT_INTERFACE", help="Serve only here (repeatable).")
@click.option(
    "--dhcp",
    type=click.Choice(["proxy", "server", "off"]),
    envvar="PIXIEBOOT_DHCP",
    help="proxy: the router leases, pixieboot adds boot data.  server: pixieboot leases too.",
)
@click.option("--pool", envvar="PIXIEBOOT_POOL", metavar="A-B", help="Addresses to lease in server mode.")
@click.option("--http-port", type=click.IntRange(1, 65535), envvar="PIXIEBOOT_HTTP_PORT", help="TCP port of the HTTP server.")
@click.option("--tftp-root", type=click.Path(path_type=Path), envvar="PIXIEBOOT_TFTP_ROOT", help="Boot programs.")
@click.option("--assets", type=click.Path(path_type=Path), envvar="PIXIEBOOT_ASSETS", help="Kernels and initrds.")
@click.option(
    "--key-ring-path",
    "key_ring",
    type=click.Path(path_type=Path),
    envvar=["PIXIEBOOT_KEY_RING_PATH", "MATCHBOX_KEY_RING_PATH"],
    help="Secret key that signs scripts and documents (.sig, .asc).",
)
@click.option("--kernel", envvar="PIXIEBOOT_KERNEL", metavar="FILE|URL", help="Every machine boots this; no registry is read.")
@click.option("--initrd", "initrds", multiple=True, envvar="PIXIEBOOT_INITRD", metavar="FILE|URL", help="With it (repeatable).")
@click.option("--cmdline", envvar="PIXIEBOOT_CMDLINE", metavar="TEXT", help="Its arguments; may hold {{ … }}.")
@click.option("--message", envvar="PIXIEBOOT_MESSAGE", metavar="TEXT", help="Shown before it boots.")
@click.option("--state", envvar="PIXIEBOOT_STATE", metavar="URL", help="Leases and orders: sqlite:/PATH.")
@operator_errors
def serve(config: Path | None, **overrides: Any) -> None:
    """Run all services in this process until SIGTERM or Ctrl-C.

    Example: sudo pixieboot serve -i eth0

    Example: sudo pixieboot serve --kernel vmlinuz --initrd initrd.img --cmdline "console=ttyS0 quiet"
    """
    gc.disable()  # nothing of what the start makes is garbage: looking for some takes a tenth of it
    from pixieboot.serve import daemon

    gc.freeze()  # nor will it ever be: the first look would walk all of it, before the first answer
    gc.enable()
    # Machines come by the thousand and none is garbage: with the usual thresholds a fifth of their time goes to looking for some.
    gc.set_threshold(20_000, 20, 20)
    daemon.run(settings_path(config), {key: value for key, value in overrides.items() if value not in (None, ())})


@main.command()
@config_option
@operator_errors
def check(config: Path | None) -> None:
    """Load settings and registry and report every fault with file and line.

    Example: pixieboot check -c pixieboot.yaml
    """
    from pixieboot.config import check as check_files

    click.echo(check_files(settings_path(config)))


@main.command()
@click.option(
    "--firmware",
    type=click.Choice(["bios", "uefi", "uefi-http", "uefi-secure", "uefi-secure-http"]),
    default="uefi",
    show_default=True,
    help="What it starts with.",
)
@click.option(
    "--mode",
    type=click.Choice(["proxy", "server"]),
    default="proxy",
    show_default=True,
    help="proxy: beside a router that knows nothing of PXE.  server: pixieboot leases.",
)
@click.option("--mac", default="52:54:00:b0:07:01", show_default=True, help="The machine's MAC address.")
@click.option("--memory", type=click.IntRange(256), default=512, show_default=True, metavar="MIB", help="The machine's memory.")
@click.option("--timeout", type=click.FloatRange(min=1), default=240.0, show_default=True, metavar="SECONDS", help="Give up after.")
@click.option(
    "--keep-log", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep journal, console and settings here."
)
@click.option("--kvm", is_flag=True, help="Use KVM instead of software emulation.")
@click.option("-v", "--verbose", is_flag=True, help="Print the whole console and journal.")
@operator_errors
def lab(**options: Any) -> None:
    """Boot a real virtual machine (QEMU) through the daemon in a private network namespace.

    Example: sudo pixieboot lab --firmware bios --mode server
    """
    from pixieboot import lab as laboratory

    sys.exit(laboratory.run(**options))


@main.command("install-service")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    metavar="DIR",
    help="Install into the system below DIR, such as an image.",
)
@operator_errors
def install_service(root: Path) -> None:
    """Put the systemd unit and a sample configuration in place; an existing configuration is left alone.

    Example: sudo pixieboot install-service
    """
    from pixieboot import install

    click.echo("\n".join(install.install_service(root.resolve())))


@main.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR", help="Write here.")
@operator_errors
def import_(source: Path, target: Path) -> None:
    """Write registry files from a Matchbox or bootcfg directory, a dnsmasq.conf or a dhcpd.conf, and say what they do not hold.

    Example: pixieboot import /etc/dnsmasq.conf --to imported
    """
    from pixieboot.registry.importer import imported

    found = imported(source)
    if existing := [name for name in found.files if (target / name).exists()]:
        raise OperatorError(
            str(target / existing[0]), "it exists already", "Name a directory that is empty, and move the files later."
        )
    for name, text in found.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
        click.echo(f"wrote {target / name}")
    for line in found.report:
        click.echo(line, err=True)
    click.echo(f"Look them over, run: pixieboot check -c {target / 'pixieboot.yaml'}, and move them to /etc/pixieboot.")


def settings_path(given: Path | None) -> Path | None:
    """The settings file: as named, else the usual one if it exists; None for the defaults.  A named one must exist."""
    return given if given is not None else Path(CONFIG) if Path(CONFIG).exists() else None
