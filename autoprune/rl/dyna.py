"""Model-based search with an agent: it learns in imagination, and only what looks best there is scored.

Dyna (Sutton, 1991), in the form that DyNA-PPO gave it for designs that are expensive to try (Angermueller et al., 2020,
ICLR): an on-policy agent plays many imagined episodes, paid by predictions of score and cost, between one real
evaluation and the next. An evaluation takes seconds and teaches the predictions; an imagined episode takes a
millisecond. What the policy proposes is where the solver of `autoprune.searchers.solving` begins: small steps are
better found by looking than by chance.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.episode import EpisodeContext, retrace
from autoprune.envs.vector_env import PruningVecEnv
from autoprune.rl.agents import EPISODES, attach
from autoprune.searchers import AskTellSearcher, BudgetedEvaluator, Proposal
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.solving import INFEASIBLE_PENALTY, Solver

FIRST_ROUNDS = 12  # Rounds of as many episodes before the policy proposes for the first time.
ROUNDS = 3  # Rounds between two evaluations.
CLONED = 10  # Steps of cloning the best plan's actions after each round.


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
        self._reward_model = reward_model
        self._episodes = episodes
        self._agent = agent
        self._trained = trained
        self._warm_up = warm_up
        self._solver = Solver(reward_model, np.random.default_rng(seed))

    def begin(self) -> None:
        """The anchor and the candidates of the warm-up; then the agent learns for the first time."""
        draw, source = (self._policy_candidates, "policy") if self._trained else (None, "warm-up")
        warm_up = AskTellSearcher(self._solver.first_trials(self._warm_up, draw, source), self._evaluator)
        while warm_up.step():
            pass
        self.train(FIRST_ROUNDS)

    def train(self, rounds: int) -> None:
        """Let the agent learn from imagined episodes: as many rounds as said; and from the best candidate."""
        space, best = self._problem.space, self._evaluator.history.best
        attach(self._agent, self._episodes, len(space))
        self._agent.learn(rounds * EPISODES * len(space), reset_num_timesteps=False)
        if best is not None:
            actions = space.offsets(best.candidate, self._problem.anchor)
            clone_behavior(self._agent, self._episodes.context, actions, CLONED * rounds)

    def step(self) -> None:
        """Evaluate what the solver makes of the policy's candidates, a batch; then the agent learns from it.

        One evaluation is left for whoever comes after.
        """
        count = min(self._evaluator.batch, self._evaluator.left - 1)
        solved = self._solver.solve(self._policy_candidates(), count=count) or [(self._problem.start, False)]
        self._evaluator.evaluate_many(
            [Proposal(candidate, "policy" if is_own else "refinement", project=False) for candidate, is_own in solved]
        )
        self._reward_model.learn()
        self.train(ROUNDS)

    def _policy_candidates(self) -> np.ndarray:
        """(m, dimensions) What the policy decides on as it is now: with exploration, and once without."""
        found = []
        for deterministic in (False, True):
            observation = self._episodes.reset()
            for _ in range(len(self._problem.space)):
                actions, _ = self._agent.predict(observation, deterministic=deterministic)
                self._episodes.step_async(actions)
                observation, *_ = self._episodes.step_wait()
            found.append(self._episodes.candidates[:1] if deterministic else self._episodes.candidates)
        return np.concatenate(found)


def clone_behavior(agent: BaseAlgorithm, context: EpisodeContext, actions: Sequence[float], steps: int) -> None:
    """Bring the mean actions of an agent nearer to those of one episode, whoever found it.

    Behaviour cloning of one's own successes (self-imitation; Oh et al., 2018, ICML): what a policy proposes by chance
    is rarely as good as the best of hundreds of plans that were looked at one by one, and a policy that does not know
    that plan has nothing to hand on.

    Args:
        agent: with the actor and critic of an on-policy algorithm of Stable-Baselines3.
        context: what the episode is about.
        actions: one for each step, from -1 to 1.
        steps: of the agent's own optimiser.
    """
    observed = torch.as_tensor(retrace(context, actions))
    wanted = torch.tensor(actions, dtype=torch.float32)[:, None]
    policy = agent.policy
    policy.set_training_mode(True)
    for _ in range(steps):
        mean = policy.get_distribution(observed).distribution.mean
        policy.optimizer.zero_grad()
        torch.nn.functional.mse_loss(mean, wanted).backward()
        policy.optimizer.step()
    policy.set_training_mode(False)
