"""From the evaluation of a plan to a finished model: pruned in place, fine-tuned, tested once, costed as it is."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.cost import CostModel
from autoprune.data import Dataset
from autoprune.errors import BudgetError
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recalibration import recalibrate
from autoprune.models.distilling import predicted_log_probabilities
from autoprune.planning import Planner
from autoprune.records import Budget, CostReport, Evaluation, Plan, SurgeryReport
from autoprune.searchers.objective import Objective
from autoprune.settings import SearchSettings
from autoprune.surgery import Surgeon
from autoprune.training.fit import OnProgress, TrainingError, TrainingRecord, train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished model.

    Attributes:
        name: whose plan it is.
        plan: what was kept.
        evaluation: the plan's score in the search, before fine-tuning.
        surgery: what was cut.
        training: the fine-tuning.
        reward_accuracy: on the reward split, after fine-tuning.
        test_accuracy: on the test split, after fine-tuning.
        cost: of the finished model.
        weights: its weights, to come back to it.
    """

    name: str
    plan: Plan
    evaluation: Evaluation
    surgery: SurgeryReport
    training: TrainingRecord
    reward_accuracy: float
    test_accuracy: float
    cost: CostReport
    weights: list[Any]


class Finisher:
    """Finishes plans of one model, one after the other, each from the dense weights and by the same recipe.

    Args:
        model: the dense model; it holds the last finished model when done.
        planner: made the plans.
        data: trained on its training split, tested on its test split.
        cost_model: costs the finished models.
        settings: recipe and seed.
    """

    def __init__(
        self, model: Any, planner: Planner, data: Dataset, *, cost_model: CostModel, settings: SearchSettings
    ) -> None:
        self._model = model
        self._planner = planner
        self._data = data
        self._cost_model = cost_model
        self._settings = settings
        self._surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()
        self._teacher: np.ndarray | None = None

    def finish(
        self,
        name: str,
        evaluation: Evaluation,
        on_progress: OnProgress | None = None,
        *,
        seed: int | None = None,
        whole_too: bool = False,
    ) -> Finished:
        """Prune the model in place, fine-tune and test it. A plan that keeps everything is tested as it is.

        When fine-tuning diverges, the model stays as it was pruned, with a warning: a search is not lost for that.

        Args:
            name: whose plan it is.
            evaluation: of the plan.
            on_progress: called as the fine-tuning goes on.
            seed: of the fine-tuning; None is that of the settings.
            whole_too: also fine-tune a plan that keeps everything.

        Raises:
            CostError: the finished model cannot be costed.
        """
        self._surgeon.restore(self._snapshot)
        settings, data, model = self._settings, self._data, self._model
        teacher = self._taught_by_dense()
        plan = self._planner.plan(evaluation.keep_ratios)
        surgery = self._surgeon.apply(plan)
        pending = self._cost_model.submit(model)
        epochs = settings.training.after_pruning if surgery.changes or whole_too else 0
        if surgery.changes:
            images = data.train.images[: settings.evaluation.recalibration_images]
            recalibrate(model, images, settings.evaluation.batch_size)
        seed = settings.seed if seed is None else seed
        record = self._fine_tune(name, epochs, seed, teacher, on_progress)
        batch_size = settings.evaluation.batch_size
        return Finished(
            name,
            plan,
            evaluation,
            surgery,
            record,
            accuracy(model, data.reward, batch_size),
            accuracy(model, data.test, batch_size),
            pending.result(),
            model.get_weights(),
        )

    def undo(self) -> None:
        """Make the model the dense one again."""
        self._surgeon.restore(self._snapshot)

    def _taught_by_dense(self) -> np.ndarray | None:
        """What the dense model, which the model is now, says of the training images; None without distillation."""
        training = self._settings.training
        if self._teacher is None and training.distillation > 0 and training.after_pruning > 0:
            images, batch_size = self._data.train.images, self._settings.evaluation.batch_size
            self._teacher = predicted_log_probabilities(self._model, images, batch_size)
        return self._teacher

    def _fine_tune(
        self, name: str, epochs: int, seed: int, teacher: np.ndarray | None, on_progress: OnProgress | None
    ) -> TrainingRecord:
        pruned = self._model.get_weights()
        settings = self._settings
        try:
            return train(
                self._model,
                self._data,
                settings.training,
                epochs=epochs,
                learning_rate=None,
                seed=seed,
                on_progress=on_progress,
                teacher=teacher,
            )
        except TrainingError as error:
            logger.warning("%s is shown without fine-tuning, which diverged. %s", name, error)
            self._model.set_weights(pruned)
            return TrainingRecord(0, (), (), 0)

    def bring_back(self, finished: Finished) -> None:
        """Make the model the one that was finished earlier."""
        self._surgeon.restore(self._snapshot)
        self._surgeon.apply(finished.plan)
        self._model.set_weights(finished.weights)


def finish_all(
    finisher: Finisher,
    objective: Objective,
    best: Mapping[str, Evaluation],
    progress: Callable[[str], AbstractContextManager[OnProgress]],
) -> tuple[tuple[Finished, ...], Finished]:
    """Finish the dense model and each searcher's best plan; the model ends as the best of these.

    The best is the one most accurate on the reward split after fine-tuning; of equal ones, the last searcher's. Under a
    reward with an accuracy floor it is the fastest of those that are above it then. A finished model that is over the
    budget as it was compiled in the end is no result: it is left out, with a warning. Whatever interrupts this leaves
    the model dense.

    Args:
        finisher: of the dense model.
        objective: what the search was for; it has the dense model's evaluation.
        best: each searcher's best evaluation within the budget, by name; at least one.
        progress: from a searcher's name to what shows its fine-tuning.

    Returns:
        All as finished, the dense model first; and the one that the model now is.

    Raises:
        BudgetError: no finished model is within the budget.
        CostError: a finished model cannot be costed.
    """
    try:
        dense = finisher.finish("dense", objective.dense)
        finished = []
        for name, evaluation in best.items():
            with progress(name) as show:
                finished.append(finisher.finish(name, evaluation, show))
        results = _within(finished, objective.budget)
        kept = _chosen(dense, results, objective)
        if kept is not finished[-1]:
            finisher.bring_back(kept)
    except BaseException:
        finisher.undo()
        raise
    return (dense, *results), kept


def _within(finished: Sequence[Finished], budget: Budget) -> list[Finished]:
    """Those that keep the promise that the budget is, by the cost of the model as it is finished.

    Raises:
        BudgetError: none does.
    """
    found = [done for done in finished if budget.met_by(done.cost)]
    over = {done.name: budget.overrun(done.cost) for done in finished if not budget.met_by(done.cost)}
    for name, excess in over.items():
        logger.warning("%s is no result: its finished model is %.2f %% over the budget", name, 100 * excess)
    if not found:
        raise BudgetError(
            "No finished model is within the budget, though its plan was when it was scored: "
            f"{', '.join(f'{name} is {excess:.2%} over' for name, excess in over.items())}. Where costs are measured, "
            "they vary: ask for a little less, or search on a machine that does nothing else."
        )
    return found


def _chosen(dense: Finished, results: Sequence[Finished], objective: Objective) -> Finished:
    """The best of the results by what the search was for, the last of equal ones."""
    if objective.floor is not None:
        floor = objective.settings.accuracy_floor * dense.reward_accuracy
        above = [done for done in results if done.reward_accuracy >= floor]
        if above:
            return min(reversed(above), key=lambda done: done.cost.latency)
        logger.warning("after fine-tuning no plan is above the accuracy floor: the most accurate one is kept")
    return max(reversed(results), key=lambda done: done.reward_accuracy)
