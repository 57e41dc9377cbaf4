"""`python -m autoprune.finetune`, as a user runs it, on this host's processor."""

import json
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest

from autoprune.cli import INTERRUPTED
from autoprune.data import load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.records.plain import write_json
from autoprune.training.checkpoints import Checkpoints
from helpers.finished_search import SETTINGS, finished_search
from helpers.running import command, kill_after, run_in, started


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return finished_search(tmp_path_factory.mktemp("search") / "run")


@pytest.fixture(scope="module")
def whole(search, tmp_path_factory):
    """A fine-tuning from its beginning to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    return run_in(folder, f"run={search.path}", "cost=false", "checkpoint_every=4", module="finetune", fresh=True)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder):
    return keras.saving.load_model(folder / "finetuned.keras").get_weights()


def test_a_run_is_fine_tuned_with_its_own_settings(whole, search):
    folder, done = whole
    metrics = metrics_of(folder)
    settings = metrics["settings"]
    assert settings["data"]["train_size"] == SETTINGS.data.train_size
    assert (settings["training"]["batch_size"], settings["seed"]) == (40, 7)
    assert metrics["training"]["epochs"] == 3
    assert metrics["reward_accuracy"] > metrics["reward_accuracy_before"]
    assert (folder / "plan.json").read_text() == search.plan.read_text()
    assert (folder / "teacher.npy").exists()
    assert "test accuracy, taken once" in done.stdout
    assert not [path.name for path in folder.iterdir() if "partial" in path.name]


def test_the_saved_model_is_plain_keras_and_as_good_as_told(whole, search):
    folder, _ = whole
    model = keras.saving.load_model(folder / "finetuned.keras")
    assert not model.compiled
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert accuracy(model, load_data(SETTINGS.data).test) == metrics_of(folder)["test_accuracy"]
    pruned = keras.saving.load_model(search.pruned)
    assert [weight.shape for weight in model.get_weights()] == [weight.shape for weight in pruned.get_weights()]


def test_curves_and_report_belong_to_it(whole):
    folder, _ = whole
    curves, metrics = json.loads((folder / "curves.json").read_text()), metrics_of(folder)
    assert curves["epochs"] == [0, 1, 2, 3]
    assert curves["losses"] == [None, *metrics["training"]["losses"]]
    assert curves["reward_accuracies"][0] == metrics["reward_accuracy_before"] == metrics["training"]["start"]
    assert curves["reward_accuracies"][curves["best_epoch"]] == max(curves["reward_accuracies"])
    report = (folder / "report.html").read_text()
    assert 'data-chart="accuracy"' in report
    assert f"{metrics['test_accuracy']:.2%} test accuracy" in report
    assert not re.search(r"<[^>]*(src|href)=.?http", report.split("<script>")[0])


def test_killed_twice_and_resumed_twice_it_ends_with_the_same_bits(whole, search, tmp_path):
    options = [f"run={search.path}", "cost=false", "checkpoint_every=4"]
    kill_after(started(*options, module="finetune", cwd=tmp_path), lambda: steps_below(tmp_path) >= 3)
    (folder,) = [path.parent for path in tmp_path.glob("outputs/finetune/*/*/.hydra")]
    first = position(folder)
    second = started(f"resume={folder}", module="finetune", cwd=tmp_path)
    kill_after(second, lambda: steps_below(tmp_path) >= first + 9)
    assert position(folder) > first
    assert not (folder / "report.html").exists()
    done = command(f"resume={folder}", module="finetune", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for value, wanted in zip(weights_of(folder), weights_of(whole[0]), strict=True):
        np.testing.assert_array_equal(value, wanted)
    ours, theirs = metrics_of(folder), metrics_of(whole[0])
    for name in ("reward_accuracy", "test_accuracy"):
        assert ours[name] == theirs[name]
    np.testing.assert_allclose(ours["training"]["losses"], theirs["training"]["losses"], rtol=1e-5)


@pytest.mark.slow
def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(search, tmp_path):
    options = (f"run={search.path}", "training.fine_tune_epochs=4", "cost=false")
    process = started(*options, module="finetune", cwd=tmp_path)
    said = kill_after(process, lambda: steps_below(tmp_path) >= 15, signal.SIGINT)
    assert process.returncode == INTERRUPTED, said
    (folder,) = [path.parent for path in tmp_path.glob("outputs/finetune/*/*/.hydra")]
    assert "Interrupted. The last checkpoint is in" in said
    assert f"python -m autoprune.finetune resume={os.path.relpath(folder, tmp_path)}" in said.replace(
        f"{tmp_path}/", ""
    )
    assert position(folder) >= 15
    assert "Traceback" not in said


def position(folder):
    """Steps that the newest checkpoint holds; there are 15 in an epoch."""
    newest = Checkpoints(folder / "checkpoint.safetensors", {}).newest()
    return 15 * newest.position["epoch"] + newest.position["step"] if newest else 0


def steps_below(folder):
    """Steps that the newest checkpoint of the fine-tuning in a working folder holds."""
    return sum(position(path.parent) for path in folder.glob("outputs/finetune/*/*/checkpoint.safetensors"))


def test_what_has_ended_is_not_done_again(whole, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in whole[0].iterdir() if path.is_file()}
    for written in ("finetune.log", ".lock"):
        before.pop(whole[0] / written)
    done = command(f"resume={whole[0]}", module="finetune", cwd=tmp_path)
    assert f"This fine-tuning has ended: its report is {whole[0]}/report.html" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_resume_takes_no_other_option(whole, tmp_path):
    done = command(f"resume={whole[0]}", "training.epochs=9", module="finetune", cwd=tmp_path)
    assert done.returncode == 2
    assert "give resume=FOLDER alone" in done.stderr


def test_a_checkpoint_of_other_settings_is_refused(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    (folder / "report.html").unlink()
    settings = json.loads((folder / "settings.json").read_text())
    settings["training"]["fine_tune_epochs"] = 5
    write_json(folder / "settings.json", settings)
    done = command(f"resume={folder}", module="finetune", cwd=tmp_path)
    assert done.returncode == 2
    assert "is of another training: training changed since" in done.stderr


@pytest.mark.slow
def test_a_plan_for_a_file_with_a_named_recipe_and_a_target(search, tmp_path):
    options = (f"plan={search.plan}", f"model.path={search.dense}", "data.reward_size=0.25", "training=rewinding")
    options += ("training.epochs=4", "training.fine_tune_epochs=1", "target=tpu_v5e", "target.batch_size=8")
    folder, done = run_in(tmp_path, *options, module="finetune")
    metrics = metrics_of(folder)
    pruned = keras.saving.load_model(search.pruned)
    assert [weight.shape for weight in weights_of(folder)] == [weight.shape for weight in pruned.get_weights()]
    assert not (folder / "teacher.npy").exists()
    assert metrics["settings"]["training"]["schedule"] == "rewinding"
    assert metrics["reward_accuracy"] > 0.5
    assert metrics["cost"]["target"] == {"name": "tpu_v5e", "batch_size": 8, "dtype": "bfloat16"}
    assert "compiler estimate" in done.stdout


def test_nothing_to_fine_tune_is_an_error(tmp_path):
    done = command("runtime=cpu", module="finetune", cwd=tmp_path)
    assert done.returncode == 2
    assert "run must be the folder of a search, or else model=file model.path=FILE.keras given" in done.stderr
    assert "Traceback" not in done.stderr
