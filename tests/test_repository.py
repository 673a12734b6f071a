"""Rules of the repository: what is in it, what its samples and its README promise."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pixieboot import cli

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "pixieboot"
DOCUMENTS = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md")), TOP / "tftproot/README.md", TOP / "ARCHITECTURE.md"]


LEFT_BY_TOOLS = {".git", "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def tracked() -> list[Path]:
    """Every file of the repository: what git knows, or outside of a clone what is there."""
    listing = ["git", "-c", "safe.directory=*", "-C", str(TOP), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, capture_output=True, text=True, timeout=60, check=False) if shutil.which("git") else None
    if done is None or done.returncode:
        return [path for path in TOP.rglob("*") if path.is_file() and not LEFT_BY_TOOLS & set(path.parts)]
    return [path for name in done.stdout.split("\0") if name and (path := TOP / name).is_file()]


def test_every_module_has_its_test() -> None:
    """tests/test_NAME.py, at any depth; where two modules share a name, or to say it better: test_PACKAGE_NAME.py."""
    tests = {path.stem for path in (TOP / "tests").rglob("test_*.py")}
    missing = []
    for module in PACKAGE.rglob("*.py"):
        parts = module.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not parts or parts[-1] == "__main__" or not module.read_text().strip():
            continue
        if len(parts) == 2 and parts[0] == "wire":
            names = {f"test_wire_{parts[1]}"}
        elif parts[0] == "lab":
            names = {"test_netns" if parts[-1] == "hosts" else "test_lab"}
        elif parts[0] == "verdict":
            names = {"test_verdict"}  # a rule fits a boot that no rule above it fits: told by stories of all stages
        else:
            names = {f"test_{parts[-1]}", "test_" + "_".join(parts)}
        # The __init__ of a package that only says what is in it needs none.
        if module.name == "__init__.py" and not re.search(r"^(class|def|async def) ", module.read_text(), re.MULTILINE):
            continue
        if not names & tests:
            missing.append(f"{module.relative_to(TOP)}: no tests/{' or '.join(sorted(names))}.py")
    assert not missing, "\n".join(missing)


def test_nothing_but_text_and_captures() -> None:
    """Boot programs are GPL and belong to the operator's tftproot; nothing else binary has a reason to be here either."""
    allowed = {".pcap", ".png"}
    binaries = [path for path in tracked() if path.suffix not in allowed and b"\0" in path.read_bytes()]
    assert not binaries, [str(path.relative_to(TOP)) for path in binaries]


def test_no_file_is_large() -> None:
    large = [f"{path.relative_to(TOP)}: {path.stat().st_size}" for path in tracked() if path.stat().st_size > 300_000]
    assert not large, large


