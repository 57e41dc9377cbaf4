"""Why nothing meets a budget, in words: what was asked for, what can be had, and what holds the rest."""

from collections.abc import Iterable, Mapping, Sequence

from autoprune.cost.layers import layer_dependences
from autoprune.errors import BudgetError
from autoprune.evaluation import Evaluator
from autoprune.planning import Candidate, SearchSpace
from autoprune.records import Budget, ChannelGroup, CostReport, Evaluation
from autoprune.searchers.objective import Objective
from autoprune.settings import BudgetSettings

MOST_LAYERS = 3  # Named as what holds the latency.


def nothing_found(objective: Objective, courses: Iterable[Sequence[Evaluation]]) -> str:
    """Why no evaluation of a search may be a result: what was reached, and what to change."""
    scored = [evaluation for course in courses for evaluation in course if not evaluation.failed]
    inside = [evaluation for evaluation in scored if objective.budget.met_by(evaluation.required_cost)]
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


def why_impossible(
    settings: BudgetSettings, objective: Objective, costs: Mapping[Candidate, CostReport], evaluator: Evaluator
) -> str:
    """What was asked for, what can be had, in the units that were asked in, and what holds the rest.

    Args:
        settings: what was asked for.
        objective: with the limits and the dense model.
        costs: of every hand-set plan that was tried.
        evaluator: with the model and its planner.
    """
    dense, space = objective.dense.required_cost, evaluator.space
    limits, lines = settings.limits, []
    for name, limit in limits.items():
        least, most = min(taken(name, cost) for cost in costs.values()), taken(name, dense)
        possible = f"{limit.describe(least, most)} to {limit.describe(most, most)}"
        lines.append(f"{name} {limit} was asked for, {possible} is possible")
    told = "shares of the dense model: " if all(limit.is_share for limit in limits.values()) else ""
    nearest, cost = min(costs.items(), key=lambda pair: objective.budget.overrun(pair[1]))
    words, together = describe(space, nearest), ""
    if len(lines) > 1:
        parts = (f"{name} {limit.describe(taken(name, cost), taken(name, dense))}" for name, limit in limits.items())
        together = f" The nearest to both, {words}, has {' and '.join(parts)}."
    shallower = ", also without blocks," if space.depth is not None else ""
    advice = "Raise the budget, or allow narrower layers with constraints.min_keep_ratio and constraints.multiple_of."
    return (
        f"No uniform plan of this model{shallower} meets the budget on {where(dense)} ({told}{'; '.join(lines)})."
        f"{together}{_describe_hold(objective.budget, nearest, cost, evaluator)} {advice}"
    )


def describe_shortfall(
    settings: BudgetSettings, objective: Objective, costs: Mapping[Candidate, CostReport], space: SearchSpace
) -> str:
    """That uniform widths alone do not meet a budget, and what the nearest of them takes.

    Args:
        settings: what was asked for.
        objective: with the limits and the dense model.
        costs: of the uniform plans that were tried.
        space: the search space that they come from.
    """
    nearest, cost = min(costs.items(), key=lambda pair: objective.budget.overrun(pair[1]))
    dense = objective.dense.required_cost
    takes = (
        f"{limit.describe(taken(name, cost), taken(name, dense))} of the {'dense ' if limit.is_share else ''}{name}"
        for name, limit in settings.limits.items()
    )
    return (
        f"No uniform plan with all of its blocks meets the budget: {describe(space, nearest)} takes "
        f"{' and '.join(takes)}."
    )


def describe(space: SearchSpace, candidate: Candidate) -> str:
    """A hand-set plan by its keep ratio and what it does without."""
    plan = space.plan(candidate)
    ratio = min(plan.keep_ratios.values(), default=1.0)
    some = ", ".join(plan.dropped[:3]) + (f" and {len(plan.dropped) - 3} more" if len(plan.dropped) > 3 else "")
    return f"keep ratio {ratio:.3f}" + (f" without {some}" if some else "")


def _describe_hold(budget: Budget, candidate: Candidate, cost: CostReport, evaluator: Evaluator) -> str:
    """What holds the latency and the memory that a uniform plan has too much of.

    Of the slowest layers it tells what the plan leaves of the groups on them, or why none of their channels can go.
    """
    told, planner, memory = "", evaluator.planner, cost.memory
    words = describe(planner.space, candidate)
    if budget.latency is not None and cost.latency > budget.latency and cost.layers:
        widths = planner.space.by_name(candidate)
        on = {
            layer.path: sorted({index for axis in layer.axes for index, _ in axis.owners})
            for layer in layer_dependences(evaluator.model, planner.parts)
        }
        shares = []
        for path in sorted(cost.layers, key=cost.layers.__getitem__, reverse=True)[:MOST_LAYERS]:
            owners = [planner.parts[index] for index in on.get(path, ())]
            groups = [part for part in owners if isinstance(part, ChannelGroup)]
            left = ", ".join(f"{widths[group.name]} of {group.size} channels of {group.name}" for group in groups)
            if not groups:
                frozen = [group for group in planner.all_groups if path in {member.layer for member in group.members}]
                reasons = dict.fromkeys(group.reason for group in frozen if group.reason)
                left = "; ".join(reasons) or "no channels of it can go"
            shares.append(f"{path} {cost.layers[path] / cost.latency:.0%} ({left})")
        rest = max(1 - sum(cost.layers.values()) / cost.latency, 0)
        told += f" At {words} the latency is held by {', '.join(shares)}"
        told += f"; {rest:.0%} belongs to no layer with operations, such as copies."
    if budget.memory is not None and memory.total is not None and memory.total > budget.memory:
        parts = {"weights": memory.weights, "activations": memory.activations, "code": memory.code}
        told += f" At {words} the memory is held by "
        told += ", ".join(f"{name} {taken / memory.total:.0%}" for name, taken in parts.items() if taken) + "."
    return told


def taken(name: str, cost: CostReport) -> float:
    """What a model takes of that which a limit is for, in seconds or bytes.

    Raises:
        BudgetError: it is memory, and the target cannot tell it.
    """
    if name == "latency":
        return cost.latency
    if cost.memory.total is None:
        raise BudgetError(
            f"budget.memory cannot be checked on the target {cost.target.name}, which does not report device "
            "memory. Choose a TPU target, or limit latency only."
        )
    return cost.memory.total


def where(cost: CostReport) -> str:
    """Target and batch, all targets of several."""
    return f"{' and '.join(cost.parts) or cost.target.name} at batch {cost.target.batch_size}"
