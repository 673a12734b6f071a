"""Whose registry a directory is, by what lies in it: what the stores of other programs need is loaded for them only."""

from pathlib import Path

_NATIVE = ("machines", "machines.yaml", "groups.yaml", "profiles.yaml")


def is_matchbox(root: Path) -> bool:
    """Does this directory look like Matchbox's?  pixieboot's own has groups and profiles too, but in YAML."""
    if any((root / name).exists() for name in _NATIVE):
        return False
    return any(path.suffix == ".json" for name in ("groups", "profiles") for path in (root / name).glob("*"))


def is_bootcfg(root: Path) -> bool:
    """Does this directory look like bootcfg's?"""
    boot = root / "boot"
    return (boot / "uuid").is_dir() or (boot / "mac").is_dir() or (boot / "default").is_file()
