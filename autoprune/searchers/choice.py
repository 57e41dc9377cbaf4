"""Which of a search's plans is its result: one rule for all searchers.

One score is partly chance, and the best of many scores is the luckiest. So plans are ranked by what the model of all
evaluations expects of them, and those that may be the best are scored again, by other images of the training split,
until one is the best or they are level.
"""

import logging

import numpy as np
from scipy.stats import norm

from autoprune.records import Evaluation
from autoprune.searchers.budgeted import BudgetedEvaluator
from autoprune.searchers.objective import DISTINCT
from autoprune.searchers.reward_model import RewardModel

logger = logging.getLogger(__name__)

LEADING = 4  # Plans at most that are scored again.
AGAIN = 3  # Times at most that one of them is.
LEVEL = 0.1  # Probability of being better than the leader below which a plan is behind.


def find_finalists(
    evaluator: BudgetedEvaluator, count: int, *, hand_set: bool = False, again: int = AGAIN
) -> list[Evaluation]:
    """The plans of a search that are worth fine-tuning, the best first; none if none may be a result.

    Args:
        evaluator: the search's, which has ended.
        count: how many at most; they differ from each other where they can, see `Objective.finalists`.
        hand_set: of a rule that is set by hand; its plans stand in one line, of which the best score is taken.
        again: times at most that a leading plan is scored again.
    """
    objective, history = evaluator.problem.objective, evaluator.history
    able = {trial.evaluation.key: trial for trial in history if objective.met_by(trial.evaluation)}
    if hand_set or len(able) < 2:
        return objective.finalists(history.evaluations, count, 0.0)
    trials = list(able.values())
    model, candidates = RewardModel(evaluator), np.array([trial.candidate for trial in trials])
    while True:
        model.learn()
        predictions = model.predict(candidates)
        means, deviations = predictions.met, np.maximum(predictions.deviations, 1e-9)
        leader = int(means.argmax())
        ahead = norm.cdf((means - means[leader]) / np.hypot(deviations, deviations[leader]))
        ahead[leader] = 1.0
        leading = [number for number in np.argsort(-ahead, kind="stable")[:LEADING] if ahead[number] > LEVEL]
        scores = {number: len(evaluator.again.get(trials[number].candidate, ())) for number in leading}
        least = min(leading, key=scores.__getitem__)
        if len(leading) == 1 or scores[least] >= again:
            break
        evaluator.evaluate_again(trials[least])
    counts = [len(found) for found in evaluator.again.values()]
    if counts:
        words = "told apart" if len(leading) == 1 else f"{len(leading)} of them stay level"
        logger.info("%d leading plans were scored again, %d times in all: %s", len(counts), sum(counts), words)
    worth = dict(zip(able, means, strict=True))
    return objective.finalists(
        [trial.evaluation for trial in trials], count, DISTINCT, worth=lambda evaluation: worth[evaluation.key]
    )
