"""`python -m autoprune.measure`, and the Python interface."""

import json
import re
import signal
import subprocess
import sys

import keras
import pytest

import autoprune
from autoprune.cli import INTERRUPTED
from autoprune.cost.chips import CHIPS
from autoprune.data import load_data
from autoprune.models import zoo
from autoprune.records import Target
from autoprune.settings import (
    AgentSettings,
    DataSettings,
    LimitsSettings,
    SearchSettings,
    TargetSettings,
    TrainingSettings,
)
from helpers.running import command, kill_after, run_in, started


@pytest.mark.slow
def test_one_model_on_every_generation(tmp_path):
    options = ("model=plain_cnn", "model.width=0.5", "target=all", "target.batch_size=8")
    folder, done = run_in(tmp_path, *options, module="measure", fresh=True)
    reports = json.loads((folder / "costs.json").read_text())
    assert [report["target"]["name"] for report in reports] == list(CHIPS)
    assert {report["model"] for report in reports} == {"plain_cnn"}
    for chip in CHIPS:
        assert chip in done.stdout
    assert "compiler estimate" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 128
    for report in reports:
        share = report["utilisation"]
        assert (f"{share:.0%}" if share >= 0.01 else f"{share:.1%}") in done.stdout
    assert f"Figures: {folder}" in done.stdout.splitlines()
    assert "it is not the bound that takes the time" in " ".join(done.stdout.split())


@pytest.fixture
def files(tmp_path):
    """A network, the same pruned, and one that this process's layers alone can make."""
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
    model.save(tmp_path / "dense.keras")
    autoprune.apply_plan(model, autoprune.make_plan(model, 0.5))
    model.save(tmp_path / "pruned.keras")
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(image)
    keras.Model(image, [x, keras.layers.Flatten()(x)], name="two_outputs").save(tmp_path / "twins.keras")
    size = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(size))
    keras.Model(size, keras.layers.Dense(3)(x)).save(tmp_path / "any_size.keras")
    return tmp_path


def test_dense_and_pruned_side_by_side(files):
    options = ("model=file", "model.path=[dense.keras,pruned.keras]", "target=tpu_v5e", "target.batch_size=64")
    more = ("groups=true", "layers=true", "sweep=uniform", "keep_ratios=[0.5]")
    folder, done = run_in(files, *options, *more, module="measure")
    dense, pruned = json.loads((folder / "costs.json").read_text())
    assert (dense["model"], pruned["model"]) == ("dense", "pruned")
    assert pruned["latency"] < dense["latency"]
    for share in (pruned["latency"] / dense["latency"], pruned["memory"]["total"] / dense["memory"]["total"]):
        assert f"{share:.1%}" in done.stdout
    for name, report in (("dense", dense), ("pruned", pruned)):
        table = done.stdout.split(f"{name} on tpu_v5e, layer by layer")[1].split("└")[0]
        shares = re.findall(r"│ +([\d.]+)% │ +(?:[\d.]+%|-) │ +(?:[\d.]+%|-) │", table)
        assert len(shares) == len(report["layers"]) + 1  # and `other`
        assert sum(map(float, shares)) == pytest.approx(100, abs=0.1 * len(shares))
    # Groups and sweep are the first model's, and half of it is the second.
    rows = json.loads((folder / "sweep.json").read_text())
    assert [row["reports"][0]["latency"] for row in rows] == [dense["latency"], pruned["latency"]]
    assert json.loads((folder / "groups.json").read_text())


def test_what_cannot_be_costed_is_a_row(files):
    """The others still come; a model without a fixed input size is refused, a billion images do not fit."""
    options = ("model=file", "model.path=[any_size.keras,dense.keras]", "target=tpu_v5e", "target.batch_size=8")
    folder, done = run_in(files, *options, module="measure")
    refused, dense = json.loads((folder / "costs.json").read_text())
    assert (refused["model"], refused["target"]) == ("any_size", "tpu_v5e")
    assert "which is not fixed" in refused["error"]
    assert dense["latency"] > 0
    assert "failed" in done.stdout
    assert "any_size on tpu_v5e: " in done.stdout


