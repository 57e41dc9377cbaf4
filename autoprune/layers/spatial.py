"""Pooling, padding, cropping and upsampling: they work on the spatial axes and leave the channels alone."""

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import channel_axis, follow_values, on_axis
from autoprune.layers.registry import channel_rule, raw_rule

layers = keras.layers


@channel_rule(
    *(getattr(layers, f"{kind}Pooling{rank}D") for kind in ("Average", "Max") for rank in (1, 2, 3)),
    layers.CenterCrop,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Resizing,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
@raw_rule("AveragePool", "MaxPool", "Resize")
def spatial(call: Call) -> Channels | None:
    """Output channels are the input's, on the same axis. The 1-D kinds without a data format are channels-last."""
    rank = len(call.inputs[0].shape)
    axis = channel_axis(call.operation, rank) if hasattr(call.operation, "data_format") else rank - 1
    channels = on_axis(call, axis, "the window")
    # What lies around an image that is resized to another aspect ratio may have a colour.
    return None if channels is None else follow_values(call, channels, ("fill_value",))


@channel_rule(*(getattr(layers, f"Global{kind}Pooling{rank}D") for kind in ("Average", "Max") for rank in (1, 2, 3)))
def global_pooling(call: Call) -> Channels | None:
    """The spatial axes vanish unless `keepdims`; the channels end on axis 1, or stay where they were."""
    channels = on_axis(call, channel_axis(call.operation, len(call.inputs[0].shape)), "the pooling")
    if channels is None or call.operation.keepdims:
        return channels
    return Channels(1, channels.ids)
