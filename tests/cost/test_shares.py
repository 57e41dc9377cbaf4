"""What layers hold of a model: shares of parameters, operations and latency."""

import keras
import pytest

from autoprune.cost.flops import flops_per_layer
from autoprune.cost.shares import parameters_per_layer, share_of
from autoprune.graph import find_branches


def test_share_counts_layers_within_the_named_ones():
    amounts = {"a": 1.0, "block/a": 2.0, "block/inner/b": 3.0, "blocks": 4.0}
    assert share_of(("block",), amounts) == 0.5
    assert share_of(("a", "block/inner"), amounts) == 0.4
    assert share_of((), amounts) == 0.0


def test_share_of_a_whole_that_holds_more_than_its_layers():
    assert share_of(("a",), {"a": 1.0, "b": 1.0}, 4.0) == 0.25
    assert share_of(("a",), {}) == 0.0


def test_parameters_of_layers_add_up_to_those_of_the_model():
    """Each variable counts once, in the innermost layer that holds it, however often that is called."""
    frame = keras.Input((8, 8, 3))
    inner = keras.Model(frame, keras.layers.Conv2D(4, 3, padding="same", name="conv")(frame), name="inner")
    film = keras.Input((2, 8, 8, 3))
    x = keras.layers.TimeDistributed(inner, name="frames")(film)
    x = keras.layers.Reshape((16, 32))(x)
    both = keras.layers.Bidirectional(keras.layers.LSTM(2), name="both")(x)
    shared = keras.layers.Dense(4, name="shared")
    model = keras.Model(film, shared(shared(both)))
    parameters = parameters_per_layer(model)
    assert sum(parameters.values()) == model.count_params()
    assert parameters["frames/inner/conv"] == 3 * 3 * 3 * 4 + 4
    assert parameters["shared"] == 4 * 4 + 4
    within = model.get_layer("both").count_params()
    assert share_of(("both",), parameters) == pytest.approx(within / model.count_params())


def test_what_a_nested_branch_holds():
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv", use_bias=False)(image)
    block = keras.Model(image, keras.layers.Add(name="add")([image, x]), name="block")
    entered = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", name="last", use_bias=False)(block(entered))
    model = keras.Model(entered, x)
    (branch,) = find_branches(model)
    assert branch.layers == ("block/conv",)
    assert share_of(branch.layers, parameters_per_layer(model)) == 0.5
    assert share_of(branch.layers, flops_per_layer(model)) == 0.5
