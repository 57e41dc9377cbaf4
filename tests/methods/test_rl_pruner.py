"""RL-Pruner finds redundancy that was planted, without a look at the test split."""

from dataclasses import replace

import numpy as np
import pytest

from autoprune.evaluation import Evaluator, Journal
from autoprune.planning import Planner
from autoprune.records import Budget, Evaluation, Memory
from autoprune.searchers import SEARCHERS, AskTellSearcher, BudgetedEvaluator, Objective, Problem, build_problem
from autoprune.searchers.rl_pruner import SAMPLES, PruneDistribution, RLPruner
from autoprune.settings import BudgetSettings, Constraints, EvaluationSettings, LimitsSettings, RewardSettings
from helpers import toy
from helpers.small_networks import residual
from helpers.vgg_digits import NAMES, WIDTH, ChannelTime, KnownTime, digits, trained, vgg

PLANTED, NEEDED = 3, WIDTH // 4
REMOVED = 18  # Channels of the 96.


def planted(data):
    """A network that has learnt with a quarter of one layer's filters; the others are zeros."""
    thin = trained(data, 6, [NEEDED if number == PLANTED else WIDTH for number in range(len(NAMES))])
    wide = vgg()
    for variable, learnt in zip(wide.weights, thin.get_weights(), strict=True):
        values = np.zeros(variable.shape, "float32")
        values[tuple(map(slice, learnt.shape))] = learnt
        variable.assign(values)
    return wide


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    data = digits()
    model = planted(data)
    planner = Planner(model, constraints=Constraints(multiple_of=1, min_keep_ratio=0.1))
    journal = Journal(tmp_path_factory.mktemp("run") / "journal.sqlite", {})
    settings = EvaluationSettings(recovery="none")
    yield Evaluator(model, planner, data, cost_model=ChannelTime(), journal=journal, settings=settings)
    journal.close()


@pytest.fixture(scope="module")
def problem(evaluator):
    return build_problem(evaluator, BudgetSettings(latency=1 - REMOVED / (WIDTH * len(NAMES))))


def budgeted(evaluator, problem, evaluations):
    limits = LimitsSettings(evaluations)
    return BudgetedEvaluator(evaluator, problem, name="test", limits=limits, surrogate=KnownTime())


@pytest.fixture(scope="module")
def searched(evaluator, problem):
    """Five rounds of twenty evaluations, and the anchor."""
    to_spend = budgeted(evaluator, problem, 101)
    pruner = RLPruner(problem, to_spend, seed=0)
    AskTellSearcher(pruner.propose(), to_spend).run()
    return pruner, to_spend.history


@pytest.mark.slow
def test_the_redundant_layer_bears_more_than_twice_its_share(searched, problem):
    pruner, _ = searched
    masses = dict(zip(problem.space.names, pruner.distribution.masses, strict=True))
    (name,) = [name for name in masses if NAMES[PLANTED] in name]
    assert masses[name] > 2 / len(NAMES)
    assert sum(masses.values()) == pytest.approx(1)


@pytest.mark.slow
def test_what_is_removed_is_what_was_asked_for(searched, problem):
    _, history = searched
    channels = [sum(trial.evaluation.widths.values()) for trial in history[-20:]]
    assert set(channels) == {WIDTH * len(NAMES) - REMOVED}


@pytest.mark.slow
def test_it_is_better_than_random_and_uniform_pruning(searched, evaluator, problem):
    _, history = searched
    to_spend = budgeted(evaluator, problem, 20)
    SEARCHERS.get("random").build(problem, to_spend, seed=0, agent=None).run()
    assert history.best.reward >= max(trial.reward for trial in to_spend.history)
    assert history.best.reward > history[0].reward, "the first is uniform pruning"


# ------------------------------------------------------------------ its parts


