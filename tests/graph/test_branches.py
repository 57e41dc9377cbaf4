"""Branches: which operands of sums and concatenations a model is valid without, and what goes with each."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.graph import find_branches, find_groups
from autoprune.models import keras_internals, zoo


def by_name(model):
    return {branch.name: branch for branch in find_branches(model)}


def conv(x, name, filters=4, **options):
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)


def with_classifier(inputs, x):
    return keras.Model(inputs, layers.Dense(3, name="classifier")(layers.GlobalAveragePooling2D()(x)))


def test_residual_functions_and_projecting_shortcuts_are_branches():
    branches = by_name(zoo.build("small_resnet", (16, 16, 3), 10))
    assert list(branches) == [
        "stage1_block1",
        "stage2_block1_add[0]",
        "stage2_block1",
        "stage3_block1_add[0]",
        "stage3_block1",
    ]
    block = branches["stage2_block1"]
    assert block.removable
    assert (block.kind, block.merge, block.operand, block.needed) == ("sum", "stage2_block1_add", 1, (0, 1))
    assert block.layers == tuple(
        f"stage2_block1_{name}" for name in ("conv1", "conv1_bn", "conv1_relu", "conv2", "conv2_bn")
    )
    assert block.groups == ("stage2_block1_conv1",)
    shortcut = branches["stage2_block1_add[0]"]
    assert shortcut.layers == ("stage2_block1_shortcut", "stage2_block1_shortcut_bn")
    assert shortcut.groups == ()


@pytest.mark.parametrize(
    ("name", "count"), [("MobileNetV2", 10), ("ResNet50V2", 23), ("EfficientNetB0", 9), ("Xception", 16)]
)
def test_blocks_of_applications_are_branches_that_can_go(name, count):
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10)
    branches = [branch for branch in find_branches(model) if branch.kind != "gate"]
    assert len(branches) == count
    assert all(branch.removable for branch in branches)


@pytest.mark.parametrize("name", ["resnet20", "small_mobilenet", "small_densenet"])
def test_nothing_else_reads_what_leaves_with_a_branch(name):
    """With the operand replaced by zeros, the layers of the branch are without effect on the outputs."""
    model = zoo.build(name, (16, 16, 3), 10)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    operations = keras_internals.operations_by_path(model)
    for branch in find_branches(model):
        before = run_without(model, images, branch)
        values = {path: operations[path].get_weights() for path in branch.layers}
        for path in branch.layers:
            operations[path].set_weights([value + 1 for value in values[path]])
        np.testing.assert_array_equal(run_without(model, images, branch), before)
        assert not np.array_equal(model(images), before)
        for path in branch.layers:
            operations[path].set_weights(values[path])


def run_without(model, images, branch):
    """The model's graph, call by call, with zeros for the operand that the branch is."""
    values = {id(model.inputs[0]): images}
    for node in keras_internals.nodes_of(model):
        if node.is_input:
            continue
        given = [values[id(tensor)] for tensor in node.input_tensors]
        if node.operation.name == branch.merge:
            given[branch.operand] = keras.ops.zeros_like(given[branch.operand])
        outputs = keras.tree.flatten(node.operation(given[0] if len(given) == 1 else given))
        values.update((id(tensor), value) for tensor, value in zip(node.outputs, outputs, strict=True))
    return np.asarray(values[id(model.outputs[0])])


def test_axes_behind_a_concatenation():
    model = zoo.build("small_densenet", (16, 16, 3), 10)
    branch = by_name(model)["block1_concat1[1]"]
    (group,) = branch.groups
    new = next(found for found in find_groups(model) if found.name == group)
    assert branch.kind == "concatenation"
    # The convolutions that read the new features, whole or at the end of a longer axis.
    assert {(member.layer, member.name) for member in branch.members} == {
        (member.layer, member.name) for member in new.members if member.layer not in branch.layers
    }
    for member in branch.members:
        assert (member.channels >= 0).sum() == new.size


