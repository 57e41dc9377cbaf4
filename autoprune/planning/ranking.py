"""Candidates from others: of one threshold over all groups, and on the way to another."""

from collections.abc import Mapping

import numpy as np

from autoprune.planning.space import Candidate, SearchSpace


def rank_globally(space: SearchSpace, scores: Mapping[str, np.ndarray], keep_ratio: float) -> Candidate:
    """The candidate of one threshold on the scores of all groups.

    Every threshold leaves each group with the channels above it, snapped to the nearest option; that is at least the
    group's smallest one. Of all thresholds the one is taken whose widths add up nearest to the wanted share of all
    channels, of two equally near the lower. Scores are compared as they are: it is their normalisation that makes
    groups comparable.

    Args:
        space: a group counts its channels once, however many layers hold them.
        scores: importance of every channel, by group name.
        keep_ratio: share of all channels that stay, in (0, 1]. Between options it can be missed, and it is exceeded
            when the smallest options add up to more.
    """
    groups = [(position, each) for position, each in enumerate(space.dimensions) if not each.is_branch]
    owner = np.concatenate([np.full(dimension.size, position) for position, dimension in groups])
    # Stable, so that equal scores go by the order of groups and channels: a plan depends on nothing but its inputs.
    descending = owner[np.argsort(-np.concatenate([scores[dimension.name] for _, dimension in groups]), kind="stable")]
    chosen, total = [], np.zeros(len(owner) + 1, int)
    for position, dimension in groups:
        # When the 0, 1, 2, ... highest of all scores lie above the threshold.
        above = np.concatenate([[0], np.cumsum(descending == position)])
        options = np.array(dimension.options)
        # Of two options equally near the wider.
        chosen.append(np.searchsorted((options[1:] + options[:-1]) / 2, above, side="right"))
        total = total + options[chosen[-1]]
    distance = np.abs(total - keep_ratio * len(owner))
    best = len(owner) - int(np.argmin(distance[::-1]))
    widths = {position: int(options[best]) for (position, _), options in zip(groups, chosen, strict=True)}
    return tuple(widths.get(position, last) for position, last in enumerate(space.full))


def stage_removal(space: SearchSpace, candidate: Candidate, count: int) -> list[Candidate]:
    """The way from keeping everything to a candidate, in steps that each keep a part of what the one before kept.

    Widths fall by even steps of their options. The branches that go leave one after the other in data-flow order,
    gates last: what takes their means is scaled once.

    Args:
        space: that the candidates are of, with its branches and gates.
        candidate: the last of them.
        count: how many there are, 1 or more.
    """
    found, full = space.canonical(candidate), np.array(space.full)
    leaving = [place for place in np.flatnonzero(found < full) if space.dimensions[place].is_branch]
    without_gates = [place for place in leaving if space.dimensions[place].mean is None]
    stages = []
    for stage in range(1, count + 1):
        options = full - (full - found) * stage // count
        options[leaving] = full[leaving]
        options[without_gates[: len(without_gates) * stage // count]] = 0
        stages.append(space.canonical(options))
    return [tuple(each.tolist()) for each in (*stages[:-1], found)]
