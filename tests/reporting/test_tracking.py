"""Whoever is told of a run's figures is told each once; what fails, or is missing, harms nothing."""

import sys

import pytest

from autoprune.errors import FolderError, SettingsError
from autoprune.pipeline.tracking import track
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tracking import Curve
from autoprune.settings import SearchSettings, TrackingSettings
from helpers.events import curves_in, trackers_in

SEARCH, TRAINING = Curve("search", "rl"), Curve("training", "rl")


def tell(tracker, course, folder):
    """What a process tells a tracker of a run, and what it takes the run to be."""
    known, trackers = [], trackers_in(folder)
    trackers.open("mine", lambda run: known.append(run) or tracker)
    for curve, step, figures in course:
        trackers.add(curve, step, figures)
    for curve in (SEARCH, TRAINING):
        trackers.end(curve)
    return known


class Notebook:
    """A tracker that remembers what it was told, and from some call on fails."""

    def __init__(self, run_id="first", calls=100):
        self.run_id, self.told, self._calls = run_id, [], calls

    def _note(self, *what):
        self._calls -= 1
        if self._calls < 0:
            raise ConnectionError("the server is gone")
        self.told.append(what)

    def add(self, curve, step, figures, distributions):
        self._note(str(curve), step, figures)

    def conclude(self, figures, files):
        self._note("concluded", figures, files)

    def close(self, outcome):
        self._note(outcome)


def test_who_goes_on_in_a_run_is_told_what_is_new(tmp_path):
    """A resumed run tells everything again. Steps are those of a curve; another run is told all of them."""
    course = [(SEARCH, step, {"score": step / 10}) for step in (1, 2, 3)]
    before, after, other = Notebook(), Notebook(), Notebook("second")
    assert tell(before, course[:2], tmp_path) == [None]
    assert tell(after, [*course, (TRAINING, 1, {"loss": 0.5})], tmp_path) == ["first"]
    assert before.told == [("search/rl", 1, {"score": 0.1}), ("search/rl", 2, {"score": 0.2})]
    assert after.told == [("search/rl", 3, {"score": 0.3}), ("training/rl", 1, {"loss": 0.5})]
    assert [step for step, _ in curves_in(tmp_path / "search" / "rl")["search/score"]] == [1, 2, 3]
    tell(other, course, tmp_path)
    assert [step for _, step, _ in other.told] == [1, 2, 3]


def test_a_run_that_had_finished_is_told_of_its_other_trainings(tmp_path):
    """With more evaluations another plan may win, and the last evaluation of an agent is another's."""
    course = [(SEARCH, 1, {"score": 0.1}), (SEARCH, 2, {"score": 0.2}), (TRAINING, 1, {"loss": 0.5})]
    before, after = Notebook(), Notebook()
    for tracker, told in ((before, course), (after, [*course[:1], (SEARCH, 2, {"score": 0.3}), course[2]])):
        trackers = trackers_in(tmp_path)
        trackers.open("mine", lambda run, tracker=tracker: tracker)
        for each in told:
            trackers.add(*each)
        for curve in (SEARCH, TRAINING):
            trackers.end(curve)
        trackers.close("finished")
    assert after.told == [("search/rl", 2, {"score": 0.3}), ("training/rl", 1, {"loss": 0.5}), ("finished",)]


def test_a_tracker_that_fails_is_told_no_more_and_ends_nothing(tmp_path, messages):
    failing, other = Notebook(calls=1), Notebook()
    trackers = trackers_in(tmp_path)
    trackers.open("failing", lambda known: failing)
    trackers.open("other", lambda known: other)
    for step in (1, 2, 3):
        trackers.add(SEARCH, step, {"score": 1.0, "reward": float("nan")})
    trackers.end(SEARCH)
    trackers.conclude({"final/rl/latency": 0.5}, [])
    trackers.close("finished")
    told = [("search/rl", step, {"score": 1.0}) for step in (1, 2, 3)]
    assert failing.told == told[:1]
    assert other.told == [*told, ("concluded", {"final/rl/latency": 0.5}, []), ("finished",)]
    assert messages().count("failing is told no more of this run: the server is gone") == 1
    assert [step for step, _ in curves_in(tmp_path / "search" / "rl")["search/score"]] == [1, 2, 3]


def test_damaged_notes_are_named(tmp_path):
    (tmp_path / "trackers.json").write_text('{"mine": ')
    with pytest.raises(FolderError, match=r"trackers\.json' is damaged.*Remove it"):
        trackers_in(tmp_path).open("mine", Notebook)


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy", "wandb"])
def test_what_is_not_installed_is_said_before_anything_begins(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    name = "wandb" if missing == "wandb" else "mlflow"
    settings = SearchSettings(tracking=TrackingSettings([name]))
    expected = rf"tracking\.trackers=\[{name}\] needs {missing}.*pip install \"\.\[{name}\]\""
    with pytest.raises(SettingsError, match=expected), track(settings, RunFolder(tmp_path), "search"):
        pytest.fail("it began")
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_told_who_was_not_asked_for(tmp_path):
    folder = RunFolder(tmp_path)
    with track(SearchSettings(), folder, "search"):
        folder.trackers.add(SEARCH, 1, {"score": 1.0})
        folder.trackers.end(SEARCH)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"trackers": ["neptune"]}, "tracking.trackers must be a list of mlflow and wandb. Received: neptune"),
        ({"trackers": ["wandb", "wandb"]}, "different from each other"),
        ({"wandb_mode": "disabled"}, "online, offline or null"),
        ({"mlflow_uri": "postgresql://me:secret@host/runs"}, "without a password.*MLFLOW_TRACKING_URI"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, refusal):
    with pytest.raises(SettingsError, match=refusal) as refused:
        TrackingSettings(**options)
    assert "secret" not in str(refused.value)
