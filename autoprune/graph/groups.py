"""Makes channel groups from a traced model.

Channels belong to one group when the same set of axes produces them: the stages of a residual network, each slice
of a concatenation, a depthwise convolution with its producer.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from autoprune.graph.rules import rule_for
from autoprune.graph.trace import Slot, Trace, trace
from autoprune.records import ChannelGroup, Member


def find_groups(model: Any) -> tuple[ChannelGroup, ...]:
    """The channel groups of a model, in data-flow order; those that cannot be pruned say why.

    Args:
        model: a built Functional or Sequential Keras model. It is read, never changed.

    Raises:
        ModelError: the model is subclassed, or not built.
    """
    return groups_of(trace(model, rule_for))


def groups_of(traced: Trace) -> tuple[ChannelGroup, ...]:
    """The channel groups of a traced model."""
    merged, reasons = traced.table.resolve()
    slots = [(slot, merged[slot.ids]) for slot in traced.slots]
    groups = []
    names: set[str] = set()
    for producers, channels in _by_producers(slots, len(np.unique(merged))):
        first = slots[producers[0]]
        order = _in_order_of(first[1], channels)
        name = _unique_name(first[0].layer, names)
        reason = next((reasons[int(c)] for c in order if int(c) in reasons), "")
        if not reason and len(order) == 1:
            reason = "has a single channel"
        groups.append(ChannelGroup(name, len(order), not reason, reason, _members(slots, order, len(merged))))
    return tuple(groups)


def _by_producers(slots: list[tuple[Slot, np.ndarray]], count: int) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Split the merged channels by the set of producing slots that hold them, in order of the first producer.

    Yields:
        Indices of the producing slots, and the merged channels that exactly these produce.
    """
    producers = [index for index, (slot, _) in enumerate(slots) if slot.role == "produces"]
    signature: dict[int, list[int]] = {}
    for index in producers:
        for channel in np.unique(slots[index][1]):
            signature.setdefault(int(channel), []).append(index)
    sets: dict[tuple[int, ...], list[int]] = {}
    for channel, held_by in signature.items():
        sets.setdefault(tuple(held_by), []).append(channel)
    for held_by in sorted(sets):
        yield held_by, np.array(sets[held_by])


def _in_order_of(axis: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """The channels in the order in which they first appear along an axis."""
    distinct, first = np.unique(axis, return_index=True)
    wanted = np.isin(distinct, channels)
    return distinct[wanted][np.argsort(first[wanted])]


def _members(slots: list[tuple[Slot, np.ndarray]], order: np.ndarray, count: int) -> tuple[Member, ...]:
    """Every slot that holds some of the group's channels, with their index in the group along the axis."""
    index = np.full(count, -1)
    index[order] = np.arange(len(order))
    members = []
    for slot, along in slots:
        channels = index[along]
        if (channels >= 0).any():
            members.append(Member(slot.layer, slot.name, slot.axis, slot.role, channels))
    return tuple(members)


def _unique_name(layer: str, taken: set[str]) -> str:
    """The layer's path, with a number behind it when the layer begins several groups."""
    name, number = layer, 2
    while name in taken:
        name, number = f"{layer}#{number}", number + 1
    taken.add(name)
    return name
