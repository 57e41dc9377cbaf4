"""Episodes side by side, for agents of Stable-Baselines3: real ones, paid by evaluations, and imagined ones.

All go by the transition of `episode.py`. Only who pays differs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from autoprune.envs.episode import FEATURES, EpisodeContext, advance, begin, observe
from autoprune.envs.pruning_env import EvaluateMany
from autoprune.searchers import Objective, Proposal

# From (m, dimensions) candidates to (m,) rewards, and what there is to tell of each.
Pay = Callable[[np.ndarray], tuple[np.ndarray, list[dict[str, Any]]]]


class PruningVecEnv(VecEnv):
    """Episodes side by side, all at the same dimension.

    Args:
        context: what the episodes are about.
        pay: called with the candidates of episodes that have ended.
        count: number of episodes at a time.

    Attributes:
        context: what the episodes are about, as given.
        candidates: (m, dimensions) of the episodes that have ended last.
    """

    def __init__(self, context: EpisodeContext, pay: Pay, count: int = 1) -> None:
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        super().__init__(count, observation_space, gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32))
        self.context = context
        self.candidates = np.empty((0, len(context.space)), int)
        self._pay = pay
        self._state = begin(context, count)

    def reset(self) -> np.ndarray:
        """Begin all episodes with the first dimension."""
        self._state = begin(self.context, self.num_envs)
        return observe(self.context, self._state)

    def step_async(self, actions: np.ndarray) -> None:
        """Decide the dimension in every episode."""
        self._state = advance(self.context, self._state, actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """What comes of it; after the last dimension the candidates are paid and new episodes begin."""
        count, observations = self.num_envs, observe(self.context, self._state)
        if self._state.step < len(self.context.space):
            return observations, np.zeros(count, np.float32), np.zeros(count, bool), [{} for _ in range(count)]
        self.candidates = self._state.candidates
        rewards, told = self._pay(self.candidates)
        infos = [{**info, "terminal_observation": last} for info, last in zip(told, observations, strict=True)]
        return self.reset(), rewards.astype(np.float32), np.ones(count, bool), infos

    def close(self) -> None:
        """Nothing is held."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every episode."""
        return [getattr(self, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""
        raise AttributeError(f"These episodes have nothing to set. Received: {attr_name}")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        """Episodes have no methods of their own."""
        raise AttributeError(f"These episodes have no methods to call. Received: {method_name}")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """They are not."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Nothing is drawn here."""
        return [seed] * self.num_envs


def pay_by_evaluations(objective: Objective, evaluate_many: EvaluateMany) -> Pay:
    """What pays real episodes: the reward of the evaluated candidate.

    Args:
        objective: what plans are paid for.
        evaluate_many: evaluates plans. Each `info` holds the `candidate` that was chosen, its `trial`, whose candidate
            is another where it was projected onto the budget, and the reward's `terms`.
    """

    def pay(candidates: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        chosen = [tuple(candidate) for candidate in candidates.tolist()]
        trials = evaluate_many([Proposal(candidate) for candidate in chosen])
        infos = [
            {"candidate": candidate, "trial": trial, "terms": dict(objective.terms(trial.evaluation))}
            for candidate, trial in zip(chosen, trials, strict=True)
        ]
        return np.array([trial.reward for trial in trials]), infos

    return pay
