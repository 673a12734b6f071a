"""Import, write, and read back with our own reader: what the tests of the importers share."""

from pathlib import Path

from pixieboot import config
from pixieboot.inventory import Inventory
from pixieboot.registry import Registry
from pixieboot.registry.importer import imported


def taken_over(tmp_path: Path, source: Path) -> tuple[config.Settings, Inventory, list[str]]:
    """Import, write, read back."""
    result = imported(source)
    target = tmp_path / "new"
    target.mkdir()
    for name, text in result.files.items():
        (target / name).write_text(text)
    settings = config.load(target / "pixieboot.yaml", {})
    registry = Registry(settings.registry)
    registry.load()
    return settings, registry.current, [line.replace(f"{source}:", "") for line in result.report]


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path
