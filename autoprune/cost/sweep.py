"""What uniform pruning costs, ratio by ratio: the staircase of a model on one or several targets."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from autoprune.cost.model import CostModel
from autoprune.errors import CostError, SettingsError, future_of
from autoprune.planning import Planner
from autoprune.records import CostReport
from autoprune.surgery import Surgeon

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRow:
    """One uniform plan.

    Attributes:
        keep_ratio: asked of every group.
        channels: share of all channels that stays, after widths were snapped to legal ones.
        reports: its cost on every target that could cost all plans.
    """

    keep_ratio: float
    channels: float
    reports: tuple[CostReport, ...]


def uniform_sweep(
    model: Any,
    cost_models: Sequence[CostModel],
    keep_ratios: Sequence[float],
    planner: Planner,
    on_row: Callable[[int], None] = lambda done: None,
) -> list[SweepRow]:
    """Prune every group to each ratio in turn, cost the whole model, and put it back.

    Args:
        model: the planner's model; it is as it was at the end, also after an error or Ctrl-C.
        cost_models: one for each target.
        keep_ratios: in (0, 1]; the dense model, 1, comes first whether it is among them or not.
        planner: says which channels go, and which widths are legal.
        on_row: called with the number of rows that are done.

    Raises:
        SettingsError: a ratio is outside (0, 1].
        CostError: no target could cost all plans.
    """
    wrong = [ratio for ratio in keep_ratios if not 0 < ratio <= 1]
    if wrong:
        raise SettingsError(f"A keep ratio is above 0 and at most 1. Received: {wrong[0]}")
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    total = sum(group.size for group in planner.groups)
    waiting = []
    for ratio in sorted({1.0, *keep_ratios}, reverse=True):
        plan = planner.plan(ratio)
        with surgeon.pruning(plan, snapshot):
            # The compiler gets a copy of the architecture: all plans wait in its line while the model goes on.
            answers: list[Future[CostReport]] = []
            for cost_model in cost_models:
                try:
                    answers.append(cost_model.submit(model))
                except CostError as error:
                    answers.append(future_of(error))
        waiting.append((ratio, sum(plan.widths.values()) / total, answers))
    failed: dict[int, BaseException] = {}
    for done, (ratio, _, answers) in enumerate(waiting, start=1):
        for number, answer in enumerate(answers):
            failure = None if number in failed else answer.exception()
            if failure is not None:
                failed[number] = failure
                name = cost_models[number].target.name
                logger.warning("%s is left out of the sweep: at keep ratio %.3g, %s", name, ratio, str(failure)[:700])
        if len(failed) == len(cost_models):
            raise failed[0]
        on_row(done)
    return [
        SweepRow(ratio, channels, tuple(a.result() for number, a in enumerate(answers) if number not in failed))
        for ratio, channels, answers in waiting
    ]
