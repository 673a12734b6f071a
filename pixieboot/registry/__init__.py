"""The registry in force: one Inventory, replaced whole by a good edit and left alone by a bad one.

Whose directory it is shows in what lies there: pixieboot's own, Matchbox's, or that of bootcfg v0.  Machines that the API described
are files too, in a directory of the daemon's own, and are read and checked together with the operator's.
"""

import fcntl
import gc
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from pixieboot.errors import Faults, OperatorError
from pixieboot.inventory import Inventory
from pixieboot.model import Group, Mac, Machine, Profile
from pixieboot.registry.foreign import Foreign
from pixieboot.registry.kinds import is_bootcfg, is_matchbox
from pixieboot.registry.strictyaml import parse
from pixieboot.registry.yamldir import Stamp, YamlDirectory

if TYPE_CHECKING:
    from pixieboot.registry.pixiecore import PixiecoreMachines, Spec

DEFAULT = "/etc/pixieboot"


class Store(Protocol):
    """A directory that holds a registry.  load raises Faults; signature changes whenever a file does."""

    @property
    def foreign(self) -> Foreign | None: ...
    @property
    def notes(self) -> list[OperatorError]: ...
    def signature(self) -> dict[str, Stamp]: ...
    def load(self, version: int) -> Inventory: ...


class _Everybody:
    """A registry of one profile, for every machine."""

    foreign = None

    def __init__(self, profile: Profile) -> None:
        self._profile, self.notes = profile, list[OperatorError]()

    def signature(self) -> dict[str, Stamp]:
        return {}

    def load(self, version: int) -> Inventory:
        everybody = Group("everybody", profile=self._profile.name, where=self._profile.where)
        return Inventory.build([], [everybody], [self._profile], {}, version)


