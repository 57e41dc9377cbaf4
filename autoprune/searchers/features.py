"""What agents are told of a model's channel groups and branches: read once, pure data afterwards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.cost.flops import flops_per_layer
from autoprune.cost.layers import LayerDependence, layer_dependences
from autoprune.cost.shares import share_of
from autoprune.evaluation import Contribution
from autoprune.models import keras_internals
from autoprune.planning import Planner
from autoprune.records import Amount, Branch, ChannelGroup, CostReport

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_NOTHING = Contribution(change=0.0, similarity=1.0)


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
        latency_share: share of the latency that those layers hold; 0 where the target does not tell.
        change: of a branch, what it adds over that and what it is added to, see `Contribution`; else 0.
        similarity: of a branch, of what its merge gives with and without it, see `Contribution`; else 1.
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
    latency_share: float = 0.0
    change: float = 0.0
    similarity: float = 1.0


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


def read_features(
    model: Any,
    planner: Planner,
    cost: CostReport | None = None,
    contributions: Mapping[str, Contribution] | None = None,
) -> ModelFeatures:
    """Read the features of what can be removed from a dense model.

    Args:
        model: the dense model.
        planner: made for it.
        cost: its cost, which tells the latency that layers hold.
        contributions: by name, what branches change; those that are not named count as if they changed nothing.
    """
    # The share of the latency that each layer holds, by path; none where the target does not tell.
    shares = {path: seconds / cost.latency for path, seconds in cost.layers.items()} if cost and cost.latency else {}
    reader = _Reader(model, planner, shares)
    dimensions = tuple(
        reader.of_branch(part, (contributions or {}).get(part.name, _NOTHING))
        if isinstance(part, Branch)
        else reader.of_group(part)
        for part in planner.parts
    )
    return ModelFeatures(dimensions, layer_dependences(model, planner.parts))


class _Reader:
    """Reads the features of one part of a model after the other.

    Args:
        model: the dense model.
        planner: made for it.
        latency: share of the latency of each layer, by path.
    """

    def __init__(self, model: Any, planner: Planner, latency: Mapping[str, float]) -> None:
        self._layers = keras_internals.operations_by_path(model)
        self._flops = flops_per_layer(model)
        self._parameters = model.count_params()
        self._scores = planner.scores
        self._latency = latency

    def of_branch(self, branch: Branch, contribution: Contribution) -> DimensionFeatures:
        """The features of a branch that may go."""
        owned = [self._layers[path] for path in branch.layers]
        kernels = [layer.kernel.shape for layer in owned if hasattr(layer, "kernel")]
        return DimensionFeatures(
            name=branch.name,
            is_branch=True,
            size=branch.shape[-1] or 1,
            unit=1,
            pixels=math.prod(size or 1 for size in branch.shape[:-1]),
            window=float(np.mean([math.prod(shape[:-2]) for shape in kernels])) if kernels else 1.0,
            producers=len(branch.layers),
            consumers=1,
            flops_share=share_of(branch.operations, self._flops),
            parameter_share=sum(layer.count_params() for layer in owned) / self._parameters,
            importance=(0.0,) * len(QUANTILES),
            latency_share=share_of(branch.operations, self._latency, 1.0),
            change=contribution.change,
            similarity=contribution.similarity,
        )

    def of_group(self, group: ChannelGroup) -> DimensionFeatures:
        """The features of a prunable group."""
        producing = [m for m in group.members if m.role == "produces"]
        touched = {m.layer for m in group.members}
        kernels = [keras_internals.layer_variable(self._layers[m.layer], m.name).shape for m in producing]
        variables = {(m.layer, m.name) for m in group.members if not m.is_attribute}
        sizes = (math.prod(keras_internals.layer_variable(self._layers[path], name).shape) for path, name in variables)
        scores = self._scores[group.name]
        mean = float(np.abs(scores).mean()) or 1.0
        # Positions of the first output, without batch and channels; unknown sizes count once. A layer within a layer,
        # which the graph does not call, counts as the one that contains it.
        path = producing[0].layer
        while not keras_internals.calls_of(self._layers[path]):
            path = path.rpartition("/")[0]
        shape = keras_internals.calls_of(self._layers[path])[0].outputs[0].shape[1:]
        channels_first = getattr(self._layers[path], "data_format", "channels_last") == "channels_first"
        return DimensionFeatures(
            name=group.name,
            is_branch=False,
            size=group.size,
            unit=group.unit,
            pixels=math.prod(size or 1 for size in (shape[1:] if channels_first else shape[:-1])),
            window=float(np.mean([math.prod(shape[:-2]) for shape in kernels])),
            producers=len({m.layer for m in producing}),
            consumers=len({m.layer for m in group.members if m.role == "consumes"}),
            flops_share=sum(self._flops.get(layer, 0) for layer in touched) / max(sum(self._flops.values()), 1),
            parameter_share=sum(sizes) / self._parameters,
            importance=tuple(float(q) for q in np.quantile(scores / mean, QUANTILES)),
            latency_share=sum(self._latency.get(layer, 0.0) for layer in touched),
        )
