"""Guesses of cost: exact where they must be, close on what the real compiler says, and honest about their error."""

import functools
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from autoprune.cost import open_cost_model
from autoprune.cost.flops import flops_per_layer
from autoprune.cost.layers import Axis, LayerDependence, group_forms, layer_dependences
from autoprune.cost.surrogate.regression import NEAR, OWN, PLACE, TILE, Stack, fit
from autoprune.cost.surrogate.surrogate import LEAST, Surrogate
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.planning.space import ratio_around
from autoprune.records import CostReport, Memory, Target
from autoprune.searchers.features import read_features
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon
from helpers.toy import cost_report

SIZES = np.array([64, 64, 64])
LAYERS = (
    LayerDependence("one", 100, (Axis(64, ((0, 1.0),)),)),
    LayerDependence("two", 400, (Axis(64, ((0, 1.0),)), Axis(64, ((1, 1.0),)))),
    LayerDependence("three", 400, (Axis(64, ((1, 1.0),)), Axis(64, ((2, 1.0),)))),
)


def tiled(width):
    return math.ceil(width / 8) * 8


def cost_of(widths, known=True):
    """A device with tiles of 8 channels, whose layers wait for nothing and overlap with nothing."""
    a, b, c = map(tiled, widths)
    times = {"one": a * 1e-7, "two": a * b * 1e-8, "three": b * c * 1e-8}
    latency = sum(times.values()) + 1e-6
    weights = a + a * b + b * c
    memory = Memory(weights, 1000, 500, weights + 1500)
    return cost_report(latency, memory, Target("tpu_v5e"), times if known else {})


def taught(count, known=True, seed=0):
    generator = np.random.default_rng(seed)
    surrogate = Surrogate(SIZES, LAYERS)
    for _ in range(count):
        widths = 4 * generator.integers(1, 17, 3)
        surrogate.observe(widths, cost_of(widths, known))
    return surrogate


def judged(surrogate, known=True):
    generator = np.random.default_rng(99)
    plans = [4 * generator.integers(1, 17, 3) for _ in range(60)]
    guessed = np.array([surrogate.predict(plan).latency for plan in plans])
    true = np.array([cost_of(plan, known).latency for plan in plans])
    return np.mean(np.abs(guessed / true - 1)), spearmanr(guessed, true)[0]


def test_layers_teach_more_than_their_sum():
    with_layers, _ = judged(taught(40))
    without, rank = judged(taught(40, known=False), known=False)
    assert with_layers < 0.03
    assert with_layers < without / 2
    assert rank > 0.9


def test_guesses_get_better_with_plans():
    errors = [judged(taught(count))[0] for count in (15, 40, 160)]
    assert errors[2] < errors[1] < errors[0]


def test_memory_is_guessed_too():
    surrogate = taught(120)
    widths = np.array([40, 24, 56])
    assert surrogate.predict(widths).memory == pytest.approx(cost_of(widths).memory.total, rel=0.15)


def test_nothing_is_guessed_from_too_little():
    surrogate = taught(LEAST - 2)
    assert not surrogate.ready
    assert surrogate.error is None
    with pytest.raises(ValueError, match=f"needs {LEAST} plans or more"):
        surrogate.predict(np.array([8, 8, 8]))


def test_error_is_of_plans_that_had_not_been_seen():
    """A device that answers at random cannot be guessed: the error says so, though all plans are learnt by heart."""
    generator = np.random.default_rng(0)
    surrogate = Surrogate(SIZES, LAYERS)
    for _ in range(60):
        widths = generator.integers(1, 65, 3)
        report = cost_of(widths, known=False)
        noisy = CostReport(**{**vars(report), "latency": float(generator.uniform(1, 3)) * 1e-5})
        surrogate.observe(widths, noisy)
    error = surrogate.error
    assert error.count == 60 - LEAST
    assert error.latency > 0.15
    assert abs(error.spearman) < 0.6
    assert taught(100).error.latency < 0.05


def test_a_plan_seen_twice_teaches_once():
    surrogate = taught(30)
    count = surrogate.error.count
    widths = np.array([17, 17, 17])
    surrogate.observe(widths, cost_of(widths))
    surrogate.observe(widths, cost_of(widths))
    assert surrogate.error.count == count + 1


def test_same_plans_same_guesses():
    widths = np.array([40, 24, 56])
    assert taught(50).predict(widths) == taught(50).predict(widths)


