"""Which channels belong together, which are frozen, and why."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.errors import ModelError
from autoprune.graph import find_groups
from autoprune.layers import exact_kind_of, kind_of, list_kinds
from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.surgery import apply_plan
from helpers.topologies import TOPOLOGIES, head, made


def by_name(name):
    return {group.name: group for group in find_groups(made(name))}


def producers(group):
    return {member.layer for member in group.members if member.role == "produces"}


def test_residual_stage_is_one_group():
    groups = by_name("residual")
    assert producers(groups["stem"]) == {"stem", "outer1", "outer2"}
    assert producers(groups["shortcut"]) == {"shortcut", "down"}
    assert producers(groups["inner1"]) == {"inner1"}
    assert [g for g in groups.values() if not g.prunable] == [groups["classifier"]]


def test_concatenation_keeps_its_parts_apart():
    groups = by_name("growing_concatenation")
    transition = {
        name: member
        for name, g in groups.items()
        for member in g.members
        if member.layer == "transition" and member.role == "consumes"
    }
    assert set(transition) == {"stem", "grow1", "grow2"}
    for name, size, start in (("stem", 8, 0), ("grow1", 5, 8), ("grow2", 5, 13)):
        channels = np.full(18, -1)
        channels[start : start + size] = np.arange(size)
        np.testing.assert_array_equal(transition[name].channels, channels)


def test_sum_with_a_concatenation_gives_a_group_for_each_part():
    groups = by_name("concatenation_meets_sum")
    assert producers(groups["a"]) == {"a", "c"}
    assert producers(groups["b"]) == {"b", "c"}
    assert (groups["a"].size, groups["b"].size) == (4, 6)


def test_flatten_repeats_every_channel_for_every_pixel():
    group = by_name("flatten_head")["a"]
    (hidden,) = [m for m in group.members if m.layer == "hidden" and m.role == "consumes"]
    np.testing.assert_array_equal(hidden.channels, np.tile(np.arange(7), 4))


def test_channels_first_flatten_holds_the_pixels_of_a_channel_together_last():
    group = by_name("channels_first")["b"]
    (dense,) = [m for m in group.members if m.layer == "classifier"]
    # Keras's Flatten transposes to channels-last first.
    np.testing.assert_array_equal(dense.channels, np.tile(np.arange(5), 64))


def test_depth_multiplier_repeats_channels():
    group = by_name("depthwise")["project"]
    (bias,) = [m for m in group.members if (m.layer, m.name) == ("multiplied", "bias")]
    np.testing.assert_array_equal(bias.channels, np.repeat(np.arange(8), 2))


def test_shared_layer_couples_what_it_reads():
    groups = by_name("shared_layer")
    assert producers(groups["a"]) == {"a", "b"}
    assert groups["shared"].prunable


def test_layer_that_also_sees_fixed_channels_keeps_its_own():
    groups = by_name("shared_with_fixed_channels")
    assert groups["free"].prunable
    assert producers(groups["a"]) == {"a", "b"}
    assert "on fixed channels" in groups["a"].reason


def test_one_reshape_of_two_branches_couples_them():
    assert producers(by_name("shared_reshape")["a"]) == {"a", "b"}


def test_nested_layers_have_paths():
    groups = by_name("nested")
    assert {"backbone/inner_a", "backbone/inner_b", "neck/neck_conv"} <= set(groups)
    readers = {m.layer for m in groups["backbone/inner_b"].members if m.role == "consumes"}
    assert readers == {"neck/neck_conv"}


@pytest.mark.parametrize(
    ("name", "group", "reason"),
    [
        ("input_residual", "fixed", "is combined in 'add.*' with a tensor whose channels are fixed"),
        ("spatial_attention", "map", "is broadcast over the channels"),
        ("several_inputs_and_outputs", "feature_map", "is an output of the model"),
        ("sequential", "logits", "is an output of the model"),
    ],
)
def test_frozen_groups_say_why(name, group, reason):
    found = by_name(name)[group]
    assert not found.prunable
    assert re.search(reason, found.reason), found.reason


def test_every_group_is_found_once_and_every_size_agrees():
    for name in TOPOLOGIES:
        model = made(name)
        layers_by_path = keras_internals.layers_by_path(model)
        for group in find_groups(model):
            for member in group.members:
                assert member.channels.max() < group.size
                if not member.is_attribute:
                    variable = keras_internals.layer_variable(layers_by_path[member.layer], member.name)
                    assert len(member.channels) == variable.shape[member.axis]


def test_every_kind_is_exercised_by_a_topology():
    """A kind without a topology is a kind without a proof."""
    layer_types, raw_names = set(), set()
    for name in TOPOLOGIES:
        for operation in all_operations(made(name)):
            layer_types.add(type(operation))
            raw_names.add(keras_internals.raw_operation_name(operation))
    known = [kind for kind in list_kinds() if isinstance(kind, str) or kind.__module__.startswith("keras.")]
    assert {kind for kind in known if isinstance(kind, type)} <= layer_types
    untested = {kind for kind in known if isinstance(kind, str)} - raw_names
    assert untested == set(UNARY) - raw_names, "raw operations are covered by a topology or by the test below"


def all_operations(model):
    for operation in keras_internals.graph_of(model).operations:
        yield operation
        if keras_internals.is_graph(operation):
            yield from all_operations(operation)


UNARY = {
    "Absolute": ops.abs,
    "Cast": lambda x: ops.cast(ops.cast(x, "float16"), "float32"),
    "Ceil": ops.ceil,
    "Celu": ops.celu,
    "Clip": lambda x: ops.clip(x, -1, 1),
    "Cos": ops.cos,
    "Elu": ops.elu,
    "Erf": ops.erf,
    "Exp": ops.exp,
    "Expm1": ops.expm1,
    "Floor": ops.floor,
    "Gelu": ops.gelu,
    "HardShrink": ops.hard_shrink,
    "HardSigmoid": ops.hard_sigmoid,
    "HardSilu": ops.hard_silu,
    "HardTanh": ops.hard_tanh,
    "LeakyRelu": ops.leaky_relu,
    "Log": lambda x: ops.log(ops.abs(x) + 1.0),
    "Log1p": lambda x: ops.log1p(ops.abs(x)),
    "LogSigmoid": ops.log_sigmoid,
    "Negative": ops.negative,
    "Reciprocal": lambda x: ops.reciprocal(ops.abs(x) + 1.0),
    "Relu": ops.relu,
    "Relu6": ops.relu6,
    "Round": ops.round,
    "Rsqrt": lambda x: ops.rsqrt(ops.abs(x) + 1.0),
    "Selu": ops.selu,
    "Sigmoid": ops.sigmoid,
    "Sign": ops.sign,
    "Silu": ops.silu,
    "Sin": ops.sin,
    "SoftShrink": ops.soft_shrink,
    "Softplus": ops.softplus,
    "Softsign": ops.softsign,
    "SparsePlus": ops.sparse_plus,
    "SparseSigmoid": ops.sparse_sigmoid,
    "Sqrt": lambda x: ops.sqrt(ops.abs(x)),
    "Square": ops.square,
    "Squareplus": ops.squareplus,
    "Tanh": ops.tanh,
    "TanhShrink": ops.tanh_shrink,
    "Threshold": lambda x: ops.threshold(x, 0.1, 0.0),
}


@pytest.mark.parametrize("name", [name for name in list_kinds() if name in UNARY])
def test_raw_unary_operation_passes_channels_on(name):
    image = keras.Input((4, 4, 2))
    x = UNARY[name](layers.Conv2D(6, 3, name="a")(image))
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    names = {keras_internals.raw_operation_name(operation) for operation in model.operations}
    assert name in names, f"the example does not use {name}: {names}"
    assert find_groups(model)[0].prunable
    kernel = keras_internals.layer_variable(model.layers[-1], "kernel")
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
    features = keras.Model(image, model.layers[-1].input)
    plan = make_plan(model, 0.5, multiple_of=1)
    kept = plan.kept["a"]
    before = keras.ops.convert_to_numpy(features(x))
    expected = before[:, kept] @ kernel.numpy()[kept]
    apply_plan(model, plan)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(x)), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ what has no kind


def classifier_with(middle, channels=6):
    image = keras.Input((6, 6, 2), batch_size=2)
    x = layers.Conv2D(channels, 3, name="before")(image)
    x = layers.Conv2D(channels, 3, padding="same", name="after")(middle(x))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (
            layers.Lambda(lambda x: x * 2, output_shape=(4, 4, 6)),
            r"\(Lambda\), which runs code .*autoprune.layer_kind",
        ),
        (layers.ConvLSTM1D(6, 1, return_sequences=True), r"\(ConvLSTM1D\), which has no layer kind \(autoprune"),
        (
            layers.TimeDistributed(layers.LSTM(6, return_sequences=True)),
            r"wraps 'lstm' \(LSTM\), which has no layer kind",
        ),
        (layers.Activation("softmax"), "activation 'softmax' .* may look across channels"),
        (layers.Softmax(), "which is a softmax across the channels"),
        (layers.Conv2D(6, 1, activation="softmax", name="soft"), None),
        (lambda x: x + ops.mean(x, axis=-1, keepdims=True), "is reduced over the channels by 'mean"),
        (lambda x: x * x[..., :1][..., 0:1], "is broadcast over the channels"),
        (lambda x: ops.concatenate([x[..., ::2], x[..., 1::2]], -1), "is picked out one by one, or by step"),
        (lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1)), mode="reflect"), "is padded along the channels"),
        (lambda x: ops.transpose(ops.transpose(x)), "takes the place of the batch in 'transpose"),
        (lambda x: ops.repeat(x, [1, 2, 1, 1, 1, 1], axis=-1), "is repeated one by one"),
        (lambda x: ops.concatenate([x, np.ones((2, 4, 4, 1), "float32")], -1), "is concatenated in .* with a constant"),
        (lambda x: x * np.arange(6, dtype="float32"), "with a tensor whose channels are fixed"),
        (lambda x: ops.cumsum(x, axis=-1), r"\(Cumsum\), which has no layer kind"),
        (layers.BatchNormalization(axis=1), "on axis 3, but batch normalisation works on axis 1"),
        (lambda x: layers.Permute((3, 1, 2))(x), "on axis 1, but the convolution works on axis 3"),
    ],
)
def test_operation_without_a_kind_freezes_what_it_touches(middle, reason):
    model = classifier_with(middle)
    groups = {group.name: group for group in find_groups(model)}
    if reason is None:
        assert groups["before"].prunable
        assert "may look across channels" in groups["soft"].reason
    else:
        assert not groups["before"].prunable
        assert re.search(reason, groups["before"].reason), groups["before"].reason
    if "after" in groups:
        assert groups["after"].prunable


def test_reshape_across_the_batch_freezes():
    image = keras.Input((4, 4, 2))
    x = ops.reshape(layers.Conv2D(6, 3, padding="same", name="before")(image), (-1, 3))
    (before, _) = find_groups(keras.Model(image, layers.Dense(2)(x)))
    assert "is reshaped by 'reshape" in before.reason
    assert "together with the batch" in before.reason


@pytest.mark.parametrize("activation", [ops.relu, ops.tanh, keras.activations.sparse_sigmoid, layers.ReLU(), "backend"])
def test_known_functions_are_known_by_identity_as_activations(activation):
    if activation == "backend":
        activation = backend_relu()
    image = keras.Input((6, 6, 2))
    x = layers.Activation(activation)(layers.Conv2D(6, 3, activation=activation, name="before")(image))
    groups = find_groups(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    assert groups[0].prunable, groups[0].reason


def backend_relu():
    if keras.backend.backend() == "torch":
        import torch

        return torch.nn.functional.relu
    if keras.backend.backend() == "jax":
        import jax

        return jax.nn.relu
    import tensorflow

    return tensorflow.nn.relu


def relu(x):
    return ops.relu(x) / (1 + ops.max(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("activation", [relu, ops.softmax, keras.activations.glu, lambda x: ops.relu(x)])
def test_functions_that_are_not_known_are_no_activations_whatever_their_name(activation):
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, activation=activation, name="before")(image)
    (before, _) = find_groups(keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    assert "which may look across channels" in before.reason


class Doubled(layers.Conv2D):
    """A subclass that computes something else."""

    def call(self, inputs):
        return super().call(inputs) * 2


def test_how_a_subclass_of_a_known_layer_passes_channels_is_not_known():
    assert exact_kind_of(Doubled(4, 3)) is None
    assert exact_kind_of(layers.Conv2D(4, 3)) is kind_of(Doubled(4, 3))
    groups = {group.name: group for group in find_groups(classifier_with(Doubled(6, 3, name="doubled")))}
    assert "(Doubled), which has no layer kind" in groups["before"].reason


# ------------------------------------------------------------------ models without a graph


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3)

    def call(self, inputs):
        return self.conv(inputs)


def test_subclassed_model_is_refused_with_a_way_out():
    model = Subclassed()
    model(np.zeros((1, 6, 6, 2), "float32"))
    with pytest.raises(ModelError, match="is a subclassed model.*functional API"):
        find_groups(model)


def test_functional_model_with_its_own_call_is_refused():
    class Overriding(keras.Model):
        def call(self, inputs):
            return super().call(inputs) * 2

    image = keras.Input((6, 6, 2))
    with pytest.raises(ModelError, match="overrides `call`"):
        find_groups(Overriding(image, head(layers.Flatten()(layers.Conv2D(4, 3)(image)))))


def test_sequential_model_with_its_own_call_is_refused():
    class Overriding(keras.Sequential):
        def call(self, *args, **kwargs):
            return super().call(*args, **kwargs) * 2

    with pytest.raises(ModelError, match="overrides `call`"):
        find_groups(Overriding([keras.Input((6, 6, 2)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]))


def test_unbuilt_sequential_is_refused():
    with pytest.raises(ModelError, match=r"has no graph yet.*keras.Input"):
        find_groups(keras.Sequential([layers.Conv2D(4, 3), layers.Flatten()]))
