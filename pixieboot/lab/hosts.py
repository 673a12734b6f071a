"""Hosts and cables out of network namespaces: a network of its own on any Linux machine, gone without a trace afterwards.

    with Network("wire") as network:
        switch = network.switch()
        server = switch.host("server", "10.77.0.2/24")
        client = switch.host("client", mac="52:54:00:12:34:56")
        server.run("ip", "address")
        with client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

Every namespace is called pxb-OWNER-PID-NUMBER-HOST.  What a killed run left behind is found by its PID and removed by the next.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_NAME = re.compile(r"pxb-[a-z0-9]+-(?P<pid>\d+)-.+")
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class HostError(Exception):
    """A command of the network's own making failed: what it was and what it printed."""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise HostError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")


class Host:
    """One machine: a namespace with its own interfaces, addresses and processes.  Made by Network or Switch."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self._processes: list[subprocess.Popen[Any]] = []
        _ip("netns", "add", namespace)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words: str) -> None:
        """`ip WORDS` inside this host.  Raises HostError."""
        _ip("-n", self.namespace, *words)

    def add_address(self, interface: str, address: str) -> None:
        """Give it ADDRESS/LENGTH, with the subnet's broadcast address."""
        self.ip("address", "add", address, "broadcast", "+", "dev", interface)

    def argv(self, *command: str) -> list[str]:
        """The command as it is run inside; it dies with the thread that starts it, however that ends."""
        return ["ip", "netns", "exec", self.namespace, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def run(self, *command: str, check: bool = True, timeout: float = 30, **popen: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; output is captured unless asked otherwise.  check: HostError, with the output, if it fails."""
        popen = {"capture_output": True, "text": True} | popen
        done = subprocess.run(self.argv(*command), timeout=timeout, **popen)
        if check and done.returncode:
            raise HostError(
                f"{self.name}: {' '.join(command)}: exit {done.returncode}: {done.stderr or ''}{done.stdout or ''}".strip()
            )
        return done

    def start(self, *command: str, **popen: Any) -> subprocess.Popen[Any]:
        """Start and leave running; stopped with the host at the latest."""
        process = subprocess.Popen(self.argv(*command), **{"stdin": subprocess.DEVNULL, "start_new_session": True} | popen)
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[Any], grace: float = 3) -> int:
        """SIGTERM, then SIGKILL after `grace` seconds; its exit status."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if process in self._processes:
            self._processes.remove(process)
        return process.returncode

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside: sockets made now belong to this host for as long as they live."""
        task = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        with open(task, "rb") as home, open(NETNS / self.namespace, "rb") as here:
            _set_namespace(here.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def close(self) -> None:
        """Stop what runs inside, grandchildren included, and remove the namespace with its interfaces."""
        for process in reversed(self._processes.copy()):
            self.stop(process)
        _remove(self.namespace)


class Switch:
    """An Ethernet switch (a bridge in a namespace of its own) and the hosts plugged into it."""

    def __init__(self, network: "Network", name: str, mtu: int = 1500) -> None:
        self._network, self._ports, self._mtu = network, itertools.count(1), mtu  # several threads may plug in at once
        self.at = network.host(name)
        self.at.ip(
            "link", "add", "br0", "mtu", str(mtu), "type", "bridge", "forward_delay", "0", "stp_state", "0", "mcast_snooping", "0"
        )
        self.at.ip("link", "set", "br0", "up")

    def host(self, name: str, address: str | None = None, mac: str | None = None) -> Host:
        """A new host, plugged in at its eth0."""
        host = self._network.host(name)
        self.plug(host, "eth0", address, mac)
        return host

    def plug(self, host: Host, interface: str = "eth0", address: str | None = None, mac: str | None = None) -> str:
        """A cable from this switch to a host; the name of the switch's own port."""
        port = self._next_port()
        self._network.cable(host, interface, self.at, port, mac=mac, mtu=self._mtu)
        self.at.ip("link", "set", port, "master", "br0")
        if address:
            host.add_address(interface, address)
        return port

    def tap(self) -> str:
        """A port for a virtual machine that runs inside this switch's namespace: the name of the tap device."""
        port = self._next_port()
        self.at.ip("tuntap", "add", port, "mode", "tap")
        self.at.ip("link", "set", port, "mtu", str(self._mtu), "master", "br0", "up")
        return port

    def _next_port(self) -> str:
        return f"port{next(self._ports)}"


class Network:
    """All hosts of one run.  A context manager; an exit of the interpreter closes it too."""

    def __init__(self, owner: str) -> None:
        if os.geteuid() != 0:
            raise HostError("network namespaces need root")
        sweep()
        self._prefix = f"pxb-{owner}-{os.getpid()}-{next(_numbers)}"
        self._hosts: list[Host] = []
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """A host with nothing but lo.  Its name is its own in this network."""
        host = Host(f"{self._prefix}-{name}", name)
        self._hosts.append(host)
        return host

    def switch(self, name: str = "switch", mtu: int = 1500) -> Switch:
        return Switch(self, name, mtu)

    def cable(self, a: Host, a_interface: str, b: Host, b_interface: str, *, mac: str | None = None, mtu: int = 1500) -> None:
        """A cable (veth pair) between two hosts, both ends up; mac is of the end at `a`."""
        given = ["address", mac] if mac else []
        # fmt: off
        _ip("link", "add", a_interface, "netns", a.namespace, "mtu", str(mtu), *given,
            "type", "veth", "peer", "name", b_interface, "netns", b.namespace, "mtu", str(mtu))
        # fmt: on
        a.ip("link", "set", a_interface, "up")
        b.ip("link", "set", b_interface, "up")

    def close(self) -> None:
        """Remove every host; the second call does nothing."""
        atexit.unregister(self.close)
        with _undisturbed():
            while self._hosts:
                self._hosts.pop().close()
            for path in NETNS.glob(f"{self._prefix}-*"):  # one that was being made when the run was interrupted
                _remove(path.name)


def sweep() -> None:
    """Remove the namespaces of runs that were killed before they could."""
    for path in NETNS.glob("pxb-*") if NETNS.is_dir() else ():
        if (match := _NAME.fullmatch(path.name)) and not Path(f"/proc/{match['pid']}").exists():
            with contextlib.suppress(HostError):
                _remove(path.name)


def _remove(namespace: str) -> None:
    """Kill what still runs in a namespace of ours, then delete it."""
    if not (NETNS / namespace).exists():
        return
    for _ in range(50):
        listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, timeout=30).stdout.split()
        # A test's own thread may be inside; it is not to be killed for that.
        others = [int(pid) for pid in listed if int(pid) != os.getpid()]
        if not others:
            break
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    _ip("netns", "delete", namespace)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the clean-up is done (main thread only; elsewhere they do not arrive anyway)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