def test_measured_targets_tell_no_layers_and_no_memory():
    surrogate = Surrogate(SIZES, LAYERS)
    generator = np.random.default_rng(0)
    for _ in range(30):
        widths = generator.integers(1, 65, 3)
        report = CostReport(**{**vars(cost_of(widths, known=False)), "memory": Memory(1, None, None, None)})
        surrogate.observe(widths, report)
    guess = surrogate.predict(np.array([30, 30, 30]))
    assert guess.memory is None
    assert guess.latency > 0
    assert surrogate.error.memory is None


# ------------------------------------------------------------------ branches

# A stem, three blocks of two layers, and a head. The parts: the stem's width, and each block with its width.
BLOCKS = np.array([64, 1, 64, 1, 64, 1, 64])
BLOCK_LAYERS = (
    LayerDependence("stem", 100, (Axis(64, ((0, 1.0),)),)),
    *(
        LayerDependence(f"block{n}_{place}", flops, (Axis(64, ((read, 1.0),)), Axis(64, ((made, 1.0),))), (2 * n - 1,))
        for n in (1, 2, 3)
        for place, flops, read, made in (("in", 400 * n, 0, 2 * n), ("out", 500 * n, 2 * n, 0))
    ),
    LayerDependence("head", 50, (Axis(64, ((0, 1.0),)),)),
)


def cost_of_blocks(values):
    """Layers before a block that is gone take twice as long where the head comes next."""
    stem, *blocks = values
    kept = [n for n in (0, 1, 2) if blocks[2 * n]]
    times = {"stem": stem * 1e-7 * (1 if kept else 3), "head": stem * 5e-8}
    for n in kept:
        slow = 2 if n == kept[-1] and n < 2 else 1
        for place in ("in", "out"):
            times[f"block{n + 1}_{place}"] = (n + 1) * slow * stem * blocks[2 * n + 1] * 1e-8
    weights = 1000 * len(kept)
    return cost_report(sum(times.values()) + 1e-6, Memory(weights, 10, 5, weights + 15), layers=times)


def random_blocks(generator):
    values = 8 * generator.integers(1, 9, 7)
    values[1::2] = generator.uniform(size=3) < 0.6
    values[2::2] = np.where(values[1::2], values[2::2], 64)
    return values


@functools.cache
def taught_blocks(count):
    generator = np.random.default_rng(0)
    surrogate = Surrogate(BLOCKS, BLOCK_LAYERS)
    while len(surrogate._seen) < count:
        values = random_blocks(generator)
        surrogate.observe(values, cost_of_blocks(values))
    return surrogate


def test_plans_that_drop_branches_are_guessed():
    generator = np.random.default_rng(9)
    plans = np.array([random_blocks(generator) for _ in range(80)])
    true = np.array([cost_of_blocks(plan).latency for plan in plans])
    few, many = (taught_blocks(count).predict_all(plans)[0] for count in (40, 90))
    assert spearmanr(few, true)[0] > 0.98
    assert spearmanr(many, true)[0] > 0.99
    assert np.mean(np.abs(many / true - 1)) < 0.06


def test_what_comes_next_after_a_drop_is_told_apart():
    """The same block, as wide, takes twice as long when it has become the last one."""
    surrogate = taught_blocks(90)
    full, without_last = np.array([64, 1, 64, 1, 64, 1, 64]), np.array([64, 1, 64, 1, 64, 0, 64])
    for plan in (full, without_last):
        assert surrogate.predict(plan).latency == pytest.approx(cost_of_blocks(plan).latency, rel=0.1)


def test_widths_of_a_branch_that_is_gone_change_nothing_that_is_left():
    """Everything but the stem and the head is gone: what is guessed is their time and the rest."""
    surrogate = taught_blocks(90)
    plan = np.array([64, 0, 64, 0, 64, 0, 64])
    assert surrogate.predict(plan).latency == pytest.approx(cost_of_blocks(plan).latency, rel=0.1)


def test_a_branch_that_no_plan_had_costs_nothing_yet():
    generator = np.random.default_rng(0)
    surrogate = Surrogate(BLOCKS, BLOCK_LAYERS)
    for _ in range(30):
        values = random_blocks(generator)
        values[5:] = 0, 64
        surrogate.observe(values, cost_of_blocks(values))
    assert np.isfinite(surrogate.predict(BLOCKS).latency)


def test_without_branches_there_are_no_features_of_places():
    plain = Surrogate(SIZES, LAYERS)._space
    assert plain.present(SIZES[None]) is None
    assert all(PLACE not in kinds for _, kinds in plain.terms.values())
    # Three axes with two tiles, three widths, and the operations.
    assert plain.features(SIZES.astype(float)).shape == (3 * 3 + 3 + 1,)
    blocks = Surrogate(BLOCKS, BLOCK_LAYERS)._space
    assert all(PLACE in kinds for _, kinds in blocks.terms.values())


