"""Which of some finalists stands for its searcher: the best after fine-tuning, on the reward split."""

from collections.abc import Sequence

from autoprune.comparing.record import AS_IT_IS, FINE_TUNED, Record
from autoprune.records import Evaluation
from autoprune.searchers.objective import best_finished
from autoprune.settings import CompareSettings


def chosen(finalists: Sequence[Evaluation], seed: int, settings: CompareSettings, record: Record) -> Evaluation | None:
    """The finalist that is the best on the reward split after fine-tuning, the first of equal ones.

    Args:
        finalists: of one searcher, or those that stand against it.
        seed: of their fine-tuning.
        settings: of the comparison.
        record: what was finished.

    Returns:
        One of them; None when there are none, or while they, or the dense model, are not finished.
    """
    dense = record.find(record.dense.key, AS_IT_IS, None)
    finished = [record.find(evaluation.key, FINE_TUNED, seed) for evaluation in finalists]
    if dense is None or not finished or None in finished:
        return None
    accuracies, latencies = [done.reward_accuracy for done in finished], [done.latency for done in finished]
    return finalists[best_finished(settings.reward, accuracies, latencies, dense.reward_accuracy)]
