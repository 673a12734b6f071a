"""From root to the system user `pixieboot`, once the sockets are bound."""

import ctypes
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixieboot.errors import OperatorError

USER = "pixieboot"
FALLBACK = "nobody"  # as dnsmasq does on a host where no user was made for it

User = pwd.struct_passwd

_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def service_user() -> User | None:
    """Who the daemon becomes: None when it was not started as root and has nothing to give up but capabilities."""
    if os.geteuid() != 0:
        return None
    for name in (USER, FALLBACK):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise OperatorError("serve", f"neither user {USER} nor {FALLBACK} exists", f"Make one: useradd --system {USER}.")


@contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Files are read as the daemon's own user even before root is dropped, so that a reload finds them readable too."""
    if user is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def own_directory(directory: Path, user: User | None) -> None:
    """Make the state directory if it is missing, and give it to the daemon's user.  An existing one is left as it is.

    Raises OperatorError that names the command to mend it when that user cannot write there.
    """
    if not directory.is_dir():
        try:
            directory.mkdir(mode=0o750, parents=True)
            if user:
                os.chown(directory, user.pw_uid, user.pw_gid)
        except OSError as error:
            raise OperatorError(
                "state", f"{directory} cannot be made: {error.strerror}", "Name another place with --state."
            ) from error
    with acting_as(user):
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            name = pwd.getpwuid(os.geteuid()).pw_name
            mend = f"Give it the directory: chown {name} {directory}. Or name another place with --state."
            if not user:
                mend = f"Use sudo. {mend}"
            raise OperatorError("state", f"the user {name} cannot write into {directory}", mend)


def drop(user: User | None) -> None:
    """Give up root and every capability for good.  What is open stays open."""
    if user:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()  # two sets of effective, permitted, inheritable
    if _libc.capset(header, none) or _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
    os.umask(0o027)
