"""The nouns: spellings of MACs and UUIDs, architecture names."""

import pytest

from pixieboot.model import ARCH_CODES, EMPTY, Arch, Mac, parse_uuid, swap_uuid

SPELLINGS = [
    "52:54:00:12:34:ab",
    "52-54-00-12-34-AB",
    "5254.0012.34ab",
    "5254001234AB",
    "52%3a54%3A00%3a12%3a34%3aab",
    " 52:54:00:12:34:ab ",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_mac_in_any_spelling(text: str) -> None:
    assert Mac.parse(text) == "52:54:00:12:34:ab"


@pytest.mark.parametrize(
    "text", ["", "52:54:00:12:34", "52:54:00:12:34:5g", "52:54-00:12:34:56", "٥٢:54:00:12:34:56", "52:54:00:12:34:56:78"]
)
def test_not_a_mac(text: str) -> None:
    with pytest.raises(ValueError, match="is not a MAC address"):
        Mac.parse(text)


def test_a_mac_in_file_names_and_octets() -> None:
    mac = Mac.of(bytes.fromhex("5254001234ab"))
    assert (mac, mac.dashed, mac.octets) == ("52:54:00:12:34:ab", "52-54-00-12-34-ab", bytes.fromhex("5254001234ab"))


@pytest.mark.parametrize(
    "text, uuid",
    {
        "4C4C4544-0042-3510-8052-B4C04F4E3732": "4c4c4544-0042-3510-8052-b4c04f4e3732",
        "{4c4c4544004235108052b4c04f4e3732}": "4c4c4544-0042-3510-8052-b4c04f4e3732",
        "ffffffff-ffff-ffff-ffff-ffffffffffff": None,
        "00000000-0000-0000-0000-000000000000": None,
        "03000200-0400-0500-0006-000700080009": None,
        "not a uuid": None,
    }.items(),
)
def test_a_uuid_or_rubbish(text: str, uuid: str | None) -> None:
    assert parse_uuid(text) == uuid


def test_the_other_byte_order_is_its_own_inverse() -> None:
    uuid = "4c4c4544-0042-3510-8052-b4c04f4e3732"
    assert swap_uuid(uuid) == "44454c4c-4200-1035-8052-b4c04f4e3732"
    assert swap_uuid(swap_uuid(uuid)) == uuid


@pytest.mark.parametrize(
    "code, name, http",
    [(0, "x86-bios", False), (7, "x64-efi", False), (9, "x64-efi", False), (16, "x64-efi", True), (19, "arm64-efi", True)],
)
def test_architecture_codes(code: int, name: str, http: bool) -> None:
    assert ARCH_CODES[code] == (Arch(name), http)


@pytest.mark.parametrize(
    "arch, platform",
    [
        (Arch.X86_BIOS, "bios"),
        (Arch.ARM64_EFI, "efi"),
        (Arch.ARM64_UBOOT, "uboot"),
        (Arch.RPIBOOT, "rpiboot"),
        (Arch.ARC_X86, "arc-x86"),
    ],
)
def test_platform(arch: Arch, platform: str) -> None:
    assert arch.platform == platform


def test_nothing_is_in_the_empty_mapping() -> None:
    assert {**EMPTY} == {} == EMPTY and len(EMPTY) == 0 and "x" not in EMPTY