class Registry:
    """Where machines, groups, profiles and templates come from.  current is safe to read at any time from any thread.

    foreign answers the paths of the program whose directory this is, None for our own; notes is what will not be served.
    """

    def __init__(self, source: str, adopted: Path | None = None, boot: Profile | None = None) -> None:
        """source: a directory, or pixiecore+URL.  The default directory need not exist: nothing is described yet.

        adopted: where the API keeps the machines that it describes, a file each; it is made when it is needed.
        boot: what every machine boots, whatever the source says.
        """
        self.machines: PixiecoreMachines | None = None  # those that a foreign API was asked about
        self.source, self.adopted = source, adopted
        self.current = Inventory.build()
        self.foreign: Foreign | None = None
        self.notes: tuple[OperatorError, ...] = ()
        self._kind: Callable[[Path], Store] = self._own
        self._fixed: Store | None = None
        if boot:
            self._fixed = _Everybody(boot)
        elif "://" in source:
            from pixieboot.registry import pixiecore

            self._fixed = self.machines = pixiecore.PixiecoreMachines()
        self._store: Store = self._fixed or self._own(Path(source))
        self._seen: dict[str, Stamp] = {}
        self._lock = Lock()  # the files are followed in one thread, the API writes in another

    def load(self) -> None:
        """Read everything and put it in force.  Raises Faults with all that is wrong; then what was in force stays."""
        with self._lock:
            store = self._fitting_store()
            self._seen = store.signature()  # before reading: what changes meanwhile is seen as a change afterwards
            self._put_in_force(store, self._read(store.load))

    def describe(self, name: str, description: Mapping[str, Any] | None) -> None:
        """Describe this machine so (keys as in files), or (None) no longer: durable and in force on return.

        Raises Faults when the registry does not load with it, OSError when it cannot be written; then all is as it was.
        """
        path = self.path_of(name)
        assert path is not None
        text = None if description is None else yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True)
        with self._lock:
            store = self._fitting_store()
            seen = store.signature()  # before reading, as in load
            inventory = self._drafted(store, seen, path, text)
            if text is None:
                path.unlink()
                _sync(path.parent)
            else:
                path.parent.mkdir(mode=0o750, exist_ok=True)
                replace_file(path, text.encode())
            seen.pop(str(path), None)
            if own := store.signature().get(str(path)):
                seen[str(path)] = own
            self._seen = seen
            self._put_in_force(store, inventory)

    def examine(self, path: Path, text: str) -> None:
        """Would the registry load with this text in that file?  Raises Faults if not; nothing is written or put in force."""
        with self._lock:
            store = self._fitting_store()
            self._drafted(store, store.signature(), path, text)

    def path_of(self, name: str) -> Path | None:
        """The file in which the API would describe a machine of this name."""
        return self.adopted / f"{name}.yaml" if self.adopted else None

    def is_adopted(self, machine: Machine) -> bool:
        """Did the API describe it?  Otherwise a file of the operator's did."""
        return self.adopted is not None and machine.where.startswith(f"{self.adopted}{os.sep}")

    def adopted_description(self, machine: Machine) -> dict[str, Any]:
        """What the API was told of a machine that it described, key by key.  Reads its file; raises OSError."""
        path = machine.where.rpartition(":")[0]
        node = parse(Path(path).read_text(), path, [])
        return node.plain() if node else {}

    def _drafted(self, store: Store, seen: Mapping[str, Stamp], path: Path, text: str | None) -> Inventory:
        """The registry with this text in that file, or (None) without the file.  Raises Faults.

        Whoever wrote the text knew the file as it was loaded last: if it is another one now, that is a fault.
        """
        if not isinstance(store, YamlDirectory):
            mend = "Describe the machine in its files, or make a registry of our own of them: pixieboot import."
            raise Faults([OperatorError(self.source, "the registry is that of another program", mend)])
        if seen.get(str(path)) != self._seen.get(str(path)):
            what = "somebody else changed this file just now"
            raise Faults([OperatorError(str(path), what, "Read the machine again, then change it.")])
        return self._read(lambda version: store.load(version, {str(path): text}))

    def _read(self, load: Callable[[int], Inventory]) -> Inventory:
        collecting = gc.isenabled()
        gc.disable()  # it would walk a growing registry again and again: half of the time to load 10,000 machines
        try:
            inventory = load(self.current.version + 1)
            gc.freeze()  # nor shall it walk the finished one ever after, in the middle of a boot
        finally:
            if collecting:
                gc.enable()
        return inventory

    def _put_in_force(self, store: Store, inventory: Inventory) -> None:
        self.current = inventory
        self.foreign, self.notes = store.foreign, tuple(store.notes)

    def reload(self) -> Faults | None:
        """Read again; the Faults if that did not go well and the last good registry stays in force."""
        try:
            self.load()
        except Faults as faults:
            return faults
        return None

    def learn(self, mac: Mac, spec: "Spec | None") -> bool:
        """Put in force what an API says of a machine; None: nothing.  False if that was known."""
        assert self.machines is not None
        with self._lock:
            if not self.machines.learn(mac, spec):
                return False
            self.current = self.machines.load(self.current.version + 1)
        return True

    def changed(self) -> bool:
        """Has any file changed since the last load?  Looks at sizes and times only."""
        return self._store.signature() != self._seen

    def _fitting_store(self) -> Store:
        if self._fixed:
            return self._fixed
        root = Path(self.source)
        kind: Callable[[Path], Store] = self._own
        try:
            # The stores of other programs are loaded where they are needed: no start of ours waits for them.
            if is_bootcfg(root):
                from pixieboot.registry.bootcfg import BootcfgDirectory

                kind = BootcfgDirectory
            elif is_matchbox(root):
                from pixieboot.registry.matchbox import MatchboxDirectory

                kind = MatchboxDirectory
        except OSError:  # it may not be read: as our own registry that is a fault with its place, as another's nothing is known
            pass
        if kind != self._kind:
            self._store, self._kind = kind(root), kind
        return self._store

    def _own(self, root: Path) -> Store:
        return YamlDirectory(root, self.source != DEFAULT, self.adopted)


def replace_file(path: Path, octets: bytes) -> None:
    """The file's new content, in one step and durable; as readable as its directory is (the daemon's group must read it)."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_unfinished(path.parent, directory)
        place = os.fstat(directory)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(octets)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), -1, place.st_gid)
                os.fchmod(file.fileno(), 0o640 | (place.st_mode & 0o004))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_unfinished(path: Path, directory: int) -> None:
    """Remove what killed writers left.  Who writes shares the directory's lock: where nobody does, nobody writes."""
    with suppress(OSError):  # others write, or files cannot be locked there: another time
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in path.glob(".new-" + "[a-z0-9_]" * 8):
            left.unlink()
    with suppress(OSError):
        fcntl.flock(directory, fcntl.LOCK_SH)  # waits for no more than such a removal


def _sync(directory: Path) -> None:
    """What was renamed or removed there stays so, whatever happens to the power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
