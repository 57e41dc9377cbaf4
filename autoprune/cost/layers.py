"""How each layer of a model depends on the widths of its channel groups, and on its branches."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.cost.flops import flops_per_layer
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.records import Amount, Branch, ChannelGroup


@dataclass(frozen=True)
class Axis:
    """One channel axis of a layer's kernel.

    Attributes:
        length: channels in the dense layer.
        owners: the prunable groups on it, each as (index of the group, share of the axis that it owns), and likewise
            the branches without which it loses positions.
    """

    length: int
    owners: tuple[tuple[int, float], ...]

    def remaining_share(self, keep_ratios: Sequence[Amount]) -> Amount:
        """Share of the axis that is left at these keep ratios, one per part: numbers, or arrays of many plans."""
        return 1 - sum(owned * (1 - keep_ratios[index]) for index, owned in self.owners)


@dataclass(frozen=True)
class LayerDependence:
    """One layer with operations.

    Attributes:
        path: path of the layer in its model.
        flops: operations of the dense layer per image, all calls together.
        axes: channel axes of its kernels, inputs before outputs.
        branches: indices of the branches that it leaves with.
    """

    path: str
    flops: int
    axes: tuple[Axis, ...]
    branches: tuple[int, ...] = ()

    def remaining_share(self, keep_ratios: Sequence[Amount]) -> Amount:
        """Share of its operations left at these keep ratios, one per part: the product over axes and branches."""
        shares = [axis.remaining_share(keep_ratios) for axis in self.axes]
        return math.prod([*shares, *(keep_ratios[index] for index in self.branches)])


def layer_dependences(model: Any, parts: Sequence[ChannelGroup | Branch]) -> tuple[LayerDependence, ...]:
    """Every layer of a dense model that has operations, in data-flow order, and the parts that decide them.

    Args:
        model: the dense model.
        parts: its prunable groups and removable branches; their order numbers them.
    """
    layers = keras_internals.operations_by_path(model)
    flops = flops_per_layer(model)
    axes: dict[str, dict[tuple[str, int], list[tuple[int, float]]]] = {path: {} for path in flops}
    for index, part in enumerate(parts):
        for member in part.members:
            # A depthwise kernel only follows its input; a layer of one's own may have another name for its kernel.
            of_kernel = member.name.endswith("kernel") or member.role in ("produces", "consumes")
            if member.layer in axes and of_kernel and not member.is_attribute:
                owned = float((member.channels >= 0).mean())
                axes[member.layer].setdefault((member.name, member.axis), []).append((index, owned))
    return tuple(
        LayerDependence(
            path,
            flops[path],
            tuple(
                Axis(keras_internals.layer_variable(layers[path], name).shape[axis], tuple(owners[name, axis]))
                for name, axis in sorted(owners)
            ),
            tuple(i for i, part in enumerate(parts) if isinstance(part, Branch) and is_within(path, part.operations)),
        )
        for path, owners in axes.items()
    )


def group_forms(parts: Sequence[ChannelGroup | Branch], layers: Sequence[LayerDependence]) -> dict[str, Hashable]:
    """For every group what it looks like: its size, and the layers on it by operations and lengths of their axes.

    Groups of equal form cost the same when they are cut alike and all else is dense, up to where they stand.
    """
    return {
        group.name: (
            group.size,
            tuple(
                (layer.flops, tuple((axis.length, index in dict(axis.owners)) for axis in layer.axes))
                for layer in layers
                if any(index in dict(axis.owners) for axis in layer.axes)
            ),
        )
        for index, group in enumerate(parts)
        if isinstance(group, ChannelGroup)
    }
