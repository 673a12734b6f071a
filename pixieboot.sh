#!/bin/sh
# Everything that is not pixieboot itself: what a fresh machine needs to run it, and to test it.
set -eu
umask 022

usage() {
    cat <<'END'
pixieboot.sh: run pixieboot from this checkout, or test it

  ./pixieboot.sh serve [OPTION…]   install what is missing, then run the daemon: pixieboot serve [OPTION…]
  ./pixieboot.sh test              install what the tests need, then run them all: style, types, fast, slow, end to end
  ./pixieboot.sh test --fast       the inner loop: no long fuzzing, no virtual machines; a minute
  ./pixieboot.sh test ARGUMENT…    only these tests: arguments for pytest
  ./pixieboot.sh lock              write the lock files anew (for developers; takes the newest releases)

serve puts pixieboot into /opt/pixieboot, with its own Python environment and the system user `pixieboot`, and links
/usr/local/bin/pixieboot to it.  When the checkout has changed, the next serve installs it again.
Packages come from apt and PyPI; what is installed already is left alone.  Not run as root, it asks sudo where root is needed.
END
}

here=$(dirname -- "$(readlink -f -- "$0")")
home=/opt/pixieboot
shared=/var/cache/pixieboot
uid=$(id -u)

say() { printf 'pixieboot.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The rest of this process, as root.  sudo drops the environment: what configures pixieboot, pip and proxies goes along.
become_root() {
    [ "$uid" != 0 ] || exec "$@"
    command -v sudo >/dev/null || die "this needs root, and there is no sudo: run it as root"
    for name in $(env | sed -nE 's/^((PIXIEBOOT|PIP)_[A-Z0-9_]*|[A-Za-z]+_(proxy|PROXY)|SSL_CERT_(FILE|DIR))=.*/\1/p'); do
        eval "set -- \"$name=\$$name\" \"\$@\""
    done
    exec sudo env "$@"
}

as_root() { (become_root "$@"); }

# --- packages -------------------------------------------------------------------------------------------------------

have_apt() { command -v apt-get >/dev/null; }

# Of these packages, the ones that are not installed.
missing() {
    # dpkg-query complains about packages it has never heard of: they are missing.
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
    for package; do
        case $installed in
        *"$package installed"*) ;;
        *) printf '%s ' "$package" ;;
        esac
    done
}

# Does apt have this package?  What it knows may be nothing yet.
known() {
    [ -n "$(apt-cache policy "$1" 2>/dev/null | sed -n '/Candidate: [0-9]/p')" ]
}

# apt-get, in silence unless it fails.
apt_get() {
    output=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@" </dev/null 2>&1) || {
        printf '%s\n' "$output" >&2
        return 1
    }
}

# Install these packages if they are missing.  A machine whose package lists are old or absent gets new ones.
packages() {
    lacking=$(missing "$@")
    [ -n "$lacking" ] || return 0
    say "installing packages: $lacking"
    # shellcheck disable=SC2086 # a list of words
    apt_get install -y --no-install-recommends $lacking 2>/dev/null && return 0
    apt_get update || die "apt-get update failed: is the network up?"
    updated=$output # apt-get update succeeds also when it got nothing
    # shellcheck disable=SC2086
    apt_get install -y --no-install-recommends $lacking || {
        printf '%s\n' "$updated" | grep '^[EW]' >&2
        die "apt-get could not install: $lacking"
    }
}

# --- Python ---------------------------------------------------------------------------------------------------------

# Is this a Python that we can use?  Prints its real path (pyenv's python3 is a script that finds another one).
usable() {
    "$1" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null
}

can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Sets $python.  The system's own comes first: the daemon's user must be able to read it, and seldom can in a home directory.
find_python() {
    for name in /usr/bin/python3 /usr/local/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        python=$(usable "$name") || continue
        if can_make_venv "$python"; then
            return 0
        elif [ "$name" = /usr/bin/python3 ] && have_apt; then
            packages python3-venv
            return 0
        fi
    done
    if have_apt; then
        packages python3 python3-venv
        python=$(usable /usr/bin/python3) && can_make_venv "$python" && return 0
    fi
    die "pixieboot needs Python 3.11 or newer with its venv and ensurepip modules; found: $(python3 -V 2>&1 || true)." \
        "Debian 12, Ubuntu 24.04 and Raspberry Pi OS 12 have it; elsewhere install it with the package manager or pyenv."
}

