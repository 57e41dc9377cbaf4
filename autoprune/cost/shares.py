"""What some layers of a model hold of all that it has: parameters, operations, latency."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from autoprune.graph.branches import is_within
from autoprune.models import keras_internals


def share_of(layers: Collection[str], amounts: Mapping[str, float], whole: float | None = None) -> float:
    """The share, from 0 to 1, that some layers hold of what all of a model's hold.

    Args:
        layers: their paths; layers within one of them count too. `Branch.layers`, say.
        amounts: for each path what that layer holds: `parameters_per_layer`, `flops_per_layer` or the seconds of
            `CostReport.layers`.
        whole: what the model holds, where layers hold only a part of it, such as the latency; None is the sum.
    """
    whole = sum(amounts.values()) if whole is None else whole
    return sum(amount for path, amount in amounts.items() if is_within(path, layers)) / whole if whole else 0.0


def parameters_per_layer(model: Any) -> dict[str, int]:
    """Number of parameters of every layer that has some, by path; those that layers share count for the last.

    Raises:
        ModelError: the model has no graph.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    # Layers within a layer first: of what it holds, the rest is its own.
    for path, layer in reversed(keras_internals.layers_by_path(model, nested=False).items()):
        own = {id(weight): math.prod(weight.shape) for weight in layer.weights if id(weight) not in seen}
        seen.update(own)
        if own:
            found[path] = sum(own.values())
    return found
