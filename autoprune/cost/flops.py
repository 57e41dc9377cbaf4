"""Counts the operations of a model: two per multiply-accumulate of convolutions and dense layers.

Everything else (normalisation, activations, sums) is left out, as in the figures that papers report.
"""

import math
from typing import Any

import keras

from autoprune.models import keras_internals

layers = keras.layers


def count_flops(model: Any, batch_size: int) -> int:
    """Floating-point operations of one inference call.

    Args:
        model: a built Functional or Sequential model with static input sizes.
        batch_size: images per call.
    """
    return batch_size * _graph_flops(keras_internals.graph_of(model))


def flops_per_layer(model: Any) -> dict[str, int]:
    """Operations per image of every layer that has some, by path; those of all its calls together."""
    found: dict[str, int] = {}
    _collect(keras_internals.graph_of(model), "", found)
    return found


def _graph_flops(graph: Any) -> int:
    found: dict[str, int] = {}
    _collect(graph, "", found)
    return sum(found.values())


def _collect(graph: Any, prefix: str, found: dict[str, int]) -> None:
    for node in keras_internals.nodes_of(graph):
        operation = node.operation
        path = prefix + operation.name
        if keras_internals.is_graph(operation):
            _collect(keras_internals.graph_of(operation), f"{path}/", found)
        elif isinstance(operation, keras.Layer) and not node.is_input:
            flops = _call_flops(operation, node)
            if flops:
                found[path] = found.get(path, 0) + flops


def _call_flops(layer: Any, node: Any) -> int:
    """Operations per image of one call."""
    entering, leaving = node.input_tensors[0].shape, node.outputs[0].shape
    if isinstance(layer, layers.Dense):
        return 2 * _positions(leaving[1:-1]) * entering[-1] * leaving[-1]
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        depthwise = keras_internals.layer_variable(layer, "depthwise_kernel").shape
        pointwise = keras_internals.layer_variable(layer, "pointwise_kernel").shape
        return 2 * _spatial(layer, leaving) * (math.prod(depthwise) + math.prod(pointwise))
    if isinstance(layer, (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)):
        # Every input position is multiplied by the whole kernel.
        return 2 * _spatial(layer, entering) * math.prod(keras_internals.layer_variable(layer, "kernel").shape)
    kinds = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    if isinstance(layer, kinds):
        return 2 * _spatial(layer, leaving) * math.prod(keras_internals.layer_variable(layer, "kernel").shape)
    return 0


def _spatial(layer: Any, shape: tuple[int | None, ...]) -> int:
    """Number of pixels of a tensor."""
    return _positions(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])


def _positions(sizes: tuple[int | None, ...]) -> int:
    """Product of the sizes; an unknown size counts once."""
    return math.prod(size or 1 for size in sizes)
