"""What agents are told of a model's channel groups: read once, pure data afterwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.cost.flops import flops_per_layer
from autoprune.cost.layers import LayerDependence, layer_dependences
from autoprune.models import keras_internals
from autoprune.planning import Planner
from autoprune.records import Amount

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class GroupFeatures:
    """One prunable group.

    Attributes:
        name: name of the channel group.
        size: channels.
        unit: positions of an axis that each channel stands for.
        pixels: positions of the tensor that carries the channels (1 after global pooling).
        window: positions of the producing kernels (9 for 3x3), averaged.
        producers: number of layers that make the channels.
        consumers: number of layers that read them.
        flops_share: share of the model's operations in layers that make or read the channels.
        parameter_share: share of its parameters in variables that shrink with the group.
        importance: quantiles 0.1, 0.25, 0.5, 0.75, 0.9 of the channels' scores, divided by their mean.
    """

    name: str
    size: int
    unit: int
    pixels: int
    window: float
    producers: int
    consumers: int
    flops_share: float
    parameter_share: float
    importance: tuple[float, ...]


@dataclass(frozen=True)
class ModelFeatures:
    """All prunable groups, and the layers whose operations they decide.

    Attributes:
        groups: in data-flow order.
        layers: every layer that has operations.
    """

    groups: tuple[GroupFeatures, ...]
    layers: tuple[LayerDependence, ...]

    def flops_share(self, keep_ratios: Sequence[Amount]) -> Amount:
        """Share of the dense operations left at these keep ratios, one per group in order.

        A layer's operations are proportional to the product of its channel axes.
        """
        left = sum(
            layer.flops * math.prod(axis.remaining_share(keep_ratios) for axis in layer.axes) for layer in self.layers
        )
        return left / max(sum(layer.flops for layer in self.layers), 1)


def read_features(model: Any, planner: Planner) -> ModelFeatures:
    """Read the features of a dense model's prunable groups."""
    layers = keras_internals.operations_by_path(model)
    flops = flops_per_layer(model)
    total_flops, parameters = max(sum(flops.values()), 1), model.count_params()
    groups = []
    for group in planner.groups:
        producing = [m for m in group.members if m.role == "produces"]
        touched = {m.layer for m in group.members}
        kernels = [keras_internals.layer_variable(layers[m.layer], m.name).shape for m in producing]
        variables = {(m.layer, m.name) for m in group.members if not m.is_attribute}
        sizes = (math.prod(keras_internals.layer_variable(layers[layer], name).shape) for layer, name in variables)
        scores = planner.scores[group.name]
        mean = float(scores.mean()) or 1.0
        groups.append(
            GroupFeatures(
                name=group.name,
                size=group.size,
                unit=group.unit,
                pixels=_pixels(producing[0].layer, layers),
                window=float(np.mean([math.prod(shape[:-2]) for shape in kernels])),
                producers=len({m.layer for m in producing}),
                consumers=len({m.layer for m in group.members if m.role == "consumes"}),
                flops_share=sum(flops.get(layer, 0) for layer in touched) / total_flops,
                parameter_share=sum(sizes) / parameters,
                importance=tuple(float(q) for q in np.quantile(scores / mean, QUANTILES)),
            )
        )
    return ModelFeatures(tuple(groups), layer_dependences(model, planner.groups))


def _pixels(path: str, layers: dict[str, Any]) -> int:
    """Positions of a layer's first output, without batch and channels; unknown sizes count once.

    A layer within a layer, which the graph does not call, counts as the one that contains it.
    """
    while not keras_internals.calls_of(layers[path]):
        path = path.rpartition("/")[0]
    layer = layers[path]
    shape = keras_internals.calls_of(layer)[0].outputs[0].shape[1:]
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return math.prod(size or 1 for size in (shape[1:] if first else shape[:-1]))
