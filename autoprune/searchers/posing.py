"""Makes a `Problem` from a model and a relative budget, or says why there is none."""

import logging
from collections.abc import Callable

from autoprune.errors import BudgetError, CostError
from autoprune.evaluation import Evaluator
from autoprune.records import Budget, CostReport, Evaluation
from autoprune.searchers.objective import Objective
from autoprune.searchers.problem import Problem
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import BudgetSettings, RewardSettings

logger = logging.getLogger(__name__)


def pose(
    evaluator: Evaluator,
    settings: BudgetSettings,
    reward: RewardSettings | None = None,
    *,
    observe: Callable[[int, float, CostReport], None] | None = None,
) -> Problem:
    """Evaluate the dense model, turn shares into absolute limits, and make sure that some plan meets them.

    Uniform plans are costed, not evaluated, from wide to narrow until one meets the budget: its keep ratio is the
    problem's anchor. Latency is not monotone in the keep ratio on a TPU, so that bisection would miss the largest.

    Args:
        evaluator: of the dense model.
        settings: limits as shares of the dense model's cost.
        reward: what plans are paid for; None is the default.
        observe: called with the number of each uniform plan, from 1, its keep ratio and its cost.

    Raises:
        BudgetError: no uniform plan meets the budget; the message gives the range that is possible.
        CostError: the dense model cannot be costed.
    """
    dense = evaluator.evaluate(1.0)
    if dense.cost is None:
        raise CostError(f"The dense model cannot be costed, so there is nothing to compare with. {dense.error}")
    budget = absolute(settings, dense.cost)
    planner = evaluator.planner
    seen: list[CostReport] = []
    for number, ratio in enumerate(distinct_ratios(planner.legal), start=1):
        try:
            cost = evaluator.cost(ratio)
        except CostError as error:
            logger.warning("uniform plans of keep ratio %.3f are left out: %s", ratio, error)
            continue
        seen.append(cost)
        if observe is not None:
            observe(number, ratio, cost)
        if budget.met_by(cost):
            objective = Objective(budget, dense, reward or RewardSettings())
            return Problem(planner.groups, planner.legal, objective, ratio)
    raise BudgetError(_impossible(settings, dense, seen))


def absolute(settings: BudgetSettings, dense: CostReport) -> Budget:
    """Limits in seconds and bytes from shares of the dense model's cost.

    Raises:
        BudgetError: memory is limited on a target that cannot tell it.
    """
    memory = None
    if settings.memory is not None:
        if dense.memory.total is None:
            raise BudgetError(
                f"budget.memory cannot be checked on the target {dense.target.name}, which does not report device "
                "memory. Choose a TPU target, or limit latency only."
            )
        memory = int(settings.memory * dense.memory.total)
    latency = None if settings.latency is None else settings.latency * dense.latency
    return Budget(latency, memory)


def _impossible(settings: BudgetSettings, dense: Evaluation, seen: list[CostReport]) -> str:
    """What was asked for, and what can be had."""
    lines = []
    fastest = min(cost.latency for cost in seen) / dense.cost.latency
    if settings.latency is not None:
        lines.append(f"latency {settings.latency:.3g} was asked for, {fastest:.3f} to 1 is possible")
    if settings.memory is not None:
        least = min(cost.memory.total for cost in seen) / dense.cost.memory.total
        lines.append(f"memory {settings.memory:.3g} was asked for, {least:.3f} to 1 is possible")
    return (
        f"No uniform plan of this model meets the budget on {dense.cost.target.name} at batch "
        f"{dense.cost.target.batch_size} (shares of the dense model: {'; '.join(lines)}). Raise the budget, or allow "
        "narrower layers with constraints.min_keep_ratio and constraints.multiple_of."
    )
