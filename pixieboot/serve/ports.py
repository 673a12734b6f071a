"""Who has a port of this host open, and why one could not be had: /proc and sock_diag(7), in the operator's words."""

import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pixieboot.errors import OperatorError

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
_DIAG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port: struct nlmsghdr
_DIAG_REQUEST = struct.Struct("=BB2xI48x")  # struct inet_diag_req_v2 for all states
_DIAG_ANSWER = struct.Struct("=40xI24xI")  # struct inet_diag_msg: idiag_if, idiag_inode
_SERVICES = {67: "DHCP", 69: "TFTP", 4011: "PXE boot server"}


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a port open.  name is empty where /proc does not tell (another user's, or another namespace's).

    ifindex: of the only interface that it hears (SO_BINDTODEVICE); 0: all.
    """

    pid: int
    name: str
    address: str
    ifindex: int = 0

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})" if self.name else "a process that /proc does not show"


def others(port: int, protocol: str = "udp") -> list[Holder]:
    """Which other processes have this port open on this host.  protocol: udp | tcp (listening sockets).  Never raises."""
    inodes: dict[str, str] = {}
    for family in ("", "6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{protocol}{family}").read_text().splitlines()[1:]:
                words = line.split()
                address, _, number = words[1].partition(":")
                if int(number, 16) == port and (protocol == "udp" or words[3] == "0A"):
                    inodes[words[9]] = _hex_address(address)
    if not inodes:
        return []
    found: dict[int, Holder] = {}
    own, devices = os.getpid(), _devices() if protocol == "udp" else {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or not inodes:
            continue
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        name = (process / "comm").read_text().strip()
                        inode = target[8:-1]
                        found[int(process.name)] = Holder(int(process.name), name, inodes.pop(inode), devices.get(inode, 0))
    found.pop(own, None)
    unseen = {Holder(0, "", address, devices.get(inode, 0)) for inode, address in inodes.items()}
    return [*found.values(), *unseen]


def _devices() -> dict[str, int]:
    """Inode of each UDP socket that is bound to an interface -> the interface's index (sock_diag(7)); {} where it is not told."""
    found: dict[str, int] = {}
    request = _DIAG_HEADER.pack(72, _SOCK_DIAG_BY_FAMILY, 0x301, 1, 0) + _DIAG_REQUEST.pack(
        socket.AF_INET, socket.IPPROTO_UDP, 0xFFFFFFFF
    )
    with suppress(OSError, struct.error), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(1.0)
        sock.send(request)
        while True:
            answer = sock.recv(1 << 16)
            while answer:
                length, kind = _DIAG_HEADER.unpack_from(answer)[:2]
                if kind != _SOCK_DIAG_BY_FAMILY:  # done, or an error
                    return found
                ifindex, inode = _DIAG_ANSWER.unpack_from(answer, 16)
                if ifindex:
                    found[str(inode)] = ifindex
                answer = answer[length + 3 & ~3 :]
    return found


def refusal(error: OSError, port: int, protocol: str = "udp", address: str = "") -> OperatorError:
    """Why this port could not be had, in the operator's words: who holds it, or which right is missing."""
    where = f"{protocol.upper()} port {port}" + (f" on {address}" if address else "")
    service = _SERVICES.get(port, "this service") if protocol == "udp" else "this service"
    if error.errno == errno.EADDRINUSE:
        holders = others(port, protocol)
        who = " and ".join(map(str, holders)) or "another process"
        stop = " ".join(f"`kill {holder.pid}`" for holder in holders if holder.pid)
        mend = f"Stop it{f' ({stop}, or its service)' if stop else ''}: {service} cannot share the port with it."
        return OperatorError(where, f"{who} holds it", mend)
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperatorError(where, "this user may not open it", "Start pixieboot as root: it drops root once its ports are open.")
    if error.errno == errno.EADDRNOTAVAIL:
        return OperatorError(where, "this host does not have that address", "Name an address of this host.")
    return OperatorError(
        where, f"it could not be opened: {error.strerror}", "Free what the kernel says is missing and start again."
    )


def _hex_address(text: str) -> str:
    """/proc's spelling of an address: 32-bit words in host order."""
    if len(text) == 8:
        return socket.inet_ntoa(struct.pack("=I", int(text, 16)))
    words = struct.pack("=4I", *(int(text[at : at + 8], 16) for at in range(0, 32, 8)))
    return socket.inet_ntop(socket.AF_INET6, words)
