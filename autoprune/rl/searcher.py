"""Searches with an agent of Stable-Baselines3, or of sb3-contrib where that is installed.

Every real episode is an evaluation. The last one is spent on the plan of the learnt policy without exploration, or on
uniform pruning when nothing has met the budget.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES, MEANING, EpisodeContext, PredictLatency, retrace
from autoprune.envs.vector_env import PruningVecEnv, pay_by_evaluations
from autoprune.rl.agents import AgentKind, build_agent, check_agent, read_actor, start_from, write_events
from autoprune.rl.dyna import Dyna, imagine
from autoprune.rl.reward_model import RewardModel
from autoprune.searchers import BudgetedEvaluator, EvaluationsSpent, Problem, Proposal
from autoprune.searchers.policy import Policy
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)


class RlKind:
    """The entry of the table of searchers."""

    def check(self, agent: AgentSettings) -> None:
        """See `SearcherKind.check`."""
        check_agent(agent)

    def build(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        *,
        seed: int,
        agent: AgentSettings,
        log_folder: Path | None = None,
    ) -> "RlSearcher":
        """See `SearcherKind.build`."""
        return RlSearcher(problem, evaluator, agent, seed=seed, log_folder=log_folder)


RL = RlKind()


class RlSearcher:
    """A search that trains an agent on the environment.

    Args:
        problem: what is searched for.
        evaluator: evaluates its episodes.
        settings: which agent, its options.
        seed: seed of the agent and of what it draws.
        log_folder: where TensorBoard files go, or None.
        start: a stored policy of this kind of agent that it begins as; None begins knowing nothing.

    Attributes:
        policy: what was learnt, after `run`; None where the actor has a memory and cannot be stored.
    """

    def __init__(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        settings: AgentSettings,
        *,
        seed: int,
        log_folder: str | Path | None = None,
        start: Policy | None = None,
    ) -> None:
        self.policy: Policy | None = None
        self._problem = problem
        self._evaluator = evaluator
        self._settings = settings
        self._kind = check_agent(settings)
        self._seed = seed
        self._start = start
        self._log_folder = log_folder

    def run(self) -> None:
        """Train for all evaluations but one, then evaluate the policy's own plan, or the anchor if none met the budget.

        See `Searcher.run`.
        """
        with one_thread(), suppress(EvaluationsSpent):
            agent = self._train_in_imagination() if self._kind.imagines else self._train_on_evaluations()
            self.policy = policy_of(self._kind, agent)
            if self.policy is None:
                logger.info("%s has a memory: its policy is not stored, its plans are", self._settings.name)
            if self._evaluator.needs_anchor:
                self._evaluator.evaluate_many([Proposal(self._problem.start, project=False)])
            else:
                play(agent, real_episodes(self._evaluator))

    def _train_on_evaluations(self) -> BaseAlgorithm:
        """Every episode is an evaluation."""
        episodes, steps, left = real_episodes(self._evaluator), len(self._problem.space), self._evaluator.left
        agent = self._build_agent(episodes)
        if left > 1:
            agent.learn((left - 1) * steps, callback=[_Watch(self._evaluator), Relabeling(episodes.context)])
        return agent

    def _train_in_imagination(self) -> BaseAlgorithm:
        """Hundreds of imagined episodes for each evaluation."""
        reward_model = RewardModel(self._evaluator)
        episodes = imagine(reward_model, EpisodeContext.of(self._problem, latency_prediction(self._evaluator)))
        agent = self._build_agent(episodes)
        options = {"warm_up": self._settings.warm_up, "seed": self._seed, "trained": self._start is not None}
        search = Dyna(reward_model, episodes, agent, **options)
        search.begin()
        while self._evaluator.left > 1:
            search.step()
        return agent

    def _build_agent(self, episodes: VecEnv) -> BaseAlgorithm:
        steps, left = len(self._problem.space), self._evaluator.left
        agent = build_agent(self._kind, self._settings, episodes, steps=steps, episodes=left, seed=self._seed)
        if self._start is not None:
            start_from(self._kind, agent, self._start)
            # What it knows is better than random actions.
            agent.learning_starts = 0
        write_events(agent, self._log_folder)
        return agent


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread is fastest for networks this small, and makes the history the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def real_episodes(evaluator: BudgetedEvaluator) -> PruningVecEnv:
    """Episodes of which each is an evaluation."""
    context = EpisodeContext.of(evaluator.problem, latency_prediction(evaluator))
    return PruningVecEnv(context, pay_by_evaluations(evaluator.problem.objective, evaluator.evaluate_many))


def latency_prediction(evaluator: BudgetedEvaluator) -> PredictLatency:
    """From candidates to shares of the dense latency, as the evaluator's surrogate predicts them once it has learnt."""
    space, dense = evaluator.problem.space, evaluator.problem.dense.cost.latency

    def predict(candidates: np.ndarray) -> np.ndarray | None:
        surrogate = evaluator.surrogate
        if surrogate is None or not surrogate.ready:
            return None
        return surrogate.predict_all(space.values(candidates))[0] / dense

    return predict


def policy_of(kind: AgentKind, agent: BaseAlgorithm) -> Policy | None:
    """What an agent has learnt, without a record of its training; None where its actor cannot be stored."""
    actor = read_actor(kind, agent)
    return None if actor is None else Policy(**actor, features=FEATURES, meaning=MEANING, environment=ENV_ID)


def play(agent: BaseAlgorithm, episodes: PruningVecEnv) -> None:
    """One episode without exploration."""
    observation, memory, begins = episodes.reset(), None, np.ones(episodes.num_envs, bool)
    for _ in range(len(episodes.context.space)):
        actions, memory = agent.predict(observation, state=memory, episode_start=begins, deterministic=True)
        observation, *_ = episodes.step(actions)
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
        if isinstance(self.model, OffPolicyAlgorithm):
            buffer, end = self.model.replay_buffer, self.model.replay_buffer.pos
            for number, actions in enumerate(reversed(self._actions)):
                if actions is not None:
                    places = np.arange(end - (number + 1) * steps, end - number * steps) % buffer.buffer_size
                    seen = retrace(self._context, actions)
                    buffer.observations[places, 0], buffer.actions[places, 0, 0] = seen, actions
                    buffer.next_observations[places[:-1], 0] = seen[1:]
        elif isinstance(self.model, OnPolicyAlgorithm) and not hasattr(self.model.rollout_buffer, "hidden_states_pi"):
            buffer = self.model.rollout_buffer
            changed = [(number, actions) for number, actions in enumerate(self._actions) if actions is not None]
            for number, actions in changed:
                places = slice(number * steps, (number + 1) * steps)
                buffer.observations[places, 0] = retrace(self._context, actions)
                buffer.actions[places, 0, 0] = actions
            if changed:
                observed, acted = (torch.as_tensor(part[:, 0]) for part in (buffer.observations, buffer.actions))
                with torch.no_grad():
                    values, probabilities, _ = self.model.policy.evaluate_actions(observed, acted)
                buffer.values[:, 0], buffer.log_probs[:, 0] = values[:, 0].numpy(), probabilities.numpy()
                buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
