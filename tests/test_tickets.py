"""Secrets: who gets a document that holds them, how often, and where they are never seen."""

import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.explain import explain, pretend
from pixieboot.journal import LEVELS
from pixieboot.model import Arch, Event, Loader, Mac
from pixieboot.registry.sqlite import StateStore, StoreError
from pixieboot.serve import tickets
from pixieboot.serve.tickets import key_in
from tests.httphost import Host, Response, Wire, serving

MAC = Mac("02:00:00:00:00:01")
VALUE = "hunter2-and\nmore"
REGISTRY = {
    "machines.yaml": f"web1: {{mac: {MAC}, profile: linux, boot: once}}\nweb2: {{mac: 02:00:00:00:00:02, profile: linux}}\n"
    "web3: {mac: 02:00:00:00:00:03, profile: broken}\nweb4: {mac: 02:00:00:00:00:04, profile: nowhere}\n",
    "profiles.yaml": "linux:\n  kernel: vmlinuz\n"
    "  args: [\"c={{ url('ignition') }}\", \"s={{ url('cloud-init') }}\", \"p={{ url('plain') }}\"]\n"
    "  ignition: i.ign.j2\n  cloud: c.yaml.j2\n  files: {plain: p.j2}\n"
    "broken: {kernel: k, args: [\"{{ url('generic') }}\"], generic: bad.j2}\n"
    "nowhere: {kernel: k, args: [\"{{ secret('password') }}\"]}\n",
    "templates/i.ign.j2": '{"ignition": {"version": "3.4.0"}, "p": {{ secret("password") | tojson }}}',
    "templates/c.yaml.j2": "#cloud-config\n{% include 'part.j2' %}",
    "templates/part.j2": "own: {{ secret('own') }}\n",
    "templates/p.j2": "nothing to hide\n",
    "templates/bad.j2": "{{ vars[secret('password')] }}",
    "secrets/password": VALUE + "\n",
    "secrets/own": "everybodys\n",
    "secrets/web1/own": "web1s",
}  # fmt: skip


@pytest.fixture(autouse=True)
def locked(tmp_path: Path) -> None:
    """The files as an operator has to have them."""
    for name in REGISTRY:
        if name.startswith("secrets/"):
            path = tmp_path / "registry" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with serving(tmp_path, registry=REGISTRY) as host:
        yield host


def address(host: Host, kind: str = "c", mac: str = MAC) -> str:
    """What the script of a machine says: the path of its document."""
    script = host.get(f"/ipxe?mac={mac}").body.decode()
    found = re.search(rf" {kind}=http://192\.0\.2\.1:8080(\S+)", script)
    assert found, script
    return found[1]


def get_from(host: Host, source: str, path: str) -> Response:
    with Wire(socket.create_connection(("127.0.0.1", host.port), 10, (source, 0))) as wire:
        wire.send(f"GET {path} HTTP/1.1\nHost: x")
        return wire.response()


def refusals(host: Host) -> list[Event]:
    return [event for event in host.events if event.kind == "refused"]


def test_a_document_with_secrets_goes_out_by_its_per_boot_address(host: Host) -> None:
    path = address(host)
    assert re.fullmatch(r"/secret/[\w-]{38}/ignition\?mac=02-00-00-00-00-01", path)
    got = host.get(path)
    assert (got.status, got["cache-control"], got["content-type"]) == (200, "no-store", "application/json")
    assert b'"hunter2-and\\nmore"' in got.body
    assert "/secret/" not in address(host, "p") and host.get(address(host, "p")).status == 200


def test_who_shows_no_ticket_gets_nothing(host: Host) -> None:
    path = address(host)
    forged = {
        "none": "/ignition?mac=02-00-00-00-00-01",
        "another machine's": path.replace("00-01", "00-02"),
        "another document's": path.replace("/ignition", "/cloud"),
        "with more said": path + "&profile=linux",
        "a letter changed": re.sub(r"(?<=/secret/....)(.)", lambda m: "A" if m[1] != "A" else "B", path),
        "empty": re.sub(r"/secret/[^/]+", "/secret/x", path),
    }
    for name, target in forged.items():
        got = host.get(target)
        assert got.status == 403 and b"hunter2" not in got.body, name
    assert host.get("/cloud-init/02-00-00-00-00-01/user-data").status == 403
    assert {event.level for event in refusals(host)} == {"warning"}
    assert host.get(path).status == 200, "and its own is good all the same"


