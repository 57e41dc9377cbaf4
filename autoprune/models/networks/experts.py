"""Sparse mixtures of experts."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

ops = keras.ops


@keras.saving.register_keras_serializable("autoprune")
class MixtureOfExperts(keras.layers.Layer):
    """Each position is answered by the experts that its router ranks highest (Shazeer et al., 2017, arXiv 1701.06538).

    An expert is two dense layers. The gates are a softmax over the chosen experts alone, so that an expert that is
    chosen nowhere can go without a trace. All experts are computed everywhere, as compilers for TPUs want it while
    they are few: the time falls with the number of experts and not with `top_k`, but for what routing takes. No loss
    balances the load.

    Args:
        experts: how many there are.
        hidden: width within each.
        units: features of the output.
        top_k: experts that are chosen at each position; all of them where there are fewer.
        activation: between the two dense layers.
        options: of `keras.layers.Layer`.
    """

    def __init__(
        self, experts: int, hidden: int, units: int, top_k: int = 2, activation: Any = "relu", **options: Any
    ) -> None:
        super().__init__(**options)
        self.experts = experts
        self.hidden = hidden
        self.units = units
        self.top_k = top_k
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Make the router (features, experts) and the stacked kernels (experts, from, to) and biases."""
        features = input_shape[-1]
        sizes = (("in", features, self.hidden), ("out", self.hidden, self.units))
        self.router = self.add_weight(name="router", shape=(features, self.experts), autocast=False)
        for name, fan_in, fan_out in sizes:
            # As for a dense layer: the axis of experts is neither fan-in nor fan-out.
            limit = (6 / (fan_in + fan_out)) ** 0.5
            uniform = keras.initializers.RandomUniform(-limit, limit)
            kernel = self.add_weight(name=f"kernel_{name}", shape=(self.experts, fan_in, fan_out), initializer=uniform)
            bias = self.add_weight(name=f"bias_{name}", shape=(self.experts, fan_out), initializer="zeros")
            setattr(self, f"kernel_{name}", kernel)
            setattr(self, f"bias_{name}", bias)

    def route(self, x: Any) -> Any:
        """(experts, positions) gates in float32: 0 for experts that are not chosen, 1 in sum.

        Args:
            x: (positions, features).
        """
        logits = ops.einsum("pf,fe->ep", ops.cast(x, "float32"), self.router)
        numbers = ops.expand_dims(ops.arange(ops.shape(logits)[0], dtype="int32"), -1)
        left, chosen = logits, ops.zeros_like(logits, "bool")
        for _ in range(self.top_k):
            # Where all are chosen the first is chosen again.
            highest = numbers == ops.expand_dims(ops.cast(ops.argmax(left, axis=0), "int32"), 0)
            left, chosen = ops.where(highest, -np.inf, left), ops.logical_or(highest, chosen)
        # Keras warns of a softmax over one expert.
        odds = ops.exp(ops.where(chosen, logits - ops.max(logits, axis=0), -np.inf))
        return odds / ops.sum(odds, axis=0)

    def call(self, x: Any) -> Any:
        """(*positions, units) of (*positions, features)."""
        shape, dtype = ops.shape(x), x.dtype
        x = ops.reshape(x, (-1, shape[-1]))
        gates = ops.expand_dims(ops.cast(self.route(x), dtype), -1)
        inner = ops.matmul(ops.expand_dims(x, 0), ops.cast(self.kernel_in, dtype))
        inner = self.activation(inner + ops.expand_dims(ops.cast(self.bias_in, dtype), 1))
        outer = ops.matmul(inner, ops.cast(self.kernel_out, dtype))
        outer = outer + ops.expand_dims(ops.cast(self.bias_out, dtype), 1)
        return ops.reshape(ops.sum(gates * outer, axis=0), (*shape[:-1], -1))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's, with `units` features."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> Mapping[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "experts": self.experts,
            "hidden": self.hidden,
            "units": self.units,
            "top_k": self.top_k,
            "activation": keras.activations.serialize(self.activation),
        }
