"""One trace serves every plan, and does what running eagerly does."""

from functools import partial

import keras
import numpy as np
import pytest

from autoprune.evaluation.passes import Passes
from autoprune.evaluation.recalibration import recalibrate
from autoprune.evaluation.recovery import ShortTuning
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.surgery import Surgeon

CHANCE = np.random.default_rng(0)
IMAGES = CHANCE.random((96, 16, 16, 1), "float32")
LABELS = CHANCE.integers(0, 10, 96)
TEACHER = np.log(CHANCE.dirichlet(np.ones(10), 96)).astype("float32")
PLANS = (0.5, 0.25, 0.8)


def tuning():
    return ShortTuning(IMAGES, LABELS, TEACHER, steps=4, batch_size=32)


def traced_network(model):
    """As the evaluator has it; the plans may prune anything."""
    tuned = tuning()
    return Passes(model, tuned.loss_for(model)).compiled({"all"}, *tuned.first(8))


def eagerly(model):
    """Outputs at first, and the variables after tuning and recalibration."""
    outputs = np.asarray(model(IMAGES, training=False))
    tuning()(model)
    recalibrate(model, IMAGES, 32)
    return outputs, model.get_weights()


def compiled(model, traced):
    outputs = np.asarray(traced(IMAGES))
    tuning()(model, traced.tune)
    recalibrate(model, IMAGES, 32, traced.collect)
    return outputs, model.get_weights()


@pytest.mark.parametrize("name", ["plain_cnn", "vgg16", "resnet20", "small_mobilenet", "small_densenet"])
def test_it_is_what_runs_eagerly_whatever_was_removed(name):
    """Tuned weights are close, not equal: rounding differs, and Adam divides by it where gradients are nothing."""
    keras.utils.set_random_seed(0)
    model = zoo.build(name, (16, 16, 1), 10, width=0.25)
    surgeon, planner = Surgeon(model), Planner(model)
    snapshot, traced = surgeon.snapshot(), traced_network(model)
    for ratio in PLANS:
        found = []
        for run in (eagerly, partial(compiled, traced=traced)):
            with surgeon.pruned(planner.plan(ratio), snapshot):
                found.append(run(model))
        np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
        differences = [np.abs(a - b).ravel() for a, b in zip(found[0][1], found[1][1], strict=True)]
        assert np.quantile(np.concatenate(differences), 0.99) < 1e-3
