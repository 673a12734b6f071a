"""Boots shared by the tests that look at them, and the table of boot seconds at the end."""

from collections.abc import Iterator

import pytest

from tests.e2e.boots import SECONDS, SLOTS, Boots, Case
from tests.e2e.cases import CASES, FAILURES, INSTALLERS

ALL = {**CASES, **INSTALLERS, **FAILURES}


@pytest.fixture(scope="session")
def boots(request: pytest.FixtureRequest) -> Iterator[Boots]:
    """Every case that a chosen test asks for by its parameter `case`."""
    chosen: dict[str, Case] = {}
    for item in request.session.items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
        if name in ALL:
            chosen[name] = ALL[name]
    running = Boots(chosen)
    yield running
    running.close()


@pytest.fixture
def slot() -> Iterator[None]:
    """Leave to run one machine."""
    with SLOTS:
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SECONDS:
        terminalreporter.section(
            "seconds from power-on to Linux userspace, or to the verdict (software emulation, two machines at once)"
        )
        for name, seconds in sorted(SECONDS.items(), key=lambda entry: entry[1]):
            terminalreporter.line(f"{seconds:6.1f}  {name}")
