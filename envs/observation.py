"""What the agent sees: bounded, named features that mean the same for every model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.envs.facts import QUANTILES, ModelFacts
from autoprune.records import Budget, Evaluation, Target

LANES = 128  # Minor dimension of a TPU tile: T(8, 128).

# Every feature lies in [-1, 1]. Changing the list changes what a stored policy reads: that needs a new version.
FEATURES: tuple[str, ...] = (
    "position",  # of the group among the prunable ones, 0 to 1
    "groups",  # number of prunable groups, log2 / 8
    "width",  # channels of the group, log2 / 12
    "lane_fill",  # channels over the channels that whole 128-lane tiles would hold
    "pixels",  # positions of its tensor, log2 / 18
    "window",  # positions of its kernels, log2 / 8
    "producers",  # layers that make the channels, log2(1 + n) / 6
    "consumers",  # layers that read them, log2(1 + n) / 6
    "flops_share",  # of the dense model, in layers that make or read the channels
    "parameter_share",  # of the dense model, in variables that shrink with the group
    *(f"importance_q{round(100 * q)}" for q in QUANTILES),  # of the scores over their mean, / 4
    "flops_kept",  # share left if the groups still to come were kept whole
    "flops_least",  # share left if they were cut as far as allowed
    "latency_kept",  # of the dense latency, likewise: as the surrogate guesses, as the operations until it has learnt
    "latency_least",  # of the dense latency, likewise
    "latency_budget",  # share of the dense latency; 1 when there is no limit
    "memory_budget",  # share of the dense memory; 1 when there is no limit
    "anchor",  # keep ratio at which uniform pruning meets the budget
    "batch",  # images per call, log2 / 12
    "on_tpu",  # 1 for a TPU, 0 for another target
    "previous_action",  # -1 to 1, 0 at the first group
)


@dataclass(frozen=True)
class Situation:
    """What stays the same during an episode.

    Attributes:
        facts: of the model's groups.
        latency_budget: share of the dense latency, 1 without a limit.
        memory_budget: share of the dense memory, 1 without a limit.
        anchor: keep ratio at which uniform pruning meets the budget.
        minimum: smallest keep ratio of a group.
        target: what the cost is for.
        guess: share of the dense latency left at keep ratios, one per group in order; None before there is a guess.
    """

    facts: ModelFacts
    latency_budget: float
    memory_budget: float
    anchor: float
    minimum: float
    target: Target
    guess: Callable[[Sequence[float]], float | None] = lambda keep_ratios: None


def shares(budget: Budget, dense: Evaluation) -> tuple[float, float]:
    """Latency and memory limits as shares of the dense model's cost; 1 where there is no limit."""
    cost = dense.cost
    latency = 1.0 if budget.latency is None else budget.latency / cost.latency
    memory = 1.0 if budget.memory is None or not cost.memory.total else budget.memory / cost.memory.total
    return latency, memory


def observe(situation: Situation, chosen: Sequence[float], previous_action: float) -> np.ndarray:
    """Features of the next group.

    Args:
        situation: of the episode.
        chosen: keep ratios of the groups decided so far, in order; fewer than there are groups.
        previous_action: the last action, 0 before the first.

    Returns:
        (len(FEATURES),) float32 in [-1, 1].
    """
    facts = situation.facts
    index, count = len(chosen), len(facts.groups)
    group = facts.groups[index]
    kept = [*chosen, *[1.0] * (count - index)]
    least = [*chosen, *[situation.minimum] * (count - index)]
    flops_kept, flops_least = facts.flops_share(kept), facts.flops_share(least)
    latency_kept, latency_least = situation.guess(kept), situation.guess(least)
    values: Mapping[str, float] = {
        "position": index / max(count - 1, 1),
        "groups": math.log2(count) / 8,
        "width": math.log2(group.size) / 12,
        "lane_fill": group.size / (math.ceil(group.size / LANES) * LANES),
        "pixels": math.log2(max(group.pixels, 1)) / 18,
        "window": math.log2(max(group.window, 1)) / 8,
        "producers": math.log2(1 + group.producers) / 6,
        "consumers": math.log2(1 + group.consumers) / 6,
        "flops_share": group.flops_share,
        "parameter_share": group.parameter_share,
        **{f"importance_q{round(100 * q)}": v / 4 for q, v in zip(QUANTILES, group.importance, strict=True)},
        "flops_kept": flops_kept,
        "flops_least": flops_least,
        "latency_kept": flops_kept if latency_kept is None else latency_kept,
        "latency_least": flops_least if latency_least is None else latency_least,
        "latency_budget": situation.latency_budget,
        "memory_budget": situation.memory_budget,
        "anchor": situation.anchor,
        "batch": math.log2(situation.target.batch_size) / 12,
        "on_tpu": float(situation.target.name.startswith("tpu")),
        "previous_action": previous_action,
    }
    return np.clip([values[name] for name in FEATURES], -1, 1).astype(np.float32)
