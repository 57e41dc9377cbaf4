"""Finds the plan that is most worth the next evaluation: the best by predictions, within the budget by the compiler.

Predictions of score and cost answer for a thousand plans in the time in which one is scored: the plan that is best by
them is found by local search from several starts. One dimension changes at a time, or two, one of which saves what the
other costs, or one and all others a little, so that the budget is used up again. On a space of 16,384 plans that can be
counted through the plan found is the best one there is (`tests/benchmarks/channel_bench.py --gaps`).
"""

from collections.abc import Callable

import numpy as np

from autoprune.errors import CostError
from autoprune.planning import Candidate
from autoprune.searchers.budgeted import BudgetedEvaluator, Proposal
from autoprune.searchers.projection import error_of_limited
from autoprune.searchers.reward_model import Predictions, RewardModel
from autoprune.searchers.searcher import Proposals

DRAWS = 64  # Random plans of which a first trial takes one.
USED = 0.8  # Share of the tightest limit that a first trial shall use, where draws allow it.
PARENTS = 2  # Plans from which local search goes on.
RANDOM = 64  # Plans near the best evaluated ones that it also begins with.
GENERATIONS = 8  # Steps of local search at most.
EXCHANGED = 128  # Pairs of changes that are looked at in each step.
PATIENCE = 2  # Steps without a better plan after which it ends.
REFILLED = 4  # Plans at most that lost a branch, and that are over the budget, that are brought onto it in each step.
PROPOSED = 16  # Of the plans that it begins with those that are, at most.
DOUBT = 0.04  # Relative error of predicted costs that is reckoned with before the first plan is costed to be scored.
LEAST_DOUBT = 0.003  # The same, however good predictions have been.
JUDGED = 8  # Latest of such plans by which predictions are judged.
COSTED = 4  # Plans at most that are compiled to find one within the budget.
INFEASIBLE_PENALTY = 0.3  # Reward that it costs to be certainly no result, besides the reward's own penalty.

Draw = Callable[[], np.ndarray]  # (m, dimensions) candidates.


