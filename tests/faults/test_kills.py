"""Processes of a small search are killed at random moments: it goes on, or is resumed, and finds what it would have."""

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from helpers.processes import wait_until
from helpers.running import started
from helpers.small_search import SMALL, found_by

# Ray leaves sockets and files to the garbage collector.
pytestmark = [pytest.mark.slow, pytest.mark.subprocess, pytest.mark.filterwarnings("ignore::ResourceWarning")]

MARK = "AUTOPRUNE_TESTED_FOLDER"


def processes(word, mark=""):
    """Process ids of those with a word in their command line and a mark among their variables."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                line, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:  # It has ended, or is another user's.
                continue
            if word.encode() in line and mark.encode() in variables:
                found.append(int(process.name))
    return found


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

    def evaluations(self):
        """How many are in its journal."""
        path = self.run / "evaluations.sqlite"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
            try:
                return journal.execute("SELECT count(*) FROM evaluations").fetchone()[0]
            except sqlite3.OperationalError:  # It is being made, or written.
                return 0

    def children(self, module):
        """Process ids of those that serve a module."""
        return processes(module, f"{MARK}={self.environment[MARK]}")

    def check_clean(self):
        """No process is left, and no file."""
        assert wait_until(lambda: self.children("autoprune") == []), "processes are left"
        assert wait_until(lambda: list(self.scratch.glob("autoprune-*")) == []), "scratch folders are left"
        assert not list(self.run.glob("*partial*"))


@pytest.fixture
def make_place(tmp_path):
    """Makes places for searches with these arguments."""

    def make(*arguments):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.mkdir()
        return Place(path, *arguments)

    return make


def check_evaluations(place, expected):
    """A plan that was in hand twice has failed, and the search has gone another way since; else all is as it was."""
    known = {key: (score, latency) for course in expected.values() for key, score, latency in course}
    metrics = json.loads((place.run / "metrics.json").read_text())
    for evaluation in [e for course in metrics["courses"].values() for e in course]:
        if evaluation.get("error"):
            assert "died 2 times" in evaluation["error"]
        elif evaluation["key"] in known:
            assert (evaluation["score"], evaluation["cost"]["latency"]) == known[evaluation["key"]]


@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_search_that_is_killed_again_and_again_finds_the_same(
    whole, request, make_place, faults, moments, count, ray
):
    expected, seconds, costs = whole
    kills, attempt = 0, 0
    ways = [(f"workers={number}",) for number in (1, 2)]
    if ray:
        ways = [("workers=ray", f"ray.address={request.getfixturevalue('cluster').address}", "ray.resources={CPU: 1}")]
        seconds *= 2  # Actors take their time to start.
    while kills < faults:
        place = make_place(f"target.cache={costs}", *ways[attempt % len(ways)])
        attempt += 1
        process = place.start()
        while kills < faults:
            time.sleep(moments.uniform(0.05, 1) * seconds)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            kills += 1
            count(f"search {'with actors ' * ray}killed, then resumed")
            process.communicate()
            process = place.start()
        said = "".join(process.communicate())
        assert process.returncode == 0, said
        assert found_by(place.run) == expected
        place.check_clean()
        if ray:
            mark = request.getfixturevalue("cluster").mark
            assert wait_until(lambda mark=mark: processes("ray::Answering", mark) == [], seconds=60)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("autoprune.evaluation.scoring_worker", "worker killed while the search went on"),
        ("autoprune.cost.compiler.worker", "compiler killed while the search went on"),
    ],
)
def test_a_search_whose_children_are_killed_goes_on(whole, make_place, faults, moments, count, module, what):
    (expected, *_), seconds, costs = whole
    kills = 0
    while kills < faults:
        place = make_place("workers=2", f"target.cache={'off' if module.startswith('autoprune.cost') else costs}")
        process = place.start()
        known = lost = 0
        while process.poll() is None:
            time.sleep(moments.uniform(0.1, 0.3) * seconds)
            if place.evaluations() > known:
                known, lost = place.evaluations(), 0
            victims = place.children(module)
            # Three that die while they start, before any has answered, end a search: they will not start at all.
            if victims and kills < faults and lost < 2:
                try:
                    os.kill(moments.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                kills, lost = kills + 1, lost + 1
                count(what)
        said = "".join(process.communicate())
        assert process.returncode == 0, said
        check_evaluations(place, expected)
        place.check_clean()


@pytest.mark.long
@pytest.mark.parametrize("what", ["actor", "node"])
def test_a_search_whose_actors_are_lost_goes_on(whole, cluster, make_place, faults, moments, count, what):
    (expected, *_), seconds, costs = whole
    kills = 0
    while kills < faults:
        extra, lost = cluster.add_node(num_cpus=1) if what == "node" else None, 0
        place = make_place(
            *("workers=ray", f"ray.address={cluster.address}", "ray.resources={CPU: 1}", "ray.actors=3"),
            f"target.cache={costs}",
        )
        process = place.start()
        while process.poll() is None:
            time.sleep(moments.uniform(0.1, 0.5) * seconds)
            victims = processes("ray::Answering", cluster.mark)
            # Three that die while they start, before any has answered, end a search: they will not start at all.
            if not victims or kills == faults or lost == 2 or process.poll() is not None:
                continue
            if extra is None:
                try:
                    os.kill(moments.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            else:
                cluster.remove_node(extra, allow_graceful=False)
                extra = cluster.add_node(num_cpus=1)
            kills, lost = kills + 1, lost + 1
            count(f"{what} killed while the search went on")
        said = "".join(process.communicate())
        if extra is not None:
            cluster.remove_node(extra)
        assert process.returncode == 0, said
        check_evaluations(place, expected)
        place.check_clean()
        assert wait_until(lambda: processes("ray::Answering", cluster.mark) == [], seconds=60)
