"""Dropped branches in training, beside other models, on failure; and what is refused, saying why."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.errors import PlanError
from autoprune.graph import find_branches
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan, surgeon
from helpers.branching import conv, made_branching, with_head
from helpers.oracle import outputs_of
from helpers.sharing import tie
from helpers.topologies import fitted, images_for, randomise

IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")


def without(plan, *dropped):
    return dataclasses.replace(plan, dropped=dropped)


def half_without(model, *dropped):
    return without(make_plan(model, 0.5, multiple_of=1), *dropped)


def by_name(model):
    return {branch.name: branch for branch in find_branches(model)}


def sum_of(left, right, name="sum"):
    return layers.Add(name=name)([left, right])


def small():
    """A stem, a residual function, a sum of two convolutions, a head."""
    image = keras.Input((6, 6, 3))
    x = conv(image, 8, "stem")
    x = sum_of(x, conv(layers.BatchNormalization(name="norm")(x), 8, "block"), "first")
    x = sum_of(conv(x, 6, "left"), conv(x, 6, "right"), "second")
    model = with_head(image, x)
    randomise(model)
    return model


BLOCK = "first[1]"


def values_of(variables):
    return [(variable.path, keras.ops.convert_to_numpy(variable)) for variable in variables]


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
def test_training_goes_on_with_the_state_of_what_stays(optimizer, tmp_path):
    model, jax = small(), keras.backend.backend() == "jax"
    model.compile(optimizer, "mse", jit_compile=jax, run_eagerly=not jax)
    targets = np.zeros((4, 5), "float32")
    fitted(model, IMAGES, targets)
    one, values = model.optimizer, values_of(model.optimizer.variables)
    state = dict(values)
    whole = Surgeon(model)
    snapshot = whole.snapshot()
    report = whole.apply(without(make_plan(model, 1.0), BLOCK))
    if report.optimizer == "sliced":
        assert model.optimizer is one
        left = dict(values_of(one.variables))
        assert {path for path in state if "norm" in path or "block" in path} == state.keys() - left.keys() != set()
        for path, value in left.items():
            np.testing.assert_array_equal(value, state[path])
    fitted(model, IMAGES, targets)
    model.save(tmp_path / "trained.keras")
    loaded = keras.saving.load_model(tmp_path / "trained.keras")
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    fitted(loaded, IMAGES, targets)
    whole.restore(snapshot)
    assert model.optimizer is one
    for (path, value), (was, wanted) in zip(values_of(one.variables), values, strict=True):
        assert path == was
        np.testing.assert_array_equal(value, wanted)
    fitted(model, IMAGES, targets)


class Drop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            apply_plan(self.model, half_without(self.model, BLOCK))


def test_a_branch_that_goes_while_fit_runs_as_between_two_fits():
    expected, model = small(), small()
    targets, jax = np.ones((4, 5), "float32"), keras.backend.backend() == "jax"
    for each in (expected, model):
        each.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", jit_compile=jax)
    fitted(expected, IMAGES, targets, shuffle=False)
    apply_plan(expected, half_without(expected, BLOCK))
    fitted(expected, IMAGES, targets, shuffle=False)
    fitted(model, IMAGES, targets, shuffle=False, epochs=2, callbacks=[Drop()])
    for weight, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="checkpoints of TensorFlow")
def test_checkpoints_of_tensorflow_can_still_be_written(tmp_path):
    """Each holds the weights that the model has when it is written."""
    import tensorflow as tf

    def sizes_in(path):
        return [math.prod(shape) for name, shape in tf.train.list_variables(path) if name.startswith("model/")]

    model = small()
    model.compile("adam", "mse", jit_compile=False)
    fitted(model, IMAGES, np.zeros((4, 5), "float32"))
    whole = Surgeon(model)
    snapshot = whole.snapshot()
    whole.apply(half_without(model, BLOCK))
    without = tf.train.Checkpoint(model=model).save(tmp_path / "without")
    left = model.count_params()
    whole.restore(snapshot)
    dense = tf.train.Checkpoint(model=model).save(tmp_path / "with")
    # The optimiser's own variables stand beside the weights.
    assert left <= sum(sizes_in(without)) < sum(sizes_in(dense))
    assert model.count_params() <= sum(sizes_in(dense))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="parameters of PyTorch")
def test_parameters_of_pytorch_go_and_come_back():
    model = made_branching("nested_blocks")
    whole, before = Surgeon(model), [id(parameter) for parameter in model.parameters()]
    snapshot = whole.snapshot()
    with whole.pruning(half_without(model, "sum[1]", "twice/twice"), snapshot):
        assert sum(parameter.numel() for parameter in model.parameters()) == model.count_params()
    assert [id(parameter) for parameter in model.parameters()] == before


# ------------------------------------------------------------------ failure, and what is refused


def test_a_failure_puts_the_connections_back(monkeypatch):
    model = small()
    before, config = outputs_of(model, IMAGES)[0], model.get_config()
    monkeypatch.setattr(surgeon.keras_internals, "refresh_outside", lambda *_: 1 / 0)
    with pytest.raises(PlanError, match="is as it was: ZeroDivisionError"):
        apply_plan(model, half_without(model, BLOCK))
    assert model.get_config() == config
    np.testing.assert_array_equal(outputs_of(model, IMAGES)[0], before)


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [
        (("first[2]",), r"has no branch 'first\[2\]'. Did you mean 'first\[1\]'"),
        (("second[0]", "second[1]"), r"Nothing enters 'second' without 'second\[0\]', 'second\[1\]': keep one"),
    ],
)
def test_what_cannot_go_is_refused(dropped, reason):
    model = small()
    with pytest.raises(PlanError, match=reason):
        apply_plan(model, half_without(model, *dropped))


def test_branches_that_cannot_be_removed_are_refused_with_the_reason():
    left, right = keras.Input((6, 6, 3)), keras.Input((6, 6, 3))
    x = sum_of(conv(left, 4, "a"), conv(right, 4, "b"))
    model = with_head([left, right], x)
    with pytest.raises(PlanError, match=r"'sum\[0\]' cannot be dropped: it is all that reads an input"):
        apply_plan(model, half_without(model, "sum[0]"))


def test_all_that_enters_a_kernel_stays():
    """Every branch alone could go: each of two readers sees half of the channels, cut out of the concatenation."""
    image = keras.Input((6, 6, 3))
    stem = conv(image, 4, "stem")
    x = layers.Concatenate(name="join")([conv(stem, 4, "a"), conv(stem, 4, "b"), stem])
    model = with_head(image, layers.Concatenate()([conv(x[..., :8], 4, "reads"), conv(x, 4, "all")]))
    branches = {branch.name: branch for branch in find_branches(model)}
    assert branches["join[0]"].removable
    assert branches["join[1]"].removable
    with pytest.raises(PlanError, match=r"Nothing enters the kernel of 'reads' without 'join\[0\]', 'join"):
        apply_plan(model, without(make_plan(model, 1.0), "join[0]", "join[1]"))


def test_a_surgeon_notices_that_branches_have_gone_since():
    model = small()
    first, second = Surgeon(model), Surgeon(model)
    snapshot, plan = second.snapshot(), without(make_plan(model, 1.0), BLOCK)
    second.apply(plan)
    with pytest.raises(PlanError, match="lost branches after this surgeon looked at it"):
        first.apply(plan)
    second.restore(snapshot)
    assert first.apply(plan).dropped == (BLOCK,)


# ------------------------------------------------------------------ merges of every form


def test_sums_keep_an_operand_of_their_shape_and_dtype():
    image = keras.Input((6, 6, 3))
    x = conv(image, 4, "stem")
    row, column = layers.AveragePooling2D((1, 6), name="rows")(x), layers.AveragePooling2D((6, 1), name="columns")(x)
    x = layers.Concatenate()([sum_of(row, column), conv(x, 4, "other")])
    half = layers.Conv2D(8, 1, dtype="mixed_float16", name="half")(x)
    model = with_head(image, sum_of(half, conv(x, 8, "whole"), "cast"))
    found = by_name(model)
    assert "of which no operand has the shape" in found["sum[0]"].reason
    assert "of which no operand has the shape" in found["sum[1]"].reason
    assert "is the only operand of 'cast'" in found["cast[1]"].reason
    assert found["cast[0]"].removable


def test_a_constant_of_a_concatenation_stays():
    image = keras.Input((6, 6, 3))
    x = conv(image, 4, "stem")
    constant = ops.ones((4, 6, 6, 2))
    joined = layers.Concatenate(name="join")([x, conv(x, 3, "new"), constant])
    model = with_head(image, conv(joined, 4, "last"))
    found = by_name(model)
    for name in [name for name, branch in found.items() if branch.removable]:
        expected = outputs_of(model, IMAGES)[0].shape
        apply_plan(model, without(make_plan(model, 1.0), name))
        assert outputs_of(model, IMAGES)[0].shape == expected


def test_averages_and_products_have_no_branches():
    image = keras.Input((6, 6, 3))
    x = conv(image, 4, "stem")
    x = layers.Average()([x, conv(x, 4, "a")])
    x = layers.Multiply()([x, conv(x, 4, "b")])
    assert find_branches(with_head(image, layers.Maximum()([x, conv(x, 4, "c")]))) == ()


def test_models_within_wrappers_are_left_to_these():
    entry = keras.Input((6, 6, 3))
    inner = keras.Model(entry, layers.Concatenate(name="join")([conv(entry, 2, "a"), conv(entry, 3, "b")]))
    video = keras.Input((2, 6, 6, 3))
    x = layers.TimeDistributed(inner, name="frames")(video)
    model = keras.Model(video, layers.Dense(2)(layers.Flatten()(x)))
    assert find_branches(model) == ()


def test_outputs_that_go_by_their_names_stay():
    image = keras.Input((6, 6, 3))
    x = conv(image, 8, "stem")
    features = sum_of(x, conv(conv(x, 6, "a"), 8, "b"), "features")
    scores = layers.Dense(2, name="scores")(layers.Flatten()(x))
    assert (
        "ends in 'features', one of the outputs"
        in by_name(keras.Model(image, [features, scores]))["features[1]"].reason
    )
    alone = keras.Model(image, features)
    branch = by_name(alone)["features[1]"]
    apply_plan(alone, without(make_plan(alone, 1.0), branch.name))
    np.testing.assert_array_equal(outputs_of(alone, IMAGES)[0], outputs_of(keras.Model(image, x), IMAGES)[0])


def test_branches_with_a_variable_that_others_hold_stay():
    image = keras.Input((6, 6, 3))
    x = conv(image, 4, "stem")
    inside, outside = (layers.Conv2D(4, 3, padding="same", use_bias=False, name=name) for name in ("inside", "outside"))
    x = sum_of(x, inside(x))
    model = with_head(image, outside(x))
    tie(inside, outside)
    assert by_name(model)["sum[1]"].reason == "holds 'inside', which 'outside' uses too"


def test_inputs_may_lose_their_last_readers():
    """Two branches read what nothing else reads, and neither is all that does."""
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((6, 6, 3), name="right")
    x = conv(left, 4, "stem")
    x = sum_of(x, conv(right, 4, "a"), "one")
    model = with_head([left, right], sum_of(x, conv(right, 4, "b"), "two"))
    apply_plan(model, without(make_plan(model, 1.0), "one[1]", "two[1]"))
    assert [tensor.name for tensor in model.inputs] == ["left", "right"]
    np.testing.assert_array_equal(*(outputs_of(model, [IMAGES, other])[0] for other in (IMAGES, 2 * IMAGES)))
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(*(outputs_of(each, [IMAGES, IMAGES])[0] for each in (model, again)))


@keras.saving.register_keras_serializable("branch_corners")
class OwnBlock(keras.Model):
    """A functional model that is saved by its constructor's arguments."""

    def __init__(self, channels, **options):
        entry = keras.Input((6, 6, channels))
        super().__init__(entry, sum_of(entry, conv(entry, channels, "inner")), **options)
        self.channels = channels

    def get_config(self):
        return {"channels": self.channels, "name": self.name}


