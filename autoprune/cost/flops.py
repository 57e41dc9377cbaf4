"""Counts the operations of a model: two per multiply-accumulate of convolutions, dense layers and attention.

Everything else (normalisation, activations, sums) is left out, as in the figures that papers report. How many a call
takes is known of each kind of layer (`autoprune.layers`); what multiplies and is of no kind is named in a warning.
"""

import functools
import logging
from typing import Any

import keras

from autoprune.layers import call_flops, kind_of
from autoprune.models import keras_internals

logger = logging.getLogger(__name__)

# Layers without weights, and raw operations, that are products of two tensors or of a tensor and a variable.
_PRODUCTS = {
    *("AdditiveAttention", "Attention", "Conv", "ConvTranspose", "DepthwiseConv", "Dot", "DotProductAttention"),
    *("Einsum", "Inner", "Kron", "Lambda", "Matmul", "Outer", "SeparableConv", "Tensordot", "Vdot"),
}


def count_flops(model: Any, batch_size: int) -> int:
    """Floating-point operations of one inference call.

    Args:
        model: a built Functional or Sequential model with static input sizes.
        batch_size: images per call.

    Raises:
        ModelError: the model has no graph, or the kind of a layer gives no number.
    """
    return batch_size * sum(flops_per_layer(model).values())


def flops_per_layer(model: Any) -> dict[str, int]:
    """Operations per image of every layer that has some, by path; those of all its calls together.

    Layers that multiply and of which nothing is known are left out, and named in a warning, once in a process.

    Raises:
        ModelError: the model has no graph, or the kind of a layer gives no number.
    """
    graph = keras_internals.graph_of(model)
    found: dict[str, int] = {}
    _add_calls(graph, "", found)
    unknown = _find_unknown(graph.operations, "")
    if unknown:
        _warn_of_unknown(unknown)
    return found


def _add_calls(graph: Any, prefix: str, found: dict[str, int]) -> None:
    for node in keras_internals.nodes_of(graph):
        operation = node.operation
        path = prefix + operation.name
        if keras_internals.is_graph(operation):
            _add_calls(keras_internals.graph_of(operation), f"{path}/", found)
        elif not node.is_input:
            inputs, outputs = (
                [(1, *(size or 1 for size in tensor.shape[1:])) for tensor in tensors]
                for tensors in (node.input_tensors, node.outputs)
            )
            for inside, flops in call_flops(operation, inputs, outputs).items():
                if flops:
                    whole = f"{path}/{inside}" if inside else path
                    found[whole] = found.get(whole, 0) + flops


def _find_unknown(operations: Any, prefix: str) -> tuple[str, ...]:
    """What has no kind although it may multiply: a layer with parameters, or a product; in words."""
    found: list[str] = []
    for operation in operations:
        path, name = prefix + operation.name, type(operation).__name__
        kind = kind_of(operation)
        if keras_internals.is_graph(operation):
            found += _find_unknown(keras_internals.graph_of(operation).operations, f"{path}/")
        elif isinstance(operation, keras.layers.Wrapper) and kind is not None:
            found += _find_unknown([operation.layer], f"{path}/")
        elif kind is None:
            has_weights = isinstance(operation, keras.Layer) and keras_internals.has_parameters(operation)
            if has_weights or name in _PRODUCTS:
                found.append(f"'{path}' ({name})")
    return tuple(found)


@functools.cache
def _warn_of_unknown(unknown: tuple[str, ...]) -> None:
    logger.warning(
        "FLOPs are counted without those of %s, of which nothing is known: autoprune.layer_kind tells of a layer of "
        "your own. Latency and memory are those of the whole model all the same.",
        ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
    )
