"""The machines of the end-to-end tests."""

from pixieboot.lab import Firmware
from tests.e2e.boots import Case

CASES: dict[str, Case] = {
    "SeaBIOS with the card's iPXE, beside a router": Case(Firmware.BIOS, "proxy"),
    "SeaBIOS with the card's iPXE, server": Case(Firmware.BIOS, "server"),
    "UEFI PXE, beside a router": Case(Firmware.UEFI, "proxy"),
    "UEFI PXE, server": Case(Firmware.UEFI, "server"),
    "UEFI HTTP Boot, beside a router": Case(Firmware.UEFI_HTTP, "proxy"),
    "UEFI HTTP Boot, server": Case(Firmware.UEFI_HTTP, "server"),
}
