"""What each DHCP message is answered with and where the answer goes.  Each rule by its RFC; golden answers to captures."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP

from pixieboot.dhcp import Destination, Noted, Reply, client_of, network_of, repeat, respond, selector
from pixieboot.errors import WireError
from pixieboot.inventory import LOCAL, MENU
from pixieboot.leases import Holder, Leases
from pixieboot.model import (
    Arch,
    Arrival,
    Assignment,
    Group,
    Lease,
    LeaseState,
    LoadNBP,
    LocalDisk,
    Mac,
    Machine,
    MachineState,
    Network,
    Pool,
    Silence,
    Site,
)
from pixieboot.pxe import RASPBERRY_PI
from pixieboot.wire.dhcp import Message, decode, encode, parts
from tests import pcap
from tests.test_wire_dhcp import mutate

NOW = 1_800_000_000.0
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
ANY, EVERYBODY, OURS, ROUTER = "0.0.0.0", "255.255.255.255", "10.77.0.2", "10.77.0.1"
MAC = Mac("52:54:00:12:34:56")
BIOS = {60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0", 97: b"\0" + bytes(range(16)), 57: b"\4\xec"}
UEFI = {60: b"PXEClient:Arch:00007:UNDI:003000", 93: b"\0\7", 97: b"\0" + bytes(range(16)), 57: b"\5\xc0"}
HTTP = {60: b"HTTPClient:Arch:00016:UNDI:003000", 93: b"\0\x10"}
IPXE = {60: b"PXEClient:Arch:00007:UNDI:003010", 93: b"\0\7", 77: b"iPXE", 175: bytes.fromhex("130101")}
PI = {60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0", 97: b"\0RPi4" + bytes(12)}
LINUX = {60: b"udhcp 1.35.0", 55: bytes((1, 3, 6, 12, 15, 28, 42))}
LOADERS = {
    Arch.X86_BIOS: "undionly.kpxe",
    Arch.X64_EFI: "ipxe.efi",
    Arch.X86_EFI: "ipxe-i386.efi",
    Arch.ARM64_EFI: "ipxe-arm64.efi",
}
ASSIGNED = Assignment(profile=MENU, why="nobody described this machine")


def aton(address: str) -> bytes:
    return IPv4Address(address).packed


def a_site(mode: str, **changes: Any) -> Site:
    """The network of the captures: a router at 10.77.0.1, us at 10.77.0.2.  Fields of Network and of Site alike."""
    site_fields = {name: changes.pop(name) for name in ("unknown", "answer", "subnet", "address", "interface") if name in changes}
    pools = (Pool(int(IPv4Address("10.77.0.100")), int(IPv4Address("10.77.0.199"))),)
    plain: dict[str, Any] = {"mode": mode, "pools": pools, "routers": (ROUTER,), "dns": (ROUTER,), "domain": "lab.example"}
    network = Network(**{**plain, **changes})
    site = Site(network, "eth0", 2, OURS, IPv4Network("10.77.0.0/24"), f"http://{OURS}:8080", LOADERS)
    return replace(site, **site_fields)


def a_message(kind: int, options: dict[int, bytes] | None = None, **fields: Any) -> Message:
    message = Message(
        1, 1, 6, 0, 0x01020304, 0, 0, ANY, ANY, ANY, ANY, MAC.octets, b"", b"", {53: bytes((kind,)), **(options or {})}
    )
    return replace(message, **fields)


@dataclass
class Lan:
    """A network with one pixieboot, asked message by message; every answer goes through encode and decode."""

    mode: str = "server"
    assignment: Assignment = ASSIGNED
    network: dict[str, Any] = field(default_factory=dict)
    now: float = NOW

    def __post_init__(self) -> None:
        self.leases, self.site = Leases(), a_site(self.mode, **self.network)

    def ask(self, message: Message, port: int = 67, peer: tuple[str, int] = (ANY, 68)) -> Reply | Noted | Silence:
        answer = respond(
            message, client_of(message), Arrival(port, peer, 2, OURS, self.now), self.assignment, self.site, self.leases
        )
        if isinstance(answer, Reply):
            datagram = encode(answer.message, answer.limit)
            assert 300 <= len(datagram) <= answer.limit
            assert decode(datagram) == answer.message
        elif isinstance(answer, Silence):
            assert answer.why
        return answer

    def reply(self, message: Message, port: int = 67, peer: tuple[str, int] = (ANY, 68)) -> Reply:
        answer = self.ask(message, port, peer)
        assert isinstance(answer, Reply), answer
        return answer

    def silence(self, message: Message, port: int = 67, peer: tuple[str, int] = (ANY, 68)) -> str:
        answer = self.ask(message, port, peer)
        assert isinstance(answer, Silence), answer
        return answer.why

    def dora(self, options: dict[int, bytes] | None = None, **fields: Any) -> Reply:
        """DISCOVER and REQUEST: the ACK."""
        offer = self.reply(a_message(DISCOVER, options, **fields)).message
        selecting = {**(options or {}), 50: aton(offer.yiaddr), 54: offer.options[54]}
        return self.reply(a_message(REQUEST, selecting, **fields))


def a_machine(**fields: Any) -> Assignment:
    return replace(ASSIGNED, machine=Machine("web1", macs=(MAC,), **fields))


# What is never answered


@pytest.mark.parametrize("mode", ["server", "proxy"])
@pytest.mark.parametrize("kind", [OFFER, ACK, NAK, 9, 13, 255])
def test_rfc2131_server_messages_and_unknown_types_are_met_with_silence(mode: str, kind: int) -> None:
    assert Lan(mode).silence(a_message(kind, UEFI)) == f"DHCP message type {kind} is no client's"


@pytest.mark.parametrize("mode", ["server", "proxy"])
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM])
def test_op_2_is_met_with_silence(mode: str, kind: int) -> None:
    assert "op 2" in Lan(mode).silence(a_message(kind, UEFI, op=2))
    assert "op 2" in Lan(mode).silence(a_message(kind, UEFI, op=2), 4011)


def test_bootp_is_met_with_silence() -> None:
    message = a_message(DISCOVER)
    del message.options[53]
    assert "BOOTP" in Lan().silence(message)


@pytest.mark.parametrize("port", [67, 4011])
def test_an_interface_that_is_off(port: int) -> None:
    assert "dhcp: off" in Lan("off").silence(a_message(DISCOVER, UEFI), port)


# RFC 2131 §4.3.1: DISCOVER


def test_rfc2131_4_3_1_an_offer() -> None:
    lan = Lan()
    reply = lan.reply(a_message(DISCOVER, LINUX, secs=7, hops=0))
    offer = reply.message
    assert (reply.kind, offer.op, offer.type, offer.yiaddr, offer.xid, offer.chaddr) == (
        "offered",
        2,
        OFFER,
        "10.77.0.100",
        0x01020304,
        MAC.octets,
    )
    assert (offer.secs, offer.hops, offer.ciaddr, offer.siaddr, offer.sname, offer.file) == (0, 0, ANY, ANY, b"", b"")
    assert offer.options == {
        53: b"\2",
        54: aton(OURS),
        51: (43200).to_bytes(4, "big"),
        1: aton("255.255.255.0"),
        3: aton(ROUTER),
        6: aton(ROUTER),
        15: b"lab.example",
        28: aton("10.77.0.255"),
        58: (21600).to_bytes(4, "big"),
        59: (37800).to_bytes(4, "big"),
    }
    assert reply.lease is None
    assert reply.why == "an ordinary DHCP client: a lease without boot data"


def test_rfc2131_table_3_never_in_an_offer() -> None:
    asking = {50: aton("10.77.0.150"), 55: bytes(range(1, 255)), 57: b"\5\xc0", 61: b"\1" + MAC.octets}
    assert not {50, 52, 55, 57, 255, 0} & Lan().reply(a_message(DISCOVER, asking)).message.options.keys()


def test_rfc2131_4_3_1_options_stand_in_the_order_asked_for() -> None:
    offer = Lan().reply(a_message(DISCOVER, {55: bytes((15, 6, 3, 1, 51, 54))})).message
    assert [code for code, _ in parts(encode(offer)[240:])][:7] == [53, 54, 51, 15, 6, 1, 3]


def test_rfc2131_4_3_1_the_address_asked_for() -> None:
    assert Lan().reply(a_message(DISCOVER, {50: aton("10.77.0.150")})).message.yiaddr == "10.77.0.150"


def test_an_empty_pool_is_met_with_silence() -> None:
    assert Lan(network={"pools": ()}).silence(a_message(DISCOVER)) == "no address is free in no pool"


def test_a_conflict_found_meanwhile_fails_the_request() -> None:
    lan = Lan()
    address = lan.reply(a_message(DISCOVER)).message.yiaddr
    lan.leases.mark_in_use(address, Mac("02:00:00:00:00:01"), NOW)
    refused = lan.reply(a_message(REQUEST, {50: aton(address), 54: aton(OURS)}))
    assert (refused.kind, refused.why) == ("naked", f"{address} is declined to 02:00:00:00:00:01")
    assert lan.dora().message.yiaddr != address


# RFC 2131 §4.3.2: REQUEST


def test_rfc2131_4_3_2_selecting_is_acked_and_bound() -> None:
    lan = Lan()
    reply = lan.dora({12: b"web1"})
    assert (reply.kind, reply.message.type, reply.message.yiaddr) == ("acked", ACK, "10.77.0.100")
    assert reply.lease == Lease("10.77.0.100", MAC, MAC, LeaseState.BOUND, NOW + 43200, "web1")
    assert lan.leases.at("10.77.0.100") == reply.lease


def test_rfc2131_4_3_2_selecting_another_server_drops_our_offer() -> None:
    lan = Lan()
    offered = lan.reply(a_message(DISCOVER)).message.yiaddr
    why = lan.silence(a_message(REQUEST, {50: aton("10.77.0.7"), 54: aton(ROUTER)}))
    assert why == f"it took the offer of another server, {ROUTER}"
    record = lan.leases.at(offered)
    assert record and record.state is LeaseState.EXPIRED


def test_rfc2131_4_3_2_selecting_what_another_has_is_refused() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    other = Mac("02:00:00:00:00:01").octets
    refused = lan.reply(a_message(REQUEST, {50: aton(address), 54: aton(OURS)}, chaddr=other))
    assert (refused.kind, refused.message.type) == ("naked", NAK)


def test_rfc2131_4_3_2_selecting_after_a_restart_is_acked() -> None:
    ack = Lan().reply(a_message(REQUEST, {50: aton("10.77.0.150"), 54: aton(OURS)}))
    assert (ack.kind, ack.message.yiaddr) == ("acked", "10.77.0.150")


def test_a_request_without_an_address_is_met_with_silence() -> None:
    assert Lan().silence(a_message(REQUEST)) == "a REQUEST that names no address"
    assert Lan().silence(a_message(REQUEST, {54: aton(OURS)})) == "a REQUEST that names no address"


def reboot(address: str, **fields: Any) -> Message:
    return a_message(REQUEST, {50: aton(address)}, **fields)


def test_rfc2131_4_3_2_init_reboot_is_acked() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    assert lan.reply(reboot(address)).kind == "acked"


def test_rfc2131_4_3_2_init_reboot_long_after_is_acked_while_the_address_is_free() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    lan.now += 50_000
    assert lan.reply(reboot(address)).kind == "acked"


def test_rfc2131_4_3_2_init_reboot_on_the_wrong_network_is_refused() -> None:
    refused = Lan().reply(reboot("192.168.1.5"))
    assert (refused.kind, refused.why) == ("naked", "192.168.1.5 is not an address of 10.77.0.0/24")


def test_rfc2131_4_3_2_init_reboot_with_another_address_than_its_own_is_refused() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    assert lan.reply(reboot("10.77.0.150")).why == f"its address is {address}"
    record = lan.leases.at(address)
    assert record and record.state is LeaseState.BOUND


def test_rfc2131_4_3_2_init_reboot_without_a_record_is_met_with_silence() -> None:
    assert "no record of this client" in Lan().silence(reboot("10.77.0.150"))
    lan = Lan()
    lan.reply(a_message(DISCOVER))
    assert "no record of this client" in lan.silence(reboot("10.77.0.150"))


def test_authoritative_refuses_what_nobody_knows() -> None:
    lan = Lan(network={"authoritative": True})
    assert lan.reply(reboot("10.77.0.150")).why == "nobody here leased 10.77.0.150"
    assert lan.reply(a_message(REQUEST, ciaddr="10.77.0.150")).why == "nobody here leased 10.77.0.150"
    assert lan.reply(a_message(REQUEST, ciaddr="192.168.1.5")).why == "192.168.1.5 is not an address of 10.77.0.0/24"


def test_rfc2131_4_3_2_renewing_is_acked_to_the_client_itself() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    lan.now += 21_600
    ack = lan.reply(a_message(REQUEST, ciaddr=address), peer=(address, 68))
    assert (ack.kind, ack.message.ciaddr, ack.message.yiaddr) == ("acked", address, address)
    assert ack.destination == Destination(address, 68)
    assert ack.lease and ack.lease.expires == NOW + 21_600 + 43_200


def test_rfc2131_4_3_2_renewing_with_our_identifier_is_understood() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    assert lan.reply(a_message(REQUEST, {54: aton(OURS)}, ciaddr=address)).kind == "acked"


def test_rfc2131_4_3_2_renewing_what_is_anothers_is_refused() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    refused = lan.reply(a_message(REQUEST, ciaddr=address, chaddr=Mac("02:00:00:00:00:01").octets))
    assert (refused.kind, refused.why) == ("naked", f"{address} is bound to another client")


def test_rfc2131_4_3_2_rebinding_without_a_record_is_met_with_silence() -> None:
    assert "another server may have leased" in Lan().silence(a_message(REQUEST, ciaddr="10.77.0.150"))
    assert "another server may know better" in Lan().silence(a_message(REQUEST, ciaddr="192.168.1.5"))


def test_a_known_client_that_renews_another_networks_address_is_refused() -> None:
    lan = Lan()
    lan.dora()
    assert lan.reply(a_message(REQUEST, ciaddr="192.168.1.5")).kind == "naked"


def test_a_reservation_moves_a_client_when_it_comes_back() -> None:
    lan = Lan()
    old = lan.dora().message.yiaddr
    lan.assignment = a_machine(address="10.77.0.50")
    refused = lan.reply(a_message(REQUEST, ciaddr=old))
    assert (refused.why, refused.lease and refused.lease.state) == ("its reservation is 10.77.0.50", LeaseState.EXPIRED)
    assert lan.dora().message.yiaddr == "10.77.0.50"
    assert lan.reply(reboot("10.77.0.50")).kind == "acked"


def test_a_reservation_is_known_without_a_record() -> None:
    assert Lan(assignment=a_machine(address="10.77.0.50")).reply(reboot("10.77.0.50")).kind == "acked"


@pytest.mark.parametrize("address", ["10.66.0.9", OURS, "10.77.0.0", "10.77.0.255"])
def test_a_reservation_that_nobody_can_have_is_told_and_the_pool_serves(address: str) -> None:
    lan = Lan(assignment=a_machine(address=address))
    ack = lan.dora()
    assert ack.message.yiaddr == "10.77.0.100"
    assert ack.why.endswith(f"; its reservation {address} is no address for a machine of 10.77.0.0/24")


def test_a_client_keeps_its_address_while_its_reservation_is_taken() -> None:
    lan = Lan()
    other = Mac("02:00:00:00:00:01").octets
    taken = lan.dora(chaddr=other).message.yiaddr
    own = lan.dora().message.yiaddr
    lan.assignment = a_machine(address=taken)
    assert lan.reply(a_message(REQUEST, ciaddr=own)).kind == "acked"


def test_rfc2131_4_3_2_a_nak() -> None:
    refused = Lan().reply(reboot("192.168.1.5", flags=0, ciaddr=ANY))
    nak = refused.message
    assert (nak.type, nak.yiaddr, nak.ciaddr, nak.siaddr) == (NAK, ANY, ANY, ANY)
    assert nak.options == {53: b"\6", 54: aton(OURS), 56: b"192.168.1.5 is not an address of 10.77.0.0/24"}
    assert refused.destination == Destination(EVERYBODY, 68)


# RFC 2131 §4.3.3 to §4.3.5


def test_rfc2131_4_3_3_decline_quarantines_without_an_answer() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    noted = lan.ask(a_message(DECLINE, {50: aton(address), 54: aton(OURS)}))
    assert isinstance(noted, Noted) and (noted.kind, noted.lease.state) == ("declined", LeaseState.DECLINED)
    assert lan.dora().message.yiaddr != address


def test_rfc2131_4_3_4_release_frees_without_an_answer() -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    noted = lan.ask(a_message(RELEASE, {54: aton(OURS)}, ciaddr=address))
    assert isinstance(noted, Noted) and (noted.kind, noted.lease.state) == ("released", LeaseState.EXPIRED)
    assert noted.why == f"the client gave {address} back"
    assert lan.dora().message.yiaddr == address


@pytest.mark.parametrize("kind", [DECLINE, RELEASE])
def test_rfc2131_4_3_4_only_for_us_and_only_by_the_holder(kind: int) -> None:
    lan = Lan()
    address = lan.dora().message.yiaddr
    telling = {50: aton(address)} if kind == DECLINE else {}
    fields = {} if kind == DECLINE else {"ciaddr": address}
    assert lan.silence(a_message(kind, {**telling, 54: aton(ROUTER)}, **fields)) == f"it tells the server {ROUTER}"
    stranger = Mac("02:00:00:00:00:01").octets
    assert "this client" in lan.silence(a_message(kind, {**telling, 54: aton(OURS)}, **fields, chaddr=stranger))
    record = lan.leases.at(address)
    assert record and record.state is LeaseState.BOUND


def test_rfc2131_4_3_5_inform_gets_parameters_and_no_lease() -> None:
    lan = Lan()
    reply = lan.reply(a_message(INFORM, LINUX, ciaddr="10.77.0.7"), peer=("10.77.0.7", 68))
    assert (reply.kind, reply.message.type, reply.message.yiaddr, reply.message.ciaddr) == ("informed", ACK, ANY, "10.77.0.7")
    assert not {51, 58, 59} & reply.message.options.keys()
    assert reply.message.options[6] == aton(ROUTER)
    assert reply.destination == Destination("10.77.0.7", 68)
    assert lan.leases.all() == []


@pytest.mark.parametrize(
    "renew, rebind, wish, wanted",
    [(900, None, 3600, (900, 3150)), (900, None, 600, (300, 525)), (None, 100, 600, (300, 525)), (100, 200, 600, (100, 200))],
    ids=["T1 alone", "T1 behind the lease's end", "T2 before T1", "both"],
)
def test_rfc2131_4_4_5_an_operators_times_hold_where_they_fit_the_lease(
    renew: int | None, rebind: int | None, wish: int, wanted: tuple[int, int]
) -> None:
    options = {code: seconds.to_bytes(4, "big") for code, seconds in ((58, renew), (59, rebind)) if seconds}
    lan = Lan(network={"options": options, "min_lease_time": 600})
    offered = lan.reply(a_message(DISCOVER, {51: wish.to_bytes(4, "big")})).message.options
    assert tuple(int.from_bytes(offered[code], "big") for code in (58, 59)) == wanted
    informed = lan.reply(a_message(INFORM, LINUX, ciaddr="10.77.0.7"), peer=("10.77.0.7", 68)).message.options
    assert not {51, 58, 59} & informed.keys()


def test_a_message_type_of_two_octets_is_not_taken_for_bootp() -> None:
    assert "option 53" in Lan().silence(a_message(DISCOVER, {53: b"\1\1"}))


def test_inform_without_ciaddr_is_answered_to_its_source() -> None:
    assert Lan().reply(a_message(INFORM), peer=("10.77.0.7", 68)).destination == Destination("10.77.0.7", 68)


def test_inform_by_a_relay_goes_back_by_it() -> None:
    assert Lan().reply(a_message(INFORM, ciaddr="10.77.0.7", giaddr="10.77.0.9")).destination == Destination("10.77.0.9", 67)


@pytest.mark.parametrize("ciaddr", [ANY, "192.168.1.5"])
def test_inform_from_nowhere_is_met_with_silence(ciaddr: str) -> None:
    assert "not an address of" in Lan().silence(a_message(INFORM, ciaddr=ciaddr))


# Lease times (RFC 2131 §4.3.1, §4.4.5)


@pytest.mark.parametrize(
    ("wish", "granted"),
    [(None, 43_200), (600, 600), (0, 120), (60, 120), (0xFFFFFFFF, 604_800), (604_801, 604_800)],
)
def test_lease_time_is_a_wish_within_limits(wish: int | None, granted: int) -> None:
    options = {} if wish is None else {51: wish.to_bytes(4, "big")}
    offer = Lan().reply(a_message(DISCOVER, options)).message
    assert int.from_bytes(offer.options[51], "big") == granted
    assert (int.from_bytes(offer.options[58], "big"), int.from_bytes(offer.options[59], "big")) == (granted // 2, granted * 7 // 8)


def test_a_malformed_wish_is_none() -> None:
    assert Lan().reply(a_message(DISCOVER, {51: b"\1"})).message.options[51] == (43_200).to_bytes(4, "big")


def test_a_long_lease_time_is_its_own_maximum() -> None:
    month = 30 * 86_400
    offer = Lan(network={"lease_time": month}).reply(a_message(DISCOVER, {51: b"\xff" * 4})).message
    assert int.from_bytes(offer.options[51], "big") == month


# By what a client is known (RFC 2131 §4.2, RFC 4390, RFC 6842)


def test_rom_ipxe_installer_and_system_keep_one_address() -> None:
    lan = Lan()
    stages = [BIOS, {**IPXE, 61: b"\1" + MAC.octets}, {61: b"\xff" + bytes(12)}, {**LINUX, 61: b"\0web1"}]
    assert len({lan.dora(stage).message.yiaddr for stage in stages}) == 1


def test_identify_by_client_id_tells_them_apart() -> None:
    lan = Lan(network={"identify_by": "client-id"})
    stages: list[dict[int, bytes]] = [{}, {61: b"\1" + MAC.octets}, {61: b"\0web1"}]
    addresses = [lan.dora(stage).message.yiaddr for stage in stages]
    assert addresses[0] == addresses[1] != addresses[2]
    held = lan.leases.at(addresses[2])
    assert held and (held.client, held.client_id) == ("id:0077656231", b"\0web1")


def test_rfc4390_infiniband_is_known_by_its_client_id() -> None:
    lan = Lan()
    reply = lan.dora({61: b"\xff" + bytes(19)}, htype=32, hlen=0, chaddr=b"", flags=0x8000)
    assert reply.lease and reply.lease.client == "id:" + "ff" + "00" * 19
    assert lan.silence(a_message(DISCOVER, htype=32, hlen=0, chaddr=b"")).startswith("it has neither")
    assert lan.silence(a_message(DISCOVER, chaddr=bytes(6))).startswith("it has neither")


def test_rfc6842_client_id_is_echoed_in_every_reply() -> None:
    identity = {61: b"\1" + MAC.octets}
    lan = Lan()
    assert lan.reply(a_message(DISCOVER, identity)).message.options[61] == identity[61]
    assert lan.dora(identity).message.options[61] == identity[61]
    assert lan.reply(a_message(REQUEST, {**identity, 50: aton("192.168.1.5")})).message.options[61] == identity[61]
    assert lan.reply(a_message(INFORM, identity, ciaddr="10.77.0.7")).message.options[61] == identity[61]
    assert Lan("proxy").reply(a_message(DISCOVER, {**UEFI, **identity})).message.options[61] == identity[61]


# Where a reply goes (RFC 2131 §4.1)


def test_rfc2131_4_1_unicast_at_layer_2_without_arp() -> None:
    assert Lan().reply(a_message(DISCOVER)).destination == Destination("10.77.0.100", 68, MAC.octets)
    assert Lan().dora().destination == Destination("10.77.0.100", 68, MAC.octets)


def test_rfc2131_4_1_broadcast_flag() -> None:
    reply = Lan().reply(a_message(DISCOVER, flags=0x8000))
    assert (reply.destination, reply.message.flags) == (Destination(EVERYBODY, 68), 0x8000)


@pytest.mark.parametrize("fields", [{"htype": 6}, {"hlen": 8, "chaddr": bytes(7) + b"\1"}, {"hlen": 16, "chaddr": b"G" * 16}])
def test_other_hardware_is_broadcast_to(fields: dict[str, Any]) -> None:
    reply = Lan().reply(a_message(DISCOVER, **fields))
    assert reply.destination == Destination(EVERYBODY, 68)
    assert (reply.message.htype, reply.message.hlen, reply.message.chaddr) == tuple(
        {"htype": 1, "hlen": 6, "chaddr": MAC.octets, **fields}.values()
    )


def test_rfc2131_4_1_a_relay_comes_before_everything() -> None:
    relay = Destination("10.77.0.9", 67)
    lan = Lan()
    assert lan.reply(a_message(DISCOVER, giaddr="10.77.0.9", flags=0x8000)).destination == relay
    address = lan.dora(giaddr="10.77.0.9").message.yiaddr
    assert lan.reply(a_message(REQUEST, ciaddr=address, giaddr="10.77.0.9")).destination == relay


def test_rfc2131_4_1_a_nak_by_a_relay_has_the_broadcast_flag() -> None:
    refused = Lan().reply(reboot("192.168.1.5", giaddr="10.77.0.9"))
    assert (refused.destination, refused.message.flags) == (Destination("10.77.0.9", 67), 0x8000)


def test_rfc2131_4_1_a_nak_is_broadcast_even_to_a_client_with_an_address() -> None:
    lan = Lan(network={"authoritative": True})
    assert lan.reply(a_message(REQUEST, ciaddr="10.77.0.150")).destination == Destination(EVERYBODY, 68)


# Relays (RFC 3046, 3011, 3527, 5107)

AGENT = b"\1\4port\2\6switch"
SELECTION = {
    "the arrival interface": ({}, {}, ""),
    "RFC 2131 4.3.1: the relay": ({}, {"giaddr": "10.1.0.1"}, "10.1.0.1"),
    "RFC 3011: subnet selection behind a relay": ({118: aton("10.2.0.0")}, {"giaddr": "10.1.0.1"}, "10.2.0.0"),
    "RFC 3011: not from the client itself": ({118: aton("10.2.0.0")}, {}, ""),
    "RFC 3527: link selection first": ({118: aton("10.2.0.0"), 82: b"\5\4" + aton("10.3.0.0")}, {"giaddr": "10.1.0.1"}, "10.3.0.0"),
    "RFC 3527: a malformed one is none": ({82: b"\5\3abc"}, {"giaddr": "10.1.0.1"}, "10.1.0.1"),
    "a client that renews through a router": ({}, {"ciaddr": "10.4.0.9"}, "10.4.0.9"),
}


@pytest.mark.parametrize("options, fields, selected", SELECTION.values(), ids=SELECTION)
def test_which_network_a_message_belongs_to(options: dict[int, bytes], fields: dict[str, str], selected: str) -> None:
    assert selector(a_message(DISCOVER, options, **fields)) == selected


def test_rfc3046_agent_information_is_echoed_octet_for_octet_and_last() -> None:
    lan = Lan()
    for message in (a_message(DISCOVER, {82: AGENT}, giaddr="10.77.0.9"), reboot("192.168.1.5", giaddr="10.77.0.9")):
        message.options[82] = AGENT
        options = lan.reply(message).message.options
        assert (list(options)[-1], options[82]) == (82, AGENT)
    assert 82 not in lan.reply(a_message(DISCOVER)).message.options
    assert Lan("proxy").reply(a_message(DISCOVER, {**UEFI, 82: AGENT}, giaddr="10.77.0.9")).message.options[82] == AGENT


def test_rfc3011_2_subnet_selection_is_echoed() -> None:
    offer = Lan().reply(a_message(DISCOVER, {118: aton("10.77.0.0")}, giaddr="10.77.0.9")).message
    assert offer.options[118] == aton("10.77.0.0")
    direct = Lan().reply(a_message(DISCOVER, {118: aton("10.88.0.0")})).message
    assert 118 not in direct.options  # it was not heeded, and clients that need it discard what does not bring it back


def test_rfc5107_an_override_to_no_address_is_none() -> None:
    offer = Lan().reply(a_message(DISCOVER, {82: b"\x0b\4" + bytes(4)}, giaddr="10.77.0.9")).message
    assert offer.options[54] == aton(OURS)


def test_rfc5107_server_identifier_override() -> None:
    override = {82: b"\x0b\4" + aton("10.77.0.9")}
    lan = Lan()
    offer = lan.reply(a_message(DISCOVER, override, giaddr="10.77.0.9")).message
    assert offer.options[54] == aton("10.77.0.9")
    ack = lan.reply(a_message(REQUEST, {**override, 50: aton(offer.yiaddr), 54: aton("10.77.0.9")}, giaddr="10.77.0.9"))
    assert (ack.kind, ack.message.options[54]) == ("acked", aton("10.77.0.9"))
    released = lan.ask(a_message(RELEASE, {**override, 54: aton("10.77.0.9")}, ciaddr=offer.yiaddr))
    assert isinstance(released, Noted)


def test_one_relay_port_cannot_take_the_whole_pool() -> None:
    lan = Lan()
    asking = [a_message(DISCOVER, {82: AGENT}, giaddr="10.77.0.9", chaddr=bytes((2, 0, 0, 0, 0, number))) for number in range(33)]
    outcomes = [lan.ask(message) for message in asking]
    assert [type(outcome) for outcome in outcomes] == [Reply] * 32 + [Silence]


# Options of network, group and machine


def test_options_of_network_group_and_machine_the_nearest_wins() -> None:
    group = Group("g", options={42: b"grp.", 224: b"group", 225: b"group"})
    machine = Machine("m", options={225: b"machine"}, hostname="web1")
    lan = Lan(
        assignment=replace(ASSIGNED, group=group, machine=machine), network={"options": {42: b"net.", 226: b"network", 3: b"gate"}}
    )
    options = lan.reply(a_message(DISCOVER)).message.options
    assert {code: options[code] for code in (3, 12, 42, 224, 225, 226)} == {
        3: b"gate",
        12: b"web1",
        42: b"grp.",
        224: b"group",
        225: b"machine",
        226: b"network",
    }


@pytest.mark.parametrize("code", [0, 50, 51, 52, 53, 54, 55, 57, 61, 82, 97, 255])
def test_what_is_the_protocols_own_cannot_be_configured(code: int) -> None:
    lan = Lan(assignment=a_machine(options={code: b"x"}), network={"options": {code: b"x"}})
    assert lan.reply(a_message(DISCOVER)).message.options.get(code) != b"x"


def test_a_networks_boot_options_are_for_others_than_boot_clients() -> None:
    lan = Lan(network={"options": {43: b"ubnt", 60: b"x", 66: b"elsewhere", 67: b"other"}})
    plain = lan.reply(a_message(DISCOVER, LINUX)).message
    assert (plain.options[43], plain.options[67], plain.file) == (b"ubnt", b"other", b"")
    booting = lan.reply(a_message(DISCOVER, UEFI)).message
    assert (booting.options[43].hex(), booting.options[60]) == ("060108ff", b"PXEClient")
    assert not {66, 67} & booting.options.keys()


def test_a_machines_boot_options_win() -> None:
    for mode in ("server", "proxy"):
        lan = Lan(mode, a_machine(options={43: b"\6\1\x03\xff", 67: b"own.efi", 209: b"cfg", 42: b"ntps"}))
        booting = lan.reply(a_message(DISCOVER, UEFI)).message
        assert (booting.file, booting.options[67], booting.options[43], booting.options[209]) == (
            b"own.efi",
            b"own.efi",
            b"\6\1\x03\xff",
            b"cfg",
        )
        assert (42 in booting.options) == (mode == "server")


def test_a_machines_long_boot_file_is_an_option_only() -> None:
    booting = Lan(assignment=a_machine(options={67: b"x" * 200})).reply(a_message(DISCOVER, UEFI)).message
    assert (booting.file, booting.options[67]) == (b"", b"x" * 200)


def test_an_operators_ipxe_options_are_added_to_ours() -> None:
    lan = Lan(assignment=a_machine(options={175: b"\x08\1\1"}))
    assert lan.reply(a_message(DISCOVER, IPXE)).message.options[175] == b"\xb0\1\1\x08\1\1"
    assert lan.reply(a_message(DISCOVER, LINUX)).message.options[175] == b"\x08\1\1"


def test_parameters_follow_the_site() -> None:
    lan = Lan()
    lan.reply(a_message(DISCOVER))
    lan.site = a_site("server", routers=("10.77.0.3",), dns=(), domain=None)
    options = lan.reply(a_message(DISCOVER)).message.options
    assert options[3] == aton("10.77.0.3") and not {6, 15} & options.keys()
    lan.site = a_site("server", routers=())
    assert 3 not in lan.reply(a_message(DISCOVER)).message.options
    for _ in range(300):
        lan.site = a_site("server")
        lan.reply(a_message(DISCOVER))


# Option 57 (RFC 2132 §9.10)


def test_rfc2132_9_10_a_reply_fits_what_the_client_takes() -> None:
    many = {code: bytes(50) for code in range(224, 254)}
    lan = Lan(network={"options": many})
    for size, limit in ((None, 548), (576, 548), (100, 548), (1260, 1232), (1472, 1444), (65280, 1472)):
        options = {} if size is None else {57: size.to_bytes(2, "big")}
        message = a_message(DISCOVER, {**UEFI, **options}) if size else a_message(DISCOVER)
        answer = respond(message, client_of(message), Arrival(67, (ANY, 68), 2, OURS, NOW), ASSIGNED, lan.site, Leases())
        assert isinstance(answer, Reply) and answer.limit == limit
        datagram = encode(answer.message, answer.limit)
        assert len(datagram) <= limit and decode(datagram).options[53] == b"\2"


# Boot data in a lease


def test_a_lease_for_pxe_firmware_carries_its_boot_file() -> None:
    for reply in (Lan().reply(a_message(DISCOVER, UEFI)), Lan().dora(UEFI)):
        message = reply.message
        assert (message.siaddr, message.file) == (OURS, b"52-54-00-12-34-56/ipxe.efi")
        assert (message.options[60], message.options[43].hex(), message.options[97]) == (b"PXEClient", "060108ff", UEFI[97])
        assert isinstance(reply.step, LoadNBP) and reply.style == "direct"


def test_a_lease_for_uefi_http_boot_carries_its_url() -> None:
    message = Lan().dora(HTTP).message
    url = b"http://10.77.0.2:8080/tftp/52-54-00-12-34-56/ipxe.efi"
    assert (message.options[60], message.options[67], message.file) == (b"HTTPClient", url, url)


def test_a_lease_for_ipxe_carries_its_script_and_spares_it_the_wait() -> None:
    message = Lan().dora(IPXE).message
    assert (message.file, message.options[175].hex()) == (b"http://10.77.0.2:8080/boot.ipxe", "b00101")
    assert 43 not in message.options


def test_a_lease_for_a_raspberry_pi() -> None:
    message = Lan().dora(PI, chaddr=Mac("dc:a6:32:c2:1f:fe").octets).message
    assert (message.options[43], message.options[60], message.options[66]) == (RASPBERRY_PI, b"PXEClient", OURS.encode())
    assert (message.siaddr, message.file) == (OURS, b"") and {1, 3, 54} <= message.options.keys()


def test_rpi_eeprom_82_a_request_without_option_60() -> None:
    lan, mac = Lan(), Mac("dc:a6:32:c2:1f:fe").octets
    offer = lan.reply(a_message(DISCOVER, PI, chaddr=mac)).message
    bare = {93: b"\0\0", 97: PI[97], 50: aton(offer.yiaddr), 54: aton(OURS)}
    assert lan.reply(a_message(REQUEST, bare, chaddr=mac)).message.options[43] == RASPBERRY_PI


def test_rpi_eeprom_82_no_pad_before_the_end() -> None:
    for mode in ("server", "proxy"):
        answer = Lan(mode).reply(a_message(DISCOVER, PI))
        area = encode(answer.message, answer.limit)[240:]
        assert sum(2 + len(value) for _, value in parts(area)) == area.rstrip(b"\0").__len__() - 1


@pytest.mark.parametrize(
    ("assignment", "unknown", "why"),
    [
        (Assignment(why="nobody"), "ignore", "nobody; unknown machines get no boot data (unknown: ignore)"),
        (Assignment(profile=LOCAL, why="nobody"), "local", "a lease without boot data: profile local is the local disk; nobody"),
    ],
    ids=["unknown: ignore", "local disk"],
)
def test_a_lease_without_boot_data(assignment: Assignment, unknown: str, why: str) -> None:
    reply = Lan(assignment=assignment, network={"unknown": unknown}).dora(UEFI)
    assert (reply.kind, reply.message.file, reply.message.siaddr, reply.why) == ("acked", b"", ANY, why)
    assert not {43, 60, 66, 67, 97} & reply.message.options.keys()


def test_an_unknown_architecture_gets_its_lease() -> None:
    reply = Lan().dora({60: b"PXEClient:Arch:00099:UNDI:003000", 93: b"\0\x63"})
    assert reply.kind == "acked" and "architecture 99" in reply.why


def test_answer_known_leaves_strangers_alone() -> None:
    lan = Lan(network={"answer": "known"})
    for kind in (DISCOVER, REQUEST, INFORM, RELEASE):
        assert "only known machines are answered" in lan.silence(a_message(kind, LINUX, ciaddr="10.77.0.7"))
    lan.assignment = a_machine()
    assert lan.reply(a_message(DISCOVER)).kind == "offered"


def test_a_machine_that_needs_time() -> None:
    assert Lan(assignment=a_machine(reply_delay=1.5)).reply(a_message(DISCOVER, UEFI)).delay == 1.5
    assert Lan(assignment=a_machine(reply_delay=1.5)).reply(a_message(DISCOVER, LINUX)).delay == 0.0


def test_bsdp_is_met_with_silence_and_a_reason() -> None:
    apple = {60: b"AAPLBSDPC/i386/iMac4,1"}
    assert "BSDP" in Lan().silence(a_message(INFORM, apple, ciaddr="10.77.0.7"))
    for kind in (DISCOVER, INFORM):
        assert "BSDP" in Lan("proxy").silence(a_message(kind, apple, ciaddr="10.77.0.7"))
    assert Lan().dora(apple).kind == "acked"


# The proxy on port 67 (PXE 2.1 §2.2)


@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE, PI], ids=["BIOS", "UEFI", "HTTP", "iPXE", "Pi"])
@pytest.mark.parametrize("flags", [0, 0x8000])
def test_pxe_2_2_a_proxy_offer(options: dict[int, bytes], flags: int) -> None:
    reply = Lan("proxy").reply(a_message(DISCOVER, {**options, 55: bytes((1, 3, 6, 43, 51, 54, 58, 59, 60, 66, 67))}, flags=flags))
    offer = reply.message
    assert (reply.kind, offer.type, offer.yiaddr, offer.ciaddr, offer.siaddr) == ("offered", OFFER, ANY, ANY, OURS)
    assert reply.destination == Destination(EVERYBODY, 68)
    assert offer.options[54] == aton(OURS)
    assert offer.options[60] == (b"HTTPClient" if options is HTTP else b"PXEClient")
    assert offer.options.get(97) == options.get(97)
    assert not {1, 3, 6, 12, 15, 28, 51, 58, 59, 175} & offer.options.keys()
    assert offer.sname == OURS.encode()
    assert offer.flags == flags


def test_pxe_2_2_styles_of_a_proxy_offer() -> None:
    def options(client: dict[int, bytes], style: str) -> dict[int, bytes]:
        return Lan("proxy", a_machine(reply_style=style)).reply(a_message(DISCOVER, client)).message.options

    assert options(BIOS, "auto")[43].hex() == "060108ff"
    assert 43 not in options(UEFI, "auto")
    assert options(UEFI, "direct")[43].hex() == "060108ff"
    assert dict(parts(options(BIOS, "menu")[43])).keys() == {6, 8, 9, 10}


def test_a_learned_style_is_used() -> None:
    learned = replace(ASSIGNED, state=MachineState(reply_style="direct"))
    reply = Lan("proxy", learned).reply(a_message(DISCOVER, UEFI))
    assert (reply.style, reply.message.options[43].hex()) == ("direct", "060108ff")


@pytest.mark.parametrize("kind", [REQUEST, DECLINE, RELEASE, INFORM])
def test_a_proxy_answers_discover_only(kind: int) -> None:
    assert "a proxy answers DISCOVER only" in Lan("proxy").silence(a_message(kind, UEFI, ciaddr="10.77.0.7"))


@pytest.mark.parametrize("options", [LINUX, {}, {93: b"\0\x16", 60: b"U-Boot.armv8"}], ids=["udhcpc", "nothing", "U-Boot"])
def test_a_proxy_leaves_ordinary_clients_to_their_server(options: dict[int, bytes]) -> None:
    assert "neither a PXE nor an HTTP boot client" in Lan("proxy").silence(a_message(DISCOVER, options))


def test_a_proxy_never_guesses_an_architecture() -> None:
    assert "architecture 99" in Lan("proxy").silence(a_message(DISCOVER, {60: b"PXEClient", 93: b"\0\x63"}))
    assert "no boot program for arm32-efi" in Lan("proxy").silence(a_message(DISCOVER, {60: b"PXEClient", 93: b"\0\x0a"}))


def test_a_proxy_leaves_a_machine_to_its_disk() -> None:
    assert "local disk" in Lan("proxy", a_machine(boot="local")).silence(a_message(DISCOVER, UEFI))


def test_a_proxy_behind_a_relay_has_the_relay_broadcast() -> None:
    reply = Lan("proxy").reply(a_message(DISCOVER, IPXE, giaddr="10.1.0.1"))
    assert (reply.destination, reply.message.flags, reply.message.giaddr) == (Destination("10.1.0.1", 67), 0x8000, "10.1.0.1")


def test_a_proxy_adds_the_boot_options_of_its_network() -> None:
    """PXELINUX's 209 and 210 (RFC 5071); what firmware reads of a boot is for each client alone."""
    options = {209: b"own.cfg", 210: b"menu/", 42: aton(ROUTER), 67: b"not.me", 60: b"nobody", 43: b"\xff"}
    lan = Lan("proxy", network={"options": options})
    peer = ("10.77.0.108", 4011)
    for reply in (lan.reply(a_message(DISCOVER, UEFI)), lan.reply(a_message(REQUEST, UEFI, ciaddr=peer[0]), 4011, peer)):
        said = reply.message.options
        assert (said[209], said[210], said[60]) == (b"own.cfg", b"menu/", b"PXEClient")
        assert not {42, 43, 67} & said.keys()


