"""The baseline, one keep ratio for every group, and two more rules that an engineer would set by hand."""

import logging
from collections.abc import Callable, Sequence

from autoprune.planning import Candidate, SearchSpace
from autoprune.registry import Registry
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import Proposals, ask_tell

logger = logging.getLogger(__name__)

# From a keep ratio to a candidate: what an engineer would set by hand.
HAND_SET: Registry[Callable[[float, SearchSpace], Candidate]] = Registry("hand-set rule")
HAND_SET.add("uniform")(lambda ratio, space: space.nearest(ratio))
HAND_SET.add("uniform_skip")(
    lambda ratio, space: space.nearest({**dict.fromkeys(space.names, ratio), space.names[0]: 1.0, space.names[-1]: 1.0})
)
# For each group the widest legal keep ratio that is not above the one given, or else its least.
HAND_SET.add("uniform_width")(lambda ratio, space: tuple(dimension.at_most(ratio) for dimension in space.dimensions))


def is_hand_set(searcher: str) -> bool:
    """Whether a searcher's plans follow a rule that an engineer would set: it learns nothing, whatever the seed."""
    return searcher in HAND_SET


@ask_tell("uniform")
def uniform(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Propose distinct uniform plans: the anchor, then narrower ones, then those above the budget: the whole curve.

    When there are more distinct plans than evaluations, evenly spaced ones are proposed, the anchor among them.
    """
    distinct = {problem.start: problem.anchor}
    for candidate, ratio in problem.space.uniform().items():
        distinct.setdefault(candidate, ratio)
    yield from _spread([c for c, ratio in distinct.items() if ratio <= problem.anchor], evaluator)
    yield from _spread([c for c, ratio in distinct.items() if ratio > problem.anchor], evaluator)


@ask_tell("uniform_skip")
def uniform_skip(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """As `uniform`, with the first and the last group left whole: what is pruned there is thought to hurt most.

    Gale et al., 2019 (arXiv 1902.09574, section 5) leave the first layer dense and spare the last. The widest plan
    within the budget is found as the anchor is.
    """
    return _family("uniform_skip", problem, evaluator)


@ask_tell("uniform_width")
def uniform_width(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """A width multiplier (MobileNets, Howard et al., 2017, arXiv 1704.04861): no group keeps more than its share.

    `uniform` takes the nearest legal width of each group and with it now more, now less than the keep ratio says;
    this takes the next one below, which costs groups of few channels more. The widest plan within the budget is found
    as the anchor is.
    """
    return _family("uniform_width", problem, evaluator)


def hand_set_candidates(name: str, space: SearchSpace) -> list[Candidate]:
    """Every distinct candidate of a rule that is set by hand, from wide to narrow: at most 64, the full one first.

    Args:
        name: `uniform`, `uniform_skip` or `uniform_width`.
        space: search space that the candidates come from.

    Raises:
        UnknownNameError: there is no such rule.
    """
    rule = HAND_SET.get(name)
    return list(dict.fromkeys(rule(ratio, space) for ratio in space.grid()))


def _family(name: str, problem: Problem, evaluator: BudgetedEvaluator) -> Proposals:
    """Candidates of a rule, from wide to narrow, in the order of `uniform`; the anchor, if none is within budget."""
    distinct = hand_set_candidates(name, problem.space)
    widest = find_widest(len(distinct), lambda number: evaluator.excess(distinct[number]))
    if widest is None:
        logger.warning("no plan of %s meets the budget: the best flat uniform one stands for it", name)
        yield [Proposal(problem.start, "anchor", project=False)]
        widest = 0
    yield from _spread(distinct[widest:], evaluator)
    yield from _spread(distinct[:widest], evaluator)


def _spread(candidates: Sequence[Candidate], evaluator: BudgetedEvaluator) -> Proposals:
    """Just as they are, at most as many as there are evaluations left, evenly spaced, the first among them."""
    count = evaluator.left
    if len(candidates) > count:
        step = (len(candidates) - 1) / max(count - 1, 1)
        candidates = [candidates[round(number * step)] for number in range(count)]
    if candidates:
        yield [Proposal(candidate, project=False) for candidate in candidates]
