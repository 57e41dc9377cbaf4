"""Counts the operations of a model: two per multiply-accumulate of convolutions and dense layers.

Everything else (normalisation, activations, sums) is left out, as in the figures that papers report.
"""

import math
from typing import Any

import keras

from autoprune.models import keras_internals

layers = keras.layers
Shape = tuple[int | None, ...]


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
            shapes = [tuple(tensor.shape) for tensor in node.input_tensors]
            for inside, flops in _call_flops(operation, shapes, tuple(node.outputs[0].shape)).items():
                if flops:
                    found[path + inside] = found.get(path + inside, 0) + flops


def _call_flops(layer: Any, entering: list[Shape], leaving: Shape) -> dict[str, int]:
    """Operations per image of one call, by path within the layer: those of a wrapped layer are that layer's."""
    if isinstance(layer, layers.TimeDistributed):
        frames = [(shape[0], *shape[2:]) for shape in entering]
        once = _call_flops(layer.layer, frames, (leaving[0], *leaving[2:]))
        times = entering[0][1] or 1
        return {f"/{layer.layer.name}{inside}": times * flops for inside, flops in once.items()}
    if isinstance(layer, layers.SpectralNormalization):
        once = _call_flops(layer.layer, entering, leaving)
        return {f"/{layer.layer.name}{inside}": flops for inside, flops in once.items()}
    if isinstance(layer, layers.MultiHeadAttention):
        return _attention_flops(layer, entering)
    return {"": _layer_flops(layer, entering[0], leaving)}


def _attention_flops(layer: Any, entering: list[Shape]) -> dict[str, int]:
    """Projections by their path, and the two products of attention over all axes as the layer's own."""
    queries, keys = _positions(entering[0][1:-1]), _positions(entering[min(1, len(entering) - 1)][1:-1])
    positions = {"query": queries, "key": keys, "value": keys, "gate": queries, "output": queries}
    found = {"": 2 * queries * keys * layer.num_heads * (layer.key_dim + layer.value_dim)}
    for name, part in keras_internals.attention_parts(layer).items():
        found[f"/{part.name}"] = 2 * positions[name] * math.prod(keras_internals.layer_variable(part, "kernel").shape)
    return found


def _layer_flops(layer: Any, entering: Shape, leaving: Shape) -> int:
    """Operations per image of a layer that calls no other."""
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
