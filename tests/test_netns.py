"""The namespaces that tests and lab stand on: made, used and gone."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.netns import NETNS, HostError, Network

pytestmark = pytest.mark.needs_root
CHILD = """
import signal, time
from pixieboot.lab.hosts import Network
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored, and so would its children
with Network("netnstest") as network:
    host = network.host("doomed")
    process = host.start("sleep", "600")
    print(host.namespace, process.pid, flush=True)
    time.sleep(600)
"""


def test_hosts_of_one_switch_hear_each_other() -> None:
    with Network("netnstest") as network:
        switch = network.switch()
        one, two = switch.host("one", "10.78.0.1/24"), switch.host("two", "10.78.0.2/24", mac="52:54:00:78:00:02")
        with one.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with two.entered():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender, receiver:
            receiver.bind(("", 7))
            receiver.settimeout(5)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(b"hello", ("10.78.0.255", 7))
            assert receiver.recvfrom(16)[0] == b"hello"
        assert "52:54:00:78:00:02" in two.run("ip", "link", "show", "eth0").stdout


def test_nothing_is_left_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), Network("netnstest") as network:
        host = network.switch().host("host", "10.78.0.1/24")
        process = host.start("sh", "-c", "sleep 600 & exec sleep 600")
        raise ZeroDivisionError
    assert not (NETNS / host.namespace).exists()
    assert process.poll() is not None


def test_a_failed_command_says_what_it_printed() -> None:
    with Network("netnstest") as network, pytest.raises(HostError, match=r"host: sh -c .*: exit 3: alas"):
        network.host("host").run("sh", "-c", "echo alas >&2; exit 3")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_that_ends_early_leaves_nothing_for_long(ending: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        namespace, pid = child.stdout.readline().split()
        child.send_signal(ending)
    with Network("netnstest"):  # it sweeps up what the killed one could not
        assert not (NETNS / namespace).exists()
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
