"""Attention: layers that are made of dense layers over heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import consume
from autoprune.layers.kind import LayerKind, Sizes, count_weights, layer_kind
from autoprune.models import keras_internals


@layer_kind(keras.layers.MultiHeadAttention)
class MultiHeadAttention(LayerKind):
    """The heads are channels of their own: each reads everything, and their sum leaves.

    Kernels of query, key and value are (in, heads, size), that of the output (heads, size, out).
    """

    def channels(self, call: Call) -> list[Channels | None]:
        """Without an `output_shape` the output has as many features as the query, and loses the same."""
        layer = call.operation
        entering = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
        if entering.get("key") is None:
            entering["key"] = entering["value"]
        known = {id(tensor): channels for tensor, channels in zip(call.inputs, call.channels, strict=True)}
        parts = keras_internals.attention_parts(layer)
        followed = {id(entering[name]) for name in ("query", "value", "key")}
        for tensor, channels in zip(call.inputs, call.channels, strict=True):
            if channels is not None and (id(tensor) not in followed or channels.axis != len(tensor.shape) - 1):
                call.freeze(f"enters '{call.path}' as a mask, or on another axis than the last", channels.ids)
                known[id(tensor)] = None
        output = parts.pop("output")
        heads = call.new(layer.num_heads)
        for name, part in parts.items():
            projection = call.within(part)
            consume(projection, "kernel", 0, known.get(id(entering["query" if name == "gate" else name])))
            heads = projection.bind("kernel", 1, "produces", heads, part.partial_output_shape[-1])
            if layer.use_bias:
                projection.bind("bias", 0, "follows", heads)
            projection.bind_attribute("partial_output_shape", heads, len(part.partial_output_shape) - 2)
        call.bind_attribute("_num_heads", heads)
        mask = entering.get("attention_mask")
        if mask is not None and len(mask.shape) > len(entering["query"].shape) and mask.shape[1] != 1:
            call.freeze(f"is masked head by head in '{call.path}'", heads)
        features = _project_output(call, output, heads, known.get(id(entering["query"])))
        scores = [Channels(1, heads)] if len(call.outputs) > 1 else []
        return [features, *scores]

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> Mapping[str, int]:
        """Projections by their name, and the two products of attention over all axes as the layer's own."""
        queries = int(np.prod(inputs[0][1:-1]))
        keys = int(np.prod(inputs[min(1, len(inputs) - 1)][1:-1]))
        positions = {"query": queries, "key": keys, "value": keys, "gate": queries, "output": queries}
        found = {"": 2 * queries * keys * layer.num_heads * (layer.key_dim + layer.value_dim)}
        for name, part in keras_internals.attention_parts(layer).items():
            found[part.name] = 2 * positions[name] * count_weights(part)
        return found


def _project_output(call: Call, part: Any, heads: np.ndarray, query: Channels | None) -> Channels | None:
    """Bind the projection of all heads to the output; returns the output's channels."""
    projection = call.within(part)
    projection.bind("kernel", 0, "consumes", heads)
    kernel = keras_internals.layer_variable(part, "kernel")
    if len(kernel.shape) > 3:
        return None
    ids = projection.bind("kernel", 2, "produces")
    if call.operation.use_bias:
        projection.bind("bias", 0, "follows", ids)
    projection.bind_attribute("partial_output_shape", ids, len(part.partial_output_shape) - 1)
    if keras_internals.read_attribute(call.operation, "_output_shape") is not None:
        call.bind_attribute("_output_shape", ids, 0)
    elif query is None:
        projection.freeze(f"is as wide as what '{call.path}' reads, which is fixed", ids)
    else:
        projection.equate(ids, query.ids)
    return Channels(len(call.outputs[0].shape) - 1, ids)
