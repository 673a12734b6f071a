"""A proxy beside another DHCP server, over a real wire (PXE 2.1 §2.2, RFC 4578, UEFI HTTP Boot): boot data and nothing else."""

import random
import socket
import time
from collections.abc import Iterator

import pytest

from pixieboot.wire.dhcp import encode
from tests.wire.client import (
    ACK,
    ANY,
    DECLINE,
    DISCOVER,
    EVERYBODY,
    HTTP,
    INFORM,
    OFFER,
    PRL,
    PXE,
    RELEASE,
    REQUEST,
    UEFI,
    Answer,
    Client,
    mac,
)
from tests.wire.servers import ADDRESS, OTHER_ADDRESS, RELAY, RELAYED_GATEWAY, SERVER, Lan, lan, missing, ours

pytestmark = [
    pytest.mark.needs_root,
    missing,
    pytest.mark.skipif(SERVER == "isc-dhcpd", reason="isc-dhcpd is no proxy"),
]
QUIET = 0.4
MENU, DIRECT = mac(0x32), mac(0x33)  # machines with a reply style of their own
LEASED = "10.77.0.60"  # what the router gave the client
_numbers = iter(range(0x1000, 0xFFFF))
aton = socket.inet_aton


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan("proxy") as it:
        it.registry = {
            "machines.yaml": f"menu: {{mac: '{MENU.hex(':')}', reply_style: menu}}\n"
            f"direct: {{mac: '{DIRECT.hex(':')}', reply_style: direct}}\n"
        }
        it.start()
        yield it


@pytest.fixture
def client(net: Lan) -> Client:
    return net.client


@pytest.fixture
def who(client: Client) -> Iterator[bytes]:
    """A MAC that no other test uses; it has the address LEASED already."""
    client.holds[LEASED] = mac(next(_numbers))
    yield client.holds[LEASED]
    del client.holds[LEASED]


def offer_to(client: Client, who: bytes, kind: dict[int, bytes], **fields: object) -> Answer:
    (offer,) = client.ask(client.message(DISCOVER, who, kind, **fields))
    assert offer.type == OFFER
    return offer


def ask_4011(client: Client, who: bytes, options: dict[int, bytes], kind: int = REQUEST, port: int = 4011) -> list[Answer]:
    """A question to port 4011 from the address that the router gave."""
    client.discover(mac(0x20), UEFI)  # teaches us the server's card
    question = client.message(kind, who, options, ciaddr=LEASED)
    to = client.server_mac
    return client.ask(question, source=LEASED, target=ADDRESS, to=to, source_port=port, target_port=4011, wait=QUIET * 2)


def file(answer: Answer) -> str:
    return (answer.option(67) or answer.message.file).rstrip(b"\0").decode()


# ---------------------------------------------------------------------- the OFFER


@pytest.mark.parametrize("kind", [PXE, UEFI], ids=["BIOS", "UEFI"])
def test_pxe_2_2_an_offer_has_boot_data_and_no_address(client: Client, who: bytes, kind: dict[int, bytes]) -> None:
    offer = offer_to(client, who, kind, flags=0x8000)
    assert (offer.message.yiaddr, offer.message.siaddr, offer.address(54)) == (ANY, ADDRESS, ADDRESS)
    assert offer.option(60) == b"PXEClient" and offer.option(97) == kind[97]
    assert not {51, 1, 3, 6, 58, 59} & offer.message.options.keys()


@pytest.mark.parametrize("flags", [0, 0x8000], ids=["flag clear", "flag set"])
def test_pxe_2_2_an_offer_is_broadcast_as_the_client_has_no_address(client: Client, who: bytes, flags: int) -> None:
    offer = offer_to(client, who, UEFI, flags=flags)
    assert (offer.mac, offer.target, offer.target_port) == (b"\xff" * 6, EVERYBODY, 68)
    assert (offer.source, offer.source_port) == (ADDRESS, 67)


@ours
def test_a_bios_rom_is_told_to_use_this_very_file(client: Client, who: bytes) -> None:
    offer = offer_to(client, who, PXE)
    assert offer.option(43) == b"\6\1\x08\xff" and file(offer) == f"{who.hex('-')}/undionly.kpxe"
    assert offer.message.sname == ADDRESS.encode()


