"""Channels and branches that leave in steps, with fine-tuning between them (RL-Pruner, 2024, arXiv 2411.06463)."""

import itertools

import keras
import numpy as np
import pytest

from autoprune.cost import open_cost_model
from autoprune.errors import PlanError, SettingsError
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.planning.ranking import stage_removal
from autoprune.records import Evaluation, Target
from autoprune.settings import (
    Constraints,
    LimitsSettings,
    ReplaySettings,
    SearchSettings,
    TrainingSettings,
)
from autoprune.settings.policies import AdaptationSettings
from autoprune.surgery import Surgeon
from autoprune.training import finishing, train
from autoprune.training.finishing import Finisher
from autoprune.training.fit import carry_out

FINE = Constraints(multiple_of=1)


def residual_net():
    keras.utils.set_random_seed(0)
    return zoo.build("small_resnet", (8, 8, 1), 10, width=0.5)


def test_each_stage_keeps_a_part_of_the_one_before():
    space = Planner(residual_net(), constraints=FINE).space
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 5):
        candidate = space.random(generator, 0.5)
        stages = stage_removal(space, candidate, count)
        assert len(stages) == count
        assert stages[-1] == space.find(space.plan(candidate).widths | dict.fromkeys(space.plan(candidate).dropped, 0))
        plans = [space.plan(space.full), *map(space.plan, stages)]
        for before, after in itertools.pairwise(plans):
            assert set(before.dropped) <= set(after.dropped)
            assert all(set(kept) <= set(before.kept[name]) for name, kept in after.kept.items())


def test_widths_fall_evenly():
    space = Planner(residual_net(), constraints=FINE).space
    candidate = space.nearest(0.4)
    widths = np.array([space.values(stage) for stage in [space.full, *stage_removal(space, candidate, 3)]])
    steps = -np.diff(widths, axis=0)
    assert (np.ptp(steps, axis=0) <= 1).all()


def test_going_on_keeps_the_weights_of_now_and_the_way_back():
    """As if the plan had been applied to a dense model with the weights of now."""
    model, twin = residual_net(), residual_net()
    planner = Planner(model, constraints=FINE)
    first, last = (planner.space.plan(stage) for stage in stage_removal(planner.space, planner.space.nearest(0.4), 2))
    surgeon, other = Surgeon(model), Surgeon(twin)
    snapshot, dense = surgeon.snapshot(), model.get_weights()
    # The dense twin learns what its pruned sister learns, where she has it.
    for variable in twin.variables:
        if variable.dtype == "float32":
            variable.assign(variable + 1)
    surgeon.apply(first)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(variable + 1)
    surgeon.prune_further(last, snapshot)
    other.apply(last)
    for ours, theirs in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(model.predict(images, verbose=0), twin.predict(images, verbose=0))
    surgeon.restore(snapshot)
    for now, before in zip(model.get_weights(), dense, strict=True):
        np.testing.assert_array_equal(now, before)


def test_what_is_gone_does_not_come_back():
    model = residual_net()
    planner = Planner(model, constraints=FINE)
    half, most = (planner.space.plan(planner.space.nearest(ratio)) for ratio in (0.5, 0.8))
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    with pytest.raises(PlanError, match="nothing to go on from"):
        surgeon.prune_further(half, snapshot)
    surgeon.apply(half)
    before = model.get_weights()
    with pytest.raises(PlanError, match=f"would bring back: .*{next(iter(half.kept))}"):
        surgeon.prune_further(most, snapshot)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
def test_a_plan_in_stages_ends_as_the_same_plan(digits, messages, monkeypatch):
    model = residual_net()
    train(model, digits, TrainingSettings(), epochs=3, learning_rate=3e-3, seed=0)
    planner = Planner(model, constraints=FINE)
    branch = planner.branches[0].name
    plan = planner.plan({branch: 0} | {group.name: 0.5 for group in planner.groups})
    evaluation = Evaluation(
        key="", keep_ratios=plan.keep_ratios, widths=plan.widths, dropped=plan.dropped, accuracy=0.5, cost=None
    )
    settings = SearchSettings(training=TrainingSettings(fine_tune_epochs=4), search=LimitsSettings(stages=3))
    finisher = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    epochs, seeds = [], []

    def carry_out_noted(training, on_progress):
        seeds.append(training.seed)
        return carry_out(training, on_progress)

    monkeypatch.setattr(finishing, "carry_out", carry_out_noted)
    done = finisher.finish("rl", evaluation, lambda epoch, logs: epochs.append(epoch))
    # Each stage sees the images in an order of its own.
    assert len(set(seeds)) == len(seeds) == 3
    assert done.training.epochs == len(done.training.losses) == len(done.training.accuracies) == 4
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == 4
    assert done.plan.widths == plan.widths
    assert done.plan.dropped == (branch,)
    assert done.reward_accuracy > 0.9
    # The finished model is a plan of the dense one: it comes back from it.
    images = digits.test.images[:8]
    before = model.predict(images, verbose=0)
    finisher.undo()
    finisher.bring_back(done)
    np.testing.assert_array_equal(model.predict(images, verbose=0), before)
    # Chosen anew in each stage, with all epochs in each; so too where a stage, or every one, takes nothing.
    finisher.undo()
    limits = LimitsSettings(stages=2, cascade=True)
    settings = SearchSettings(training=TrainingSettings(fine_tune_epochs=1), search=limits)
    cascade = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    done = cascade.finish("rl", evaluation)
    assert done.training.epochs == 2
    assert (done.plan.widths, done.plan.dropped) == (plan.widths, (branch,))
    assert done.reward_accuracy > 0.9
    for ratios in ({planner.groups[0].name: (planner.groups[0].size - 1) / planner.groups[0].size}, {}):
        cascade.undo()
        few = planner.plan(ratios or 1.0)
        evaluation = Evaluation(key="", keep_ratios=few.keep_ratios, widths=few.widths, accuracy=0.5, cost=None)
        done = cascade.finish("rl", evaluation, whole_too=True)
        assert done.training.epochs == 2
        assert done.plan.widths == few.widths
    cascade.undo()


def test_a_replayed_plan_leaves_in_stages_too():
    assert ReplaySettings(policy="folder", replay=AdaptationSettings(stages=3)).search_settings().search.stages == 3
    with pytest.raises(SettingsError, match=r"replay.stages must be 1 or more"):
        AdaptationSettings(stages=0)


def test_stages_are_one_or_more_and_no_part_of_feedback():
    with pytest.raises(SettingsError, match="search.stages"):
        LimitsSettings(stages=0)
    with pytest.raises(SettingsError, match=r"search.stages must be 1 with training.removal=dpf"):
        SearchSettings(search=LimitsSettings(stages=2), training=TrainingSettings(removal="dpf"))
    for search, removal in ((LimitsSettings(stages=2), "first"), (LimitsSettings(), "dpf")):
        with pytest.raises(SettingsError, match=r"training.fine_tune_epochs must be 1 or more with search.stages"):
            SearchSettings(search=search, training=TrainingSettings(fine_tune_epochs=0, removal=removal))
