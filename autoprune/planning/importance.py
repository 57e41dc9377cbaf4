"""How much each channel of a group matters, from the weights alone.

A measure takes a group and a function that reads the value of a member's variable, and returns one score per
channel: the lowest go first. Where several axes produce the channels of a group (the convolutions of a residual
stage), each axis's scores are divided by their mean, so that a layer with large weights does not decide alone, and
then averaged.
"""

import zlib
from collections.abc import Callable

import numpy as np

from autoprune.records import ChannelGroup, Member
from autoprune.registry import Registry

Values = Callable[[Member], np.ndarray]
Measure = Callable[[ChannelGroup, Values, int], np.ndarray]

IMPORTANCES: Registry[Measure] = Registry("importance")


def _averaged(group: ChannelGroup, members: list[Member], norms: list[np.ndarray]) -> np.ndarray:
    """Mean over members of their normalised norms, taken from positions on an axis to channels of the group."""
    total = np.zeros(group.size)
    counts = np.zeros(group.size)
    for member, norm in zip(members, norms, strict=True):
        held = member.channels >= 0
        mean = norm[held].mean()
        np.add.at(total, member.channels[held], norm[held] / (mean if mean > 0 else 1.0))
        np.add.at(counts, member.channels[held], 1)
    return total / np.maximum(counts, 1)


def _producers(group: ChannelGroup) -> list[Member]:
    return [member for member in group.members if member.role == "produces"]


def _other_axes(value: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(value.ndim) if other != axis)


@IMPORTANCES.add("l1")
def l1(group: ChannelGroup, values: Values, seed: int) -> np.ndarray:
    """Sum of absolute weights of the filter that makes the channel (Li et al., 2017, arXiv 1608.08710)."""
    members = _producers(group)
    norms = [np.abs(v := values(m)).sum(_other_axes(v, m.axis)) for m in members]
    return _averaged(group, members, norms)


@IMPORTANCES.add("l2")
def l2(group: ChannelGroup, values: Values, seed: int) -> np.ndarray:
    """Euclidean norm of the filter that makes the channel."""
    members = _producers(group)
    norms = [np.sqrt(np.square(v := values(m)).sum(_other_axes(v, m.axis))) for m in members]
    return _averaged(group, members, norms)


@IMPORTANCES.add("bn_gamma")
def bn_gamma(group: ChannelGroup, values: Values, seed: int) -> np.ndarray:
    """Absolute batch-norm scale of the channel (Liu et al., 2017, arXiv 1708.06519).

    A group whose channels pass no batch norm with a scale is scored by `l1`.
    """
    members = [member for member in group.members if member.role == "follows" and member.name == "gamma"]
    covered = np.unique(np.concatenate([m.channels for m in members])) if members else np.empty(0, int)
    if (covered >= 0).sum() < group.size:
        return l1(group, values, seed)
    return _averaged(group, members, [np.abs(values(member)) for member in members])


@IMPORTANCES.add("random")
def random(group: ChannelGroup, values: Values, seed: int) -> np.ndarray:
    """Uniform noise: the control that every other measure must beat. Depends on the seed and the group's name."""
    return np.random.default_rng([seed, zlib.crc32(group.name.encode())]).random(group.size)