def test_a_proxy_leases_nothing() -> None:
    lan = Lan("proxy")
    for kind in range(1, 9):
        for port in (67, 4011):
            lan.ask(a_message(kind, {**UEFI, 50: aton("10.77.0.150"), 54: aton(OURS)}), port)
    assert lan.leases.all() == []


def test_pxe_1_0_an_inform_with_a_boot_item_on_port_67() -> None:
    reply = Lan("proxy").reply(
        a_message(INFORM, {**BIOS, 43: bytes.fromhex("470480000000ff")}, ciaddr="10.77.0.7"), peer=("10.77.0.7", 68)
    )
    assert (reply.kind, reply.message.type, reply.destination) == ("pxe acked", ACK, Destination("10.77.0.7", 68))


# Port 4011 (PXE 2.1 §2.2.4)

PEER = ("10.77.0.108", 4011)


@pytest.mark.parametrize("mode", ["proxy", "server"])
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM])
@pytest.mark.parametrize("options", [BIOS, UEFI, HTTP, IPXE, PI], ids=["BIOS", "UEFI", "HTTP", "iPXE", "Pi"])
def test_pxe_2_2_4_every_client_and_type_gets_an_ack_with_its_file(mode: str, kind: int, options: dict[int, bytes]) -> None:
    reply = Lan(mode).reply(a_message(kind, options, ciaddr=PEER[0]), 4011, PEER)
    ack = reply.message
    assert (reply.kind, ack.type, ack.yiaddr, ack.ciaddr, ack.siaddr) == ("pxe acked", ACK, ANY, PEER[0], OURS)
    assert bool(ack.file) == (options is not PI)
    assert ack.options[54] == aton(OURS)
    assert (43 in ack.options) == (options is PI)
    assert not {51, 58, 59, 1, 3} & ack.options.keys()
    assert reply.destination == Destination(*PEER)
    assert reply.lease is None


