"""A Raspberry Pi over a real wire, beside a router and leased by us: its option 43 to the byte, and its ladder of files."""

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.tftphost import Client as TftpClient
from tests.tftphost import Failed
from tests.wire.client import ACK, ANY, DISCOVER, INFORM, OFFER, REQUEST, Answer
from tests.wire.servers import ADDRESS, POOL, TFTP_PORT, Lan, lan, ours

pytestmark = [pytest.mark.needs_root, ours]
VENDOR = b"PXEClient:Arch:00000:UNDI:002001"
ASKS = {55: bytes((1, 3, 43, 60, 66, 67, 128, 129)), 60: VENDOR, 93: b"\0\0", 94: b"\1\2\1"}
PI4, SERIAL = bytes.fromhex("dca632c21ffe"), "116ce5a5"
GUID = b"\0RPi4" + bytes.fromhex("1431c000") + PI4[2:] + bytes.fromhex(SERIAL)[::-1]
PI3, PI3_SERIAL = bytes.fromhex("b827ebc2d3e4"), "00c2d3e4"
PI3_GUID = b"\0" + b"D" * 16
TEXT = bytes.fromhex("0601030a04005058450914000011") + b"Raspberry Pi Boot\xff"
OLD_TEXT = bytes.fromhex("0601030a04005058450917000014") + b"Raspberry Pi Boot   \xff"
MODELS = {  # MAC, option 97, option 43 to the byte
    "Pi 4": (PI4, GUID, TEXT),
    "Pi 5": (bytes.fromhex("2ccf67000001"), GUID.replace(b"RPi4", b"RPi5"), TEXT),
    "Pi 4 known by its MAC only": (PI4, b"", TEXT),
    "Pi 4 behind a USB card, known by option 97 only": (bytes.fromhex("00e04c000001"), GUID, TEXT),
    "Pi 3, whose ROM wants the blanks": (PI3, PI3_GUID, OLD_TEXT),
}


@pytest.fixture(scope="module", params=["proxy", "server"])
def net(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with lan(request.param) as it:
        it.force = True  # nobody else leases here
        firmware, own = it.directory / "state", it.directory / "state" / SERIAL
        own.mkdir(parents=True)
        (firmware / "pi").mkdir()
        for name in ("start4.elf", "bootcode.bin", "config.txt", "pi/kernel8.img", "pi/initramfs8"):
            (firmware / name).write_text(f"shared {name}\n")
        (own / "fixup4.dat").write_text("its own fixup4.dat\n")
        it.registry = {
            "machines.yaml": "".join(
                f"{name}: {{mac: '{who.hex(':')}', profile: raspios}}\n" for name, who in (("pi4", PI4), ("pi3", PI3))
            ),
            "profiles.yaml": "raspios: {kernel: pi/kernel8.img, initrd: pi/initramfs8, args: ['console=serial0,115200', rw]}\n",
        }
        it.start()
        yield it


def offer_to(net: Lan, who: bytes, guid: bytes) -> Answer:
    message = net.client.message(DISCOVER, who, {**ASKS, **({97: guid} if guid else {})}, flags=0x8000)
    (offer,) = net.client.ask(message)
    assert offer.type == OFFER
    return offer


def area(answer: Answer) -> bytes:
    return answer.payload[240:]


@pytest.mark.parametrize("who, guid, expected", MODELS.values(), ids=MODELS)
def test_field_8_option_43_to_the_byte_and_no_pad_before_the_end(net: Lan, who: bytes, guid: bytes, expected: bytes) -> None:
    began = time.monotonic()
    offer = offer_to(net, who, guid)
    assert who != PI3 or time.monotonic() - began >= 2.0  # its ROM is deaf until then
    assert (offer.option(43), offer.option(60), offer.option(97) or b"") == (expected, b"PXEClient", guid)
    assert (offer.message.siaddr, offer.address(54)) == (ADDRESS, ADDRESS)
    octets, at = area(offer), 0
    while octets[at] != 255:  # each octet here begins an option: a pad would be a 0
        assert octets[at] != 0
        at += 2 + octets[at + 1]
    assert not octets[at + 1 :].strip(b"\0")
    if net.mode == "server":
        assert offer.message.yiaddr in POOL and offer.option(66) == ADDRESS.encode()
        assert offer.address(1) == "255.255.255.0" and offer.address(3) == ADDRESS  # though it does not always ask for them
    else:
        assert offer.message.yiaddr == ANY


def test_rpi_eeprom_82_a_request_without_option_60_is_answered_on_port_4011(net: Lan) -> None:
    address = "10.77.0.61" if net.mode == "proxy" else offer_to(net, PI4, GUID).message.yiaddr
    net.client.holds[address] = PI4
    for kind in (REQUEST, INFORM):
        question = net.client.message(kind, PI4, {93: b"\0\0", 97: GUID, 55: ASKS[55]}, ciaddr=address)
        to = net.client.server_mac
        (ack,) = net.client.ask(question, source=address, target=ADDRESS, to=to, target_port=4011)
        assert (ack.type, ack.source_port, ack.option(43)) == (ACK, 4011, TEXT)


SETTINGS = b"arm_64bit=1\nkernel=assets/pi/kernel8.img\ninitramfs assets/pi/initramfs8 followkernel\nenable_uart=1\n"
LADDER: dict[str, bytes | None] = {  # path asked for -> what comes; None: error 1
    "5eaf00d5/config.txt": b"shared config.txt\n",  # of a stranger, for whom there is only the menu
    "config.txt": b"shared config.txt\n",
    f"{SERIAL}/start4.elf": b"shared start4.elf\n",
    f"{SERIAL}/fixup4.dat": b"its own fixup4.dat\n",
    f"{SERIAL}/pieeprom.sig": None,
    f"{SERIAL}/config.txt": SETTINGS,
    f"{SERIAL}/cmdline.txt": b"console=serial0,115200 rw\n",
    f"{SERIAL}/bcm2711-rpi-4-b.dtb": None,
    f"{SERIAL}/assets/pi/kernel8.img": b"shared pi/kernel8.img\n",
    f"{SERIAL}/assets/pi/initramfs8": b"shared pi/initramfs8\n",
    "dc-a6-32-c2-1f-fe/cmdline.txt": b"console=serial0,115200 rw\n",
    "dc-a6-32-c2-1f-fe/start4.elf": b"shared start4.elf\n",
    "bootcode.bin": b"shared bootcode.bin\n",
    f"{PI3_SERIAL}/cmdline.txt": b"console=serial0,115200 rw\n",
}


def test_field_8_its_ladder_of_files_and_its_profile(net: Lan) -> None:
    offer_to(net, PI4, GUID)
    pi = net.switch.host(f"pi-{net.mode}", "10.77.0.62/24")
    with pi.entered():
        client = TftpClient((ADDRESS, TFTP_PORT), local="10.77.0.62")
    with client:
        for path, expected in LADDER.items():
            found = None
            with suppress(Failed):
                found = client.fetch(path, blksize=1024)
            if expected is not None and path == f"{SERIAL}/config.txt":
                assert found is not None and found.startswith(b"# machine pi4: its own profile raspios\n")
                found = found.partition(b"\n")[2]
            assert found == expected, path
    name = PI4.hex(":")
    log = net.said(0)
    assert f"{name} tftp sent path={SERIAL}/assets/pi/kernel8.img" in log  # though only its serial number was named
    assert not [line for line in log.splitlines() if "tftp missing" in line and 'why="No such file' in line]
