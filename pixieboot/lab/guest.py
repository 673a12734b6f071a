"""What the machine of the lab boots: Debian's kernel and an initramfs of busybox, made here."""

import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pixieboot.errors import OperatorError

# In the order in which they need each other (init tries thrice, for kernels that see it otherwise); built in ones have no file.
MODULES = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_net",
    "e1000",
)
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")
MARK = "PIXIEBOOT-LAB"

# The one program that runs in the guest.  Each line it prints is a fact that the lab reads from the serial console.
# `timeout 15 wget`, because `wget -T` of Debian's busybox-static 1.35 dies of a segmentation fault.
INIT = f"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo
echo "{MARK}-CMDLINE $(cat /proc/cmdline)"
for round in 1 2 3; do
    for module in $(cat /modules/order); do insmod /modules/$module.ko 2>/dev/null; done
done
ip link set lo up
ip link set eth0 up
tries=0
until [ "$(cat /sys/class/net/eth0/carrier 2>/dev/null)" = 1 ] || [ $tries = 50 ]; do tries=$((tries+1)); usleep 100000; done
udhcpc -i eth0 -f -n -q -t 8 -T 1 -s /lease >/dev/null 2>&1 || echo "{MARK}-NO-LEASE"
echo "{MARK}-USERSPACE kernel=$(uname -r) mac=$(cat /sys/class/net/eth0/address) $(cat /lease.txt)"
sh -c 'echo "{MARK}-SHELL pid=$$ uptime=$(cut -d " " -f 1 /proc/uptime)"'
for word in $(cat /proc/cmdline); do
    case $word in
    pixieboot.done=*)
        if answer=$(timeout 15 wget -q -O - "${{word#pixieboot.done=}}" 2>&1); then echo "{MARK}-DONE"
        else echo "{MARK}-NOT-DONE $answer"; fi ;;
    pixieboot.probe=*)
        timeout 15 wget -q -O - "${{word#pixieboot.probe=}}" 2>&1 | sed "s/^/{MARK}-PROBE /" ;;
    esac
done
echo "{MARK}-OFF"
poweroff -f
"""
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
for router in $router; do ip route add default via "$router"; break; done
echo "address=$ip/$mask router=$router server=$serverid hostname=$hostname" >/lease.txt
"""
APPLETS = "cat cut echo insmod ip mount poweroff sed sh sleep timeout udhcpc uname usleep wget"


@dataclass(frozen=True, slots=True)
class Guest:
    """A kernel with its initramfs, both files."""

    kernel: Path
    initrd: Path


def cache_directory() -> Path:
    """Where downloads are kept: /var/cache/pixieboot for root, else below XDG_CACHE_HOME.  Made if need be."""
    if os.geteuid() == 0:
        directory = Path("/var/cache/pixieboot")
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixieboot"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def make_guest(directory: Path) -> Guest:
    """Lay out kernel and initramfs below `directory`.  Raises OperatorError that names the package to install."""
    kernel, modules = find_kernel()
    guest = Guest(directory / "vmlinuz", directory / "initrd.img")
    shutil.copyfile(kernel, guest.kernel)
    guest.initrd.write_bytes(gzip.compress(initramfs(modules), 1))
    guest.initrd.chmod(0o644)
    return guest


def find_kernel() -> tuple[Path, Path]:
    """The host's kernel and its modules if they are there, else those of Debian's package, downloaded once."""
    for root in (Path("/"), cache_directory() / "kernel"):
        if found := _kernel_below(root):
            return found
    for meta in KERNEL_PACKAGES:
        if package := _dependency(meta):
            unpack_packages(cache_directory() / "kernel", package)
            if found := _kernel_below(cache_directory() / "kernel"):
                return found
    raise OperatorError(
        "lab",
        "there is no Linux kernel in /boot and apt knows no package with one",
        "Run: apt-get update; or: apt-get install linux-image-cloud-amd64",
    )


def signed_loaders() -> dict[str, Path]:
    """Debian's shim and GRUB as they lie below tftp.root: name -> file.  Downloaded once."""
    return {
        "shimx64.efi": package_files("shim-signed") / "usr/lib/shim/shimx64.efi.signed",
        "grubx64.efi": package_files("grub-efi-amd64-signed") / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    }


