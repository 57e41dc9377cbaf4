"""Importance in rounds: what is left is scored again as it is without the channels that would go first."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from autoprune.models import keras_internals
from autoprune.planning.importance.context import CriterionFactory, ImportanceContext
from autoprune.records import Member


class Ranking(NamedTuple):
    """How the channels of one group matter.

    Attributes:
        scores: (size,) importance of each channel; after several rounds, the highest threshold at which it stays.
        order: (size,) the channels, the most important first.
    """

    scores: np.ndarray
    order: np.ndarray


def harmonic_rounds(share: float, rounds: int) -> tuple[float, ...]:
    """What share of the remaining channels to remove in each round, to have removed a share of all at the end.

    In round i of n, p / (i p + n (1 - p)): after it n (1 - p) / (i p + n (1 - p)) of the channels are left, 1 - p at
    the end. The first rounds take most (Lubana & Dick, 2021, arXiv 2009.11839).

    Args:
        share: p, the share of all channels that goes, from 0 to below 1.
        rounds: n, at least 1.

    Raises:
        ValueError: the share is not from 0 to below 1, or there is no round.

    Example:
        >>> [round(part, 3) for part in harmonic_rounds(0.75, 3)]
        [0.5, 0.333, 0.25]
    """
    if not 0 <= share < 1 or rounds < 1:
        raise ValueError(
            f"A share of channels is from 0 to below 1, removed in 1 or more rounds. Received: {share}, {rounds}"
        )
    return tuple(share / (number * share + rounds * (1 - share)) for number in range(1, rounds + 1))


def rank_channels(context: ImportanceContext, maker: CriterionFactory, floors: Mapping[str, int]) -> dict[str, Ranking]:
    """The channels of every group by importance, which is computed as often as `context.settings.rounds` says.

    Between two rounds each group does without its least important channels: all that makes, follows or reads them is
    zero, until the model is scored to the end, when it is put back to the bit. (Normalisations over channels still
    count them.) Whatever width a group gets, the channels that stay are those that were left at that width, to the
    nearest round.

    Args:
        context: the model, its groups and the settings.
        maker: makes the criterion.
        floors: how many channels each group is brought down to in the rounds, at least 1.

    Returns:
        The ranking of each group, by its name.
    """
    rounds = context.settings.rounds
    left = {group.name: np.arange(group.size) for group in context.groups}  # The channels that are still there.
    removed: dict[str, list[np.ndarray]] = {group.name: [] for group in context.groups}  # Least important first.
    scores = {group.name: np.zeros(group.size) for group in context.groups}
    variables = {
        id(context.variable(m)): context.variable(m) for g in context.groups for m in g.members if not m.is_attribute
    }
    remembered = keras_internals.remember(list(variables.values())) if rounds > 1 else []
    try:
        for number in range(1, rounds + 1):
            measure = maker(context)
            for group in context.groups:
                here, found = left[group.name], measure(group)
                scores[group.name][here] = found[here]
                # Stable, and of equal scores the later channel goes first: a plan depends on nothing but its inputs.
                ascending = here[np.argsort(-found[here], kind="stable")][::-1]
                share = 1 - floors[group.name] / group.size
                width = round(group.size * math.prod(1 - part for part in harmonic_rounds(share, rounds)[:number]))
                going = len(here) - width if number < rounds else len(here)
                removed[group.name].append(ascending[:going])
                left[group.name] = np.sort(ascending[going:])
            if number < rounds:
                for group in context.groups:
                    _blank(context, group.members, removed[group.name][-1])
    finally:
        keras_internals.put_back(remembered)
    rankings = {}
    for name, parts in removed.items():
        ascending = np.concatenate(parts)
        if rounds > 1:
            # A channel that outlasts another is worth as much at least, whatever the round in which each was scored.
            scores[name][ascending] = np.maximum.accumulate(scores[name][ascending])
        rankings[name] = Ranking(scores[name], ascending[::-1])
    return rankings


def _blank(context: ImportanceContext, members: tuple[Member, ...], channels: np.ndarray) -> None:
    """Set to zero what members hold for some channels."""
    for member in members:
        places = np.isin(member.channels, channels)
        if not member.is_attribute and places.any():
            variable = context.variable(member)
            value = np.moveaxis(variable.numpy().copy(), member.axis, 0)
            value[places] = 0
            variable.assign(np.moveaxis(value, 0, member.axis))
