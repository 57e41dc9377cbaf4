"""How often faults are tried, and the table of what was survived in the end."""

import collections
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from autoprune.data import Dataset, Split
from autoprune.evaluation import Evaluator, Journal
from autoprune.planning import Planner
from autoprune.settings import Constraints, EvaluationSettings
from helpers import toy
from helpers.running import command
from helpers.small_search import SMALL, found_by
from helpers.topologies import made


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, default=1, help="times that each kind of process is killed")
    parser.addoption("--faults-seed", type=int, default=0, help="of the moments at which processes are killed")
    parser.addoption("--faults-out", default="", help="JSON file that the counts are added to")


@pytest.fixture(scope="session")
def faults(request):
    """How many of each kind."""
    return request.config.getoption("--faults", 1)  # Known where this folder is asked for by name.


@pytest.fixture
def moments(request):
    """Draws the moments of faults."""
    return random.Random(f"{request.node.name} {request.config.getoption('--faults-seed', 0)}")


@pytest.fixture
def count(request):
    """Count faults that were survived: `count("search killed")`, or several at once."""
    return lambda what, times=1: request.node.user_properties.append(("fault", (what, times)))


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for part in terminalreporter.stats.values() for report in part if hasattr(report, "when")]
    counts = collections.Counter()
    for report in reports:
        if report.when == "call" and report.passed:
            for what, times in [value for name, value in report.user_properties if name == "fault"]:
                counts[what] += times
    if counts:
        terminalreporter.section("faults survived")
        for what, times in sorted(counts.items()):
            terminalreporter.write_line(f"{times:6d}  {what}")
        if config.getoption("--faults-out"):
            path = Path(config.getoption("--faults-out"))
            counts.update(json.loads(path.read_text()) if path.exists() else {})
            path.write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """What an uninterrupted search finds, how long it takes when compilations are known, and the file with these."""
    place = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    done = command(*SMALL, f"target.cache={place / 'costs.sqlite'}", f"hydra.run.dir={place / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    # Half of it was spent on compilations that are known now.
    return found_by(place / "run"), (time.monotonic() - begin) / 2, place / "costs.sqlite"


def noise(number):
    generator = np.random.default_rng(number)
    return Split(generator.normal(size=(number, 8, 8, 2)).astype("float32"), generator.integers(0, 5, number))


DATA = Dataset("noise", noise(64), noise(32), noise(31), 5)


@pytest.fixture
def opened(tmp_path):
    """Makes an evaluator that scores as the settings say."""
    journals = []

    def make(model=None, **settings):
        model = model or made("plain")
        journals.append(Journal(tmp_path / f"{len(journals)}.sqlite", {}))
        asked = EvaluationSettings(**{"tuning_steps": 2, **settings})
        planner = Planner(model, constraints=Constraints(multiple_of=1))
        return Evaluator(model, planner, DATA, cost_model=toy.KnownCost(), journal=journals[-1], settings=asked)

    yield make
    for journal in journals:
        journal.close()