@ours
def test_uefi_gets_its_file_in_the_offer_and_again_on_port_4011(client: Client, who: bytes) -> None:
    offer = offer_to(client, who, UEFI)
    (ack,) = ask_4011(client, who, UEFI)
    assert offer.option(43) is None
    assert file(offer) == file(ack) == f"{who.hex('-')}/ipxe.efi"


@ours
def test_uefi_http_boot_gets_a_url_beside_a_router(client: Client, who: bytes) -> None:
    offer = offer_to(client, who, HTTP)
    assert offer.option(60) == b"HTTPClient" and file(offer) == f"http://{ADDRESS}:8080/tftp/{who.hex('-')}/ipxe.efi"


@ours
@pytest.mark.parametrize(
    "marks",
    [{77: b"iPXE"}, {77: b"\4iPXE"}, {77: b"\4work\4iPXE"}, {175: b"\x13\1\1"}],
    ids=["user class raw", "user class by RFC 3004", "one user class of two", "option 175 alone"],
)
def test_ipxe_gets_a_script_and_never_a_menu(client: Client, who: bytes, marks: dict[int, bytes]) -> None:
    offer = offer_to(client, who, UEFI | marks)
    assert file(offer) == f"http://{ADDRESS}:8080/boot.ipxe" and offer.message.siaddr == ADDRESS
    assert not {8, 9} & set(offer.option(43) or b"")


@ours
@pytest.mark.parametrize("value", [b"", b"i", b"\xff" * 255, b"\4iPX"], ids=["empty", "one octet", "255 octets", "cut off"])
def test_rfc3004_a_user_class_that_says_nothing_leaves_it_firmware(client: Client, who: bytes, value: bytes) -> None:
    assert file(offer_to(client, who, UEFI | {77: value})).endswith("/ipxe.efi")


@ours
def test_a_cards_own_ipxe_without_http_loads_ours_first(client: Client, who: bytes) -> None:
    """Its 175 names its features, and HTTP (19) is not among them (cobbler/cobbler#360)."""
    assert file(offer_to(client, who, UEFI | {77: b"iPXE", 175: b"\x21\1\1\x15\1\1"})).endswith("/ipxe.efi")


@ours
def test_the_addresses_of_a_script_are_those_of_the_interface_it_is_asked_by(net: Lan, who: bytes) -> None:
    here, there = (offer_to(each, who, UEFI | {77: b"iPXE"}) for each in (net.client, net.other))
    assert (file(here), file(there)) == (f"http://{ADDRESS}:8080/boot.ipxe", f"http://{OTHER_ADDRESS}:8080/boot.ipxe")


@ours
def test_pxe_2_1_a_menu_of_one_item_and_its_server(client: Client) -> None:
    offer = offer_to(client, MENU, UEFI)
    server, title = b"\x08\x07\x80\0\1" + aton(ADDRESS), b"ipxe.efi"
    item = b"\x09" + bytes((3 + len(title),)) + b"\x80\0" + bytes((len(title),)) + title
    assert offer.option(43) == b"\6\1\3" + b"\x0a\4\0PXE" + server + item + b"\xff"
    client.holds[LEASED] = MENU
    (ack,) = ask_4011(client, MENU, UEFI | {43: b"\x47\4\x80\0\0\0\xff"})
    assert file(ack).endswith("/ipxe.efi") and ack.option(43) == b"\x47\4\x80\0\0\0\xff"
    assert ask_4011(client, MENU, UEFI | {43: b"\x47\4\x80\0\x80\0\xff"}) == []  # credentials (BIS)
    del client.holds[LEASED]


@ours
def test_pxe_2_1_a_machine_that_is_answered_directly_needs_no_port_4011(client: Client) -> None:
    offer = offer_to(client, DIRECT, UEFI)
    assert offer.option(43) == b"\6\1\x08\xff" and file(offer).endswith("/ipxe.efi")


@ours
def test_pxe_1_an_inform_that_names_a_boot_item_is_answered_on_port_67(client: Client, who: bytes) -> None:
    client.discover(mac(0x20), UEFI)
    question = client.message(INFORM, who, PXE | {43: b"\x47\4\x80\0\0\0\xff"}, ciaddr=LEASED)
    (ack,) = client.ask(question, source=LEASED, target=ADDRESS, to=client.server_mac, wait=QUIET * 2)
    assert ack.type == ACK and file(ack) == f"{who.hex('-')}/undionly.kpxe"


