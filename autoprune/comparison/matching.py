"""The hand-set plans that stand against a searched one: as fast, the best of the rules that engineers use.

Uniform plans are few, so that hardly any is exactly as fast as a searched plan. The hand-set plan may be 1 % slower; it
is never more than that, and often less: what is left of the difference is told.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.cost.surrogate import Surrogate
from autoprune.errors import CostError
from autoprune.evaluation import Evaluator
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.planning import Candidate
from autoprune.records import CostReport, Evaluation
from autoprune.searchers.hand_set import hand_set_candidates

logger = logging.getLogger(__name__)

TOLERANCE = 0.01  # By which a hand-set plan may cost more than the searched one it stands against.

LATENCY, MEMORY = "latency", "memory"


def amount(cost: CostReport, kind: str) -> float:
    """What a plan takes of what a budget limits: seconds for `latency`, bytes for `memory`.

    Raises:
        ValueError: the bytes are asked for, and the target cannot tell them.
    """
    if kind == LATENCY:
        return cost.latency
    if cost.memory.total is None:
        raise ValueError(f"{cost.target.name} does not tell what memory a plan takes")
    return cost.memory.total


def kind_of(budget: str) -> str:
    """Which of the two a budget limits, by its name in `CompareSettings.budgets`."""
    return MEMORY if budget.startswith(MEMORY) else LATENCY


@dataclass(frozen=True, eq=False)
class HandSetPlan:
    """A plan that follows a rule.

    Attributes:
        rule: such as `uniform`.
        candidate: the plan as a candidate of the search space.
        cost: on the target.
    """

    rule: str
    candidate: Candidate
    cost: CostReport


def cost_families(
    evaluator: Evaluator,
    rules: Sequence[str],
    observe: Callable[[int], None] | None = None,
    *,
    surrogate: Surrogate | None = None,
) -> list[HandSetPlan]:
    """Every plan of the rules with its cost, each rule's from wide to narrow.

    Args:
        evaluator: costs plans; its model is dense.
        rules: names of hand-set searchers.
        observe: called with the number of plans that are done.
        surrogate: learns from the costs; None leaves them alone.
    """
    found, space = [], evaluator.space
    every = [(rule, candidate) for rule in rules for candidate in hand_set_candidates(rule, space)]
    for number, (rule, candidate) in enumerate(every, start=1):
        try:
            found.append(HandSetPlan(rule, candidate, evaluator.cost(candidate)))
        except CostError as error:
            logger.warning("a plan of %s is left out: %s", rule, error)
        else:
            if surrogate is not None:
                surrogate.observe(space.values(candidate), found[-1].cost)
        if observe is not None:
            observe(number)
    return found


def widest_within(plans: Sequence[HandSetPlan], most: float, kind: str, count: int = 1) -> list[HandSetPlan]:
    """For each rule the widest of its plans, which are given from wide to narrow, that take no more than so much.

    Args:
        plans: from `cost_families`.
        most: seconds or bytes.
        kind: `latency` or `memory`.
        count: plans of each rule.
    """
    widest: dict[str, list[HandSetPlan]] = {}
    for plan in plans:
        if amount(plan.cost, kind) <= most and len(widest.setdefault(plan.rule, [])) < count:
            widest[plan.rule].append(plan)
    return [plan for of_rule in widest.values() for plan in of_rule]


@dataclass(frozen=True, eq=False)
class Match:
    """The hand-set plan that stands against a searched one.

    Attributes:
        rule: name of the rule that it follows.
        evaluation: the plan's evaluation.
        excess: by how much it costs more than the searched plan, as a share; below 0 it costs less.
    """

    rule: str
    evaluation: Evaluation
    excess: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"rule": self.rule, "excess": self.excess, "evaluation": evaluation_to_json(self.evaluation)}


def match_hand_set(
    evaluator: Evaluator, plans: Sequence[HandSetPlan], searched: Evaluation, kind: str, count: int = 1
) -> tuple[Match, ...]:
    """The best hand-set plans that take at most 1 % more than a searched one; none if all take more.

    The widest plans of each rule are scored, as any plan is, and charged to nobody: the highest scores are the best.

    Args:
        evaluator: evaluates plans; its model is dense.
        plans: from `cost_families`.
        searched: the plan to match.
        kind: what is matched, `latency` or `memory`.
        count: how many at most; as many as the searched plan was chosen from are fair.
    """
    taken = amount(searched.required_cost, kind)
    candidates = widest_within(plans, (1 + TOLERANCE) * taken, kind, count)
    scored = [(plan, evaluator.evaluate(plan.candidate)) for plan in candidates]
    # Two rules can give the same plan.
    able: dict[str, tuple[HandSetPlan, Evaluation]] = {}
    for plan, evaluation in scored:
        if not evaluation.failed:
            able.setdefault(evaluation.key, (plan, evaluation))
    ranked = sorted(able.values(), key=lambda pair: (-pair[1].score, amount(pair[0].cost, kind)))
    return tuple(
        Match(plan.rule, evaluation, amount(plan.cost, kind) / taken - 1) for plan, evaluation in ranked[:count]
    )


def curve_plans(plans: Sequence[HandSetPlan], count: int, lowest: float) -> list[HandSetPlan]:
    """Plans of the rule `uniform` for a curve: as evenly spaced in log-latency as they come, none slower for nothing.

    Args:
        plans: from `cost_families`.
        count: how many at most; the dense plan is not one of them.
        lowest: latency in seconds below which the curve need not go; the next faster plan is its end.
    """
    flat = [plan for plan in plans if plan.rule == "uniform"]
    falling: list[HandSetPlan] = []
    for plan in flat:
        if not falling or plan.cost.latency < falling[-1].cost.latency:
            falling.append(plan)
    useful = [plan for plan in falling[1:] if plan.cost.latency > lowest]
    able = falling[1 : len(useful) + 2]
    if count <= 0 or len(able) <= count:
        return able[: max(count, 0)]
    slowest, fastest = able[0].cost.latency, able[-1].cost.latency
    chosen: dict[int, HandSetPlan] = {}
    for step in range(count):
        wanted = slowest * (fastest / slowest) ** (step / max(count - 1, 1))
        left = [number for number in range(len(able)) if number not in chosen]
        nearest = min(left, key=lambda number: abs(able[number].cost.latency / wanted - 1))
        chosen[nearest] = able[nearest]
    return [chosen[number] for number in sorted(chosen)]
