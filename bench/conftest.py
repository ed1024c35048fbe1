"""Prints the tables of ratios after a benchmark run, and the figures of the machine they are from."""

import platform
from collections.abc import Iterator

import pytest
import torch
from interleaved import Table

TABLES: list[Table] = []


@pytest.fixture
def tables() -> list[Table]:
    """Append a finished table here to have it printed at the end of the run."""
    return TABLES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("ratios of medians, variants in random order; one thread unless the title says more")
    capability = torch.backends.cpu.get_cpu_capability()
    terminalreporter.write_line(f"torch {torch.__version__}, {platform.machine()}, {capability}")
    for table in TABLES:
        for line in table.lines():
            terminalreporter.write_line(line)
