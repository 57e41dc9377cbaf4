"""The environment as an agent imagines it: many episodes at once, paid by guesses.

Observations and actions are those of `ChannelPruningEnv`; a test compares them. Only who pays differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from autoprune.envs.action import keep_ratio
from autoprune.envs.observation import FEATURES, Situation, observe
from autoprune.planning.widths import LegalWidths

COLUMNS = {name: FEATURES.index(name) for name in FEATURES}


@dataclass(frozen=True, eq=False)
class ImaginedTask:
    """What imagined episodes are about.

    Attributes:
        situation: facts of the model, budget shares, anchor, target.
        legal: the widths that each group may be cut to.
        latencies: from (m, groups) keep ratios to (m,) shares of the dense latency; None before there are guesses.
        rewards: from (m, groups) widths to (m,) rewards.
    """

    situation: Situation
    legal: LegalWidths
    latencies: Callable[[np.ndarray], np.ndarray | None]
    rewards: Callable[[np.ndarray], np.ndarray]


class ImaginedPruningEnv(VecEnv):
    """Episodes side by side, all at the same group.

    Args:
        task: what they are about.
        count: number of episodes at a time.

    Attributes:
        plans: (m, groups) widths of the episodes that have ended last.
    """

    def __init__(self, task: ImaginedTask, count: int) -> None:
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        super().__init__(count, observation_space, gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32))
        self._task = task
        self._groups = task.situation.facts.groups
        self.plans = np.empty((0, len(self._groups)))
        self._begin()

    def _begin(self) -> None:
        self._step = 0
        self._chosen = np.ones((self.num_envs, len(self._groups)))
        self._previous = np.zeros(self.num_envs)

    def reset(self) -> np.ndarray:
        """Begin all episodes with the first group."""
        self._begin()
        return self._observed()

    def step_async(self, actions: np.ndarray) -> None:
        """Decide the group in every episode."""
        group, situation = self._groups[self._step], self._task.situation
        widths = self._task.legal.of(group.name)
        for number, action in enumerate(actions):
            self._chosen[number, self._step] = keep_ratio(action, widths, situation.anchor, situation.minimum)
        self._previous = np.clip(np.asarray(actions, float).reshape(len(actions), -1)[:, 0], -1, 1)
        self._step += 1

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """What comes of it; after the last group the plans are paid and new episodes begin."""
        count = self.num_envs
        if self._step < len(self._groups):
            return self._observed(), np.zeros(count, np.float32), np.zeros(count, bool), [{} for _ in range(count)]
        self.plans = np.rint(self._chosen * [group.size for group in self._groups])
        rewards = self._task.rewards(self.plans).astype(np.float32)
        ended = np.zeros(len(FEATURES), np.float32)
        return self.reset(), rewards, np.ones(count, bool), [{"terminal_observation": ended} for _ in range(count)]

    def _observed(self) -> np.ndarray:
        """(m, features): those of one episode, and what differs between episodes."""
        situation, step = self._task.situation, self._step
        seen = np.tile(observe(situation, self._chosen[0, :step].tolist(), 0.0), (self.num_envs, 1))
        least = self._chosen.copy()
        least[:, step:] = situation.minimum
        for name, plans in (("kept", self._chosen), ("least", least)):
            flops = np.broadcast_to(situation.facts.flops_share(plans.T), (self.num_envs,))
            latencies = self._task.latencies(plans)
            seen[:, COLUMNS[f"flops_{name}"]] = flops
            seen[:, COLUMNS[f"latency_{name}"]] = flops if latencies is None else latencies
        seen[:, COLUMNS["previous_action"]] = self._previous
        return np.clip(seen, -1, 1).astype(np.float32)

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every episode."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""
        raise AttributeError(f"An imagined environment has nothing to set. Received: {attr_name}")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Episodes have no methods of their own."""
        raise AttributeError(f"An imagined environment has no episodes to call. Received: {method_name}")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """They are not."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Nothing is drawn here."""
        return [seed] * self.num_envs