@pytest.mark.parametrize("peer", [("10.77.0.108", 68), ("10.77.0.108", 4011), ("10.77.0.108", 50000)])
def test_pxe_2_2_4_the_answer_goes_to_the_port_it_was_asked_from(peer: tuple[str, int]) -> None:
    assert Lan("proxy").reply(a_message(REQUEST, UEFI, ciaddr=peer[0]), 4011, peer).destination == Destination(*peer)


def test_pxe_2_2_4_a_client_without_an_address() -> None:
    lan = Lan("proxy")
    assert lan.reply(a_message(REQUEST, UEFI, ciaddr="10.77.0.108"), 4011).destination == Destination("10.77.0.108", 68)
    assert lan.reply(a_message(DISCOVER, UEFI), 4011).destination == Destination(EVERYBODY, 68)


def test_pxe_2_1_the_boot_item_is_echoed_and_a_missing_one_left_out() -> None:
    lan = Lan("proxy")
    item = bytes.fromhex("470480000000ff")
    assert lan.reply(a_message(REQUEST, {**BIOS, 43: item}, ciaddr=PEER[0]), 4011, PEER).message.options[43] == item
    assert 43 not in lan.reply(a_message(REQUEST, BIOS, ciaddr=PEER[0]), 4011, PEER).message.options