@pytest.mark.parametrize("name", ["resnet20", "small_densenet", "small_mobilenet"])
def test_operations_left_are_those_of_the_pruned_model(name):
    model = zoo.build(name, None, None)
    planner = Planner(model, constraints=Constraints(multiple_of=4))
    features = read_features(model, planner)
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    dense = sum(flops_per_layer(model).values())
    generator = np.random.default_rng(0)
    dropped = 0
    for _ in range(4):
        candidate = planner.space.random(generator, generator.uniform(0.3, 0.9))
        plan = planner.space.plan(candidate)
        with surgeon.pruning(plan, snapshot):
            left = flops_per_layer(model)
        ratios = planner.space.keep_ratios(candidate).tolist()
        for layer in features.layers:
            expected = left.get(layer.path, 0)
            assert layer.flops * layer.remaining_share(ratios) == pytest.approx(expected, rel=1e-9, abs=1e-6)
        assert features.flops_share(ratios) == pytest.approx(sum(left.values()) / dense, rel=1e-9)
        dropped += len(plan.dropped)
    assert dropped


# ------------------------------------------------------------------ regression


def test_a_smooth_function_is_learnt():
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 6, (80, 2))
    learnt = fit(points, [OWN, NEAR], np.sin(points[:, 0]) + 0.1 * points[:, 1])
    stack = Stack([learnt], [[0, 1]])
    for x, y in generator.uniform(1, 5, (20, 2)):
        assert stack.predict(np.array([[x, y]]))[0] == pytest.approx(math.sin(x) + 0.1 * y, abs=0.1)


def test_what_never_changes_is_known_and_stacks_add_up():
    points = np.random.default_rng(0).uniform(0, 6, (30, 3))
    parts = [
        fit(points[:, :1], [OWN], np.full(30, 2.5)),
        fit(points[:, 1:], [OWN, TILE], points[:, 1]),
        fit(points[:, :0], [], np.full(30, 1.0)),
    ]
    alone = Stack([parts[1]], [[1, 2]])
    together = Stack(parts, [[0], [1, 2], []])
    np.testing.assert_allclose(together.predict(points[:5]), 3.5 + alone.predict(points[:5]))
    np.testing.assert_allclose(alone.predict(points[:5]), points[:5, 1], atol=0.05)


# ------------------------------------------------------------------ models


def test_dependences_give_the_operations_of_a_pruned_model():
    model = zoo.build("resnet20", None, None)
    planner = Planner(model)
    layers = layer_dependences(model, planner.groups)
    assert [layer.path for layer in layers][:2] == ["stem", "stage1_block1_conv1"]
    # The image's three colours and the ten classes belong to nobody; the stem makes what a whole stage carries.
    assert [len(axis.owners) for axis in layers[0].axes] == [1]
    forms = group_forms(planner.groups, layers)
    assert forms["stage1_block2_conv1"] == forms["stage1_block3_conv1"]
    assert forms["stage1_block2_conv1"] != forms["stage2_block2_conv1"]
    assert forms["stem"] != forms["stage1_block2_conv1"]


@pytest.mark.slow
def test_the_compiler_is_guessed_better_than_by_operations(compiler):
    """Whole-model compilations of plain_cnn on v3: 30 plans teach, 14 others judge."""
    model = zoo.build("plain_cnn", (16, 16, 3), 10, 0.5)
    planner = Planner(model, constraints=Constraints(multiple_of=4, depth=False))
    surrogate = Surrogate(planner.space.sizes, layer_dependences(model, planner.groups))
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    cost_model = open_cost_model(Target("tpu_v3", 128), cache=None, client=compiler)
    generator = np.random.default_rng(0)
    seen = []
    for _ in range(44):
        ratios = [ratio_around(generator.uniform(0.4, 0.9), d, 0.1) for d in generator.uniform(-1, 1, 6)]
        candidate = planner.space.nearest(ratios)
        with surgeon.pruning(planner.space.plan(candidate), snapshot):
            seen.append((planner.space.values(candidate), cost_model.submit(model)))
    costs = [(widths, future.result(timeout=600)) for widths, future in seen]
    assert all(sum(cost.layers.values()) <= cost.latency * (1 + 1e-9) for _, cost in costs)
    for widths, cost in costs[:30]:
        surrogate.observe(widths, cost)
    true = [cost.latency for _, cost in costs[30:]]
    guessed = [surrogate.predict(widths).latency for widths, _ in costs[30:]]
    rank, by_operations = spearmanr(guessed, true)[0], spearmanr([cost.flops for _, cost in costs[30:]], true)[0]
    assert rank > 0.85
    assert rank > by_operations
    assert np.mean(np.abs(np.array(guessed) / true - 1)) < 0.05
