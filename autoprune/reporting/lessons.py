"""What a policy has learnt on each of several problems, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.evaluation.journal import evaluation_to_json
from autoprune.records import Evaluation
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.reporting.tables import share_of


@dataclass(frozen=True, eq=False, kw_only=True)
class LessonRow:
    """A network at a budget, as its policy leaves it.

    Attributes:
        model: name of the network.
        budget: name of the budget.
        dense: the unpruned network.
        uniform: the best uniform plan within the budget.
        policy: the policy's own plan, brought onto the budget; None if it has none within it.
        best: the best plan that was scored in the training; None if none may be a result.
    """

    model: str
    budget: str
    dense: Evaluation
    uniform: Evaluation
    policy: Evaluation | None
    best: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        plans = {name: getattr(self, name) for name in ("dense", "uniform", "policy", "best")}
        told = {name: None if plan is None else evaluation_to_json(plan) for name, plan in plans.items()}
        return {"model": self.model, "budget": self.budget, **told}


def lessons_table(rows: Sequence[LessonRow], score: str) -> FittingTable:
    """The table for the terminal.

    Args:
        rows: one for each problem.
        score: what a score is: `accuracy`, `likelihood` or `agreement`.
    """
    columns = (
        Column("model", kind="name"),
        Column("budget", kind="word"),
        Column("dense", rank=2),
        Column("uniform", rank=1),
        Column("policy"),
        Column("best seen", rank=3),
    )
    caption = f"Score: {score} on the reward split before fine-tuning, and the share of the dense latency."
    table = FittingTable(columns, caption=caption)
    for row in rows:
        cells = [f"{row.dense.score:.4f}"]
        for plan in (row.uniform, row.policy, row.best):
            if plan is None or plan.failed:
                cells.append("-")
            else:
                share = share_of(plan.required_cost.latency, row.dense.required_cost.latency)
                cells.append(f"{plan.score:.4f} at {share}")
        table.add_row(row.model, row.budget, *cells)
    return table
