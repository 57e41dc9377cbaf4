"""From the evaluation of a plan to a finished model: pruned in place, fine-tuned, tested once, costed as it is."""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from autoprune.cost import CostModel
from autoprune.data import Dataset
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recalibration import recalibrate
from autoprune.planning import Planner
from autoprune.records import CostReport, Evaluation, Plan, SurgeryReport
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

    def finish(self, name: str, evaluation: Evaluation, on_progress: OnProgress | None = None) -> Finished:
        """Prune the model in place, fine-tune and test it. A plan that keeps everything is tested as it is.

        When fine-tuning diverges, the model stays as it was pruned, with a warning: a search is not lost for that.

        Raises:
            CostError: the finished model cannot be costed.
        """
        self._surgeon.restore(self._snapshot)
        settings, data, model = self._settings, self._data, self._model
        plan = self._planner.plan(evaluation.keep_ratios)
        surgery = self._surgeon.apply(plan)
        pending = self._cost_model.submit(model)
        epochs = settings.training.after_pruning if surgery.changes else 0
        if surgery.changes:
            images = data.train.images[: settings.evaluation.recalibration_images]
            recalibrate(model, images, settings.evaluation.batch_size)
        record = self._fine_tune(name, epochs, on_progress)
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

    def _fine_tune(self, name: str, epochs: int, on_progress: OnProgress | None) -> TrainingRecord:
        pruned = self._model.get_weights()
        settings = self._settings
        try:
            return train(
                self._model,
                self._data,
                settings.training,
                epochs=epochs,
                learning_rate=settings.training.fine_tune_learning_rate,
                seed=settings.seed,
                on_progress=on_progress,
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
    dense: Evaluation,
    best: Mapping[str, Evaluation],
    progress: Callable[[str], AbstractContextManager[OnProgress]],
) -> tuple[tuple[Finished, ...], Finished]:
    """Finish the dense model and each searcher's best plan; the model ends as the best of these.

    The best is the one most accurate on the reward split after fine-tuning; of equal ones, the last searcher's.
    Whatever interrupts this leaves the model dense.

    Args:
        finisher: of the dense model.
        dense: its evaluation.
        best: each searcher's best evaluation within the budget, by name; at least one.
        progress: from a searcher's name to what shows its fine-tuning.

    Returns:
        All as finished, the dense model first; and the one that the model now is.
    """
    try:
        finished = [finisher.finish("dense", dense)]
        for name, evaluation in best.items():
            with progress(name) as show:
                finished.append(finisher.finish(name, evaluation, show))
        kept = max(reversed(finished[1:]), key=lambda done: done.reward_accuracy)
        if kept is not finished[-1]:
            finisher.bring_back(kept)
    except BaseException:
        finisher.undo()
        raise
    return tuple(finished), kept
