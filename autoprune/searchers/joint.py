"""One policy learnt on several problems at once: several networks, several budgets, each scored by itself.

An agent whose features mean the same for every network can learn from all of them. It takes turns: an evaluation of
one problem, then of the next. What it has learnt last does not outweigh the rest, since at the end it practises them
all once more where it can (agents that imagine), and since replay buffers keep what they have seen (off-policy ones).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from autoprune.errors import SettingsError
from autoprune.searchers.agents import EPISODES, attach, check_agent, made_agent, stored_actor, write_events
from autoprune.searchers.dyna import Dyna
from autoprune.searchers.imagination import Imagination
from autoprune.searchers.problem import Problem
from autoprune.searchers.rl import Environments, one_thread, roll_out
from autoprune.searchers.scorer import EvaluationsSpent, Scorer
from autoprune.settings import AgentSettings

REVISIONS = 8  # Times that every problem is practised again in the end, in turns.
REVISED = 2  # Rounds of imagined episodes each time.
BATCH = 3  # Episodes of one problem that an on-policy agent sees before it learns from them.


@dataclass(frozen=True, eq=False)
class Lesson:
    """A problem that the policy is learnt on.

    Attributes:
        problem: network and budget.
        scorer: scores its plans, and has as many evaluations as the lesson may take.
        make_env: makes environments of the network.
    """

    problem: Problem
    scorer: Scorer
    make_env: Environments


class JointLearner:
    """Trains one agent on several problems.

    Args:
        settings: which agent.
        log_folder: where TensorBoard files go, or None.

    Attributes:
        actor: after the training, the layers of the learnt actor, as `RlSearcher.actor`.

    Raises:
        SettingsError: the agent's actor cannot be stored.
    """

    def __init__(self, settings: AgentSettings, log_folder: str | Path | None = None) -> None:
        self._settings = settings
        self._kind = check_agent(settings)
        if self._kind.actor is None:
            raise SettingsError(
                f"agent={settings.name} has a memory: its policy is not stored, so there would be nothing to replay. "
                "Choose another agent, such as agent=dyna_ppo."
            )
        self._log_folder = log_folder
        self.actor: Mapping[str, Any] | None = None

    def __call__(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn from all lessons in turns; the last evaluation of each goes to the policy's own plan for it."""
        with one_thread():
            agent = self._imagine(lessons, seed) if self._kind.imagines else self._try(lessons, seed)
            self.actor = stored_actor(self._kind, agent)
            for lesson in lessons:
                with suppress(EvaluationsSpent):
                    roll_out(agent, lesson.make_env(lesson.problem, lesson.scorer))

    def _imagine(self, lessons: Sequence[Lesson], seed: int) -> BaseAlgorithm:
        """Imagined episodes of one problem after the other, between their evaluations."""
        imaginations = [Imagination(lesson.problem, lesson.scorer) for lesson in lessons]
        episodes = [
            lesson.make_env.imagined(lesson.problem, lesson.scorer, imagination, EPISODES)
            for lesson, imagination in zip(lessons, imaginations, strict=True)
        ]
        agent = self._make_agent(episodes[0], lessons, seed)
        searches = [
            Dyna(imagination, imagined, agent, warm_up=self._settings.warm_up, seed=seed)
            for imagination, imagined in zip(imaginations, episodes, strict=True)
        ]
        for search in searches:
            search.begin()
        while any(lesson.scorer.left > 1 for lesson in lessons):
            for lesson, search in zip(lessons, searches, strict=True):
                if lesson.scorer.left > 1:
                    search.go_on()
        for _ in range(REVISIONS):
            for search in searches:
                search.practise(REVISED)
        return agent

    def _try(self, lessons: Sequence[Lesson], seed: int) -> BaseAlgorithm:
        """Real episodes of one problem after the other."""
        envs = [lesson.make_env(lesson.problem, lesson.scorer) for lesson in lessons]
        agent = self._make_agent(envs[0], lessons, seed)
        # An off-policy agent learns after every episode, an on-policy one needs some to compare.
        episodes = 1 if isinstance(agent, OffPolicyAlgorithm) else BATCH
        while any(lesson.scorer.left > 1 for lesson in lessons):
            for lesson, env in zip(lessons, envs, strict=True):
                count = min(episodes, lesson.scorer.left - 1)
                if count > 0:
                    steps = count * len(lesson.problem.groups)
                    attach(agent, env, steps)
                    agent.learn(steps, reset_num_timesteps=False)
        return agent

    def _make_agent(self, env: gymnasium.Env, lessons: Sequence[Lesson], seed: int) -> BaseAlgorithm:
        steps = max(len(lesson.problem.groups) for lesson in lessons)
        episodes = sum(lesson.scorer.left for lesson in lessons)
        agent = made_agent(self._kind, self._settings, env, steps=steps, episodes=episodes, seed=seed)
        write_events(agent, self._log_folder)
        return agent
