"""The baseline, one keep ratio for every group, and more rules that an engineer would set by hand, as searchers."""

import itertools
import logging
from collections.abc import Sequence
from functools import cache, partial

from autoprune.planning import Candidate
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.hand_set import HAND_SET, without_repeats
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import Proposals, ask_tell

logger = logging.getLogger(__name__)


@ask_tell("uniform")
def uniform(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Propose distinct uniform plans: the anchor, then narrower ones, then those above the budget: the whole curve.

    When there are more distinct plans than evaluations, evenly spaced ones are proposed, the anchor among them.
    """
    if problem.dropped:
        yield from climb_down("uniform", problem, evaluator)
        return
    distinct = {problem.start: problem.anchor}
    for candidate, ratio in problem.space.uniform().items():
        distinct.setdefault(candidate, ratio)
    yield from _spread([c for c, ratio in distinct.items() if ratio <= problem.anchor], evaluator)
    yield from _spread([c for c, ratio in distinct.items() if ratio > problem.anchor], evaluator)


def climb_down(rule: str, problem: Problem, evaluator: BudgetedEvaluator, seed: int = 0) -> Proposals:
    """Of a rule's ladders the widest plan of each within the budget, then narrower ones, then those above the budget.

    It is found as the anchor is. The problem's start stands for it, if no ladder has one within the budget.
    """
    excess = cache(evaluator.excess)  # Ladders share rungs.
    firsts, within, above = [], [], []
    for ladder in HAND_SET.get(rule)(problem.space):
        widest = find_widest(len(ladder), lambda number: excess(ladder[number]))  # noqa: B023 - called at once
        if widest is not None:
            firsts.append(ladder[widest])
            within.append(ladder[widest:])
        above.append(ladder[:widest])
    if not firsts:
        logger.warning("no plan of %s meets the budget: the start of the search stands for it", rule)
        yield [Proposal(problem.start, "anchor", project=False)]
    proposed = without_repeats(firsts) if len(firsts) > 1 else []
    yield from _spread(proposed, evaluator)
    for rest in (within, above):
        # From all ladders in turn.
        turns = (c for rung in itertools.zip_longest(*rest) for c in rung if c is not None)
        yield from _spread([candidate for candidate in without_repeats(turns) if candidate not in proposed], evaluator)


def _spread(candidates: Sequence[Candidate], evaluator: BudgetedEvaluator) -> Proposals:
    """Just as they are, at most as many as there are evaluations left, evenly spaced, the first among them."""
    count = evaluator.left
    if len(candidates) > count:
        step = (len(candidates) - 1) / max(count - 1, 1)
        candidates = [candidates[round(number * step)] for number in range(count)]
    if candidates:
        yield [Proposal(candidate, project=False) for candidate in candidates]


for _rule in HAND_SET:
    if _rule != "uniform":
        ask_tell(_rule)(partial(climb_down, _rule))
