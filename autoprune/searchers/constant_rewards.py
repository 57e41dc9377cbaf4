"""Notices constant rewards: when every plan is paid the same, no searcher can learn and no plan is the best."""

import logging
from collections.abc import Callable, Iterable

from autoprune.errors import SignalError
from autoprune.records import Evaluation
from autoprune.searchers.budgeted import Trial
from autoprune.searchers.objective import Objective

logger = logging.getLogger(__name__)

SUSPICIOUS = 8  # Distinct plans of a course, all paid exactly the same: a warning.
DEAD = 16  # Likewise, of a course that proposes more than uniform plans: an error, where nothing speaks against it.


class ConstantRewardGuard:
    """Watches what the plans of a search are paid.

    The first 8 distinct plans of a course that are all paid exactly the same are a warning. With 16 the search ends,
    unless there may still be something in it: plans that score no less than the dense model (every one of them is a
    good result), any plan of another course that was paid otherwise, or a course of uniform plans alone (others may
    still differ). Plans that failed do not count: the log says what is wrong with them.

    Args:
        objective: what plans are paid for.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._paid: set[float] = set()

    def remember(self, course: Iterable[Evaluation]) -> None:
        """Take in a course that ended before, in another process."""
        self._paid.update(self._objective.reward(evaluation) for evaluation in course if not evaluation.failed)

    def watch(self, searcher: str) -> Callable[[Trial], None]:
        """What shall be called with each trial of one searcher.

        Args:
            searcher: its name; `uniform` and its like are never ended.

        Raises:
            SignalError: by what is returned, when the signal is dead.
        """
        course: dict[str, float] = {}

        def observe(trial: Trial) -> None:
            evaluation = trial.evaluation
            if evaluation.failed or evaluation.key in course:
                return
            course[evaluation.key] = trial.reward
            self._paid.add(course[evaluation.key])
            if len(set(course.values())) > 1:
                return
            if len(course) == SUSPICIOUS:
                logger.warning(self._complaint(searcher, evaluation, len(course)))
            worse = evaluation.score < self._objective.dense.score
            if len(course) >= DEAD and not searcher.startswith("uniform") and len(self._paid) == 1 and worse:
                raise SignalError(self._complaint(searcher, evaluation, len(course)))

        return observe

    def _complaint(self, searcher: str, evaluation: Evaluation, count: int) -> str:
        """What is the same, and what may bring differences back."""
        paid, dense = self._objective.reward(evaluation), self._objective.dense.score
        return (
            f"The first {count} distinct plans of {searcher} are all paid exactly {paid:.4g} (score "
            f"{evaluation.score:.4f}, dense {dense:.4f}): the reward does not tell plans apart. "
            "Try more images for batch-norm statistics (evaluation.recalibration_images), a larger reward split "
            "(data.reward_size), recovery before scoring (evaluation.recovery=tuning), a finer score "
            "(evaluation.score=likelihood), a less aggressive budget or constraints.min_keep_ratio, or another reward."
        )