def package_files(package: str) -> Path:
    """Where the files of a package lie that was downloaded but not installed."""
    tree = cache_directory() / package
    if not tree.is_dir():
        unpack_packages(tree, package)
    return tree


def unpack_packages(directory: Path, *packages: str) -> None:
    """Download packages and unpack them below `directory`, which exists only when it is complete.  Nothing is installed."""
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise OperatorError(
                "lab", f"{tool} is missing, so {' '.join(packages)} cannot be fetched", "It needs Debian or Ubuntu."
            )
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}.") as place:
        done = subprocess.run(["apt-get", "-q", "download", *packages], cwd=place, capture_output=True, text=True, timeout=600)
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise OperatorError("lab", f"apt-get could not download {' '.join(packages)}: {why[0]}", "Run: apt-get update")
        tree = Path(place) / "tree"
        for archive in Path(place).glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive, tree], check=True, timeout=300)
        tree.chmod(0o755)
        with suppress(OSError):  # another run was faster
            tree.rename(directory)


def _kernel_below(root: Path) -> tuple[Path, Path] | None:
    """The newest readable kernel below ROOT/boot whose modules are there too."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for kernel in kernels:
        for modules in (root / "lib/modules", root / "usr/lib/modules"):
            here = modules / kernel.name.removeprefix("vmlinuz-")
            if here.is_dir() and os.access(kernel, os.R_OK):
                return kernel, here
    return None


def _dependency(meta: str) -> str | None:
    """The package with the kernel itself that a package such as linux-image-cloud-amd64 stands for."""
    if not shutil.which("apt-cache"):
        return None
    shown = subprocess.run(["apt-cache", "depends", meta], capture_output=True, text=True, timeout=60).stdout
    names = [line.split()[-1] for line in shown.splitlines() if "Depends: linux-image-" in line]
    return names[0] if names else None


def initramfs(modules: Path) -> bytes:
    """A cpio archive (newc) with busybox, the network driver's modules and our init."""
    busybox = _busybox()
    files: dict[str, tuple[int, bytes]] = {
        **{name: (stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "sys", "modules")},
        "dev/console": (stat.S_IFCHR | 0o600, b""),
        "init": (stat.S_IFREG | 0o755, INIT.encode()),
        "lease": (stat.S_IFREG | 0o755, LEASE.encode()),
        "lease.txt": (stat.S_IFREG | 0o644, b""),
        "bin/busybox": (stat.S_IFREG | 0o755, busybox.read_bytes()),
    }
    for applet in APPLETS.split():
        files[f"bin/{applet}"] = (stat.S_IFLNK | 0o777, b"busybox")
    order = []
    for name in MODULES:
        if content := _module(modules, name):
            files[f"modules/{name}.ko"] = (stat.S_IFREG | 0o644, content)
            order.append(name)
    files["modules/order"] = (stat.S_IFREG | 0o644, "\n".join(order).encode())
    return cpio(files)


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A "newc" archive as the kernel reads it: name -> mode and content (the target, for a symbolic link)."""
    archive = io.BytesIO()

    def entry(number: int, name: str, mode: int, content: bytes) -> None:
        device = (5, 1) if stat.S_ISCHR(mode) else (0, 0)  # the only device there is: /dev/console
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + encoded, content):
            archive.write(part + b"\0" * (-len(part) % 4))

    for number, (name, (mode, content)) in enumerate(files.items(), 1):
        entry(number, name, mode, content)
    entry(0, "TRAILER!!!", 0, b"")
    return archive.getvalue()


def _busybox() -> Path:
    """A busybox that needs no libraries."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/bin/busybox.static")):
        if path.exists() and b"/ld-linux" not in path.read_bytes()[:4096]:
            return path
    raise OperatorError("lab", "there is no static busybox", "Run: apt-get install busybox-static")


def _module(modules: Path, name: str) -> bytes | None:
    """The bytes of a kernel module, unpacked; None if this kernel has it built in or not at all."""
    for path in modules.rglob(f"{name.replace('_', '[_-]')}.ko*"):
        match path.suffix:
            case ".ko":
                return path.read_bytes()
            case ".xz":
                return lzma.decompress(path.read_bytes())
            case ".zst":
                return subprocess.run(["zstd", "-dc", path], capture_output=True, check=True, timeout=60).stdout
    return None
