"""Lines for other DHCP servers: read by those servers themselves where they are installed, and booted from."""

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner

from pixieboot.cli import main
from pixieboot.model import Arch
from pixieboot.operator import ROUTERS
from pixieboot.routerhelp import KINDS, Here, dnsmasq, isc, kea
from tests.netns import Network
from tests.test_simulate import Lab, verdict

LOADERS = {Arch.X86_BIOS: "undionly.kpxe", Arch.X64_EFI: "ipxe.efi", Arch.ARM64_EFI: "ipxe-arm64.efi"}
HERE = Here("10.77.0.2", 8080, LOADERS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_names_us(kind: str) -> None:
    text = KINDS[kind](HERE)
    assert "10.77.0.2" in text
    assert max(map(len, text.splitlines())) < 200


def test_the_command_knows_them_all() -> None:
    assert tuple(KINDS) == ROUTERS


def test_each_architecture_has_its_file() -> None:
    assert HERE.tftp() == [(0, "undionly.kpxe"), (7, "ipxe.efi"), (9, "ipxe.efi"), (11, "ipxe-arm64.efi")]
    assert [code for code, _ in HERE.http()] == [16, 17, 19, 20]
    assert HERE.http()[0][1] == "http://10.77.0.2:8080/tftp/ipxe.efi"


def test_kea_is_json() -> None:
    classes = json.loads("{" + kea(HERE).partition("\n")[2] + "}")["client-classes"]
    assert classes[0]["boot-file-name"] == "http://10.77.0.2:8080/boot.ipxe"
    assert {each["name"] for each in classes} >= {"pixieboot-7", "pixieboot-0", "pixieboot-16"}


def test_isc_is_one_chain_of_conditions() -> None:
    text = isc(HERE)
    assert text.count("{") == text.count("}") and "option client-architecture = 00:07 {" in text


def test_the_command(tmp_path: Path) -> None:
    config = tmp_path / "pixieboot.yaml"
    config.write_text(f"registry: {tmp_path}\nnetworks: [{{interface: none9}}]\n")
    given = CliRunner().invoke(main, ["router-help", "dnsmasq", "--address", "10.1.1.1", "-c", str(config)])
    assert given.exit_code == 0 and "dhcp-boot=tag:ipxe,http://10.1.1.1:8080/boot.ipxe" in given.output
    unknown = CliRunner().invoke(main, ["router-help", "dnsmasq", "-c", str(config)])
    assert unknown.exit_code == 2 and "--address" in unknown.output


@pytest.mark.needs_root
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed")
def test_machines_boot_by_a_dnsmasq_with_these_lines() -> None:
    """dhcp: off here: dnsmasq leases and sends machines to our TFTP and HTTP."""
    with TemporaryDirectory(prefix="pixieboot-router-") as name, Network("router") as network:
        directory = Path(name)
        directory.chmod(0o755)
        lab = Lab(network, directory, "off")
        router = lab.switch.host("router", "10.77.0.1/24")
        lines = dnsmasq(HERE)
        (directory / "router.conf").write_text(f"port=0\ndhcp-range=10.77.0.50,10.77.0.60\nuser=root\n{lines}\n")
        router.run("dnsmasq", "--test", f"--conf-file={directory}/router.conf")
        router.start(
            "dnsmasq", "--keep-in-foreground", f"--conf-file={directory}/router.conf", f"--dhcp-leasefile={directory}/leases"
        )
        for kind in ("x86-bios", "x64-efi", "x64-http", "ipxe-x64"):
            told = lab.simulate("--arch", kind)
            assert verdict(told) == "handed-over", json.dumps(told, indent=1)
        help_text = lab.server.run(sys.executable, "-m", "pixieboot", "router-help", "dnsmasq", "-c", str(lab.config)).stdout
        assert "dhcp-boot=tag:ipxe,http://10.77.0.2:8080/boot.ipxe" in help_text
