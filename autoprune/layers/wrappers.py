"""Layers that call one other layer and are asked about it."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.kind import LayerKind, S, Sizes, call_flops, exact_kind_of, layer_kind
from autoprune.models import keras_internals


class Wrapper(LayerKind):
    """What all wrappers have in common: `layer.layer` does the work, and sees tensors as `shape_within` says."""

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> Mapping[str, int]:
        """Those of the wrapped layer, by its name."""
        inside = call_flops(layer.layer, *([self.shape_within(s) for s in shapes] for shapes in (inputs, outputs)))
        return {"/".join(filter(None, (layer.layer.name, path))): count for path, count in inside.items()}

    def _ask_within(self, call: Call, channels: Channels | None) -> tuple[Call, Any]:
        """The wrapped layer's call on these channels, and the output channels that its kind gives."""
        layer = call.operation.layer
        inner = call.within(layer, [channels])
        kind = exact_kind_of(layer)
        if kind is None:
            way_out = "; wrap the layers of that model one by one" if keras_internals.is_graph(layer) else ""
            call.leave_whole(f"wraps '{layer.name}' ({type(layer).__name__}), which has no layer kind{way_out}")
            return inner, None
        inner.inputs = [keras.KerasTensor(self.shape_within(call.inputs[0].shape))]
        inner.outputs = [keras.KerasTensor(self.shape_within(tensor.shape)) for tensor in call.outputs]
        return inner, kind.channels(inner)

    def _without_masks(self, call: Call) -> Channels | None:
        """The channels of what is wrapped: the first tensor. Others are masks."""
        for channels in call.channels[1:]:
            if channels is not None:
                call.freeze(f"is a mask of '{call.path}'", channels.ids)
        return call.channels[0]


@layer_kind(keras.layers.TimeDistributed)
class TimeDistributed(Wrapper):
    """The wrapped layer sees everything but axis 1, the time."""

    def channels(self, call: Call) -> Channels | None:
        """Those of the wrapped layer, an axis further on."""
        channels = self._without_masks(call)
        if channels is not None and channels.axis == 1:
            call.freeze(f"enters '{call.path}' as its time axis")
            return None
        inner = None if channels is None else Channels(channels.axis - 1, channels.ids)
        _, result = self._ask_within(call, inner)
        return None if result is None else Channels(result.axis + 1, result.ids)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> Mapping[str, int]:
        """Those of the wrapped layer, as many times as there are frames."""
        frames = inputs[0][1] or 1
        return {path: frames * count for path, count in super().flops(layer, inputs, outputs).items()}

    def shape_within(self, shape: tuple[S, ...]) -> tuple[S, ...]:
        """Without the time."""
        return (shape[0], *shape[2:])


@layer_kind(keras.layers.SpectralNormalization)
class SpectralNormalization(Wrapper):
    """Divides the kernel of the wrapped layer by its largest singular value. `vector_u` is (1, n)."""

    def channels(self, call: Call) -> Channels | None:
        """Those of the wrapped layer. `vector_u` is as long as the last axis of its kernel."""
        inner, result = self._ask_within(call, self._without_masks(call))
        for name in ("kernel", "embeddings"):
            if keras_internals.has_variable(inner.operation, name):
                ids = inner.channels_on(name, -1)
                if ids is not None:
                    call.bind("vector_u", 1, "follows", ids)
        return result

    def update_derived(self, layer: Any) -> None:
        """The shape of the kernel."""
        layer.kernel_shape = layer.kernel.shape

    def open_widths(self, layer: Any) -> Mapping[str, Any]:
        """The kernel is brought into the shape that it has, not into the one that it was made with."""
        call = layer.call

        def normalise(inputs: Any, training: bool = False) -> Any:
            with keras_internals.overridden("kernel_shape", {layer: tuple(keras.ops.shape(layer.kernel))}):
                return call(inputs, training=training)

        return {"call": normalise}
