"""Curves of a run, whatever searches: of every searcher by evaluation, of trainings by epoch, of agents by step."""

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from autoprune.records import Evaluation
from autoprune.reporting.tracking import Curve, Trackers
from autoprune.searchers import Objective


class Curves:
    """Figures by step of one searcher, training or agent, for all who are told of the run.

    Args:
        trackers: who are told.
        kind: `search`, `training` or `agent`.
        name: of the searcher or the training; one of two names that differ.
        hyperparameters: values by dotted name.
    """

    def __init__(
        self, trackers: Trackers, kind: str, name: str, hyperparameters: Mapping[str, Any] | None = None
    ) -> None:
        self._trackers = trackers
        self._curve = Curve(kind, re.sub(r"[/\\:]", "-", name), hyperparameters or {})

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trackers.end(self._curve)

    def add(
        self, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        """Tell of figures of a step, see `Trackers.add`."""
        self._trackers.add(self._curve, step, figures, distributions)

    def add_evaluation(
        self, evaluation: Evaluation, number: int, objective: Objective, best: Evaluation | None
    ) -> None:
        """Tell what an evaluation of a search came to.

        Args:
            evaluation: the plan as it was scored.
            number: number of the evaluation in its search, from 1.
            objective: says what the evaluation is paid.
            best: of all plans so far the best that may be a result, if there is one.
        """
        figures = {"reward": objective.reward(evaluation), "score": evaluation.score}
        if evaluation.cost is not None:
            figures["latency"] = evaluation.cost.latency
        kept = list(evaluation.keep_ratios.values())
        if best is not None:
            figures["best score"] = best.score
            figures["best reward"] = objective.reward(best)
            figures["best latency"] = best.required_cost.latency
        self.add(number, figures, {"keep ratios": kept} if kept else None)

    def add_epoch(self, done: float, logs: Mapping[str, float]) -> None:
        """Tell what an epoch of a training came to; nothing within one.

        Args:
            done: epochs done; 0 for the model as it came.
            logs: losses and accuracies by name, as `train` gives them to `on_progress`.
        """
        if "val_accuracy" in logs:
            names = {"loss": "loss", "val_accuracy": "accuracy"}
            self.add(round(done), {figure: logs[name] for name, figure in names.items() if name in logs})
