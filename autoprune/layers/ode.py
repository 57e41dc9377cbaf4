"""Blocks that solve an ODE: the state has to keep its shape, what computes its slope does not."""

import math
from collections.abc import Sequence
from typing import Any

from autoprune.layers.call import Call
from autoprune.layers.channels import Channels
from autoprune.layers.common import mixes_channels, on_axis
from autoprune.layers.kind import LayerKind, Sizes, layer_kind
from autoprune.models import keras_internals
from autoprune.models.networks.ode import ODEBlock


@layer_kind(ODEBlock)
class NeuralODE(LayerKind):
    """What enters, what leaves and what is in between at any time are one state; each hidden layer makes channels."""

    def channels(self, call: Call) -> Channels:
        """The state's channels stay: a slope is added to them. A log-density among them is read by no kernel."""
        layer, axis = call.operation, len(call.inputs[0].shape) - 1
        entering = on_axis(call, axis, "the ODE")
        reason = f"is the state of an ODE in '{call.path}'"
        call.freeze(reason)
        ids = call.new_fixed(call.inputs[0].shape[axis], reason) if entering is None else entering.ids
        state = ids[:-1] if layer.log_density else ids
        vectors = ("bias", "time") if layer.time_dependent else ("bias",)
        last, mixing = len(layer.hidden), mixes_channels(layer.activation)
        call.bind("kernel_0", 0, "consumes", state)
        for number in range(last + 1):
            made = call.bind(f"kernel_{number}", 1, "produces", state if number == last else None)
            for name in vectors:
                call.bind(f"{name}_{number}", 0, "follows", made)
            if number < last:
                call.bind_attribute("hidden", made, number)
                call.bind(f"kernel_{number + 1}", 0, "consumes", made)
                if mixing:
                    call.freeze(
                        f"passes the activation '{mixing}' of '{call.path}', which may look across channels", made
                    )
        return Channels(axis, ids)

    def flops(self, layer: Any, inputs: Sequence[Sizes], outputs: Sequence[Sizes]) -> int:
        """Four evaluations in every step, each of all kernels; with the log-density also tangents of the state.

        Tangents begin with the first kernel itself and end with the diagonal of a product.
        """
        shapes = [keras_internals.layer_variable(layer, f"kernel_{n}").shape for n in range(len(layer.hidden) + 1)]
        products = sum(math.prod(shape) for shape in shapes)
        if layer.log_density:
            products += shapes[0][0] * sum(math.prod(shape) for shape in shapes[1:-1]) + math.prod(shapes[-1])
        return 2 * 4 * layer.steps * math.prod(inputs[0][:-1]) * products
