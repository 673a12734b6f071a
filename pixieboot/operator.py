"""The operator's commands: what machines there are, what they boot, why they did not, who holds which address.

All but `machines add|set|remove` and `token` ask the running daemon.  Tables on a terminal, aligned columns in a pipe, --json
for programs.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from pixieboot.boots import duration
from pixieboot.cli import config_option, inherited, operator_errors, settings_path
from pixieboot.client import Daemon, Unreachable
from pixieboot.errors import Faults, OperatorError
from pixieboot.journal import printable
from pixieboot.model import Loader, Mac

COLOURS = {"ok": "green", "going": "cyan", "failed": "red", "ignored": "yellow"}
Cell = str | tuple[str, str]
"""A cell of a table: its text, and the colour of it if it has one."""
RETRY = 2.0  # seconds until `events -f` looks for a daemon that was started again

KINDS = (
    "x86-bios", "x86-efi", "x64-efi", "arm64-efi", "x86-http", "x64-http", "arm64-http", "ipxe-bios", "ipxe-x64", "ipxe-arm64",
    "raspberry-pi",
)  # fmt: skip
ROUTERS = ("dnsmasq", "openwrt", "isc", "kea", "mikrotik", "opnsense", "unifi", "fritzbox", "relay")

json_option = click.option("--json", "as_json", is_flag=True, callback=inherited, help="Print JSON for programs.")


def reaches_daemon(command: Callable[..., Any]) -> Callable[..., Any]:
    """Exit with 3 when the daemon cannot be reached, with 2 when it says what the operator got wrong."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Unreachable as error:
            click.echo(str(error), err=True)
            sys.exit(3)

    return operator_errors(wrapped)


