"""Sensitivity and bisection, as pruning libraries without learning do it, then exchanges of channels between groups.

Each group is cut alone to a few widths, which gives what its widths cost in score. A limit on the loss that every
group may cause by itself is bisected until the plan meets the budget: AIMET's greedy selection of compression ratios
does so, and FastNAS of NVIDIA's Model Optimizer with its sensitivity map. They bisect on counted operations or guessed
latency; here every step is compiled. Evaluations that are left go to plans around the best, as NetAdapt proposes them
(Yang et al., 2018, arXiv 1804.03230): one group wider, another narrower, the least predicted loss first.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from autoprune.records import Evaluation
from autoprune.searchers.choices import Choices, Indices
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import Scorer, meets_budget
from autoprune.searchers.searcher import SEARCHERS
from autoprune.searchers.steering import guess_error

PROBED = 0.5  # Share of the evaluations that learn sensitivities.
STRIDE = 8  # A group moves by one width, or by this part of its widths.

Probe = tuple[tuple[int, ...], Indices]  # Positions of the groups that are cut, and the plan.


@SEARCHERS.add("greedy")
def greedy(problem: Problem, scorer: Scorer, seed: int) -> None:
    """Learn sensitivities, bisect the loss allowed, exchange channels. A single evaluation goes to the anchor.

    The course does not depend on the seed. It ends early only when every plan within the budget that single exchanges
    lead to has been scored.
    """
    choices = Choices(problem)
    exchange = _Exchange(problem, scorer, choices)
    if scorer.left == 1 or not choices.names:
        exchange.score(choices.anchor, "anchor")
        return
    losses = _sensitivities(problem, scorer, choices)
    bisected = _bisected(problem, scorer, choices, losses)
    if bisected is not None:
        exchange.score(bisected, "bisection")
    # Losses of groups cut alone do not add up in every network: the anchor is the other place to start from.
    if scorer.left > 0 and bisected != choices.anchor:
        exchange.score(choices.anchor, "anchor")
    exchange.run(losses)


def _sensitivities(problem: Problem, scorer: Scorer, choices: Choices) -> list[np.ndarray]:
    """For each group (legal widths,), the score that is lost when it alone is cut to a width, falling with the width.

    With fewer probes than groups, neighbouring groups are cut together and share the loss; with one, it tells nothing.
    """
    count = int(PROBED * (scorer.left - 1))
    points: list[dict[int, float]] = [{} for _ in choices.names]
    for groups, indices in _probes(choices, count) if count > 1 else []:
        evaluation = scorer.evaluate(choices.plan(indices), "sensitivity", steered=False)
        score = evaluation.score if np.isfinite(evaluation.score) else 0.0
        for group in groups:
            points[group][indices[group]] = max(problem.dense.score - score, 0.0) / len(groups)
    # No channel left is no network left.
    everything = max([problem.dense.score, *(loss for known in points for loss in known.values())])
    return [_curve(ratios, known, everything) for ratios, known in zip(choices.ratios, points, strict=True)]


def _probes(choices: Choices, count: int) -> Iterator[Probe]:
    """At most `count` plans that each cut one group, every group as often as the others, or else a few together.

    Of one width per group, it is that of the anchor; of several, they are evenly spaced from the narrowest.
    """
    last = choices.last
    middle = np.minimum(choices.anchor, last - 1)
    if count < len(last):
        for block in np.array_split(np.arange(len(last)), count):
            yield tuple(block.tolist()), _changed(last, {group: middle[group] for group in block})
        return
    for group, dense in enumerate(last):
        each = min(count // len(last), dense)
        cuts = [middle[group]] if each == 1 else np.linspace(0, dense - 1, each).round().astype(int)
        for cut in cuts:
            yield (group,), _changed(last, {group: cut})


def _curve(ratios: np.ndarray, known: Mapping[int, float], everything: float) -> np.ndarray:
    """Losses at all keep ratios of a group from those at a few, made monotone: nothing is lost at 1, all at 0."""
    cuts = sorted(known)
    at = np.array([0.0, *ratios[cuts], 1.0])
    losses = np.array([everything, *(known[cut] for cut in cuts), 0.0])
    weights = np.array([1e6, *([1.0] * len(cuts)), 1e6])
    falling = isotonic_regression(losses, weights=weights, increasing=False).x
    falling[[0, -1]] = everything, 0.0
    return np.maximum(PchipInterpolator(at, falling)(ratios), 0.0)


def _bisected(problem: Problem, scorer: Scorer, choices: Choices, losses: Sequence[np.ndarray]) -> Indices | None:
    """The plan of the least allowed loss that meets the budget, as far as bisection can tell; None if none does.

    Where the objective has a floor of the score, the plan of the most allowed loss that is predicted to stay above it.
    """
    limits = np.unique(np.concatenate([np.zeros(1), *losses]))

    def plan(number: int) -> Indices:
        """The narrowest width of every group that loses no more than the limit."""
        return tuple(int((loss <= limits[number]).argmax()) for loss in losses)

    def meets(number: int) -> bool:
        return meets_budget(problem, scorer, choices.plan(plan(number)))

    over, within = -1, len(limits) - 1
    if not meets(within):
        return None
    while within - over > 1:
        number = (over + within) // 2
        over, within = (over, number) if meets(number) else (number, within)
    floor = problem.objective.floor
    if floor is not None:
        totals = [sum(loss[index] for loss, index in zip(losses, plan(n), strict=True)) for n in range(len(limits))]
        lowest = int(np.searchsorted(totals, problem.dense.score - floor, side="right")) - 1
        within = lowest if lowest > within and meets(lowest) else within
    return plan(within)


class _Exchange:
    """Scores plans around the best so far, each of them compiled before it is charged."""

    def __init__(self, problem: Problem, scorer: Scorer, choices: Choices) -> None:
        self._problem = problem
        self._scorer = scorer
        self._choices = choices
        self._scored: dict[Indices, Evaluation] = {}
        self._over: set[Indices] = set()

    def score(self, indices: Indices, means: str) -> None:
        """Score a plan and remember it."""
        self._scored[indices] = self._scorer.evaluate(self._choices.plan(indices), means, steered=False)

    def run(self, losses: Sequence[np.ndarray]) -> None:
        """Score plans until no evaluation is left, or nothing new is within the budget."""
        while self._scorer.left > 0:
            # Guesses keep plans from being compiled in vain. When they leave nothing, the compiler has the last word.
            found = self._next(losses, guessing=True) or self._next(losses, guessing=False)
            if found is None:
                return
            self.score(found, "exchange")

    def _next(self, losses: Sequence[np.ndarray], *, guessing: bool) -> Indices | None:
        """The first plan within the budget around the best one scored, or else around the next best."""
        objective = self._problem.objective
        bases = [(objective.met_by(e), objective.reward(e), indices) for indices, e in self._scored.items()]
        for *_, base in sorted(bases, reverse=True):
            for candidate in self._around(base, losses):
                if candidate in self._scored or candidate in self._over:
                    continue
                if guessing and not self._guessed_within(candidate):
                    continue
                if meets_budget(self._problem, self._scorer, self._choices.plan(candidate)):
                    return candidate
                self._over.add(candidate)
        return None

    def _around(self, base: Indices, losses: Sequence[np.ndarray]) -> list[Indices]:
        """Plans with one group wider, one narrower, or both, the least predicted loss first.

        Where the objective has a floor of the score, wider groups are what makes a plan worse: those plans come last.
        """
        wider, narrower = [], []
        for group, dense in enumerate(self._choices.last):
            for step in {1, max(1, (dense + 1) // STRIDE)}:
                for moves, index in ((wider, base[group] + step), (narrower, base[group] - step)):
                    if 0 <= index <= dense:
                        moves.append((losses[group][index] - losses[group][base[group]], {group: index}))
        both = [
            (up + down, {**gain, **loss}) for up, gain in wider for down, loss in narrower if gain.keys() != loss.keys()
        ]
        floored = self._problem.objective.floor is not None
        first, last = (narrower, [*both, *wider]) if floored else ([*narrower, *both, *wider], [])
        ordered = [*sorted(first, key=lambda move: move[0]), *sorted(last, key=lambda move: move[0])]
        return [_changed(base, changes) for _, changes in ordered]

    def _guessed_within(self, indices: Indices) -> bool:
        """False for a plan that is guessed to miss the budget by more than guesses err."""
        surrogate = self._scorer.surrogate
        if surrogate is None or not surrogate.ready:
            return True
        widths = self._problem.legal.all_nearest(self._choices.plan(indices))
        error = guess_error(surrogate, self._problem.budget)
        margin = 0.0 if error is None else error / 2
        return self._problem.budget.excess(*surrogate.predict(widths)) <= margin


def _changed(base: Sequence[int], changes: Mapping[int, int]) -> Indices:
    """The plan with the indices of some groups replaced."""
    return tuple(int(changes.get(group, index)) for group, index in enumerate(base))
