"""From the kept channels of groups to the kept positions of axes."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from autoprune.records import ChannelGroup, Plan

_BLOCK = 64


@dataclass
class Slices:
    """Which positions stay.

    Attributes:
        variables: by (layer path, variable), for every axis that shrinks a mask of the positions that stay.
        values: by (operation path, attribute), likewise for attributes with a value for each position.
        counts: by (operation path, attribute, position), the number of positions that stay.
    """

    variables: dict[tuple[str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    counts: dict[tuple[str, str, int], int] = field(default_factory=dict)


def slices_for(groups: Iterable[ChannelGroup], plan: Plan) -> Slices:
    """Combine the groups: a position stays when every group that owns it keeps its channel."""
    masks: dict[tuple[str, str, int, str], np.ndarray] = {}
    for group in groups:
        if group.name not in plan.kept or len(plan.kept[group.name]) == group.size:
            continue
        # One more entry, for positions of other groups: index -1 finds it.
        keeps = np.zeros(group.size + 1, bool)
        keeps[plan.kept[group.name]] = True
        keeps[-1] = True
        for member in group.members:
            key = (member.layer, member.name, member.axis, member.role if member.is_attribute else "variable")
            mask = keeps[member.channels]
            masks[key] = masks[key] & mask if key in masks else mask
    slices = Slices()
    for (layer, name, axis, role), mask in masks.items():
        if role == "counts":
            slices.counts[layer, name, axis] = int(mask.sum())
        else:
            table = slices.values if role == "per_channel" else slices.variables
            table.setdefault((layer, name), {})[axis] = mask
    return slices


def take(value: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """The part of an array that stays, as an array of its own."""
    if len(masks) < 2 or value.ndim - 1 not in masks:
        for axis, mask in masks.items():
            value = np.compress(mask, value, axis)
        return np.ascontiguousarray(value)
    # Row by row in blocks that fit the cache: cutting one axis after the other would write the first cut of a large
    # kernel to memory and read it again, which takes twice the time.
    leading = [masks.get(axis, np.ones(size, bool)) for axis, size in enumerate(value.shape[:-1])]
    rows = np.flatnonzero(functools.reduce(np.logical_and.outer, leading))
    columns = np.flatnonzero(masks[value.ndim - 1])
    flat = value.reshape(-1, value.shape[-1])
    part = np.empty((len(rows), len(columns)), value.dtype)
    for start in range(0, len(rows), _BLOCK):
        block = flat[rows[start : start + _BLOCK]]
        # Indices are within bounds; `clip` lets NumPy write into `part` without a copy between.
        np.take(block, columns, 1, out=part[start : start + _BLOCK], mode="clip")
    return part.reshape(*(int(mask.sum()) for mask in leading), len(columns))
