"""TFTP on real sockets: the letter of the RFCs, paths, limits, floods, other people's clients, bad networks."""

import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

import pixieboot.tftp
from pixieboot import model
from pixieboot.config import TftpSettings
from pixieboot.errors import OperatorError
from pixieboot.serve import tftpd
from pixieboot.serve.transfer import Line
from pixieboot.wire.tftp import Ack, Data, Error, OptionAck, WriteRequest, encode
from tests import tftphost
from tests.netns import Network
from tests.tftphost import CONTENT, BadNetwork, Client, Failed, Server, free_port

MIB = 1 << 20
root, server, client = tftphost.root, tftphost.server, tftphost.client


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers that run twenty times as fast."""
    monkeypatch.setattr(pixieboot.tftp, "WAIT", 0.05)
    monkeypatch.setattr(pixieboot.tftp, "LONGEST_WAIT", 0.4)


# --- the letter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"blksize": 1468, "tsize": 0}, {"blksize": 512, "windowsize": 16}, {"blksize": 8}])
def test_a_file(root: Path, options: dict[str, int]) -> None:
    with Server(root) as server, Client(server.address) as client:
        assert client.fetch("file", **options) == CONTENT
        sent = server.event("sent")
        assert sent.service == "tftp" and sent.level == "info"
        assert sent.detail["path"] == "file" and sent.detail["bytes"] == len(CONTENT) and sent.detail["peer"] == "127.0.0.1"
        assert 0 <= sent.detail["seconds"] < 5
        assert server.kinds() == ["started", "sent"]


def test_data_comes_from_a_fresh_port(server: Server) -> None:
    with Client(server.address) as one, Client(server.address) as other:
        one.ask("file")
        other.ask("file")
        assert isinstance(one.hear(), Data) and isinstance(other.hear(), Data)
        assert len({one.peer[1], other.peer[1], server.port}) == 3


def test_data_comes_from_the_address_that_was_asked(server: Server) -> None:
    with Client(("127.0.0.2", server.port)) as client:
        client.ask("file")
        client.hear()
        assert client.peer[0] == "127.0.0.2"
        client.ask("missing")
        client.hear()
        assert client.peer == ("127.0.0.2", server.port)


def test_options_bring_an_oack_and_nothing_else_until_ack_0(client: Client) -> None:
    client.ask("file", blksize=1000, nonsense=3, tsize=0)
    assert client.hear_all() == [OptionAck({"blksize": "1000", "tsize": str(len(CONTENT))})]
    client.send(Ack(1))
    assert client.hear_all() == []
    client.send(Ack(0))
    assert client.hear() == Data(1, CONTENT[:1000])


@pytest.mark.parametrize("value", ["7", "65465", "-1", "+512", " 512", "5_12", "\u0665\u0661\u0662", "0x200", ""])
def test_an_illegal_blksize_is_never_acknowledged(client: Client, value: str) -> None:
    client.ask("file", blksize=value)
    assert client.hear() == Data(1, CONTENT[:512])


def test_mode_and_options_in_any_case(client: Client) -> None:
    client.raw(b"\0\x01file\0OCTET\0BlkSize\x00600\0TSIZE\x000\0", client.server)
    assert client.hear() == OptionAck({"blksize": "600", "tsize": str(len(CONTENT))})


def test_netascii(client: Client) -> None:
    client.ask("text", "NetASCII", tsize=0, blksize=600)
    assert client.hear() == OptionAck({"blksize": "600"})
    client.send(Ack(0))
    assert client.hear() == Data(1, b"one\r\ntwo\r\0")


def test_netascii_over_many_blocks(root: Path, client: Client) -> None:
    """The two octets of an end of line fall into two blocks somewhere."""
    lines = b"".join(b"%d\n" % number * (number % 7) for number in range(3000))
    (root / "lines").write_bytes(lines)
    assert client.fetch("lines", "netascii") == lines.replace(b"\n", b"\r\n")


def test_netascii_has_its_limit(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftpd, "LONGEST_NETASCII", 1000)
    with pytest.raises(Failed, match="octet"):
        client.fetch("file", "netascii")


@pytest.mark.parametrize("mode", ["mail", "binary", ""])
def test_other_modes_are_refused(server: Server, client: Client, mode: str) -> None:
    with pytest.raises(Failed) as failed:
        client.fetch("file", mode)
    assert failed.value.code == 4
    assert server.kinds("refused") == ["refused"]


@pytest.mark.parametrize("code", [0, 8])
def test_a_size_probe_is_normal(server: Server, client: Client, code: int) -> None:
    client.ask("file", tsize=0, blksize=1468, windowsize=4)
    assert isinstance(client.hear(), OptionAck)
    client.send(Error(code, "User aborted the transfer"))
    assert server.kinds("probe") == ["probe"]
    assert server.event("probe").level == "debug"
    assert client.hear_all() == []
    assert client.fetch("file", blksize=1468, windowsize=4) == CONTENT


def test_each_ack_twice_brings_each_block_once(root: Path, client: Client) -> None:
    client.ask("file")
    blocks = []
    while isinstance(packet := client.hear(0.3), Data):
        blocks.append(packet.block)
        client.send(Ack(packet.block))
        client.send(Ack(packet.block))
    assert blocks == list(range(1, len(CONTENT) // 512 + 2))


def test_acks_of_what_was_never_sent_and_of_long_ago_are_nothing(client: Client) -> None:
    client.ask("file")
    for block in range(1, 6):
        assert client.hear() == Data(block, CONTENT[block * 512 - 512 : block * 512])
        client.send(Ack(block))
    client.hear()
    for block in (0, 3, 4, 7, 9, 1000, 40000, 65535):
        client.send(Ack(block))
    assert client.hear_all() == []
    client.send(Ack(6))
    assert client.hear() == Data(7, CONTENT[6 * 512 : 7 * 512])


def test_an_ack_inside_the_window_starts_behind_it_and_again_is_nothing(client: Client) -> None:
    client.ask("file", windowsize=8, blksize=512, timeout=1)
    client.hear()
    client.send(Ack(0))
    assert [packet.block for packet in client.hear_all() if isinstance(packet, Data)] == list(range(1, 9))
    client.send(Ack(5))
    assert [packet.block for packet in client.hear_all() if isinstance(packet, Data)] == list(range(6, 14))
    client.send(Ack(5))
    assert client.hear_all() == []


def test_errors_are_never_answered(server: Server, client: Client) -> None:
    client.raw(encode(Error(0, "x")), server.address)
    client.ask("file")
    client.hear()
    with Client(client.peer) as stranger:
        stranger.send(Error(5, "x"))
        assert stranger.hear_all() == []
    client.send(Error(3, "disk full"))
    assert client.hear_all() == []
    assert server.event("failed").detail["why"] == "the client ended it with error 3: disk full"


def test_a_stranger_is_told_and_the_transfer_goes_on(client: Client) -> None:
    client.ask("file")
    client.hear()
    with Client(client.peer) as stranger, Client(client.peer, local="127.0.0.3") as other:
        for wrong in (stranger, other):
            wrong.send(Ack(1))
            packet = wrong.hear()
            assert isinstance(packet, Error) and packet.code == 5
    client.send(Ack(1))
    assert client.hear() == Data(2, CONTENT[512:1024])


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_a_silent_peer_gets_at_most_five_packets_and_3_kib(server: Server) -> None:
    for options in ({}, {"blksize": 1468, "windowsize": 64, "tsize": 0}):
        with Client(server.address) as client:
            client.ask("file", **options)
            packets = client.hear_all(0.6)
            assert len(packets) == 5
            assert sum(len(encode(packet)) for packet in packets) <= 3 * 1024
    assert server.kinds("failed") == ["failed", "failed"]
    assert server.event("failed").level == "warning"


@pytest.mark.usefixtures("hasty")
def test_a_probe_that_just_vanishes_is_forgotten(server: Server, client: Client) -> None:
    client.ask("file", tsize=0)
    assert isinstance(client.hear(), OptionAck)
    assert "no answer to OACK" in server.event("failed").detail["why"]


@pytest.mark.usefixtures("hasty")
def test_a_lost_last_ack_is_a_success(server: Server, client: Client) -> None:
    client.ask("small", blksize=600)
    client.hear()
    client.send(Ack(0))
    assert client.hear_all(0.6) == [Data(1, b"small")] * 5
    assert server.event("sent").detail["why"] == "the last acknowledgement never came"


@pytest.mark.usefixtures("hasty")
def test_lost_data_comes_again_whole_window(client: Client) -> None:
    client.ask("file", windowsize=4, blksize=512)
    client.hear()
    client.send(Ack(0))
    heard = [client.hear() for _ in range(8)]
    assert heard[:4] == heard[4:]


@pytest.mark.usefixtures("hasty")
def test_a_client_that_is_gone_is_noticed(server: Server) -> None:
    with Client(server.address) as client:
        client.ask("file")
        client.hear()
        client.send(Ack(1))
        client.hear()
        client.send(Ack(2))
    assert "port is closed" in server.event("failed").detail["why"]


def test_the_same_request_again_is_one_transfer(server: Server, client: Client) -> None:
    client.ask("file", blksize=600)
    first = client.hear()
    port = client.peer
    client.ask("file", blksize=600)
    assert client.hear() == first and client.peer == port
    client.send(Ack(0))
    assert isinstance(client.hear(), Data)
    client.ask("file", blksize=600)  # an old duplicate: the transfer is under way
    assert client.hear_all() == []
    client.send(Ack(1))
    assert client.hear() == Data(2, CONTENT[600:1200]) and client.peer == port


def test_another_name_from_the_same_port_ends_the_old_transfer(server: Server, client: Client) -> None:
    client.ask("file")
    client.hear()
    client.ask("small")
    assert client.hear() == Data(1, b"small")
    assert server.event("failed").detail["why"] == "the client asked for another file"
    client.send(Ack(1))
    assert server.event("sent").detail["path"] == "small"


def test_the_same_name_with_other_options_is_a_new_transfer(client: Client) -> None:
    """A ROM that got no answer asks again without options."""
    client.ask("file", blksize=600)
    assert isinstance(client.hear(), OptionAck)
    client.ask("file")
    assert client.hear() == Data(1, CONTENT[:512])


@pytest.mark.usefixtures("hasty")
def test_a_client_that_began_again_is_served_again(server: Server, client: Client) -> None:
    """It was reset in the middle and uses the same port."""
    client.ask("file")
    client.hear()
    client.send(Ack(1))
    client.hear_all(0.12)
    client.ask("file")
    assert Data(1, CONTENT[:512]) in client.hear_all(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("windowsize", [1, 8])
def test_more_blocks_than_the_counter_has_numbers(root: Path, client: Client, windowsize: int) -> None:
    content = os.urandom(70_000 * 8 + 3)
    (root / "many").write_bytes(content)
    assert client.fetch("many", blksize=8, windowsize=windowsize) == content


@pytest.mark.parametrize("size", [0, 511, 512, 513, 1024])
def test_sizes_around_a_block(root: Path, client: Client, size: int) -> None:
    (root / "edge").write_bytes(CONTENT[:size])
    assert client.fetch("edge") == CONTENT[:size]
    assert client.fetch("edge", blksize=512, windowsize=2) == CONTENT[:size]


def test_write_requests_are_refused_and_nothing_is_written(server: Server, client: Client, root: Path) -> None:
    before = sorted(root.rglob("*"))
    for name in ("new", "file"):
        client.raw(encode(WriteRequest(name, "octet")), server.address)
        packet = client.hear()
        assert isinstance(packet, Error) and packet.code == 2
        client.raw(encode(Data(1, b"evil")), client.peer)
    assert sorted(root.rglob("*")) == before and (root / "file").read_bytes() == CONTENT
    assert server.event("refused").level == "warning"


def test_nonsense_is_counted_and_not_answered(server: Server, client: Client) -> None:
    for datagram in (b"", b"\0", b"\0\x01", b"\0\x01x", b"\0\x07xx", os.urandom(600), encode(Ack(3)), encode(Data(1, b"x"))):
        client.raw(datagram, server.address)
    assert client.hear_all() == []
    assert client.fetch("small") == b"small"
    assert server.service.malformed >= 5


def test_nonsense_in_a_transfer_is_ignored(server: Server, client: Client) -> None:
    client.ask("file")
    client.hear()
    for datagram in (b"", b"\0\x04\0", b"\xff" * 200, encode(Data(1, b"x")), encode(OptionAck({"blksize": "8"}))):
        client.raw(datagram, client.peer)
    assert client.hear_all() == []
    client.send(Ack(1))
    assert client.hear() == Data(2, CONTENT[512:1024])


# --- paths -----------------------------------------------------------------------------------------------------------

PATHS = {
    "plain": ("file", CONTENT),
    "leading slash (GRUB)": ("/file", CONTENT),
    "leading slashes": ("//file", CONTENT),
    "backslashes (Windows)": ("\\dir\\inner", b"inner"),
    "doubled slash and dot": ("dir//./inner", b"inner"),
    "MAC directory": ("52-54-00-12-34-56/file", CONTENT),
    "MAC directory and a slash": ("/52-54-00-12-34-56/dir/inner", b"inner"),
    "dnsmasq's .0": ("file.0", CONTENT),
    "dnsmasq's .0 below a MAC": ("52-54-00-12-34-56/small.0", b"small"),
}


@pytest.mark.parametrize("path, content", PATHS.values(), ids=PATHS)
def test_paths(server: Server, client: Client, path: str, content: bytes) -> None:
    assert client.fetch(path) == content
    sent = server.event("sent")
    assert sent.detail["path"] == path
    assert sent.mac == ("52:54:00:12:34:56" if "52-54" in path else None)


def test_assets_for_boot_programs_without_http(root: Path, server: Server, client: Client) -> None:
    assets = root.parent / "assets"
    (assets / "debian").mkdir(parents=True)
    (assets / "debian" / "vmlinuz").write_bytes(CONTENT)
    assert client.fetch("/assets/debian/vmlinuz") == CONTENT
    with pytest.raises(Failed):
        client.fetch("assets/debian/initrd.gz")
    with pytest.raises(Failed):
        client.fetch("assets/../file")
    (root / "assets" / "debian").mkdir(parents=True)
    (root / "assets" / "debian" / "vmlinuz").write_bytes(b"the root's own")
    assert client.fetch("assets/debian/vmlinuz") == b"the root's own"


def test_a_real_directory_of_a_mac_comes_first(root: Path, client: Client) -> None:
    (root / "dc-a6-32-00-00-01").mkdir()
    (root / "dc-a6-32-00-00-01" / "small").write_bytes(b"its own")
    assert client.fetch("dc-a6-32-00-00-01/small") == b"its own"
    assert client.fetch("dc-a6-32-00-00-01/dir/inner") == b"inner"


NOT_SERVED = ["../secret", "..\\secret", "dir/../../secret", "/../secret", "out", "out-dir/secret", "%2e%2e/secret", "dir", ".",
              "/",
              "52-54-00-12-34-56", "52-54-00-12-34-56/../../secret", "fifo", "f\x07", "x" * 300, "x/" * 200, "file/x"]  # fmt: skip


@pytest.mark.parametrize("path", NOT_SERVED)
def test_not_served_and_at_once(root: Path, server: Server, client: Client, path: str) -> None:
    (root.parent / "secret").write_bytes(b"secret")
    (root / "out").symlink_to("../secret")
    (root / "out-dir").symlink_to("..")
    os.mkfifo(root / "fifo")
    began = time.monotonic()
    client.ask(path)
    packet = client.hear(1)
    assert isinstance(packet, Error) and packet.code in (1, 2)
    assert time.monotonic() - began < 0.5
    assert client.fetch("small") == b"small"


def test_names_that_are_not_utf_8_are_refused_not_guessed(client: Client) -> None:
    client.raw(b"\0\x01\xc0\xae\xc0\xae/secret\0octet\0", client.server)
    packet = client.hear()
    assert isinstance(packet, Error) and packet.code == 1


MISSES = {
    "an ordinary file": ("no-such-file", "info"),
    "iPXE's autoexec": ("autoexec.ipxe", "debug"),
    "the Pi's bootsig.bin": ("bootsig.bin", "debug"),
    "the first rung of PXELINUX's ladder": ("pxelinux.cfg/4c4c4544-0042-3510-8052-b4c04f4e3732", "debug"),
    "a later rung": ("pxelinux.cfg/C0A8", "debug"),
    "shim's revocations": ("revocations_sbat.efi", "debug"),
    "GRUB's module lists": ("/grub/x86_64-efi/fs.lst", "debug"),
}


@pytest.mark.parametrize("path, level", MISSES.values(), ids=MISSES)
def test_misses_that_are_expected_are_no_news(
    server: Server, client: Client, path: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tftpd, "text_at", lambda *_: None)
    with pytest.raises(Failed, match="1 File not found"):
        client.fetch(path)
    missing = server.event("missing")
    assert missing.level == level and missing.detail["path"] == path


def test_rendered_paths_are_answered_at_once(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftpd, "text_at", lambda place, context, site, peer: f"for {place.mac} at {peer} on {site}\n".encode())
    began = time.monotonic()
    assert client.fetch("pxelinux.cfg/01-52-54-00-12-34-56", tsize=0) == b"for 52:54:00:12:34:56 at 127.0.0.1 on a site\n"
    assert client.fetch("pxelinux.cfg/01-52-54-00-12-34-56", "netascii") == b"for 52:54:00:12:34:56 at 127.0.0.1 on a site\r\n"
    assert time.monotonic() - began < 0.5
    assert server.event("sent").mac == "52:54:00:12:34:56"


def test_the_operators_own_file_comes_before_a_rendered_one(root: Path, client: Client) -> None:
    (root / "pxelinux.cfg").mkdir()
    (root / "pxelinux.cfg" / "default").write_bytes(b"own")
    assert client.fetch("pxelinux.cfg/default") == b"own"


def test_a_template_that_fails_says_why(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OperatorError("menu.j2:3", "x is not defined", "Define it.")

    monkeypatch.setattr(tftpd, "text_at", fail)
    with pytest.raises(Failed, match=re.escape("0 menu.j2:3: x is not defined")):
        client.fetch("grub/grub.cfg")
    assert server.event("failed").level == "warning"


def test_a_bug_in_one_request_does_not_stop_the_service(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tftpd, "text_at", lambda *_: 1 / 0)
    client.ask("grub/grub.cfg")
    assert client.hear(0.3) is None
    assert client.fetch("small") == b"small"
    assert "ZeroDivisionError" in caplog.text


# --- settings --------------------------------------------------------------------------------------------------------


def test_single_port(root: Path) -> None:
    with Server(root, TftpSettings(single_port=True)) as server, Client(server.address) as one, Client(server.address) as two:
        one.ask("file", windowsize=4, blksize=600)
        two.ask("dir/inner")
        assert isinstance(one.hear(), OptionAck) and two.hear() == Data(1, b"inner")
        assert one.peer == two.peer == server.address
        two.send(Ack(1))
        assert one.fetch("file", windowsize=4, blksize=600) == CONTENT
        one.send(Ack(18))  # its last ACK comes twice: no reason to frighten it
        assert one.hear_all(0.1) == []
        with Client(server.address) as stranger:
            stranger.send(Ack(1))
            packet = stranger.hear()
            assert isinstance(packet, Error) and packet.code == 5
            stranger.send(Error(5, "x"))
            assert stranger.hear_all(0.1) == []


def test_single_port_behind_a_filter(root: Path) -> None:
    """NAT and filters without memory let in what comes from the port that was asked, and nothing else."""
    with Server(root, TftpSettings(single_port=True)) as server, Client(server.address) as client:
        client.only_from(server.address)
        assert client.fetch("file", windowsize=4, blksize=600) == CONTENT
        assert client.fetch("dir/inner") == b"inner"


def test_a_range_of_ports(root: Path) -> None:
    first = free_port()
    with Server(root, TftpSettings(ports=(first, first + 2))) as server:
        clients = [Client(server.address) for _ in range(7)]
        used = []
        for client in clients:
            client.ask("file", blksize=600)
            assert isinstance(client.hear(), OptionAck)
            used.append(client.peer[1])
            client.send(Ack(0))
        assert set(used) <= {first, first + 1, first + 2} and len(set(used)) > 1
        assert all(before != after for before, after in pairwise(used))
        for client in clients:
            assert client.hear() == Data(1, CONTENT[:600])
            client.send(Ack(1))
            assert client.hear() == Data(2, CONTENT[600:1200])
            client.__exit__()


def test_max_blksize_and_max_windowsize(root: Path) -> None:
    with Server(root, TftpSettings(max_blksize=700, max_windowsize=3)) as server, Client(server.address) as client:
        client.ask("file", blksize=1468, windowsize=16)
        assert client.hear() == OptionAck({"blksize": "700", "windowsize": "3"})


def test_loopback_takes_the_largest_blocks(client: Client) -> None:
    client.ask("file", blksize=65464)
    assert client.hear() == OptionAck({"blksize": "65464"})


def test_settings_that_change_are_in_force_with_the_next_request(
    root: Path, server: Server, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "small").write_bytes(b"other")
    assert client.fetch("small") == b"small"
    server.context.settings.tftp = replace(server.context.settings.tftp, root=tmp_path / "other")
    with Client(server.address) as another:  # from a port of its own: a request that is repeated before its end goes on as it began
        assert another.fetch("small") == b"other"


def test_only_where_pixieboot_serves(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.service, "_serves", lambda ifindex, local: False)
    client.ask("small")
    assert client.hear_all() == []


INTERFACES = {  # index of the interface, our address there, is it served
    "one of `networks`": (7, "192.0.2.1", True),
    "another one": (3, "192.0.2.1", False),
    "loopback": (1, "192.0.2.1", True),
    "a loopback address": (3, "127.0.0.1", True),
}


@pytest.mark.parametrize("ifindex, local, served", INTERFACES.values(), ids=INTERFACES)
def test_which_interfaces_are_served(root: Path, ifindex: int, local: str, served: bool) -> None:
    server = Server(root)
    server.context.sites.at = lambda ifindex: "site" if ifindex == 7 else None
    assert server.service._serves(ifindex, local) is served


SOURCES = {  # address of a client, is it answered
    "private": ("192.168.1.7", True),
    "carrier-grade NAT": ("100.64.0.1", True),
    "public": ("8.8.8.8", False),
    "public, on a network that is served": ("9.9.9.9", True),
    "public, on a network behind a relay": ("1.1.1.1", True),
}


@pytest.mark.parametrize("address, answered", SOURCES.values(), ids=SOURCES)
def test_the_internet_gets_no_answer(server: Server, address: str, answered: bool) -> None:
    """A forged request must not make us flood somebody."""
    server.context.sites.sites = [SimpleNamespace(subnet=IPv4Network("9.9.9.0/24"))]
    server.context.settings.networks = (model.Network(), model.Network(subnet=IPv4Network("1.1.1.0/24")))
    assert server.service._near(address) is answered


def test_a_public_address_is_refused_in_silence(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftpd, "_public", lambda address: True)
    client.ask("file")
    assert client.hear_all() == []
    assert "public" in server.event("refused").detail["why"]


@pytest.mark.needs_root
@pytest.mark.parametrize("mtu", [1500, 1280, 9000])
def test_blksize_is_what_the_way_carries(root: Path, mtu: int) -> None:
    with Network("tftp") as network:
        switch = network.switch(mtu=mtu)
        here, there = switch.host("here", "10.77.0.2/24"), switch.host("there", "10.77.0.3/24")
        with here.entered():
            server = Server(root)
            server.context.sites.at = lambda ifindex: "site"
            server.__enter__()
        try:
            with there.entered():
                client = Client(("10.77.0.2", server.port), local="10.77.0.3")
            with client:
                client.ask("file", blksize=65464, windowsize=64)
                packet = client.hear()
                assert isinstance(packet, OptionAck) and packet.options["blksize"] == str(mtu - 32)
                assert client.peer[0] == "10.77.0.2"
                assert client.fetch("file", blksize=65464, windowsize=64) == CONTENT
        finally:
            server.__exit__()


# --- limits and ends -------------------------------------------------------------------------------------------------


def resident() -> int:
    """Octets of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"blksize": 1468, "windowsize": 64}], ids=["plain", "with options"])
