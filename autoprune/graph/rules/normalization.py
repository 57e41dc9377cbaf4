"""Batch normalisation: parameters per channel that follow their input."""

import keras

from autoprune.graph.channels import Channels
from autoprune.graph.rules.common import on_axis
from autoprune.graph.rules.registry import channel_rule
from autoprune.graph.trace import Call
from autoprune.models import keras_internals

_PER_CHANNEL = (
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
)


@channel_rule(keras.layers.BatchNormalization)
def batch_normalization(call: Call) -> Channels | None:
    """Scale, offset and statistics follow the channels; a missing scale or offset is skipped."""
    rank = len(call.inputs[0].shape)
    channels = on_axis(call, call.operation.axis % rank, "batch normalisation")
    if channels is not None:
        for variable in _PER_CHANNEL:
            if keras_internals.has_variable(call.operation, variable):
                call.bind(variable, 0, "follows", channels.ids)
    return channels
