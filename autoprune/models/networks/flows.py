"""Normalising flows: invertible layers whose composition gives the density of an image; `flow_priors.py` ends them.

Kingma & Dhariwal, 2018, arXiv 1807.03039: levels of steps, each a normalisation, a 1x1 convolution and a coupling.

Between layers goes a *state* (n, h, w, c + 1): c channels of data, and as the last one the log-density, in nats, that
each position has gathered so far. Layers add their log-determinant to that channel, and their `inverse` takes it away.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import scipy.linalg

ops = keras.ops
_register = keras.saving.register_keras_serializable("autoprune")
_NOISE_BITS = 8


def split_state(state: Any) -> tuple[Any, Any]:
    """The channels of data, and the log-density (n, h, w, 1)."""
    return state[..., :-1], state[..., -1:]


def join_state(*parts: Any) -> Any:
    """Parts of the channels, the log-density the last."""
    return ops.concatenate(parts, axis=-1)


def convolve(x: Any, kernel: Any) -> Any:
    """A convolution that keeps height and width."""
    return ops.conv(x, kernel, padding="same", data_format="channels_last")


def _mix(bits: Any) -> Any:
    """Hash of whole numbers: the finaliser of MurmurHash3 (Appleby, 2011), in int32 whose products wrap around."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        # `right_shift` repeats the sign; the mask leaves a shift of unsigned numbers.
        shifted = ops.bitwise_and(ops.right_shift(bits, shift), (1 << (32 - shift)) - 1)
        bits = ops.bitwise_xor(bits, shifted) * (factor - (factor >> 31 << 32))
    return bits


@_register
class Dequantize(keras.Layer):
    """From grey values to a state: x in [0, 1] becomes (x (levels - 1) + u) / levels, u in [0, 1).

    The log-density begins with -c log(levels) at every position, so that in the end it bounds, on average over u, that
    of the discrete images from below (Theis et al., 2016, arXiv 1511.01844, section 3.1). In training u is drawn
    anew. In inference it is a hash of the whole image: the same image has the same density every time, and the noise
    is none that a flow could learn. Then u is the middle of one of 256 parts, so that rounding in a flow and back leads
    to no other grey value.

    Args:
        levels: number of grey values, 2 or more.
        seed: of the noise that is drawn in training; None draws one.
    """

    def __init__(self, levels: int, seed: int | None = None, **options: Any) -> None:
        # Half precision would confuse neighbouring grey values before they are counted.
        super().__init__(autocast=False, **options)
        self.levels, self.seed = levels, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """(n, h, w, c) to a state (n, h, w, c + 1)."""
        grey = ops.clip(ops.round(images * (self.levels - 1)), 0, self.levels - 1)
        if training:
            noise = keras.random.uniform(ops.shape(grey), dtype=grey.dtype, seed=self.seed_generator)
        else:
            noise = ops.cast(self._hash(ops.cast(grey, "int32")), grey.dtype)
        density = ops.full_like(grey[..., :1], -images.shape[-1] * math.log(self.levels))
        return ops.cast(join_state((grey + noise) / self.levels, density), self.compute_dtype)

    def _hash(self, grey: Any) -> Any:
        """Noise of each pixel that depends on all pixels of the image."""
        shape = grey.shape[1:]
        positions = np.arange(math.prod(shape), dtype=np.int64).reshape(1, *shape)
        places = ops.convert_to_tensor((positions * self.levels).astype(np.int32))
        image = ops.sum(_mix(grey + places), axis=(1, 2, 3), keepdims=True)
        spread = ops.convert_to_tensor(
            (positions * 0x9E3779B9).astype(np.int32)
        )  # 2^32 over the golden ratio, as in Weyl sequences
        bits = ops.bitwise_and(ops.right_shift(_mix(_mix(image) + spread), 32 - _NOISE_BITS), (1 << _NOISE_BITS) - 1)
        return (ops.cast(bits, "float32") + 0.5) / (1 << _NOISE_BITS)

    def inverse(self, state: Any) -> Any:
        """The images, of grey values in [0, 1]."""
        grey = ops.floor(split_state(state)[0] * self.levels)
        return ops.clip(grey, 0, self.levels - 1) / (self.levels - 1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """One channel more."""
        return (*shape[:-1], shape[-1] + 1)  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "levels": self.levels, "seed": self.seed}