def test_a_flood_of_silent_requests_locks_nobody_out(server: Server, client: Client, options: dict[str, int]) -> None:
    """2,000 of them: half from addresses of their own, half from the good client's."""
    gc.collect()
    before = resident()
    with ExitStack() as flood:
        for number in range(1000):
            silent = flood.enter_context(Client(server.address, local=f"127.0.{number // 200}.{number % 200 + 1}"))
            silent.ask("file", **options)
        for _ in range(1000):
            with Client(server.address) as silent:
                silent.ask("file", **options)
        began = time.monotonic()
        assert client.fetch("file", blksize=1468) == CONTENT
        assert time.monotonic() - began < 15  # whoever is silent is kept for 23 seconds
        gc.collect()
        assert resident() - before < 50 * MIB
    end = time.monotonic() + 20
    while server.service._transfers and time.monotonic() < end:  # their ports are closed: told by the next repetition
        time.sleep(0.05)
    assert not server.service._transfers and not server.service._contents and not server.service._guests.silent
    assert client.fetch("small") == b"small"
    gc.collect()
    assert resident() - before < 20 * MIB


def test_silent_transfers_give_way_to_newer_ones_of_the_same_address(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tftpd, "SILENT_PER_SOURCE", 5)
    with Client(server.address) as proven:
        proven.ask("file", blksize=600)
        proven.hear()
        proven.send(Ack(0))
        proven.hear()
        silent = [Client(server.address) for _ in range(8)]
        for one in silent:
            one.ask("file", blksize=600)
            assert isinstance(one.hear(), OptionAck)
        for one in silent:
            one.send(Ack(0))
        assert [isinstance(one.hear(0.2), Data) for one in silent] == [False] * 3 + [True] * 5
        proven.send(Ack(1))
        assert proven.hear() == Data(2, CONTENT[600:1200])
        for one in silent:
            one.__exit__()


