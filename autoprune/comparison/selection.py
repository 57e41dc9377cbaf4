"""Which of some finalists stands for its searcher, and which hand-set plan against it: the best once fine-tuned."""

from collections.abc import Sequence

from autoprune.comparison.record import AS_IT_IS, FINE_TUNED, PlanResult, Record
from autoprune.records import Evaluation
from autoprune.searchers.objective import best_finished
from autoprune.settings import CompareSettings


def select_finalist(
    finalists: Sequence[Evaluation], seed: int, settings: CompareSettings, record: Record
) -> Evaluation | None:
    """The finalist that is the best on the reward split after fine-tuning, the first of equal ones.

    Args:
        finalists: of one searcher, or those that stand against it.
        seed: seed that they were fine-tuned with.
        settings: reward and seeds of the comparison.
        record: what was finished.

    Returns:
        One of them; None when there are none, or while they, or the dense model, are not finished.
    """
    dense = record.find(record.required_dense.key, AS_IT_IS, None)
    finished = _find_finished(finalists, seed, record)
    if dense is None or not finished:
        return None
    accuracies, latencies = [done.reward_accuracy for done in finished], [done.latency for done in finished]
    return finalists[best_finished(settings.reward, accuracies, latencies, dense.reward_accuracy)]


def most_accurate(plans: Sequence[Evaluation], seed: int, record: Record) -> Evaluation | None:
    """The most accurate plan on the reward split after fine-tuning, whatever the reward; the first of equal ones.

    Args:
        plans: hand-set ones that stand against a searched plan: as fast, so that accuracy alone tells them apart.
        seed: seed that they were fine-tuned with.
        record: what was finished.

    Returns:
        One of them; None when there are none, or while they are not finished.
    """
    finished = _find_finished(plans, seed, record)
    if not finished:
        return None
    return plans[max(range(len(plans)), key=lambda number: finished[number].reward_accuracy)]


def _find_finished(plans: Sequence[Evaluation], seed: int, record: Record) -> list[PlanResult]:
    """The plans as they were fine-tuned with a seed; none while one of them is not finished."""
    found = [record.find(evaluation.key, FINE_TUNED, seed) for evaluation in plans]
    finished = [done for done in found if done is not None]
    return finished if len(finished) == len(plans) else []
