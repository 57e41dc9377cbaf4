"""`python -m autoprune.measure`, and the Python interface."""

import json

import keras
import pytest
from running import command, run_in

import autoprune
from autoprune.cost.chips import CHIPS
from autoprune.data import load_data
from autoprune.records import Target
from autoprune.settings import (
    AgentSettings,
    DataSettings,
    LimitsSettings,
    SearchSettings,
    TargetSettings,
    TrainingSettings,
)


def test_one_model_on_every_generation(tmp_path):
    folder, done = run_in(
        tmp_path, "model=resnet20", "model.width=0.5", "target=all", "target.batch_size=8", module="measure"
    )
    reports = json.loads((folder / "costs.json").read_text())
    assert [report["target"]["name"] for report in reports] == list(CHIPS)
    for chip in CHIPS:
        assert chip in done.stdout
    assert done.stdout.count("compiler estimate") == len(CHIPS)


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


def test_sweep_over_uniform_ratios(tmp_path):
    options = ("model=plain_cnn", "model.width=0.5", "target=tpu_v5e", "sweep=uniform", "keep_ratios=[0.5,0.25]")
    folder, done = run_in(tmp_path, *options, module="measure")
    dense, half, quarter = json.loads((folder / "sweep.json").read_text())
    assert [row["keep_ratio"] for row in (dense, half, quarter)] == [1.0, 0.5, 0.25]
    assert dense["reports"][0] == json.loads((folder / "costs.json").read_text())[0]
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
    import subprocess
    import sys

    code = "import sys, autoprune; print(sorted({'tensorflow', 'torch', 'jax', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    for name in autoprune.__all__:
        assert callable(getattr(autoprune, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        autoprune.nonsense  # noqa: B018


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
    result = autoprune.search(model, data, target="tpu_v5e", latency=0.9, folder=tmp_path / "run", settings=settings)
    assert result.model is model
    assert result.finished[0].cost.target == Target("tpu_v5e", 64)
    assert model.count_params() < before
    assert set(result.plan.kept) == {"conv2d", "conv2d_1"} or len(result.plan.kept) == 2
    assert len(result.history["rl"]) == 4
    assert result.report.exists()
    assert result.policy is not None
    dense, *pruned = result.finished
    assert all(done.cost.latency <= 0.9 * dense.cost.latency for done in pruned)
