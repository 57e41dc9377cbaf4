"""Normalising flows: what passes between layers is the data and stays whole, the networks of couplings shrink."""

import math
from collections.abc import Sequence
from typing import Any

from autoprune.layers.call import Call
from autoprune.layers.kind import LayerKind, Sizes, count_weights, layer_kind
from autoprune.models import keras_internals
from autoprune.models.networks import flow_priors, flows


class State(LayerKind):
    """Whose channels are data and log-density: without one of them neither is a density of the images."""

    def channels(self, call: Call) -> None:
        """None can be removed."""
        call.leave_whole("passes on the state of a flow, whose channels are the dimensions of its density")


@layer_kind(flows.Dequantize, flows.Squeeze, flows.ActNorm)
class Rearrangement(State):
    """Every number by itself."""

    flops = 0


@layer_kind(flows.InvertibleConvolution)
class InvertibleConvolution(State):
    """Square, and of as many channels as the data."""

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """The kernel at every position."""
        _, height, width, channels = inputs[0]
        return 2 * height * width * (channels - 1) ** 2


@layer_kind(flow_priors.AutoregressiveSplit, flow_priors.AutoregressivePrior)
class ChannelPrior(State):
    """The ConvLSTM's widths are left alone: it runs once for every channel of the data."""

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """At every position, for every channel the gates and the head; the embedding once."""
        channels = keras_internals.layer_variable(layer, "head_bias").shape[0]
        embeds = keras_internals.has_variable(layer, "embedding_kernel")
        once = count_weights(layer, "embedding_kernel") if embeds else 0
        weights = once + channels * (count_weights(layer) + count_weights(layer, "head"))
        return 2 * math.prod(inputs[0][1:3]) * weights


@layer_kind(flows.AffineCoupling)
class AffineCoupling(LayerKind):
    """Kernels (3, 3, half, first), (first, second), (3, 3, second, outputs): two groups of hidden channels.

    A hidden channel that is removed is one that is zero behind its rectifier, whatever its normalisation.
    """

    def channels(self, call: Call) -> None:
        """The state stays; each hidden layer makes channels, which the next kernel reads."""
        call.freeze(f"is part of the state of a flow, which '{call.path}' couples")
        for place, (kernel, reader, axis) in enumerate((("kernel1", "kernel2", 0), ("kernel2", "kernel3", 2))):
            ids = call.bind(kernel, -1, "produces")
            for follower in ("bias", "log_scale"):
                call.bind(f"{follower}{place + 1}", 0, "follows", ids)
            call.bind(reader, axis, "consumes", ids)
            call.bind_attribute("hidden", ids, place)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """All three kernels at every position."""
        weights = sum(count_weights(layer, f"kernel{number}") for number in (1, 2, 3))
        return 2 * math.prod(inputs[0][1:3]) * weights
