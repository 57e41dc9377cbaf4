"""What every searcher is given, and when a plan is the best."""

from collections.abc import Iterable
from dataclasses import dataclass

from autoprune.planning.widths import LegalWidths
from autoprune.records import Budget, ChannelGroup, Evaluation


@dataclass(frozen=True, eq=False)
class Problem:
    """A model to prune within a budget.

    Attributes:
        groups: the prunable groups, in data-flow order.
        legal: the widths that each group may be cut to.
        budget: limits in absolute units.
        dense: the evaluation of the unpruned model.
        anchor: the largest keep ratio that, used for every group, is known to meet the budget. Searchers that need
            somewhere to start, start there.
    """

    groups: tuple[ChannelGroup, ...]
    legal: LegalWidths
    budget: Budget
    dense: Evaluation
    anchor: float


def best_within(evaluations: Iterable[Evaluation], budget: Budget) -> Evaluation | None:
    """The most accurate evaluation that meets the budget, of equally accurate ones the fastest; None if none does."""
    feasible = [e for e in evaluations if e.cost is not None and not e.failed and budget.met_by(e.cost)]
    return max(feasible, key=lambda e: (e.accuracy, -e.cost.latency), default=None)
