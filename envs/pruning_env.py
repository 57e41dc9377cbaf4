"""The environment: one step per prunable group, in data-flow order. Only the order of calls is here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from autoprune.envs.action import keep_ratio
from autoprune.envs.observation import FEATURES, Situation, observe
from autoprune.planning.widths import LegalWidths
from autoprune.records import Evaluation
from autoprune.searchers import Objective


@dataclass(frozen=True, eq=False)
class PruningTask:
    """What an environment is about.

    Attributes:
        situation: facts of the model, budget shares, anchor, target.
        legal: the widths that each group may be cut to.
        objective: what plans are paid for.
        evaluate: scores a plan by its keep ratios: prunes in place, measures, restores.
    """

    situation: Situation
    legal: LegalWidths
    objective: Objective
    evaluate: Callable[[Mapping[str, float]], Evaluation]


class ChannelPruningEnv(gymnasium.Env):
    """`autoprune/ChannelPruning-v0`: choose the keep ratio of one group after the other.

    Observation: `Box(-1, 1, (len(FEATURES),))`, the features of the group to decide. Action: `Box(-1, 1, (1,))`, see
    `autoprune.envs.action`. The reward is 0 until the last group; then the plan is scored and pays its reward terms.
    `info` of the last step holds `evaluation` and `terms`.

    The model is pruned, measured and restored bit by bit within the last step, so that between steps it is always
    the dense one. Never put two environments on one model in different processes or threads.

    Args:
        task: what the environment is about.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, task: PruningTask) -> None:
        self.task = task
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(FEATURES),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._chosen: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with the first group."""
        super().reset(seed=seed)
        self._chosen = []
        return observe(self.task.situation, [], 0.0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one group; at the last, score the plan.

        Raises:
            ActionError: the action is not finite.
            ResetNeeded: the episode is over.
        """
        groups = self.task.situation.facts.groups
        if len(self._chosen) >= len(groups):
            raise gymnasium.error.ResetNeeded("The episode is over: call reset() before step().")
        group = groups[len(self._chosen)]
        situation, widths = self.task.situation, self.task.legal.of(group.name)
        self._chosen.append(keep_ratio(action, widths, situation.anchor, situation.minimum))
        if len(self._chosen) < len(groups):
            previous = float(np.clip(np.asarray(action).reshape(-1)[0], -1, 1))
            return observe(self.task.situation, self._chosen, previous), 0.0, False, False, {}
        return self._finish()

    def _finish(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Score the whole plan."""
        task = self.task
        names = (group.name for group in task.situation.facts.groups)
        evaluation = task.evaluate(dict(zip(names, self._chosen, strict=True)))
        terms = task.objective.terms(evaluation)
        ended = np.zeros(len(FEATURES), np.float32)
        return (
            ended,
            float(sum(terms.values())),
            True,
            False,
            {"evaluation": evaluation, "terms": dict(terms)},
        )
