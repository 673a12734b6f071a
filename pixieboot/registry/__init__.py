"""The registry in force: one Inventory, replaced whole by a good edit and left alone by a bad one."""

import gc
from pathlib import Path

from pixieboot.errors import Faults
from pixieboot.inventory import Inventory
from pixieboot.registry.yamldir import Stamp, YamlDirectory

DEFAULT = "/etc/pixieboot"


class Registry:
    """Where machines, groups, profiles and templates come from.  current is safe to read at any time from any thread."""

    def __init__(self, source: str) -> None:
        """source: a directory.  The default one need not exist: nothing is described yet."""
        self.source = source
        self.current = Inventory.build()
        self._store = YamlDirectory(Path(source), required=source != DEFAULT)
        self._seen: dict[str, Stamp] = {}

    def load(self) -> None:
        """Read everything and put it in force.  Raises Faults with all that is wrong; then what was in force stays."""
        self._seen = self._store.signature()  # before reading: what changes meanwhile is seen as a change afterwards
        collecting = gc.isenabled()
        gc.disable()  # it would walk a growing registry again and again: half of the time to load 10,000 machines
        try:
            self.current = self._store.load(self.current.version + 1)
            gc.freeze()  # nor shall it walk the finished one ever after, in the middle of a boot
        finally:
            if collecting:
                gc.enable()

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