# venv DIRECTORY LOCK: a new Python environment with exactly what LOCK names.  Whoever completes it makes the file .complete in it.
venv() {
    say "making the Python environment $1"
    rm -rf "$1"
    "$python" -I -m venv "$1"
    pip "$1" --require-hashes --prefer-binary --requirement "$2"
}

# pip ENVIRONMENT ARGUMENT…: dependencies are in the lock files already, so none is ever looked up.
pip() {
    pip_python=$1/bin/python
    shift
    PIP_USER=0 "$pip_python" -I -m pip install --quiet --disable-pip-version-check --no-input --no-warn-script-location --no-deps "$@" \
        </dev/null
}

# --- serve ----------------------------------------------------------------------------------------------------------

# What the installed program is made from, as one short word.
source_hash() {
    (
        cd "$here"
        find pixieboot etc systemd -type f ! -name '*.pyc' -exec sha256sum {} +
        sha256sum pyproject.toml README.md LICENSE requirements.lock requirements-build.lock
        printf '%s\n' "$python"
        "$python" -V
    ) | LC_ALL=C sort | sha256sum | cut -c 1-12
}

# Runs as root.  The link comes last: what it points to is whole, whenever this is interrupted.
install_program() {
    python=$1 hash=$2 new=$home-$2
    [ -L "$home" ] || [ ! -e "$home" ] || die "$home exists and is not ours: move it away"
    old=$(readlink "$home" || true)
    getent passwd pixieboot >/dev/null ||
        useradd --system --user-group --home-dir /var/lib/pixieboot --no-create-home --shell /usr/sbin/nologin pixieboot
    if [ ! -e "$new/.complete" ]; then
        venv "$new" "$here/requirements.lock"
        install_wheel "$new"
        runuser -u pixieboot -- "$new/bin/python" -I -c 'import pixieboot' 2>/dev/null ||
            die "the user pixieboot cannot run $python: install a Python 3.11 or newer for all users (apt install python3)"
        : >"$new/.complete"
    fi
    [ -d /var/lib/pixieboot ] || install -d -o pixieboot -g pixieboot -m 0755 /var/lib/pixieboot
    install -d -m 0755 /var/lib/pixieboot/assets /var/lib/pixieboot/tftproot /usr/local/bin
    ln -sfn "$home/bin/pixieboot" /usr/local/bin/pixieboot
    ln -sfn "pixieboot-$hash" "$home.new"
    mv -fT "$home.new" "$home"
    # The version before this one stays: a daemon may still run from it.
    for other in "$home"-*; do
        case ${other##*/} in
        "pixieboot-$hash" | "$old") ;;
        *) rm -rf "$other" ;;
        esac
    done
}

