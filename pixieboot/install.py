"""What `pixieboot install-service` does: the systemd unit and a first configuration, put in place once and then left alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pixieboot.errors import OperatorError

USER = "pixieboot"
COMMAND = "/usr/local/bin/pixieboot"  # what the unit starts; pixieboot.sh makes this link


def install_service(root: Path = Path("/")) -> list[str]:
    """Install below root (another one than / is an image or a test), and say line by line what was done and what comes next.

    An existing /etc/pixieboot is never touched.  The unit is ours: an older one is replaced, and kept beside it as .old.
    """
    here = root == Path("/")
    try:
        if here:
            _make_user()
        group = _group(root)
        lines = [_unit(root), *_configuration(root / "etc/pixieboot", group)]
        for name in ("assets", "tftproot"):
            (root / "var/lib/pixieboot" / name).mkdir(parents=True, exist_ok=True)
        if here:
            shutil.chown("/var/lib/pixieboot", USER, USER)
    except PermissionError as error:
        raise OperatorError(
            "install-service", f"{error.filename or root} may not be written", "Run it as root: sudo pixieboot install-service."
        ) from error
    if group is None:
        lines.append(
            f"{root} has no group {USER}: make the user {USER} there and give it etc/pixieboot (chgrp -R {USER}; chmod g+rX)"
        )
    return [
        *lines,
        "Next:",
        "  pixieboot check                        is the configuration right?",
        "  systemctl daemon-reload",
        "  systemctl enable --now pixieboot       start it, now and with the machine",
        "  journalctl -u pixieboot -f             watch it",
    ]


def shipped(name: str) -> Path:
    """Our own copy of etc or systemd: inside the installed package, or in the checkout."""
    installed = Path(__file__).parent / "_data" / name
    return installed if installed.is_dir() else Path(__file__).parent.parent / name


def _unit(root: Path) -> str:
    """Write the unit, starting the program that is installed here."""
    text = (shipped("systemd") / "pixieboot.service").read_text()
    if not (root / COMMAND.lstrip("/")).exists() and root == Path("/"):
        text = text.replace(COMMAND, f"{sys.prefix}/bin/pixieboot")
    path = root / "etc/systemd/system/pixieboot.service"
    done = "written"
    if path.exists():
        if path.read_text() == text:
            return f"{path}: is up to date"
        os.replace(path, path.with_suffix(".service.old"))
        done = f"replaced; the old one is {path.name}.old (changes of your own belong in `systemctl edit pixieboot`)"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return f"{path}: {done}"


def _configuration(directory: Path, group: int | None) -> list[str]:
    """Copy the sample, all of it or nothing: half a sample among somebody's own files would be machines nobody ordered."""
    if directory.is_dir() and any(directory.iterdir()):
        return [f"{directory}: exists, left as it is"]
    # Made beside its place and renamed: an interrupted installation leaves nothing that looks like a configuration.
    sample, draft, lines = shipped("etc"), directory.with_name(".pixieboot.new"), []
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for source in [sample, *sorted(sample.rglob("*"))]:
        name = source.relative_to(sample)
        if source.is_dir():
            (draft / name).mkdir(exist_ok=True)
        else:
            (draft / name).write_bytes(source.read_bytes())
            lines.append(f"{directory / name}: written")
        # Passwords and keys will be written here: for root and the daemon, not for everybody.
        (draft / name).chmod(0o750 if source.is_dir() else 0o640)
        if group is not None:
            os.chown(draft / name, 0, group)
    draft.rename(directory)
    return lines


def _group(root: Path) -> int | None:
    """The number of the group pixieboot in that system; None if it has none."""
    groups = root / "etc/group"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if name == USER and number.isdecimal():
            return int(number)
    return None


def _make_user() -> None:
    if _group(Path("/")) is not None:
        return
    command = ["useradd", "--system", "--user-group", "--home-dir", "/var/lib/pixieboot", "--no-create-home"]
    try:
        done = subprocess.run([*command, "--shell", "/usr/sbin/nologin", USER], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OperatorError("install-service", "there is no useradd here", f"Make a system user named {USER} by hand.") from None
    if done.returncode:
        raise OperatorError("install-service", f"useradd: {done.stderr.strip()}", f"Make a system user named {USER} by hand.")
