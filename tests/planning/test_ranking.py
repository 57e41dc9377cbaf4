"""One threshold over all groups: how many channels each keeps."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from autoprune.errors import PlanError
from autoprune.planning import Planner, make_plan
from autoprune.planning.ranking import rank_globally
from autoprune.planning.space import Dimension, SearchSpace, legal_widths
from autoprune.settings import Constraints, ImportanceSettings
from autoprune.surgery import apply_plan
from helpers.topologies import head, images_for, made


def space_of(sizes, constraints):
    dimensions = [
        Dimension(f"g{n}", tuple(legal_widths(size, constraints)), np.arange(size)) for n, size in enumerate(sizes)
    ]
    return SearchSpace(dimensions, constraints.min_keep_ratio)


def widths_of(scores, keep_ratio, multiple_of=1, least=1e-9):
    space = space_of([len(s) for s in scores], Constraints(multiple_of, least))
    by_name = {name: np.array(s, float) for name, s in zip(space.names, scores, strict=True)}
    return space.values(rank_globally(space, by_name, keep_ratio)).tolist()


def test_the_lowest_of_all_scores_go():
    scores = [[9, 1, 8, 2], [5, 4, 3, 7]]
    assert widths_of(scores, 0.75) == [2, 4]
    assert widths_of(scores, 0.5) == [2, 2]
    assert widths_of(scores, 1.0) == [4, 4]


def test_every_group_keeps_its_smallest_legal_width():
    scores = [[100, 101, 102, 103], [1, 2, 3, 4]]
    assert widths_of(scores, 0.5) == [3, 1]
    assert widths_of(scores, 0.5, multiple_of=2) == [2, 2]
    assert widths_of(scores, 0.5, least=0.75) == [3, 3]
    assert widths_of(scores, 0.01) == [1, 1]


def test_groups_smaller_than_the_multiple_stay_whole():
    assert widths_of([[1, 2, 3], list(range(10, 26))], 0.5, multiple_of=8) == [3, 8]


def test_of_two_equally_near_the_wider():
    assert widths_of([[1, 2, 3, 4], [5, 6, 7, 8]], 5 / 8, multiple_of=2) == [2, 4]


def test_equal_scores_go_by_order():
    assert widths_of([[1, 1, 1], [1, 1, 1]], 0.5) == [2, 1]


def brute_force(scores, keep_ratio, constraints):
    """Every threshold in turn, with the snapping of single widths."""
    sizes = [len(s) for s in scores]
    order = sorted((-value, number, n) for number, s in enumerate(scores) for n, value in enumerate(s))
    found = []
    for count in range(len(order) + 1):
        above = [sum(number == g for _, number, _ in order[:count]) for g in range(len(scores))]
        space = space_of(sizes, constraints)
        widths = space.values(space.nearest([n / size for size, n in zip(sizes, above, strict=True)])).tolist()
        found.append((abs(sum(widths) - keep_ratio * sum(sizes)), -count, widths))
    return min(found)[2]


@given(
    scores=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=20), min_size=1, max_size=4),
    ratio=st.floats(0.01, 1),
    step=st.integers(1, 6),
    least=st.floats(0.01, 1),
)
def test_widths_are_those_of_the_best_threshold(scores, ratio, step, least):
    constraints = Constraints(step, least)
    widths = widths_of(scores, ratio, step, least)
    assert widths == brute_force(scores, ratio, constraints)
    assert all(width in legal_widths(len(s), constraints) for width, s in zip(widths, scores, strict=True))


@pytest.mark.parametrize("importance", ["l1", "lamp", "taylor", "activation"])
def test_global_plans_keep_the_share_of_all_channels_and_can_be_applied(importance):
    model = made("residual")
    data = (images_for(model, 8), np.arange(8) % 5)
    plan = make_plan(model, 0.6, importance=importance, ranking="global", multiple_of=1, data=data)
    assert sum(plan.widths.values()) == round(0.6 * sum(plan.sizes.values()))
    assert len(set(plan.keep_ratios.values())) > 1
    apply_plan(model, plan)


def test_groups_keep_their_most_important_channels():
    model = made("residual")
    planner = Planner(model, constraints=Constraints(1, 0.01))
    plan = planner.plan(0.5, ranking="global")
    for name, kept in plan.kept.items():
        scores = planner.scores[name]
        assert scores[kept].min() >= np.delete(scores, kept).max(initial=0)


def test_default_normalisation_makes_layers_comparable():
    """A layer whose weights are a thousand times as large keeps no more for that; without normalisation it does."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(10, 3, activation="relu", name="large")(image)
    x = layers.Conv2D(10, 3, activation="relu", name="small")(x)
    model = keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
    before = make_plan(model, 0.5, ranking="global", multiple_of=1).widths
    model.get_layer("large").kernel.assign(model.get_layer("large").kernel * 1000)
    assert make_plan(model, 0.5, ranking="global", multiple_of=1).widths == before
    raw = ImportanceSettings("l1", normalisation="none")
    assert make_plan(model, 0.5, importance=raw, ranking="global", multiple_of=1).widths == {"large": 9, "small": 1}


def test_ratios_by_group_are_refused():
    with pytest.raises(PlanError, match=r"one keep ratio for the whole model. Received: ratios by group"):
        make_plan(made("plain"), {"a": 0.5}, ranking="global")


def test_unknown_ranking_and_impossible_ratio_are_refused():
    with pytest.raises(PlanError, match="one of local, global. Received: 'layerwise'"):
        make_plan(made("plain"), 0.5, ranking="layerwise")
    with pytest.raises(PlanError, match="above 0 and at most 1. Received: 50"):
        make_plan(made("plain"), 50, ranking="global")
