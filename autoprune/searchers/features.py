"""What agents are told of a model's channel groups and branches: read once, pure data afterwards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.cost.flops import flops_per_layer
from autoprune.cost.layers import LayerDependence, layer_dependences
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.planning import Planner
from autoprune.records import Amount, Branch

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class DimensionFeatures:
    """A prunable group, or a branch that may go.

    Attributes:
        name: name of the channel group or branch.
        is_branch: whether it is a branch.
        size: channels; of a branch those of the merge that it ends in.
        unit: positions of an axis that each channel stands for.
        pixels: positions of the tensor that carries the channels (1 after global pooling).
        window: positions of the producing kernels (9 for 3x3), averaged.
        producers: number of layers that make the channels; of a branch all that leave with it.
        consumers: number of layers that read them.
        flops_share: share of the model's operations in layers that make or read the channels, or leave with the branch.
        parameter_share: share of its parameters in variables that shrink with the group, or leave.
        importance: quantiles 0.1, 0.25, 0.5, 0.75, 0.9 of the channels' scores, divided by their mean; 0 of a branch.
    """

    name: str
    is_branch: bool
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
    """All dimensions, and the layers whose operations they decide.

    Attributes:
        dimensions: in their order.
        layers: every layer that has operations.
    """

    dimensions: tuple[DimensionFeatures, ...]
    layers: tuple[LayerDependence, ...]

    def flops_share(self, keep_ratios: Sequence[Amount]) -> Amount:
        """Share of the dense operations left at these keep ratios, one per dimension in order.

        A layer's operations are proportional to the product of its channel axes.
        """
        left = sum(layer.flops * layer.remaining_share(keep_ratios) for layer in self.layers)
        return left / max(sum(layer.flops for layer in self.layers), 1)


def read_features(model: Any, planner: Planner) -> ModelFeatures:
    """Read the features of what can be removed from a dense model."""
    layers = keras_internals.operations_by_path(model)
    flops = flops_per_layer(model)
    total_flops, parameters = max(sum(flops.values()), 1), model.count_params()
    dimensions = []
    for group in planner.parts:
        if isinstance(group, Branch):
            owned = [layers[path] for path in group.layers]
            kernels = [layer.kernel.shape for layer in owned if hasattr(layer, "kernel")]
            dimensions.append(
                DimensionFeatures(
                    name=group.name,
                    is_branch=True,
                    size=group.shape[-1] or 1,
                    unit=1,
                    pixels=math.prod(size or 1 for size in group.shape[:-1]),
                    window=float(np.mean([math.prod(shape[:-2]) for shape in kernels])) if kernels else 1.0,
                    producers=len(group.layers),
                    consumers=1,
                    flops_share=sum(n for path, n in flops.items() if is_within(path, group.operations)) / total_flops,
                    parameter_share=sum(layer.count_params() for layer in owned) / parameters,
                    importance=(0.0,) * len(QUANTILES),
                )
            )
            continue
        producing = [m for m in group.members if m.role == "produces"]
        touched = {m.layer for m in group.members}
        kernels = [keras_internals.layer_variable(layers[m.layer], m.name).shape for m in producing]
        variables = {(m.layer, m.name) for m in group.members if not m.is_attribute}
        sizes = (math.prod(keras_internals.layer_variable(layers[layer], name).shape) for layer, name in variables)
        scores = planner.scores[group.name]
        mean = float(scores.mean()) or 1.0
        # Positions of the first output, without batch and channels; unknown sizes count once. A layer within a layer,
        # which the graph does not call, counts as the one that contains it.
        path = producing[0].layer
        while not keras_internals.calls_of(layers[path]):
            path = path.rpartition("/")[0]
        shape = keras_internals.calls_of(layers[path])[0].outputs[0].shape[1:]
        channels_first = getattr(layers[path], "data_format", "channels_last") == "channels_first"
        dimensions.append(
            DimensionFeatures(
                name=group.name,
                is_branch=False,
                size=group.size,
                unit=group.unit,
                pixels=math.prod(size or 1 for size in (shape[1:] if channels_first else shape[:-1])),
                window=float(np.mean([math.prod(shape[:-2]) for shape in kernels])),
                producers=len({m.layer for m in producing}),
                consumers=len({m.layer for m in group.members if m.role == "consumes"}),
                flops_share=sum(flops.get(layer, 0) for layer in touched) / total_flops,
                parameter_share=sum(sizes) / parameters,
                importance=tuple(float(q) for q in np.quantile(scores / mean, QUANTILES)),
            )
        )
    return ModelFeatures(tuple(dimensions), layer_dependences(model, planner.parts))
