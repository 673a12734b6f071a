"""One pixieboot for each interface: who answers DHCP there says so to any other that starts on this host.

Port 67 is shared with DHCP servers for other interfaces, so that the kernel refuses nobody.  A claim is a listening socket in
the abstract namespace (unix(7)), which ends with its process and is seen only within the same network namespace.
"""

import asyncio
import os
import socket
import struct
from contextlib import suppress

from pixieboot.errors import OperatorError

_PEERCRED = struct.Struct("=iII")  # pid, uid, gid


class Claims:
    """The interfaces on which this process answers DHCP."""

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def claim(self, interface: str) -> None:
        """Take an interface, again as often as one likes.  Raises OperatorError that names the pixieboot which has it."""
        if interface in self._held:
            return
        if not self._held:
            self._take(_of_process(os.getpid()))
        if not self._take(_of(interface)) and (holder := _holder(_of(interface))):
            what = f"another pixieboot (process {holder}) answers DHCP there already, and machines would hear both"
            mend = f"Stop it (`kill {holder}`, or its service), or let one of the two serve other interfaces."
            raise OperatorError(f"interface {interface}", what, mend)

    def _take(self, name: str) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(name)
            sock.listen()
        except OSError:
            sock.close()
            return False
        with suppress(RuntimeError):  # without a loop nobody stays long enough
            asyncio.get_running_loop().add_reader(sock, _accept, sock)
        self._held[name.rpartition("/")[2]] = sock
        return True

    def close(self) -> None:
        for sock in self._held.values():
            with suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._held.clear()


def is_pixieboot(pid: int) -> bool:
    """Does this process claim interfaces, so that another may claim others?"""
    return pid != 0 and _holder(_of_process(pid)) == pid


def _accept(sock: socket.socket) -> None:
    """Let go who looked: a queue that is full of them would tell nobody any more who holds the name."""
    with suppress(OSError):
        sock.accept()[0].close()


def _of(interface: str) -> str:
    return f"\0pixieboot/dhcp/{interface}"


def _of_process(pid: int) -> str:
    return f"\0pixieboot/process/{pid}"


def _holder(name: str) -> int:
    """The process that began to listen there as root.  0: nobody did, and no user can keep a daemon from starting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(name)
            pid, uid, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        except OSError:
            return 0
    return int(pid) if uid == 0 else 0
