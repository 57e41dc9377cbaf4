"""A search's result is the plan that all its evaluations speak for, not the one with the luckiest score."""

from dataclasses import replace

import numpy as np

from autoprune.searchers import Proposal
from autoprune.searchers.choice import AGAIN, LEADING, find_finalists
from autoprune.settings import RewardSettings
from helpers import toy


class Noisy(toy.ToyEvaluator):
    """Each score is off by chance, another one for every plan and draw."""

    def __init__(self, deviation, seed=0):
        super().__init__()
        self._deviation, self._seed = deviation, seed
        self.draws = []

    def evaluate(self, candidate, draw=0):
        self.draws.append(draw)
        found = super().evaluate(candidate, draw)
        noise = np.random.default_rng([self._seed, draw, *candidate]).normal(0, self._deviation)
        return replace(found, score=float(np.clip(found.score + noise, 0.01, 0.99)))


def searched(deviation, seed=0, count=30, reward=None):
    """A search of random plans within the budget."""
    noisy = Noisy(deviation, seed)
    evaluator = toy.budgeted(count, evaluator=noisy, to_search=toy.problem(reward=reward))
    generator, proposals = np.random.default_rng(seed), []
    while len(proposals) < count:
        candidate = toy.SPACE.random(generator, toy.BUDGET)
        if toy.cost_of(toy.SPACE.keep_ratios(candidate)).latency <= toy.BUDGET:
            proposals.append(Proposal(candidate))
    evaluator.evaluate_many(proposals)
    return evaluator, noisy


def true_score(evaluation):
    return toy.evaluation_of(evaluation.keep_ratios).score


def test_the_choice_is_truly_better_than_the_luckiest_score():
    ahead = []
    for seed in range(12):
        evaluator, _ = searched(0.06, seed)
        (chosen,) = find_finalists(evaluator, 1)
        ahead.append(true_score(chosen) - true_score(evaluator.history.best.evaluation))
    assert np.mean(ahead) > 2 * np.std(ahead) / np.sqrt(len(ahead))


def test_leading_plans_are_scored_again_by_new_draws():
    scored_again = behind = 0
    for seed in range(8):
        evaluator, noisy = searched(0.06, seed)
        find_finalists(evaluator, 1)
        again = {candidate: len(found) for candidate, found in evaluator.again.items()}
        scored_again += len(again)
        ranked = sorted(evaluator.history, key=lambda trial: -true_score(trial.evaluation))
        behind += len(set(again) - {trial.candidate for trial in ranked[: len(ranked) // 2]})
        assert all(count <= AGAIN for count in again.values())
        assert noisy.draws[:30] == [0] * 30
        assert sorted(noisy.draws[30:]) == sorted(draw for count in again.values() for draw in range(1, count + 1))
        assert evaluator.used == 30, "none of them is charged"
    assert scored_again >= 8, "of noisy scores the best ones are mostly not told apart at once"
    assert behind <= scored_again / 10, "hardly any is of the worse half"


def test_of_scores_without_chance_the_best_is_chosen():
    evaluator, _ = searched(0.0)
    assert find_finalists(evaluator, 1)[0].key == evaluator.history.best.evaluation.key


def test_above_a_floor_of_the_score_the_fastest_is_chosen_and_none_is_scored_again():
    evaluator, _ = searched(0.02, reward=RewardSettings("latency_at_accuracy", accuracy_floor=0.8))
    (chosen,) = find_finalists(evaluator, 1)
    assert chosen.key == evaluator.history.best.evaluation.key
    assert not evaluator.again


def test_more_finalists_follow_the_first_and_all_may_be_results():
    evaluator, _ = searched(0.03)
    first, *others = find_finalists(evaluator, LEADING)
    assert [first] == find_finalists(evaluator, 1)
    assert len({evaluation.key for evaluation in (first, *others)}) == LEADING
    assert all(evaluator.problem.objective.met_by(evaluation) for evaluation in (first, *others))


def test_of_a_hand_set_rule_the_best_score_is_taken_as_it_is():
    evaluator, _ = searched(0.06)
    assert find_finalists(evaluator, 1, hand_set=True) == [evaluator.history.best.evaluation]
    assert not evaluator.again