def test_whoever_has_most_gives_way_when_all_places_are_taken(server: Server) -> None:
    server.service._guests.total = 4
    greedy = [Client(server.address, local="127.0.0.9") for _ in range(5)]
    for one in greedy:
        one.ask("file", blksize=600)
        if isinstance(one.hear(0.3), OptionAck):
            one.send(Ack(0))
            assert isinstance(one.hear(), Data)
    assert "too many" in server.event("refused").detail["why"]
    with Client(server.address) as modest:
        assert modest.fetch("file") == CONTENT
    told = [packet for one in greedy for packet in one.hear_all(0.05) if isinstance(packet, Error)]
    assert [packet.message for packet in told] == ["it gave way to other clients"]
    for one in greedy:
        one.__exit__()


def test_one_address_does_not_get_all_places(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftpd, "PER_SOURCE", 2)
    clients = [Client(server.address) for _ in range(3)]
    for one in clients:
        one.ask("file")
        if one.hear(0.3):
            one.send(Ack(1))
            one.hear()
    assert server.kinds("refused").count("refused") == 1
    for one in clients:
        one.__exit__()


def test_nothing_is_left_of_a_transfer(server: Server, root: Path) -> None:
    with Client(server.address) as client:
        client.fetch("small")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            client.fetch("file", blksize=1468, windowsize=4)
            with pytest.raises(Failed):
                client.fetch("missing")
        server.event("sent")
        time.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) <= before
    assert not server.service._transfers and not server.service._contents


