"""Which widths are worth having: on a staircase whose steps are known, and on the compiler's."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import open_cost_model
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.errors import PlanError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.staircase import staircase_steps, staircase_widths, worthwhile
from autoprune.models import zoo
from autoprune.planning import Dimension, Planner, SearchSpace
from autoprune.planning.space import legal_widths
from autoprune.records import ChannelGroup, Memory, Target
from autoprune.settings import Constraints
from helpers.toy import cost_report


def cost(latency, total=None):
    return cost_report(latency, Memory(1, 1, 1, total), Target("tpu_v5e"))


def space_of(min_keep_ratio=0.3, **sizes):
    constraints = Constraints(multiple_of=8, min_keep_ratio=min_keep_ratio)
    dimensions = [
        Dimension(name, tuple(legal_widths(size, constraints)), np.arange(size)) for name, size in sizes.items()
    ]
    return SearchSpace(dimensions, constraints.min_keep_ratio)


def test_widths_no_faster_than_a_wider_one_go():
    times = {8: 1.0, 16: 1.0, 24: 3.0, 32: 2.0, 40: 2.5, 48: 4.0, 64: 4.0}
    assert worthwhile({width: cost(time) for width, time in times.items()}) == (16, 32, 40, 64)


def test_widths_that_save_memory_stay_when_memory_counts():
    costs = {8: cost(1.0, 10), 16: cost(1.0, 20), 32: cost(1.0, 20)}
    assert worthwhile(costs) == (32,)
    assert worthwhile(costs, memory=True) == (8, 32)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_what_stays_is_a_staircase(times):
    costs = {8 * (n + 1): cost(time) for n, time in enumerate(times)}
    kept = worthwhile(costs)
    assert kept[-1] == 8 * len(times)
    assert all(costs[a].latency < costs[b].latency for a, b in itertools.pairwise(kept))
    # Nothing that goes is faster than all wider ones that stay.
    for width in set(costs) - set(kept):
        assert any(costs[wider].latency <= costs[width].latency for wider in kept if wider > width)


def test_legal_widths_of_groups():
    free = space_of(a=64, b=20)
    bound = free.restrict({"a": (32, 40, 13)})
    assert [dimension.options for dimension in free.dimensions] == [(24, 32, 40, 48, 56, 64), (8, 16, 20)]
    assert [dimension.options for dimension in bound.dimensions] == [(32, 40, 64), (8, 16, 20)]
    assert bound.by_name(bound.nearest(0.9)) == {"a": 64, "b": 20}
    assert bound.by_name(bound.nearest({"a": 0.1})) == {"a": 32, "b": 20}
    assert bound.find({"a": 40, "b": 8}) == (1, 0)
    assert free.by_name(free.nearest({"b": 0.6})) == {"a": 64, "b": 16}, "of two equally near the wider"
    with pytest.raises(PlanError, match=r"one of \[32, 40, 64\] channels in 'a'. Received: 48"):
        bound.find({"a": 48, "b": 8})


@pytest.mark.slow
def test_learnt_from_the_compiler(compiler, digits, tmp_path):
    """Every width that is left is faster on the target than all wider ones, and plans keep to them."""
    model = zoo.build("plain_cnn", (8, 8, 1), 10)
    planner = Planner(model)
    journal = Journal(tmp_path / "j.sqlite", {})
    cost_model = open_cost_model(Target("tpu_v3", 128), cache=None, client=compiler)
    evaluator = Evaluator(model, planner, digits, cost_model=cost_model, journal=journal)
    layers = layer_dependences(model, planner.parts)
    surrogate = Surrogate(planner.space.sizes, layers)
    steps = staircase_steps(planner.space, planner.parts, layers, points=4)
    assert len(steps) <= 4 * len(planner.groups)
    seen = []
    widths = staircase_widths(evaluator, steps, surrogate, observe=seen.append)
    assert seen == list(range(1, len(steps) + 1))
    assert set(widths) == {group.name for group in planner.groups}
    planner.restrict(widths)
    assert all(model.get_layer(g.name).kernel.shape[-1] == g.size for g in planner.groups), "the model is dense again"
    for group in planner.groups:
        ratios = [{group.name: width / group.size} for width in widths[group.name]]
        latencies = [evaluator.cost(evaluator.space.nearest(ratio)).latency for ratio in ratios]
        assert latencies == sorted(latencies)
        assert len(set(latencies)) == len(latencies)
    for ratio in np.linspace(0.1, 1, 7):
        assert all(width in widths[name] for name, width in planner.plan(float(ratio)).widths.items())
    assert surrogate.ready == (len(steps) >= 12)
    journal.close()


@pytest.mark.parametrize("points", [2, 3, 7])
def test_steps_are_spread_from_the_narrowest_to_the_dense(points):
    groups = [ChannelGroup(name="a", size=512, prunable=True, reason="", members=())]
    steps = staircase_steps(space_of(0.1, a=512), groups, (), points)
    widths = [step.width for step in steps]
    assert len(widths) == points
    assert widths[0] == 56
    assert widths[-1] == 512
    assert widths == sorted(widths)
