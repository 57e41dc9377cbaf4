"""Gates in a search: scored as they run, and what they change."""

import math
from concurrent.futures import Future
from contextlib import closing

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Dataset, Split
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import accuracy, read_signals
from autoprune.evaluation.contributions import measure_contributions
from autoprune.evaluation.recovery import recalibrate
from autoprune.graph import find_branches
from autoprune.planning import Planner
from autoprune.records import Memory
from autoprune.settings import Constraints, EvaluationSettings
from autoprune.surgery import Surgeon
from helpers import toy
from helpers.branching import made_branching, squeezed_by_convolutions
from helpers.topologies import images_for, randomise


class NoCosts:
    """Every model costs the same."""

    target = toy.TARGET

    def submit(self, model):
        answer = Future()
        answer.set_result(toy.cost_report(1.0, Memory(1, 1, 1, 3)))
        return answer


def dataset():
    generator = np.random.default_rng(0)
    splits = [
        Split(generator.normal(size=(60, 8, 8, 2)).astype("float32"), generator.integers(0, 5, 60)) for _ in range(3)
    ]
    return Dataset("noise", *splits, 5)


@pytest.mark.parametrize("name", ["gated_residuals", "gated_inverted_residuals"])
def test_a_named_gate_is_scored_as_it_runs(name, tmp_path):
    model, data = made_branching(name), dataset()
    names = [branch.name for branch in find_branches(model) if branch.kind == "gate"]
    constraints = Constraints(multiple_of=1, depth=[*names, "sum2[1]"] if name == "gated_residuals" else names)
    planner = Planner(model, constraints=constraints, data=data.train.images[:32])
    settings = EvaluationSettings(recovery="none")
    with closing(Journal(tmp_path / "journal.sqlite", {})) as journal:
        evaluator = Evaluator(model, planner, data, cost_model=NoCosts(), journal=journal, settings=settings)
        before, generator = model.get_weights(), np.random.default_rng(1)
        candidates = [planner.space.nearest(dict.fromkeys(names, 0)), planner.space.random(generator, 0.6)]
        scored = [evaluator.evaluate(candidate) for candidate in candidates]
    for weight, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, wanted)
    assert scored[0].dropped == tuple(names)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    for candidate, evaluation in zip(candidates, scored, strict=True):
        assert math.isfinite(evaluation.score)
        with surgeon.pruning(planner.space.plan(candidate), snapshot):
            recalibrate(model, data.train.images)
            right, expected = accuracy(model, data.reward), read_signals(model, data.reward, None).likelihood
        assert evaluation.accuracy == pytest.approx(right, abs=1 / 60)
        assert evaluation.score == pytest.approx(expected, rel=1e-3)


def test_without_a_gate_there_is_its_mean():
    """What it changes is told beside the product with the mean over a few images."""
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    gate = squeezed_by_convolutions(x, 4, "se")
    last = layers.Conv2D(3, 1, name="last")(layers.Multiply()([gate, x]))
    model = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(last)))
    randomise(model)
    images = images_for(model, 8)
    (branch,) = find_branches(model)
    (found,) = measure_contributions(model, [branch], images).values()
    factor, scaled = (keras.ops.convert_to_numpy(value) for value in keras.Model(image, [gate, x])(images))
    whole, rest = factor * scaled, factor.mean(0) * scaled
    norms = [np.linalg.norm(array) for array in (whole - rest, rest)]
    assert found.change == pytest.approx(norms[0] / sum(norms), rel=1e-4)
    flat = [array.reshape(8, -1) for array in (whole, rest)]
    cosines = (flat[0] * flat[1]).sum(1) / np.linalg.norm(flat[0], axis=1) / np.linalg.norm(flat[1], axis=1)
    assert found.similarity == pytest.approx(cosines.mean(), rel=1e-4)
