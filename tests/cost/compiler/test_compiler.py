"""The real TPU compiler: what it says, how it is kept alive, and what is remembered."""

import importlib

import keras
import numpy as np
import pytest

from autoprune.cost import measure_cost, open_cost_model
from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.model import resolve_target, target_names
from autoprune.errors import CostError, RouteError, TargetError, UnknownNameError
from autoprune.models import zoo
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning import make_plan
from autoprune.records import Target
from autoprune.surgery import apply_plan
from helpers.topologies import images_for, made


@pytest.fixture
def cost_of(compiler):
    def cost(model, name="tpu_v5e", batch_size=8, dtype="bfloat16", cache=None):
        cost_model = open_cost_model(Target(name, batch_size, dtype), cache=cache, client=compiler)
        return cost_model.submit(model).result(timeout=300)

    return cost


@pytest.mark.parametrize("chip", list(CHIPS))
def test_every_generation_gives_a_report(cost_of, chip):
    report = cost_of(made("residual"), chip)
    assert report.kind == "compiler estimate"
    assert 1e-7 < report.latency < 1e-2
    assert report.latency >= report.latency_sum * (1 - 1e-9)
    memory = report.memory
    assert memory.total == memory.weights + memory.activations + memory.code
    assert min(memory.weights, memory.activations, memory.code) > 0
    assert report.provenance["libtpu"]
    assert 0 < report.utilisation < 1
    assert report.bound in ("compute", "HBM")
    # Weights are read at least once.
    assert report.traffic >= 2 * report.parameters
    assert report.provenance["device"] == ("one chip" if CHIPS[chip].devices == 1 else "one core (half a chip)")


@pytest.mark.slow
def test_published_vgg_figures_are_met(cost_of):
    """VGG-16 at batch 128 on v5e: 0.91 million cycles; two thirds of that after halving every layer's width."""
    model = zoo.build("vgg16", None, None)
    report = cost_of(model, batch_size=128)
    assert report.latency_sum * CHIPS["tpu_v5e"].clock == pytest.approx(0.906e6, rel=0.02)
    assert model.count_params() == pytest.approx(14.98e6, rel=0.005)
    assert report.flops / 128 / 2 == pytest.approx(313.7e6, rel=0.001)


def test_bound_follows_the_arithmetic_intensity(cost_of):
    """One wide dense layer: a single example reads all weights for itself, thousands share them."""
    image = keras.Input((2048,))
    model = keras.Model(image, keras.layers.Dense(2048)(image))
    one, many = cost_of(model, batch_size=8), cost_of(model, batch_size=4096)
    assert (one.bound, many.bound) == ("HBM", "compute")
    assert one.utilisation < many.utilisation


def test_same_model_same_figures_in_another_process(cost_of):
    first = cost_of(made("unet"))
    other = CompilerPool()
    try:
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=other)
        again = cost_model.submit(made("unet", seed=3)).result(timeout=300)
    finally:
        other.close()
    assert (again.latency, again.latency_sum, again.memory) == (first.latency, first.latency_sum, first.memory)


def test_weights_take_what_their_tiles_take(cost_of):
    """One dense layer in float32: kernel 203x203 in tiles of 8x128, whichever axis is minor, and a bias of 203."""
    image = keras.Input((203,))
    model = keras.Model(image, keras.layers.Dense(203)(image))
    weights = cost_of(model, dtype="float32").memory.weights
    assert weights == (208 * 256 + 256) * 4


def test_pruning_a_model_changes_its_cost(cost_of):
    model = zoo.build("small_resnet", None, None)
    before = cost_of(model, batch_size=128)
    apply_plan(model, make_plan(model, 0.25))
    after = cost_of(model, batch_size=128)
    assert after.latency < 0.7 * before.latency
    assert after.memory.weights < 0.2 * before.memory.weights
    assert after.parameters == model.count_params()


def test_pruned_model_costs_what_a_model_built_at_that_size_costs(cost_of):
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.5)
    wide = zoo.build("plain_cnn", (8, 8, 1), 10, width=1.0)
    apply_plan(wide, make_plan(wide, 0.5, multiple_of=1))
    assert cost_of(wide) == cost_of(model)
    assert architecture_fingerprint(wide) == architecture_fingerprint(model)


def test_dtype_and_batch_are_part_of_the_target(cost_of):
    model = zoo.build("small_resnet", None, None)
    latencies = {cost_of(model, batch_size=b, dtype=d).latency for b in (8, 128) for d in ("bfloat16", "float32")}
    assert len(latencies) == 4


# ------------------------------------------------------------------ layers of one's own


LAYER = """
import keras
@keras.saving.register_keras_serializable("mine")
class Doubling(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2
"""


def test_layer_of_ones_own_must_lie_in_a_module(tmp_path, monkeypatch):
    """The module is found as this process finds it; a layer of the script that is run takes another route."""
    (tmp_path / "my_layers_of_a_test.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    known = importlib.import_module("my_layers_of_a_test").Doubling
    unknown = {"__name__": "__main__"}
    exec(LAYER.replace("Doubling", "Unknown"), unknown)
    image = keras.Input((6,))
    with_known, with_unknown = (keras.Model(image, layer()(image)) for layer in (known, unknown["Unknown"]))
    client = CompilerPool()
    try:
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client)
        assert cost_model.submit(with_known).result(timeout=300).latency > 0
        with pytest.raises(RouteError, match="must lie in a module that can be imported"):
            cost_model.submit(with_unknown).result(timeout=300)
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client)
        assert cost_model.submit(with_unknown).result(timeout=300).provenance["tensorflow"]
    finally:
        client.close()


def test_compiled_and_fitted_model_costs_the_same(cost_of):
    model = made("nested")
    fresh = cost_of(model)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    images = images_for(model)
    model.fit(images, np.zeros(len(images)), verbose=0)
    assert cost_of(model) == fresh


# ------------------------------------------------------------------ targets


def test_unknown_target_suggests_the_near_one():
    with pytest.raises(TargetError, match="no target 'tpu_v5'. Did you mean 'tpu_v5"):
        resolve_target(Target("tpu_v5"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("tpu_v3", 0), "batch_size must be 1 or more. Received: batch_size=0"),
        (Target("tpu_v3", 8, "bf16"), "no dtype 'bf16'. Did you mean 'bfloat16'"),
    ],
)
def test_impossible_targets_are_refused(target, message):
    with pytest.raises(TargetError, match=message):
        resolve_target(target)


def test_without_the_compiler_auto_falls_back_and_tpus_are_refused(monkeypatch, messages):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else real(name, *a))
    assert resolve_target(Target("auto")) == Target("cpu", 128, "float32")
    open_cost_model(Target("auto")).close()
    assert "libtpu, with jax) is not installed" in messages()
    with pytest.raises(TargetError, match=r"tpu_v5e cannot be used here. .* Use target=cpu"):
        resolve_target(Target("tpu_v5e"))


def test_every_target_has_a_config():
    from autoprune.options import config_groups

    assert set(target_names()) | {"auto", "all"} == set(config_groups()["target"])


def test_model_without_a_fixed_input_size_is_refused():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(CostError, match="depends on its input size, which is not fixed"):
        measure_cost(model, "tpu_v5e", cache=None)


def test_unknown_architecture_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="no model 'vgg17'. Did you mean 'vgg16'"):
        zoo.build("vgg17", None, None)
