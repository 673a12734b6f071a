"""One pixieboot for each interface, told by sockets that end with their process."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pixieboot.errors import OperatorError
from pixieboot.serve.claims import Claims, is_pixieboot
from tests.netns import Host, Network

pytestmark = pytest.mark.needs_root
HOLD = (
    "import sys, time; from pixieboot.serve.claims import Claims; c = Claims(); c.claim('eth0'); print(flush=True); time.sleep(60)"
)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Network("claims") as network:
        yield network.switch().host("server")


@pytest.fixture(scope="module")
def other(host: Host) -> Iterator[int]:
    """Another process on that host, which claims eth0."""
    process = host.start(sys.executable, "-c", HOLD, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    yield process.pid
    host.stop(process)
    process.stdout.close()


def test_the_other_process_is_named(host: Host, other: int) -> None:
    claims = Claims()
    with host.entered(), pytest.raises(OperatorError) as refused:
        claims.claim("eth0")
    claims.close()
    assert str(refused.value).startswith(f"interface eth0: another pixieboot (process {other}) answers DHCP there already, ")
    assert f"`kill {other}`" in refused.value.mend


def test_another_interface_is_free_and_each_knows_the_other_as_a_pixieboot(host: Host, other: int) -> None:
    claims = Claims()
    with host.entered():
        assert is_pixieboot(other) and not is_pixieboot(os.getpid()) and not is_pixieboot(0)
        claims.claim("eth1")
        claims.claim("eth1")
        assert is_pixieboot(os.getpid())
        claims.close()
        assert not is_pixieboot(os.getpid())
        again = Claims()
        again.claim("eth1")
        again.close()


def test_another_hosts_interface_of_the_same_name_is_another(other: int) -> None:
    claims = Claims()
    claims.claim("eth0")
    claims.close()


def test_a_user_without_rights_keeps_nobody_from_starting(host: Host) -> None:
    with host.entered(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as squatter:
        squatter.bind("\0pixieboot/dhcp/eth7")
        os.seteuid(65534)
        try:
            squatter.listen()
        finally:
            os.seteuid(0)
        claims = Claims()
        claims.claim("eth7")
        claims.close()


def test_any_number_of_looks_leaves_the_holder_known(host: Host) -> None:
    async def looked_at() -> list[bool]:
        claims = Claims()
        try:
            claims.claim("eth2")
            told = []
            for _ in range(500):  # a queue holds 129
                told.append(is_pixieboot(os.getpid()))
                await asyncio.sleep(0)
            return told
        finally:
            claims.close()

    with host.entered():
        assert all(asyncio.run(looked_at()))
