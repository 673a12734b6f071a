"""The registry in force: one Inventory, replaced whole by a good edit and left alone by a bad one.

Whose directory it is shows in what lies there: pixieboot's own, Matchbox's, or that of bootcfg v0.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pixieboot.errors import Faults, OperatorError
from pixieboot.inventory import Inventory
from pixieboot.registry.foreign import Foreign
from pixieboot.registry.kinds import is_bootcfg, is_matchbox
from pixieboot.registry.yamldir import Stamp, YamlDirectory

DEFAULT = "/etc/pixieboot"


class Store(Protocol):
    """A directory that holds a registry.  load raises Faults; signature changes whenever a file does."""

    @property
    def foreign(self) -> Foreign | None: ...
    @property
    def notes(self) -> list[OperatorError]: ...
    def signature(self) -> dict[str, Stamp]: ...
    def load(self, version: int) -> Inventory: ...


class Registry:
    """Where machines, groups, profiles and templates come from.  current is safe to read at any time from any thread.

    foreign answers the paths of the program whose directory this is, None for our own; notes is what will not be served.
    """

    def __init__(self, source: str) -> None:
        """source: a directory.  The default one need not exist: nothing is described yet."""
        self.source = source
        self.current = Inventory.build()
        self.foreign: Foreign | None = None
        self.notes: tuple[OperatorError, ...] = ()
        self._kind: Callable[[Path], Store] = self._own
        self._store: Store = self._own(Path(source))
        self._seen: dict[str, Stamp] = {}

    def load(self) -> None:
        """Read everything and put it in force.  Raises Faults with all that is wrong; then what was in force stays."""
        store = self._fitting_store()
        self._seen = store.signature()  # before reading: what changes meanwhile is seen as a change afterwards
        collecting = gc.isenabled()
        gc.disable()  # it would walk a growing registry again and again: half of the time to load 10,000 machines
        try:
            inventory = store.load(self.current.version + 1)
            gc.freeze()  # nor shall it walk the finished one ever after, in the middle of a boot
        finally:
            if collecting:
                gc.enable()
        self.current = inventory
        self.foreign, self.notes = store.foreign, tuple(store.notes)

    def reload(self) -> Faults | None:
        """Read again; the Faults if that did not go well and the last good registry stays in force."""
        try:
            self.load()
        except Faults as faults:
            return faults
        return None

    def changed(self) -> bool:
        """Has any file changed since the last load?  Looks at sizes and times only."""
        return self._store.signature() != self._seen

    def _fitting_store(self) -> Store:
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
        return YamlDirectory(root, self.source != DEFAULT)
