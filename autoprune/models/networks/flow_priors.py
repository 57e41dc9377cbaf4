"""Priors of normalising flows that are autoregressive over channels, and flows from end to end.

mAR-SCF (Mahajan et al., 2020, arXiv 2004.03891): after each level of a flow half of the channels leave, with their
density given the others; the last ones have a density of their own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from autoprune.errors import ModelError
from autoprune.models.networks.flows import (
    ActNorm,
    AffineCoupling,
    Dequantize,
    InvertibleConvolution,
    Squeeze,
    convolve,
    join_state,
    split_state,
)

ops = keras.ops
_register = keras.saving.register_keras_serializable("autoprune")
_LOG_TWO_PI = math.log(2 * math.pi)


class _ChannelPrior(keras.Layer):
    """Density of channels, each a Gaussian whose mean and log-std a ConvLSTM tells from the channels before it.

    Mahajan et al., 2020, arXiv 2004.03891, section 3.2, with one layer of the ConvLSTM.

    Args:
        hidden: channels of the ConvLSTM.

    Attributes:
        encode: gives of a state what goes on, and what has left, white.
    """

    embedding = 4
    encode: Callable[[Any], tuple[Any, Any]]

    def __init__(self, hidden: int = 32, **options: Any) -> None:
        super().__init__(**options)
        self.hidden = hidden

    def _build_prior(self, channels: int, kept: int) -> None:
        hidden, seen = self.hidden, 1 + (self.embedding if kept else 0)
        if kept:
            self.embedding_kernel = self.add_weight(shape=(3, 3, kept, self.embedding), name="embedding_kernel")
            self.embedding_bias = self.add_weight(shape=(self.embedding,), initializer="zeros", name="embedding_bias")
        self.kernel = self.add_weight(shape=(3, 3, seen + hidden, 4 * hidden), name="kernel")
        self.bias = self.add_weight(shape=(4 * hidden,), initializer="zeros", name="bias")
        self.head = self.add_weight(shape=(hidden, 2), initializer="zeros", name="head")
        self.head_bias = self.add_weight(shape=(channels, 2), initializer="zeros", name="head_bias")

    def call(self, state: Any) -> Any:
        """What goes on, see `encode`."""
        return self.encode(state)[0]

    def _run(self, given: Any, kept: Any | None, *, inverse: bool) -> tuple[Any, Any]:
        """Whiten channels, which are standard normal then, or colour what is white.

        Args:
            given: (n, h, w, c) channels, or white ones.
            kept: (n, h, w, k) what the channels are conditioned on.
            inverse: whether to colour.

        Returns:
            The others, and (n, h, w, 1) the log-density of the channels, in nats.
        """
        before = ops.zeros_like(given[..., :1])
        seen = [] if kept is None else [convolve(kept, self.embedding_kernel) + self.embedding_bias]
        hidden = memory = before * ops.zeros((self.hidden,), before.dtype)
        found, densities = [], []
        for channel in range(given.shape[-1]):
            gates = convolve(join_state(before, *seen, hidden), self.kernel) + self.bias
            enter, leave, keep, new = ops.split(gates, 4, axis=-1)
            # Memory is kept at first: Jozefowicz et al., 2015.
            memory = ops.sigmoid(keep + 1) * memory + ops.sigmoid(enter) * ops.tanh(new)
            hidden = ops.sigmoid(leave) * ops.tanh(memory)
            told = ops.matmul(hidden, self.head) + self.head_bias[channel]
            mean, log_std = told[..., :1], told[..., 1:]
            value = given[..., channel : channel + 1]
            other = value * ops.exp(log_std) + mean if inverse else (value - mean) * ops.exp(-log_std)
            before, white = (other, value) if inverse else (value, other)
            found.append(other)
            densities.append(-0.5 * (_LOG_TWO_PI + white**2) - log_std)
        return join_state(*found), sum(densities[1:], densities[0])

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "hidden": self.hidden}


@_register
class AutoregressiveSplit(_ChannelPrior):
    """The second half of the channels leaves, with its log-density given the first half, which goes on."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """The prior of the half that leaves."""
        channels = shape[-1] - 1  # type: ignore[operator]
        self._build_prior(channels - channels // 2, channels // 2)

    def encode(self, state: Any) -> tuple[Any, Any]:
        """Of (n, h, w, c + 1) what goes on, a state (n, h, w, c / 2 + 1), and what has left, white (n, h, w, c / 2)."""
        z, density = split_state(state)
        half = z.shape[-1] // 2
        latent, added = self._run(z[..., half:], z[..., :half], inverse=False)
        return join_state(z[..., :half], density + added), latent

    def inverse(self, state: Any, latent: Any) -> Any:
        """The state that gives these two."""
        z, density = split_state(state)
        left, added = self._run(latent, z, inverse=True)
        return join_state(z, left, density - added)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Half the data."""
        return (*shape[:-1], (shape[-1] - 1) // 2 + 1)  # type: ignore[operator]


@_register
class AutoregressivePrior(_ChannelPrior):
    """The end of a flow: (n, 1) log-density of each image, in nats, over its number of dimensions.

    Args:
        dimensions: of an image: height, width and channels multiplied.
        hidden: channels of the ConvLSTM.
    """

    def __init__(self, dimensions: int, hidden: int = 32, **options: Any) -> None:
        super().__init__(hidden, **options)
        self.dimensions = dimensions

    def build(self, shape: tuple[int | None, ...]) -> None:
        """The prior of all channels."""
        self._build_prior(shape[-1] - 1, 0)  # type: ignore[operator]

    def encode(self, state: Any) -> tuple[Any, Any]:
        """Of (n, h, w, c + 1) the log-density per dimension, (n, 1), and the channels, white."""
        z, density = split_state(state)
        latent, added = self._run(z, None, inverse=False)
        return ops.sum(density + added, axis=(1, 2)) / self.dimensions, latent

    def inverse(self, latent: Any) -> Any:
        """The state that gives these channels, before any log-density."""
        z, added = self._run(latent, None, inverse=True)
        return join_state(z, -added)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """One number."""
        return (shape[0], 1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "dimensions": self.dimensions}


def encode(model: Any, images: Any) -> tuple[list[Any], Any]:
    """Latents of images, and their log-density.

    Args:
        model: a flow, with however many of its couplings.
        images: (n, h, w, c) in [0, 1].

    Returns:
        What each `AutoregressiveSplit` and the prior take, in their order, (n, h, w, c) each, standard normal where the
        model is right; and (n, 1) the log-density in nats per dimension, which is the model's output.

    Raises:
        ModelError: the model has other layers than those of a flow.
    """
    state, latents = ops.convert_to_tensor(images), []
    for layer in _list_layers(model):
        if isinstance(layer, _ChannelPrior):
            state, latent = layer.encode(state)
            latents.append(latent)
        else:
            change = layer(state)
            state = state + change if isinstance(layer, AffineCoupling) else change
    return latents, state


def decode(model: Any, latents: Sequence[Any]) -> Any:
    """Images (n, h, w, c) from latents as `encode` gives them; of standard normal noise, samples of the model.

    Raises:
        ModelError: the model has other layers than those of a flow.
    """
    rest, state = list(latents), None
    for layer in reversed(_list_layers(model)):
        if isinstance(layer, AutoregressivePrior):
            state = layer.inverse(rest.pop())
        elif isinstance(layer, AutoregressiveSplit):
            state = layer.inverse(state, rest.pop())
        else:
            state = layer.inverse(state)
    return state


def _list_layers(model: Any) -> list[Any]:
    """Layers of a flow in data-flow order, without its input and sums."""
    known = (Dequantize, Squeeze, ActNorm, InvertibleConvolution, AffineCoupling, _ChannelPrior)
    found = [layer for layer in model.layers if not isinstance(layer, (keras.layers.InputLayer, keras.layers.Add))]
    if others := [layer for layer in found if not isinstance(layer, known)]:
        raise ModelError(
            f"'{model.name}' is no flow: its layer '{others[0].name}' ({type(others[0]).__name__}) has no inverse."
        )
    return found