def test_pxe_2_1_credentials_are_refused() -> None:
    item = bytes.fromhex("470480008000ff")
    assert "credentials" in Lan("proxy").silence(a_message(REQUEST, {**BIOS, 43: item}), 4011, PEER)


@pytest.mark.parametrize("options", [LINUX, {}, {93: b"\0\7"}], ids=["udhcpc", "nothing", "arch only"])
def test_pxe_2_2_4_nobody_else_is_answered(options: dict[int, bytes]) -> None:
    assert Lan("proxy").silence(a_message(REQUEST, options), 4011, PEER) == "port 4011 is for PXE and HTTP boot clients"


@pytest.mark.parametrize("kind", [DECLINE, RELEASE])
def test_pxe_2_2_4_other_types_have_no_business_there(kind: int) -> None:
    assert "no business on port 4011" in Lan("proxy").silence(a_message(kind, UEFI), 4011, PEER)


def test_pxe_2_2_4_another_boot_server() -> None:
    lan = Lan("proxy")
    assert lan.silence(a_message(REQUEST, {**UEFI, 54: aton(ROUTER)}), 4011, PEER) == f"it asks the boot server {ROUTER}"
    assert lan.reply(a_message(REQUEST, {**UEFI, 54: aton(OURS)}), 4011, PEER).kind == "pxe acked"


