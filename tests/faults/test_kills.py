"""Processes of a small search are killed at random moments: it goes on, or is resumed, and finds what it would have."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from helpers.processes import wait_until
from helpers.running import started
from helpers.small_search import SMALL, found_by

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

MARK = "AUTOPRUNE_TESTED_FOLDER"


class Place:
    """A folder for one search, its scratch folders and the mark that all its processes carry.

    Args:
        path: an empty folder.
        arguments: of the search.
    """

    def __init__(self, path, *arguments):
        self.run = path / "run"
        self.scratch = path / "scratch"
        self.scratch.mkdir()
        self.environment = {MARK: str(path), "TMPDIR": str(self.scratch)}
        self._arguments = (*SMALL, *arguments, f"hydra.run.dir={self.run}")

    def start(self):
        """Begin the search, or go on with it."""
        begun = (self.run / "settings.json").exists()
        return started(*((f"resume={self.run}",) if begun else self._arguments), environment=self.environment)

    def children(self, module):
        """Process ids of those that serve a module."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                try:
                    line, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
                except OSError:  # It has ended, or is another user's.
                    continue
                if module.encode() in line and f"{MARK}={self.environment[MARK]}".encode() in variables:
                    found.append(int(process.name))
        return found

    def check_clean(self):
        """No process is left, and no file."""
        assert wait_until(lambda: self.children("autoprune") == []), "processes are left"
        assert wait_until(lambda: list(self.scratch.glob("autoprune-*")) == []), "scratch folders are left"
        assert not list(self.run.glob("*partial*"))


def test_a_search_that_is_killed_again_and_again_finds_what_it_would_have(whole, tmp_path, faults, count):
    expected, seconds, costs = whole
    moments, kills, attempt = random.Random(0), 0, 0
    while kills < faults:
        (tmp_path / str(attempt)).mkdir()
        place = Place(tmp_path / str(attempt), f"target.cache={costs}", f"workers={1 + attempt % 2}")
        attempt += 1
        while True:
            process = place.start()
            if kills < faults:
                time.sleep(moments.uniform(0.05, 1) * seconds)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    count("search killed, then resumed")
                    process.communicate()
                    continue
            said = "".join(process.communicate())
            assert process.returncode == 0, said
            break
        assert found_by(place.run) == expected
        place.check_clean()


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("autoprune.evaluation.scoring_worker", "worker killed while the search went on"),
        ("autoprune.cost.compiler.worker", "compiler killed while the search went on"),
    ],
)
def test_a_search_whose_children_are_killed_goes_on(whole, tmp_path, faults, count, module, what):
    """A plan that was in hand twice has failed, and the search has gone another way since; else all is as it was."""
    (expected, *_), seconds, costs = whole
    known = {key: (score, latency) for course in expected.values() for key, score, latency in course}
    compiles = module.startswith("autoprune.cost")
    moments, kills, attempt = random.Random(1), 0, 0
    while kills < faults:
        (tmp_path / str(attempt)).mkdir()
        place = Place(tmp_path / str(attempt), "workers=2", f"target.cache={'off' if compiles else costs}")
        attempt += 1
        process = place.start()
        while process.poll() is None:
            time.sleep(moments.uniform(0.2, 0.6) * seconds)
            victims = place.children(module)
            if victims and kills < faults:
                try:
                    os.kill(moments.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                kills += 1
                count(what)
        said = "".join(process.communicate())
        assert process.returncode == 0, said
        metrics = json.loads((place.run / "metrics.json").read_text())
        evaluations = [e for course in metrics["courses"].values() for e in course]
        for evaluation in evaluations:
            if evaluation.get("error"):
                assert "died 2 times" in evaluation["error"]
            elif evaluation["key"] in known:
                assert (evaluation["score"], evaluation["cost"]["latency"]) == known[evaluation["key"]]
        place.check_clean()
