"""Holders of ports on this host; those that share port 67 or an interface are met in test_udp.py and test_dhcpd.py."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from pixieboot.serve.ports import Holder, others, refusal

HOLD = """
import socket, sys
sock = socket.socket(socket.AF_INET, getattr(socket, sys.argv[1]))
sock.bind(("127.0.0.1", 0))
if sys.argv[1] == "SOCK_STREAM":
    sock.listen()
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("protocol, kind", [("udp", "SOCK_DGRAM"), ("tcp", "SOCK_STREAM")])
def test_a_holder_is_named_and_how_to_end_it(protocol: str, kind: str) -> None:
    command = [sys.executable, "-c", HOLD, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        (found,) = others(port, protocol)
        assert (found.pid, found.address, found.ifindex) == (process.pid, "127.0.0.1", 0)
        assert str(found) == f"{found.name} (process {process.pid})"
        error = refusal(OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), port, protocol)
        assert error.where == f"{protocol.upper()} port {port}" and error.what == f"{found} holds it"
        assert error.mend == f"Stop it (`kill {process.pid}`, or its service): this service cannot share the port with it."
        process.communicate("")
    assert others(port, protocol) == []


def test_a_holder_of_another_namespace_has_no_name() -> None:
    assert str(Holder(0, "", "0.0.0.0")) == "a process that /proc does not show"


def test_our_own_sockets_are_not_others() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
        sock.bind(("127.0.0.1", 0))
        listener.bind(("::1", 0))
        listener.listen()
        assert others(sock.getsockname()[1]) == []
        assert others(listener.getsockname()[1], "tcp") == []


def test_a_missing_right_is_told_with_the_way_out() -> None:
    error = refusal(PermissionError(13, os.strerror(13)), 67)
    assert str(error) == "UDP port 67: this user may not open it. Start pixieboot as root: it drops root once its ports are open."


def test_an_address_that_is_not_ours_is_told() -> None:
    error = refusal(OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)), 8080, "tcp", "192.0.2.9")
    assert str(error) == "TCP port 8080 on 192.0.2.9: this host does not have that address. Name an address of this host."
