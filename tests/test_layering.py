"""Who may import whom, and what the pure modules must not touch.  ARCHITECTURE.md shows the same order to people."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pixieboot"

# Lowest first.  A name stands for the module or for everything in the package of that name.
LAYERS = (
    {"errors"},
    {"model"},
    {"inventory", "remote"},
    {"wire"},
    {"policy"},
    {"sandbox"},
    {"render"},
    {"dhcp", "memo", "leases", "pxe", "tftp", "content", "boots", "verdict", "explain"},
    {"registry"},
    {"journal"},
    {"config"},
    {"serve"},
    {"doctor", "simulate", "images", "lab", "install", "client", "adopt", "routerhelp", "bootprogram", "firewall", "probe"},
    {"cli"},
    {"operator"},  # the commands that cli.py imports when they are called
    {"__main__"},
)
PURE = set[str]().union(*LAYERS[: LAYERS.index({"registry"})])

# Sockets, files, clocks, chance, other processes: what a pure module is given as an argument, or is not its business.
BANNED = {
    "asyncio", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "random", "secrets", "select", "selectors", "shutil",
    "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "uvicorn", "starlette",
}  # fmt: skip
BANNED_NAMES = {"pathlib.Path", "pathlib.PosixPath", "datetime.datetime.now", "importlib.resources"}
BANNED_CALLS = {"open", "print", "input"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below it; a package's __init__ by the package's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PURE_MODULES = [name for name in MODULES if name.split(".")[0] in PURE]


def layer(module: str) -> int:
    """The layer of a module, or -1 if ARCHITECTURE.md and LAYERS have no place for it."""
    return next((depth for depth, names in enumerate(LAYERS) if module.split(".")[0] in names), -1)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


@cache
def imports(module: str) -> list[tuple[int, str]]:
    """Line and absolute dotted name of all that a module imports, also inside functions."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{MODULES[module]}:{node.lineno}: write the whole name: from pixieboot.… import …"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def own_imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and name of the modules of ours that a module imports: `from pixieboot.model import Mac` is `model`."""
    for line, name in imports(module):
        inner = name.removeprefix("pixieboot.") if name.startswith("pixieboot.") else None
        while inner and inner not in MODULES:
            inner = inner.rpartition(".")[0]
        if inner:
            yield line, inner


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_layer_and_below(module: str) -> None:
    assert layer(module) >= 0, f"{MODULES[module]} has no layer: give it one in LAYERS and in ARCHITECTURE.md"
    upward = [
        f"{MODULES[module]}:{line}: imports {name}, which lies above"
        for line, name in own_imports(module)
        if layer(name) > layer(module)
    ]
    assert not upward, "\n".join(upward)


def test_the_table_of_architecture_is_in_that_order() -> None:
    """Each module imports only from its own line of the table and the lines above it."""
    rows = re.findall(r"^\| (`.*?) \|", (PACKAGE.parent / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    line_of = {name: number for number, row in enumerate(rows) for name in re.findall(r"`(\w+)(?:\.py|/)`", row)}
    downward = {
        f"{module} imports {name}"
        for module in MODULES
        for _, name in own_imports(module)
        if line_of.get(module.split(".")[0], len(rows)) < line_of.get(name.split(".")[0], -1)
    }
    assert line_of and not downward, "\n".join(sorted(downward))


def test_no_two_modules_import_each_other() -> None:
    graph = {module: {name for _, name in own_imports(module) if name != module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)


@pytest.mark.parametrize("module", PURE_MODULES)
def test_a_pure_module_touches_no_socket_file_clock_or_log(module: str) -> None:
    faults = [
        f"{MODULES[module]}:{line}: {name}"
        for line, name in imports(module)
        if name.split(".")[0] in BANNED or name in BANNED_NAMES or name.rpartition(".")[0] in BANNED_NAMES
    ]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
            faults.append(f"{MODULES[module]}:{node.lineno}: {node.func.id}()")
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"} and "datetime" in ast.unparse(node.value):
            faults.append(f"{MODULES[module]}:{node.lineno}: {ast.unparse(node)}")
    assert not faults, "pure modules get such things as arguments:\n" + "\n".join(faults)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_that_is_not_a_dependency(module: str) -> None:
    """Beside the standard library: only what pyproject.toml names."""
    allowed = {
        "click",
        "h11",
        "httptools",
        "jinja2",
        "markupsafe",
        "pixieboot",
        "pydantic",
        "rich",
        "scapy",
        "starlette",
        "tftpy",
        "uvicorn",
        "yaml",
    }
    strangers = [
        f"{MODULES[module]}:{line}: {name}"
        for line, name in imports(module)
        if (top := name.split(".")[0]) not in allowed and top not in sys.stdlib_module_names
    ]
    assert not strangers, "\n".join(strangers)
