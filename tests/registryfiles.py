"""Registry directories made of texts, and what is wrong with them."""

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from pixieboot.errors import Faults
from pixieboot.registry.yamldir import YamlDirectory


def tree(root: Path, files: Mapping[str, Any]) -> Path:
    """A directory of these files: texts, or what is to be written as JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(content) if isinstance(content, str) else json.dumps(content))
    return root


def faults_of(root: Path, files: dict[str, str]) -> list[str]:
    try:
        YamlDirectory(tree(root, files)).load(1)
    except Faults as error:
        return [str(fault).replace(str(root), "$") for fault in error.faults]
    return []
