"""The baseline, one keep ratio for every group, and more rules that an engineer would set by hand, as searchers."""

import itertools
import logging
from collections.abc import Sequence

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
        yield from _family("uniform", problem, evaluator)
        return
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


@ask_tell("uniform_depth")
def uniform_depth(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Every stage loses the same share of its blocks, the last ones or the first ones, and no channels.

    Blocks are branches that end in a merge; a stage is a run of them that end in one shape. The deepest network within
    the budget is found as the anchor is, for both orders.
    """
    return _family("uniform_depth", problem, evaluator)


@ask_tell("uniform_depth_width")
def uniform_depth_width(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """A grid of depth and width: for each depth of `uniform_depth`, none lost among them, the widest within the budget.

    Compound scaling backwards (EfficientNet, Tan & Le, 2019, arXiv 1905.11946): what a person with an afternoon tries.
    """
    return _family("uniform_depth_width", problem, evaluator)


def _family(name: str, problem: Problem, evaluator: BudgetedEvaluator) -> Proposals:
    """The widest plan of each ladder within the budget, then narrower ones, then those above the budget.

    The problem's start, if no ladder has one within the budget.
    """
    known: dict[Candidate, float | None] = {}  # Ladders share rungs.

    def excess(candidate: Candidate) -> float | None:
        if candidate not in known:
            known[candidate] = evaluator.excess(candidate)
        return known[candidate]

    firsts, within, above = [], [], []
    for ladder in HAND_SET.get(name)(problem.space):
        widest = find_widest(len(ladder), lambda number: excess(ladder[number]))  # noqa: B023 - called at once
        if widest is not None:
            firsts.append(ladder[widest])
            within.append(ladder[widest:])
        above.append(ladder[:widest])
    if not firsts:
        logger.warning("no plan of %s meets the budget: the start of the search stands for it", name)
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