def test_it_leads_nowhere_else(host: Host) -> None:
    (host.context.settings.assets / "file").write_text("x")
    for path in ("/secret", "/secret/x", "/secret/x/assets/file", "/secret/x/ipxe?mac=02-00-00-00-00-01"):
        assert host.get(path).status == 404


def test_the_second_from_elsewhere_is_refused_with_an_alarm(host: Host) -> None:
    path = address(host)
    assert get_from(host, "127.0.0.2", path).status == 200
    assert get_from(host, "127.0.0.2", path).status == 200, "a transfer may break off"
    got = get_from(host, "127.0.0.3", path)
    assert got.status == 403 and b"hunter2" not in got.body
    (event,) = refusals(host)
    assert (event.level, event.mac, event.detail["path"], event.detail["peer"]) == ("alarm", MAC, "/ignition", "127.0.0.3")
    assert event.detail["why"] == "its address was used by 127.0.0.2 before"


def test_a_head_request_uses_nothing_up(host: Host) -> None:
    path = address(host)
    assert host.ask(f"HEAD {path} HTTP/1.1\nHost: x").status == 200
    assert get_from(host, "127.0.0.2", path).status == 200
    assert host.ask(f"POST {path} HTTP/1.1\nHost: x\nContent-Length: 0").status == 405