def complete_machine(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of machines for the shell; none when the daemon cannot be asked."""
    try:
        machines = Daemon.find(settings_path(None)).all("machines")
    except (Unreachable, OperatorError, Faults):
        return []
    return [CompletionItem(each["name"]) for each in machines if each["name"].startswith(incomplete)]


machine_argument = click.argument("machine", shell_complete=complete_machine)

# --- machines ---


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def machines(context: click.Context, config: Path | None, as_json: bool) -> None:
    """The machines: described ones, then strangers that were heard.

    Example: pixieboot machines show web1
    """
    if context.invoked_subcommand is None:
        context.invoke(list_machines, config=config, as_json=as_json)


@machines.command("list")
@config_option
@json_option
@reaches_daemon
def list_machines(config: Path | None, as_json: bool) -> None:
    """All machines, what each boots next and what came of its last boot.

    Example: pixieboot machines list --json
    """
    found = Daemon.find(settings_path(config)).all("machines")
    if as_json:
        print_json({"machines": found})
        return
    rows: list[list[Cell]] = []
    for each in found:
        last = each["last_boot"]
        verdict = last["verdict"] if last else None
        rows.append(
            [
                each["name"],
                ", ".join(each["macs"]) if each["described"] else "(not described)",
                each["address"] or "",
                each["next"]["profile"] or "nothing",
                each["next"]["boot"],
                ago(last["end"]) if last else "never",
                _stage(each),
                (verdict["name"], COLOURS[verdict["outcome"]]) if verdict else "",
            ]
        )
    table(
        ["machine", "MAC", "address", "boots", "order", "heard", "stage", "verdict"], rows, "no machine is described or was heard"
    )


def _stage(told: Mapping[str, Any]) -> str:
    """How far its last boot is: what it loads just now, else the stage."""
    if told["downloads"]:
        return ", ".join(f"{each['text']} ({each['percent']} %)" for each in told["downloads"])
    last = told["last_boot"]
    return (last["progress"] or last["stage"]) if last else ""


@machines.command("show")
@config_option
@json_option
@machine_argument
@reaches_daemon
def show_machine(machine: str, config: Path | None, as_json: bool) -> None:
    """Everything that is known of one machine.

    Example: pixieboot machines show 02:00:5e:00:53:01
    """
    told = Daemon.find(settings_path(config)).get(f"/machines/{machine}")
    if as_json:
        print_json(told)
        return
    order, last = told["order"], told["last_boot"]
    description = told["description"] or {"macs": told["macs"]}
    rows = [
        ["described in", told["where"] or "nowhere: it was only heard"],
        *([key, _value(value)] for key, value in description.items() if value not in (None, {}, [])),
        ["boots next", f"{told['next']['profile'] or 'nothing'} ({told['next']['boot']}): {told['next']['why']}"],
        ["ordered", ", ".join(f"{key} {_told(key, value)}" for key, value in order.items() if value is not None) or "nothing"],
        ["architecture", told["arch"] or "not heard yet"],
        ["last heard", ago(told["last_seen"]) if told["last_seen"] else "never"],
        ["last boot", f"{ago(last['start'])}: {last['verdict']['sentence']}" if last else "none"],
    ]
    table(["", told["name"]], rows, "")


@machines.command("add")
@config_option
@click.argument("name")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@operator_errors
def add_machine(name: str, settings: tuple[str, ...], config: Path | None) -> None:
    """Describe a machine in a file of its own: REGISTRY/machines/NAME.yaml.

    Example: pixieboot machines add web2 mac=02:00:5e:00:53:04 profile=menu vars.role=worker
    """
    from pixieboot.adopt import add

    click.echo(add(*registries(config), name, settings))


@machines.command("set")
@config_option
@click.argument("name")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@operator_errors
def set_machine(name: str, settings: tuple[str, ...], config: Path | None) -> None:
    """Change keys of a machine that has a file of its own, or was adopted; KEY= takes one out.

    Example: pixieboot machines set web2 profile=flatcar boot=once
    """
    from pixieboot.adopt import change

    click.echo(change(*registries(config), name, settings))


@machines.command("remove")
@config_option
@click.argument("name")
@operator_errors
def remove_machine(name: str, config: Path | None) -> None:
    """Describe a machine no longer that has a file of its own, or was adopted.

    Example: pixieboot machines remove web2
    """
    from pixieboot.adopt import remove

    click.echo(remove(*registries(config), name))


# --- boots ---


@click.command()
@config_option
@json_option
@machine_argument
@click.argument("profile", required=False)
@click.option("--once", "order", flag_value="once", help="Until it reports done, then the local disk.")
@click.option("--always", "order", flag_value="always", help="At every start.")
@click.option("--local", "order", flag_value="local", help="Its local disk.")
@reaches_daemon
def boot(machine: str, profile: str | None, order: str | None, config: Path | None, as_json: bool) -> None:
    """Order what a machine boots next; without PROFILE and options, say what that is.

    Example: pixieboot boot web1 flatcar --once
    """
    daemon = Daemon.find(settings_path(config))
    if profile is None and order is None:
        told = daemon.get(f"/machines/{machine}")
    else:
        told = daemon.post(f"/machines/{machine}/boot", {"profile": profile, "boot": order})
    if as_json:
        print_json({"name": told["name"], "order": told["order"], "next": told["next"]})
        return
    following = told["next"]
    how = {"once": " once, until it reports done", "local": "", "always": " at every start"}[following["boot"]]
    if following["profile"] == "local":
        how = ""
    what = {"local": "its local disk", None: "nothing"}.get(following["profile"], following["profile"])
    click.echo(printable(f"{told['name']} boots {what}{how} ({following['why']})."))


@click.command()
@config_option
@json_option
@machine_argument
@click.option("-n", "--number", type=click.IntRange(min=1), default=1, help="1: the last boot, 2: the one before it, and so on.")
@click.option("--all", "all_boots", is_flag=True, help="All boots that are remembered, a line each.")
@reaches_daemon
def why(machine: str, number: int, all_boots: bool, config: Path | None, as_json: bool) -> None:
    """Why did it not boot?  The last boot as a timeline, with a verdict and the next thing to try.

    Exits with 1 when that boot failed.  Example: pixieboot why web1
    """
    told = Daemon.find(settings_path(config)).get(f"/machines/{machine}/timeline")
    boots = told["boots"]
    if not all_boots and number > max(1, len(boots)):
        raise OperatorError("-n", f"only {len(boots)} boots of {told['name']} are remembered", "Ask for a smaller number.")
    chosen = boots[-number] if boots else None
    verdict = chosen["verdict"] if chosen else told["verdict"]
    if as_json:
        only = {"name": told["name"], "boot": chosen, "verdict": verdict, "downloads": told["downloads"]}
        print_json(told if all_boots else only)
    elif all_boots:
        rows = [_boot_row(each) for each in boots]
        table(["start", "took", "stage", "verdict", ""], rows, verdict["sentence"])
    else:
        if chosen:
            print_timeline(told["name"], chosen)
            for download in told["downloads"] if number == 1 else ():
                click.echo(f"          now  {printable(download['text'])} ({download['percent']} %)")
        click.echo(click.style(printable(verdict["sentence"], 1000), fg=COLOURS[verdict["outcome"]], bold=True))
        if verdict["next_step"]:
            click.echo(f"Next: {printable(verdict['next_step'], 1000)}")
    sys.exit(1 if verdict["outcome"] in ("failed", "ignored") and not all_boots else 0)


def _boot_row(told: Mapping[str, Any]) -> list[Cell]:
    verdict = told["verdict"]
    took = duration(told["end"] - told["start"])
    return [stamp(told["start"]), took, told["stage"], (verdict["name"], COLOURS[verdict["outcome"]]), verdict["sentence"]]


def print_timeline(name: str, told: Mapping[str, Any]) -> None:
    """The events of a boot, each with its seconds since the first."""
    click.echo(
        f"{printable(name)}: boot of {stamp(told['start'])}, {duration(told['end'] - told['start'])}, as far as: {told['stage']}"
    )
    for event in told["events"]:
        line = f"{max(0.0, event['at'] - told['start']):8.1f} s  {event['service']:<5} {printable(event['text'])}"
        colour = {"warning": "yellow", "alarm": "red", "debug": "bright_black"}.get(event["level"])
        click.echo(click.style(line, fg=colour) if colour else line)


@click.command()
@config_option
@json_option
@machine_argument
@click.option("--arch", metavar="ARCH", help="Pretend this architecture, such as x64-efi or x86-bios.")
@click.option("--loader", metavar="LOADER", help=f"Pretend this program: {', '.join(loader.value for loader in Loader)}.")
@reaches_daemon
def explain(machine: str, arch: str | None, loader: str | None, config: Path | None, as_json: bool) -> None:
    """A dry run: which selectors matched, which template, and what would be answered at every stage.

    Exits with 1 when a stage has a fault.  Example: pixieboot explain web1 --arch x86-bios
    """
    told = Daemon.find(settings_path(config)).get("/explain", machine=machine, arch=arch, loader=loader)
    if as_json:
        print_json(told)
    else:
        print_explanation(told)
    sys.exit(1 if any(answer["fault"] for answer in told["answers"]) else 0)


def print_explanation(told: Mapping[str, Any]) -> None:
    """An explanation for people."""
    click.echo(f"client    {printable(told['client'])}")
    click.echo(f"machine   {told['machine'] or 'nobody described it'}{_at(told['machine_where'])}")
    click.echo(f"profile   {told['profile'] or 'none'}{_at(told['profile_where'])}")
    click.echo(f"because   {printable(told['why'])}")
    for kind, template in told["templates"].items():
        click.echo(f"template  {kind}: {template}")
    if told["selectors"]:
        click.echo("groups")
    for selector in told["selectors"]:
        mark = {"chosen": "=>", "matches": "ok", "may match": "? ", "differs": "  "}[selector["result"]]
        click.echo(
            f"  {mark} {selector['group']}{_at(selector['where'])}: {selector['result']}, profile {selector['profile'] or 'none'}"
        )
        for check in selector["checks"]:
            said = {"same": "is", "unknown": "is not told yet"}.get(check["result"], f"is {check['actual']}, not")
            wanted = "" if check["result"] == "unknown" else f" {check['wanted']}"
            click.echo(printable(f"       {check['label']} {said}{wanted}"))
    for answer in told["answers"]:
        click.echo(click.style(f"{answer['stage']}: ", bold=True) + printable(f"{answer['answer']} ({answer['why']})", 1000))
        if answer["fault"]:
            click.echo(click.style(f"    {printable(answer['fault'], 1000)}", fg="red"))
        for line in answer["text"].splitlines():
            click.echo(f"    {printable(line, 2000)}")


def _at(where: str) -> str:
    return f" ({where})" if where else ""


# --- leases and events ---


@click.command()
@config_option
@json_option
@click.option("--all", "expired", is_flag=True, help="Expired ones too.")
@reaches_daemon
def leases(expired: bool, config: Path | None, as_json: bool) -> None:
    """Addresses: leased, offered, reserved and in quarantine.

    Example: pixieboot leases --all
    """
    found = Daemon.find(settings_path(config)).all("leases")
    found = [lease for lease in found if expired or lease["state"] != "expired"]
    if as_json:
        print_json({"leases": found})
        return
    rows = [
        [each["address"], each["state"], each["mac"] or "", each["machine"] or "", each["hostname"], until(each["expires"])]
        for each in found
    ]
    table(["address", "state", "MAC", "machine", "hostname", "until"], rows, "no address is leased or reserved")


@click.command()
@config_option
@json_option
@click.argument("machine", required=False, shell_complete=complete_machine)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("-n", "--number", type=click.IntRange(0, 2000), default=50, show_default=True, help="How many of the past.")
@reaches_daemon
def events(machine: str | None, follow: bool, number: int, config: Path | None, as_json: bool) -> None:
    """The event journal, of all machines or one; live with -f.

    Example: pixieboot events -f
    """
    daemon = Daemon.find(settings_path(config))
    told = daemon.get("/events", limit=number, machine=machine)["events"] if number else []
    macs = daemon.get(f"/machines/{machine}")["macs"] if machine else None
    for event in told:
        print_event(event, as_json)
    if not follow:
        return
    last = told[-1]["id"] if told and not machine else ""
    try:
        while True:
            try:
                for event in daemon.follow(last):
                    last = event["id"]
                    if macs is None or event["mac"] in macs:
                        print_event(event, as_json)
            except Unreachable as error:
                click.echo(f"{error}; trying again", err=True)
            time.sleep(RETRY)
    except KeyboardInterrupt:
        return


def print_event(event: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
        return
    detail = " ".join(f"{key}={printable(_value(value))}" for key, value in event["detail"].items() if value not in (None, ""))
    line = f"{stamp(event['at'])} {event['mac'] or '-':<17} {event['service']} {event['kind']} {detail}"
    colour = {"warning": "yellow", "alarm": "red", "debug": "bright_black"}.get(event["level"])
    click.echo(click.style(line, fg=colour) if colour else line)


@click.command()
@config_option
@operator_errors
def token(config: Path | None) -> None:
    """Print the API's token.

    Example: curl -H "Authorization: Bearer $(sudo pixieboot token)" http://localhost:8080/api/v1/machines
    """
    from pixieboot import config as settings
    from pixieboot.serve.access import read_token

    click.echo(read_token(settings.load(settings_path(config), {})))


@click.command()
@config_option
@json_option
@click.option("--no-probe", is_flag=True, help="Do not ask the network for other DHCP servers (saves 4 s).")
@operator_errors
def doctor(no_probe: bool, config: Path | None, as_json: bool) -> None:
    """Check this host and its networks: ports, rights, loaders, firewall, clock, other DHCP servers.

    Exits with 1 when there is a fault.  Example: sudo pixieboot doctor
    """
    from pixieboot import doctor as checks

    found = []
    for check in checks.examine_host(settings_path(config), probe=not no_probe):
        found.append(check)
        if as_json:
            continue
        colour = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}[check.level]
        click.echo(f"{click.style(f'{check.level:<8}', fg=colour)}{check.name}: {printable(check.what, 1000)}")
        for line in check.mend.splitlines():
            click.echo(f"        {line}")
    if as_json:
        click.echo(checks.as_json(found))
    sys.exit(1 if any(check.level == "fault" for check in found) else 0)


@click.command()
@config_option
@json_option
@click.option("--arch", type=click.Choice(KINDS), default="x64-efi", show_default=True, help="Which firmware is played.")
@click.option("--mac", metavar="MAC", help="Of which machine.  [default: one that nobody has]")
@click.option(
    "-i",
    "--interface",
    metavar="IF",
    help="From another host: by which wire.  Without it the daemon of this host is asked directly.",
)
@click.option("--whole", is_flag=True, help="Read kernel and initrd to their end, not only their beginning.")
@click.option("--secure-boot", is_flag=True, help="Run signed boot programs only, as that firmware does.")
@reaches_daemon
def simulate(
    arch: str, mac: str | None, interface: str | None, whole: bool, secure_boot: bool, config: Path | None, as_json: bool
) -> None:
    """A software machine boots and tells every answer: DHCP, boot program, script, kernel and initrd.

    On another host of the network: -i and root.  Exits with 1 when it did not come to its end.

    Example: sudo pixieboot simulate --arch x64-efi
    """
    import random

    from pixieboot import simulate as machines

    try:
        own = Mac.parse(mac) if mac else Mac.of(bytes((0x02, 0x70, 0x78, *random.randbytes(3))))
    except ValueError as error:
        raise OperatorError("--mac", str(error), "Any usual spelling will do.") from None
    kind, code, first = machines.KINDS[arch]
    way: machines.Way = machines.Wire(interface) if interface else machines.Inside(Daemon.find(settings_path(config)), None)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if not as_json:
            click.echo(printable(line, 1000))

    say(f"{own} boots as {arch}" + ("" if interface else "; DHCP is asked of the daemon itself, not over the wire"))
    machine = machines.Machine(own, kind, code, first, way, say, release=mac is None)
    machine.whole, machine.loops_back, machine.secure_boot = whole, not interface, secure_boot
    verdict = machine.boot()
    if as_json:
        told = {"name": verdict.name, "outcome": verdict.outcome, "sentence": verdict.sentence, "next_step": verdict.next_step}
        print_json({"mac": own, "lines": lines, "verdict": told})
    else:
        click.echo(click.style(printable(verdict.sentence, 1000), fg=COLOURS[verdict.outcome], bold=True))
        if verdict.next_step and verdict.outcome != "ok":
            click.echo(f"Next: {printable(verdict.next_step, 1000)}")
    sys.exit(1 if verdict.outcome in ("failed", "ignored") else 0)


@click.command("router-help")
@config_option
@click.argument("kind", type=click.Choice(ROUTERS))
@click.option("--address", help="Our address for machines.  [default: that of the first network served]")
@operator_errors
def router_help(kind: str, address: str | None, config: Path | None) -> None:
    """The exact lines by which an existing DHCP server sends machines here, by architecture.

    Not needed beside dhcp: proxy, the default.  Example: pixieboot router-help dnsmasq
    """
    from pixieboot import config as settings
    from pixieboot import routerhelp
    from pixieboot.serve.links import Sites

    loaded = settings.load(settings_path(config), {})
    sites = Sites(loaded).sites
    if address is None and not sites:
        raise OperatorError("--address", "no network is served, so our address is not known", "Name it: --address 192.168.77.2")
    click.echo(routerhelp.KINDS[kind](routerhelp.Here(address or sites[0].address, loaded.http.port, loaded.loaders)))


def registries(config: Path | None) -> tuple[Path, Path]:
    """The registry's directory, and that of the machines which the API described, by the settings."""
    from pixieboot import config as settings

    loaded = settings.load(settings_path(config), {})
    return Path(loaded.registry), loaded.adopted


# --- printing ---


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], empty: str) -> None:
    """Rows for people: a table on a terminal, aligned columns in a pipe; `empty` when there are none."""
    if not rows:
        click.echo(empty)
        return
    safe = [[(printable(text, 400), style) for text, style in map(_styled, row)] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in safe:
            grid.add_row(*(Text(text, style) for text, style in row))
        Console(highlight=False).print(grid)
        return
    plain: list[list[str]] = [list(columns), *([text for text, _ in row] for row in safe)]
    widths = [max(len(row[number]) for row in plain) for number in range(len(columns))]
    for line in plain:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _styled(cell: Cell) -> tuple[str, str]:
    return (cell, "") if isinstance(cell, str) else cell


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _told(key: str, value: Any) -> str:
    """What was ordered or learned; moments as people count them."""
    return until(value) if key in ("done", "deadline", "overdue") else _value(value)


def stamp(at: float) -> str:
    """A time of today as 12:01:03, any other with its date."""
    then = time.localtime(at)
    return time.strftime("%H:%M:%S" if then[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M:%S", then)


def ago(at: float) -> str:
    return f"{duration(time.time() - at)} ago"


def until(expires: float | None) -> str:
    if expires is None:
        return "always"
    return f"in {duration(expires - time.time())}" if expires > time.time() else f"{duration(time.time() - expires)} ago"
