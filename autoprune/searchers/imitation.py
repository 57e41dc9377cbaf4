"""An agent learns from the best plan that is known, whoever found it.

Behaviour cloning of one's own successes (self-imitation; Oh et al., 2018, ICML): what a policy proposes by chance is
rarely as good as the best of hundreds of plans that were looked at one by one, and a policy that does not know that
plan has nothing to hand on.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm


class Steps(Protocol):
    """Episodes side by side."""

    num_envs: int

    def reset(self) -> np.ndarray:
        """Observations (m, features) of the first step."""
        ...

    def step(self, actions: np.ndarray) -> Any:
        """Observations of the next step, and what else a `VecEnv` gives."""
        ...


def imitate(agent: BaseAlgorithm, episodes: Steps, actions: Sequence[float], steps: int) -> None:
    """Bring the mean actions of an agent nearer to those of one episode.

    Args:
        agent: with the actor and critic of an on-policy algorithm of Stable-Baselines3.
        episodes: show what the agent observes along the way.
        actions: one for each step of the episode, from -1 to 1.
        steps: of the agent's own optimiser.
    """
    observation, seen = episodes.reset(), []
    for action in actions:
        seen.append(observation[0])
        observation, *_ = episodes.step(np.full((episodes.num_envs, 1), action, np.float32))
    observed, wanted = torch.as_tensor(np.array(seen)), torch.tensor(actions, dtype=torch.float32)[:, None]
    policy = agent.policy
    policy.set_training_mode(True)
    for _ in range(steps):
        mean = policy.get_distribution(observed).distribution.mean
        policy.optimizer.zero_grad()
        torch.nn.functional.mse_loss(mean, wanted).backward()
        policy.optimizer.step()
    policy.set_training_mode(False)