def test_channels_of_a_pooled_path_are_told_from_those_of_what_it_pools():
    image = keras.Input((8, 8, 3))
    stem = conv(image, "stem", 6)
    paths = [conv(stem, "path", 5), layers.MaxPooling2D(3, 1, "same", name="pooled")(stem)]
    branches = by_name(with_classifier(image, conv(layers.Concatenate(name="merge")(paths), "after")))
    (member,) = branches["merge[1]"].members
    assert branches["merge[1]"].layers == ("pooled",)
    assert (member.layer, member.name, member.axis % 4) == ("after", "kernel", 2)
    assert (member.channels >= 0).tolist() == [False] * 5 + [True] * 6


def test_what_cannot_go_says_why():
    image, other = keras.Input((8, 8, 3), name="image"), keras.Input((8, 8, 4), name="other")
    x = conv(image, "stem")
    gate = layers.Dense(4, name="gate")(layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x))
    x = layers.Add(name="broadcast")([conv(x, "wide"), gate])
    x = layers.Add(name="with_input")([x, layers.ReLU(name="relu")(other)])
    tied = layers.Concatenate(name="tied")([conv(x, "left"), conv(x, "right")])
    x = layers.Add(name="ties")([tied, conv(x, "across", 8)])
    last = layers.Concatenate(name="outputs")([conv(x, "one"), conv(x, "two")])
    branches = by_name(keras.Model([image, other], last))
    assert branches["broadcast[0]"].reason == "is the only operand of 'broadcast' that has the shape of its output"
    assert branches["broadcast[1]"].removable
    assert branches["with_input[1]"].reason == "is all that reads an input of the model"
    assert branches["tied[0]"].reason == "has channels that are tied to others behind 'tied'"
    assert branches["outputs[0]"].reason.startswith("has channels that must stay behind 'outputs': one is an output")


def test_shared_layers_stay_and_identities_are_no_branches():
    image = keras.Input((8, 8, 4))
    shared, own = layers.Conv2D(4, 1, name="shared"), layers.Conv2D(4, 1, name="own")
    x = conv(image, "stem")
    x = layers.Add(name="first")([x, own(shared(x))])
    x = layers.Add(name="second")([x, shared(x)])
    branches = by_name(with_classifier(image, x))
    # The second sum has the shared layer's other call as its operand: no layer would go.
    assert {name: branch.layers for name, branch in branches.items()} == {"first[1]": ("own",)}


def test_layers_that_another_operation_holds_keep_their_branch():
    class Tied(layers.Layer):
        def __init__(self, layer, **options):
            super().__init__(**options)
            self.held = [layer]

        def call(self, x):
            return x + keras.ops.mean(self.held[0].kernel)

    image = keras.Input((8, 8, 4))
    inner = layers.Conv2D(4, 1, name="inner")
    x = layers.Add(name="sum")([conv(image, "stem"), inner(image)])
    branches = by_name(with_classifier(image, Tied(inner, name="tied")(x)))
    assert branches["sum[1]"].reason == "holds 'inner', which 'tied' uses too"
    assert branches["sum[0]"].removable


def test_branches_of_nested_models_and_raw_operations():
    entry = keras.Input((8, 8, 4))
    block = keras.Model(entry, entry + conv(conv(entry, "block_a"), "block_b"), name="block")
    image = keras.Input((8, 8, 3))
    x = conv(image, "stem")
    x = keras.ops.add(x, block(x))
    x = keras.ops.concatenate([x, conv(x, "new_a"), conv(x, "new_b")], axis=-1)
    branches = find_branches(with_classifier(image, x))
    found = {branch.layers: branch for branch in branches}
    assert found[("block/block_a", "block/block_b")].name == "block/block"
    assert found[("block",)].groups == ("block/block_a",)
    assert sorted(branch.kind for branch in branches) == ["concatenation", "concatenation", "sum", "sum"]
    assert all(branch.removable for branch in branches)


def test_a_scaled_sum_keeps_the_operand_that_is_not_scaled():
    scaled = keras_internals.application_class("inception_resnet_v2", "CustomScaleLayer")
    image = keras.Input((8, 8, 3))
    x = scaled(0.2, name="sum")([conv(image, "whole"), conv(image, "scaled")])
    branches = by_name(with_classifier(image, x))
    assert branches["sum[0]"].reason == "is what 'sum' gives when all else is removed"
    assert branches["sum[1]"].removable
