"""From the kept channels of groups to the kept positions of axes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from autoprune.records import ChannelGroup, Plan


@dataclass
class Slices:
    """Which positions stay.

    Attributes:
        variables: by (layer path, variable), for every axis that shrinks a mask of the positions that stay.
        attributes: by (layer path, attribute, position), the new value.
    """

    variables: dict[tuple[str, str], dict[int, np.ndarray]] = field(default_factory=dict)
    attributes: dict[tuple[str, str, int], int] = field(default_factory=dict)


def slices_for(groups: Iterable[ChannelGroup], plan: Plan) -> Slices:
    """Combine the groups: a position stays when every group that owns it keeps its channel."""
    masks: dict[tuple[str, str, int, bool], np.ndarray] = {}
    for group in groups:
        if group.name not in plan.kept or len(plan.kept[group.name]) == group.size:
            continue
        # One more entry, for positions of other groups: index -1 finds it.
        keeps = np.zeros(group.size + 1, bool)
        keeps[plan.kept[group.name]] = True
        keeps[-1] = True
        for member in group.members:
            key = (member.layer, member.name, member.axis, member.role == "sets")
            mask = keeps[member.channels]
            masks[key] = masks[key] & mask if key in masks else mask
    slices = Slices()
    for (layer, name, axis, is_attribute), mask in masks.items():
        if is_attribute:
            slices.attributes[layer, name, axis] = int(mask.sum())
        else:
            slices.variables.setdefault((layer, name), {})[axis] = mask
    return slices


def take(value: np.ndarray, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """The part of an array that stays, as an array of its own."""
    for axis, mask in masks.items():
        value = np.compress(mask, value, axis)
    return np.ascontiguousarray(value)
