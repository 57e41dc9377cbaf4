"""Pooling, padding, cropping and upsampling: they work on the spatial axes and leave the channels alone."""

from typing import Any

import keras
import numpy as np

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import follow_values, on_axis
from autoprune.layers.kind import LayerKind, layer_kind, raw_kind

layers = keras.layers


@layer_kind(
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
@raw_kind("AveragePool", "MaxPool", "Resize")
class Spatial(LayerKind):
    """Output channels are the input's, on the same axis. The 1-D layers without a data format are channels-last."""

    flops = 0

    def channels(self, call: Call) -> Channels | None:
        """What lies around an image that is resized to another aspect ratio may have a colour, which follows."""
        axis = self.channel_axis(call.operation, len(call.inputs[0].shape))
        channels = on_axis(call, axis, "the window")
        return None if channels is None else follow_values(call, channels, ("fill_value",))

    def is_homogeneous(self, operation: Any) -> bool:
        """Unless something is filled in that is not zero."""
        return not np.any(getattr(operation, "fill_value", 0.0))


@layer_kind(*(getattr(layers, f"Global{kind}Pooling{rank}D") for kind in ("Average", "Max") for rank in (1, 2, 3)))
class GlobalPooling(LayerKind):
    """One value per channel and image: means and maxima."""

    flops = 0
    homogeneous = True

    def channels(self, call: Call) -> Channels | None:
        """The spatial axes vanish unless `keepdims`; the channels end on axis 1, or stay where they were."""
        axis = self.channel_axis(call.operation, len(call.inputs[0].shape))
        channels = on_axis(call, axis, "the pooling")
        if channels is None or call.operation.keepdims:
            return channels
        return Channels(1, channels.ids)
