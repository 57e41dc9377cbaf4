"""Makes a `Problem` from a model and a budget, or says why there is none."""

import logging
from collections.abc import Callable, Iterable, Sequence

from autoprune.errors import BudgetError, CostError, ModelError
from autoprune.evaluation import Evaluator
from autoprune.records import Budget, CostReport, Evaluation
from autoprune.searchers.objective import Objective
from autoprune.searchers.problem import Problem
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import BudgetSettings, RewardSettings
from autoprune.settings.budget import check_budget

logger = logging.getLogger(__name__)

Costed = Sequence[tuple[float, CostReport]]  # Keep ratios with what a uniform plan of them costs.
Observe = Callable[[int, float, CostReport], None]


def pose(
    evaluator: Evaluator,
    settings: BudgetSettings,
    reward: RewardSettings | None = None,
    *,
    observe: Observe | None = None,
) -> Problem:
    """Evaluate the dense model, turn shares into absolute limits, and make sure that some plan meets them.

    Uniform plans are costed, not evaluated, from wide to narrow until one meets the budget: its keep ratio is the
    problem's anchor. Latency is not monotone in the keep ratio on a TPU, so that bisection would miss the largest. The
    last of them is the narrowest plan there is.

    Under a reward with an accuracy floor, a few uniform plans no wider than that are evaluated too: the anchor is the
    narrowest found above the floor.

    Args:
        evaluator: of the dense model.
        settings: limits, as shares of the dense model's cost or in seconds and bytes.
        reward: what plans are paid for; None is the default.
        observe: called with the number of each uniform plan, from 1, its keep ratio and its cost.

    Raises:
        BudgetError: no uniform plan meets the budget, and the message gives the range that is possible; or the dense
            model meets it already.
        CostError: the dense model cannot be costed.
        ModelError: the dense model has no score.
        SettingsError: there is no limit, and the reward needs one.
    """
    reward = reward or RewardSettings()
    check_budget(settings, reward)
    dense = evaluator.evaluate(1.0)
    if dense.cost is None:
        raise CostError(f"The dense model cannot be costed, so there is nothing to compare with. {dense.error}")
    if dense.failed:
        raise ModelError(f"The dense model cannot be scored, so there is nothing to compare with. {dense.error}")
    objective = Objective(absolute(settings, dense.cost), dense, reward)
    _refuse_slack(settings, objective)
    planner = evaluator.planner
    ratios = distinct_ratios(planner.legal)
    seen: list[tuple[float, CostReport]] = []
    for number, ratio in enumerate(ratios, start=1):
        try:
            cost = evaluator.cost(ratio)
        except CostError as error:
            logger.warning("uniform plans of keep ratio %.3f are left out: %s", ratio, error)
            continue
        seen.append((ratio, cost))
        if observe is not None:
            observe(number, ratio, cost)
        if objective.budget.met_by(cost):
            anchor = ratio if objective.floor is None else _narrowest_above(evaluator, objective, ratios[number - 1 :])
            return Problem(planner.groups, planner.legal, objective, anchor)
    raise BudgetError(_impossible(settings, objective, seen or [(1.0, dense.cost)]))


def absolute(settings: BudgetSettings, dense: CostReport) -> Budget:
    """Limits in seconds and bytes, from shares of the dense model's cost or as they are.

    Raises:
        BudgetError: memory is limited on a target that cannot tell it.
    """
    limits = settings.limits
    if "memory" in limits and dense.memory.total is None:
        raise BudgetError(
            f"budget.memory cannot be checked on the target {dense.target.name}, which does not report device "
            "memory. Choose a TPU target, or limit latency only."
        )
    latency = limits["latency"].absolute(dense.latency) if "latency" in limits else None
    # At least one byte: less is as impossible, but nothing can be told as a share of a limit of 0.
    memory = max(int(limits["memory"].absolute(dense.memory.total)), 1) if "memory" in limits else None
    return Budget(latency, memory)


