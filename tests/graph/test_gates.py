"""Gates: which operands of products are some, and into which weights their means can be folded."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.graph import find_branches, find_groups
from helpers.branching import made_branching, squeezed, squeezed_by_convolutions


def gates_of(model):
    return {branch.name: branch for branch in find_branches(model) if branch.kind == "gate"}


def folded(gate):
    return [(member.layer, member.name, member.axis) for member in gate.folds]


def conv(x, name, filters=6, **options):
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)


def with_classifier(inputs, x):
    return keras.Model(inputs, layers.Dense(3, name="classifier")(layers.GlobalAveragePooling2D()(x)))


def test_a_gate_is_a_branch_with_its_layers_and_groups():
    model = made_branching("gated_residuals")
    gate = gates_of(model)["se1"]
    assert (gate.merge, gate.operand, gate.needed, gate.shape) == ("scale1", 1, (0,), (8, 8, 6))
    assert gate.layers == ("se1_pool", "se1_squeeze", "se1_excite", "se1_reshape")
    assert gate.groups == ("se1_squeeze",)
    assert (gate.removable, gate.by_default) == (True, False)
    # In front of the sum: through the rectifier of the second block too.
    assert folded(gate) == [("norm1", "gamma", 0), ("norm1", "beta", 0)]
    assert folded(gates_of(model)["se2"]) == [("norm2", "gamma", 0), ("norm2", "beta", 0)]
    blocks = {branch.name: branch for branch in find_branches(model, find_groups(model)) if branch.kind == "sum"}
    assert "se1_excite" in blocks["sum1[1]"].layers


def test_means_are_folded_into_whatever_reads_the_product():
    gates = gates_of(made_branching("gated_inverted_residuals"))
    assert [folded(gate) for gate in gates.values()] == [[(f"narrow{number}", "kernel", 2)] for number in (1, 2, 3)]
    assert [gate.operand for gate in gates.values()] == [1, 0, 0]
    raw, reshaped = gates_of(made_branching("gates_of_raw_operations")).values()
    assert folded(raw) == [("depthwise", "kernel", 2), ("separable", "depthwise_kernel", 2), ("last", "kernel", 0)]
    ((layer, name, axis),) = folded(reshaped)
    assert (layer, name, axis) == ("hidden", "kernel", 0)
    # Flattened maps of 4x4, channel after channel.
    assert reshaped.folds[0].channels.tolist() == list(range(16)) * 16


def test_what_flows_past_the_product_is_not_scaled():
    gates = gates_of(made_branching("gates_beside_other_channels"))
    (member,) = next(gate for gate in gates.values() if "se1_pool" in gate.layers).folds
    assert member.channels.tolist() == [-1] * 6 + list(range(6)) + [-1] * 3


@pytest.mark.parametrize(
    ("name", "count"), [("EfficientNetB0", 16), ("MobileNetV3Small", 9), ("EfficientNetV2B0", 16), ("ResNet50", 0)]
)
def test_gates_of_applications(name, count, tmp_path):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)
    gates = gates_of(model)
    assert len(gates) == count
    for gate in gates.values():
        assert gate.removable
        ((layer, variable, _),) = folded(gate)
        assert layer.endswith(("project_conv", "project"))
        assert variable == "kernel"
    if name == "MobileNetV3Small":
        model.save(tmp_path / "model.keras")
        assert gates_of(keras.saving.load_model(tmp_path / "model.keras")).keys() == gates.keys()


def test_what_is_no_gate():
    image = keras.Input((8, 8, 4))
    x = conv(image, "stem")
    spatial = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="spatial")(x)
    pixels = layers.Conv2D(6, 1, activation="sigmoid", name="pixels")(x)
    single = layers.Dense(1, activation="sigmoid", name="single")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    unbounded = layers.Dense(6, activation="relu", name="unbounded")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    clipped = layers.ReLU(6.0)(layers.Dense(6, name="clipped")(layers.GlobalAveragePooling2D(keepdims=True)(x)))
    flat = layers.Dense(6, activation="sigmoid", name="flat")(layers.Flatten()(x))
    flat = layers.Reshape((1, 1, 6))(flat)
    for factor in (spatial, pixels, single, unbounded, clipped, flat, ops.sigmoid(x), squeezed(x, 6, "added") + 1.0):
        x = layers.Multiply()([x, factor])
    assert gates_of(with_classifier(image, conv(x, "last"))) == {}
    vector = keras.Input((5,))
    x = layers.Dense(6)(vector) * layers.Dense(6, activation="sigmoid")(vector)
    assert gates_of(keras.Model(vector, layers.Dense(3)(x))) == {}


def refused(build, *, entry=None):
    """Why the only gate of a model cannot go: the rest of the model is built of its product and what that scales."""
    image = keras.Input((8, 8, 4)) if entry is None else entry
    x = layers.Activation("swish", name="swish")(conv(image, "stem"))
    product = layers.Multiply(name="product")([x, squeezed(x, 6, "se")])
    (gate,) = gates_of(keras.Model(image, build(x, product))).values()
    assert not gate.removable
    assert gate.folds == ()
    return gate.reason


def ended(x):
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def test_what_nothing_can_take_the_mean_of_stays():
    before = ", before it 'swish' makes it"
    whole = "has a mean that no weights can take: behind it {}" + before
    assert refused(lambda x, p: p) == whole.format("is an output of the model")
    assert refused(lambda x, p: ended(layers.ReLU(6.0, name="six")(p))) == whole.format("'six' reads it")
    added = refused(lambda x, p: ended(layers.Add(name="sum")([x, p])))
    assert added.endswith("behind it 'sum' reads it, before it 'sum' reads the same")
    several = refused(lambda x, p: [ended(conv(p, "a")), ended(layers.BatchNormalization(name="bn")(p))])
    assert several == whole.format("'bn' reads it")
    grouped = layers.Conv2D(6, 3, groups=2, name="grouped")
    assert refused(lambda x, p: ended(grouped(p))) == whole.format("'grouped' reads it")
    shared = layers.Conv2D(6, 3, name="shared")
    twice = refused(lambda x, p: [ended(shared(p)), ended(shared(conv(p, "other")))])
    assert twice == whole.format("'shared' is called several times")
    wrapped = layers.SpectralNormalization(layers.Conv2D(6, 3, name="inner"), name="wrapped")
    assert refused(lambda x, p: ended(wrapped(p))) == whole.format("'wrapped' reads it")


def test_a_gate_along_another_axis_than_the_channels_stays():
    image = keras.Input((6, 6, 4))
    x = conv(image, "stem")
    rows = layers.Reshape((6, 1, 1))(layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D()(x)))
    (gate,) = gates_of(with_classifier(image, conv(layers.Multiply(name="rows")([x, rows]), "last"))).values()
    channels = "the channels that enter 'rows' cannot be followed"
    assert gate.reason == f"has a mean that no weights can take: behind it {channels}, before it {channels}"


def test_channels_that_are_shuffled_before_the_product_are_not_followed():
    image = keras.Input((6, 6, 4))
    for groups in (1, 2):
        x = layers.Conv2D(6, 1, groups=groups, name=f"maker{groups}")(image)
        shuffled = layers.Permute((1, 2, 4, 3))(layers.Reshape((6, 6, 2, 3))(x))
        shuffled = layers.Reshape((6, 6, 6))(shuffled)
        reasons = []
        for y in (x, shuffled):
            product = layers.Multiply()([y, squeezed(y, 6, f"se{groups}")])
            model = with_classifier(image, layers.Add()([product, conv(image, "other")]))
            (gate,) = gates_of(model).values()
            reasons.append(gate.reason)
        assert reasons[0] == ""
        assert reasons[1].endswith(f"its channels cannot be followed from 'maker{groups}'")


def test_a_kernel_that_another_operation_reads_is_not_scaled():
    class Tied(layers.Layer):
        def __init__(self, layer, **options):
            super().__init__(**options)
            self.held = [layer]

        def call(self, x):
            return x + ops.mean(self.held[0].kernel)

    last = layers.Conv2D(6, 3, name="last")
    reason = refused(lambda x, p: Tied(last, name="tied")(ended(last(p))))
    assert "behind it 'tied' uses the kernel of 'last' too, before it" in reason


def test_a_maker_that_others_read_is_not_scaled():
    image = keras.Input((8, 8, 4))
    x = conv(image, "stem")
    product = layers.Multiply(name="product")([x, squeezed_by_convolutions(x, 6, "se")])
    (gate,) = gates_of(with_classifier(image, layers.Add(name="sum")([x, product]))).values()
    assert gate.reason.endswith("behind it 'sum' reads it, before it 'sum' reads the same")
    # With what it reads alone, its own kernel and bias take the mean.
    other = conv(image, "other")
    product = layers.Multiply(name="product2")([other, squeezed_by_convolutions(other, 6, "se2")])
    (gate,) = gates_of(with_classifier(image, layers.Add()([conv(image, "third"), product]))).values()
    assert folded(gate) == [("other", "kernel", 3), ("other", "bias", 0)]
    np.testing.assert_array_equal(gate.folds[0].channels, np.arange(6))
