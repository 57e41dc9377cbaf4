"""An agent learns from the best plan that is known, whoever found it.

Behaviour cloning of one's own successes (self-imitation; Oh et al., 2018, ICML): what a policy proposes by chance is
rarely as good as the best of hundreds of plans that were looked at one by one, and a policy that does not know that
plan has nothing to hand on.
"""

from collections.abc import Sequence

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from autoprune.envs.episode import EpisodeContext, retrace


def clone_behavior(agent: BaseAlgorithm, context: EpisodeContext, actions: Sequence[float], steps: int) -> None:
    """Bring the mean actions of an agent nearer to those of one episode.

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