def test_no_path_of_somebodys_machine() -> None:
    """Paths that exist on one developer's machine only.  Written in pieces, so that this file passes its own test."""
    strangers = re.compile(r"/(?:work|root|home/[a-z]+|Users/[A-Za-z]+)/" + "(?!\\.)[a-z]")
    found = []
    for path in tracked():
        if path.suffix in {".pcap", ".png", ".lock"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := strangers.search(line):
                found.append(f"{path.relative_to(TOP)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def test_no_promise_without_a_deed() -> None:
    """A note to oneself in code is a fault nobody will find again."""
    marks = re.compile(r"\b(?:TO" + "DO|FIX" + r"ME|X{3})\b")
    found = [
        f"{path.relative_to(TOP)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".sh", ".md", ".yaml", ".j2", ".toml", ".service"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not found, found


def test_a_document_that_is_named_is_there() -> None:
    """Comments and docstrings cite RFCs, specifications, public issues, or documents of this repository."""
    there = {str(path.relative_to(TOP)) for path in tracked()} | {path.name for path in tracked()}
    found = []
    for path in tracked():
        if path.suffix in {".py", ".sh", ".yaml", ".j2", ".toml", ".service"}:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found += [
                    f"{path.relative_to(TOP)}:{number}: {name}"
                    for name in re.findall(r"\b[\w/.-]+\.md\b", line)
                    if name not in there
                ]
    assert not found, "\n".join(found)


def test_the_sample_machines_are_nobodys_and_install_nothing() -> None:
    """install-service puts the samples in force: a machine of the operator's may not be among them."""
    machines = read_sample("machines.yaml")
    assert machines
    for name, machine in machines.items():
        for mac in [machine.get("mac"), *machine.get("macs", [])]:
            assert mac is None or mac.startswith("02:00:5e:00:53:"), f"{name}: {mac}"
        assert machine.get("profile", "menu") in ("menu", "local") and "boot" not in machine, name
    assert read_sample("groups.yaml")["default"]["profile"] in ("menu", "local")


def read_sample(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = yaml.load((TOP / "etc" / name).read_text(), yaml.BaseLoader)
    return sample


def test_the_sample_configuration_is_right(tmp_path: Path) -> None:
    """etc/ as it is shipped, copied elsewhere: no fault in settings, registry or templates."""
    from click.testing import CliRunner

    sample = tmp_path / "pixieboot"
    for source in (TOP / "etc").rglob("*"):
        if source.is_file():
            target = sample / source.relative_to(TOP / "etc")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text().replace("/etc/pixieboot", str(sample)))
    done = CliRunner().invoke(cli.main, ["check", "--config", str(sample / "pixieboot.yaml")])
    assert done.exit_code == 0, done.output


# --- documents ------------------------------------------------------------------------------------------------------


def blocks(document: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each line of the shell blocks of a document, continued lines joined."""
    inside, text = False, document.read_text().replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("```"):
            inside = not inside and line.strip() in {"```sh", "```console", "```shell"}
        elif inside:
            yield number, line.strip().removeprefix("$ ").removeprefix("# ")


def commands() -> list[tuple[str, list[str]]]:
    """Every call of pixieboot in a document: in shell blocks, and in `pixieboot …` within sentences."""
    found = []
    for document in DOCUMENTS:
        name = document.relative_to(TOP)
        lines = [(number, line) for number, line in blocks(document)]
        for number, line in enumerate(document.read_text().splitlines(), 1):
            lines += [(number, span) for span in re.findall(r"`((?:sudo )?(?:\./)?pixieboot(?:\.sh)? [^`]+)`", line)]
        for number, line in lines:
            for part in re.split(r"&&|\||;", line):
                words = shlex.split(part, comments=True)
                words = words[1:] if words[:1] == ["sudo"] else words
                if words[:1] in (["pixieboot"], ["./pixieboot.sh"]):
                    found.append((f"{name}:{number}", words))
    return found


def leaves(group: click.Group) -> dict[str, click.Command]:
    """The commands of a group by name, loaded; hidden ones are nobody's business."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command and not command.hidden}


def everything(commands: dict[str, click.Command]) -> Iterator[tuple[str, click.Command]]:
    for name, command in commands.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in everything(leaves(command)))


COMMANDS = leaves(cli.main)


@pytest.mark.parametrize(
    "where, words", [pytest.param(where, words, id=f"{where} {' '.join(words)}") for where, words in commands()]
)
def test_a_command_in_a_document_exists(where: str, words: list[str]) -> None:
    """The command, and every --option that follows it."""
    if words[0] == "./pixieboot.sh":
        usage = (TOP / "pixieboot.sh").read_text()
        assert re.search(rf"^{re.escape(words[1])}\)", usage, re.MULTILINE), f"{where}: pixieboot.sh has no command {words[1]}"
        if words[1] != "serve":
            return
    command: click.Command = cli.main
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h", "--version"}
    for word in words[1:]:
        if isinstance(command, click.Group) and not word.startswith("-"):
            known = COMMANDS if command is cli.main else leaves(command)
            assert word in known, f"{where}: pixieboot has no command {word}"
            command = known[word]
            options |= {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        elif word.startswith("-"):
            assert word.partition("=")[0] in options, f"{where}: {command.name} has no option {word}"


def test_every_command_is_in_the_reference() -> None:
    reference = (TOP / "docs/reference.md").read_text()
    missing = [name for name in COMMANDS if f"`{name}" not in reference]
    assert not missing, f"docs/reference.md does not tell of: {', '.join(missing)}"


def test_every_option_is_in_the_reference() -> None:
    reference = (TOP / "docs/reference.md").read_text()
    missing = [
        f"{name} {option}"
        for name, command in everything(COMMANDS)
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option not in reference
    ]
    assert not missing, f"docs/reference.md does not tell of: {', '.join(missing)}"


def test_every_command_shows_an_example() -> None:
    without = [name for name, command in COMMANDS.items() if "pixieboot" not in (command.help or "")]
    assert not without, f"no example in the help of: {', '.join(without)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.relative_to(TOP)}: {target}"


def test_architecture_names_every_module() -> None:
    text = (TOP / "ARCHITECTURE.md").read_text()
    names = {path.name if path.parent == PACKAGE else path.parent.name + "/" for path in PACKAGE.rglob("*.py")} - {
        "__init__.py",
        "__main__.py",
        "pixieboot/",
    }
    missing = sorted(name for name in names if name not in text)
    assert not missing, f"ARCHITECTURE.md does not tell of: {', '.join(missing)}"
    inside = text[text.index("### Inside `serve/`") : text.index("## Four ways through")]
    modules, told = {path.stem for path in (PACKAGE / "serve").glob("*.py")} - {"__init__"}, set(re.findall(r"`(\w+)`", inside))
    assert modules == told, f"ARCHITECTURE.md, inside serve/: {', '.join(sorted(modules ^ told))}"


# --- packaging ------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, int]:
    """Package -> number of hashes, of a lock file."""
    found: dict[str, int] = {}
    for line in (TOP / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==\S+", line):
            found[package := match[1]] = 0
        elif "--hash=sha256:" in line:
            found[package] += 1
    return found


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock", "requirements-build.lock"])
def test_every_locked_package_has_hashes(name: str) -> None:
    packages = locked(name)
    assert packages and all(packages.values()), packages


def names(requirements: list[str]) -> set[str]:
    """The packages' names of lines such as `click>=8.1` or `httptools==0.9.0 ; platform_machine == …`."""
    return {re.split(r"[^a-z0-9-]", requirement.lower())[0] for requirement in requirements}


def test_the_lock_files_hold_what_pyproject_asks_for() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert names(project["dependencies"] + extras["fast"]) <= locked("requirements.lock").keys()
    assert names(extras["test"]) | locked("requirements.lock").keys() <= locked("requirements-test.lock").keys()
    assert "hatchling" in locked("requirements-build.lock")


def test_what_has_no_wheels_for_32_bit_arm_is_not_required() -> None:
    lines = (TOP / "requirements.lock").read_text().splitlines()
    required = names([line for line in lines if "==" in line and "platform_machine" not in line])
    assert not required & {"msgspec", "uvloop", "httptools", "psutil", "asyncpg"}


def test_scripts_can_be_run() -> None:
    for name in ("pixieboot.sh", ".ci/run"):
        assert os.access(TOP / name, os.X_OK)
