"""Makes channel groups from a traced model.

Channels belong to one group when the same axes carry them: the stages of a residual network, each slice of a
concatenation, a depthwise convolution with its producer. So each part of a tensor that is split into parts with readers
of their own is a group of its own, and a plan, which keeps a channel of every group, leaves no part empty. A layer
that is left whole because nothing is known of its inside is a group too, without members, so that it is named with the
reason.
"""

from typing import Any

import numpy as np

from autoprune.graph.trace import trace
from autoprune.layers.record import Slot, Trace, Whole
from autoprune.records import ChannelGroup, Member


def find_groups(model: Any) -> tuple[ChannelGroup, ...]:
    """The channel groups of a model, in data-flow order; those that cannot be pruned say why.

    Args:
        model: a built Functional or Sequential Keras model. It is read, never changed.

    Raises:
        ModelError: the model is subclassed, or not built.

    Example:
        >>> [(group.name, group.size) for group in autoprune.find_groups(model) if group.prunable]
        [('first', 16), ('second', 32)]
    """
    traced = trace(model)
    slots, merged, reasons = resolve_slots(traced)
    runs = _split_by_carriers(slots, reasons, int(merged.max(initial=-1)) + 1)
    members = list_members(slots, [order for _, order in runs], merged)
    groups = []
    names: set[str] = set()
    whole = list(traced.whole.values())
    for (first, order), of_group in zip(runs, members, strict=True):
        while whole and whole[0].place <= first:
            groups.append(_group_of_whole(whole.pop(0), names))
        name = _unique_name(slots[first][0].layer, names)
        reason = next((reasons[int(c)] for c in order if int(c) in reasons), "")
        if not reason and len(order) == 1:
            reason = "has a single channel"
        positions = int(np.isin(slots[first][1], order).sum()) * slots[first][0].width
        unit = positions // len(order)
        groups.append(
            ChannelGroup(
                name=name, size=len(order), prunable=not reason, reason=reason, members=tuple(of_group), unit=unit
            )
        )
    return (*groups, *(_group_of_whole(layer, names) for layer in whole))


def resolve_slots(traced: Trace) -> tuple[list[tuple[Slot, np.ndarray]], np.ndarray, dict[int, str]]:
    """The slots with the channels along them, the number that each channel has after equalities, and what is frozen."""
    merged, reasons = traced.table.resolve()
    # The variables of one batch norm share an array: each is looked at once.
    arrays = {id(slot.ids): slot.ids for slot in traced.slots}
    resolved = {key: merged[ids] for key, ids in arrays.items()}
    return [(slot, resolved[id(slot.ids)]) for slot in traced.slots], merged, reasons


def _group_of_whole(layer: Whole, names: set[str]) -> ChannelGroup:
    return ChannelGroup(
        name=_unique_name(layer.layer, names), size=layer.size, prunable=False, reason=layer.reason, members=()
    )


def _split_by_carriers(
    slots: list[tuple[Slot, np.ndarray]], reasons: dict[int, str], count: int
) -> list[tuple[int, np.ndarray]]:
    """Split the merged channels by the set of slots that carry them, frozen ones apart.

    Returns:
        In data-flow order: index of the first slot that produces the channels, and the channels in the order in which
        they lie there. Channels that nothing produces, such as the image's, are left out.
    """
    # The sum of a random number for every slot that carries a channel stands for the set of these slots.
    numbers = np.random.default_rng(0).integers(2**63, size=len(slots) + 1, dtype=np.uint64)
    signature = np.zeros(count, np.uint64)
    signature[list(reasons)] += numbers[-1]
    maker = np.full(count, len(slots))
    place = np.zeros(count, int)
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for index, (slot, along) in enumerate(slots):
        if id(along) not in seen:
            seen[id(along)] = np.unique(along, return_index=True)
        distinct, first = seen[id(along)]
        signature[distinct] += numbers[index]
        if slot.role == "produces":
            new = maker[distinct] == len(slots)
            maker[distinct[new]] = index
            place[distinct[new]] = first[new]
    made = np.flatnonzero(maker < len(slots))
    made = made[np.lexsort((place[made], maker[made]))]
    runs: dict[tuple[int, int], list[int]] = {}
    for channel in made:
        runs.setdefault((int(maker[channel]), int(signature[channel])), []).append(int(channel))
    return [(first, np.array(channels)) for (first, _), channels in runs.items()]


def list_members(
    slots: list[tuple[Slot, np.ndarray]], runs: list[np.ndarray], merged: np.ndarray
) -> list[list[Member]]:
    """For every run of channels the slots that hold some of them, with their index in the run along the axis.

    Args:
        slots: with the channels along them, as `resolve_slots` gives them.
        runs: distinct numbers of channels; no channel is in two runs.
        merged: for every number handed out the number of its merged channel.
    """
    # One more entry than channels, for none.
    count = len(merged)
    group, index = np.full(count + 1, -1), np.full(count + 1, -1)
    for number, order in enumerate(runs):
        group[order] = number
        index[order] = np.arange(len(order))
    members: list[list[Member]] = [[] for _ in runs]
    parts: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    for slot, along in slots:
        axis = along if slot.axis_ids is None else merged[slot.axis_ids]
        key = (id(along), id(slot.axis_ids))
        if key not in parts:
            owners, places = group[along], index[along]
            present = np.unique(group[axis])
            parts[key] = [(owner, np.where(owners == owner, places, -1)) for owner in present if owner >= 0]
        for owner, channels in parts[key]:
            members[owner].append(Member(slot.layer, slot.name, slot.axis, slot.role, channels))
    return members


def _unique_name(layer: str, taken: set[str]) -> str:
    """The layer's path, with a number behind it when the layer begins several groups."""
    name, number = layer, 2
    while name in taken:
        name, number = f"{layer}#{number}", number + 1
    taken.add(name)
    return name
