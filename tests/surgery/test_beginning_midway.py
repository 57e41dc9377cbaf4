"""Models that begin in the middle of another's graph: Keras copies the calls, and surgery must reach those copies."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from autoprune.graph import find_groups
from autoprune.models.outputs import gives_logits
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.oracle import kept_by_layer, outputs_of, zeroed_outputs
from helpers.topologies import images_for, randomise


def conv(channels, name):
    return layers.Conv2D(channels, 3, padding="same", name=name)


def halves(y):
    return conv(6, "p")(y[..., :8]) + conv(6, "q")(y[..., 8:])


def parts(y):
    return conv(6, "p")(ops.split(y, [5, 12], -1)[1])


def shuffled(y):
    y = ops.reshape(y, (-1, 8, 8, 4, 4))
    return conv(6, "p")(layers.Reshape((8, 8, 16))(ops.transpose(y, (0, 1, 2, 4, 3))))


MIDDLES = {
    "halves": halves,
    "halves meet in a product": lambda y: conv(6, "p")(ops.tanh(y[..., :8]) * ops.sigmoid(y[..., 8:])),
    "new axis": lambda y: conv(6, "p")(y[:, None, ..., 2:10][:, 0]),
    "parts": parts,
    "shuffled": shuffled,
    "bounds": lambda y: conv(6, "p")(ops.clip(y, [-0.1 * n for n in range(16)], 1.0)),
    "nested": lambda y: keras.Sequential([keras.Input((8, 8, 16)), conv(6, "p"), conv(4, "q")])(y),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_pruned_equals_zeroed_comes_back_and_is_saved(middle, tmp_path):
    image = keras.Input((8, 8, 3))
    before = conv(5, "before")(image)
    whole = keras.Model(image, layers.GlobalAveragePooling2D()(MIDDLES[middle](conv(16, "y")(before))))
    model = keras.Model(before, whole.output)
    randomise(model)
    images = images_for(model)
    original = outputs_of(model, images)[0]
    groups, plan = find_groups(model), make_plan(model, 0.5, importance="random", multiple_of=1)
    (expected,) = zeroed_outputs(model, kept_by_layer(groups, plan), images)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    for _ in range(2):
        with surgeon.pruning(plan, snapshot) as report:
            assert "y" in {change.layer for change in report.changes}
            np.testing.assert_allclose(outputs_of(model, images)[0], expected, rtol=2e-5, atol=2e-5)
            model.save(tmp_path / "model.keras")
            loaded = keras.saving.load_model(tmp_path / "model.keras")
            np.testing.assert_array_equal(outputs_of(loaded, images)[0], outputs_of(model, images)[0])
        np.testing.assert_array_equal(outputs_of(model, images)[0], original)


def test_what_the_output_means_is_read_from_its_own_calls():
    entry = keras.Input((4,))
    scores = layers.Activation("linear")
    probabilities = scores(layers.Dense(3, activation="softmax")(entry))
    model = keras.Model(entry, scores(layers.Dense(3)(probabilities)))
    assert gives_logits(model)
    assert not gives_logits(keras.Model(entry, probabilities))