def test_nested_models_of_own_classes_are_saved_without_their_branch(tmp_path):
    image = keras.Input((6, 6, 3))
    model = with_head(image, OwnBlock(6, name="own")(conv(image, 6, "stem")))
    report = apply_plan(model, without(make_plan(model, 1.0), *by_name(model)))
    assert report.saved_as_plain == ("own",)
    model.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert loaded.count_params() == model.count_params() < report.parameters_before
    np.testing.assert_array_equal(outputs_of(loaded, IMAGES)[0], outputs_of(model, IMAGES)[0])


# ------------------------------------------------------------------ other models


def test_other_models_are_rewired_or_named():
    model = small()
    within, behind = (keras.Model(model.input, model.get_layer(name).output) for name in ("block", "left"))
    before = within.predict(IMAGES, verbose=0)
    whole = Surgeon(model)
    snapshot = whole.snapshot()
    report = apply_plan(model, without(make_plan(model, 1.0), BLOCK))
    assert report.lost_elsewhere == ()
    np.testing.assert_array_equal(within.predict(IMAGES, verbose=0), before)
    stem = keras.Model(model.input, model.get_layer("stem").output)
    np.testing.assert_array_equal(
        outputs_of(behind, IMAGES)[0], keras.ops.convert_to_numpy(model.get_layer("left")(stem(IMAGES)))
    )
    whole.restore(snapshot)
    report = apply_plan(model, without(make_plan(model, {"stem": 0.5}, multiple_of=1), BLOCK))
    assert {"norm", "block"} & set(report.lost_elsewhere)


def test_restored_models_have_their_features_back():
    model = made_branching("residual")
    features = keras.Model(model.input, [model.get_layer(name).output for name in ("outer2", "down")])
    images = images_for(model)
    before = outputs_of(features, images)
    whole = Surgeon(model)
    snapshot = whole.snapshot()
    dropped = [branch.name for branch in whole.branches[:3]]
    with whole.pruning(half_without(model, *dropped), snapshot) as report:
        assert report.dropped == tuple(dropped)
        assert not set(report.left_alone) & {"inner1", "inner2"}
    for output, wanted in zip(outputs_of(features, images), before, strict=True):
        np.testing.assert_array_equal(output, wanted)
