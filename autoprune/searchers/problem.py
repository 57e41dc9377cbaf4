"""What every searcher is given, and how it is made of a model and a budget, or why it cannot be."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoprune.cost.surrogate import Surrogate
from autoprune.errors import BudgetError, CostError, ModelError
from autoprune.evaluation import Evaluator
from autoprune.planning import Candidate, SearchSpace
from autoprune.records import Budget, CostReport, Evaluation
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.features import ModelFeatures, read_features
from autoprune.searchers.hand_set import HAND_SET
from autoprune.searchers.infeasible import describe, describe_shortfall, taken, where, why_impossible
from autoprune.searchers.objective import Objective
from autoprune.settings import BudgetSettings, RewardSettings
from autoprune.settings.budget import check_budget

logger = logging.getLogger(__name__)

Observe = Callable[[float, CostReport, int], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """A model to prune within a budget.

    Attributes:
        space: the plans that may be proposed.
        features: of the dimensions of the space, for agents.
        objective: what plans are paid for, and which may be a result.
        anchor: the largest keep ratio that, used for every group, is known to meet the budget; under a reward with an
            accuracy floor, the least one found that meets the budget and the floor.
        dropped: branches that are gone at the anchor: none where uniform pruning alone can meet the budget.
        shortfall: what uniform pruning alone comes to, in words; empty where it can meet the budget.
        shallow: hand-set plans within the budget that lose blocks and no channels.
    """

    space: SearchSpace
    features: ModelFeatures
    objective: Objective
    anchor: float
    dropped: tuple[str, ...] = ()
    shortfall: str = ""
    shallow: tuple[Candidate, ...] = ()

    @property
    def start(self) -> Candidate:
        """The hand-set candidate of the anchor: searchers that need somewhere to start, start there."""
        groups = {dimension.name: self.anchor for dimension in self.space.dimensions if not dimension.is_branch}
        return self.space.nearest({**groups, **dict.fromkeys(self.dropped, 0.0)})

    @property
    def starts(self) -> tuple[Candidate, ...]:
        """The hand-set candidates that are worth an evaluation each before anything is searched; `start` is first."""
        return tuple(dict.fromkeys((self.start, *self.shallow)))

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

    Where branches may go, hand-set plans that lose blocks are costed too. Where no uniform plan meets the budget, the
    anchor is that of the deepest network that does.

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
        BudgetError: no hand-set plan meets the budget, and the message gives the range that is possible; or the dense
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
    costs = {space.full: dense.required_cost}
    ratios = space.uniform()
    uniform = list(ratios)

    def overrun(candidate: Candidate) -> float | None:
        if candidate not in costs:
            try:
                costs[candidate] = evaluator.cost(candidate)
            except CostError as error:
                logger.warning("the hand-set plan of %s is left out: %s", describe(space, candidate), error)
                return None
            learn(candidate, costs[candidate])
        return objective.budget.overrun(costs[candidate])

    def tell(left: int) -> None:
        if observe is not None and len(costs) > 1:
            candidate = next(reversed(costs))
            observe(ratios[candidate], costs[candidate], left)

    widest = find_widest(len(uniform), lambda number: overrun(uniform[number]), tell)
    narrow = {candidate: cost for candidate, cost in costs.items() if candidate in ratios}
    shallow, shortfall = tuple(_widest_of_each("uniform_depth", space, overrun)), ""
    if widest is None:
        start = next(_widest_of_each("uniform_depth_width", space, overrun), None)
        if start is None:
            raise BudgetError(why_impossible(settings, objective, costs, evaluator))
        anchor, dropped = max(space.plan(start).keep_ratios.values(), default=1.0), space.plan(start).dropped
        shortfall = describe_shortfall(settings, objective, narrow, space)
        logger.warning("%s Plans without blocks can: the search starts from %s.", shortfall, describe(space, start))
    else:
        above = 0 if objective.floor is None else _narrowest_above(evaluator, objective, uniform[widest:], learn)
        anchor, dropped = ratios[uniform[widest + above]], ()
    contributions = {} if space.depth is None else evaluator.measure_contributions()
    features = read_features(evaluator.model, evaluator.planner, dense.required_cost, contributions)
    return Problem(
        space=space,
        features=features,
        objective=objective,
        anchor=anchor,
        dropped=dropped,
        shortfall=shortfall,
        shallow=shallow,
    )


def _widest_of_each(rule: str, space: SearchSpace, overrun: Callable[[Candidate], float | None]) -> Iterator[Candidate]:
    """The widest plan within the budget of each ladder of a rule that has one; none where no branches may go."""
    for ladder in HAND_SET.get(rule)(space) if space.depth is not None else ():
        number = find_widest(len(ladder), lambda number: overrun(ladder[number]))  # noqa: B023 - called at once
        if number is not None:
            yield ladder[number]


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
    memory = max(int(limits["memory"].absolute(taken("memory", dense))), 1) if "memory" in limits else None
    return Budget(latency, memory)


def _refuse_slack(settings: BudgetSettings, objective: Objective) -> None:
    """Refuse an amount that leaves nothing to do, and warn of one that leaves nothing to do by itself.

    Raises:
        BudgetError: the dense model meets the whole budget.
    """
    dense, amounts = objective.dense.required_cost, {}
    for name, limit in settings.limits.items():
        whole = taken(name, dense)
        if not limit.is_share and limit.absolute(whole) >= whole:
            amounts[name] = f"budget.{name}={limit}: the dense model takes {limit.describe(whole, whole)}"
    if not amounts:
        return
    met = "; ".join(amounts.values())
    if objective.floor is None and objective.budget.met_by(dense):
        raise BudgetError(
            f"The dense model already meets the budget on {where(dense)} ({met}). There is nothing to prune it for: "
            "ask for less."
        )
    logger.warning("the dense model already meets this limit: %s", met)
