"""Sensitivity and bisection, as pruning libraries without learning do it, then exchanges of channels between groups.

Each group is cut alone to a few widths, and each branch is dropped alone, which gives what that costs in score. A
limit on the loss that every group or branch may cause by itself is bisected until the plan meets the budget: AIMET's
greedy selection of compression ratios does so, and FastNAS of NVIDIA's Model Optimizer with its sensitivity map. They
bisect on counted operations or guessed latency; here every step is compiled. Evaluations that are left go to plans
around the best, as NetAdapt proposes them (Yang et al., 2018, arXiv 1804.03230): one group wider, another narrower, or
a branch back and another gone, the least predicted loss first. For a branch that comes back the others give way
together: the plan is brought onto the budget.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from autoprune.planning import Candidate, SearchSpace
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal, Trial
from autoprune.searchers.problem import Problem
from autoprune.searchers.searcher import Proposals, ask_tell

PROBED = 0.5  # Share of the evaluations that learn sensitivities.
STRIDE = 8  # A group moves by one width, or by this part of its widths.

Losses = list[np.ndarray]  # For each dimension (options,), the score that each option loses, falling with the width.


@ask_tell("greedy")
def greedy(problem: Problem, evaluator: BudgetedEvaluator, seed: int) -> Proposals:
    """Learn sensitivities, bisect the loss allowed, exchange channels. A single evaluation goes to the anchor.

    The history does not depend on the seed. It ends early only when every plan within the budget that single exchanges
    lead to has been evaluated.
    """
    trials: dict[Candidate, Trial] = {}

    def propose(candidate: Candidate, source: str) -> Proposals:
        (trials[candidate],) = yield [Proposal(candidate, source, project=False)]

    if evaluator.left == 1 or not problem.space.free:
        yield from propose(problem.start, "anchor")
        return
    probes, lost = list(_probes(problem, int(PROBED * (evaluator.left - 1)))), []
    if probes:
        probed = yield [Proposal(candidate, "sensitivity", project=False) for _, candidate in probes]
        scores = [trial.evaluation.score for trial in probed]
        lost = [max(problem.dense.score - (score if np.isfinite(score) else 0.0), 0.0) for score in scores]
    losses = _sensitivities(problem, probes, lost)
    bisected = _bisect(problem, evaluator, losses)
    if bisected is not None:
        yield from propose(bisected, "bisection")
    # Losses of groups cut alone do not add up in every network: the anchor is the other place to start from.
    for start in problem.starts:
        if bisected != start:
            yield from propose(start, "anchor")
    over: set[Candidate] = set()
    # Predictions keep plans from being compiled in vain. When they leave nothing, the compiler has the last word.
    while found := (
        _exchange(evaluator, losses, trials, over, predicting=True)
        or _exchange(evaluator, losses, trials, over, predicting=False)
    ):
        yield from propose(found, "exchange")


def _exchange(
    evaluator: BudgetedEvaluator,
    losses: Losses,
    trials: Mapping[Candidate, Trial],
    over: set[Candidate],
    *,
    predicting: bool,
) -> Candidate | None:
    """The first candidate within the budget around the best one evaluated, or else around the next best.

    Args:
        evaluator: costs candidates.
        losses: score that every option of every dimension loses.
        trials: what was evaluated, by candidate.
        over: candidates that were compiled and miss the budget; more are added.
        predicting: leaves out candidates that are predicted to miss it.
    """
    objective, space = evaluator.problem.objective, evaluator.problem.space
    branches = space.depth.positions if space.depth is not None else ()
    bases = [(objective.met_by(trial.evaluation), trial.reward, base) for base, trial in trials.items()]
    for *_, base in sorted(bases, reverse=True):
        for neighbour in _neighbours(space, base, losses, narrower_first=objective.floor is not None):
            back = any(neighbour[position] > base[position] for position in branches)
            candidate = evaluator.projector.project(neighbour) if back else neighbour
            if candidate in trials or candidate in over:
                continue
            if predicting and not evaluator.projector.predicts_within(candidate):
                continue
            if evaluator.meets_budget(candidate):
                return candidate
            over.add(candidate)
    return None


def _probes(problem: Problem, count: int) -> Iterator[tuple[tuple[int, ...], Candidate]]:
    """At most `count` candidates that each cut one group, every group as often as the others, or else a few together.

    Of one width per group, it is that of the anchor; of several, they are evenly spaced from the narrowest. A single
    probe would tell nothing.

    Yields:
        Positions of the dimensions that are cut, and the candidate.
    """
    full, free = problem.space.full, problem.space.free
    middle = {position: min(problem.start[position], full[position] - 1) for position in free}
    if count <= 1:
        return
    if count < len(free):
        for block in np.array_split(np.array(free), count):
            yield tuple(block.tolist()), _change(full, {position: middle[position] for position in block.tolist()})
        return
    for position in free:
        each = min(count // len(free), full[position])
        cuts = [middle[position]] if each == 1 else np.linspace(0, full[position] - 1, each).round().astype(int)
        for cut in cuts:
            yield (position,), _change(full, {position: int(cut)})


def _sensitivities(
    problem: Problem, probes: Sequence[tuple[tuple[int, ...], Candidate]], lost: Sequence[float]
) -> Losses:
    """What every option of every dimension loses, made monotone: nothing is lost by keeping all, everything by none.

    Args:
        problem: what is probed.
        probes: from `_probes`.
        lost: score that each lost. Groups that were cut together share the loss.
    """
    points: list[dict[int, float]] = [{} for _ in problem.space.dimensions]
    for (positions, candidate), loss in zip(probes, lost, strict=True):
        for position in positions:
            points[position][candidate[position]] = loss / len(positions)
    # No channel left is no network left.
    everything = max([problem.dense.score, *(loss for known in points for loss in known.values())])
    curves = []
    for dimension, known in zip(problem.space.dimensions, points, strict=True):
        cuts = sorted(known)
        if dimension.is_branch:
            curves.append(np.array([known.get(0, 0.0), 0.0]))
            continue
        at = np.array([0.0, *dimension.keep_ratios[cuts], 1.0])
        losses = np.array([everything, *(known[cut] for cut in cuts), 0.0])
        weights = np.array([1e6, *([1.0] * len(cuts)), 1e6])
        falling = isotonic_regression(losses, weights=weights, increasing=False).x
        falling[[0, -1]] = everything, 0.0
        curves.append(np.maximum(PchipInterpolator(at, falling)(dimension.keep_ratios), 0.0))
    return curves


def _bisect(problem: Problem, evaluator: BudgetedEvaluator, losses: Losses) -> Candidate | None:
    """The candidate of the least allowed loss that meets the budget, as far as bisection can tell; None if none does.

    Where the objective has a floor of the score, that of the most allowed loss that is predicted to stay above it.
    """
    limits = np.unique(np.concatenate([np.zeros(1), *losses]))

    def candidate(number: int) -> Candidate:
        """The narrowest width of every group that loses no more than the limit."""
        options = [int((loss <= limits[number]).argmax()) for loss in losses]
        return tuple(problem.space.canonical(np.array(options)).tolist())

    over, within = -1, len(limits) - 1
    if not evaluator.meets_budget(candidate(within)):
        return None
    while within - over > 1:
        number = (over + within) // 2
        over, within = (over, number) if evaluator.meets_budget(candidate(number)) else (number, within)
    floor = problem.objective.floor
    if floor is not None:
        totals = [
            sum(loss[option] for loss, option in zip(losses, candidate(number), strict=True))
            for number in range(len(limits))
        ]
        lowest = int(np.searchsorted(totals, problem.dense.score - floor, side="right")) - 1
        within = lowest if lowest > within and evaluator.meets_budget(candidate(lowest)) else within
    return candidate(within)


def _neighbours(space: SearchSpace, base: Candidate, losses: Losses, *, narrower_first: bool) -> list[Candidate]:
    """Candidates with one group wider, one narrower, or both, the least predicted loss first.

    With `narrower_first`, where wider groups are what makes a plan worse, candidates with one come last.
    """
    wider: list[tuple[float, dict[int, int]]] = []
    narrower: list[tuple[float, dict[int, int]]] = []
    for position in space.free:
        for step in {1, max(1, (space.full[position] + 1) // STRIDE)}:
            for moves, option in ((wider, base[position] + step), (narrower, base[position] - step)):
                if 0 <= option <= space.full[position]:
                    gained = losses[position][option] - losses[position][base[position]]
                    moves.append((gained, {position: option}))
    both = [
        (up + down, {**gain, **loss}) for up, gain in wider for down, loss in narrower if gain.keys() != loss.keys()
    ]
    first, last = (narrower, [*both, *wider]) if narrower_first else ([*narrower, *both, *wider], [])
    ordered = [*sorted(first, key=lambda move: move[0]), *sorted(last, key=lambda move: move[0])]
    found = [_change(base, changes) for _, changes in ordered]
    return [tuple(candidate) for candidate in space.canonical(found).tolist()] if found else []


def _change(base: Candidate, changes: Mapping[int, int]) -> Candidate:
    """The candidate with some dimensions' options replaced."""
    return tuple(changes.get(position, option) for position, option in enumerate(base))
