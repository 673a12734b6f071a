"""Nothing outside the root, nothing that blocks, nothing that is no regular file."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixieboot.serve import files
from pixieboot.serve.files import File, in_memory, open_below, open_boot_file, open_root, packaged_loader, remedy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, a directory, links of every kind, a FIFO, a socket, and a secret outside."""
    root = tmp_path / "root"
    (root / "grub" / "x86_64-efi").mkdir(parents=True)
    (root / "file").write_bytes(b"file")
    (root / "grub" / "grub.cfg").write_bytes(b"grub")
    (root / "grub" / "x86_64-efi" / "fs.lst").write_bytes(b"deep")
    (root / "back\\slash").write_bytes(b"backslash")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-evil").mkdir()
    (tmp_path / "root-evil" / "secret").write_bytes(b"secret")
    links = {
        "inside": "file",
        "inside-deep": "grub/x86_64-efi/fs.lst",
        "dir": "grub",
        "up-and-down": "grub/../file",
        "absolute": str(root / "file"),
        "chain": "inside",
        "loop": "loop",
        "nowhere": "no-such-file",
        "to-itself": ".",
        "out": "../secret",
        "out-absolute": str(tmp_path / "secret"),
        "out-dir": "..",
        "out-through": "grub/../../secret",
        "evil": str(tmp_path / "root-evil" / "secret"),
        "evil-relative": "../root-evil/secret",
        "system": "/etc/passwd",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(root / "socket"))
    return root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = open_root(root)
    yield fd
    os.close(fd)


def content(file: File) -> bytes:
    with file:
        return os.read(file.fd, 1000)


@pytest.mark.parametrize("path, octets", [("file", b"file"), ("grub/grub.cfg", b"grub"), ("grub/x86_64-efi/fs.lst", b"deep")])
@pytest.mark.parametrize("follow", [False, True])
def test_files_at_any_depth(root_fd: int, path: str, octets: bytes, follow: bool) -> None:
    file = open_below(root_fd, path.split("/"), follow)
    assert file.size == len(octets) and file.mtime_ns > 0 and file.inode > 0
    assert content(file) == octets


REFUSED: dict[str, list[str]] = {
    "nothing": [],
    "the root": [""],
    "the root by its dot": ["."],
    "a directory": ["grub"],
    "up": ["..", "secret"],
    "up in the middle": ["grub", "..", "..", "secret"],
    "a slash in a part": ["grub/grub.cfg"],
    "an absolute part": ["/etc/passwd"],
    "NUL": ["file\0"],
    "lone surrogates": ["\ud800"],
    "overlong UTF-8 for ..": ["\udcc0\udcae\udcc0\udcae", "secret"],
    "a name that is too long": ["x" * 300],
    "a file as a directory": ["file", "x"],
    "missing": ["no-such-file"],
    "missing directory": ["no-such-directory", "file"],
    "a FIFO": ["fifo"],
    "a FIFO as a directory": ["fifo", "x"],
    "a socket": ["socket"],
    "link out": ["out"],
    "absolute link out": ["out-absolute"],
    "link to the directory above": ["out-dir", "secret"],
    "link out through the inside": ["out-through"],
    "link to a directory whose name begins like the root's": ["evil"],
    "the same, relative": ["evil-relative"],
    "link to a system file": ["system"],
    "link to itself": ["loop"],
    "link to nothing": ["nowhere"],
    "link to the root": ["to-itself"],
}


def test_a_name_that_is_too_long_is_the_name_of_no_file(root_fd: int) -> None:
    """Not an error of the server's: whoever asks for many of them would fill the log with warnings."""
    with pytest.raises(FileNotFoundError, match="not a file name"):
        open_below(root_fd, ["x" * 300])


@pytest.mark.parametrize("parts", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("follow", [False, True], ids=["links refused", "links followed"])
def test_refused_and_at_once(root_fd: int, parts: list[str], follow: bool) -> None:
    before, began = open_descriptors(), time.monotonic()
    with pytest.raises(OSError):
        open_below(root_fd, parts, follow)
    assert time.monotonic() - began < 0.5
    assert open_descriptors() == before


LINKS_INSIDE = {
    "to a file": ("inside", b"file"),
    "to a file further down": ("inside-deep", b"deep"),
    "on the way": ("dir/grub.cfg", b"grub"),
    "up and down": ("up-and-down", b"file"),
    "absolute": ("absolute", b"file"),
    "a chain": ("chain", b"file"),
    "the root, on the way": ("to-itself/to-itself/file", b"file"),
}


@pytest.mark.parametrize("path, octets", LINKS_INSIDE.values(), ids=LINKS_INSIDE)
def test_links_that_stay_inside_are_followed_only_when_wanted(root_fd: int, path: str, octets: bytes) -> None:
    with pytest.raises(PermissionError, match="follow_links is off"):
        open_below(root_fd, path.split("/"))
    assert content(open_below(root_fd, path.split("/"), follow_links=True)) == octets


def test_a_fifo_wakes_nobody(root: Path, root_fd: int) -> None:
    """A writer that waits for a reader goes on waiting: the FIFO is looked at, not opened."""
    writing = threading.Event()

    def write() -> None:
        fd = os.open(root / "fifo", os.O_WRONLY)
        writing.set()
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(PermissionError, match="not a regular file"):
        open_below(root_fd, ["fifo"])
    assert not writing.wait(0.2)
    os.close(os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK))
    writer.join(5)


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(root: Path, root_fd: int) -> None:
    """The race that a check before opening loses."""
    os.rename(root / "grub", root / "grub-old")
    (root / "grub").symlink_to("..")
    with pytest.raises(OSError):
        open_below(root_fd, ["grub", "secret"], follow_links=True)


