"""The episode, once: what is seen, what an action does, and what comes next, for many episodes side by side.

Pure functions of arrays. Real episodes, imagined ones and roll-outs of stored policies all go by it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import gymnasium
import numpy as np

from autoprune.errors import AutopruneError
from autoprune.planning import Candidate, SearchSpace
from autoprune.planning.space import DROP
from autoprune.searchers import Problem
from autoprune.searchers.features import QUANTILES, ModelFeatures

LANES = 128  # Minor dimension of a TPU tile: T(8, 128).

MEANING = (
    "keep ratio of the next group: -1 the least allowed, 0 the uniform ratio that meets the budget, 1 all; "
    f"of a branch: below {DROP} it goes, else it stays"
)

# Every feature lies in [-1, 1]. Changing the list, or what one means, changes what a stored policy reads: that needs a
# new version of the environment. What is decided, a channel group or a branch, is called a part.
FEATURES: tuple[str, ...] = (
    "position",  # of the part among all that are decided, 0 to 1
    "parts",  # number of parts, log2 / 8
    "is_branch",  # 1 for a branch, 0 for a group
    "width",  # channels of the group, or of the merge that the branch ends in, log2 / 12
    "lane_fill",  # channels over the channels that whole 128-lane tiles would hold
    "pixels",  # positions of its tensor, log2 / 18
    "window",  # positions of its kernels, log2 / 8
    "producers",  # layers that make the channels, or that leave with the branch, log2(1 + n) / 6
    "consumers",  # layers that read them, log2(1 + n) / 6
    "flops_share",  # of the dense model, in layers that make or read the channels, or that leave with the branch
    "parameter_share",  # of the dense model, in variables that shrink with the group, or that leave
    "latency_share",  # of the dense model, in the layers of flops_share; 0 where the target does not tell
    *(f"importance_q{round(100 * q)}" for q in QUANTILES),  # of the scores over their mean, / 4; 0 for a branch
    "branch_change",  # norm of what the branch adds, over that and the norm of what it is added to; 0 for a group
    "branch_similarity",  # cosine similarity of what the merge gives with and without the branch; 1 for a group
    "flops_kept",  # share left if the parts still to come were kept whole
    "flops_least",  # share left if they were cut as far as allowed, and branches dropped
    "latency_kept",  # of the dense latency, as for the operations: as predicted, as the operations until it has learnt
    "latency_least",  # of the dense latency, as above
    "latency_if_middle",  # as latency_kept, if this part had its middle option; of a branch that is to stay
    "latency_if_least",  # as latency_kept, if this part were cut as far as allowed, or the branch dropped
    "latency_budget",  # share of the dense latency; 1 when there is no limit
    "memory_budget",  # share of the dense memory; 1 when there is no limit
    "anchor",  # keep ratio at which uniform pruning meets the budget
    "batch",  # images per call, log2 / 12
    "on_tpu",  # 1 for a TPU, 0 for another target
    "previous_action",  # -1 to 1, 0 at the first part
)
_COLUMN = {name: FEATURES.index(name) for name in FEATURES}

# From (m, dimensions) candidates to (m,) shares of the dense latency; None before anything has been learnt.
PredictLatency = Callable[[np.ndarray], np.ndarray | None]


class ActionError(AutopruneError, gymnasium.error.InvalidAction):
    """An action stands for no keep ratio."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeContext:
    """What stays the same during episodes.

    Attributes:
        space: whose dimensions are decided, one a step.
        features: what is known of each dimension.
        latency_budget: share of the dense latency, 1 without a limit.
        memory_budget: share of the dense memory, 1 without a limit.
        anchor: keep ratio of action 0: where uniform pruning meets the budget.
        batch_size: images per inference call.
        on_tpu: whether the target is a TPU.
        predict: latencies of candidates.
    """

    space: SearchSpace
    features: ModelFeatures
    latency_budget: float
    memory_budget: float
    anchor: float
    batch_size: int
    on_tpu: bool
    predict: PredictLatency = lambda candidates: None

    @classmethod
    def of(cls, problem: Problem, predict: PredictLatency = lambda candidates: None) -> "EpisodeContext":
        """The context of a problem's episodes."""
        cost, budget = problem.dense.required_cost, problem.budget
        return cls(
            space=problem.space,
            features=problem.features,
            latency_budget=1.0 if budget.latency is None else budget.latency / cost.latency,
            memory_budget=1.0 if budget.memory is None or not cost.memory.total else budget.memory / cost.memory.total,
            anchor=problem.anchor,
            batch_size=cost.target.batch_size,
            on_tpu=cost.target.name.startswith("tpu"),
            predict=predict,
        )

    @cached_property
    def fixed(self) -> np.ndarray:
        """(dimensions, len(FEATURES)) What of each step's observation does not depend on what was decided."""
        count = len(self.space)
        rows = np.zeros((count, len(FEATURES)))
        for step, part in enumerate(self.features.dimensions):
            quantiles = zip(QUANTILES, part.importance, strict=True)
            values = {
                "position": step / max(count - 1, 1),
                "parts": math.log2(count) / 8,
                "is_branch": float(part.is_branch),
                "width": math.log2(part.size) / 12,
                "lane_fill": part.size / (math.ceil(part.size / LANES) * LANES),
                "pixels": math.log2(max(part.pixels, 1)) / 18,
                "window": math.log2(max(part.window, 1)) / 8,
                "producers": math.log2(1 + part.producers) / 6,
                "consumers": math.log2(1 + part.consumers) / 6,
                "flops_share": part.flops_share,
                "parameter_share": part.parameter_share,
                "latency_share": part.latency_share,
                **{f"importance_q{round(100 * quantile)}": value / 4 for quantile, value in quantiles},
                "branch_change": part.change,
                "branch_similarity": part.similarity,
                "latency_budget": self.latency_budget,
                "memory_budget": self.memory_budget,
                "anchor": self.anchor,
                "batch": math.log2(self.batch_size) / 12,
                "on_tpu": float(self.on_tpu),
            }
            for name, value in values.items():
                rows[step, _COLUMN[name]] = value
        return rows


