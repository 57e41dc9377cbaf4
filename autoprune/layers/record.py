"""What a walk through a model has found out so far: its slots, the layers left whole, and who shares what."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.layers.channels import ChannelTable
from autoprune.models import keras_internals
from autoprune.records import Role

if TYPE_CHECKING:
    from autoprune.layers.call import Call


Operand = tuple[int, int]  # `id` of a call, and which of its input tensors.


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a variable, or an attribute, whose length follows `ids`. See `records.Member` for the fields.

    `width` is the number of features that each position stands for. An attribute that counts only some channels of an
    axis, such as the bound of a slice, is written anew when any of `axis_ids`, all channels of that axis, goes.
    """

    layer: str
    name: str
    axis: int
    role: Role
    ids: np.ndarray
    width: int = 1
    axis_ids: np.ndarray | None = None


@dataclass(frozen=True)
class Whole:
    """A layer of which nothing can be removed, because nothing is known of its inside.

    Attributes:
        layer: its path.
        size: features on the last axis of its output; 0 where that is not known.
        reason: why.
        place: how many slots there were when it was met.
    """

    layer: str
    size: int
    reason: str
    place: int


@dataclass
class Trace:
    """What is known of a model's channels so far.

    Attributes:
        table: numbers, equalities and freezes.
        slots: axes of variables and attributes that carry channels, in data-flow order.
        used: arrays and variables that are arguments of operations, with the path of the operation.
        whole: by `id`, layers with parameters that are left whole, in data-flow order.
        carried: the first slot of every axis of a variable and position of an attribute that carries channels, by the
            `id` of the variable or operation and the place in it.
        carried_by: these keys by the `id` alone, and by that of the backend's own variable.
        calls: of the operations of the graph, in data-flow order.
        renamed: the new numbers of the channels of operands that were to get some (`autoprune.graph.trace`).
        unknown: of these operands those whose channels are not known.
    """

    table: ChannelTable = field(default_factory=ChannelTable)
    slots: list[Slot] = field(default_factory=list)
    used: list[tuple[Any, str]] = field(default_factory=list)
    whole: dict[int, Whole] = field(default_factory=dict)
    carried: dict[tuple[Any, ...], Slot] = field(default_factory=dict)
    carried_by: dict[int, set[tuple[Any, ...]]] = field(default_factory=dict)
    calls: list["Call"] = field(default_factory=list)
    renamed: dict[Operand, np.ndarray] = field(default_factory=dict)
    unknown: set[Operand] = field(default_factory=set)

    def freeze_what_only_some_follow(self) -> None:
        """What several calls share shrinks for all of them: what one of them cannot follow must stay whole.

        Calls of one layer share it, and so do those of whatever else gets at it or at a variable of its: a wrapper, a
        layer that holds another one, a function that reads a kernel. Operations that take a variable for an argument
        never follow.
        """
        shared: dict[int, set[tuple[Any, ...]]] = {}
        for call in self.calls:
            operation = id(call.operation)
            if operation not in shared:
                found = keras_internals.reachable(call.operation).keys() & self.carried_by.keys()
                shared[operation] = set().union(*(self.carried_by[key] for key in found))
            unfollowed = shared[operation] - call.bound_keys
            for slot in [slot for key, slot in self.carried.items() if key in unfollowed] if unfollowed else ():
                reason = f"is on the {slot.name} of '{slot.layer}', which is shared with {call.describe_sharing()}"
                self.table.freeze(slot.ids, reason)
        for value, path in self.used:
            for key in self.carried_by.get(id(value), ()):
                self.table.freeze(self.carried[key].ids, f"is on a variable that enters '{path}'")
