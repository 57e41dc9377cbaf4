"""What the prior of scores is good for: terms that are there are found from few examples, and errors are foreseen."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from autoprune.searchers.quality import FURTHEST, NAMES, PRIORS, QualityModel, _parts

SIZES = np.array([64.0, 64.0, 128.0, 128.0])
EVERY = np.array(list(itertools.product(range(1, 5), repeat=4))) / 4 * SIZES  # All 256 plans of quarters.


def learnt(score, count, *, noise=0.0, seed=0, plans=EVERY, **kinds):
    """A model of `count` random plans and the dense one, and the plans that it has not seen."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(plans) - 1)
    seen = np.concatenate([[len(plans) - 1], order[:count]])
    model = QualityModel(plans[-1], **kinds)
    model.learn(plans[seen], score(plans[seen]) + noise * generator.normal(size=len(seen)))
    return model, plans[order[count:]]


def lost(plans):
    """(m, 4) Octaves."""
    return -np.log2(plans / SIZES)


@pytest.mark.parametrize("seed", range(3))
def test_two_groups_that_are_narrow_together_lose_more_than_each_alone(seed):
    def score(plans):
        octaves = lost(plans)
        return -0.2 * octaves.sum(1) - 2.0 * octaves[:, 0] * octaves[:, 2]

    model, others = learnt(score, 40, seed=seed)
    assert spearmanr(model.predict(others)[0], score(others))[0] > 0.97
    # One alone, the other alone, and both.
    alone, other, both = model.predict(SIZES * [[0.25, 1, 1, 1], [1, 1, 0.25, 1], [0.25, 1, 0.25, 1]])[0]
    whole = model.predict(SIZES[None])[0][0]
    assert (whole - both) > 2 * (2 * whole - alone - other)


@pytest.mark.parametrize("seed", range(3))
def test_a_cliff_of_one_group_is_found(seed):
    """Its curve bends where a line would not."""

    def score(plans):
        return -0.3 * lost(plans).sum(1) - 3.0 * (plans[:, 1] < 32)

    model, others = learnt(score, 24, seed=seed)
    predictions = model.predict(others)[0]
    assert np.sqrt(np.mean((predictions - score(others)) ** 2)) < 0.25 * score(others).std()


@pytest.mark.parametrize("count", [6, 12, 40])
def test_errors_are_as_large_as_foreseen(count):
    weights = np.array([0.2, 1.0, 0.5, 0.1])

    def score(plans):
        return -(lost(plans) * weights).sum(1)

    within = []
    for seed in range(8):
        model, others = learnt(score, count, noise=0.1, seed=seed)
        predictions, deviations = model.predict(others)
        within.append(np.mean(np.abs(predictions - score(others)) < 2 * deviations))
    assert 0.85 < np.mean(within) <= 1


def test_a_plan_that_is_scored_again_is_surer():
    plans, values = EVERY[::17], np.random.default_rng(0).normal(size=len(EVERY[::17]))
    once, twice = QualityModel(SIZES), QualityModel(SIZES)
    once.learn(plans, values)
    twice.learn(np.concatenate([plans, plans[:1], plans[:1]]), np.concatenate([values, values[:1], values[:1]]))
    assert twice.predict(plans[:1])[1] < once.predict(plans[:1])[1]


def test_branches_that_are_missed_together_are_found():
    plans = np.array(list(itertools.product([32.0, 64.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0])))

    def score(plans):
        gone = 1 - plans[:, 1:]
        return -gone @ [0.1, 0.2, 0.1] - 3.0 * gone[:, 0] * gone[:, 1] - 0.2 * (plans[:, 0] < 64)

    model, others = learnt(score, 11, plans=plans, branches=[1, 2, 3])
    predictions = model.predict(others)[0]
    together = (others[:, 1] == 0) & (others[:, 2] == 0)
    assert together.any()
    assert predictions[together].max() < predictions[~together].min()


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5]])
def test_what_never_changes_is_expected_to_stay(values):
    model = QualityModel(SIZES)
    model.learn(EVERY[-len(values) :], np.array(values))
    expected, deviations = model.predict(EVERY)
    np.testing.assert_allclose(expected, 0.5)
    assert np.isfinite(deviations).all()


@pytest.mark.parametrize("count", [30, 100])
def test_trials_that_differ_in_two_groups_alone_leave_it_stable(count):
    """What a long search near its optimum has: their covariances have few dimensions, and no noise hides it."""
    generator = np.random.default_rng(0)
    plans = np.where([True, True, False, False], EVERY[generator.integers(0, len(EVERY), count)], SIZES)
    model = QualityModel(SIZES)
    model.learn(plans, generator.normal(size=count))
    # Wherever the search for the posterior's maximum may look.
    parts, target = list(_parts(model._points, model._points)), generator.normal(size=count)
    for _ in range(50):
        away = FURTHEST * model._deviations * generator.choice([-1, 0, 1], len(model._means))
        away[NAMES.index("noise")] = -FURTHEST * PRIORS["noise"][1]
        value, gradient = model._improbability(model._means + away, parts, target)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
