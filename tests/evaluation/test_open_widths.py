"""Every kind of layer that knows its width is traced once for all widths, and does what it does eagerly."""

from functools import partial

import keras
import numpy as np
import pytest

from autoprune.data import Split
from autoprune.evaluation.recovery import ShortTuning
from autoprune.evaluation.scoring import Passes
from autoprune.graph import find_groups
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.topologies import images_for, made

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others compile for each plan anew")
CLASSES = 5


# What networks of keras.applications and others are made of, and what counts, cuts and moves channels.
@pytest.mark.parametrize(
    "name",
    [
        *("depthwise", "unet", "squeeze_excite", "one_dimensional", "three_dimensional", "convnext_block"),
        *("grouped_convolutions", "grouped_as_depthwise", "channel_shuffle", "reshapes", "shared_reshape"),
        *("pixels_as_batch", "normalisations", "group_normalisations", "scaled_per_channel", "wrapped"),
        *("spectrally_normalised", "vision_transformer", "words", "slices", "uneven_split", "moved_axes"),
    ],
)
def test_a_pruned_network_is_what_it_is_eagerly(name):
    model = made(name)
    groups, surgeon = find_groups(model), Surgeon(model)
    snapshot, images = surgeon.snapshot(), images_for(model, 8)
    generator = np.random.default_rng(0)
    teacher = np.log(generator.dirichlet(np.ones(CLASSES), 8)).astype("float32")
    tuning = ShortTuning(Split(images, np.arange(8) % CLASSES), teacher, steps=1, batch_size=8)
    passes = Passes(model, groups, *tuning.first(8), tuning.loss_for(model))
    plan = make_plan(model, 0.5, multiple_of=1)
    found = []
    for run in (eagerly, partial(compiled, passes=passes)):
        with surgeon.pruning(plan, snapshot):
            found.append(run(model, images, tuning))
    (outputs, weights), (outputs_compiled, weights_compiled) = found
    np.testing.assert_allclose(outputs_compiled, outputs, rtol=1e-4, atol=1e-5)
    differences = [np.abs(a - b).ravel() for a, b in zip(weights, weights_compiled, strict=True)]
    # Adam divides by gradients, some of which are but rounding.
    assert np.quantile(np.concatenate(differences), 0.97) < 1e-4


def eagerly(model, images, tuning):
    outputs = np.asarray(model(images, training=False))
    tuning(model)
    return outputs, model.get_weights()


def compiled(model, images, tuning, passes):
    traced = passes.network_for({"all"})
    assert traced is not None
    outputs = np.asarray(traced(images))
    tuning(model, traced.tune)
    return outputs, model.get_weights()
