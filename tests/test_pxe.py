"""Who a client is, the boot data that its firmware understands, and the order in which reply styles are tried."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixieboot.model import (
    ARCH_CODES,
    Arch,
    Assignment,
    Client,
    FetchScript,
    Loader,
    LoadNBP,
    Mac,
    Machine,
    MachineState,
    Network,
    Site,
    swap_uuid,
)
from pixieboot.pxe import (
    DIRECT,
    NO_PXEDHCP,
    RASPBERRY_PI,
    STYLES,
    Styles,
    add_boot_data,
    boot_item,
    calls_itself_boot_client,
    client_of,
    delay_of,
    is_boot_client,
    menu,
    style_of,
    user_classes,
    with_no_pxedhcp,
)
from pixieboot.wire.dhcp import Message, decode, parts, reply_to
from tests import pcap

MAC, PI_MAC, PI3_MAC = (bytes.fromhex(text) for text in ("525400123456", "dca632c21ffe", "b827eb8696f5"))
SITE = Site(Network(), "eth0", 2, "10.0.0.1", IPv4Network("10.0.0.0/24"), "http://10.0.0.1:8080", {})
NBP = LoadNBP("52-54-00-12-34-56/ipxe.efi", "tftp", "why")
URL = LoadNBP("http://10.0.0.1:8080/tftp/52-54-00-12-34-56/ipxe.efi", "http", "why")
SCRIPT = FetchScript("http://10.0.0.1:8080/boot.ipxe", "why")
PXE, HTTP = b"PXEClient:Arch:00007:UNDI:003000", b"HTTPClient:Arch:00016:UNDI:003000"
UUID = bytes.fromhex("001eab07b000000040800000000000000001")[1:]
FEATURES = bytes.fromhex("b105011af41000 eb03010000 170101 130101")


def a_message(options: dict[int, bytes], chaddr: bytes = MAC, ciaddr: str = "0.0.0.0") -> Message:
    return Message(1, 1, len(chaddr), 0, 7, 0, 0, ciaddr, "0.0.0.0", "0.0.0.0", "0.0.0.0", chaddr, b"", b"", {53: b"\1", **options})


# Which architecture (RFC 4578 §2.1)

ARCHES: dict[str, tuple[dict[int, bytes], Arch | None, int | None]] = {
    "option 93": ({93: b"\0\7"}, Arch.X64_EFI, 7),
    "RFC 4578 erratum 4624: 9 is x64 as well": ({93: b"\0\x09"}, Arch.X64_EFI, 9),
    "a true IA32": ({93: b"\0\6"}, Arch.X86_EFI, 6),
    "several codes: the first that is known": ({93: b"\0\x63\0\x0b\0\7"}, Arch.ARM64_EFI, 11),
    "several codes, none known: the first is told": ({93: b"\0\x63\0\x64"}, None, 99),
    "option 93 of an odd length": ({93: b"\0\7\0"}, Arch.X64_EFI, 7),
    "option 93 of one octet: Arch: of option 60": ({93: b"\7", 60: PXE}, Arch.X64_EFI, 7),
    "no option 93: Arch: of option 60": ({60: b"PXEClient:Arch:00011:UNDI:003000"}, Arch.ARM64_EFI, 11),
    "option 93 goes before option 60": ({93: b"\0\0", 60: PXE}, Arch.X86_BIOS, 0),
    "an unknown Arch: of option 60": ({60: b"PXEClient:Arch:00099:UNDI:003000"}, None, 99),
    "no digits": ({60: b"PXEClient:Arch:abcde"}, None, None),
    "digits of other scripts": ({60: "PXEClient:Arch:\N{ARABIC-INDIC DIGIT SEVEN}".encode()}, None, None),
    "bare PXEClient": ({60: b"PXEClient"}, None, None),
    "nothing": ({}, None, None),
}


@pytest.mark.parametrize("options, arch, code", ARCHES.values(), ids=ARCHES)
def test_arch(options: dict[int, bytes], arch: Arch | None, code: int | None) -> None:
    client = client_of(a_message(options))
    assert (client.arch, client.arch_code) == (arch, code)


@pytest.mark.parametrize("code", ARCH_CODES)
def test_every_arch_of_iana(code: int) -> None:
    arch, http = ARCH_CODES[code]
    word = code.to_bytes(2, "big")
    client = client_of(a_message({93: word}))
    assert (client.arch, client.loader is Loader.FIRMWARE_HTTP) == (arch, http)


# Which program

LOADERS: dict[str, tuple[dict[int, bytes], Loader]] = {
    "a PXE ROM": ({60: PXE, 93: b"\0\7"}, Loader.FIRMWARE),
    "UEFI HTTP Boot by option 60": ({60: HTTP, 93: b"\0\x10"}, Loader.FIRMWARE_HTTP),
    "UEFI HTTP Boot whatever option 93 says": ({60: HTTP, 93: b"\0\7"}, Loader.FIRMWARE_HTTP),
    "UEFI HTTP Boot by option 93 alone": ({93: b"\0\x10"}, Loader.FIRMWARE_HTTP),
    "PXEClient with an HTTP arch wants TFTP": ({60: PXE, 93: b"\0\x10"}, Loader.FIRMWARE),
    "iPXE, user class raw": ({60: PXE, 77: b"iPXE"}, Loader.IPXE),
    "iPXE, user class as RFC 3004 has it": ({60: PXE, 77: b"\4iPXE"}, Loader.IPXE),
    "iPXE, one class of several": ({60: PXE, 77: b"\3lab\4iPXE"}, Loader.IPXE),
    "iPXE by its features alone (FlexBoot)": ({60: PXE, 175: FEATURES}, Loader.IPXE),
    "iPXE whose features a relay lost": ({60: PXE, 77: b"iPXE", 175: b""}, Loader.IPXE),
    "iPXE without HTTP is firmware": ({60: PXE, 77: b"iPXE", 175: b"\x10\0\x17\1\1"}, Loader.FIRMWARE),
    "gPXE is firmware": ({60: PXE, 77: b"gPXE", 175: FEATURES}, Loader.FIRMWARE),
    "another user class": ({60: PXE, 77: b"lab"}, Loader.FIRMWARE),
    "an empty user class": ({60: PXE, 77: b""}, Loader.FIRMWARE),
    "an operating system": ({60: b"udhcp 1.35.0"}, Loader.FIRMWARE),
}


@pytest.mark.parametrize("options, loader", LOADERS.values(), ids=LOADERS)
def test_loader(options: dict[int, bytes], loader: Loader) -> None:
    assert client_of(a_message(options)).loader is loader


CLASSES = {
    "raw": (b"iPXE", [b"iPXE"]),
    "one": (b"\4iPXE", [b"iPXE"]),
    "two": (b"\3lab\4iPXE", [b"lab", b"iPXE"]),
    "lengths that do not tile": (b"\3lab\4iPX", [b"\3lab\4iPX"]),
    "a length of 0": (b"\0\0", [b"\0\0"]),
    "empty": (b"", []),
    "255 octets": (b"\xfe" + b"x" * 254, [b"x" * 254]),
    "255 raw octets": (b"x" * 255, [b"x" * 255]),
}


@pytest.mark.parametrize("value, classes", CLASSES.values(), ids=CLASSES)
def test_rfc3004_user_class_in_both_encodings(value: bytes, classes: list[bytes]) -> None:
    assert user_classes(value) == classes


PI_GUID = b"\0RPi4" + bytes.fromhex("1431c000") + PI_MAC[2:] + bytes.fromhex("a5e56c11")
OLD_GUID = b"\0" + bytes.fromhex("f596868d") * 4
PI_VENDOR = b"PXEClient:Arch:00000:UNDI:002001"
PIS: dict[str, tuple[dict[int, bytes], bytes, Loader, str | None]] = {
    "by the FourCC in option 97": ({60: PI_VENDOR, 93: b"\0\0", 97: PI_GUID}, MAC, Loader.RASPBERRY_PI, "116ce5a5"),
    "by its OUI": ({60: PI_VENDOR, 93: b"\0\0"}, PI_MAC, Loader.RASPBERRY_PI, None),
    "a Pi 4 of 2019 and its serial": ({60: PI_VENDOR, 93: b"\0\0", 97: OLD_GUID}, PI_MAC, Loader.RASPBERRY_PI, "8d8696f5"),
    "a Pi 3, which tells no serial": ({60: PI_VENDOR, 93: b"\0\0", 97: b"\0" + b"D" * 16}, PI3_MAC, Loader.RASPBERRY_PI, None),
    "a Pi 5": ({60: PI_VENDOR, 93: b"\0\0", 97: PI_GUID.replace(b"4", b"5", 1)}, MAC, Loader.RASPBERRY_PI, "116ce5a5"),
    "one that knows its arch": ({60: PI_VENDOR, 93: b"\0\x29"}, PI_MAC, Loader.RASPBERRY_PI, None),
    "a REQUEST without option 60 (rpi-eeprom #82)": ({93: b"\0\0", 97: PI_GUID}, PI_MAC, Loader.RASPBERRY_PI, "116ce5a5"),
    "Linux on a Pi": ({60: b"dhcpcd-9.4.1"}, PI_MAC, Loader.FIRMWARE, None),
    "Linux on a Pi that says nothing": ({}, PI_MAC, Loader.FIRMWARE, None),
    "UEFI on a Pi": ({60: b"PXEClient:Arch:00011:UNDI:003000", 93: b"\0\x0b"}, PI_MAC, Loader.FIRMWARE, None),
    "iPXE on a Pi": ({60: PI_VENDOR, 77: b"iPXE", 93: b"\0\x0b"}, PI_MAC, Loader.IPXE, None),
}


@pytest.mark.parametrize("options, mac, loader, serial", PIS.values(), ids=PIS)
def test_raspberry_pi(options: dict[int, bytes], mac: bytes, loader: Loader, serial: str | None) -> None:
    client = client_of(a_message(options, mac))
    assert (client.loader, client.serial) == (loader, serial)
    assert (client.arch is Arch.RPIBOOT) == (loader is Loader.RASPBERRY_PI)  # no group for PCs matches it


# The rest of what a client says


def test_rfc4578_2_3_uuid_as_on_the_wire() -> None:
    client = client_of(a_message({97: bytes.fromhex("00 4c4c4544004235108052b4c04f4e3732")}))
    assert client.uuid == "4c4c4544-0042-3510-8052-b4c04f4e3732"
    assert swap_uuid(client.uuid) == "44454c4c-4200-1035-8052-b4c04f4e3732"


@pytest.mark.parametrize(
    "value", [b"", b"\0", bytes(17), b"\0" + b"\xff" * 16, b"\1" + bytes(range(16)), bytes(range(16)), bytes(range(18))], ids=repr
)
def test_rubbish_uuids_identify_nobody(value: bytes) -> None:
    assert client_of(a_message({97: value})).uuid is None


def test_labels_are_what_the_client_says() -> None:
    client = client_of(a_message({60: PXE + b"\0", 12: b"web\xff1\0"}, ciaddr="10.0.0.9"))
    assert client.labels == {"vendor": PXE.decode(), "hostname": "web\ufffd1"}
    assert (client.vendor_class, client.address, client.mac) == (PXE.decode(), "10.0.0.9", Mac("52:54:00:12:34:56"))


def test_a_quiet_client_has_no_labels() -> None:
    client = client_of(a_message({}))
    assert (dict(client.labels), client.vendor_class, client.address) == ({}, "", None)


@pytest.mark.parametrize("chaddr", [b"", bytes(16), b"\1"], ids=["none", "GUID", "ARCnet"])
def test_other_hardware_addresses(chaddr: bytes) -> None:
    assert client_of(a_message({}, chaddr)).mac == chaddr.hex(":")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([12, 53, 60, 77, 93, 97, 175]), st.binary(max_size=40)), st.binary(max_size=16))
def test_any_message_gives_a_client(options: dict[int, bytes], chaddr: bytes) -> None:
    message = a_message(options, chaddr)
    client = client_of(message)
    assert calls_itself_boot_client(message, client) <= is_boot_client(message, client)


BOOTING = {  # (options, MAC): says so itself, has use for boot data
    "PXE": ({60: PXE}, True, True),
    "HTTP": ({60: HTTP}, True, True),
    "iPXE without option 60": ({77: b"iPXE"}, True, True),
    "a Pi without option 60": ({97: PI_GUID, 93: b"\0\0"}, True, True),
    "U-Boot": ({60: b"U-Boot.armv8", 93: b"\0\x16"}, False, True),
    "udhcpc": ({60: b"udhcp 1.35.0"}, False, False),
    "Windows": ({60: b"MSFT 5.0"}, False, False),
    "a class that only begins like it": ({60: b"PXEClien"}, False, False),
    "Apple": ({60: b"AAPLBSDPC/i386/iMac4,1"}, False, False),
}


@pytest.mark.parametrize("options, says_so, boots", BOOTING.values(), ids=BOOTING)
def test_who_wants_boot_data(options: dict[int, bytes], says_so: bool, boots: bool) -> None:
    message = a_message(options)
    client = client_of(message)
    assert (calls_itself_boot_client(message, client), is_boot_client(message, client)) == (says_so, boots)


def test_captured_clients() -> None:
    found = [client_of(decode(d.payload)) for name in pcap.NAMES for d in pcap.questions(name)]
    assert {(client.arch, client.loader) for client in found} == {
        (Arch.X86_BIOS, Loader.FIRMWARE),
        (Arch.X86_BIOS, Loader.IPXE),
        (Arch.X64_EFI, Loader.FIRMWARE),
        (Arch.X64_EFI, Loader.FIRMWARE_HTTP),
        (Arch.X64_EFI, Loader.IPXE),
        (None, Loader.FIRMWARE),
    }
    assert {client.uuid for client in found} == {"1eab07b0-0000-0040-8000-000000000001", None}


# Boot data


def data(
    step: LoadNBP | FetchScript, options: dict[int, bytes], style: str, leasing: bool, mac: bytes = MAC
) -> tuple[Message, dict[int, bytes]]:
    request = a_message(options, mac)
    reply = reply_to(request)
    return reply, add_boot_data(reply, request, client_of(request), step, SITE, style, leasing)


def test_pxe_direct_bios_recipe() -> None:
    reply, options = data(NBP, {60: PXE, 97: UUID}, "direct", leasing=False)
    assert (reply.siaddr, reply.sname, reply.file) == ("10.0.0.1", b"10.0.0.1", b"52-54-00-12-34-56/ipxe.efi")
    assert options == {60: b"PXEClient", 43: DIRECT, 97: UUID}
    assert DIRECT.hex() == "060108ff"


def test_pxe_binl_uefi_recipe() -> None:
    reply, options = data(NBP, {60: PXE, 97: UUID}, "binl", leasing=False)
    assert (reply.siaddr, reply.file) == ("10.0.0.1", b"52-54-00-12-34-56/ipxe.efi")
    assert options == {60: b"PXEClient", 97: UUID}


def test_pxe_menu_recipe() -> None:
    reply, options = data(NBP, {60: PXE, 97: UUID}, "menu", leasing=False)
    assert (reply.siaddr, reply.file) == ("10.0.0.1", b"")
    assert options[43][-1] == 255
    assert dict(parts(options[43])) == {
        6: b"\3",
        10: b"\0PXE",
        8: b"\x80\0\1\x0a\0\0\1",
        9: b"\x80\0\x08ipxe.efi",
    }


def test_field_4_no_menu_for_an_ipxe_however_thin() -> None:
    thin = {60: PXE, 77: b"iPXE", 175: b"\x10\0"}
    reply, options = data(NBP, thin, "menu", leasing=False)
    assert reply.file and 43 not in options


def test_a_menu_of_a_script_has_a_title() -> None:
    _, options = data(SCRIPT, {60: PXE}, "menu", leasing=False)
    assert dict(parts(options[43]))[9] == b"\x80\0\x09pixieboot"


def test_a_menu_title_fits() -> None:
    assert len(menu(SITE, b"x" * 200)) <= 255


def test_rfc4578_2_3_uuid_is_echoed_octet_for_octet_or_left_out() -> None:
    for value in (UUID, b"\0\1", b"\7" * 40):
        assert data(NBP, {60: PXE, 97: value}, "", leasing=False)[1][97] == value
    assert 97 not in data(NBP, {60: PXE}, "", leasing=False)[1]
    assert 97 not in data(NBP, {60: PXE, 97: b""}, "", leasing=False)[1]


def test_names_are_options_only_when_asked_for() -> None:
    assert data(NBP, {60: PXE, 55: b"\x42\x43"}, "", leasing=False)[1] == {
        60: b"PXEClient",
        66: b"10.0.0.1",
        67: b"52-54-00-12-34-56/ipxe.efi",
    }


def test_a_boot_file_too_long_for_its_field_is_an_option() -> None:
    long = LoadNBP("x" * 128, "tftp", "why")
    reply, options = data(long, {60: PXE}, "direct", leasing=False)
    assert (reply.file, options[67]) == (b"", b"x" * 128)


def test_uefi_http_boot_gets_its_url_in_both_places() -> None:
    reply, options = data(URL, {60: HTTP, 55: b"\x42\x43", 97: UUID}, "", leasing=False)
    assert reply.file == URL.path.encode()
    assert options == {60: b"HTTPClient", 67: URL.path.encode(), 97: UUID}


def test_ipxe_gets_its_script_and_no_option_43() -> None:
    reply, options = data(SCRIPT, {60: PXE, 77: b"iPXE", 175: FEATURES}, "", leasing=False)
    assert (reply.siaddr, reply.file, options) == ("10.0.0.1", SCRIPT.url.encode(), {60: b"PXEClient"})


def test_ipxe_need_not_wait_for_a_proxy_when_we_lease() -> None:
    assert NO_PXEDHCP.hex() == "b00101"
    for options in ({77: b"iPXE"}, {175: FEATURES}, {77: b"iPXE", 175: b"\x10\0"}):
        assert data(SCRIPT, {60: PXE, **options}, "", leasing=True)[1][175] == NO_PXEDHCP
    assert 175 not in data(NBP, {60: PXE}, "direct", leasing=True)[1]


def test_an_operators_option_175_keeps_its_say() -> None:
    assert with_no_pxedhcp(b"\x08\1\1") == b"\xb0\1\1\x08\1\1"
    assert with_no_pxedhcp(b"\xb0\1\0") == b"\xb0\1\0"


def test_option_60_only_to_those_who_sent_it_when_we_lease() -> None:
    assert 60 not in data(SCRIPT, {77: b"iPXE"}, "", leasing=True)[1]
    options = data(NBP, {93: b"\0\x16"}, "direct", leasing=True)[1]
    assert 60 not in options and 43 not in options


@pytest.mark.parametrize("leasing", [True, False])
def test_raspberry_pi_option_43_byte_for_byte(leasing: bool) -> None:
    reply, options = data(NBP, {60: PI_VENDOR, 93: b"\0\0", 97: PI_GUID}, "", leasing, PI_MAC)
    assert RASPBERRY_PI.hex() == "0601030a04005058450914000011" + b"Raspberry Pi Boot".hex() + "ff"
    assert options == {60: b"PXEClient", 43: RASPBERRY_PI, 97: PI_GUID, **({66: b"10.0.0.1"} if leasing else {})}
    assert (reply.siaddr, reply.sname, reply.file) == ("10.0.0.1", b"10.0.0.1", b"")


def test_raspberry_pi_3_option_43_has_the_blanks_that_its_rom_wants() -> None:
    options = data(NBP, {60: PI_VENDOR, 93: b"\0\0"}, "", leasing=False, mac=PI3_MAC)[1]
    assert options[43].hex() == "0601030a04005058450917000014" + b"Raspberry Pi Boot   ".hex() + "ff"


def test_boot_item_of_a_client() -> None:
    assert boot_item(a_message({43: bytes.fromhex("470480000000ff")})) == b"\x80\0\0\0"
    for value in (b"", b"\x47\2\0\0\xff", b"\6\1\x08\xff"):
        assert boot_item(a_message({43: value})) is None
    assert boot_item(a_message({})) is None


# Which style, which delay

BIOS, UEFI = (Client(Mac("52:54:00:12:34:56"), arch) for arch in (Arch.X86_BIOS, Arch.X64_EFI))
LEARNED = MachineState(reply_style="menu")
STYLE_OF: dict[str, tuple[Client, Assignment, bool, str]] = {
    "a BIOS beside a router": (BIOS, Assignment(), False, "direct"),
    "UEFI beside a router": (UEFI, Assignment(), False, "binl"),
    "an unknown arch": (replace(BIOS, arch=None), Assignment(), False, "direct"),
    "UEFI when we lease": (UEFI, Assignment(), True, "direct"),
    "what was learned": (UEFI, Assignment(state=LEARNED), False, "menu"),
    "what was learned is nonsense": (UEFI, Assignment(state=MachineState(reply_style="x")), False, "binl"),
    "what the operator says": (UEFI, Assignment(Machine("m", reply_style="direct"), state=LEARNED), False, "direct"),
    "auto is no order": (UEFI, Assignment(Machine("m"), state=LEARNED), False, "menu"),
    "iPXE knows one way": (replace(UEFI, loader=Loader.IPXE), Assignment(Machine("m", reply_style="menu")), False, ""),
}


@pytest.mark.parametrize("client, assignment, leasing, style", STYLE_OF.values(), ids=STYLE_OF)
def test_style(client: Client, assignment: Assignment, leasing: bool, style: str) -> None:
    assert style_of(client, assignment, leasing) == style


def test_the_rom_of_a_pi_3_is_given_time() -> None:
    pi3 = Client(Mac.of(PI3_MAC), Arch.X86_BIOS, Loader.RASPBERRY_PI)
    assert delay_of(pi3, Assignment()) == 2.0
    assert delay_of(pi3, Assignment(Machine("m", reply_delay=3.0))) == 3.0
    assert delay_of(replace(pi3, mac=Mac.of(PI_MAC)), Assignment()) == 0.0
    assert delay_of(BIOS, Assignment(Machine("m", reply_delay=0.5))) == 0.5


def test_field_1_three_discovers_without_progress_change_the_style() -> None:
    styles = Styles()
    assert [styles.asked(UEFI.mac, "binl", at) for at in (0.0, 4.0, 12.0, 28.0)] == [None, None, "direct", None]


def test_every_style_has_its_turn() -> None:
    styles, style, seen = Styles(), "direct", []
    for at in range(0, 36, 4):
        if following := styles.asked(BIOS.mac, style, float(at)):
            style = following
            seen.append(style)
    assert sorted(seen) == sorted(STYLES)


@pytest.mark.parametrize(
    "times", [(0.0, 1.0, 1.5), (0.0, 4.0, 200.0), (100.0, 104.0, 50.0)], ids=["twice a second", "another boot", "clock"]
)
def test_what_is_not_insistence(times: tuple[float, ...]) -> None:
    styles = Styles()
    assert [styles.asked(UEFI.mac, "binl", at) for at in times] == [None] * 3


def test_progress_keeps_the_style() -> None:
    styles = Styles()
    for at in (0.0, 4.0):
        styles.asked(UEFI.mac, "binl", at)
    styles.progressed(UEFI.mac)
    styles.progressed(UEFI.mac)
    assert styles.asked(UEFI.mac, "binl", 8.0) is None


def test_no_style_follows_one_that_is_none() -> None:
    styles = Styles()
    assert [styles.asked(UEFI.mac, "odd", at) for at in (0.0, 4.0, 8.0)] == [None] * 3


def test_a_flood_of_macs_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Styles, "REMEMBERED", 2)
    styles = Styles()
    for number in range(4):
        styles.asked(Mac.of(bytes(5) + bytes((number,))), "binl", 0.0)
    assert len(styles._asking) == 2
