"""The environment: one step per dimension of the search space, in data-flow order."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from autoprune.envs.episode import FEATURES, EpisodeContext, advance, begin, observe
from autoprune.searchers import Objective, Proposal, Trial

EvaluateMany = Callable[[Sequence[Proposal]], Sequence[Trial]]


class ChannelPruningEnv(gymnasium.Env):
    """`autoprune/ChannelPruning-v2`: choose the keep ratio of one group after the other, and which branches stay.

    Observation: `Box(-1, 1, (len(FEATURES),))`, the features of the part to decide. Action: `Box(-1, 1, (1,))`, see
    `autoprune.envs.episode`. The reward is 0 until the last part; then the plan is evaluated and pays its reward. The
    `info` of the last step holds `trial`, whose candidate is another than was chosen where it was projected onto the
    budget, and `terms`.

    The model is pruned, measured and restored bit by bit within the last step, so that between steps it is always
    the dense one. Never put two environments on one model in different processes or threads.

    Args:
        context: what the episodes are about.
        objective: what plans are paid for.
        evaluate_many: evaluates plans: prunes in place, measures, restores.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, context: EpisodeContext, objective: Objective, evaluate_many: EvaluateMany) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._context = context
        self._objective = objective
        self._evaluate_many = evaluate_many
        self._state = begin(context, 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with the first part."""
        super().reset(seed=seed)
        self._state = begin(self._context, 1)
        return observe(self._context, self._state)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one part; at the last, evaluate the plan.

        Raises:
            ActionError: the action is not finite.
            ResetNeeded: the episode is over.
        """
        self._state = advance(self._context, self._state, action)
        observation = observe(self._context, self._state)[0]
        if self._state.step < len(self._context.space):
            return observation, 0.0, False, False, {}
        (trial,) = self._evaluate_many([Proposal(tuple(self._state.candidates[0].tolist()))])
        terms = dict(self._objective.terms(trial.evaluation))
        return observation, trial.reward, True, False, {"trial": trial, "terms": terms}