class Solver:
    """Proposes one plan after the other, by what has been learnt so far.

    Args:
        reward_model: what candidates are predicted to be worth; its evaluator is the search's.
        generator: draws random candidates.
    """

    def __init__(self, reward_model: RewardModel, generator: np.random.Generator) -> None:
        self._evaluator: BudgetedEvaluator = reward_model.evaluator
        self._problem = self._evaluator.problem
        self._space = self._problem.space
        self._reward_model = reward_model
        self._generator = generator
        self._over: set[Candidate] = set()  # Costed, and over the budget.
        self._underway: set[Candidate] = set()  # Proposed since the last trial.
        self._errors = [DOUBT] * JUDGED  # Of the predicted costs of candidates that were costed to be evaluated.

    def first_trials(self, share: float, draw: Draw | None = None, source: str = "warm-up") -> Proposals:
        """The hand-set starts, and plans that use the budget, those from which predictions learn most.

        The last evaluation is left to the searcher, and at least two are made where there are more.

        Args:
            share: of all evaluations that are made so.
            draw: candidates to choose from; None draws around the anchor.
            source: of the trials but the starts.
        """
        evaluator, start = self._evaluator, self._problem.start
        starts = self._problem.starts[: max(evaluator.left - 1, 1)]
        yield [Proposal(each, "anchor", project=False) for each in starts]
        if evaluator.surrogate is not None and self._problem.budget.limited and evaluator.left >= len(self._space):
            # The anchor with each group twice as wide is compiled, so that predictions know what widening it costs.
            # Those that have only seen groups grow together would keep the search from those that are cheap to widen.
            for position, ratio in enumerate(self._space.keep_ratios(start)):
                if self._space.dimensions[position].is_branch:
                    continue
                wider = list(start)
                wider[position] = int(self._space.dimensions[position].nearest(min(2 * ratio, 1.0)))
                evaluator.excess(tuple(wider))
        self._reward_model.learn()
        wanted = min(max(2, round(share * evaluator.evaluations)), evaluator.evaluations - 1)
        while (count := min(evaluator.batch, wanted - evaluator.used)) > 0:
            chosen = self._choose_many(
                count, lambda: (self._choose_first((draw or self._draw)(), informative=draw is None), False)
            )
            yield [Proposal(candidate, source, project=False) for candidate, _ in chosen]
            self._reward_model.learn()

    def _draw(self) -> np.ndarray:
        """(m, dimensions) Draws around the anchor, nearly uniform or wild, from no branch gone to most of them."""
        shape = (DRAWS, len(self._space))
        draws = self._generator.uniform(-1, 1, shape) * self._generator.uniform(0.2, 1, (DRAWS, 1))
        draws = draws + self._generator.uniform(-0.3, 0.5, (DRAWS, 1))
        if self._space.depth is not None:
            branches = list(self._space.depth.positions)
            stays = self._generator.uniform(size=(DRAWS, len(branches))) > self._generator.uniform(size=(DRAWS, 1))
            draws[:, branches] = np.where(stays, 0.0, -1.0)
        candidates = np.array([self._space.around(self._problem.anchor, offsets) for offsets in draws])
        return np.concatenate([candidates, self.refill(candidates, DRAWS)])

    def _choose_first(self, candidates: np.ndarray, *, informative: bool) -> Candidate:
        """Of candidates that are predicted to use the budget and not to miss it the first, or that of most doubt."""
        predictions = self._reward_model.predict(candidates)
        known = {trial.candidate for trial in self._evaluator.history} | self._underway
        # New ones before known ones, whatever else they are.
        seen = np.array([tuple(candidate) in known for candidate in candidates.tolist()])
        unsure = predictions.deviations / max(float(predictions.deviations.max()), 1e-9)
        worth = (predictions.within > 0.5) * 4 + (predictions.used > USED) * 2 - seen * 8 + informative * unsure
        return tuple(candidates[int(worth.argmax())].tolist())

    def refill(self, candidates: np.ndarray, count: int) -> np.ndarray:
        """(m, dimensions) The first of candidates without some branches, widened to what these leave of the budget.

        Without branches in the search space there are none.
        """
        if self._space.depth is None:
            return candidates[:0]
        branches = list(self._space.depth.positions)
        return self._project(candidates[(candidates[:, branches] == 0).any(1)][:count])

    def _project(self, candidates: np.ndarray) -> np.ndarray:
        """(m, dimensions) Candidates brought onto the budget, roughly: single changes use up what is left."""
        return self._evaluator.projector.project_all(candidates, every=4)

    def solve(
        self, proposed: np.ndarray | None = None, *, count: int = 1, explore: bool = True
    ) -> list[tuple[Candidate, bool]]:
        """The new candidates most worth an evaluation, one after the other.

        Each is costed, and the next, until one is within the budget: predictions that nothing corrects would keep the
        search from where they are wrong. Those to come take the ones before to score what is expected of them.

        Args:
            proposed: (m, dimensions) candidates to begin with besides the best evaluated ones.
            count: of candidates, to be evaluated side by side.
            explore: by expected improvement; else by expected reward.

        Returns:
            The candidates, and of each whether it is one of those proposed; fewer when there are no more new ones.
        """
        proposed = np.empty((0, len(self._space)), int) if proposed is None else proposed
        return self._choose_many(count, lambda: self._solve_one(proposed, explore=explore))

    def _choose_many(
        self, count: int, choose: Callable[[], tuple[Candidate, bool] | None]
    ) -> list[tuple[Candidate, bool]]:
        """What is chosen so many times, each time with those before believed to score what is expected of them."""
        found: list[tuple[Candidate, bool]] = []
        self._underway = set()
        while len(found) < count and (chosen := choose()):
            found.append(chosen)
            self._underway.add(chosen[0])
            if len(found) < count:
                self._reward_model.learn([candidate for candidate, _ in found])
        return found

    def _solve_one(self, proposed: np.ndarray, *, explore: bool) -> tuple[Candidate, bool] | None:
        candidates = self._climb(np.concatenate([proposed, self.refill(proposed, PROPOSED)]), explore=explore)
        for _ in range(COSTED):
            worth = self._worth(candidates, explore=explore)
            chosen = int(worth.argmax())
            candidate = tuple(candidates[chosen].tolist())
            if not np.isfinite(worth[chosen]) or self._fits(candidate):
                break
            self._over.add(candidate)
        else:  # What is most likely within the budget then.
            worth = self._worth(candidates, explore=explore, doubt=LEAST_DOUBT)
            chosen = int(worth.argmax())
        if not np.isfinite(worth[chosen]):
            return None
        return tuple(candidates[chosen].tolist()), chosen < len(proposed)

    def _climb(self, candidates: np.ndarray, *, explore: bool) -> np.ndarray:
        """(m, dimensions) All that was looked at on the way from candidates and the best evaluated ones, these first.

        Each step goes on from the best that were not gone on from before, until a few find none that is better.
        """
        objective = self._problem.objective
        ranked = sorted(
            self._evaluator.history,
            key=lambda trial: (objective.met_by(trial.evaluation), trial.reward),
            reverse=True,
        )
        parents = [trial.candidate for trial in ranked[:PARENTS]]
        near = np.array(list(self._space.neighbours(parents, self._generator, RANDOM)))
        found = np.concatenate([candidates, near, self.refill(near, PROPOSED)])
        worth, climbed, since = self._worth(found, explore=explore), set(parents), 0
        for _ in range(GENERATIONS):
            best = float(worth.max(initial=-np.inf))
            for parent in parents:
                moves, theirs = self._moves(np.array(parent), explore=explore)
                found, worth = np.concatenate([found, moves]), np.concatenate([worth, theirs])
            since = 0 if worth.max(initial=-np.inf) > best else since + 1
            order = dict.fromkeys(map(tuple, found[np.argsort(-worth, kind="stable")[: 16 * PARENTS]].tolist()))
            parents = [candidate for candidate in order if candidate not in climbed][:PARENTS]
            climbed.update(parents)
            if since == PATIENCE or not parents:
                break
        return found

    def _moves(self, base: np.ndarray, *, explore: bool) -> tuple[np.ndarray, np.ndarray]:
        """(m, dimensions) Candidates one move away: of one dimension, of two against each other, of all; (m,) worth.

        Two changes are thought to gain and to cost what each does by itself: of all pairs that would keep the budget
        so, those of the highest gain are looked at.
        """
        space = self._space
        changed = [
            np.where(np.arange(len(space)) == position, option, base)
            for position in space.free
            for option in range(space.full[position] + 1)
            if option != base[position]
        ]
        singles = space.canonical(np.array(changed, int).reshape(-1, len(space)))
        predictions = self._reward_model.predict(np.concatenate([base[None], singles]), self._doubt())
        gains, costs = predictions.met[1:] - predictions.met[0], predictions.used[1:] - predictions.used[0]
        first, second = np.triu_indices(len(singles), 1)
        steps = singles - base
        fitting = predictions.used[0] + costs[first] + costs[second] <= 1
        fitting &= ~((steps[first] != 0) & (steps[second] != 0)).any(1)
        first, second = first[fitting], second[fitting]
        most = np.argsort(-(gains[first] + gains[second]), kind="stable")[:EXCHANGED]
        exchanges = space.canonical(base + steps[first[most]] + steps[second[most]])
        branches = [] if space.depth is None else list(space.depth.positions)
        kinds = predictions.used[1:] > 1, (steps[:, branches] < 0).any(1)
        brought = [rows[np.argsort(-gains[rows], kind="stable")[:REFILLED]] for rows in map(np.flatnonzero, kinds)]
        others = np.concatenate([exchanges, self._project(singles[np.concatenate(brought)])])
        worth = self._of_new(singles, self._value(predictions, explore=explore)[1:])
        return np.concatenate([singles, others]), np.concatenate([worth, self._worth(others, explore=explore)])

    def _fits(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the budget, by compiling it; how wrong the prediction was is remembered."""
        if not self._problem.budget.limited:
            return True
        latencies, memories = self._reward_model.costs(np.array([candidate]))
        try:
            cost = self._evaluator.cost(candidate)
        except CostError:
            return False
        memory = None
        if memories is not None and cost.memory.total is not None:
            memory = abs(float(memories[0]) / cost.memory.total - 1)
        self._errors.append(error_of_limited(self._problem.budget, abs(float(latencies[0]) / cost.latency - 1), memory))
        return self._problem.budget.met_by(cost)

    def _doubt(self) -> float:
        """The error of predicted costs to reckon with near the candidates that the search has come to.

        Too little keeps it from some that are predicted too slow, too much wastes compilations on some that are.
        """
        return max(1.25 * float(np.mean(self._errors[-JUDGED:])), LEAST_DOUBT)

    def _worth(self, candidates: np.ndarray, *, explore: bool, doubt: float | None = None) -> np.ndarray:
        """(m,) What an evaluation of each is worth."""
        if not len(candidates):
            return np.empty(0)
        predictions = self._reward_model.predict(candidates, self._doubt() if doubt is None else doubt)
        return self._of_new(candidates, self._value(predictions, explore=explore))

    def _of_new(self, candidates: np.ndarray, worth: np.ndarray) -> np.ndarray:
        """(m,) Their worth, but nothing where one is evaluated, or over the budget by the compiler."""
        known = {trial.candidate for trial in self._evaluator.history} | self._over | self._underway
        return np.where([tuple(candidate) not in known for candidate in candidates.tolist()], worth, -np.inf)

    def _value(self, predictions: Predictions, *, explore: bool) -> np.ndarray:
        """(m,) Expected improvements; where there is none, what is likeliest to be a result. Or expected rewards."""
        if explore:
            return self._reward_model.improvement(predictions) + 1e-9 * predictions.able
        return predictions.met - (1 - predictions.able) * INFEASIBLE_PENALTY