def test_pxe_2_2_4_a_machine_left_to_its_disk() -> None:
    assert "local disk" in Lan("proxy", a_machine(boot="local")).silence(a_message(REQUEST, UEFI), 4011, PEER)


def test_edk2_send_guid_a_guid_for_a_hardware_address() -> None:
    guid = bytes(range(16))
    reply = Lan("proxy").reply(a_message(REQUEST, UEFI, hlen=16, chaddr=guid, ciaddr=PEER[0]), 4011, PEER)
    assert (reply.message.hlen, reply.message.chaddr) == (16, guid)


# What is remembered


def test_a_repeated_offer_is_held_again() -> None:
    lan = Lan()
    offer = lan.reply(a_message(DISCOVER, UEFI))
    again = repeat(offer, lan.leases, NOW + 55)
    assert again is not None and again is lan.leases.at(offer.message.yiaddr)
    assert (again.state, again.expires) == (LeaseState.OFFERED, NOW + 115)


def test_a_repeated_ack_is_bound_again() -> None:
    lan = Lan()
    ack = lan.dora(UEFI)
    again = repeat(ack, lan.leases, NOW + 100)
    assert again is not None and again is lan.leases.at(ack.message.yiaddr)
    assert (again.state, again.expires) == (LeaseState.BOUND, NOW + 43_300)
    offer = lan.reply(a_message(DISCOVER, UEFI))
    assert repeat(offer, lan.leases, NOW + 200) is again, "what is bound is offered as it is"


