"""Model-based search with an agent: it learns in imagination, and only what looks best there is scored.

Dyna (Sutton, 1991), in the form that DyNA-PPO gave it for designs that are expensive to try (Angermueller et al., 2020,
ICLR): an on-policy agent plays many imagined episodes, paid by guesses of score and cost, between one real evaluation
and the next. An evaluation takes seconds and teaches the guesses; an imagined episode takes a millisecond. Besides what
the policy proposes, plans near the best ones are thought about, and plans near those: small steps are better found by
looking than by chance.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.errors import CostError
from autoprune.planning.widths import offset_of, ratio_around
from autoprune.searchers.agents import EPISODES, attach
from autoprune.searchers.imagination import Imagination
from autoprune.searchers.imitation import Steps, imitate
from autoprune.searchers.scorer import meets_budget
from autoprune.searchers.steering import of_limited

FIRST_ROUNDS = 12  # Rounds of as many episodes before the policy proposes for the first time.
ROUNDS = 3  # Rounds between two evaluations.
IMITATED = 10  # Steps of imitating the best plan after each round.
NEIGHBOURS = 256  # Plans near the best ones that are thought about each time.
GENERATIONS = 6  # Times that neighbours are thought about; from the second on, of the most promising plans.
PARENTS = 5  # Plans whose neighbours these are.
DOUBT = 0.04  # Relative error of guessed costs that is reckoned with before the first plan is costed to be scored.
LEAST_DOUBT = 0.003  # The same, however good the guesses have been.
JUDGED = 8  # Latest of such plans by which guesses are judged.
COSTED = 4  # Plans at most that are compiled to find one within the budget.
DRAWS = 64  # Random plans of which the warm-up takes one.
USED = 0.8  # Share of the tightest limit that a plan of the warm-up shall use, where draws allow it.


class Episodes(Steps, Protocol):
    """Imagined episodes; `plans` holds the widths (m, groups) of those that ended last."""

    plans: np.ndarray


class Dyna:
    """One model-based search.

    Args:
        imagination: what is searched for, what scores plans, and guesses of what they are worth.
        episodes: imagined by it.
        agent: on-policy, on these episodes.
        warm_up: share of the evaluations that go to random plans.
        seed: of the random plans and of the neighbours.
        trained: whether the agent knows something already: then its plans take the place of the random ones.
    """

    def __init__(
        self,
        imagination: Imagination,
        episodes: Episodes,
        agent: BaseAlgorithm,
        *,
        warm_up: float,
        seed: int,
        trained: bool = False,
    ) -> None:
        self._problem = problem = imagination.problem
        self._scorer = scorer = imagination.scorer
        self._imagination = imagination
        self._episodes = episodes
        self._agent = agent
        self._trained = trained
        self._warm_up = max(2, round(warm_up * scorer.evaluations))
        self._generator = np.random.default_rng(seed)
        self._names = [group.name for group in problem.groups]
        self._sizes = np.array([group.size for group in problem.groups], float)
        self._over: set[tuple[float, ...]] = set()  # Plans that were costed and miss the budget.
        self._errors = [DOUBT] * JUDGED  # Of the guessed costs of plans that were costed to be scored.

    def run(self) -> None:
        """Use all evaluations but one: the anchor, random plans, then what looks best. Of a single one, that one."""
        self.begin()
        while self._scorer.left > 1:
            self.go_on()

    def begin(self) -> None:
        """The anchor and the plans of the warm-up; then the agent practises."""
        self._scorer.evaluate(self._problem.anchor, "anchor")
        self._cost_margins()
        self._imagination.learn()
        while self._scorer.left > 1 and self._scorer.used < self._warm_up:
            self._score(self._first_plan(), "policy" if self._trained else "warm-up")
            self._imagination.learn()
        self.practise(FIRST_ROUNDS)

    def _cost_margins(self) -> None:
        """Compile the anchor with each group twice as wide, so that guesses know what widening it costs.

        Guesses that have only seen groups grow together would keep the search from the ones that are cheap to widen.
        """
        if self._scorer.surrogate is None or not self._problem.budget.limited or self._scorer.left < len(self._names):
            return
        anchor = np.array(self._legal([self._problem.anchor] * len(self._names)), float)
        for number in range(len(anchor)):
            ratios = anchor / self._sizes
            ratios[number] = min(2 * ratios[number], 1.0)
            meets_budget(self._problem, self._scorer, dict(zip(self._names, ratios.tolist(), strict=True)))

    def go_on(self) -> None:
        """One more plan is scored, and the agent practises with what is known by then."""
        plan, means = self._most_promising()
        self._score(plan, means)
        self._imagination.learn()
        self.practise(ROUNDS)

    def practise(self, rounds: int) -> None:
        """Let the agent learn from imagined episodes: as many rounds as said; and from the best plan."""
        steps = len(self._names)
        attach(self._agent, self._episodes, steps)
        self._agent.learn(rounds * EPISODES * steps, reset_num_timesteps=False)
        best = self._problem.objective.best(self._scorer.course)
        if best is not None:
            anchor, minimum = self._problem.anchor, self._problem.legal.minimum
            ratios = [best.widths[name] for name in self._names] / self._sizes
            actions = [offset_of(ratio, anchor, minimum) for ratio in ratios]
            imitate(self._agent, self._episodes, actions, IMITATED * rounds)

    def _score(self, widths: np.ndarray, means: str) -> None:
        self._scorer.evaluate(self._ratios(widths), means, steered=False)

    def _first_plan(self) -> np.ndarray:
        """A plan that is guessed to use the budget and not to miss it, from before there is much to guess with."""
        plans = self._policy_plans() if self._trained else self._random_plans()
        guesses = self._imagination.guesses(plans)
        # The first draw of the best kind there is; new ones before known ones.
        known = np.array([tuple(plan) in self._known() for plan in plans])
        worth = (guesses.within > 0.5) * 2 + (guesses.used > USED) * 1 - known * 4
        return plans[int(worth.argmax())]

    def _random_plans(self) -> np.ndarray:
        """Draws around the anchor, nearly uniform or wild."""
        anchor, minimum = self._problem.anchor, self._problem.legal.minimum
        draws = self._generator.uniform(-1, 1, (DRAWS, len(self._names))) * self._generator.uniform(0.2, 1, (DRAWS, 1))
        draws = draws + self._generator.uniform(-0.3, 0.5, (DRAWS, 1))
        return np.array([self._legal([ratio_around(anchor, draw, minimum) for draw in one]) for one in draws], float)

    def _legal(self, ratios: list[float]) -> list[int]:
        legal = self._problem.legal
        return [legal.nearest(name, ratio) for name, ratio in zip(self._names, ratios, strict=True)]

    def _known(self) -> set[tuple[float, ...]]:
        return {tuple(float(e.widths[name]) for name in self._names) for e in self._scorer.course}

    def _most_promising(self) -> tuple[np.ndarray, str]:
        """Of the policy's plans, the neighbours of the best and their neighbours, that of most expected improvement.

        It is costed, and the next, until one is within the budget: guesses that nothing corrects would keep the search
        from where they are wrong.
        """
        plans = proposed = self._policy_plans()
        worth, parents = self._worth(proposed), self._best_scored()
        for _ in range(GENERATIONS):
            near = np.array(list(self._neighbours(parents)))
            plans, worth = np.concatenate([plans, near]), np.concatenate([worth, self._worth(near)])
            parents = plans[np.argsort(-worth, kind="stable")[:PARENTS]]
        chosen = int(worth.argmax())
        for _ in range(COSTED):
            if self._fits(plans[chosen]):
                break
            self._over.add(tuple(plans[chosen]))
            chosen = int(self._worth(plans).argmax())
        else:  # What is most likely within the budget then.
            chosen = int(self._worth(plans, doubt=LEAST_DOUBT).argmax())
        return plans[chosen], "policy" if chosen < len(proposed) else "refinement"

    def _fits(self, widths: np.ndarray) -> bool:
        """Whether a plan is within the budget, by compiling it; how wrong the guess was is remembered."""
        if not self._problem.budget.limited:
            return True
        latencies, memories = self._imagination.costs(widths[None])
        try:
            cost = self._scorer.cost(self._ratios(widths))
        except CostError:
            return False
        told = memories is not None and cost.memory.total is not None
        memory = abs(float(memories[0]) / cost.memory.total - 1) if told else None
        self._errors.append(of_limited(self._problem.budget, abs(float(latencies[0]) / cost.latency - 1), memory))
        return self._problem.budget.met_by(cost)

    def _doubt(self) -> float:
        """Relative error of guessed costs to reckon with near the plans that the search has come to.

        Too little keeps it from plans that are guessed too slow, too much wastes compilations on plans that are.
        """
        return max(1.25 * float(np.mean(self._errors[-JUDGED:])), LEAST_DOUBT)

    def _ratios(self, widths: np.ndarray) -> dict[str, float]:
        return dict(zip(self._names, (widths / self._sizes).tolist(), strict=True))

    def _worth(self, plans: np.ndarray, doubt: float | None = None) -> np.ndarray:
        """(m,) Expected improvements; where there is none, what is likeliest to be a result; no known plan."""
        guesses = self._imagination.guesses(plans, self._doubt() if doubt is None else doubt)
        known = self._known() | self._over
        new = np.array([tuple(plan) not in known for plan in plans])
        return np.where(new, guesses.improvement(self._imagination.best()) + 1e-9 * guesses.able, -np.inf)

    def _best_scored(self) -> np.ndarray:
        """The widths (m, groups) of the best plans so far."""
        objective = self._problem.objective
        able = sorted(self._scorer.course, key=lambda e: (objective.met_by(e), objective.reward(e)), reverse=True)
        return np.array([[evaluation.widths[name] for name in self._names] for evaluation in able[:PARENTS]], float)

    def _policy_plans(self) -> np.ndarray:
        """Plans of the policy as it is now: with exploration, and one without."""
        plans = []
        for deterministic in (False, True):
            observation = self._episodes.reset()
            for _ in self._names:
                actions, _ = self._agent.predict(observation, deterministic=deterministic)
                observation, *_ = self._episodes.step(actions)
            plans.append(self._episodes.plans if not deterministic else self._episodes.plans[:1])
        return np.concatenate(plans)

    def _neighbours(self, parents: np.ndarray) -> Iterator[np.ndarray]:
        """Plans that differ from one of some others in up to three groups, by a few widths each."""
        widths = [self._problem.legal.of(name) for name in self._names]
        for _ in range(NEIGHBOURS):
            plan = parents[self._generator.integers(len(parents))].tolist()
            for group in self._generator.choice(len(plan), min(self._generator.integers(1, 4), len(plan)), False):
                position = widths[group].index(plan[group])
                step = self._generator.choice([-3, -2, -1, 1, 2, 3], p=[0.05, 0.15, 0.3, 0.3, 0.15, 0.05])
                plan[group] = widths[group][int(np.clip(position + step, 0, len(widths[group]) - 1))]
            yield np.array(plan, float)
