"""Which finished model is the result: every searcher's finalists are finished, and the best of them is kept."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from autoprune.errors import BudgetError
from autoprune.records import Evaluation
from autoprune.searchers.objective import Objective, best_finished, least_accuracy
from autoprune.training.course import OnProgress
from autoprune.training.finishing import Finalist, Finished, Finisher

logger = logging.getLogger(__name__)


def finish_all(
    finisher: Finisher,
    objective: Objective,
    finalists: Mapping[str, Sequence[Evaluation]],
    progress: Callable[[str], AbstractContextManager[OnProgress]],
) -> tuple[tuple[Finished, ...], Finished]:
    """Finish the dense model and each searcher's finalists; the model ends as the best of these.

    A plan that several searchers found is finished once, and stands for each of them.

    The best is the one most accurate on the reward split after fine-tuning, of equal ones the first finalist and the
    last searcher's. Under a reward with an accuracy floor it is the fastest of those that are above it then. A finished
    model that is over the budget as it was compiled in the end is no result: it is left out, with a warning. Whatever
    interrupts this leaves the model dense.

    Args:
        finisher: fine-tunes plans; its model is dense.
        objective: what the search was for; it has the dense model's evaluation.
        finalists: each searcher's best evaluations within the budget, by name; at least one each.
        progress: from a finalist's name to what shows its fine-tuning.

    Returns:
        All as finished, the dense model first, then the best of each searcher; and the one that the model now is.

    Raises:
        BudgetError: no finished model is within the budget.
        CostError: a finished model cannot be costed.
    """
    try:
        dense = finisher.finish("dense", objective.dense)
        rivals: dict[str, list[Finished]] = {}
        over: dict[str, float] = {}
        by_key: dict[str, Finished] = {}
        turns = [
            (name if len(evaluations) == 1 else f"{name} {number}/{len(evaluations)}", name, evaluation)
            for name, evaluations in finalists.items()
            for number, evaluation in enumerate(evaluations, start=1)
        ]
        for label, name, evaluation in turns:
            known = by_key.get(evaluation.key)
            if known is None:
                with progress(label) as show:
                    done = last = by_key[evaluation.key] = finisher.finish(name, evaluation, show)
            else:
                logger.info("%s has the same plan as %s: it is fine-tuned once", label, known.name)
                done = replace(known, name=name)
            if objective.budget.met_by(done.cost):
                rivals.setdefault(name, []).append(done)
            else:
                over[label] = objective.budget.overrun(done.cost)
        for label, excess in over.items():
            logger.warning("%s is no result: its finished model is %.2f %% over the budget", label, 100 * excess)
        if not rivals:
            raise BudgetError(
                "No finished model is within the budget, though its plan was when it was scored: "
                f"{', '.join(f'{label} is {excess:.2%} over' for label, excess in over.items())}. Where costs are "
                "measured, they vary: ask for a little less, or search on a machine that does nothing else."
            )
        results = []
        for of_one in rivals.values():
            compared = [
                Finalist(done.evaluation.key, done.evaluation.score, done.reward_accuracy, done.cost.latency)
                for done in of_one
            ]
            best = _best(of_one, dense, objective)
            results.append(replace(best, finalists=tuple(compared)) if len(compared) > 1 else best)
        kept = _best(results[::-1], dense, objective)
        least = least_accuracy(objective.settings, dense.reward_accuracy)
        if least is not None and kept.reward_accuracy < least:
            logger.warning("after fine-tuning no plan is above the accuracy floor: the most accurate one is kept")
        if kept.evaluation.key != last.evaluation.key:
            finisher.bring_back(kept)
    except BaseException:
        finisher.undo()
        raise
    return (dense, *results), kept


def _best(results: Sequence[Finished], dense: Finished, objective: Objective) -> Finished:
    """The best of some results by what the search was for, the first of equal ones."""
    accuracies, latencies = [done.reward_accuracy for done in results], [done.cost.latency for done in results]
    return results[best_finished(objective.settings, accuracies, latencies, dense.reward_accuracy)]
