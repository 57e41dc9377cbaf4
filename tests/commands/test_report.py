"""`python -m autoprune.report`."""

import json
import re

import pytest

from autoprune.cli import REFUSED
from helpers.running import command, run_in
from helpers.saved_search import saved_search


def test_a_page_is_made_anew_in_the_folder_of_its_run(tmp_path):
    run = saved_search(tmp_path / "run")
    done = command(f"run={run.path}", module="report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Report: {run.report}" in done.stdout.splitlines()
    assert "2.5 times as fast" in run.report.read_text()
    run.network.unlink()
    done = command(f"run={run.path}", module="report", cwd=tmp_path)
    assert f"{run.path}: There is no network.json: the page lacks" in done.stdout
    assert "2.5 times as fast" in run.report.read_text()


@pytest.mark.parametrize("spelling", [("run={0}", "run={1}"), ("run=[{0},{1}]",)])
def test_several_runs_are_joined_in_a_folder_of_their_own(tmp_path, spelling):
    runs = [saved_search(tmp_path / "the runs" / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    folder, _ = run_in(tmp_path, *(one.format(*(run.path for run in runs)) for one in spelling), module="report")
    page = (folder / "report.html").read_text()
    assert "2 runs side by side: one, two." in page
    assert json.loads((folder / "settings.json").read_text())["run"] == [str(run.path) for run in runs]
    assert not any(run.report.exists() for run in runs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "run must be the folder of a run, or a list of them"),
        (("run=none",), "There is no folder 'none'"),
        (("run=.",), "holds no run, of which there is no page"),
        (("runs=x",), "There is no option 'runs'. Did you mean run?"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, arguments, said):
    done = command(*arguments, module="report", cwd=tmp_path)
    assert done.returncode == REFUSED
    assert said in re.sub(r"\s+", " ", done.stderr)
