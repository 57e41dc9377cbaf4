"""How often faults are tried, and the table of what was tried in the end."""

import collections
import json
from pathlib import Path

import pytest

COUNTS = collections.Counter()


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=2, help="times that each kind of process is killed")
    parser.addoption("--faults-out", default="", help="JSON file that the counts are written to")


@pytest.fixture(scope="session")
def faults(request):
    """How many of each kind."""
    return request.config.getoption("--faults")


@pytest.fixture
def count():
    """Count a fault that was survived: `count("search killed")`."""

    def counted(what, times=1):
        COUNTS[what] += times

    return counted


def pytest_terminal_summary(terminalreporter, config):
    if COUNTS:
        terminalreporter.section("faults survived")
        for what, times in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{times:6d}  {what}")
        if path := config.getoption("--faults-out"):
            Path(path).write_text(json.dumps(dict(sorted(COUNTS.items())), indent=1) + "\n")