@dataclass(frozen=True, eq=False)
class EpisodeState:
    """Where episodes are, all at the same step.

    Attributes:
        step: dimensions that are decided.
        candidates: (m, dimensions) options decided; those to come keep everything. Canonical at the end.
        previous: (m,) the last actions, 0 before the first.
    """

    step: int
    candidates: np.ndarray
    previous: np.ndarray


def begin(context: EpisodeContext, count: int) -> EpisodeState:
    """So many episodes before their first step."""
    return EpisodeState(0, np.tile(np.array(context.space.full, int), (count, 1)), np.zeros(count))


def advance(context: EpisodeContext, state: EpisodeState, actions: np.ndarray) -> EpisodeState:
    """The episodes after these actions have decided the next dimension.

    Args:
        context: what the episodes are about.
        state: where the episodes are.
        actions: (m,) or (m, 1) in [-1, 1], see `MEANING`; values outside are clipped.

    Raises:
        ActionError: an action is not finite.
        gymnasium.error.ResetNeeded: the episodes are over.
    """
    if state.step >= len(context.space):
        raise gymnasium.error.ResetNeeded("The episode is over: call reset() before step().")
    actions = np.asarray(actions, float).reshape(len(state.candidates))
    broken = actions[~np.isfinite(actions)]
    if len(broken):
        raise ActionError(
            f"An action is a number from -1 to 1. Received: {broken[0]}. A policy that acts so has diverged: lower its "
            "learning rate (+agent.options.learning_rate=1e-4)."
        )
    candidates = state.candidates.copy()
    dimension = context.space.dimensions[state.step]
    candidates[:, state.step] = dimension.around(context.anchor, actions, context.space.minimum)
    if state.step + 1 == len(context.space):
        candidates = context.space.canonical(candidates)
    return EpisodeState(state.step + 1, candidates, np.clip(actions, -1, 1))


def observe(context: EpisodeContext, state: EpisodeState) -> np.ndarray:
    """(m, len(FEATURES)) float32 in [-1, 1]: the features of the next dimension; zeros when all are decided."""
    count, step = len(state.candidates), state.step
    if step >= len(context.space):
        return np.zeros((count, len(FEATURES)), np.float32)
    seen = np.tile(context.fixed[step], (count, 1))
    kept, options = state.candidates, len(context.space.dimensions[step].options)
    least, middle, cut = kept.copy(), kept.copy(), kept.copy()
    least[:, step:], middle[:, step], cut[:, step] = 0, options // 2, 0
    # Many are the same: of episodes that have begun alike, and where a part has no effect. Each is predicted once.
    rows = context.space.canonical(np.concatenate([kept, least, middle, cut]))
    numbers: dict[bytes, int] = {}
    places = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows])
    distinct = np.empty((len(numbers), rows.shape[1]), rows.dtype)
    distinct[places] = rows
    flops = context.features.flops_share(list(context.space.keep_ratios(distinct).T))
    flops = np.broadcast_to(flops, len(distinct))
    predicted = context.predict(distinct)
    latencies, flops = (flops if predicted is None else predicted)[places], flops[places]
    names = ("latency_kept", "latency_least", "latency_if_middle", "latency_if_least")
    seen[:, [_COLUMN[name] for name in names]] = latencies.reshape(-1, count).T
    seen[:, [_COLUMN["flops_kept"], _COLUMN["flops_least"]]] = flops[: 2 * count].reshape(-1, count).T
    seen[:, _COLUMN["previous_action"]] = state.previous
    return np.clip(seen, -1, 1).astype(np.float32)


def roll_out(context: EpisodeContext, act: Callable[[np.ndarray], np.ndarray]) -> Candidate:
    """The candidate that a policy decides on, from (features,) observations to (1,) actions, step by step."""
    state = begin(context, 1)
    while state.step < len(context.space):
        state = advance(context, state, act(observe(context, state)[0]))
    return tuple(state.candidates[0].tolist())


def retrace(context: EpisodeContext, actions: Sequence[float]) -> np.ndarray:
    """(dimensions, len(FEATURES)) What an episode of these actions observes on its way."""
    state, seen = begin(context, 1), []
    for action in actions:
        seen.append(observe(context, state)[0])
        state = advance(context, state, np.array([action]))
    return np.array(seen)