def test_it_is_used_up_after_a_minute_and_over_after_a_quarter_of_an_hour(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    used, unused = address(host), address(host, "s")
    assert host.get(used).status == 200
    now = host.service._documents._tickets._clock()
    host.service._documents._tickets._clock = lambda: now + 61
    assert b"used up" in host.get(used).body
    assert host.get(unused + "user-data").status == 200
    assert address(host) != used, "another boot has another address"
    host.service._documents._tickets._clock = lambda: now + 901
    assert b"15 minutes, which are over" in host.get(unused + "user-data").body


def test_a_seed_shares_one_address_and_each_part_is_fetched_once(host: Host) -> None:
    base = address(host, "s")
    assert base.endswith("/cloud-init/02-00-00-00-00-01/")
    got = host.get(base + "user-data")
    assert got.body == b"#cloud-config\nown: web1s\n", "a machine's own goes before everybody's"
    assert host.get(base + "meta-data").body == b"" and host.get(base + "vendor-data").status == 200
    assert b"everybodys" in host.get(address(host, "s", "02:00:00:00:00:02") + "user-data").body


def test_what_was_handed_out_and_used_outlives_the_daemon(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        used, unused = address(host), address(host, "s")
        assert get_from(host, "127.0.0.2", used).status == 200
    key_in.cache_clear()
    with serving(tmp_path, registry=REGISTRY) as host:
        assert get_from(host, "127.0.0.2", unused + "user-data").status == 200
        assert get_from(host, "127.0.0.3", used).status == 403
        assert [event.level for event in refusals(host)] == ["alarm"]
    assert (tmp_path / "tickets.key").stat().st_mode & 0o777 == 0o600


def test_every_boot_has_an_address_of_its_own_though_scripts_are_remembered(host: Host) -> None:
    first = address(host)
    assert address(host) == first, "one boot asks more than once, and its signature is of the same text"
    now = host.service._documents._tickets._clock()
    host.service._documents._tickets._clock = lambda: now + 120
    assert address(host) != first


ARP = """IP address       HW type     Flags       HW address            Mask     Device
127.0.0.5        0x1         0x2         02:00:00:00:00:01     *        eth0
127.0.0.6        0x1         0x2         02:00:00:00:00:99     *        eth0
127.0.0.7        0x1         0x0         00:00:00:00:00:00     *        eth0
"""


def test_another_card_is_refused_and_told_how_to_be_let_in(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arp").write_text(ARP)
    monkeypatch.setattr(tickets, "ARP", tmp_path / "arp")
    path = address(host)
    got = get_from(host, "127.0.0.6", path)
    assert got.status == 403
    assert b"127.0.0.6 is 02:00:00:00:00:99, which is no card of web1: add it to its macs if it is" in got.body
    assert [event.level for event in refusals(host)] == ["alarm"]
    assert get_from(host, "127.0.0.5", path).status == 200
    assert get_from(host, "127.0.0.7", address(host, "s") + "user-data").status == 200, "behind a router nothing is known"
    monkeypatch.setattr(tickets, "ARP", tmp_path / "none")
    assert tickets.card_of("127.0.0.6") is None


def test_no_secret_and_no_ticket_is_seen_anywhere_else(tmp_path: Path) -> None:
    with serving(tmp_path, registry=REGISTRY) as host:
        log = io.StringIO()
        host.context.journal._stream = log
        host.context.journal._lines = dict.fromkeys(LEVELS, 0)
        path = address(host)
        ticket = path.split("/")[2]
        for source in ("127.0.0.2", "127.0.0.3"):
            get_from(host, source, path)
        broken = re.search(r"8080(/secret/\S+)", host.get("/ipxe?mac=02:00:00:00:00:03").body.decode())
        assert broken
        got = host.get(broken[1])
        assert got.status == 500 and b"(secret)" in got.body and b"vars." in got.body
        nowhere = host.get("/ipxe?mac=02:00:00:00:00:04")
        assert nowhere.status == 500 and b"a secret may stand in documents only" in nowhere.body
        site = host.context.sites.sites[0]
        inventory = host.context.registry.current
        client = pretend(inventory.machines["web1"], None, Arch.X64_EFI, Loader.IPXE)
        dry = str(explain(client, inventory, site).as_json())
        assert "(secret password)" in dry and "/secret/PER-BOOT/ignition" in dry
        texts = [log.getvalue(), str(host.events), dry, got.body.decode(), nowhere.body.decode(), repr(inventory)]
    state = b"".join(file.read_bytes() for file in tmp_path.glob("state.db*"))
    for text in (*texts, state.decode("latin-1")):
        assert "hunter2" not in text and "everybodys" not in text and ticket not in text
        assert broken[1].split("/")[2] not in text


def test_what_cannot_be_noted_is_not_given_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = address(host)
    monkeypatch.setattr(StateStore, "_commit", lambda *_: StoreError(28, "no room"))
    for _ in range(2):
        got = host.get(path)
        assert got.status == 503 and b"hunter2" not in got.body, "asking again does not help"
    monkeypatch.undo()
    monkeypatch.setattr(type(host.context), "may_note", lambda context, client: False)
    assert host.get(path).status == 503


def test_the_key_is_made_again_when_it_is_damaged_and_missed_when_it_cannot_be(tmp_path: Path) -> None:
    key_in.cache_clear()
    (tmp_path / "tickets.key").write_bytes(b"short")
    assert len(key_in(tmp_path)) == 32 and (tmp_path / "tickets.key").read_bytes() == key_in(tmp_path)
    with pytest.raises(OperatorError, match=r"tickets\.key: the key of per-boot addresses cannot be kept"):
        key_in(tmp_path / "none")


def test_grub_and_pxelinux_by_tftp_get_per_boot_addresses_too(host: Host) -> None:
    text = host.get(f"/tftp/pxelinux.cfg/01-{MAC.dashed}").body.decode()
    found = re.search(r"c=http://192\.0\.2\.1:8080(/secret/\S+)", text)
    assert found and host.get(found[1]).status == 200


def test_a_stranger_may_have_secrets_of_its_group(tmp_path: Path) -> None:
    registry = {**REGISTRY, "groups.yaml": "all: {profile: linux}\n"}
    with serving(tmp_path, registry=registry) as host:
        stranger = "06:00:00:00:00:01"
        assert host.get(address(host, mac=stranger)).status == 200
        assert host.context.store.state(stranger).fetched