@given(
    st.lists(st.sampled_from(["..", ".", "", "file", "grub", "out-dir", "dir", "out", "secret", "root", "to-itself", "/", "\\"]))
)
def test_no_path_leads_to_the_secret(parts: list[str]) -> None:
    root = Path(ROOT)
    fd = open_root(root)
    try:
        for follow in (False, True):
            try:
                assert content(open_below(fd, parts, follow)) != b"secret"
            except OSError:
                continue
    finally:
        os.close(fd)


ROOT = ""


@pytest.fixture(autouse=True, scope="module")
def _shared_root(tmp_path_factory: pytest.TempPathFactory) -> None:
    global ROOT
    top = tmp_path_factory.mktemp("shared")
    root = top / "root"
    (root / "grub").mkdir(parents=True)
    (root / "file").write_bytes(b"file")
    (top / "secret").write_bytes(b"secret")
    for name, target in {"out-dir": "..", "dir": "grub", "out": "../secret", "to-itself": "."}.items():
        (root / name).symlink_to(target)
    ROOT = str(root)


# --- boot files: the operator's tree first, then the distribution's iPXE ---------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution's iPXE package of which only this much is there."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "ipxe.efi").write_bytes(b"packaged ipxe")
    (package / "snponly.efi").write_bytes(b"packaged snponly")
    (package / "other.efi").write_bytes(b"no loader")
    (package / "arm64-efi").mkdir()
    (package / "arm64-efi" / "ipxe.efi").write_bytes(b"packaged arm64")
    monkeypatch.setattr(files, "LOADER_DIRECTORIES", (tmp_path / "absent", package))
    return package


LOADERS = ("undionly.kpxe", "ipxe.efi", "ipxe-arm64.efi")


def test_the_operators_loader_comes_first(root: Path, package: Path) -> None:
    (root / "ipxe.efi").write_bytes(b"own ipxe")
    assert content(open_boot_file(root, ["ipxe.efi"], LOADERS)) == b"own ipxe"


PACKAGED = {
    "by its own name": ("ipxe.efi", b"packaged ipxe"),
    "by the distribution's name": ("ipxe-arm64.efi", b"packaged arm64"),
    "the alternate of a loader": ("snponly.efi", b"packaged snponly"),
    "with dnsmasq's .0": ("ipxe.efi.0", b"packaged ipxe"),
}


@pytest.mark.parametrize("name, octets", PACKAGED.values(), ids=PACKAGED)
def test_a_missing_loader_comes_from_the_package(root: Path, package: Path, name: str, octets: bytes) -> None:
    assert content(open_boot_file(root, [name], LOADERS)) == octets
    assert content(open_boot_file(root / "no such root", [name], LOADERS)) == octets


NOT_PACKAGED = {
    "no loader of the table": ["other.efi"],
    "a loader in a directory": ["x", "ipxe.efi"],
    "in neither place": ["undionly.kpxe"],
    "up from the package": ["..", "ipxe.efi"],
}


@pytest.mark.parametrize("parts", NOT_PACKAGED.values(), ids=NOT_PACKAGED)
def test_nothing_else_comes_from_the_package(root: Path, package: Path, parts: list[str]) -> None:
    with pytest.raises(FileNotFoundError):
        open_boot_file(root, parts, LOADERS)


def test_a_device_that_is_not_mounted_is_not_in_memory() -> None:
    assert not in_memory(os.makedev(0, 0))


def test_what_to_do_about_a_missing_loader(root: Path, package: Path) -> None:
    """Debian 12 and 13 and Ubuntu 24.04 have a package ipxe, and no ipxe-i386.efi in it."""
    assert remedy("ipxe-i386.efi", root).startswith(f"the ipxe package of this distribution has none: put it into {root}")
    assert remedy("shimx64.efi", root).startswith(f"put it into {root}")
    (package / "ipxe.efi").unlink()
    (package / "arm64-efi" / "ipxe.efi").unlink()
    assert remedy("ipxe.efi", root).startswith(f"install the package ipxe, or put it into {root}")


def test_a_packaged_loader_may_be_a_link(root: Path, package: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (package / "undionly.kpxe").symlink_to(tmp_path / "elsewhere")
    assert packaged_loader("undionly.kpxe") == tmp_path / "elsewhere"
    assert content(open_boot_file(root, ["undionly.kpxe"], LOADERS)) == b"linked"


def test_a_name_that_ends_in_0_and_exists_is_itself(root: Path) -> None:
    (root / "pxelinux.0").write_bytes(b"pxelinux")
    (root / "pxelinux").write_bytes(b"not this")
    assert content(open_boot_file(root, ["pxelinux.0"], ())) == b"pxelinux"
    assert content(open_boot_file(root, ["file.0"], ())) == b"file"
    with pytest.raises(FileNotFoundError):
        open_boot_file(root, ["missing.0"], ())


def test_no_descriptor_is_left_behind(root: Path, root_fd: int) -> None:
    before = open_descriptors()
    for path in ("file", "grub/x86_64-efi/fs.lst", "dir/grub.cfg", "out", "fifo", "missing", "grub/missing"):
        try:
            open_below(root_fd, path.split("/"), follow_links=True).close()
        except OSError:
            continue
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
