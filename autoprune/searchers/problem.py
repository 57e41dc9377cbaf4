"""What every searcher is given, and how it is made of a model and a budget, or why it cannot be."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.errors import BudgetError, CostError, ModelError
from autoprune.evaluation import Evaluator
from autoprune.planning import Candidate, SearchSpace
from autoprune.records import Budget, ChannelGroup, CostReport, Evaluation
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.features import ModelFeatures, read_features
from autoprune.searchers.objective import Objective
from autoprune.settings import BudgetSettings, RewardSettings
from autoprune.settings.budget import check_budget

logger = logging.getLogger(__name__)

Costed = Sequence[tuple[float, CostReport]]  # Keep ratios with what a uniform plan of them costs.
Observe = Callable[[float, CostReport, int], None]
MOST_LAYERS = 3  # Named as what holds the latency.


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """A model to prune within a budget.

    Attributes:
        space: the plans that may be proposed.
        features: of the dimensions of the space, for agents.
        objective: what plans are paid for, and which may be a result.
        anchor: the largest keep ratio that, used for every group, is known to meet the budget; under a reward with an
            accuracy floor, the least one found that meets the budget and the floor.
    """

    space: SearchSpace
    features: ModelFeatures
    objective: Objective
    anchor: float

    @property
    def start(self) -> Candidate:
        """The uniform candidate of the anchor: searchers that need somewhere to start, start there."""
        return self.space.nearest(self.anchor)

    @property
    def budget(self) -> Budget:
        """Limits in absolute units."""
        return self.objective.budget

    @property
    def dense(self) -> Evaluation:
        """The evaluation of the unpruned model."""
        return self.objective.dense


def build_problem(
    evaluator: Evaluator,
    settings: BudgetSettings,
    reward: RewardSettings | None = None,
    *,
    surrogate: Surrogate | None = None,
    observe: Observe | None = None,
) -> Problem:
    """Evaluate the dense model, turn shares into absolute limits, and make sure that some plan meets them.

    Uniform plans are costed, not evaluated: the keep ratio of the widest that meets the budget is the problem's anchor.
    The narrowest comes first, so that a budget which is out of reach is mostly refused after two compilations, the
    dense model's and that one; how the widest is then found stands in `autoprune.searchers.bracketing`.

    Under a reward with an accuracy floor, a few uniform plans no wider than that are evaluated too: the anchor is the
    narrowest found above the floor.

    Args:
        evaluator: evaluates and costs candidates; its model is dense.
        settings: limits, as shares of the dense model's cost or in seconds and bytes.
        reward: what plans are paid for; None is the default.
        surrogate: learns from the costs that are found; None leaves them alone.
        observe: called with the keep ratio of each uniform plan that is costed after the dense one, its cost, and how
            many may still have to be costed, at most.

    Raises:
        BudgetError: no uniform plan meets the budget, and the message gives the range that is possible; or the dense
            model meets it already.
        CostError: the dense model cannot be costed.
        ModelError: the dense model has no score.
        SettingsError: there is no limit, and the reward needs one.
    """
    reward, space = reward or RewardSettings(), evaluator.space
    check_budget(settings, reward)

    def learn(candidate: Candidate, cost: CostReport) -> None:
        if surrogate is not None:
            surrogate.observe(space.values(candidate), cost)

    dense = _evaluate_dense(evaluator)
    learn(space.full, dense.required_cost)
    objective = Objective(absolute(settings, dense.required_cost), dense, reward)
    _refuse_slack(settings, objective)
    uniform = list(space.uniform().items())
    seen = [(uniform[0][1], dense.required_cost)]

    def overrun(number: int) -> float | None:
        candidate, ratio = uniform[number]
        if number > 0:
            try:
                cost = evaluator.cost(candidate)
            except CostError as error:
                logger.warning("uniform plans of keep ratio %.3f are left out: %s", ratio, error)
                return None
            learn(candidate, cost)
            seen.append((ratio, cost))
        return objective.budget.overrun(seen[-1][1])

    def tell(left: int) -> None:
        if observe is not None and len(seen) > 1:
            observe(*seen[-1], left)

    widest = find_widest(len(uniform), overrun, tell)
    if widest is None:
        raise BudgetError(_impossible(settings, objective, seen, evaluator))
    within = uniform[widest:]
    if objective.floor is not None:
        within = within[_narrowest_above(evaluator, objective, [candidate for candidate, _ in within], learn) :]
    features = read_features(evaluator.model, evaluator.planner)
    return Problem(space=space, features=features, objective=objective, anchor=within[0][1])


def _evaluate_dense(evaluator: Evaluator) -> Evaluation:
    """The dense model's evaluation, which everything is compared with.

    Raises:
        CostError: it cannot be costed.
        ModelError: it has no score.
    """
    dense = evaluator.evaluate(evaluator.space.full)
    if dense.cost is None:
        raise CostError(f"The dense model cannot be costed, so there is nothing to compare with. {dense.error}")
    if dense.failed:
        raise ModelError(f"The dense model cannot be scored, so there is nothing to compare with. {dense.error}")
    return dense


def _narrowest_above(
    evaluator: Evaluator,
    objective: Objective,
    candidates: Sequence[Candidate],
    learn: Callable[[Candidate, CostReport], None],
) -> int:
    """Which of uniform candidates, from wide to narrow, is the narrowest whose score is above the floor, by bisection.

    Scores mostly fall with the width: a few evaluations find a good place to start from, if not always the last one.
    If the widest is below the floor already, it is that: plans that are not uniform may reach it.
    """

    def meets_floor(number: int) -> bool:
        evaluation = evaluator.evaluate(candidates[number])
        if evaluation.cost is not None:
            learn(candidates[number], evaluation.cost)
        return objective.met_by(evaluation)

    above, below = 0, len(candidates)
    while below - above > 1:
        middle = (above + below) // 2
        above, below = (middle, below) if meets_floor(middle) else (above, middle)
    if not meets_floor(above):
        logger.warning("no uniform plan within the budget is known to reach the score of %.4f", objective.floor)
    return above


def absolute(settings: BudgetSettings, dense: CostReport) -> Budget:
    """Limits in seconds and bytes, from shares of the dense model's cost or as they are.

    Raises:
        BudgetError: memory is limited on a target that cannot tell it.
    """
    limits = settings.limits
    latency = limits["latency"].absolute(dense.latency) if "latency" in limits else None
    # At least one byte: less is as impossible, but nothing can be told as a share of a limit of 0.
    memory = max(int(limits["memory"].absolute(_taken("memory", dense))), 1) if "memory" in limits else None
    return Budget(latency, memory)


def nothing_found(problem: Problem, courses: Iterable[Sequence[Evaluation]]) -> str:
    """Why no evaluation of a search may be a result: what was reached, and what to change."""
    scored = [evaluation for course in courses for evaluation in course if not evaluation.failed]
    inside = [evaluation for evaluation in scored if problem.budget.met_by(evaluation.required_cost)]
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
    dense, amounts = objective.dense.required_cost, {}
    for name, limit in settings.limits.items():
        taken = _taken(name, dense)
        if not limit.is_share and limit.absolute(taken) >= taken:
            amounts[name] = f"budget.{name}={limit}: the dense model takes {limit.describe(taken, taken)}"
    if not amounts:
        return
    met = "; ".join(amounts.values())
    if objective.floor is None and objective.budget.met_by(dense):
        raise BudgetError(
            f"The dense model already meets the budget on {_where(dense)} ({met}). There is nothing to prune it for: "
            "ask for less."
        )
    logger.warning("the dense model already meets this limit: %s", met)


def _impossible(settings: BudgetSettings, objective: Objective, seen: Costed, evaluator: Evaluator) -> str:
    """What was asked for, what can be had, in the units that were asked in, and what holds the rest."""
    dense = objective.dense.required_cost
    lines = []
    for name, limit in settings.limits.items():
        taken = _taken(name, dense)
        least = min(_taken(name, cost) for _, cost in seen)
        possible = f"{limit.describe(least, taken)} to {limit.describe(taken, taken)}"
        lines.append(f"{name} {limit} was asked for, {possible} is possible")
    told = "shares of the dense model: " if all(limit.is_share for limit in settings.limits.values()) else ""
    ratio, cost = min(seen, key=lambda pair: objective.budget.overrun(pair[1]))
    together = ""
    if len(lines) > 1:
        limits = settings.limits.items()
        parts = (f"{name} {limit.describe(_taken(name, cost), _taken(name, dense))}" for name, limit in limits)
        together = f" The nearest to both, keep ratio {ratio:.3f}, has {' and '.join(parts)}."
    return (
        f"No uniform plan of this model meets the budget on {_where(dense)} ({told}{'; '.join(lines)}).{together}"
        f"{_describe_hold(objective.budget, ratio, cost, evaluator)} Raise the budget, or allow narrower layers with "
        "constraints.min_keep_ratio and constraints.multiple_of."
    )


def _describe_hold(budget: Budget, ratio: float, cost: CostReport, evaluator: Evaluator) -> str:
    """What holds the latency and the memory that a uniform plan has too much of.

    Of the slowest layers it tells what the plan leaves of the groups on them, or why none of their channels can go.
    """
    told, planner, memory = "", evaluator.planner, cost.memory
    if budget.latency is not None and cost.latency > budget.latency and cost.layers:
        widths = planner.space.by_name(planner.space.nearest(ratio))
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
        told += f" At keep ratio {ratio:.3f} the latency is held by {', '.join(shares)}"
        told += f"; {rest:.0%} belongs to no layer with operations, such as copies."
    if budget.memory is not None and memory.total is not None and memory.total > budget.memory:
        parts = {"weights": memory.weights, "activations": memory.activations, "code": memory.code}
        told += f" At keep ratio {ratio:.3f} the memory is held by "
        told += ", ".join(f"{name} {taken / memory.total:.0%}" for name, taken in parts.items() if taken) + "."
    return told


def _taken(name: str, cost: CostReport) -> float:
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


def _where(cost: CostReport) -> str:
    """Target and batch, all targets of several."""
    return f"{' and '.join(cost.parts) or cost.target.name} at batch {cost.target.batch_size}"
