"""What uniform pruning costs, ratio by ratio: the staircase of a model on one or several targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.cost.model import CostModel
from autoprune.errors import SettingsError
from autoprune.planning import Planner
from autoprune.records import CostReport
from autoprune.surgery import Surgeon


@dataclass(frozen=True)
class SweepRow:
    """One uniform plan.

    Attributes:
        keep_ratio: asked of every group.
        channels: share of all channels that stays, after widths were snapped to legal ones.
        reports: its cost on every target.
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
        model: of the planner; it is as it was at the end, also after an error or Ctrl-C.
        cost_models: one for each target.
        keep_ratios: in (0, 1]; the dense model, 1, comes first whether it is among them or not.
        planner: says which channels go, and which widths are legal.
        on_row: called with the number of rows that are done.

    Raises:
        SettingsError: a ratio is outside (0, 1].
        CostError: the model cannot be costed on a target.
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
        with surgeon.pruned(plan, snapshot):
            # The compiler gets a copy of the architecture: all plans wait in its line while the model goes on.
            answers = [cost_model.submit(model) for cost_model in cost_models]
        waiting.append((ratio, sum(plan.widths.values()) / total, answers))
    rows = []
    for ratio, channels, answers in waiting:
        rows.append(SweepRow(ratio, channels, tuple(answer.result() for answer in answers)))
        on_row(len(rows))
    return rows