def nothing_found(problem: Problem, courses: Iterable[Sequence[Evaluation]]) -> str:
    """Why no evaluation of a search may be a result: what was reached, and what to change."""
    scored = [evaluation for course in courses for evaluation in course if not evaluation.failed]
    inside = [evaluation for evaluation in scored if problem.budget.met_by(evaluation.cost)]
    objective = problem.objective
    if objective.floor is None or not inside:
        return (
            "No searcher scored a plan within the budget, though uniform ones exist: their evaluations failed. "
            "The log says why."
        )
    best = max(inside, key=lambda evaluation: evaluation.score)
    share = best.score / max(objective.dense.score, 1e-9)
    # Rounded down, so that the floor that is named can be reached.
    return (
        f"No plan reached the accuracy floor: reward.accuracy_floor={objective.settings.accuracy_floor:g} asks for a "
        f"score of {objective.floor:.4f}, the best of {len(inside)} evaluations within the budget has {best.score:.4f} "
        f"({int(1000 * share) / 1000:.3f} of the dense model's {objective.dense.score:.4f}). Lower the floor, raise or "
        "drop the budget, let plans recover for longer before they are scored (evaluation.tuning_steps), or allow more "
        "evaluations."
    )


def _refuse_slack(settings: BudgetSettings, objective: Objective) -> None:
    """Refuse an amount that leaves nothing to do, and warn of one that leaves nothing to do by itself.

    Raises:
        BudgetError: the dense model meets the whole budget.
    """
    dense, amounts = objective.dense.cost, {}
    for name, limit in settings.limits.items():
        taken = _taken(name, dense)
        if not limit.is_share and limit.absolute(taken) >= taken:
            amounts[name] = f"budget.{name}={limit}: the dense model takes {limit.told(taken, taken)}"
    if not amounts:
        return
    met = "; ".join(amounts.values())
    if objective.floor is None and objective.budget.met_by(dense):
        raise BudgetError(
            f"The dense model already meets the budget on {_where(dense)} ({met}). There is nothing to prune it for: "
            "ask for less."
        )
    logger.warning("the dense model already meets this limit: %s", met)


def _narrowest_above(evaluator: Evaluator, objective: Objective, ratios: Sequence[float]) -> float:
    """The narrowest of uniform plans, from wide to narrow, whose score is above the floor, by bisection.

    Scores mostly fall with the width: a few evaluations find a good place to start from, if not always the last one.
    If the widest is below the floor already, it is that: plans that are not uniform may reach it.
    """
    above, below = 0, len(ratios)
    while below - above > 1:
        middle = (above + below) // 2
        if objective.met_by(evaluator.evaluate(ratios[middle])):
            above = middle
        else:
            below = middle
    if not objective.met_by(evaluator.evaluate(ratios[above])):
        logger.warning("no uniform plan within the budget is known to reach the score of %.4f", objective.floor)
    return ratios[above]


def _impossible(settings: BudgetSettings, objective: Objective, seen: Costed) -> str:
    """What was asked for, and what can be had, in the units that were asked in."""
    dense = objective.dense.cost
    lines = []
    for name, limit in settings.limits.items():
        taken = _taken(name, dense)
        least = min(_taken(name, cost) for _, cost in seen)
        lines.append(
            f"{name} {limit} was asked for, {limit.told(least, taken)} to {limit.told(taken, taken)} is possible"
        )
    told = "shares of the dense model: " if all(limit.is_share for limit in settings.limits.values()) else ""
    together = ""
    if len(lines) > 1:
        ratio, cost = min(seen, key=lambda pair: objective.budget.overrun(pair[1]))
        limits = settings.limits.items()
        parts = (f"{name} {limit.told(_taken(name, cost), _taken(name, dense))}" for name, limit in limits)
        together = f" The nearest to both, keep ratio {ratio:.3f}, has {' and '.join(parts)}."
    return (
        f"No uniform plan of this model meets the budget on {_where(dense)} ({told}{'; '.join(lines)}).{together} "
        "Raise the budget, or allow narrower layers with constraints.min_keep_ratio and constraints.multiple_of."
    )


def _taken(name: str, cost: CostReport) -> float:
    """What a model takes of that which a limit is for, in seconds or bytes."""
    return cost.latency if name == "latency" else cost.memory.total


def _where(cost: CostReport) -> str:
    """Target and batch, all targets of several."""
    return f"{' and '.join(cost.parts) or cost.target.name} at batch {cost.target.batch_size}"