@_register
class Squeeze(keras.Layer):
    """Every 2x2 positions become one with four times as many channels (Dinh et al., 2017, arXiv 1605.08803)."""

    def call(self, state: Any) -> Any:
        """(n, h, w, c + 1) to (n, h / 2, w / 2, 4 c + 1); log-densities add up."""
        z, density = split_state(state)
        return join_state(self._fold(z), ops.sum(self._fold(density), axis=-1, keepdims=True))

    def inverse(self, state: Any) -> Any:
        """Back; the four positions share their log-density evenly."""
        z, density = split_state(state)
        _, height, width, channels = z.shape
        z = ops.reshape(z, (-1, height, width, 2, 2, channels // 4))
        z = ops.reshape(ops.transpose(z, (0, 1, 3, 2, 4, 5)), (-1, 2 * height, 2 * width, channels // 4))
        return join_state(z, ops.repeat(ops.repeat(density / 4, 2, axis=1), 2, axis=2))

    def _fold(self, x: Any) -> Any:
        _, height, width, channels = x.shape
        x = ops.transpose(ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height // 2, width // 2, 4 * channels))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Half the sides, four times the data."""
        _, height, width, channels = shape
        return (shape[0], height // 2, width // 2, 4 * (channels - 1) + 1)  # type: ignore[operator]


class _SameShape(keras.Layer):
    """A layer whose output has the shape of its input."""

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """That of the input."""
        return shape


@_register
class ActNorm(_SameShape):
    """A learnt bias and scale for each channel: (z + bias) exp(log_scale) (Kingma & Dhariwal, 2018, arXiv 1807.03039).

    They begin with 0 and 1, not with statistics of a first batch.
    """

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Variables for c channels of a state of c + 1."""
        channels = shape[-1] - 1  # type: ignore[operator]
        self.bias = self.add_weight(shape=(channels,), initializer="zeros", name="bias")
        self.log_scale = self.add_weight(shape=(channels,), initializer="zeros", name="log_scale")

    def call(self, state: Any) -> Any:
        """A state of the same shape."""
        z, density = split_state(state)
        return join_state((z + self.bias) * ops.exp(self.log_scale), density + ops.sum(self.log_scale))

    def inverse(self, state: Any) -> Any:
        """The state that gives this one."""
        z, density = split_state(state)
        return join_state(z * ops.exp(-self.log_scale) - self.bias, density - ops.sum(self.log_scale))


@_register
class InvertibleConvolution(_SameShape):
    """A learnt 1x1 convolution P L (U + diag(sign exp(log_scale))), whose determinant is the product of the diagonal.

    Kingma & Dhariwal, 2018, arXiv 1807.03039, section 3.2: P is a fixed permutation, L a lower triangle with ones on
    the diagonal, U an upper one with zeros there; the signs are fixed too. It begins with a random rotation.

    Args:
        seed: of the rotation that it begins with.
    """

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Variables for c channels of a state of c + 1."""
        channels = shape[-1] - 1  # type: ignore[operator]
        rotation = np.linalg.qr(np.random.default_rng(self.seed).normal(size=(channels, channels)))[0]
        permutation, lower, upper = scipy.linalg.lu(rotation)
        diagonal = np.diag(upper)

        def add(name: str, value: np.ndarray, trainable: bool = True) -> Any:
            return self.add_weight(
                shape=value.shape,
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(value, dtype=dtype),
                trainable=trainable,
                name=name,
            )

        self.permutation = add("permutation", permutation, trainable=False)
        self.sign = add("sign", np.sign(diagonal), trainable=False)
        self.lower = add("lower", np.tril(lower, -1))
        self.upper = add("upper", np.triu(upper, 1))
        self.log_scale = add("log_scale", np.log(np.abs(diagonal)))

    def kernel(self) -> Any:
        """(c, c), from input to output channels."""
        below = np.tril(np.ones(self.lower.shape), -1)
        lower = self.lower * ops.cast(below, self.compute_dtype) + ops.eye(len(below), dtype=self.compute_dtype)
        upper = self.upper * ops.cast(below.T, self.compute_dtype) + ops.diag(self.sign * ops.exp(self.log_scale))
        return ops.matmul(ops.matmul(self.permutation, lower), upper)

    def call(self, state: Any) -> Any:
        """A state of the same shape."""
        z, density = split_state(state)
        return join_state(ops.matmul(z, self.kernel()), density + ops.sum(self.log_scale))

    def inverse(self, state: Any) -> Any:
        """The state that gives this one."""
        z, density = split_state(state)
        return join_state(ops.matmul(z, ops.inv(self.kernel())), density - ops.sum(self.log_scale))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "seed": self.seed}


@_register
class AffineCoupling(_SameShape):
    """How an affine coupling changes a state: `Add()([state, coupling(state)])` is the coupled state.

    z2 becomes z2 scale + shift, of which a small network tells scale and shift from z1, the other half of the channels
    (Dinh et al., 2017, arXiv 1605.08803; the network as in Kingma & Dhariwal, 2018). As a branch of a sum a coupling
    can be left out: what remains is the identity. Its hidden channels can be removed, those of the state cannot.

    Args:
        hidden: numbers of channels of the network's two hidden layers.
    """

    def __init__(self, hidden: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.hidden = tuple(hidden)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Kernels, and for each hidden channel the bias and log-scale of its normalisation."""
        channels = shape[-1] - 1  # type: ignore[operator]
        first, second = self.hidden
        outputs = 2 * (channels - channels // 2)

        def add(name: str, *shape: int, initializer: Any = "zeros") -> Any:
            return self.add_weight(shape=shape, initializer=initializer, name=name)

        self.kernel1 = add("kernel1", 3, 3, channels // 2, first, initializer="he_normal")
        self.bias1, self.log_scale1 = add("bias1", first), add("log_scale1", first)
        self.kernel2 = add("kernel2", first, second, initializer="he_normal")
        self.bias2, self.log_scale2 = add("bias2", second), add("log_scale2", second)
        self.kernel3 = add("kernel3", 3, 3, second, outputs)
        self.bias3, self.log_scale3 = add("bias3", outputs), add("log_scale3", outputs)

    def _transform(self, state: Any) -> tuple[Any, Any, Any, Any, Any]:
        """The halves z1 and z2 of a state and its log-density; shift and log-scale of z2."""
        z, density = split_state(state)
        half = z.shape[-1] // 2
        z1, z2 = z[..., :half], z[..., half:]
        x = ops.relu((convolve(z1, self.kernel1) + self.bias1) * ops.exp(self.log_scale1))
        x = ops.relu((ops.matmul(x, self.kernel2) + self.bias2) * ops.exp(self.log_scale2))
        x = (convolve(x, self.kernel3) + self.bias3) * ops.exp(3 * self.log_scale3)
        return z1, z2, density, x[..., ::2], ops.log_sigmoid(x[..., 1::2] + 2)

    def call(self, state: Any) -> Any:
        """(n, h, w, c + 1): 0 for z1, z2 (scale - 1) + shift for z2, the sum of log-scales for the log-density."""
        z1, z2, _, shift, log_scale = self._transform(state)
        change = z2 * (ops.exp(log_scale) - 1) + shift
        return join_state(ops.zeros_like(z1), change, ops.sum(log_scale, axis=-1, keepdims=True))

    def inverse(self, state: Any) -> Any:
        """The state before the sum, from that behind it."""
        z1, z2, density, shift, log_scale = self._transform(state)
        before = (z2 - shift) * ops.exp(-log_scale)
        return join_state(z1, before, density - ops.sum(log_scale, axis=-1, keepdims=True))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "hidden": list(self.hidden)}
