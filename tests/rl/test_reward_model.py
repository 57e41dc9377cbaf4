"""What plans are thought to be worth under each reward, and how far guesses of their cost are trusted."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from autoprune.cost.surrogate import GuessError
from autoprune.envs.episode import EpisodeContext
from autoprune.records import Budget
from autoprune.rl.dyna import imagine
from autoprune.searchers import Proposal
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.solving import DOUBT, INFEASIBLE_PENALTY, JUDGED, Solver
from autoprune.settings import RewardSettings
from helpers import toy

FLOORED = RewardSettings("latency_at_accuracy", accuracy_floor=0.8)


def informed(problem, surrogate=None, count=20):
    evaluator = toy.budgeted(count, to_search=problem, surrogate=surrogate)
    generator = np.random.default_rng(0)
    draws = [generator.uniform(0.125, 1, 4) for _ in range(count)]
    evaluator.evaluate_many([Proposal(toy.SPACE.nearest(draw)) for draw in draws])
    reward_model = RewardModel(evaluator)
    reward_model.learn()
    return reward_model


def candidates(count=60):
    return np.random.default_rng(1).integers(0, 8, (count, 4))


def score_predictions(reward_model):
    """Log-odds of the scores and their deviations, and deviations of the scores."""
    odds, unsure = reward_model._score.predict(toy.SPACE.values(candidates()))
    scores = expit(odds)
    return odds, unsure, unsure * scores * (1 - scores)


# ------------------------------------------------------------------ rewards


def test_within_a_budget_the_improvement_is_over_what_the_best_plan_is_expected_to_be_paid():
    problem = toy.problem()
    reward_model = informed(problem)
    guesses = reward_model.predict(candidates(), 0.02)
    deviations = score_predictions(reward_model)[2] / max(problem.dense.score, 1e-9)
    np.testing.assert_array_equal(guesses.deviations, deviations)
    met_by = problem.objective.met_by
    able = [trial.candidate for trial in reward_model.evaluator.history if met_by(trial.evaluation)]
    best = reward_model.predict(np.array(able)).met.max()
    ahead = (guesses.met - best) / np.maximum(deviations, 1e-9)
    before = guesses.within * np.maximum(deviations, 1e-9) * (ahead * norm.cdf(ahead) + norm.pdf(ahead))
    np.testing.assert_array_equal(guesses.improvement(best), before)
    np.testing.assert_array_equal(reward_model.improvement(guesses), before)
    np.testing.assert_array_equal(guesses.able, guesses.within)


@pytest.mark.parametrize("name", ["amc_latency", "amc_flops", "amc_error", "mnasnet"])
def test_deviations_are_those_of_the_reward(name):
    problem = toy.problem(reward=RewardSettings(name))
    reward_model = informed(problem)
    found = reward_model.predict(candidates()).deviations
    latencies = np.minimum(reward_model.costs(candidates())[0], toy.BUDGET)
    left = problem.features.flops_share(list(toy.SPACE.keep_ratios(candidates()).T))
    operations = 1000 * left / toy.TARGET.batch_size
    slope = {
        "amc_latency": np.log(1e9 * latencies),  # Of a second some twenty.
        "amc_flops": np.log(np.maximum(operations, 2)),
        "amc_error": np.ones(len(latencies)),
        "mnasnet": (latencies / toy.BUDGET) ** -0.07 / problem.dense.score,
    }[name]
    np.testing.assert_allclose(found, score_predictions(reward_model)[2] * slope, rtol=1e-6)


def test_above_a_floor_only_the_latency_counts_and_whether_the_floor_is_reached():
    """As draws of the score have it: below the floor a plan is no result, above it the score is not paid for."""
    problem = toy.problem(reward=FLOORED, limits=Budget())
    reward_model = informed(problem)
    guesses = reward_model.predict(candidates())
    assert not guesses.deviations.any()
    odds, unsure, _ = score_predictions(reward_model)
    draws = expit(odds + unsure * np.random.default_rng(2).normal(size=(20_000, 1)))
    reached = (draws >= problem.objective.floor).mean(0)
    assert np.mean((reached > 0.02) & (reached < 0.98)) > 0.05, "some are neither sure nor hopeless"
    np.testing.assert_allclose(guesses.reached, reached, atol=0.02)
    best = 0.4
    saved = 1 - reward_model.costs(candidates())[0] / problem.dense.cost.latency
    np.testing.assert_allclose(guesses.improvement(best), reached * np.maximum(saved - best, 0), atol=0.02)


def test_an_imagined_plan_is_paid_less_the_likelier_it_misses_the_floor():
    """Without a budget it can miss nothing else."""
    problem = toy.problem(reward=FLOORED, limits=Budget())
    reward_model = informed(problem)
    episodes = imagine(reward_model, EpisodeContext.of(problem))
    episodes.reset()
    for step in np.random.default_rng(0).uniform(-1, 1, (4, episodes.num_envs, 1)).astype(np.float32):
        paid = episodes.step(step)[1]
    guesses = reward_model.predict(episodes.candidates)
    assert np.ptp(guesses.reached) > 0.9
    np.testing.assert_allclose(paid, guesses.rewards - (1 - guesses.reached) * INFEASIBLE_PENALTY, rtol=1e-5)


# ------------------------------------------------------------------ plans of the warm-up


class SureOfBoth:
    """Knows latencies in seconds as the toy has them, and memories: sixteen bytes a channel."""

    ready = True
    error = GuessError(50, 0.01, 0.01, 0.9)

    def predict_all(self, widths):
        return widths / toy.SIZE @ np.array(toy.TIME), 16 * widths.sum(1)

    def observe(self, widths, cost):
        pass


@pytest.mark.parametrize("budget", [Budget(0.5), Budget(None, 2000), Budget(0.5, 3800), Budget(0.9, 1900)])
def test_plans_of_the_warm_up_use_up_the_budget_whatever_it_limits(budget):
    reward_model = informed(toy.problem(limits=budget), SureOfBoth())
    solver = Solver(reward_model, np.random.default_rng(0))
    for _ in range(8):
        candidate = solver._choose_first(solver._draw(), informative=True)
        latencies, memories = reward_model.costs(np.array([candidate]))
        assert -0.2 < budget.excess(latencies[0], memories[0]) <= 0


# ------------------------------------------------------------------ errors of guessed costs


class Wrong:
    """Guesses that have been 4 % off in latency and 20 % in memory; of every plan it says the same."""

    ready = True
    error = GuessError(50, 0.04, 0.2, 0.9)

    def predict_all(self, widths):
        return np.full(len(widths), 0.6), np.full(len(widths), 3600.0)

    def observe(self, widths, cost):
        pass


@pytest.mark.parametrize(
    ("budget", "error"),
    [(Budget(0.5), 0.04), (Budget(None, 3000), 0.2), (Budget(0.5, 3000), 0.2), (Budget(0.5, 9000), 0.2)],
)
def test_guesses_are_doubted_as_far_as_what_is_limited_was_wrong(budget, error):
    found = informed(toy.problem(limits=budget), Wrong()).predict(candidates(1))
    assert found.within == pytest.approx(norm.cdf(-budget.excess(0.6, 3600) / (1.25 * error)))


def test_the_doubt_of_a_search_is_of_what_is_limited():
    """The compiler says 3,000 bytes where 3,600 were guessed, and 0.5 seconds where it was 0.6."""
    for budget, error in ((Budget(0.4), 0.2), (Budget(None, 2000), 0.2), (Budget(None, None), DOUBT)):
        search = Solver(informed(toy.problem(limits=budget), Wrong()), np.random.default_rng(0))
        for _ in range(JUDGED):
            assert search._fits(toy.SPACE.nearest(0.5)) == (not budget.limited)
        assert np.mean(search._errors[-JUDGED:]) == pytest.approx(error)


def test_the_doubt_of_a_search_for_memory_is_not_that_of_latencies():
    search = Solver(informed(toy.problem(limits=Budget(None, 3500)), Wrong()), np.random.default_rng(0))
    for _ in range(JUDGED):
        assert search._fits(toy.SPACE.nearest(0.125)), "0.125 seconds, where 0.6 were predicted"
    assert np.mean(search._errors[-JUDGED:]) == pytest.approx(0.2)


def test_a_memory_that_cannot_be_guessed_exceeds_nothing():
    """The dense model's would, and every plan would be paid for that."""
    guesses = informed(toy.problem(limits=Budget(None, 1500))).predict(candidates())
    np.testing.assert_array_equal(guesses.rewards, guesses.met)
    assert guesses.met.min() > 0
