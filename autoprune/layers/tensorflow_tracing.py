"""TensorFlow operations whose widths are open within a trace; imported only where TensorFlow traces."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from autoprune.models import keras_internals

# A grouped convolution as Keras runs it: TensorFlow has no gradient of these on CPUs.
compile_by_xla = partial(tf.function, autograph=False, jit_compile=True)
# Into parts of lengths that may be tensors.
split = tf.split


def convolution(layer: Any, call: Callable[[Any], Any], inputs: tf.Tensor) -> Any:
    """What the layer's own `call` gives for inputs of which it is known that they have as many channels as the kernel.

    Keras would have XLA compile, for every plan anew, what may have other ones.
    """
    sizes = list(inputs.shape)
    channels = keras_internals.layer_variable(layer, "kernel").shape[-2]
    sizes[1 if layer.data_format == "channels_first" else -1] = channels
    return call(tf.ensure_shape(inputs, sizes))


def transpose_convolution(layer: Any, inputs: Any) -> Any:
    """Without bias and activation. Keras makes the shape of the outputs of numbers alone."""
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[layer.rank]
    first = layer.data_format == "channels_first"
    layout = f"NC{layout[1:-1]}" if first else layout
    kernel = keras.ops.convert_to_tensor(layer.kernel)
    shape = list(layer.compute_output_shape(tuple(keras.ops.shape(inputs))))
    shape[1 if first else -1] = tf.shape(kernel)[-2]
    return tf.nn.conv_transpose(
        keras.ops.convert_to_tensor(inputs), kernel, shape, layer.strides, layer.padding.upper(), layout,
        layer.dilation_rate,
    )  # fmt: skip


def is_depthwise(layer: Any) -> bool:
    """Whether a grouped convolution is a depthwise one, of strides and dilations that TensorFlow has these for."""
    one_each = layer.groups == layer.filters and keras_internals.layer_variable(layer, "kernel").shape[-2] == 1
    strides = set(layer.strides)
    known = layer.rank == 2 and layer.data_format == "channels_last" and len(strides) == 1
    return one_each and known and (strides == {1} or max(layer.dilation_rate) == 1)


def depthwise_convolution(layer: Any) -> Callable[[Any, Any], Any]:
    """The same numbers as those of a grouped convolution, without XLA."""
    strides, padding = (1, *layer.strides, 1), layer.padding.upper()
    return lambda inputs, kernel: tf.nn.depthwise_conv2d(
        inputs, keras.ops.transpose(kernel, (0, 1, 3, 2)), strides, padding, dilations=layer.dilation_rate
    )