def test_stop_lets_transfers_finish(root: Path) -> None:
    with Server(root) as server, Client(server.address) as client, Client(server.address) as late:
        client.ask("file", blksize=600)
        client.hear()
        stopping = asyncio.run_coroutine_threadsafe(server.service.stop(3), server.loop)
        time.sleep(0.1)
        late.ask("file")
        assert late.hear(0.2) is None
        client.send(Ack(0))
        assert client.rest(600) == CONTENT
        stopping.result(1)
        assert server.kinds()[-1] == "sent"


def test_stop_tells_those_that_do_not_finish(root: Path) -> None:
    with Server(root) as server, Client(server.address) as client:
        client.ask("file", blksize=600)
        client.hear()
        client.send(Ack(0))
        client.hear()
        began = time.monotonic()
        server.stop(0.2)
        assert time.monotonic() - began < 1
        assert client.hear() == Error(0, "the server is being stopped")
        assert server.kinds()[-1] == "failed"


# --- other people's clients ------------------------------------------------------------------------------------------

INTEROP = {
    "curl": ["curl", "-sS", "-m", "20", "--tftp-blksize", "{blksize}", "-o", "{out}", "tftp://127.0.0.1:{port}/{name}"],
    "curl without options": ["curl", "-sS", "-m", "20", "--tftp-no-options", "-o", "{out}", "tftp://127.0.0.1:{port}/{name}"],
    "tftp-hpa": ["tftp", "-4", "-m", "binary", "127.0.0.1", "{port}", "-c", "get", "{name}", "{out}"],
    "atftp": ["atftp", "--option", "blksize {blksize}", "-g", "-r", "{name}", "-l", "{out}", "127.0.0.1", "{port}"],
    "atftp with windows": ["atftp", "--option", "blksize {blksize}", "--option", "windowsize 8", "--option", "timeout 3", "-g",
                           "-r", "{name}", "-l", "{out}", "127.0.0.1", "{port}"],
    "busybox": ["busybox", "tftp", "-g", "-b", "{blksize}", "-r", "{name}", "-l", "{out}", "127.0.0.1", "{port}"],
    "tftpy": [sys.executable, "-c", "import tftpy; tftpy.TftpClient('127.0.0.1', {port}, {{'blksize': {blksize}, 'tsize': 0}})"
              ".download('{name}', '{out}')"],
}  # fmt: skip


