"""install-service in a root directory of its own; the unit; pixieboot.sh as far as it goes without installing anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pixieboot.errors import OperatorError
from pixieboot.install import install_service, shipped

TOP = Path(__file__).parent.parent
UNIT = Path("etc/systemd/system/pixieboot.service")
needs_shell_tools = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed (apt install systemd)"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(f"root:x:0:\npixieboot:x:{os.getegid()}:\n")
    return tmp_path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.needs_root
def test_a_fresh_system_gets_unit_sample_and_directories(root: Path) -> None:
    said = install_service(root)
    assert (root / UNIT).read_text() == (TOP / "systemd/pixieboot.service").read_text()
    assert mode(root / UNIT) == 0o644
    for sample in (TOP / "etc").rglob("*"):
        put = root / "etc/pixieboot" / sample.relative_to(TOP / "etc")
        assert mode(put) == (0o750 if sample.is_dir() else 0o640)
        assert (put.stat().st_uid, put.stat().st_gid) == (0, os.getegid())
        assert sample.is_dir() or f"{put}: written" in said
    assert mode(root / "etc/pixieboot") == 0o750
    assert (root / "var/lib/pixieboot/assets").is_dir() and (root / "var/lib/pixieboot/tftproot").is_dir()
    assert any("systemctl enable --now pixieboot" in line for line in said)


@pytest.mark.needs_root
def test_an_existing_configuration_is_left_alone_whole(root: Path) -> None:
    (root / "etc/pixieboot").mkdir()
    (root / "etc/pixieboot/machines.yaml").write_text("web1: {mac: 52:54:00:12:34:56}\n")
    said = install_service(root)
    assert [path.name for path in (root / "etc/pixieboot").iterdir()] == ["machines.yaml"]
    assert (root / "etc/pixieboot/machines.yaml").read_text() == "web1: {mac: 52:54:00:12:34:56}\n"
    assert f"{root}/etc/pixieboot: exists, left as it is" in said


@pytest.mark.needs_root
def test_a_second_run_changes_nothing(root: Path) -> None:
    install_service(root)
    (root / "etc/pixieboot/pixieboot.yaml").write_text("answer: known\n")
    said = install_service(root)
    assert (root / "etc/pixieboot/pixieboot.yaml").read_text() == "answer: known\n"
    assert f"{root / UNIT}: is up to date" in said


@pytest.mark.needs_root
def test_a_changed_unit_is_replaced_and_kept(root: Path) -> None:
    install_service(root)
    (root / UNIT).write_text("[Service]\n")
    assert "pixieboot.service.old" in install_service(root)[0]
    assert (root / UNIT).with_suffix(".service.old").read_text() == "[Service]\n"
    assert "Type=notify" in (root / UNIT).read_text()


@pytest.mark.needs_root
def test_an_interrupted_installation_is_done_again(root: Path) -> None:
    (root / "etc/.pixieboot.new").mkdir()
    (root / "etc/.pixieboot.new/junk").write_text("")
    install_service(root)
    assert not (root / "etc/.pixieboot.new").exists()
    assert not (root / "etc/pixieboot/junk").exists()
    assert (root / "etc/pixieboot/pixieboot.yaml").exists()


def test_a_root_without_the_group_says_what_to_do(tmp_path: Path) -> None:
    said = install_service(tmp_path)
    assert any(line.startswith(f"{tmp_path} has no group pixieboot: make the user") for line in said)


def test_not_root_is_the_operators_fault_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/etc/systemd/system/pixieboot.service")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(
        OperatorError, match=r"^install-service: /etc/systemd/system/pixieboot.service may not be written. Run it as root"
    ):
        install_service(tmp_path)


def test_the_shipped_files_are_those_of_the_checkout() -> None:
    assert (shipped("etc") / "pixieboot.yaml").exists()
    assert (shipped("systemd") / "pixieboot.service").exists()


@needs_shell_tools
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """The program that it starts need not be installed on the machine that tests it."""
    unit = tmp_path / "pixieboot.service"
    unit.write_text((TOP / "systemd/pixieboot.service").read_text().replace("/usr/local/bin/pixieboot", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    about_us = [line for line in done.stderr.splitlines() if "pixieboot" in line]
    assert done.returncode == 0 and not about_us, done.stderr


def test_the_unit_keeps_the_daemon_in_its_place() -> None:
    lines = (TOP / "systemd/pixieboot.service").read_text().splitlines()
    for needed in (
        "Type=notify",
        "User=pixieboot",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE CAP_NET_RAW",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_RAW",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "StateDirectory=pixieboot",
        "RuntimeDirectory=pixieboot",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_UNIX",
    ):
        assert needed in lines


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOP / "pixieboot.sh", *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_the_script_alone_prints_help() -> None:
    done = run_script()
    assert done.returncode == 0 and not done.stderr
    assert "./pixieboot.sh serve" in done.stdout and "./pixieboot.sh test" in done.stdout


def test_the_script_refuses_an_unknown_command_with_help() -> None:
    done = run_script("sevre")
    assert done.returncode == 2 and not done.stdout
    assert "./pixieboot.sh serve" in done.stderr


def test_the_script_is_plain_posix_shell() -> None:
    for name in ("pixieboot.sh", ".ci/run"):
        assert (TOP / name).read_text().startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n", TOP / name], check=True, timeout=30)
        assert os.access(TOP / name, os.X_OK)
