"""The daemon: bind everything, drop root, run all services in one TaskGroup, follow the operator's edits, end in order."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pixieboot import __version__, config
from pixieboot.config import Settings
from pixieboot.errors import Faults, OperatorError
from pixieboot.journal import Journal
from pixieboot.leases import Leases
from pixieboot.model import Event
from pixieboot.registry import Registry
from pixieboot.registry.sqlite import StateStore
from pixieboot.serve import access, privilege
from pixieboot.serve.apid import ApiService
from pixieboot.serve.context import Context
from pixieboot.serve.dhcpd import DhcpService
from pixieboot.serve.files import open_boot_file, remedy
from pixieboot.serve.httpd import HttpService
from pixieboot.serve.links import Sites
from pixieboot.serve.loop import DirectLoop
from pixieboot.serve.tftpd import TftpService

GRACE = 1.5  # seconds that transfers get to finish after SIGTERM: the whole stop takes under 2
WATCH = 0.5  # seconds between looks at the files of registry and settings
# Settings that a running daemon keeps: they need a privileged socket or name what is open already.
NEEDS_RESTART = ("registry", "state", "log", "api", "key_ring", "tftp.port", "tftp.single_port", "http.port")


Signature = tuple[int, int, int]  # of a file: changes whenever that does


class Service(Protocol):
    """What the daemon needs of DHCP, TFTP and HTTP.  bind raises OperatorError; run lasts until it is cancelled."""

    def bind(self) -> None: ...
    async def run(self) -> None: ...
    async def stop(self, grace: float) -> None: ...


def run(path: Path | None, overrides: Mapping[str, Any]) -> None:
    """Serve until SIGTERM or SIGINT.  Raises OperatorError or Faults when it cannot start."""
    user = privilege.service_user()
    # Read as the user that the daemon becomes, so that a later reload finds the same files readable.
    with privilege.acting_as(user):
        read = _signature(path)  # first: an edit while the rest starts is one
        settings = config.load(path, overrides)
        registry = Registry(settings.registry, settings.adopted, settings.boot)
        registry.load()
    state = Path(settings.state.removeprefix("sqlite:"))
    privilege.own_directory(state.parent, user)
    with privilege.acting_as(user):
        store = StateStore.open(state)
    try:
        journal = Journal(sys.stderr, settings.log.level, settings.log.format)
        with privilege.acting_as(user):
            sites = Sites(settings, link_key=access.make_link_key(settings))
        context = Context(settings, registry, store, Leases(store.leases(), store.newest), journal, sites)
        if registry.machines is not None:
            from pixieboot.serve.bootapi import BootApi  # TLS, which costs ten MiB

            context.boot_api = BootApi(context, registry.machines)
        with privilege.acting_as(user):
            daemon = Daemon(context, path, overrides, read)  # makes files beside the state
        with asyncio.Runner(loop_factory=DirectLoop) as runner:
            runner.run(_run(daemon, user))
    finally:
        store.close()


async def _run(daemon: "Daemon", user: privilege.User | None) -> None:
    daemon.bind()
    privilege.drop(user)
    try:
        await daemon.serve()
    except ExceptionGroup as group:  # a second DHCP server on the wire is found out only once the sockets are open
        matching, rest = group.split(OperatorError)
        if rest or matching is None:
            raise
        cause: BaseException = matching
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from None


class Daemon:
    """One process, all services, and the files they follow."""

    def __init__(self, context: Context, path: Path | None, overrides: Mapping[str, Any], read: Signature | None) -> None:
        """read: the settings file as it was when the settings were read from it."""
        self._context, self._path, self._overrides, self._read = context, path, overrides, read
        api = ApiService(context)
        http = HttpService(context, api.rest)
        self._services: tuple[Service, ...] = (DhcpService(context), TftpService(context), http, api)
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()

    def bind(self) -> None:
        """Open every socket.  Raises OperatorError that names the port and who holds it."""
        for service in self._services:
            service.bind()

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT; a service that fails ends all of them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(service.run()) for service in self._services]
            running.append(tasks.create_task(self._follow_edits()))
            self._context.sites.on_change.append(self._say_networks)
            self._context.sites.start()
            print(*start_lines(self._context), sep="\n", flush=True)
            self._record("started", version=__version__)
            self._say_faults()
            notify("READY=1")
            await self._stopping.wait()
            notify("STOPPING=1")
            await asyncio.gather(*(service.stop(GRACE) for service in self._services))
            for task in running:
                task.cancel()
        self._context.sites.close()
        self._record("stopped")

    async def _follow_edits(self) -> None:
        """Re-read registry and settings when their files change, or at once on SIGHUP."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), WATCH)
            asked = self._reload.is_set()
            self._reload.clear()
            now = _signature(self._path)
            if asked or now != self._read:
                self._read = now
                self._reload_settings()
            # Ten thousand machines take a second or two to read: not in the loop, where DHCP would wait for it.
            if asked or await asyncio.to_thread(self._context.registry.changed):
                await self._reload_registry()

    async def _reload_registry(self) -> None:
        registry = self._context.registry
        if faults := await asyncio.to_thread(registry.reload):
            for fault in faults.faults:
                self._record("rejected", "registry", "warning", error=str(fault))
        else:
            now = registry.current
            self._record("loaded", "registry", machines=len(now.machines), groups=len(now.groups), profiles=len(now.profiles))
            self._say_faults()

    def _say_faults(self) -> None:
        """What the registry holds or the settings name, and cannot be served: the rest is in force all the same."""
        context = self._context
        for caution in config.cautions(context.settings, context.registry.current):
            self._record("caution", "registry", "warning", why=caution)
        for fault in (*context.registry.notes, *config.unresolved(context.settings, context.registry.current)):
            self._record("not served", "registry", "warning", error=str(fault))

    def _reload_settings(self) -> None:
        """Put new settings in force as far as no privileged socket is needed; the old ones stay if they are wrong."""
        old = self._context.settings
        try:
            new = config.load(self._path, self._overrides)
        except Faults as error:
            for fault in error.faults:
                self._record("rejected", level="warning", error=str(fault))
            return
        kept = [name for name in NEEDS_RESTART if _value(old, name) != _value(new, name)]
        if not _uses_dhcp(old) and _uses_dhcp(new):
            kept.append("networks")
        if kept:
            self._record("restart needed", level="warning", settings=" ".join(kept))
            new = replace(
                new,
                registry=old.registry,
                state=old.state,
                log=old.log,
                api=old.api,
                key_ring=old.key_ring,
                tftp=replace(new.tftp, port=old.tftp.port, single_port=old.tftp.single_port),
                http=replace(new.http, port=old.http.port),
                networks=old.networks if "networks" in kept else new.networks,
            )
        self._context.settings = new
        self._context.sites.reload(new)
        self._record("reloaded")

    def _say_networks(self) -> None:
        self._record("networks", networks="; ".join(network_lines(self._context)) or "none")

    def _record(self, kind: str, service: str = "serve", level: str = "info", **detail: object) -> None:
        self._context.journal.record(Event(time.time(), None, service, kind, detail, level))


