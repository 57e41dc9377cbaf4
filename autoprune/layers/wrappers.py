"""Layers that call layers of their own: wrappers and attention."""

from collections.abc import Callable

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.registry import channel_rule, rule_for
from autoprune.models import keras_internals

layers = keras.layers
Shape = tuple[int | None, ...]


@channel_rule(layers.TimeDistributed)
def time_distributed(call: Call) -> Channels | None:
    """The wrapped layer sees everything but axis 1, the time."""
    channels = _without_masks(call)
    if channels is not None and channels.axis == 1:
        call.freeze(f"enters '{call.path}' as its time axis")
        return None
    inner = None if channels is None else Channels(channels.axis - 1, channels.ids)
    _, result = _wrapped(call, inner, lambda shape: (shape[0], *shape[2:]))
    return None if result is None else Channels(result.axis + 1, result.ids)


@channel_rule(layers.SpectralNormalization)
def spectral_normalization(call: Call) -> Channels | None:
    """As the wrapped layer. `vector_u` (1, n) is as long as the last axis of its kernel."""
    inner, result = _wrapped(call, _without_masks(call), lambda shape: shape)
    for name in ("kernel", "embeddings"):
        if keras_internals.has_variable(inner.operation, name) and (ids := inner.bound(name, -1)) is not None:
            call.bind("vector_u", 1, "follows", ids)
    return result


def _without_masks(call: Call) -> Channels | None:
    """The channels of what is wrapped: the first tensor. Others are masks."""
    for channels in call.channels[1:]:
        if channels is not None:
            call.freeze(f"is a mask of '{call.path}'", channels.ids)
    return call.channels[0]


def _wrapped(
    call: Call, channels: Channels | None, shape_inside: Callable[[Shape], Shape]
) -> tuple[Call, Channels | None]:
    """Ask the rule of the wrapped layer, which sees tensors of another shape; returns its call and its answer."""
    layer = call.operation.layer
    inner = call.within(layer, [channels])
    rule = rule_for(layer)
    if rule is None:
        way_out = "; wrap the layers of that model one by one" if keras_internals.is_graph(layer) else ""
        call.leave_whole(f"wraps '{layer.name}' ({type(layer).__name__}) without a channel rule{way_out}")
        return inner, None
    inner.inputs = [keras.KerasTensor(shape_inside(call.inputs[0].shape))]
    inner.outputs = [keras.KerasTensor(shape_inside(tensor.shape)) for tensor in call.outputs]
    return inner, rule(inner)


@channel_rule(layers.MultiHeadAttention)
def multi_head_attention(call: Call) -> list[Channels | None]:
    """The heads are channels of their own: each reads everything, and their sum leaves.

    Kernels of query, key and value are (in, heads, size), that of the output (heads, size, out). Without an
    `output_shape` the output has as many features as the query, and loses the same.
    """
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
    heads = None
    for name, part in parts.items():
        if name == "output":
            continue
        projection = call.within(part)
        _read_features(projection, known.get(id(entering["query" if name == "gate" else name])))
        heads = projection.bind("kernel", 1, "produces", heads, part.partial_output_shape[-1])
        if layer.use_bias:
            projection.bind("bias", 0, "follows", heads)
        projection.bind_attribute("partial_output_shape", heads, len(part.partial_output_shape) - 2)
    call.bind_attribute("_num_heads", heads)
    mask = entering.get("attention_mask")
    if mask is not None and len(mask.shape) > len(entering["query"].shape) and mask.shape[1] != 1:
        call.freeze(f"is masked head by head in '{call.path}'", heads)
    features = _attention_output(call, parts["output"], heads, known.get(id(entering["query"])))
    scores = [Channels(1, heads)] if len(call.outputs) > 1 else []
    return [features, *scores]


def _read_features(projection: Call, channels: Channels | None) -> None:
    """Bind the input axis of a projection; an input nothing of which can be removed fixes it."""
    size = keras_internals.layer_variable(projection.operation, "kernel").shape[0]
    reason = f"is read by '{projection.path}' from a fixed input"
    projection.bind("kernel", 0, "consumes", projection.fixed(size, reason) if channels is None else channels.ids)


def _attention_output(call: Call, part: object, heads: object, query: Channels | None) -> Channels | None:
    """Bind the projection of all heads to the output."""
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