# install_wheel ENVIRONMENT: builds this checkout with the locked backend, which itself does not stay.
install_wheel() {
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    trap 'exit 130' HUP INT TERM
    pip "$1" --require-hashes --target "$build/backend" --requirement "$here/requirements-build.lock"
    wheel=$(cd "$here" && "$1/bin/python" -I -B -c '
import sys
sys.path.insert(0, sys.argv[1] + "/backend")
from hatchling.build import build_wheel
print(build_wheel(sys.argv[1]))' "$build")
    pip "$1" --no-index "$build/$wheel"
}

# Is the program of this hash installed, whole?
installed() {
    [ "$(readlink "$home" || true)" = "pixieboot-$1" ] && [ -e "$home/.complete" ] && getent passwd pixieboot >/dev/null &&
        [ "$(readlink /usr/local/bin/pixieboot || true)" = "$home/bin/pixieboot" ]
}

serve() {
    if have_apt; then
        packages python3-venv ipxe
    elif [ ! -e /usr/lib/ipxe ] && [ ! -e /usr/share/ipxe ]; then
        say "no apt here: install iPXE's boot programs with the package manager (ipxe, ipxe-bootimgs), or copy" \
            "undionly.kpxe and ipxe.efi from https://boot.ipxe.org into /var/lib/pixieboot/tftproot"
    fi
    find_python
    hash=$(source_hash)
    installed "$hash" || as_root "$here/pixieboot.sh" install "$python" "$hash"
    become_root "$home/bin/pixieboot" serve "$@"
}

# --- test -----------------------------------------------------------------------------------------------------------

# Packages that start no service.  Those that would are unpacked into the cache instead of being installed.
WIRE_TOOLS="iproute2 util-linux gpg gpg-agent ipxe dnsmasq-base tftp-hpa atftp curl udhcpc isc-dhcp-client dhcpcd-base tcpdump nftables"
MACHINE_TOOLS="qemu-system-x86 ovmf ipxe-qemu busybox-static cpio kmod gcc libc6-dev wrk ethtool"
BROWSER="chromium" # a snap on Ubuntu, which would run a service: only where it is a package
UNPACKED="isc-dhcp-relay isc-dhcp-server"

# unpack DIRECTORY PACKAGE…: runs as root.  The files of these packages below DIRECTORY, not installed; complete or absent.
unpack() {
    directory=$1
    shift
    say "unpacking into $directory: $*"
    rm -rf "$directory.new"
    mkdir -p "$directory.new"
    # apt-get download writes where it stands.
    (cd "$directory.new" && apt-get -q download "$@") >/dev/null 2>&1 || {
        apt_get update
        (cd "$directory.new" && apt-get -q download "$@") >/dev/null
    }
    for archive in "$directory.new"/*.deb; do
        dpkg -x "$archive" "$directory.new"
        rm "$archive"
    done
    chmod 0755 "$directory.new"
    mv -T "$directory.new" "$directory"
}

# unpack_all fast|full: runs as root.
unpack_all() {
    # shellcheck disable=SC2086 # a list of words
    [ -d "$shared/tools" ] || unpack "$shared/tools" $UNPACKED
    [ "$1" = full ] && [ ! -d "$shared/kernel" ] || return 0
    kernel=$(kernel_packages)
    [ -n "$kernel" ] || { apt_get update; kernel=$(kernel_packages); }
    if [ -n "$kernel" ]; then
        # shellcheck disable=SC2086 # a list of words
        unpack "$shared/kernel" $kernel
    else
        say "apt knows no kernel for virtual machines"
    fi
}

# The packages that hold the newest small kernel: Debian's cloud image, or Ubuntu's virtual one with its modules.
kernel_packages() {
    for meta in "linux-image-cloud-$(dpkg --print-architecture)" linux-image-virtual; do
        image=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
        [ -n "$image" ] || continue
        modules=linux-modules-${image#linux-image-}
        apt-cache show "$modules" >/dev/null 2>&1 || modules=
        printf '%s %s\n' "$image" "$modules"
        return
    done
}

run_tests() {
    part=full
    [ "${1-}" != --fast ] || { part=fast; shift; }
    # Not below a home directory: the daemon under test gives up root, and must still be able to read its libraries.
    cache=$shared
    [ "$uid" = 0 ] || cache=$shared/$(id -un)
    [ -w "$cache" ] || as_root install -d -o "$uid" -m 0755 "$cache"
    if have_apt; then
        # shellcheck disable=SC2086 # lists of words
        if [ "$part" = fast ]; then
            packages python3-venv $WIRE_TOOLS
        else
            packages python3-venv $WIRE_TOOLS $MACHINE_TOOLS
            ! known "$BROWSER" || packages "$BROWSER"
        fi
        if [ ! -d "$shared/tools" ] || { [ "$part" = full ] && [ ! -d "$shared/kernel" ]; }; then
            as_root "$here/pixieboot.sh" unpack "$part"
        fi
    else
        say "no apt here: tests that lack one of these will say so: $WIRE_TOOLS $MACHINE_TOOLS $UNPACKED, a Linux kernel image"
    fi
    find_python
    environment=$cache/venv-$({ cat "$here/requirements-test.lock"; printf '%s\n' "$python"; "$python" -V; } | sha256sum | cut -c 1-12)
    if [ ! -e "$environment/.complete" ]; then
        rm -rf "$cache"/venv-*
        venv "$environment" "$here/requirements-test.lock"
        : >"$environment/.complete"
    fi
    cd "$here"
    bin=$environment/bin
    if [ "$part" = fast ] || [ $# = 0 ]; then
        static=0
        "$bin/ruff" format --check . || static=1
        "$bin/ruff" check . || static=1
        "$bin/mypy" --cache-dir "$cache/mypy" || static=1
        [ "$static" = 0 ] || die "style or types are wrong: mend that first (ruff format, ruff check --fix, mypy in $bin)"
    fi
    # Most tests wait for time to pass, so several at once; all tests together run one after the other, undisturbed.
    [ "$part" = full ] || set -- -m "not slow" --ignore tests/e2e -n 5 --dist loadfile --no-loadscope-reorder "$@"
    # What root writes is not to lie in the checkout, where its owner could not remove it; compiled anew in each process, the
    # sources would cost more than the tests.
    become_root env -u PYTHONDONTWRITEBYTECODE "PATH=$shared/tools/usr/sbin:$bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin" ${CI:+"CI=$CI"} \
        "HYPOTHESIS_STORAGE_DIRECTORY=$shared/hypothesis" "PYTHONPYCACHEPREFIX=$shared/pycache" \
        "$here/pixieboot.sh" in-reach "$bin/python" -m pytest -o "cache_dir=$shared/pytest" "$@"
}

# in_reach COMMAND…: runs as root, in the checkout.  The daemon under test becomes the user pixieboot and goes on reading its
# program: a checkout that others cannot reach (a home, a temporary directory) is put where they can, for this command alone.
in_reach() {
    cd "$here"
    if setpriv --reuid 65534 --regid 65534 --clear-groups -- test -r "$here/pixieboot/cli.py"; then
        exec "$@"
    fi
    mkdir -p "$shared/checkout"
    # shellcheck disable=SC2016 # the inner shell's
    exec unshare --mount --propagation private sh -ec '
        from=$1 to=$2
        shift 2
        mount -t tmpfs -o mode=0755 checkout "$to"
        cd "$to"
        if [ -n "$(find "$from/pixieboot" ! -perm -o=r -print | head -n 1)" ]; then
            cp -a "$from/." .
            chmod -R o+rX .
        else
            for entry in "$from"/* "$from"/.[!.]*; do
                [ -e "$entry" ] || continue
                if [ -d "$entry" ]; then mkdir "${entry##*/}"; else : >"${entry##*/}"; fi
                mount --bind "$entry" "${entry##*/}"
            done
        fi
        exec "$@"' sh "$here" "$shared/checkout" "$@"
}

# --- lock -----------------------------------------------------------------------------------------------------------

lock() {
    find_python
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT TERM
    "$python" -I -m venv "$work"
    "$work/bin/python" -I -m pip install --quiet --disable-pip-version-check uv
    cd "$here"
    compile() {
        "$work/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
            --custom-compile-command "./pixieboot.sh lock" "$@"
    }
    compile --upgrade --extra fast pyproject.toml --output-file requirements.lock
    compile --upgrade --extra fast --extra test --constraint requirements.lock pyproject.toml --output-file requirements-test.lock
    sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml >"$work/build.in"
    compile --upgrade "$work/build.in" --output-file requirements-build.lock
}

# --------------------------------------------------------------------------------------------------------------------

command=${1-help}
[ $# = 0 ] || shift
case $command in
serve) serve "$@" ;;
test) run_tests "$@" ;;
lock) lock ;;
unpack | in-reach) # not for people: the parts of test that root does
    [ "$uid" = 0 ] || die "$command is a part of test"
    if [ "$command" = unpack ]; then unpack_all "$1"; else in_reach "$@"; fi
    ;;
install) # not for people: the part of serve that root does
    [ "$uid" = 0 ] || die "install is a part of serve"
    # One at a time; the lock is gone with this process.
    exec 9>"$home.lock"
    flock 9
    install_program "$1" "$2" 9>&-
    ;;
help | -h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
