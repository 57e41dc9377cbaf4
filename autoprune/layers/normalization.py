"""Normalisation: parameters per channel that follow their input.

Batch normalisation treats every channel by itself. Layer, RMS and group normalisation average over channels: after
surgery they average over those that are left, as if the removed ones had never been there.
"""

from collections.abc import Sequence

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import couple_runs, on_axis, only_input
from autoprune.layers.registry import channel_rule
from autoprune.models import keras_internals

layers = keras.layers

_PER_CHANNEL = (
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
)


def _follow(call: Call, names: Sequence[str], axis: int, channels: Channels) -> None:
    """Bind those of the variables that the layer has; a missing scale or offset is skipped."""
    for name in names:
        if keras_internals.has_variable(call.operation, name):
            call.bind(name, axis, "follows", channels.ids)


@channel_rule(layers.BatchNormalization)
def batch_normalization(call: Call) -> Channels | None:
    """Scale, offset and statistics follow the channels."""
    rank = len(call.inputs[0].shape)
    channels = on_axis(call, call.operation.axis % rank, "batch normalisation")
    if channels is not None:
        _follow(call, _PER_CHANNEL, 0, channels)
    return channels


@channel_rule(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call: Call) -> Channels | None:
    """The parameters have the shape of the normalised axes; where the channels lie on another, none follow."""
    channels = only_input(call)
    if channels is None:
        return None
    rank = len(call.inputs[0].shape)
    axes = [axis % rank for axis in call.operation.axis]
    trailing = axes == list(range(rank - len(axes), rank))
    # Keras sorts axes before it counts them from the front, and broadcasts the scale of RMS from the back.
    if axes != sorted(axes) or (isinstance(call.operation, layers.RMSNormalization) and not trailing):
        call.freeze(f"enters '{call.path}', whose axes {tuple(call.operation.axis)} are out of order")
        return None
    if channels.axis in axes:
        _follow(call, ("gamma", "beta", "scale"), axes.index(channels.axis), channels)
    return channels


@channel_rule(layers.GroupNormalization)
def group_normalization(call: Call) -> Channels | None:
    """Groups must stay equally large, so that there are two ways to shrink.

    Whole groups go, which changes nothing for the others, or all groups lose the same positions. Whichever leaves more
    to choose from is taken.
    """
    layer = call.operation
    channels = on_axis(call, layer.axis % len(call.inputs[0].shape), "group normalisation")
    if channels is None:
        return None
    in_each = len(channels.ids) // layer.groups
    if layer.groups >= in_each:
        call.bind_attribute("groups", couple_runs(call, channels.ids, layer.groups))
    else:
        rows = channels.ids.reshape(layer.groups, in_each)
        for row in rows[1:]:
            call.equate(rows[0], row)
    _follow(call, ("gamma", "beta"), 0, channels)
    return channels
