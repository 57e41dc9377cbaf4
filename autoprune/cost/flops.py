"""Counts the operations of a model: two per multiply-accumulate of convolutions, dense layers and attention.

Everything else (normalisation, activations, sums) is left out, as in the figures that papers report. How many a call
takes is known of each kind of layer (`autoprune.layers`); what multiplies and is of no kind is named in a warning.
"""

import functools
import logging
from typing import Any

import keras

from autoprune.layers import count_calls
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
    found, without_kind = count_calls(keras_internals.calls_by_path(keras_internals.graph_of(model)))
    unknown, pending = [], list(without_kind.items())
    for path, operation in pending:
        if keras_internals.is_graph(operation):  # Within a wrapper.
            within = keras_internals.calls_by_path(keras_internals.graph_of(operation), f"{path}/")
            pending += count_calls(within)[1].items()
            continue
        has_weights = isinstance(operation, keras.Layer) and keras_internals.has_parameters(operation)
        if has_weights or type(operation).__name__ in _PRODUCTS:
            unknown.append(f"'{path}' ({type(operation).__name__})")
    if unknown:
        _warn_of_unknown(tuple(unknown))
    return found


@functools.cache
def _warn_of_unknown(unknown: tuple[str, ...]) -> None:
    logger.warning(
        "FLOPs are counted without those of %s, of which nothing is known: autoprune.layer_kind tells of a layer of "
        "your own. Latency and memory are those of the whole model all the same.",
        ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
    )
