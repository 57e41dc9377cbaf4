"""How often faults are tried, and the table of what was survived in the end."""

import collections
import json
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=1, help="times that each kind of process is killed")
    parser.addoption("--faults-out", default="", help="JSON file that the counts are written to")


@pytest.fixture(scope="session")
def faults(request):
    """How many of each kind."""
    return request.config.getoption("--faults", 1)  # Known where this folder is asked for by name.


@pytest.fixture
def count(request):
    """Count faults that were survived: `count("search killed")`, or several at once."""
    return lambda what, times=1: request.node.user_properties.append(("fault", (what, times)))


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for part in terminalreporter.stats.values() for report in part if hasattr(report, "when")]
    counts = collections.Counter()
    for report in reports:
        if report.when == "call":
            for what, times in [value for name, value in report.user_properties if name == "fault"]:
                counts[what] += times
    if counts:
        terminalreporter.section("faults survived")
        for what, times in sorted(counts.items()):
            terminalreporter.write_line(f"{times:6d}  {what}")
        if path := config.getoption("--faults-out"):
            Path(path).write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")
