"""Searches with an agent of Stable-Baselines3, or of sb3-contrib where that is installed.

The environment is handed in: it scores plans through the same `Scorer` as every searcher, one evaluation per
episode. The last evaluation is spent on the plan of the learnt policy without exploration, or on uniform pruning when
nothing has met the budget.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from autoprune.searchers.agents import EPISODES, check_agent, made_agent, start_from, stored_actor, write_events
from autoprune.searchers.dyna import Dyna
from autoprune.searchers.imagination import Imagination
from autoprune.searchers.policy import Policy
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import EvaluationsSpent, Scorer, needs_anchor
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)

RollOut = Callable[[float], dict[str, float]]


class Environments(Protocol):
    """Makes environments for the agents of a model."""

    def __call__(self, problem: Problem, scorer: Scorer) -> gymnasium.Env:
        """The environment of a problem, in which every episode is an evaluation by the scorer."""
        ...

    def imagined(self, problem: Problem, scorer: Scorer, imagination: Imagination, count: int) -> Any:
        """Episodes side by side that are paid by guesses: a `VecEnv` with `Episodes.plans`."""
        ...

    def rolled_out(self, problem: Problem, scorer: Scorer, policy: Policy) -> RollOut:
        """From the keep ratio that action 0 stands for to the keep ratios that a policy chooses, by group name."""
        ...


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread is fastest for networks this small, and makes the course the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class RlSearcher:
    """A searcher that trains an agent on the environment.

    Args:
        make_env: makes the environment around a scorer, and imagined ones.
        settings: which agent, its options.
        log_folder: where TensorBoard files go, or None.
        start: a stored policy of this kind of agent that it begins as; None begins knowing nothing.

    Attributes:
        actor: after the search, the layers of the learnt actor as `policy.Policy` wants them, and how to read them;
            None where it has a memory and cannot be stored so.
    """

    def __init__(
        self,
        make_env: Environments,
        settings: AgentSettings,
        log_folder: str | Path | None = None,
        start: Policy | None = None,
    ) -> None:
        self._make_env = make_env
        self._settings = settings
        self._kind = check_agent(settings)
        self._start = start
        self._log_folder = log_folder
        self.actor: Mapping[str, Any] | None = None

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Train for all evaluations but one, then score the policy's own plan, or the anchor if none met the budget."""
        with one_thread(), suppress(EvaluationsSpent):
            if self._kind.imagines:
                self._imagine(problem, scorer, seed)
            else:
                self._try(problem, scorer, seed)

    def _try(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Every episode is an evaluation."""
        env = self._make_env(problem, scorer)
        agent = self._make_agent(env, len(problem.groups), scorer.left, seed)
        if scorer.left > 1:
            episodes = scorer.left - 1
            agent.learn(episodes * len(problem.groups), callback=_Watch(scorer))
        self._conclude(agent, env, problem, scorer)

    def _imagine(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Hundreds of imagined episodes for each evaluation."""
        imagination = Imagination(problem, scorer)
        episodes = self._make_env.imagined(problem, scorer, imagination, EPISODES)
        agent = self._make_agent(episodes, len(problem.groups), scorer.left, seed)
        options = {"warm_up": self._settings.warm_up, "seed": seed, "trained": self._start is not None}
        Dyna(imagination, episodes, agent, **options).run()
        self._conclude(agent, self._make_env(problem, scorer), problem, scorer)

    def _conclude(self, agent: BaseAlgorithm, env: gymnasium.Env, problem: Problem, scorer: Scorer) -> None:
        """Hold on to what has been learnt, and score its plan, or the anchor if nothing has met the budget."""
        self.actor = stored_actor(self._kind, agent)
        if self.actor is None:
            logger.info("%s has a memory: its policy is not stored, its plans are", self._settings.name)
        if needs_anchor(problem, scorer):
            scorer.evaluate(problem.anchor)
        else:
            roll_out(agent, env)

    def _make_agent(self, env: gymnasium.Env | VecEnv, steps: int, episodes: int, seed: int) -> BaseAlgorithm:
        agent = made_agent(self._kind, self._settings, env, steps=steps, episodes=episodes, seed=seed)
        if self._start is not None:
            start_from(self._kind, agent, self._start)
            # What it knows is better than random actions.
            agent.learning_starts = 0
        write_events(agent, self._log_folder)
        return agent


class _Watch(BaseCallback):
    """Logs each plan, and ends the training when one evaluation is left: on-policy agents learn in whole batches."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "terms" in info:
                for name, value in info["terms"].items():
                    self.logger.record(f"reward/{name}", value)
                evaluation = info["evaluation"]
                self.logger.record("plan/score", evaluation.score)
                if evaluation.cost is not None:
                    self.logger.record("plan/latency", evaluation.cost.latency)
                self.logger.dump(self.num_timesteps)
        return self._scorer.left > 1


def roll_out(agent: BaseAlgorithm, env: gymnasium.Env) -> None:
    """One episode without exploration."""
    observation, _ = env.reset()
    ended, memory, begins = False, None, np.ones(1, bool)
    while not ended:
        action, memory = agent.predict(observation, state=memory, episode_start=begins, deterministic=True)
        observation, _, ended, _, _ = env.step(action)
        begins = np.zeros(1, bool)
