"""Mixtures of experts: whole experts, and what is within each."""

import math
from collections.abc import Sequence
from typing import Any

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import consume, mixes_channels, on_axis
from autoprune.layers.kind import LayerKind, Sizes, layer_kind
from autoprune.models.networks.experts import MixtureOfExperts


@layer_kind(MixtureOfExperts)
class Experts(LayerKind):
    """Three groups: the experts, the width within them, which all share, and the features of the output.

    An expert that goes takes its column of the router and its place in the stacked kernels with it: positions that had
    chosen it choose the next.
    """

    input_variable = "kernel_in"

    def channels(self, call: Call) -> Channels | None:
        """Router and first kernel read the last axis of the input, the second kernel makes that of the output."""
        rank = len(call.inputs[0].shape)
        entering = on_axis(call, rank - 1, "the mixture of experts")
        for name, axis in (("router", 0), ("kernel_in", 1)):
            consume(call, name, axis, entering)
        experts = call.bind("router", 1, "produces")
        for name in ("kernel_in", "bias_in"):
            call.bind(name, 0, "follows", experts)
        # Without these an expert answers nothing: what weighs or masks channels where they are read does it here.
        for name in ("kernel_out", "bias_out"):
            call.bind(name, 0, "consumes", experts)
        call.bind_attribute("experts", experts)
        hidden = call.bind("kernel_in", 2, "produces")
        call.bind("bias_in", 1, "follows", hidden)
        call.bind("kernel_out", 1, "consumes", hidden)
        call.bind_attribute("hidden", hidden)
        name = mixes_channels(call.operation.activation)
        if name:
            call.freeze(f"passes the activation '{name}' of '{call.path}', which may look across channels", hidden)
        units = call.bind("kernel_out", 2, "produces")
        call.bind("bias_out", 1, "follows", units)
        call.bind_attribute("units", units)
        return Channels(rank - 1, units)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """The router and every expert at every position."""
        positions, features = math.prod(inputs[0][:-1]), inputs[0][-1]
        return 2 * positions * layer.experts * (features + layer.hidden * (features + layer.units))
