"""One policy learnt on several problems at once: several networks, several budgets, each evaluated by itself.

An agent whose features mean the same for every network can learn from all of them. It takes turns: an evaluation of
one problem, then of the next. What it has learnt last does not outweigh the rest, since at the end it trains on them
all once more where it can (agents that imagine), and since replay buffers keep what they have seen (off-policy ones).
"""

import itertools
from collections.abc import Sequence
from contextlib import suppress

from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.vector_env import PruningVecEnv
from autoprune.errors import SettingsError
from autoprune.rl.agents import attach, build_agent, check_agent, policy_of
from autoprune.rl.dyna import Dyna, imagine
from autoprune.rl.searcher import Relabeling, context_of, play, real_episodes
from autoprune.searchers import BudgetedEvaluator, EvaluationsSpent
from autoprune.searchers.policy import Policy
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.searcher import Log, one_thread
from autoprune.settings import AgentSettings

REVISIONS = 8  # Times that every problem is trained on again in the end, in turns.
REVISED = 2  # Rounds of imagined episodes each time.


class MultiTaskTrainer:
    """Trains one agent on several problems.

    Args:
        settings: which agent.

    Raises:
        SettingsError: the agent's actor cannot be stored.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._kind = check_agent(settings)
        if self._kind.remembers:
            raise SettingsError(
                f"agent={settings.name} has a memory: its policy is not stored, so there would be nothing to replay. "
                "Choose another agent, such as agent=dyna_ppo."
            )

    def train(self, tasks: Sequence[BudgetedEvaluator], seed: int, log: Log | None = None) -> Policy:
        """Train on all tasks in turns; the last evaluation of each goes to the policy's own plan for it.

        Args:
            tasks: the evaluators of the problems, each with as many evaluations as it may take.
            seed: seed of the agent and of what it draws.
            log: what the agent tells of what it learns.
        """
        imagines = self._kind.imagines
        with one_thread():
            reward_models = [RewardModel(task) for task in tasks] if imagines else []
            if imagines:
                episodes = [imagine(model, context_of(task)) for model, task in zip(reward_models, tasks, strict=True)]
            else:
                # As many for all: an agent is made for a number of episodes side by side.
                wanted = self._kind.side_by_side or tasks[0].batch
                count = min(wanted, *(max(task.left - 1, 1) for task in tasks))
                episodes = [real_episodes(task, count) for task in tasks]
            steps, total = max(len(task.problem.space) for task in tasks), sum(task.left for task in tasks)
            agent = build_agent(
                self._kind, self._settings, episodes[0], steps=steps, episodes=total, seed=seed, log=log
            )
            if imagines:
                searches = [
                    Dyna(model, imagined, agent, warm_up=self._settings.warm_up, seed=seed)
                    for model, imagined in zip(reward_models, episodes, strict=True)
                ]
                # Imagined episodes of one problem after the other, between their evaluations.
                for search in searches:
                    search.begin()
                while any(task.left > 1 for task in tasks):
                    for task, search in zip(tasks, searches, strict=True):
                        if task.left > 1:
                            search.step()
                for _, search in itertools.product(range(REVISIONS), searches):
                    search.train(REVISED)
            else:
                _train_on_evaluations(agent, episodes, tasks)
            for task in tasks:
                with suppress(EvaluationsSpent):
                    play(agent, real_episodes(task))
        return policy_of(self._kind, agent)


def _train_on_evaluations(
    agent: BaseAlgorithm, episodes: Sequence[PruningVecEnv], tasks: Sequence[BudgetedEvaluator]
) -> None:
    """Real episodes of one problem after the other; what is no whole rollout goes to what the policy tries next."""
    while any(task.left > 1 for task in tasks):
        for task, of_task in zip(tasks, episodes, strict=True):
            if task.left > of_task.num_envs:
                steps = len(task.problem.space)
                attach(agent, of_task, steps)
                agent.learn(steps * of_task.num_envs, callback=Relabeling(of_task.context), reset_num_timesteps=False)
            elif task.left > 1:
                play(agent, real_episodes(task), explore=True)