def start_lines(context: Context) -> list[str]:
    """What the operator reads first: networks with mode, address and ports, loaders, the web address, the registry."""
    settings, inventory = context.settings, context.registry.current
    lines = [
        f"pixieboot {__version__}",
        *(network_lines(context) or ["no network to serve yet: waiting for an interface with an address"]),
    ]
    lines += context.sites.notes
    lines += loader_lines(settings)
    lines += config.cautions(settings, inventory)
    counts = f"{len(inventory.machines)} machines, {len(inventory.groups)} groups, {len(inventory.profiles)} profiles"
    if settings.boot:
        lines.append(f"every machine boots {settings.boot.kernel}; the registry is not read")
    else:
        lines.append(f"registry {settings.registry}: {counts}; unknown machines: {settings.unknown or 'menu'}")
    lines += [f"web {url}/" for url in sorted({site.http_url for site in context.sites.sites})]
    return lines


def network_lines(context: Context) -> list[str]:
    """One line a served network: interface, mode, our address, ports."""
    settings = context.settings
    boot = f"TFTP {settings.tftp.port}, HTTP {settings.http.port}"
    lines = []
    for site in context.sites.sites:
        dhcp = "" if site.network.mode == "off" else "DHCP 67, PXE 4011, "
        lines.append(f"{site.interface}: {site.network.mode}, {site.address}/{site.subnet.prefixlen}, {dhcp}{boot}")
    return lines


def loader_lines(settings: Settings) -> list[str]:
    """Where each architecture's boot program was found, or how to get one."""
    lines, root = [], settings.tftp.root
    for arch, name in settings.loaders.items():
        try:
            with open_boot_file(root, name.split("/"), settings.loaders.values(), settings.tftp.follow_links) as file:
                place = f"{os.readlink(f'/proc/self/fd/{file.fd}')} ({file.size // 1024} KiB)"
        except (FileNotFoundError, NotADirectoryError):
            place = f"missing; {remedy(name, root)}"
        except OSError as error:
            place = f"cannot be read: {error.strerror}"
        lines.append(f"loader {arch.value}: {name} {place}")
    return lines


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)), if it started us."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix, suppress(OSError):
            unix.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _signature(path: Path | None) -> Signature | None:
    """None without a file."""
    with suppress(OSError):
        if path:
            status = path.stat()
            return status.st_ctime_ns, status.st_size, status.st_ino  # ctime: a chmod may be what was missing
    return None


def _uses_dhcp(settings: Settings) -> bool:
    """Are ports 67 and 4011 opened for these settings?"""
    return not settings.networks or any(network.mode != "off" for network in settings.networks)


def _value(settings: Settings, name: str) -> object:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value
