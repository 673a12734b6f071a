"""What every test may use: golden files, the markers' meaning, and the order in which tests run."""

import contextlib
import difflib
import gc
import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what the tests got into the golden files")


def pytest_configure() -> None:
    os.environ["SSL_CERT_FILE"] = os.devnull  # tests trust nobody; to read the system's 140 authorities takes 70 ms each time
    gc.disable()  # what is collected stays until the end: nothing of it is garbage


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Of several processes each compiles a part of a new checkout's tests first, instead of all of them the same all the time."""
    if collector.path == TESTS and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        for path in sorted(TESTS.glob("test_*.py"))[int(worker[2:]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
            with contextlib.suppress(Exception):  # which is told when the file's turn comes
                importlib.import_module(f"tests.{path.stem}")


def pytest_collection_finish() -> None:
    gc.freeze()  # nor will it be: each look for garbage would walk 4,000 tests
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, then slow ones, then those that boot firmware: the first failure comes as early as it can.

    Among the fast ones those that wait longest come first, for silence on a wire above all: other processes use the time.
    """
    for item in items:
        if item.nodeid.startswith("tests/e2e/"):
            item.add_marker("e2e")

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        e2e, slow = (item.get_closest_marker(name) is not None for name in ("e2e", "slow"))
        return e2e, slow, not item.nodeid.startswith(("tests/wire/", "tests/test_tftpd.py"))

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    needy = item.get_closest_marker("needs_root") or item.get_closest_marker("e2e")
    if needy and os.geteuid() != 0:
        pytest.fail(
            "needs root (network namespaces, raw sockets): run `./pixieboot.sh test`, which asks sudo for that", pytrace=False
        )


@pytest.fixture(scope="session", autouse=True)
def reachable(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Temporary directories can be entered by other users: the daemon under test gives up root and reads its files there."""
    base = tmp_path_factory.getbasetemp()
    for directory in (base, *base.parents):
        if directory.name.startswith(("pytest-", "popen-")):
            directory.chmod(0o755)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """golden("captures/uefi.txt", text): text is what that file below tests/ says, or with --update-golden will say."""

    def compare(name: str, actual: str) -> None:
        path = TESTS / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(actual)
            return
        expected = path.read_text() if path.exists() else ""
        if actual != expected:
            difference = "".join(difflib.unified_diff(expected.splitlines(True), actual.splitlines(True), str(path), "this run"))
            pytest.fail(
                f"{difference}\nIf that is right: pytest --update-golden, and read the diff before you commit it.", pytrace=False
            )

    return compare