@pytest.mark.slow
def test_nothing_that_could_be_costed_is_an_error(files):
    options = ("model=file", "model.path=dense.keras", "target=tpu_v5e", "target.batch_size=1000000000")
    done = command(*options, module="measure", cwd=files)
    assert done.returncode == 2
    assert "does not fit" in done.stdout
    assert "Nothing could be costed." in done.stderr
    assert "Traceback" not in done.stderr
    (costs,) = files.glob("outputs/measure/*/*/costs.json")
    (row,) = json.loads(costs.read_text())
    assert "does not fit" in row["error"]


@pytest.mark.slow
def test_training_steps_on_one_device_and_a_slice(files):
    options = ("model=file", "model.path=[dense.keras,twins.keras]", "target=tpu_v5e", "target.batch_size=16")
    folder, done = run_in(files, *options, "training_step=true", module="measure")
    one, four, *refused = json.loads((folder / "training_steps.json").read_text())
    assert [(row["model"], row["devices"], row["fits"]) for row in (one, four)] == [
        ("dense", 1, True),
        ("dense", 4, True),
    ]
    assert four["global_batch_size"] == 4 * one["global_batch_size"] == 64
    assert four["communicated"] > one["communicated"] == 0
    assert one["optimizer"] == "adamw"
    assert [(row["model"], row["devices"]) for row in refused] == [("twins", 1), ("twins", 4)]
    assert all("classifiers with one output" in row["error"] for row in refused)
    said = " ".join(done.stdout.split())
    assert "twins on tpu_v5e x 1, twins on tpu_v5e x 4: A training step" in said
    assert "Latency leaves out the time in which devices exchange gradients" in said


@pytest.mark.slow
def test_training_step_that_does_not_fit_says_what_it_needs(files):
    """Whatever is too large is a row, in both tables."""
    options = ("model=file", "model.path=dense.keras", "target=tpu_v5e", "target.batch_size=100000000", "devices=[1]")
    done = command(*options, "training_step=true", "optimizer=sgd", module="measure", cwd=files)
    (steps,) = files.glob("outputs/measure/*/*/training_steps.json")
    (row,) = json.loads(steps.read_text())
    assert not row["fits"]
    assert row["needed"] > row["capacity"]
    assert row["optimizer"] == "sgd"
    assert done.stdout.count("does not fit") >= 2


@pytest.mark.slow
def test_interrupted_command_keeps_the_rows_that_are_finished(tmp_path):
    options = ("model=resnet20", "model.width=0.25", "target=all", "target.batch_size=8", "target.cache=off")
    process = started(*options, module="measure", cwd=tmp_path)
    kill_after(process, lambda: list(tmp_path.glob("outputs/measure/*/*/costs.json")), signal.SIGINT)
    assert process.returncode == INTERRUPTED
    (costs,) = tmp_path.glob("outputs/measure/*/*/costs.json")
    rows = json.loads(costs.read_text())
    assert 1 <= len(rows) < len(CHIPS)
    assert all(row["latency"] > 0 for row in rows)


def test_training_step_needs_a_tpu(tmp_path):
    done = command("target=cpu", "training_step=true", module="measure", cwd=tmp_path)
    assert done.returncode == 2
    assert "A training step is estimated for a TPU by name, such as tpu_v5e. Received: target=cpu" in done.stderr


def test_search_takes_one_file(files):
    done = command("model=file", "model.path=[dense.keras,pruned.keras]", cwd=files)
    assert done.returncode == 2
    assert "model.path must be one file here; `python -m autoprune.measure` takes several" in done.stderr


