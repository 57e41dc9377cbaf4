"""Scoring in rounds: the schedule, nested rankings, and a model that is put back whatever happens."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.errors import SettingsError
from autoprune.planning import Planner, harmonic_rounds
from autoprune.planning.importance import IMPORTANCES
from autoprune.settings import Constraints, ImportanceSettings
from helpers.topologies import images_for, made


@pytest.mark.parametrize(("share", "rounds"), [(0.75, 25), (0.9, 4), (0.5, 1), (0.0, 3)])
def test_the_schedule_telescopes(share, rounds):
    parts = np.array(harmonic_rounds(share, rounds))
    assert len(parts) == rounds
    np.testing.assert_allclose(np.prod(1 - parts), 1 - share, rtol=1e-12)
    left = rounds * (1 - share) / (np.arange(1, rounds + 1) * share + rounds * (1 - share))
    np.testing.assert_allclose(np.cumprod(1 - parts), left, rtol=1e-12)


@pytest.mark.parametrize(("share", "rounds"), [(1.0, 3), (-0.1, 3), (0.5, 0)])
def test_impossible_schedules_are_refused(share, rounds):
    with pytest.raises(ValueError, match=f"below 1, removed in 1 or more rounds. Received: {share}, {rounds}"):
        harmonic_rounds(share, rounds)


def one_behind_the_other():
    """Filters of `b` that are large by what they read of `a`'s channel 0, which is the first to go."""
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(4, 1, use_bias=False, name="a")(image)
    x = layers.Conv2D(4, 1, use_bias=False, name="b")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))
    model.get_layer("a").set_weights([np.array([0.1, 1, 2, 3], "float32").reshape(1, 1, 1, 4)])
    kernel = np.array([[9, 0, 0, 0], [0, 2, 0, 1], [0, 0, 3, 1], [0, 0, 0, 2]], "float32")
    model.get_layer("b").set_weights([kernel.reshape(1, 1, 4, 4)])
    return model


def test_channels_are_scored_without_those_that_went_before():
    model, constraints = one_behind_the_other(), Constraints(multiple_of=1, min_keep_ratio=0.25)
    orders = {}
    for rounds in (1, 2):
        planner = Planner(model, importance=ImportanceSettings("l1", rounds=rounds), constraints=constraints)
        orders[rounds] = planner.space.dimensions[1].order.tolist()
    assert orders[1] == [0, 3, 2, 1]  # 9, 4, 3, 2.
    # The first round leaves two channels of four in each group: 0 and 3 of `b`. Without 0 of `a`, 0 of `b` is empty.
    assert orders[2] == [3, 0, 2, 1]


def test_channels_of_later_rounds_score_no_less_and_widths_are_nested():
    model = made("residual")
    data = (images_for(model, 8), np.arange(8) % 5)
    constraints = Constraints(multiple_of=1, min_keep_ratio=0.1)
    importance = ImportanceSettings("taylor", rounds=3)
    planner = Planner(model, importance=importance, constraints=constraints, data=data)
    for dimension in planner.space.dimensions:
        if not dimension.is_branch:
            assert sorted(dimension.order) == list(range(dimension.size))
            assert (np.diff(planner.scores[dimension.name][dimension.order]) <= 0).all()
    wide, narrow = (planner.plan(ratio, ranking="global") for ratio in (0.6, 0.3))
    for name, kept in narrow.kept.items():
        assert set(kept) <= set(wide.kept[name])


@pytest.mark.parametrize("importance", sorted(set(IMPORTANCES) - {"random", "fpgm", "expert_usage"}))
def test_every_importance_is_scored_in_rounds_and_leaves_the_model_as_it_was(importance):
    model = made("residual")
    before = [variable.numpy().tobytes() for variable in model.variables]
    data = (images_for(model, 8), np.arange(8) % 5)
    planner = Planner(model, importance=ImportanceSettings(importance, rounds=2), data=data)
    for name, scores in planner.scores.items():
        assert np.isfinite(scores).all(), name
    assert [variable.numpy().tobytes() for variable in model.variables] == before


def test_an_interruption_between_rounds_leaves_the_model_as_it_was(monkeypatch):
    model, seen = made("residual"), []
    before = [variable.numpy().tobytes() for variable in model.variables]

    def interrupted(context):
        seen.append([variable.numpy().tobytes() for variable in model.variables])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return lambda group: np.arange(group.size)

    monkeypatch.setitem(IMPORTANCES._entries, "l1", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Planner(model, importance=ImportanceSettings("l1", rounds=3))
    assert seen[1] != before
    assert [variable.numpy().tobytes() for variable in model.variables] == before


@pytest.mark.parametrize(("name", "rounds"), [("l1", 0), ("random", 2), ("fpgm", 3), ("expert_usage", 2)])
def test_impossible_numbers_of_rounds_are_refused(name, rounds):
    with pytest.raises(SettingsError, match=f"importance.rounds must be 1 or more.*Received: {rounds}"):
        ImportanceSettings(name, rounds=rounds)
