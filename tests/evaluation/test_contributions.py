"""What branches change, against what the operands themselves say, and that looking leaves no traces."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.evaluation.contributions import measure_contributions
from autoprune.graph import find_branches
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.topologies import images_for, made, randomise


def removable(model):
    return [branch for branch in find_branches(model) if branch.removable]


def expected(rest, branch):
    """Change and similarity of a branch (n, ...) beside the rest of a sum."""
    rest, branch = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (rest, branch))
    whole, norms = rest + branch, [np.linalg.norm(array) for array in (branch, rest)]
    cosines = (whole * rest).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(rest, axis=1)
    return norms[0] / sum(norms), cosines.mean()


def test_of_a_sum_it_is_the_branch_beside_the_rest():
    model = made("residual")
    images = images_for(model, 20)
    found, first = measure_contributions(model, removable(model), images), removable(model)[0].name
    add = next(layer for layer in model.layers if isinstance(layer, layers.Add))
    rest, branch = keras.Model(model.input, add.input)(images, training=False)
    assert (found[first].change, found[first].similarity) == pytest.approx(expected(rest, branch), rel=1e-4)


def network(join):
    """A stem, and a branch that is joined with it."""
    image = keras.Input((6, 6, 2))
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    inner = layers.Conv2D(4, 3, padding="same", name="inner")(stem)
    x = layers.Conv2D(3, 1, name="next")(join(stem, inner))
    model = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    randomise(model)
    return model, keras.Model(image, [stem, inner])


@pytest.mark.parametrize(
    "join", [lambda a, b: layers.Concatenate()([a, b]), lambda a, b: layers.Concatenate()([b, a]), lambda a, b: a + b]
)
def test_raw_operations_and_concatenations(join):
    model, operands = network(join)
    images = images_for(model, 9)
    (branch,) = removable(model)
    contribution = measure_contributions(model, [branch], images)[branch.name]
    stem, inner = (ops.convert_to_numpy(value) for value in operands(images))
    if branch.kind == "concatenation":
        zeros = np.zeros_like(stem)
        stem, inner = np.concatenate([stem, zeros], -1), np.concatenate([zeros, inner], -1)
    assert (contribution.change, contribution.similarity) == pytest.approx(expected(stem, inner), rel=1e-4)


def test_branches_of_nested_models_are_measured_too():
    inner, _ = network(lambda a, b: layers.Add()([a, b]))
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, layers.Dense(3)(inner(image)))
    images = images_for(model, 4)
    (outside,), (within,) = removable(model), removable(inner)
    assert measure_contributions(model, [outside], images)[outside.name] == pytest.approx(
        measure_contributions(inner, [within], images)[within.name]
    )


def test_a_branch_that_adds_nothing():
    model, _ = network(lambda a, b: layers.Add()([a, b]))
    for weight in model.get_layer("inner").weights:
        weight.assign(np.zeros(weight.shape))
    (branch,) = removable(model)
    contribution = measure_contributions(model, [branch], images_for(model))[branch.name]
    assert (contribution.change, contribution.similarity) == pytest.approx((0, 1))


def test_outputs_that_are_not_finite_tell_nothing():
    model, _ = network(lambda a, b: layers.Add()([a, b]))
    model.get_layer("inner").bias.assign(np.full(4, np.inf))
    assert measure_contributions(model, removable(model), images_for(model)) == {}


def test_looking_leaves_no_traces():
    model, other = (made("residual") for _ in range(2))
    images = images_for(model)
    before, config = ops.convert_to_numpy(model(images)), model.get_config()
    nodes = {layer.name: (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers}
    attributes = {layer.name: set(vars(layer)) for layer in (model, *model.layers)}
    measure_contributions(model, removable(model), images)
    assert model.get_config() == config
    assert nodes == {layer.name: (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers}
    assert attributes == {layer.name: set(vars(layer)) for layer in (model, *model.layers)}
    pruned = []
    for each in (model, other):
        surgeon = Surgeon(each)
        snapshot = surgeon.snapshot()
        with surgeon.pruning(make_plan(each, {removable(each)[0].name: 0, "stem": 0.5}, multiple_of=1), snapshot):
            pruned.append(ops.convert_to_numpy(each(images)))
        np.testing.assert_array_equal(ops.convert_to_numpy(each(images)), before)
    np.testing.assert_array_equal(*pruned)