def test_a_client_without_machine_identifier_gets_none_back(client: Client, who: bytes) -> None:
    offer = offer_to(client, who, {code: value for code, value in PXE.items() if code != 97})
    assert offer.option(97) is None


def test_rfc4578_architecture_9_is_x64_like_7(client: Client, who: bytes) -> None:
    nine = UEFI | {93: b"\0\x09", 60: b"PXEClient:Arch:00009:UNDI:003000"}
    offers = [offer_to(client, who, kind) for kind in (UEFI, nine)]
    files = [file(each) or file(ask_4011(client, who, kind)[0]) for each, kind in zip(offers, (UEFI, nine), strict=True)]
    assert files[0].removesuffix(".0") == files[1].removesuffix(".0") != ""


@pytest.mark.parametrize("length", [0, 1, 5, 16, 18, 255])
def test_a_machine_identifier_of_odd_length_does_no_harm(client: Client, who: bytes, length: int) -> None:
    identifier = b"\0" * length
    offer = offer_to(client, who, UEFI | {97: identifier})
    assert offer.option(97) == (identifier or None)


def test_two_interfaces_two_answers(net: Lan, who: bytes) -> None:
    here, there = offer_to(net.client, who, PXE), offer_to(net.other, who, PXE)
    assert (here.source, here.message.siaddr, here.address(54)) == (ADDRESS, ADDRESS, ADDRESS)
    assert (there.source, there.message.siaddr, there.address(54)) == (OTHER_ADDRESS, OTHER_ADDRESS, OTHER_ADDRESS)


def test_a_reply_ends_in_255_and_is_at_least_300_octets(client: Client, who: bytes) -> None:
    offer = offer_to(client, who, PXE)
    assert len(offer.payload) >= 300 and offer.payload.rstrip(b"\0").endswith(b"\xff")


def test_the_same_client_asking_again_gets_its_own_transaction_number(client: Client, who: bytes) -> None:
    xids = [offer_to(client, who, UEFI, secs=secs).message.xid for secs in (0, 4, 12)]
    assert len(set(xids)) == 3


# ---------------------------------------------------------------------- port 4011


@pytest.mark.parametrize("port", [68, 4011])
def test_4011_answers_from_4011_to_ciaddr_at_the_port_that_asked(client: Client, who: bytes, port: int) -> None:
    (ack,) = ask_4011(client, who, UEFI, port=port)
    assert (ack.type, ack.source, ack.source_port) == (ACK, ADDRESS, 4011)
    assert (ack.target, ack.target_port, ack.message.yiaddr) == (LEASED, port, ANY)
    assert ack.option(97) == UEFI[97] and ack.option(60) == b"PXEClient"


@ours
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, INFORM], ids=["DISCOVER", "REQUEST", "INFORM"])
@pytest.mark.parametrize("arch", [0, 6, 7, 9, 11])
def test_4011_answers_every_architecture_and_message_type(client: Client, who: bytes, arch: int, kind: int) -> None:
    asked = PXE | {93: bytes((0, arch)), 60: f"PXEClient:Arch:{arch:05}:UNDI:002001".encode()}
    (ack,) = ask_4011(client, who, asked, kind)
    assert ack.type == ACK and file(ack)


@ours
def test_4011_echoes_the_boot_item(client: Client, who: bytes) -> None:
    (ack,) = ask_4011(client, who, PXE | {43: b"\x47\4\x80\0\0\0\xff"})
    assert ack.option(43) == b"\x47\4\x80\0\0\0\xff"


def test_4011_is_silent_to_who_does_not_boot(client: Client, who: bytes) -> None:
    assert ask_4011(client, who, {60: b"udhcp 1.35.0", 55: PRL}) == []
    assert ask_4011(client, who, {55: PRL}) == []


@ours
def test_4011_with_a_machine_identifier_as_hardware_address(client: Client) -> None:
    """EDK2's SendGUID: chaddr holds 16 octets of the UUID; it is copied."""
    guid = bytes(range(16))
    client.holds[LEASED] = mac(0x21)
    client.discover(mac(0x20), UEFI)
    question = client.message(REQUEST, guid, UEFI, ciaddr=LEASED)
    (ack,) = client.ask(question, source=LEASED, target=ADDRESS, to=client.server_mac, source_port=4011, target_port=4011)
    assert ack.message.chaddr == guid and ack.message.hlen == 16
    del client.holds[LEASED]


