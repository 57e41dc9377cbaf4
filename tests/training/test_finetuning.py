"""What a fine-tuning reads and refuses, what it does without a TPU, and what a loss does that is no number."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from autoprune import training_step_cost
from autoprune.errors import (
    AutopruneError,
    DataError,
    DoesNotFitError,
    ModelError,
    PlanError,
    SettingsError,
    TargetError,
)
from autoprune.models import zoo
from autoprune.models.files import load_model, save_model
from autoprune.pipeline import finetune
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import (
    DataSettings,
    FinetuneSettings,
    ModelSettings,
    RuntimeSettings,
    TargetSettings,
    TrainingSettings,
)
from autoprune.training.presence import check_runtime
from autoprune.training.step_check import check_step
from helpers.finished_search import SETTINGS, finished_search

FEW = DataSettings(reward_size=0.25, train_size=200)
TPU = RuntimeSettings("tpu", "mixed_bfloat16", 8)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return finished_search(tmp_path_factory.mktemp("search") / "run")


def of_file(path, **changes):
    training = changes.pop("training", TrainingSettings(fine_tune_epochs=1, distillation=0.0))
    model = ModelSettings("file", path=str(path))
    return FinetuneSettings(model=model, **{"data": FEW, "training": training, "cost": False, **changes})


def run(settings, folder):
    return finetune.run(settings, RunFolder.make(folder / "out"))


# ------------------------------------------------------------------ what is read


def test_what_is_not_said_comes_from_the_run(search):
    said = ["run", "training.temperature", "data.train_size", "target"]
    given = FinetuneSettings(
        run=str(search.path),
        training=TrainingSettings(epochs=12, batch_size=64, temperature=9.0),
        data=DataSettings(train_size=100),
        target=TargetSettings("tpu_v3"),
    )
    found = finetune.complete_settings(given, said)
    assert found.training.temperature == 9.0
    assert dataclasses.replace(found.data, train_size=600) == SETTINGS.data
    assert found.data.train_size == 100
    assert found.target.name == "tpu_v3"
    assert found.seed == SETTINGS.seed
    assert found.cost
    assert found.model == SETTINGS.model


def test_a_recipe_changes_what_it_names_and_leaves_the_rest_to_the_run(search):
    usual = TrainingSettings(epochs=12)  # as conf/training/default.yaml
    recipe = dataclasses.replace(usual, schedule="rewinding", distillation=0.0)
    found = finetune.complete_settings(FinetuneSettings(run=str(search.path), training=recipe), ["run", "training"])
    expected = dataclasses.replace(SETTINGS.training, schedule="rewinding", distillation=0.0)
    assert found.training == expected


def test_the_dense_model_teaches_the_planned_one_and_another_file_the_pruned_one(search, tmp_path):
    taught = TrainingSettings(fine_tune_epochs=0, distillation=0.5)
    by_itself = of_file(search.dense, plan=str(search.plan), training=taught)
    by_other = of_file(search.pruned, teacher=str(search.dense), training=taught)
    for number, settings in enumerate((by_itself, by_other)):
        run(settings, tmp_path / str(number))
    ours, theirs = (np.load(tmp_path / f"{number}/out/teacher.npy") for number in (0, 1))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == (200, 10)
    np.testing.assert_allclose(np.exp(ours).sum(1), 1, rtol=1e-5)


# ------------------------------------------------------------------ what is refused


def test_a_run_that_has_no_result_is_refused(search, tmp_path):
    shutil.copytree(search.path, tmp_path / "run")
    (tmp_path / "run/pruned.keras").unlink()
    settings = FinetuneSettings(run=str(tmp_path / "run"), data=FEW)
    with pytest.raises(ModelError, match="has no pruned.keras: expected the folder of a search that has ended"):
        run(settings, tmp_path)


def test_a_plan_whose_model_changed_is_refused(search, tmp_path):
    keras.utils.set_random_seed(0)
    save_model(zoo.build("plain_cnn", (8, 8, 1), 10, width=0.5), tmp_path / "other.keras")
    with pytest.raises(PlanError):
        run(of_file(tmp_path / "other.keras", plan=str(search.plan)), tmp_path)
    shutil.copytree(search.path, tmp_path / "run")
    shutil.copy(tmp_path / "other.keras", tmp_path / "run/dense.keras")
    with pytest.raises(PlanError, match="is not for its dense.keras: one of them was changed since"):
        run(FinetuneSettings(run=str(tmp_path / "run"), data=FEW), tmp_path)


def test_labels_out_of_range_are_refused(tmp_path):
    keras.utils.set_random_seed(0)
    save_model(zoo.build("plain_cnn", (8, 8, 1), 5, width=0.1), tmp_path / "five.keras")
    with pytest.raises(DataError, match="labels of 'digits' go up to 9, but .* tells 5 classes apart"):
        run(of_file(tmp_path / "five.keras"), tmp_path)


def test_fewer_images_than_a_batch(search, tmp_path):
    """A short batch will do on this host; on a TPU every batch has one shape."""
    few = dataclasses.replace(FEW, train_size=10)
    assert run(of_file(search.pruned, data=few), tmp_path / "cpu").record.epochs == 1
    rehearsal = dataclasses.replace(TPU, rehearse=4)
    with pytest.raises(DataError, match="10 training images, fewer than a batch of 64"):
        run(of_file(search.pruned, data=few, runtime=rehearsal), tmp_path / "tpu")


def test_loss_that_is_no_number_stops_and_the_weights_are_those_before(search, tmp_path, messages):
    wild = TrainingSettings(fine_tune_epochs=2, distillation=0.0, fine_tune_learning_rate=1e38)
    done = run(of_file(search.pruned, training=wild), tmp_path)
    assert "the fine-tuning has been stopped. The loss became" in messages()
    assert done.diverged
    assert done.record.epochs == 0
    assert done.after >= done.before
    saved, begun = load_model(tmp_path / "out/finetuned.keras"), load_model(search.pruned)
    for ours, theirs in zip(saved.trainable_variables, begun.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["diverged"] == done.diverged


def test_fine_tuning_that_only_makes_it_worse_keeps_the_start_and_says_so(search, tmp_path, messages):
    """In the log, the sentence of the terminal and the page; the curve begins with epoch 0, which is the best."""
    wild = TrainingSettings(fine_tune_epochs=2, distillation=0.0, fine_tune_learning_rate=3.0, warm_up=0)
    done = run(of_file(search.dense, training=wild), tmp_path)
    assert done.record.epochs == 2
    assert done.record.best_epoch == 0
    assert done.after >= done.before > max(done.record.accuracies)
    saved, begun = load_model(tmp_path / "out/finetuned.keras"), load_model(search.dense)
    for ours, theirs in zip(saved.trainable_variables, begun.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    said = f"Training only made it worse on the reward split (accuracy {done.before:.2%} before"
    assert said in messages()
    assert said in (tmp_path / "out/report.html").read_text()
    curves = json.loads((tmp_path / "out/curves.json").read_text())
    assert (curves["best_epoch"], curves["epochs"], curves["reward_accuracies"][0]) == (0, [0, 1, 2], done.before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": RuntimeSettings("cpu"), "dry_run": True}, "dry_run must be given with runtime=tpu"),
        ({"runtime": RuntimeSettings("cpu"), "slice": "2x2"}, "slice must be given with runtime=tpu"),
        ({"runtime": TPU, "slice": "two"}, "slice must be a shape such as 2x2, or null. Received: two"),
        ({"checkpoint_every": 0}, "checkpoint_every must be 1 step or more, or null. Received: 0"),
        ({"run": "somewhere", "plan": "plan.json"}, "plan must be given with model.path; a run has its own"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        FinetuneSettings(**{"model": ModelSettings("file", path="m.keras"), **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpuu",), "runtime.name must be one of cpu, gpu, tpu, tpu_tf"),
        (("cpu", "mixed_bfloat16"), "runtime.precision must be null with runtime=cpu"),
        (("tpu", None), "runtime.precision must be mixed_bfloat16 or float32"),
        (("cpu", None, 0), "runtime.steps_per_execution must be 1 or more"),
        (("cpu", None, 1, 4), "runtime.rehearse must be null, or with runtime=tpu"),
    ],
)
def test_runtimes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        RuntimeSettings(*arguments)


# ------------------------------------------------------------------ without a TPU


def test_without_a_tpu_it_says_what_it_looked_for_and_what_can_be_done(tmp_path):
    settings = FinetuneSettings(run="somewhere", runtime=TPU)
    with pytest.raises(TargetError) as refused:
        check_runtime(settings, tmp_path, {})
    said = str(refused.value)
    assert f"no device file {tmp_path}/accel[0-9]* or {tmp_path}/vfio/[0-9]*" in said
    assert "neither TPU_NAME nor TPU_WORKER_ID is set" in said
    assert "runtime=tpu dry_run=true" in said
    (tmp_path / "accel0").touch()
    check_runtime(settings, tmp_path, {})
    check_runtime(dataclasses.replace(settings, dry_run=True), Path("/nowhere"), {})
    rehearsal = dataclasses.replace(settings, runtime=dataclasses.replace(TPU, rehearse=2))
    check_runtime(rehearsal, Path("/nowhere"), {})


def test_without_a_gpu_it_says_so():
    if keras.distribution.list_devices("gpu"):
        pytest.skip("there is a GPU")
    with pytest.raises(TargetError, match="runtime=gpu needs a GPU that Keras on .* can use, and it sees none"):
        check_runtime(FinetuneSettings(run="somewhere", runtime=RuntimeSettings("gpu")))


def test_dry_run_does_everything_but_the_steps(search, tmp_path, capsys, compiler):
    settings = FinetuneSettings(
        run=str(search.path), runtime=TPU, dry_run=True, target=TargetSettings("tpu_v5e"), slice="2x2", data=FEW
    )
    assert run(settings, tmp_path) is None
    report = json.loads((tmp_path / "out/training_step.json").read_text())
    expected = training_step_cost(load_model(search.pruned), "tpu_v5e", 16, devices=4, client=compiler)
    assert (report["latency"], report["needed"]) == (expected.latency, expected.needed)
    assert (report["global_batch_size"], report["provenance"]["topology"]) == (64, "v5e:2x2")
    said = " ".join(capsys.readouterr().out.split())
    assert "It fits. 3 steps of 64 images are an epoch, 6 epochs take about" in said
    assert "No step was taken." in said
    assert not (tmp_path / "out/checkpoint.safetensors").exists()
    assert (tmp_path / "out/start.keras").exists()


@pytest.mark.parametrize(
    ("slice_", "batch_size", "message"),
    [
        ("3x3", 64, "There is no slice 3x3 of tpu_v5e. Known: 1x1, 2x2, 4x4"),
        ("4x4", 60, "training.batch_size must be a multiple of the 16 devices that share it, such as 48 or 64"),
        ("1x1", 100_000_000, "There are 200 training images, fewer than a batch of 100000000"),
    ],
)
def test_steps_that_cannot_be_are_refused_in_a_dry_run(search, tmp_path, slice_, batch_size, message):
    training = TrainingSettings(fine_tune_epochs=1, batch_size=batch_size, distillation=0.0)
    settings = of_file(search.pruned, training=training, runtime=TPU, dry_run=True, slice=slice_)
    with pytest.raises(AutopruneError, match=message):
        run(settings, tmp_path)


def test_a_step_that_does_not_fit_is_refused_before_it_is_taken(search):
    training = TrainingSettings(fine_tune_epochs=1, batch_size=100_000_000, distillation=0.0)
    settings = of_file(search.pruned, training=training, runtime=TPU)
    with pytest.raises(DoesNotFitError, match="100000000 images on each device need .* GiB of the 15") as refused:
        check_step(load_model(search.pruned), settings, None, 1)
    assert refused.value.needed > refused.value.available
