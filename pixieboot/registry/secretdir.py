"""secrets/ of the registry: what templates call by secret('NAME'), a file each, and MACHINE/NAME for one machine's own."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pixieboot.errors import OperatorError
from pixieboot.model import EMPTY
from pixieboot.registry.fields import nearest
from pixieboot.registry.strictyaml import read_text
from pixieboot.sandbox import secrets_of

EVERYBODY = 0o007  # rights of everybody: there shall be none


def secrets_in(root: Path, paths: Iterable[str], faults: list[OperatorError]) -> Mapping[str, str]:
    """The secrets of those paths that lie below root/secrets, by name.  A newline at the end belongs to the file, not to it."""
    directory = f"{root / 'secrets'}{os.sep}"
    found = {}
    for path in paths:
        if not path.startswith(directory):
            continue
        try:
            rights = os.stat(path).st_mode & EVERYBODY
        except OSError:
            continue  # gone since it was looked for: the next look sees that
        if rights:
            faults.append(
                OperatorError(path, "everybody on this host may read this secret", f"Take that right away: chmod o= {path}")
            )
            continue
        if (text := read_text(path, faults)) is not None:
            found[path.removeprefix(directory)] = text.removesuffix("\n")
    return found or EMPTY


def check_names(root: Path, templates: Mapping[str, str], secrets: Mapping[str, str], faults: list[OperatorError]) -> None:
    """Every secret that a template asks for by a fixed name is there, be it for one machine only."""
    known = {name.rpartition("/")[2] for name in secrets}
    for template, text in templates.items():
        if "secret" not in text:
            continue
        for line, name in secrets_of(text):
            if name is not None and name not in known:
                mend = f"{nearest(name, known)} Secrets live in {root}/secrets, a file each.".strip()
                faults.append(OperatorError(f"{root}/templates/{template}:{line}", f"the secret {name!r} does not exist", mend))
