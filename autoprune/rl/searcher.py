"""Searches with an agent of Stable-Baselines3, or of sb3-contrib where that is installed.

Every real episode is an evaluation. The last one is spent on the plan of the learnt policy without exploration, or on
uniform pruning when nothing has met the budget.
"""

import logging
from contextlib import suppress

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from autoprune.envs.episode import EpisodeContext, retrace
from autoprune.envs.vector_env import PruningVecEnv, pay_by_evaluations
from autoprune.rl.agents import build_agent, check_agent, policy_of, start_from
from autoprune.rl.dyna import Dyna, imagine
from autoprune.searchers import BudgetedEvaluator, EvaluationsSpent, Problem, Proposal
from autoprune.searchers.policy import Policy
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.searcher import Log, SearcherKind, one_thread
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)


class RlSearcher:
    """A search that trains an agent on the environment.

    Args:
        problem: what is searched for.
        evaluator: evaluates its episodes.
        agent: which one, its options.
        seed: seed of the agent and of what it draws.
        log: what it tells of what it learns.
        start: a stored policy of this kind of agent that it begins as; None begins knowing nothing.

    Attributes:
        policy: what was learnt, after `run`; None where the actor has a memory and cannot be stored.
    """

    def __init__(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        agent: AgentSettings,
        *,
        seed: int,
        log: Log | None = None,
        start: Policy | None = None,
    ) -> None:
        self.policy: Policy | None = None
        self._problem = problem
        self._evaluator = evaluator
        self._settings = agent
        self._kind = check_agent(agent)
        self._seed = seed
        self._start = start
        self._log = log

    def run(self) -> None:
        """Train for all evaluations but one, then evaluate the policy's own plan, or the anchor if none met the budget.

        See `Searcher.run`.
        """
        evaluator, steps = self._evaluator, len(self._problem.space)
        with one_thread(), suppress(EvaluationsSpent):
            reward_model = RewardModel(evaluator) if self._kind.imagines else None
            if reward_model is None:
                episodes = real_episodes(
                    evaluator, min(self._kind.side_by_side or evaluator.batch, max(evaluator.left - 1, 1))
                )
            else:
                episodes = imagine(reward_model, context_of(evaluator))
            agent = build_agent(
                self._kind,
                self._settings,
                episodes,
                steps=steps,
                episodes=evaluator.left,
                seed=self._seed,
                log=self._log,
            )
            if self._start is not None:
                start_from(self._kind, agent, self._start)
            if reward_model is not None:
                # Hundreds of imagined episodes for each evaluation.
                trained = self._start is not None
                warm_up = self._settings.warm_up
                search = Dyna(reward_model, episodes, agent, warm_up=warm_up, seed=self._seed, trained=trained)
                search.begin()
                while evaluator.left > 1:
                    search.step()
            elif evaluator.left > 1:
                # Every episode is an evaluation. What is no whole rollout goes to what the policy tries next.
                callbacks = [_Watch(evaluator), Relabeling(episodes.context)]
                count = episodes.num_envs
                agent.learn((evaluator.left - 1) // count * count * steps, callback=callbacks)
                while evaluator.left > 1:
                    play(agent, real_episodes(evaluator), explore=True)
            if self._kind.remembers:
                logger.info("%s has a memory: its policy is not stored, its plans are", self._settings.name)
            else:
                self.policy = policy_of(self._kind, agent)
            if evaluator.needs_anchor:
                evaluator.evaluate_many([Proposal(self._problem.start, project=False)])
            else:
                play(agent, real_episodes(evaluator))


RL = SearcherKind(check_agent, RlSearcher)


def real_episodes(evaluator: BudgetedEvaluator, count: int = 1) -> PruningVecEnv:
    """So many episodes side by side, of which each is an evaluation."""
    pay = pay_by_evaluations(evaluator.problem.objective, evaluator.evaluate_many)
    return PruningVecEnv(context_of(evaluator), pay, count)


def context_of(evaluator: BudgetedEvaluator) -> EpisodeContext:
    """The context of episodes of its problem, in which latencies are as its surrogate predicts them, once it can."""
    space, dense = evaluator.problem.space, evaluator.problem.dense.required_cost.latency

    def predict(candidates: np.ndarray) -> np.ndarray | None:
        surrogate = evaluator.surrogate
        if surrogate is None or not surrogate.ready:
            return None
        return surrogate.predict_all(space.values(candidates))[0] / dense

    return EpisodeContext.of(evaluator.problem, predict)


def play(agent: BaseAlgorithm, episodes: PruningVecEnv, *, explore: bool = False) -> None:
    """One episode, by default without exploration."""
    observation, memory, begins = episodes.reset(), None, np.ones(episodes.num_envs, bool)
    noise = getattr(agent, "action_noise", None) if explore else None  # Of actors that are not random themselves.
    for _ in range(len(episodes.context.space)):
        actions, memory = agent.predict(observation, state=memory, episode_start=begins, deterministic=not explore)
        if noise is not None:
            actions = np.clip(actions + noise()[: episodes.num_envs], -1, 1)
        episodes.step_async(actions)
        observation, *_ = episodes.step_wait()
        begins = np.zeros(episodes.num_envs, bool)


class _Watch(BaseCallback):
    """Logs each plan, and ends the training when one evaluation is left: on-policy agents learn in whole batches."""

    def __init__(self, evaluator: BudgetedEvaluator) -> None:
        super().__init__()
        self._evaluator = evaluator

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "trial" in info:
                for name, value in info["terms"].items():
                    self.logger.record(f"reward/{name}", value)
                evaluation = info["trial"].evaluation
                self.logger.record("plan/score", evaluation.score)
                if evaluation.cost is not None:
                    self.logger.record("plan/latency", evaluation.cost.latency)
                self.logger.dump(self.num_timesteps)
        return self._evaluator.left > 1


class Relabeling(BaseCallback):
    """An agent learns from what it is paid for: episodes whose candidate was projected become those of that candidate.

    Observations and actions in the agent's buffer are replaced by those of the episode that ends in the evaluated
    candidate; an on-policy agent's probabilities and values by what it thinks of these now. An agent with a memory
    keeps its own episodes: what it remembered of others is not known.

    Args:
        context: what the episodes are about.
    """

    def __init__(self, context: EpisodeContext) -> None:
        super().__init__()
        self._context = context
        self._actions: list[list[float] | None] = []  # Of the rollout's episodes; None where nothing was changed.

    def _on_rollout_start(self) -> None:
        self._actions = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "trial" in info:
                chosen, evaluated = info["candidate"], info["trial"].candidate
                anchor = self._context.anchor
                self._actions.append(None if chosen == evaluated else self._context.space.offsets(evaluated, anchor))
        return True

    def _on_rollout_end(self) -> None:
        steps = len(self._context.space)
        if isinstance(self.model, OffPolicyAlgorithm) and self.model.replay_buffer is not None:
            replayed = self.model.replay_buffer
            # Its last steps: one episode of each that are side by side.
            places = np.arange(replayed.pos - steps, replayed.pos) % replayed.buffer_size
            for lane, actions in enumerate(self._actions):
                if actions is not None:
                    seen = retrace(self._context, actions)
                    replayed.observations[places, lane], replayed.actions[places, lane, 0] = seen, actions
                    replayed.next_observations[places[:-1], lane] = seen[1:]
        elif isinstance(self.model, OnPolicyAlgorithm) and not hasattr(self.model.rollout_buffer, "hidden_states_pi"):
            buffer = self.model.rollout_buffer
            changed = [(number, actions) for number, actions in enumerate(self._actions) if actions is not None]
            for number, actions in changed:  # In each rollout episodes end side by side.
                start, lane = number // buffer.n_envs * steps, number % buffer.n_envs
                buffer.observations[start : start + steps, lane] = retrace(self._context, actions)
                buffer.actions[start : start + steps, lane, 0] = actions
            if changed:
                shape = buffer.values.shape  # (steps, episodes side by side)
                both = (buffer.observations, buffer.actions)
                observed, acted = (torch.as_tensor(part).flatten(0, 1) for part in both)
                with torch.no_grad():
                    values, probabilities, _ = self.model.policy.evaluate_actions(observed, acted)
                buffer.values[:], buffer.log_probs[:] = (
                    values.reshape(shape).numpy(),
                    probabilities.reshape(shape).numpy(),
                )
                buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
