"""One trace serves every plan, and does what running eagerly does."""

import re
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Split
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.surgery import Surgeon

CHANCE = np.random.default_rng(0)
IMAGES = CHANCE.random((96, 16, 16, 1), "float32")
LABELS = CHANCE.integers(0, 10, 96)
TEACHER = np.log(CHANCE.dirichlet(np.ones(10), 96)).astype("float32")
PLANS = (0.25, 0.8)


def tuning():
    return ShortTuning(Split(IMAGES, LABELS), TEACHER, steps=4, batch_size=32)


def passes_of(model):
    """As the evaluator has them."""
    tuned = tuning()
    return Passes(model, find_groups(model), *tuned.first(8), tuned.loss_for(model))


def eagerly(model):
    """Outputs at first, and the variables after tuning and recalibration."""
    outputs = np.asarray(model(IMAGES, training=False))
    tuning()(model)
    recalibrate(model, IMAGES, 32)
    return outputs, model.get_weights()


def compiled(model, passes):
    traced = passes.network_for({"all"})
    outputs = np.asarray(traced(IMAGES))
    tuning()(model, traced.tune)
    recalibrate(model, IMAGES, 32, traced.collect)
    return outputs, model.get_weights()


def differences(model):
    """Of every plan run both ways: the largest of the outputs, in tolerances, and that of 95 % of the weights.

    Tuned weights are close, not equal: Adam divides by gradients that are but rounding.
    """
    surgeon, planner = Surgeon(model), Planner(model)
    snapshot, passes = surgeon.snapshot(), passes_of(model)
    outputs, weights = [], []
    for ratio in PLANS:
        found = []
        for run in (eagerly, partial(compiled, passes=passes)):
            with surgeon.pruning(planner.plan(ratio), snapshot):
                found.append(run(model))
        (eager, tuned), (traced, as_traced) = found
        outputs.append(np.max(np.abs(eager - traced) / (1e-5 + 1e-4 * np.abs(traced))))
        changes = [np.abs(a - b).ravel() for a, b in zip(tuned, as_traced, strict=True)]
        weights.append(np.quantile(np.concatenate(changes), 0.95))
    return outputs, weights


@pytest.mark.parametrize(
    "name",
    [
        "plain_cnn",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16", "resnet20", "small_mobilenet")),
        "small_densenet",
    ],
)
def test_it_is_what_runs_eagerly_whatever_was_removed(name):
    keras.utils.set_random_seed(0)
    outputs, weights = differences(zoo.build(name, (16, 16, 1), 10, width=0.25))
    assert np.max(outputs) <= 1
    assert np.max(weights) < 1e-3


def network(*middle, classes=10, dtype=None):
    """A convolution, some layers, a convolution, and a head."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((16, 16, 1))
    first = layers.Conv2D(32, 3, dtype=dtype)
    for layer in (first, layers.BatchNormalization(), *middle, layers.Conv2D(32, 3, strides=2)):
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation="sigmoid" if classes == 1 else "softmax")(x))


class Halved(layers.Conv2D):
    """Does something after its bias and its activation."""

    def call(self, inputs):
        return super().call(inputs) / 2


@pytest.mark.parametrize(
    "middle",
    [
        [layers.Dropout(0.5), layers.SpatialDropout2D(0.2)],
        [layers.ActivityRegularization(l2=0.1)],
        [layers.Conv2D(32, 1, kernel_regularizer="l2", bias_constraint=keras.constraints.NonNeg())],
        [layers.BatchNormalization(trainable=False), layers.PReLU(shared_axes=[1, 2])],
        [layers.DepthwiseConv2D(3, use_bias=False), layers.SeparableConv2D(32, 3)],
        [layers.UnitNormalization()],
        [layers.Conv2D(32, 3, groups=4)],
        [layers.BatchNormalization(axis=3), layers.DepthwiseConv2D(3, activation="relu")],
        [layers.Conv2DTranspose(32, 3, strides=2, activation="relu")],
        [layers.LayerNormalization(axis=3), layers.LayerNormalization(), layers.GroupNormalization(8)],
        [layers.Dropout(0.2, noise_shape=(None, 1, 1, 32)), Halved(32, 3, activation="relu")],
    ],
    ids=[
        *("dropout", "activity", "regularised", "frozen", "depthwise", "normalised", "grouped", "on the last axis"),
        *("transposed", "across channels", "a noise shape, a convolution of one's own"),
    ],
)
def test_so_it_is_with_what_training_asks_of_layers(middle):
    """What is dropped depends on a seed that is a variable too. Numbers of channels are read off nothing."""
    outputs, weights = differences(network(*middle))
    assert np.max(outputs) <= 1
    assert np.max(weights) < 1e-3


def test_one_number_that_tells_two_classes_apart():
    model = network(layers.ReLU(), classes=1)
    probabilities = np.log(CHANCE.dirichlet(np.ones(2), 96)).astype("float32")
    tuned = ShortTuning(Split(IMAGES, LABELS % 2), probabilities, steps=4, batch_size=32)
    passes = Passes(model, find_groups(model), *tuned.first(8), tuned.loss_for(model))
    assert passes.network_for({"all"}) is not None


def centred():
    """A layer that does what depends on its width, in a way that no surgeon knows of."""
    layer = layers.ReLU()
    layer.call = lambda inputs: inputs - 1 / (inputs.shape[-1] or 1)
    return layer


def doubled():
    """Another one, that counts on its width."""
    layer = layers.ReLU()
    layer.call = lambda inputs: inputs * (2 * inputs.shape[-1])
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(centred, "its outputs are other ones"), (doubled, "TypeError: .*when calling ReLU.call.*NoneType")],
    ids=["mistakes the width", "counts on the width"],
)
def test_what_cannot_be_traced_runs_eagerly(layer, reason, caplog):
    model = network(layer())
    surgeon, plan = Surgeon(model), Planner(model).plan(0.5)
    with caplog.at_level("INFO"):
        passes = passes_of(model)
        with surgeon.pruning(plan, surgeon.snapshot()):
            assert passes.network_for({"all"}) is None
    (message,) = {record.getMessage() for record in caplog.records if "eagerly" in record.getMessage()}
    assert re.search(f"plans are scored eagerly: .*{reason}", message)
    assert message.isprintable()


def test_half_precision_runs_eagerly():
    """Its gradients are scaled by Keras's own training."""
    policies = {name: passes_of(network(layers.ReLU(), dtype=name)) for name in ("mixed_float16", "mixed_bfloat16")}
    assert policies["mixed_float16"].network_for(set()) is None
    assert policies["mixed_bfloat16"].network_for(set()) is not None


def test_it_is_tried_when_a_group_is_pruned_for_the_first_time():
    model = network(layers.ReLU())
    passes, tried = Passes(model, find_groups(model), IMAGES[:8]), []
    passes.network_for(set()).complaint = lambda *_: tried.append(1) or ""
    for pruned in ({"a"}, {"a"}, {"a", "b"}, {"b"}, set(), {"c"}):
        assert passes.network_for(pruned) is not None
    assert len(tried) == 3
    passes.network_for(set()).complaint = lambda *_: "no more"
    assert passes.network_for({"d"}) is None
    assert passes.network_for({"a"}) is None


def test_trying_changes_nothing():
    model = network(layers.Dropout(0.5))
    before = model.get_weights()
    assert passes_of(model).network_for({"all"}) is not None
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