def test_a_reply_is_not_repeated_when_the_bindings_changed() -> None:
    other = Mac("02:00:00:00:00:01").octets
    lan = Lan()
    offer = lan.reply(a_message(DISCOVER, UEFI))
    lan.leases.mark_in_use("10.77.0.100", Mac.of(other), NOW)
    assert repeat(offer, lan.leases, NOW) is None
    ack = lan.dora(UEFI)
    lan.leases.release(Holder(MAC, MAC), ack.message.yiaddr, NOW)
    assert repeat(ack, lan.leases, NOW) is None
    assert lan.dora(chaddr=other, options={50: aton(ack.message.yiaddr)}).message.yiaddr == ack.message.yiaddr
    assert repeat(ack, lan.leases, NOW) is None


def test_a_repeated_offer_of_another_address_is_made_afresh() -> None:
    lan = Lan()
    offer = lan.reply(a_message(DISCOVER, UEFI))
    lan.leases.withhold([offer.message.yiaddr])
    assert repeat(offer, lan.leases, NOW + 1) is None
    ack = lan.dora(UEFI)
    lan.leases.withhold([ack.message.yiaddr])
    assert repeat(ack, lan.leases, NOW + 1) is None
    full = Lan(network={"pools": (Pool(int(IPv4Address("10.77.0.100")), int(IPv4Address("10.77.0.100"))),)})
    only = full.reply(a_message(DISCOVER, UEFI))
    full.leases.withhold(["10.77.0.100"])
    assert repeat(only, full.leases, NOW + 1) is None


