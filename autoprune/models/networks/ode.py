"""Neural ordinary differential equations: a block that carries its input along an ODE of learnt dynamics.

Chen et al., 2018 (arXiv 1806.07366), with a solver of fixed steps, through which training differentiates: as many
operations whatever the input, and one graph for all of them.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import keras

ops = keras.ops

# Derivatives of activations, of what enters them and what they give of it.
_DERIVATIVES = {
    "elu": lambda x, y: ops.where(x > 0, ops.ones_like(y), y + 1.0),
    "linear": lambda x, y: ops.ones_like(y),
    "sigmoid": lambda x, y: y * (1.0 - y),
    "silu": lambda x, y: y + ops.sigmoid(x) * (1.0 - y),
    "softplus": lambda x, y: ops.sigmoid(x),
    "tanh": lambda x, y: 1.0 - ops.square(y),
}


@keras.saving.register_keras_serializable("autoprune")
class ODEBlock(keras.layers.Layer):
    """The solution z(1) of dz/dt = f(z) that begins with z(0), the input; f is a stack of dense layers.

    The solver is the classical Runge-Kutta method of fourth order in steps of equal length, each of four evaluations of
    f. Input and output, (..., channels), have one shape: the last axis is the state.

    With `log_density` the state has one more channel, the last: the log-density accumulated so far. The block adds the
    integral of the trace of df/dz, which is log |det dz(1) / dz(0)|: along the ODE log p(z) falls at the rate of the
    trace (theorem 1 of Chen et al.), so that log p(z(0)) = log p(z(1)) + what was added. The trace is exact: tangents
    of all directions of the state are carried forward through f, which suits states of few channels. Grathwohl et al.,
    2019 (arXiv 1810.01367), estimate it.

    Args:
        hidden: units of each hidden layer of f, at least one.
        steps: of equal length that the solver takes, 1 or more.
        activation: of the hidden layers; with `log_density` one of `elu`, `linear`, `sigmoid`, `silu`, `softplus` and
            `tanh`, whose derivatives are known here.
        log_density: whether the last channel is the log-density accumulated so far.
        time_dependent: whether f depends on the time as well, which then is a further input of each of its layers.
        **options: of a Keras layer.

    Raises:
        ValueError: there is no hidden layer or step, the activation's derivative is not known, or, when the block is
            built, the number of channels is not, or leaves no state.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        steps: int = 10,
        activation: Any = "tanh",
        log_density: bool = False,
        time_dependent: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.hidden = tuple(int(units) for units in hidden)
        self.steps = steps
        self.activation = keras.activations.get(activation)
        self.log_density = log_density
        self.time_dependent = time_dependent
        if not self.hidden or min(self.hidden) < 1 or steps < 1:
            raise ValueError(f"An ODE block has hidden units and steps, 1 or more. Received: {hidden}, {steps}")
        known = keras.activations.serialize(self.activation)
        if log_density and not (isinstance(known, str) and known in _DERIVATIVES):
            raise ValueError(
                f"The trace of the dynamics needs the derivative of their activation: one of "
                f"{', '.join(_DERIVATIVES)}. Received: {activation!r}"
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights: `kernel_0`, `bias_0` and so on, and with time `time_0` and so on."""
        state = (input_shape[-1] or 0) - bool(self.log_density)
        if state < 1:
            raise ValueError(f"The state of an ODE has a known number of channels, 1 or more. Received: {input_shape}")
        sizes = (state, *self.hidden, state)
        for number, shape in enumerate(itertools.pairwise(sizes)):
            # As dense layers of PyTorch: with biases of zero f would be odd, and stay so on data as symmetric.
            reach = shape[0] ** -0.5
            made = {"kernel": shape, "bias": shape[1:]} | ({"time": shape[1:]} if self.time_dependent else {})
            for name, size in made.items():
                start = keras.initializers.RandomUniform(-reach, reach)
                weight = self.add_weight(shape=size, initializer=start, name=f"{name}_{number}")
                setattr(self, f"{name}_{number}", weight)

    def dynamics(self, state: Any, time: float = 0.0) -> tuple[Any, Any]:
        """f, and with `log_density` the trace of its Jacobian.

        Args:
            state: (..., d) z, without the log-density.
            time: from 0 to 1.

        Returns:
            (..., d) dz/dt; (..., 1) the trace of df/dz, or None.
        """
        value, tangents, last = state, None, len(self.hidden)
        for number in range(last + 1):
            kernel = ops.convert_to_tensor(getattr(self, f"kernel_{number}"))
            x = ops.matmul(value, kernel) + getattr(self, f"bias_{number}")
            if self.time_dependent:
                x = x + time * getattr(self, f"time_{number}")
            if number == last:
                break
            value = self.activation(x)
            if self.log_density:
                # (..., d, units): row i is what the units change by as z_i does.
                slope = _DERIVATIVES[keras.activations.serialize(self.activation)](x, value)
                reached = kernel if tangents is None else ops.matmul(tangents, kernel)
                tangents = reached * ops.expand_dims(slope, -2)
        if tangents is None:
            return x, None
        # Of the last product the diagonal alone.
        return x, ops.expand_dims(ops.sum(tangents * ops.transpose(kernel), axis=(-2, -1)), -1)

    def call(self, inputs: Any) -> Any:
        """The state (..., channels) at time 1."""
        state, gained = (inputs[..., :-1], inputs[..., -1:]) if self.log_density else (inputs, None)
        length = 1.0 / self.steps
        for step in range(self.steps):
            start = step * length
            slope, trace = self.dynamics(state, start)
            slopes, traces = slope, trace
            for weight, part in ((2.0, 0.5), (2.0, 0.5), (1.0, 1.0)):
                slope, trace = self.dynamics(state + part * length * slope, start + part * length)
                slopes = slopes + weight * slope
                traces = None if gained is None else traces + weight * trace
            state = state + length / 6.0 * slopes
            gained = None if gained is None else gained + length / 6.0 * traces
        return state if gained is None else ops.concatenate([state, gained], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "hidden": list(self.hidden),
            "steps": self.steps,
            "activation": keras.activations.serialize(self.activation),
            "log_density": self.log_density,
            "time_dependent": self.time_dependent,
        }
