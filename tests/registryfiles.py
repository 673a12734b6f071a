"""Registry directories made of texts, and what is wrong with them."""

from pathlib import Path
from textwrap import dedent

from pixieboot.errors import Faults
from pixieboot.registry.yamldir import YamlDirectory


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return root


def faults_of(root: Path, files: dict[str, str]) -> list[str]:
    try:
        YamlDirectory(tree(root, files)).load(1)
    except Faults as error:
        return [str(fault).replace(str(root), "$") for fault in error.faults]
    return []