@pytest.mark.parametrize("command", INTEROP.values(), ids=INTEROP)
@pytest.mark.parametrize("blksize", [512, 1468])
def test_other_clients(root: Path, server: Server, tmp_path: Path, command: list[str], blksize: int) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed: ./pixieboot.sh test installs it")
    content = os.urandom(300_000)
    (root / "random").write_bytes(content)
    out = tmp_path / "out"
    words = [word.format(blksize=blksize, out=out, port=server.port, name="random") for word in command]
    result = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert out.read_bytes() == content
    assert server.event("sent").detail["bytes"] == 300_000


def test_u_boot_like_lockstep(root: Path, client: Client) -> None:
    """U-Boot asks for everything at once, and does not mind what it gets."""
    content = os.urandom(200_000)
    (root / "uImage").write_bytes(content)
    assert client.fetch("uImage", timeout=5, tsize=0, blksize=512) == content


# --- bad networks and big files --------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers of both sides fast enough for thousands of losses; what they do is the same."""
    monkeypatch.setattr(pixieboot.tftp, "WAIT", 0.03)
    monkeypatch.setattr(pixieboot.tftp, "LONGEST_WAIT", 0.24)
    monkeypatch.setattr(pixieboot.tftp, "HURRY", 0.005)


def over_a_bad_network(root: Path, size: int, harm: float, blksize: int, windowsize: int) -> None:
    content = os.urandom(MIB) * (size // MIB)
    (root / "big").write_bytes(content)
    with Server(root) as server, BadNetwork(server.address, harm) as network, Client(network.address, patience=0.03) as client:
        assert client.fetch("big", blksize=blksize, windowsize=windowsize) == content


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("windowsize", [1, 16])
def test_a_mebibyte_with_5_percent_harm(root: Path, windowsize: int) -> None:
    over_a_bad_network(root, MIB, 0.05, 1468, windowsize)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("windowsize", [1, 4, 16, 64])
@pytest.mark.parametrize("blksize", [512, 1468])
@pytest.mark.parametrize("harm", [0.01, 0.2])
def test_a_mebibyte_over_a_bad_network(root: Path, harm: float, blksize: int, windowsize: int) -> None:
    over_a_bad_network(root, MIB, harm, blksize, windowsize)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("windowsize", [1, 4, 16, 64])
@pytest.mark.parametrize("blksize", [512, 1468])
def test_40_mebibytes_over_a_bad_network(root: Path, blksize: int, windowsize: int) -> None:
    """More blocks of 512 than the counter has numbers, with 1 % lost, repeated and reordered."""
    over_a_bad_network(root, 40 * MIB, 0.01, blksize, windowsize)


@pytest.mark.slow
@pytest.mark.parametrize("blksize, windowsize", [(512, 64), (1468, 16), (65464, 1)])
def test_40_mebibytes(root: Path, client: Client, blksize: int, windowsize: int) -> None:
    content = os.urandom(MIB) * 40
    (root / "big").write_bytes(content)
    assert client.fetch("big", blksize=blksize, windowsize=windowsize) == content


# --- what can go wrong before a transfer ------------------------------------------------------------------------------


def test_no_socket_for_the_transfer_is_said(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Line:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(tftpd, "Line", fail)
    with pytest.raises(Failed, match="Too many open files"):
        client.fetch("file")
    assert not server.service._contents


def test_a_port_that_is_taken_is_an_operators_error(root: Path) -> None:
    server = Server(root)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", server.port))
        with pytest.raises(OperatorError, match=f"UDP port {server.port}"):
            server.service.bind()


def test_the_journal_knows_a_machine_by_its_address(server: Server, client: Client) -> None:
    """An event's peer is an address without a port."""
    client.fetch("52-54-00-12-34-56/small")
    client.fetch("file")
    assert server.event("sent").mac == "52:54:00:12:34:56"
    with pytest.raises(Failed):
        client.fetch("missing")
    assert server.event("missing").mac == "52:54:00:12:34:56"


def test_how_far_a_download_came_is_told(server: Server, client: Client) -> None:
    client.ask("file", windowsize=8, blksize=512)
    client.hear()
    client.send(Ack(0))
    client.hear_all()
    client.send(Ack(5))
    client.hear_all()
    (download,) = [each for service in server.context.downloads for each in service()]
    assert (download.path, download.peer) == ("file", "127.0.0.1")
    assert download.size == len(CONTENT) and 5 * 512 <= download.sent < len(CONTENT)