def test_what_does_nothing_to_the_bindings_can_be_sent_again_as_it_is() -> None:
    lan, proxy = Lan(), Lan("proxy")
    for reply in (proxy.reply(a_message(DISCOVER, UEFI)), lan.reply(a_message(INFORM, ciaddr="10.77.0.7"))):
        assert reply.deed is None and reply.lease is None


def test_a_client_that_is_to_move_is_asked_each_time() -> None:
    lan = Lan()
    taken = lan.dora(chaddr=Mac("02:00:00:00:00:01").octets).message.yiaddr
    own = lan.dora().message.yiaddr
    lan.assignment = a_machine(address=taken)
    renewed = lan.reply(a_message(REQUEST, ciaddr=own))
    assert renewed.kind == "acked" and renewed.deed is None, "it may be free to move by now"


# What the journal says


def test_details_of_an_event() -> None:
    def detail(options: dict[int, bytes], mode: str = "server") -> dict[str, Any]:
        message = a_message(DISCOVER, options)
        return dict(Lan(mode).reply(message).detail(client_of(message)))

    assert detail(UEFI) == {
        "address": "10.77.0.100",
        "nbp": "52-54-00-12-34-56/ipxe.efi",
        "arch": "x64-efi",
        "loader": "firmware",
        "style": "direct",
        "why": "x64-efi firmware: load ipxe.efi first (loaders); nobody described this machine",
    }
    assert detail(HTTP, "proxy")["url"] == "http://10.77.0.2:8080/tftp/52-54-00-12-34-56/ipxe.efi"
    assert detail(IPXE, "proxy")["url"] == "http://10.77.0.2:8080/boot.ipxe"
    assert detail(LINUX) == {"address": "10.77.0.100", "why": "an ordinary DHCP client: a lease without boot data"}
    assert detail({60: b"PXEClient"})["arch"] == ""


def test_a_local_disk_in_a_lease_is_told() -> None:
    message = a_message(DISCOVER, UEFI)
    reply = Lan(assignment=a_machine(boot="local")).reply(message)
    assert isinstance(reply.step, LocalDisk)
    assert "nbp" not in reply.detail(client_of(message)) and "url" not in reply.detail(client_of(message))


# Captures of real boots, each client packet answered in both modes; judged by eye, by scapy, and kept


@pytest.mark.parametrize("name", pcap.NAMES)
def test_golden_answers_to_captures(name: str, golden: Callable[[str, str], None]) -> None:
    text = []
    for mode in ("proxy", "server"):
        lan = Lan(mode)
        for question in pcap.questions(name):
            message = decode(question.payload)
            answer = lan.ask(message, question.destination[1], question.source)
            asked = f"{question.source[0]}:{question.source[1]} -> {question.destination[0]}:{question.destination[1]}"
            text.append(f"## {mode}: {asked}\n{pcap.show(message)}\n")
            if isinstance(answer, Reply):
                to = answer.destination
                at = f" at {Mac.of(to.chaddr)}" if to.chaddr else ""
                length = len(encode(answer.message, answer.limit))
                text.append(
                    f"=> {answer.kind} to {to.address}:{to.port}{at}, {length} octets: {answer.why}\n{pcap.show(answer.message)}\n"
                )
            else:
                text.append(f"=> {type(answer).__name__.lower()}: {answer.why}\n")
    golden(f"captures/{name.removesuffix('.pcap')}.txt", "\n".join(text))


