"""One folder, one run: whose a folder is, what may go on in it, and what is refused before anything is written."""

import os
import platform
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from autoprune import cli
from autoprune.errors import BudgetError, FolderError, SettingsError
from autoprune.evaluation.journal import Journal
from autoprune.pipeline.runs import check_extension, open_run_from_python
from autoprune.records import Evaluation
from autoprune.records.plain import write_text
from autoprune.reporting.run_folder import RunFolder
from autoprune.resuming import is_finished, open_run
from autoprune.settings import ExportSettings, LimitsSettings, MeasureSettings, SearchSettings
from helpers.processes import killed, started
from helpers.running import command

SCHEMAS = {"search": SearchSettings, "measure": MeasureSettings, "export": ExportSettings}


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begins a command in a folder as Hydra would, gives its settings, and ends it."""
    monkeypatch.setattr(cli, "save_config", lambda config, folder: None)

    def begin(*overrides, command="search", folder=tmp_path / "run", end=lambda: None):
        monkeypatch.setattr(cli, "overrides", lambda: list(overrides))
        monkeypatch.setattr(cli, "run_folder", lambda: folder)
        with initialize_config_module("autoprune.conf", version_base="1.3"):
            config = compose(command, overrides=list(overrides))
        with open_run(config, SCHEMAS[command], command) as (settings, _):
            end()
            return settings

    return begin


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# ------------------------------------------------------------------ a folder of one's own


def test_folders_made_at_the_same_time_are_as_many(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.make_new(tmp_path / "outputs" / "10-30-02").path, range(8)))
    assert sorted(path.name for path in made) == ["10-30-02", *(f"10-30-02-{n}" for n in range(2, 9))]


@pytest.mark.parametrize("place", ["run", "sweep"])
def test_two_commands_of_one_second_get_two_folders(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        one, two = (compose("search", overrides=["hydra.job.name=search"], return_hydra_config=True) for _ in range(2))
        found = [OmegaConf.select(config, f"hydra.{place}.dir") for config in (one, one, two)]
    assert found[0] == found[1] != found[2]
    assert {path.parts[:2] for path in map(Path, found)} == {("outputs", "search")}
    assert all(os.path.isdir(path) for path in found)


# ------------------------------------------------------------------ one process to a folder


def test_a_folder_in_use_is_refused_with_who_uses_it_and_free_once_that_is_killed(tmp_path, begin):
    code = (
        "import sys, time\nfrom autoprune.reporting.run_folder import RunFolder\n"
        "with RunFolder.make(sys.argv[1]).hold():\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    other = started(code, tmp_path / "run", PYTHONPATH=os.pathsep.join(sys_path()))
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(FolderError, match=f"process {other.pid} on {platform.node()}"):
        begin()
    with pytest.raises(FolderError, match=f"process {other.pid} on"):
        begin(f"resume={tmp_path / 'run'}")
    assert not contents(tmp_path / "run")
    killed(other)
    assert begin().seed == 0


def sys_path():
    import sys

    return [path for path in sys.path if path]


# ------------------------------------------------------------------ a folder that is given again


def test_the_same_settings_go_on_with_an_interrupted_run(begin, tmp_path):
    began = begin("seed=3")
    before = contents(tmp_path / "run")
    assert begin("seed=3") == began
    assert contents(tmp_path / "run") == before


def test_a_run_goes_on_with_any_workers_and_anywhere(begin, tmp_path):
    began = begin("seed=3")
    again = begin("seed=3", "workers=3", "ray.actors=5")
    assert (began.workers, began.ray.actors, again.workers, again.ray.actors) == (1, None, 3, 5)
    assert again == began, "nothing that is found depends on them"
    resumed = begin(f"resume={tmp_path / 'run'}", "workers=auto", "ray.address=head:6379")
    assert (resumed.workers, resumed.ray.address, resumed.seed) == ("auto", "head:6379", 3)


def test_other_settings_are_refused_with_what_differs_and_the_ways_out(begin, tmp_path):
    begin("seed=3")
    before = contents(tmp_path / "run")
    with pytest.raises(FolderError) as refusal:
        begin("seed=4", "model=plain_cnn")
    said = str(refusal.value)
    assert "seed is 3 there, 4 here" in said
    assert 'model.name is "small_resnet" there, "plain_cnn" here' in said
    assert f"python -m autoprune.search resume={tmp_path / 'run'}" in said
    assert "hydra.run.dir=FOLDER" in said
    with pytest.raises(FolderError, match=r"To extend it: .*resume=\S+ search.evaluations=90"):
        begin("seed=3", "search.evaluations=90")
    with pytest.raises(FolderError, match="is the folder of a search, which a measurement cannot go on with"):
        begin(command="measure")
    assert contents(tmp_path / "run") == before


def test_a_run_that_was_refused_at_once_leaves_the_folder_to_corrected_settings(begin, tmp_path):
    with pytest.raises(BudgetError):
        begin("seed=3", end=lambda: fail(BudgetError("impossible")))
    assert not (tmp_path / "run").exists()
    with pytest.raises(BudgetError):
        begin("seed=4", end=lambda: fail(BudgetError("impossible"), (tmp_path / "run/dense.keras").write_text("x")))
    with pytest.raises(FolderError, match="seed is 4 there, 5 here"):
        begin("seed=5")


def fail(error, *_):
    raise error


def test_files_that_have_changed_are_other_settings_and_one_saved_again_is_not(begin, tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    path, data = tmp_path / "my.keras", tmp_path / "my.npz"
    model.save(path)
    np.savez(data, x=np.zeros((4, 4)), y=np.arange(4))
    given = ("model=file", f"model.path={path}", "data=npz", f"data.path={data}")
    began = begin(*given)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, b"{}" if name == "metadata.json" else content)
    assert begin(*given) == began
    np.savez(data, x=np.ones((4, 4)), y=np.arange(4))
    with pytest.raises(FolderError, match=r"my\.npz has changed since"):
        begin(*given)


def test_nothing_is_written_before_a_folder_is_known_to_be_the_runs_own(tmp_path):
    """As a user runs it: Hydra's own files and the log are no exception."""
    folder = RunFolder.make(tmp_path / "run")
    settings = SearchSettings(seed=3)
    folder.save_settings(settings)
    (folder.path / ".hydra").mkdir()
    (folder.path / ".hydra/config.yaml").write_text("seed: 3\n")
    before = contents(folder.path)
    asked = f"hydra.run.dir={folder.path}"
    for arguments, reason in (
        (["seed=4", asked], "seed is 3 there, 4 here"),
        (["seed=4", f"resume={folder.path}"], "Received: seed"),
        ([f"resume={folder.path}", f"{asked}2"], "without hydra.run.dir"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert reason in " ".join(done.stderr.split())
    assert contents(folder.path) == before


# ------------------------------------------------------------------ more of it


def course(folder, name, count):
    folder.path.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder.journal, {})
    for number in range(1, count + 1):
        journal.add(Evaluation(key=str(number), keep_ratios={}, widths={}, accuracy=0.5, cost=None))
        journal.add_request(name, number, str(number))
    journal.close()


def test_a_run_is_extended_and_never_cut_short(begin, tmp_path):
    folder = RunFolder(tmp_path / "run")
    begin("search.evaluations=5")
    course(folder, "uniform", 3)
    course(folder, "rl", 5)
    longer = begin(f"resume={folder.path}", "search.evaluations=7")
    assert longer.search.evaluations == 7
    check_extension("search.evaluations", 5, folder)
    with pytest.raises(SettingsError, match="search.evaluations must be 5 or more: so many are done in"):
        check_extension("search.evaluations", 4, folder)
    check_extension("replay.evaluations", 4, folder, uncounted=1)
    course(RunFolder(folder.path / "plain_cnn"), "learn@0.6", 9)
    with pytest.raises(SettingsError, match="must be 9 or more"):
        check_extension("search.evaluations", 8, folder)


def test_an_ended_run_keeps_its_settings_until_there_is_a_new_result(begin, tmp_path):
    folder, began = RunFolder(tmp_path / "run"), begin("search.evaluations=5")
    longer = replace(began, search=LimitsSettings(7))
    assert not is_finished("search", began, folder)
    folder.report.write_text("of five")
    assert is_finished("search", began, folder)
    assert not is_finished("search", longer, folder)
    assert folder.load_settings(SearchSettings) == began
    folder.report.unlink()
    assert not is_finished("search", longer, folder)
    assert folder.load_settings(SearchSettings) == longer


def test_half_a_report_is_none(tmp_path):
    report = RunFolder.make(tmp_path).report
    cannot_be_encoded = "begun" * 10_000 + "\ud800"
    with pytest.raises(UnicodeEncodeError):
        write_text(report, cannot_be_encoded)
    assert not list(tmp_path.iterdir())
    write_text(report, "whole")
    with pytest.raises(UnicodeEncodeError):
        write_text(report, cannot_be_encoded)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


# ------------------------------------------------------------------ from Python


def test_a_call_from_python_gets_a_new_folder_or_goes_on_in_the_one_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, known = SearchSettings(search=LimitsSettings(5)), {"model": "m", "weights": "w", "data": "d"}
    paths = set()
    for _ in range(2):
        with open_run_from_python(None, settings, known) as folder:
            paths.add(folder.path.resolve())
    assert len(paths) == 2
    assert {path.parents[1] for path in paths} == {tmp_path / "outputs/search"}
    for _ in range(2):
        with open_run_from_python("mine", settings, known) as folder:
            assert folder.path.name == "mine"
    with open_run_from_python("mine", replace(settings, search=LimitsSettings(9)), known):
        pass
    course(RunFolder(tmp_path / "mine"), "rl", 9)
    for other, files, error in (
        (replace(settings, seed=1), known, "seed is 0 there, 1 here"),
        (replace(settings, search=LimitsSettings(9)), known | {"weights": "v"}, 'weights is "w" there, "v" here'),
        (settings, known, "evaluations must be 9 or more"),
    ):
        before = contents(tmp_path / "mine")
        with pytest.raises((FolderError, SettingsError), match=error), open_run_from_python("mine", other, files):
            raise AssertionError
        assert contents(tmp_path / "mine") == before