def test_a_step_is_a_tenth_of_the_way_and_bounded():
    distribution = PruneDistribution(toy.SPACE)
    distribution.learn(np.array([1.0, 0.0, 0.0, 0.0]))
    # A tenth of the way is 0.325; a quarter more than 0.25 is allowed.
    assert distribution.masses == pytest.approx(np.array([0.3125, 0.225, 0.225, 0.225]) / 0.9875)


def test_a_sample_takes_nothing_from_what_has_nothing_left():
    generator = np.random.default_rng(0)
    movable = np.array([True, False, True, True])
    sampled = np.stack([PruneDistribution(toy.SPACE).sample(generator, movable) for _ in range(50)])
    assert not sampled[:, 1].any()
    assert (sampled[:, movable] > 0).all()
    assert sampled.sum(axis=1) == pytest.approx(1)
    assert len(np.unique(sampled.round(6), axis=0)) == 50


def test_stages_end_at_even_ratios_on_the_way_to_the_budget():
    history = toy.search("rl_pruner", 301).history
    latencies = [trial.evaluation.cost.latency for trial in history[1:]]
    for number, limit in enumerate((0.5 ** (1 / 3), 0.5 ** (2 / 3), 0.5)):
        stage = np.array(latencies[100 * number : 100 * (number + 1)])
        # What is new is in the end found a few options away, on either side.
        assert np.mean(stage <= limit) > 0.9
        assert np.median(stage) > limit - 0.4 / 8, "an option of the slowest group"


def test_after_a_fall_uniform_samples_are_tried_and_what_was_learnt_comes_back():
    class Falling(toy.ToyEvaluator):
        """From the second stage on nothing is right but by chance, and no plan better than another."""

        def evaluate(self, candidate):
            seen.append(pruner.distribution.masses)
            found = super().evaluate(candidate)
            return found if self.calls <= 102 else replace(found, accuracy=0.1, score=0.1)

    seen = []
    evaluator = toy.budgeted(203, evaluator=Falling())
    pruner = RLPruner(evaluator.problem, evaluator, seed=0)
    AskTellSearcher(pruner.propose(), evaluator).run()
    first, second, third = (seen[102 + SAMPLES * number] for number in range(3))
    start = PruneDistribution(toy.SPACE).start
    assert np.abs(first - start).max() > 0.05
    assert second == pytest.approx(start)
    assert np.abs(third - first).max() < np.abs(third - start).max()


class WorthlessBranch(toy.ToyEvaluator):
    """A residual network of which only the stem and the last layer are worth anything."""

    def evaluate(self, candidate, draw=0):
        plan = self.space.plan(candidate)
        kept = np.where(self.space.is_gone(np.array(candidate)[None])[0], 0, self.space.keep_ratios(candidate))
        return Evaluation(
            key=str(candidate),
            keep_ratios=plan.keep_ratios,
            widths=plan.widths,
            accuracy=float(kept[[0, 3]].mean()),
            cost=toy.cost_report(float(kept.sum()), Memory(1000, 1000, 1000, 3000)),
            dropped=plan.dropped,
        )


def test_a_branch_that_is_worth_nothing_is_dropped_and_bears_more_and_more():
    evaluator = WorthlessBranch(Planner(residual()).space)
    dense = evaluator.evaluate(evaluator.space.full)
    objective = Objective(Budget(0.6 * dense.cost.latency), dense, RewardSettings())
    problem = Problem(space=evaluator.space, features=toy.features(), objective=objective, anchor=0.375)
    to_spend = toy.budgeted(60, to_search=problem, evaluator=evaluator)
    pruner = RLPruner(problem, to_spend, seed=0)
    AskTellSearcher(pruner.propose(), to_spend).run()
    assert to_spend.history.best.evaluation.dropped == ("add[1]",)
    assert evaluator.space.names[1] == "add[1]"
    assert pruner.distribution.channels[1] == 64, "those of the group within"
    assert pruner.distribution.masses[1] > 2 * pruner.distribution.start[1]