# ---------------------------------------------------------------------- what must be met with silence

SILENT = {
    "a plain DISCOVER": (DISCOVER, {55: PRL}),
    "a DISCOVER of Windows": (DISCOVER, {60: b"MSFT 5.0", 55: PRL, 61: b"\1abcdef"}),
    "a DISCOVER of udhcpc": (DISCOVER, {60: b"udhcp 1.35.0", 55: PRL}),
    "a REQUEST": (REQUEST, {**PXE, 50: b"\x0a\x4d\0\x3c", 54: b"\x0a\x4d\0\xfe"}),
    "a REQUEST without server": (REQUEST, {**PXE, 50: b"\x0a\x4d\0\x3c"}),
    "an INFORM": (INFORM, {55: PRL}),
    "a DECLINE": (DECLINE, {**PXE, 50: b"\x0a\x4d\0\x3c"}),
    "a RELEASE": (RELEASE, PXE),
    "an OFFER": (OFFER, PXE),
    "BOOTP": (0, {}),
    "an Apple": (DISCOVER, {60: b"AAPLBSDPC/i386/MacBookAir6,2", 55: PRL}),
    "an architecture that nobody knows": (DISCOVER, PXE | {93: b"\x7f\xff", 60: b"PXEClient:Arch:32767:UNDI:003000"}),
}


@pytest.mark.parametrize("kind, options", SILENT.values(), ids=SILENT)
def test_a_proxy_is_silent_to(client: Client, who: bytes, kind: int, options: dict[int, bytes]) -> None:
    assert client.ask(client.message(kind, who, options), wait=QUIET) == []


def test_a_proxy_is_silent_to_answers_of_servers(client: Client, who: bytes) -> None:
    assert client.ask(client.message(DISCOVER, who, PXE, op=2), wait=QUIET) == []


# ---------------------------------------------------------------------- relays


def test_a_relayed_pxe_client_is_answered_by_its_relay(net: Lan, who: bytes) -> None:
    net.client.discover(mac(0x20), UEFI)
    agent = b"\1\4port"
    question = net.relay.message(DISCOVER, who, {**UEFI, 82: agent}, giaddr=RELAYED_GATEWAY, hops=1)
    (offer,) = net.relay.ask(question, source=RELAY, target=ADDRESS, to=net.client.server_mac, source_port=67)
    assert (offer.target, offer.target_port, offer.source_port) == (RELAYED_GATEWAY, 67, 67)
    assert offer.message.yiaddr == ANY and offer.option(82) == agent and offer.message.siaddr == ADDRESS


# ---------------------------------------------------------------------- firmware that understands one style only


@ours
@pytest.mark.slow
def test_a_rom_that_obeys_only_one_style_boots_within_nine_tries(net: Lan, client: Client) -> None:
    """the same answer boots one ROM and kills another (edk2 #6944, #8149).  Six such ROMs at once."""
    roms = {mac(next(_numbers)): (kind, style) for kind in (PXE, UEFI) for style in ("direct", "binl", "menu")}
    for number in range(9):
        for who, (kind, understood) in list(roms.items()):
            vendor = offer_to(client, who, kind, secs=number * 4, flags=0x8000).option(43)
            if understood == ("binl" if vendor is None else "direct" if vendor == b"\6\1\x08\xff" else "menu"):
                del roms[who]
        if not roms:
            return
        time.sleep(2.05)  # Styles.APART
    pytest.fail(f"{roms} were never understood:\n{net.said()}")


# ---------------------------------------------------------------------- last


def test_rubbish_does_not_stop_the_proxy(client: Client, who: bytes) -> None:
    dice = random.Random(4011)
    good = encode(client.message(DISCOVER, who, UEFI), 1472)
    for _ in range(400):
        octets = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            octets[dice.randrange(len(octets))] = dice.randrange(256)
        client.send(bytes(octets[: dice.randrange(len(octets))]))
    start = time.monotonic()
    assert offer_to(client, mac(next(_numbers)), UEFI) and time.monotonic() - start < 1