@pytest.mark.parametrize("name", pcap.NAMES)
@pytest.mark.parametrize("mode", ["proxy", "server"])
def test_scapy_reads_our_answers_to_captures(name: str, mode: str) -> None:
    lan = Lan(mode)
    for question in pcap.questions(name):
        answer = lan.ask(decode(question.payload), question.destination[1], question.source)
        if isinstance(answer, Reply):
            packet = BOOTP(encode(answer.message, answer.limit))
            assert packet.options == b"c\x82Sc"
            named: dict[str, Any] = dict(option[:2] for option in packet[DHCP].options if isinstance(option, tuple))
            assert named["message-type"] == answer.message.type
            assert named["server_id"] == OURS
            assert "end" in packet[DHCP].options
            assert (packet.yiaddr, packet.siaddr) == (answer.message.yiaddr, answer.message.siaddr)


# Noise

MODES: dict[str, dict[str, Any]] = {
    "server": {},
    "proxy": {},
    "server, strict": {"authoritative": True, "identify_by": "client-id", "answer": "known"},
}


def lan_of(mode: str) -> Lan:
    return Lan(mode.partition(",")[0], a_machine(address="10.77.0.9") if "strict" in mode else ASSIGNED, MODES[mode])


def storm(rounds: int) -> int:
    """How many bent captures were answered; nothing raises, and every answer can be written and read."""
    chance, originals, answered = random.Random(7).random, pcap.all_dhcp(), 0
    lans = [lan_of(mode) for mode in MODES]
    for number in range(rounds):
        datagram = mutate(chance, originals[number % len(originals)])
        try:
            message = decode(datagram)
        except WireError:
            continue
        message.op = 1
        lan = lans[number % len(lans)]
        lan.now += 0.01
        arrival = Arrival(4011 if number % 5 == 0 else 67, ("10.77.0.9", 68), 2, OURS, lan.now)
        answer = respond(message, client_of(message), arrival, lan.assignment, lan.site, lan.leases)
        if isinstance(answer, Reply):
            decode(encode(answer.message, answer.limit))
            answered += 1
    return answered


def test_bent_captures_are_answered_or_not_but_nothing_raises() -> None:
    assert storm(3_000) > 300


@pytest.mark.slow
def test_many_bent_captures_are_answered_or_not_but_nothing_raises() -> None:
    assert storm(300_000) > 30_000


options_of_any_kind = st.dictionaries(
    st.sampled_from([12, 43, 50, 51, 53, 54, 55, 57, 60, 61, 77, 82, 93, 97, 118, 175, 224]), st.binary(max_size=20), max_size=10
)


@settings(deadline=None)
@given(
    kind=st.integers(0, 9),
    options=options_of_any_kind,
    addresses=st.tuples(*[st.sampled_from([ANY, "10.77.0.100", "10.77.0.9", "192.168.1.5", EVERYBODY])] * 2),
    port=st.sampled_from([67, 4011]),
    mode=st.sampled_from(sorted(MODES)),
    boots=st.sampled_from([{}, BIOS, UEFI, HTTP, IPXE, PI]),
)
def test_any_message_gets_an_answer_or_a_reason(
    kind: int, options: dict[int, bytes], addresses: tuple[str, str], port: int, mode: str, boots: dict[int, bytes]
) -> None:
    message = a_message(kind, {**boots, **options}, ciaddr=addresses[0], giaddr=addresses[1])
    answer = lan_of(mode).ask(message, port, ("10.77.0.9", 68))
    if isinstance(answer, Reply):
        assert answer.message.xid == message.xid and answer.message.options[54]
        assert list(answer.message.options).count(82) == (82 in message.options)


# Several networks on one link

FIRST = a_site("server")
SECOND_POOL = (Pool(int(IPv4Address("10.78.0.100")), int(IPv4Address("10.78.0.199"))),)
SECOND = a_site("server", pools=SECOND_POOL, subnet=IPv4Network("10.78.0.0/24"), address="10.78.0.2")
FULL = a_site("server", pools=())


@pytest.mark.parametrize(
    "message, reserved, held, first, wanted",
    [
        (a_message(DISCOVER), None, False, FIRST, FIRST),
        (a_message(DISCOVER), None, False, FULL, SECOND),
        (a_message(DISCOVER), "10.78.0.10", False, FIRST, SECOND),
        (a_message(DISCOVER), "10.99.0.10", False, FIRST, FIRST),
        (a_message(DISCOVER), None, True, FIRST, SECOND),
        (a_message(DISCOVER, {50: aton("10.78.0.150")}), None, False, FIRST, SECOND),
        (a_message(DISCOVER, {50: aton("10.77.0.150")}), None, False, FULL, SECOND),
        (a_message(REQUEST, {50: aton("10.77.0.150"), 54: aton("10.78.0.2")}), None, False, FIRST, SECOND),
        (a_message(REQUEST, {50: aton("10.78.0.150")}), "10.77.0.10", False, FIRST, SECOND),
        (a_message(DECLINE, {50: aton("10.78.0.150")}), None, False, FIRST, SECOND),
        (a_message(REQUEST), None, False, FULL, SECOND),
    ],
    ids=["the first", "the first is full", "reserved", "reserved elsewhere", "held", "asked for", "asked for and full",
         "the server named", "the address named", "the address declined", "nothing named"],
)  # fmt: skip
def test_rfc2131_4_3_1_the_network_on_a_shared_link(
    message: Message, reserved: str | None, held: bool, first: Site, wanted: Site
) -> None:
    leases = Leases()
    if held:
        assert isinstance(leases.bind(Holder(MAC, MAC), SECOND, None, "10.78.0.123", 60, NOW), Lease)
    machine = Machine("m", address=reserved) if reserved else None
    assert network_of(message, client_of(message), machine, (first, SECOND), leases) is wanted


def test_on_a_shared_link_all_strangers_of_a_proxy_are_alike() -> None:
    """They are answered by one form, whatever they ask a server for, or were leased when this was one."""
    first, second = (replace(site, network=replace(site.network, mode="proxy")) for site in (FIRST, SECOND))
    leases, message = Leases(), a_message(DISCOVER, {50: aton("10.78.0.150")})
    assert network_of(message, client_of(message), None, (first, second), leases) is first
    assert isinstance(leases.bind(Holder(MAC, MAC), SECOND, None, "10.78.0.123", 60, NOW), Lease)
    assert network_of(message, client_of(message), None, (first, second), leases) is first
    machine = Machine("m", address="10.78.0.10")
    assert network_of(message, client_of(message), machine, (first, second), leases) is second


def test_on_a_shared_link_a_client_stays_where_it_is_bound_though_it_was_elsewhere_before() -> None:
    leases, who = Leases(), Holder(MAC, MAC)
    for site, address in ((FIRST, "10.77.0.123"), (SECOND, "10.78.0.123")):
        assert isinstance(leases.bind(who, site, None, address, 60, NOW), Lease)
    leases.release(who, "10.77.0.123", NOW)
    assert network_of(a_message(DISCOVER), client_of(a_message(DISCOVER)), None, (FIRST, SECOND), leases) is SECOND
    leases.release(who, "10.78.0.123", NOW)
    assert network_of(a_message(DISCOVER), client_of(a_message(DISCOVER)), None, (FIRST, SECOND), leases) is FIRST
