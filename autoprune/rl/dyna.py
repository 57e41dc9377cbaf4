"""Model-based search with an agent: it learns in imagination, and only what looks best there is scored.

Dyna (Sutton, 1991), in the form that DyNA-PPO gave it for designs that are expensive to try (Angermueller et al., 2020,
ICLR): an on-policy agent plays many imagined episodes, paid by predictions of score and cost, between one real
evaluation and the next. An evaluation takes seconds and teaches the predictions; an imagined episode takes a
millisecond. Besides what the policy proposes, plans near the best ones are thought about, and plans near those: small
steps are better found by looking than by chance.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.episode import EpisodeContext
from autoprune.envs.vector_env import PruningVecEnv
from autoprune.errors import CostError
from autoprune.planning import Candidate
from autoprune.rl.agents import EPISODES, attach
from autoprune.rl.behavior_cloning import clone_behavior
from autoprune.rl.reward_model import RewardModel
from autoprune.searchers import AskTellSearcher, BudgetedEvaluator, Proposal
from autoprune.searchers.projection import error_of_limited
from autoprune.searchers.searcher import Proposals

FIRST_ROUNDS = 12  # Rounds of as many episodes before the policy proposes for the first time.
ROUNDS = 3  # Rounds between two evaluations.
CLONED = 10  # Steps of cloning the best plan's actions after each round.
REFILLED = 32  # Plans at most that are widened, of those that lack branches.
NEIGHBOURS = 256  # Plans near the best ones that are thought about each time.
GENERATIONS = 6  # Times that neighbours are thought about; from the second on, of the most promising plans.
PARENTS = 5  # Plans whose neighbours these are.
DOUBT = 0.04  # Relative error of predicted costs that is reckoned with before the first plan is costed to be scored.
LEAST_DOUBT = 0.003  # The same, however good predictions have been.
JUDGED = 8  # Latest of such plans by which predictions are judged.
COSTED = 4  # Plans at most that are compiled to find one within the budget.
DRAWS = 64  # Random plans of which the warm-up takes one.
USED = 0.8  # Share of the tightest limit that a plan of the warm-up shall use, where draws allow it.
INFEASIBLE_PENALTY = 0.3  # Reward that it costs to be certainly no result, besides the reward's own penalty.


def imagine(reward_model: RewardModel, context: EpisodeContext) -> PruningVecEnv:
    """Imagined episodes side by side: rewards are expected ones, less for candidates that may be no result.

    One that is predicted to meet the budget, or the floor of the score, only just would be the best place for an agent,
    and half of such candidates miss it: what one is paid is weighed by how likely it is to be a result.
    """

    def pay(candidates: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        predictions = reward_model.predict(candidates)
        return predictions.rewards - (1 - predictions.able) * INFEASIBLE_PENALTY, [{}] * len(candidates)

    return PruningVecEnv(context, pay, EPISODES)


class Dyna:
    """One model-based search.

    Args:
        reward_model: what candidates are predicted to be worth; its evaluator is the search's.
        episodes: imagined by it.
        agent: on-policy, on these episodes.
        warm_up: share of the evaluations that go to random candidates.
        seed: of the random candidates and of the neighbours.
        trained: whether the agent knows something already: then its candidates take the place of the random ones.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        episodes: PruningVecEnv,
        agent: BaseAlgorithm,
        *,
        warm_up: float,
        seed: int,
        trained: bool = False,
    ) -> None:
        self._evaluator: BudgetedEvaluator = reward_model.evaluator
        self._problem = self._evaluator.problem
        self._space = self._problem.space
        self._reward_model = reward_model
        self._episodes = episodes
        self._agent = agent
        self._trained = trained
        self._warm_up = max(2, round(warm_up * self._evaluator.evaluations))
        self._generator = np.random.default_rng(seed)
        self._over: set[Candidate] = set()  # Costed, and over the budget.
        self._errors = [DOUBT] * JUDGED  # Of the predicted costs of candidates that were costed to be evaluated.

    def begin(self) -> None:
        """The anchor and the candidates of the warm-up; then the agent learns for the first time."""
        warm_up = AskTellSearcher(self._warm_up_proposals(), self._evaluator)
        while warm_up.step():
            pass
        self.train(FIRST_ROUNDS)

    def _warm_up_proposals(self) -> Proposals:
        evaluator, start = self._evaluator, self._problem.start
        starts = self._problem.starts[: max(evaluator.left - 1, 1)]  # The last evaluation is the policy's own.
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
        while evaluator.left > 1 and evaluator.used < self._warm_up:
            yield [Proposal(self._first(), "policy" if self._trained else "warm-up", project=False)]
            self._reward_model.learn()

    def train(self, rounds: int) -> None:
        """Let the agent learn from imagined episodes: as many rounds as said; and from the best candidate."""
        steps, best = len(self._space), self._evaluator.history.best
        attach(self._agent, self._episodes, steps)
        self._agent.learn(rounds * EPISODES * steps, reset_num_timesteps=False)
        if best is not None:
            actions = self._space.offsets(best.candidate, self._problem.anchor)
            clone_behavior(self._agent, self._episodes.context, actions, CLONED * rounds)

    def _first(self) -> Candidate:
        """A candidate that is predicted to use the budget and not to miss it, before there is much to predict by."""
        if self._trained:
            candidates = self._policy_candidates()
        else:  # Draws around the anchor, nearly uniform or wild.
            shape = (DRAWS, len(self._space))
            draws = self._generator.uniform(-1, 1, shape) * self._generator.uniform(0.2, 1, (DRAWS, 1))
            draws = draws + self._generator.uniform(-0.3, 0.5, (DRAWS, 1))
            if self._space.depth is not None:  # From no branch gone to most of them.
                branches = list(self._space.depth.positions)
                stays = self._generator.uniform(size=(DRAWS, len(branches))) > self._generator.uniform(size=(DRAWS, 1))
                draws[:, branches] = np.where(stays, 0.0, -1.0)
            candidates = np.array([self._space.around(self._problem.anchor, offsets) for offsets in draws])
            candidates = np.concatenate([candidates, self._refill(candidates, DRAWS)])
        predictions, known = self._reward_model.predict(candidates), self._list_evaluated()
        # The first draw of the best kind there is; new ones before known ones.
        seen = np.array([tuple(candidate) in known for candidate in candidates.tolist()])
        worth = (predictions.within > 0.5) * 2 + (predictions.used > USED) * 1 - seen * 4
        return tuple(candidates[int(worth.argmax())].tolist())

    def _refill(self, candidates: np.ndarray, count: int) -> np.ndarray:
        """(m, dimensions) The first of candidates without some branches, widened to what these leave of the budget.

        Without branches in the search space there are none.
        """
        if self._space.depth is None:
            return candidates[:0]
        branches = list(self._space.depth.positions)
        lacking = candidates[(candidates[:, branches] == 0).any(1)][:count]
        project = self._evaluator.projector.project
        found = [project(tuple(candidate)) for candidate in lacking.tolist()]
        return np.array(found, int).reshape(-1, len(self._space))

    def _list_evaluated(self) -> set[Candidate]:
        return {trial.candidate for trial in self._evaluator.history}

    def step(self) -> None:
        """One more evaluation, of what looks best; then the agent learns with what is known by now.

        Of the policy's candidates, the neighbours of the best and their neighbours, it is that of most improvement. It
        is costed, and the next, until one is within the budget: predictions that nothing corrects would keep the search
        from where they are wrong.
        """
        proposed = self._policy_candidates()
        candidates = np.concatenate([proposed, self._refill(proposed, REFILLED)])
        worth = self._worth(candidates)
        objective = self._problem.objective
        ranked = sorted(
            self._evaluator.history,
            key=lambda trial: (objective.met_by(trial.evaluation), trial.reward),
            reverse=True,
        )
        parents = [trial.candidate for trial in ranked[:PARENTS]]
        for _ in range(GENERATIONS):
            near = np.array(list(self._space.neighbours(parents, self._generator, NEIGHBOURS)))
            near = np.concatenate([near, self._refill(near, REFILLED)])
            candidates, worth = np.concatenate([candidates, near]), np.concatenate([worth, self._worth(near)])
            best = np.argsort(-worth, kind="stable")[:PARENTS]
            parents = [tuple(candidate) for candidate in candidates[best].tolist()]
        chosen = int(worth.argmax())
        for _ in range(COSTED):
            candidate = tuple(candidates[chosen].tolist())
            if self._fits(candidate):
                break
            self._over.add(candidate)
            chosen = int(self._worth(candidates).argmax())
        else:  # What is most likely within the budget then.
            chosen = int(self._worth(candidates, doubt=LEAST_DOUBT).argmax())
        source = "policy" if chosen < len(proposed) else "refinement"
        self._evaluator.evaluate_many([Proposal(tuple(candidates[chosen].tolist()), source, project=False)])
        self._reward_model.learn()
        self.train(ROUNDS)

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

    def _worth(self, candidates: np.ndarray, doubt: float | None = None) -> np.ndarray:
        """(m,) Expected improvements; where there is none, what is likeliest to be a result; nothing known."""
        if doubt is None:
            # The error of predicted costs to reckon with near the candidates that the search has come to: too little
            # keeps it from some that are predicted too slow, too much wastes compilations on some that are.
            doubt = max(1.25 * float(np.mean(self._errors[-JUDGED:])), LEAST_DOUBT)
        predictions, known = self._reward_model.predict(candidates, doubt), self._list_evaluated() | self._over
        new = np.array([tuple(candidate) not in known for candidate in candidates.tolist()])
        return np.where(new, self._reward_model.improvement(predictions) + 1e-9 * predictions.able, -np.inf)

    def _policy_candidates(self) -> np.ndarray:
        """(m, dimensions) What the policy decides on as it is now: with exploration, and once without."""
        found = []
        for deterministic in (False, True):
            observation = self._episodes.reset()
            for _ in range(len(self._space)):
                actions, _ = self._agent.predict(observation, deterministic=deterministic)
                self._episodes.step_async(actions)
                observation, *_ = self._episodes.step_wait()
            found.append(self._episodes.candidates[:1] if deterministic else self._episodes.candidates)
        return np.concatenate(found)