def test_groups_of_a_file(tmp_path):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(8, 3, name="free")(image)
    x = keras.layers.Softmax()(keras.layers.Conv2D(8, 3, name="stuck")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(image, keras.layers.Dense(3, name="last")(x), name="mine").save(tmp_path / "m.keras")
    folder, done = run_in(tmp_path, "model=file", "model.path=m.keras", "groups=true", "target=cpu", module="measure")
    groups = {group["name"]: group for group in json.loads((folder / "groups.json").read_text())}
    assert groups["free"]["prunable"]
    read = {"layer": "stuck", "name": "kernel", "axis": 2, "role": "consumes", "positions": 8, "length": 8}
    assert read in groups["free"]["members"]
    assert "softmax across the channels" in groups["stuck"]["reason"]
    said = " ".join(done.stdout.split())
    assert "made by free.kernel[3]" in said
    assert "read by stuck.kernel[2]" in said
    assert "is an output of the model" in said
    assert "measured" in said
    assert "'mine' has no branches." in said
    assert json.loads((folder / "branches.json").read_text()) == []


def test_branches_with_the_latency_that_they_hold(tmp_path):
    options = ("model=small_resnet", "model.width=0.5", "groups=true", "target=tpu_v5e", "target.batch_size=8")
    folder, done = run_in(tmp_path, *options, module="measure")
    branches = {branch["name"]: branch for branch in json.loads((folder / "branches.json").read_text())}
    (cost,) = json.loads((folder / "costs.json").read_text())
    assert len(branches) == 5
    for branch in branches.values():
        held = sum(cost["layers"][layer] for layer in branch["layers"] if layer in cost["layers"])
        assert branch["latency"] == {"tpu_v5e": pytest.approx(held / cost["latency"])}
        assert held > 0
        assert f"{held / cost['latency']:.1%}" in done.stdout
    shortcut = branches["stage2_block1_add[0]"]
    assert (shortcut["kind"], shortcut["merge"], shortcut["operand"]) == ("sum", "stage2_block1_add", 0)
    assert shortcut["layers"] == ["stage2_block1_shortcut", "stage2_block1_shortcut_bn"]
    assert shortcut["groups"] == []
    assert branches["stage2_block1"]["groups"] == ["stage2_block1_conv1"]
    assert json.loads((folder / "groups.json").read_text())


@pytest.mark.slow
def test_sweep_over_uniform_ratios(tmp_path):
    options = ("model=plain_cnn", "model.width=0.5", "target=tpu_v5e", "sweep=uniform", "keep_ratios=[0.5,0.25]")
    folder, done = run_in(tmp_path, *options, module="measure")
    dense, half, quarter = json.loads((folder / "sweep.json").read_text())
    assert [row["keep_ratio"] for row in (dense, half, quarter)] == [1.0, 0.5, 0.25]
    (cost,) = json.loads((folder / "costs.json").read_text())
    assert {"model": "plain_cnn", **dense["reports"][0]} == cost
    assert dense["reports"][0]["latency"] > half["reports"][0]["latency"] > quarter["reports"][0]["latency"]
    assert half["channels"] == 0.5
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "FLOPs left" in done.stdout


def test_sweep_refuses_what_cannot_be(tmp_path):
    done = command("sweep=evolution", module="measure", cwd=tmp_path)
    assert "sweep must be uniform, or null. Received: evolution" in done.stderr
    done = command("sweep=uniform", "keep_ratios=[1.5]", "target=cpu", module="measure", cwd=tmp_path)
    assert "A keep ratio is above 0 and at most 1. Received: 1.5" in done.stderr


def test_unknown_target(tmp_path):
    done = command("target=tpu_v5", module="measure", cwd=tmp_path)
    assert done.returncode != 0
    assert "There is no target 'tpu_v5'. Did you mean tpu_v5" in done.stderr


@pytest.mark.parametrize("module", ["search", "measure"])
def test_help_lists_the_choices_from_any_folder(tmp_path, module):
    done = command("--help", module=module, cwd=tmp_path)
    assert done.returncode == 0
    assert "vgg16" in done.stdout
    assert "batch_size" in done.stdout


def test_import_costs_nothing():
    code = "import sys, autoprune; print(sorted({'tensorflow', 'torch', 'jax', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    for name in autoprune.__all__:
        assert callable(getattr(autoprune, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        autoprune.nonsense  # noqa: B018


@pytest.mark.slow
def test_search_from_python_prunes_the_model_in_place(tmp_path):
    data = load_data(DataSettings(reward_size=0.25))
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalMaxPooling2D()(x)))
    before = model.count_params()
    settings = SearchSettings(
        agent=AgentSettings("td3"),
        training=TrainingSettings(epochs=2),
        target=TargetSettings(batch_size=64, cache=None),
        search=LimitsSettings(4),
    )
    result = autoprune.prune(model, data, target="tpu_v5e", latency=0.9, folder=tmp_path / "run", settings=settings)
    assert result.model is model
    assert result.finished[0].cost.target == Target("tpu_v5e", 64)
    assert model.count_params() < before
    assert set(result.plan.kept) == {"conv2d", "conv2d_1"} or len(result.plan.kept) == 2
    assert len(result.history["rl"]) == 4
    assert result.report.exists()
    assert result.policy is not None
    dense, *pruned = result.finished
    assert all(done.cost.latency <= 0.9 * dense.cost.latency for done in pruned)
