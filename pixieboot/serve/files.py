"""Files below a root, for TFTP and HTTP: opened step by step, never outside it, never blocking, regular files only."""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from pixieboot.config import LOADERS
from pixieboot.policy import ALTERNATES

LOADER_DIRECTORIES = (Path("/usr/lib/ipxe"), Path("/usr/share/ipxe"), Path("/boot"))
# What distributions call the loaders that we name like Debian does (Fedora, Arch).
OTHER_NAMES = {
    "ipxe.efi": ("ipxe-x86_64.efi", "x86_64/ipxe.efi"),
    "snponly.efi": ("ipxe-snponly-x86_64.efi", "x86_64/snponly.efi"),
    "ipxe-i386.efi": ("i386/ipxe.efi",),
    "ipxe-arm64.efi": ("arm64-efi/ipxe.efi", "arm64/ipxe.efi"),
    "snponly-arm64.efi": ("arm64-efi/snponly.efi", "arm64/snponly.efi"),
}
MOST_LINKS = 40  # followed in one path, like the kernel's own limit

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class File:
    """An open regular file.  Two of the same identity have the same content, unless somebody wrote into the file in place."""

    fd: int
    size: int
    mtime_ns: int
    inode: int
    device: int

    @property
    def identity(self) -> tuple[int, int, int, int]:
        return self.device, self.inode, self.size, self.mtime_ns

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_root(path: Path) -> int:
    """A descriptor for `open_below`.  Opened for each request, so that a root that is made or mounted later is seen."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_below(root_fd: int, parts: Sequence[str], follow_links: bool = False) -> File:
    """Open a regular file below a directory.  Raises OSError and nothing else.

    No part may be empty, "." or "..", or hold a slash or NUL.  Links are refused, or with follow_links followed as long as they
    stay below the root.  A FIFO or a device never blocks: it is not opened at all.
    """
    rest, links = list(parts), 0
    for part in rest or [""]:
        if part in ("", ".", "..") or "/" in part:
            raise FileNotFoundError(errno.ENOENT, "not a path below the root", "/".join(parts))
    while True:
        try:
            return _walk(root_fd, rest)
        except ValueError:  # NUL, or characters that no file name can have
            raise FileNotFoundError(errno.ENOENT, "not a file name", "/".join(parts)) from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no fault of ours, as other errors are: there can be no such file
                raise FileNotFoundError(errno.ENOENT, "not a file name", "/".join(parts)) from None
            raise
        except _Link as link:
            links += 1
            if not follow_links:
                raise PermissionError(errno.EACCES, "a symbolic link, and follow_links is off", "/".join(parts)) from None
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, "too many symbolic links", "/".join(parts)) from None
            rest = _resolved(root_fd, rest[: link.depth], link.target) + rest[link.depth + 1 :]
            if not rest:
                raise IsADirectoryError(errno.EISDIR, "a directory", "/".join(parts)) from None


def open_boot_file(root: Path, parts: Sequence[str], loaders: Iterable[str], follow_links: bool = False) -> File:
    """A file of the TFTP tree, by whatever protocol it is asked for.  Raises OSError and nothing else.

    Missing there: a loader of the table is taken from where the distribution's iPXE package puts it, and a name that ends in ".0"
    means the name without it (dnsmasq's pxe-service appends it).
    """
    names = [tuple(parts)]
    if parts and parts[-1].endswith(".0"):
        names.append((*parts[:-1], parts[-1][:-2]))
    missing: OSError = FileNotFoundError(errno.ENOENT, "no such file", "/".join(parts))
    with suppress(FileNotFoundError, NotADirectoryError):
        root_fd = open_root(root)
        try:
            for name in names:
                with suppress(FileNotFoundError, NotADirectoryError):
                    return open_below(root_fd, name, follow_links)
        finally:
            os.close(root_fd)
    known = {*loaders, *ALTERNATES}
    for name in names:
        if "/".join(name) in known and (path := packaged_loader("/".join(name))):
            directory = open_root(path.parent)
            try:
                return open_below(directory, [path.name])
            finally:
                os.close(directory)
    raise missing


def packaged_loader(name: str) -> Path | None:
    """Where the distribution's iPXE package has the loader of this name, if it has."""
    for directory in LOADER_DIRECTORIES:
        for candidate in (name, *OTHER_NAMES.get(name, ())):
            path = directory / candidate
            with suppress(OSError):
                if path.is_file() and os.access(path, os.R_OK):
                    return path.resolve()  # Debian's ipxe.efi is a link to /boot
    return None


def remedy(name: str, root: Path) -> str:
    """What an operator can do about a boot program that was not found."""
    place = f"put it into {root}, see tftproot/README.md"
    if name not in {*LOADERS.values(), *ALTERNATES}:
        return place
    if any(packaged_loader(other) for other in LOADERS.values()):
        return f"the ipxe package of this distribution has none: {place}"
    return f"install the package ipxe, or {place}"


@lru_cache(64)
def in_memory(device: int) -> bool:
    """Is this a file system without a disk?  tmpfs is never cold, and takes no RWF_NOWAIT."""
    place = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            words = line.split()
            if words[2] == place:
                return words[words.index("-") + 1] in ("tmpfs", "ramfs")
    return False


class _Link(Exception):
    def __init__(self, depth: int, target: str) -> None:
        self.depth, self.target = depth, target


def _walk(root_fd: int, parts: Sequence[str]) -> File:
    """Raises _Link at the first symbolic link on the way, and OSError."""
    directory = root_fd
    try:
        for depth, part in enumerate(parts[:-1]):
            try:
                deeper = os.open(part, _DIRECTORY, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    _raise_if_link(directory, part, depth)
                raise
            if directory != root_fd:
                os.close(directory)
            directory = deeper
        return _open_regular(directory, parts[-1], len(parts) - 1)
    finally:
        if directory != root_fd:
            os.close(directory)


def _open_regular(directory: int, name: str, depth: int) -> File:
    # Looked at before it is opened: opening a FIFO wakes whoever waits to write into it, opening a device may start it.
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        _raise_if_link(directory, name, depth)
    _refuse_irregular(mode, name)
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        status = os.fstat(fd)
        _refuse_irregular(status.st_mode, name)
        return File(fd, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    except BaseException:
        os.close(fd)
        raise


def _refuse_irregular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a directory", name)
    if not stat.S_ISREG(mode):
        raise PermissionError(errno.EACCES, "not a regular file", name)


def _raise_if_link(directory: int, name: str, depth: int) -> None:
    with suppress(OSError):
        raise _Link(depth, os.readlink(name, dir_fd=directory))


def _resolved(root_fd: int, before: Sequence[str], target: str) -> list[str]:
    """The parts below the root that a link means.  before: the directory it lies in, itself free of links."""
    parts = list(before)
    if target.startswith("/"):
        root = os.readlink(f"/proc/self/fd/{root_fd}")
        if not (target + "/").startswith(root.rstrip("/") + "/"):
            raise PermissionError(errno.EACCES, "a symbolic link that leaves the root", target)
        parts, target = [], target[len(root) :]
    for part in target.split("/"):
        if part == "..":
            if not parts:
                raise PermissionError(errno.EACCES, "a symbolic link that leaves the root", target)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return parts
