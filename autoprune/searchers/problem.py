"""What every searcher is given."""

from dataclasses import dataclass

from autoprune.planning.widths import LegalWidths
from autoprune.records import Budget, ChannelGroup, Evaluation
from autoprune.searchers.objective import Objective


@dataclass(frozen=True, eq=False)
class Problem:
    """A model to prune within a budget.

    Attributes:
        groups: the prunable groups, in data-flow order.
        legal: the widths that each group may be cut to.
        objective: what plans are paid for, and which may be a result.
        anchor: the largest keep ratio that, used for every group, is known to meet the budget; under a reward with an
            accuracy floor, the least one found that meets the budget and the floor. Searchers that need somewhere to
            start, start there.
    """

    groups: tuple[ChannelGroup, ...]
    legal: LegalWidths
    objective: Objective
    anchor: float

    @property
    def budget(self) -> Budget:
        """Limits in absolute units."""
        return self.objective.budget

    @property
    def dense(self) -> Evaluation:
        """The evaluation of the unpruned model."""
        return self.objective.dense
