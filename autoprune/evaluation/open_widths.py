"""A model whose widths are open, within a trace.

Keras shapes a bias, a scale or a reshaped tensor by numbers that it reads off the layer or its input. Where pruning
leaves a length open, within the trace the length is left to the operation or taken from a tensor. What comes out is the
same; `Passes` tries whether it is, for here nothing is known of layers that are not Keras's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from autoprune.models import keras_internals
from autoprune.records import ChannelGroup, Member

Changes = Mapping[str, Any]

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_PLAIN = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_CONVOLUTIONS = (
    *(*_PLAIN, *_TRANSPOSED),
    *(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
    *(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
)
_READERS = (
    *(keras.layers.Reshape, keras.layers.GroupNormalization, keras.layers.Rescaling),
    *(keras.layers.Dropout, keras.layers.AlphaDropout),
)


@dataclass(frozen=True)
class _Attribute:
    """An attribute that follows the channels and is read when the operation runs.

    Attributes:
        operation: that has it.
        name: of the attribute.
        places: of the numbers in an attribute that is a tuple; (-1,) for a plain integer, and none for an attribute
            that holds a value for each channel.
        axes: of the latter, those along which the channels lie.
    """

    operation: Any
    name: str
    places: tuple[int, ...]
    axes: tuple[int, ...]

    def value(self) -> np.ndarray:
        """What pruning may have changed: an integer for each place, or the values themselves."""
        found = keras_internals.read_attribute(self.operation, self.name)
        if not self.places:
            return np.asarray(found, "float32")
        return np.asarray([found if place < 0 else found[place] for place in self.places], "int32")

    def spec(self) -> tf.TensorSpec:
        """Of `value`, with the lengths open that pruning changes."""
        value = self.value()
        shape = [None if axis in self.axes else size for axis, size in enumerate(value.shape)]
        return tf.TensorSpec(shape, value.dtype)

    def written(self, tensor: tf.Tensor) -> Any:
        """The attribute with a tensor in place of `value`."""
        if not self.places:
            return tensor
        found = keras_internals.read_attribute(self.operation, self.name)
        if self.places == (-1,):
            return tensor[0]
        return tuple(
            tensor[self.places.index(place)] if place in self.places else old for place, old in enumerate(found)
        )


class OpenWidths:
    """What of a model depends on its widths, besides the values of its variables.

    Args:
        model: whose layers must not change but in their widths.
        groups: its channel groups.
    """

    def __init__(self, model: Any, groups: Sequence[ChannelGroup]) -> None:
        self._operations = keras_internals.operations_by_path(model)
        self._lengths: dict[int, list[int | None]] = {}
        bound: dict[tuple[str, str], list[Member]] = {}
        for member in (member for group in groups if group.prunable for member in group.members):
            operation = self._operations[member.layer]
            if not member.is_attribute:
                variable = keras_internals.layer_variable(operation, member.name)
                self._lengths.setdefault(id(variable), list(keras_internals.shape_of(variable)))[member.axis] = None
            elif _reads_when_run(operation):
                bound.setdefault((member.layer, member.name), []).append(member)
        self._attributes = [
            _Attribute(
                self._operations[path],
                name,
                tuple(sorted({member.axis for member in members if member.role == "sets"})),
                tuple(member.axis for member in members if member.role == "holds"),
            )
            for (path, name), members in bound.items()
        ]

    def shape(self, variable: Any) -> list[int | None]:
        """Of a variable, with None for the lengths that pruning changes."""
        return list(self._lengths.get(id(variable), keras_internals.shape_of(variable)))

    def attributes(self) -> list[np.ndarray]:
        """The present values of the attributes that a trace takes as arguments."""
        return [attribute.value() for attribute in self._attributes]

    def specs(self) -> list[tf.TensorSpec]:
        """Of `attributes`."""
        return [attribute.spec() for attribute in self._attributes]

    @contextmanager
    def held(self, tensors: Sequence[tf.Tensor]) -> Iterator[None]:
        """Within the block the model can be run by variables of open lengths, with these tensors for `attributes`."""
        with ExitStack() as stack:
            for attribute, tensor in zip(self._attributes, tensors, strict=True):
                operation, name = attribute.operation, attribute.name
                state = keras_internals.attribute_state(operation, name)
                stack.callback(keras_internals.restore_attribute, operation, name, state)
                keras_internals.write_attribute(operation, name, attribute.written(tensor))
            for operation in self._operations.values():
                for name, value in _changes(operation).items():
                    stack.enter_context(keras_internals.overridden(name, {operation: value}))
            yield


def _reads_when_run(operation: Any) -> bool:
    """Whether an operation reads what is bound of it when it runs; others have it to be saved only."""
    raw = keras_internals.raw_operation_name(operation)
    return isinstance(operation, _READERS) or raw in ("Reshape", "GetItem", "Split")


def _changes(operation: Any) -> Changes:
    """Attributes and methods by name that an operation has within a trace."""
    if keras_internals.raw_operation_name(operation) == "Split":
        return _split(operation)
    if type(operation).call.__module__.split(".")[0] != "keras":
        # A convolution of one's own has its bias shaped by its filters, if it is left to Keras.
        return {"filters": -1} if isinstance(operation, _CONVOLUTIONS) and hasattr(operation, "filters") else {}
    return next((rule(operation) for kinds, rule in _RULES if isinstance(operation, kinds)), {})


def _convolution(layer: Any) -> Changes:
    """The bias is added by its own length, not by as many filters as the layer was made with."""
    changes, call = {}, layer.call
    if isinstance(layer, _TRANSPOSED):
        call = _transposed_convolution(layer)
    elif getattr(layer, "groups", 1) > 1 and _is_depthwise(layer):
        changes["convolution_op"] = _depthwise_convolution(layer)
    elif getattr(layer, "groups", 1) > 1:
        # TensorFlow has no gradient of these on CPUs, so that Keras has XLA compile what it sees to be grouped.
        call = tf.function(call, autograph=False, jit_compile=True)
    bias, activation = layer.bias, layer.activation
    axis, along = (1, (-1, *[1] * layer.rank)) if layer.data_format == "channels_first" else (-1, (-1,))

    def convolve(inputs: Any) -> Any:
        if isinstance(layer, _PLAIN) and layer.groups == 1:
            # Keras would have XLA compile, for every plan anew, what may have other channels than the kernel.
            sizes = list(inputs.shape)
            sizes[axis] = keras_internals.layer_variable(layer, "kernel").shape[-2]
            inputs = tf.ensure_shape(inputs, sizes)
        outputs = call(inputs)
        if bias is not None:
            outputs = keras.ops.add(outputs, keras.ops.reshape(bias, along))
        return outputs if activation is None else activation(outputs)

    return {**changes, "use_bias": False, "activation": None, "call": convolve}


def _transposed_convolution(layer: Any) -> Callable[[Any], Any]:
    """Without bias and activation. Keras makes the shape of the outputs of numbers alone."""
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[layer.rank]
    first = layer.data_format == "channels_first"
    layout = f"NC{layout[1:-1]}" if first else layout

    def convolve(inputs: Any) -> Any:
        kernel = keras.ops.convert_to_tensor(layer.kernel)
        shape = list(layer.compute_output_shape(tuple(keras.ops.shape(inputs))))
        shape[1 if first else -1] = tf.shape(kernel)[-2]
        return tf.nn.conv_transpose(
            keras.ops.convert_to_tensor(inputs), kernel, shape, layer.strides, layer.padding.upper(), layout,
            layer.dilation_rate,
        )  # fmt: skip

    return convolve


def _is_depthwise(layer: Any) -> bool:
    """Whether a grouped convolution is a depthwise one, of strides and dilations that TensorFlow has these for."""
    one_each = layer.groups == layer.filters and keras_internals.layer_variable(layer, "kernel").shape[-2] == 1
    strides = set(layer.strides)
    known = layer.rank == 2 and layer.data_format == "channels_last" and len(strides) == 1
    return one_each and known and (strides == {1} or max(layer.dilation_rate) == 1)


def _depthwise_convolution(layer: Any) -> Callable[[Any, Any], Any]:
    """The same numbers without XLA."""
    strides, padding = (1, *layer.strides, 1), layer.padding.upper()
    return lambda inputs, kernel: tf.nn.depthwise_conv2d(
        inputs, keras.ops.transpose(kernel, (0, 1, 3, 2)), strides, padding, dilations=layer.dilation_rate
    )


def _batch_normalization(layer: Any) -> Changes:
    """On the last axis nothing has to be broadcast; channels on another one are brought there."""
    rank, call = layer.input_spec.ndim, layer.call
    axis = layer.axis % rank
    if axis == rank - 1:
        return {"axis": -1}

    def normalise(inputs: Any, *arguments: Any, **options: Any) -> Any:
        outputs = call(keras.ops.moveaxis(inputs, axis, -1), *arguments, **options)
        return keras.ops.moveaxis(outputs, -1, axis)

    return {"axis": -1, "_reduction_axes": list(range(rank - 1)), "call": normalise}


def _layer_normalization(layer: Any) -> Changes:
    """Scale and offset have the shape to broadcast in already, which Keras leaves as it is."""

    def normalise(inputs: Any) -> Any:
        rank = len(inputs.shape)
        axes = sorted(axis % rank for axis in layer.axis)
        shape = [(inputs.shape[axis] or -1) if axis in axes else 1 for axis in range(rank)]
        scale, offset = (None if v is None else keras.ops.reshape(v, shape) for v in (layer.gamma, layer.beta))
        options = {"rms_scaling": True} if layer.rms_scaling else {}
        outputs = keras.ops.layer_normalization(inputs, scale, offset, axes, layer.epsilon, **options)
        return keras.ops.cast(outputs, layer.compute_dtype)

    return {"call": normalise}


def _group_normalization(layer: Any) -> Changes:
    """Keras divides the width by the number of groups; here the two may be tensors."""
    rank = layer.input_spec.ndim
    axis = layer.axis % rank

    def normalise(inputs: Any) -> Any:
        sizes = list(keras.ops.shape(inputs))
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        split = [layer.groups, sizes[axis] // layer.groups]
        grouped = keras.ops.cast(keras.ops.reshape(inputs, [*sizes[:axis], *split, *sizes[axis + 1 :]]), dtype)
        mean, variance = keras.ops.moments(grouped, [p for p in range(1, rank + 1) if p != axis], keepdims=True)
        along = [1] * axis + split + [1] * (rank - 1 - axis)
        scale, offset = (None if v is None else keras.ops.reshape(v, along) for v in (layer.gamma, layer.beta))
        factor = keras.ops.rsqrt(variance + layer.epsilon)
        factor = factor if scale is None else factor * keras.ops.cast(scale, dtype)
        shift = -mean * factor if offset is None else keras.ops.cast(offset, dtype) - mean * factor
        outputs = keras.ops.reshape(grouped * factor + shift, sizes)
        return keras.ops.cast(keras.ops.cast(outputs, inputs.dtype), layer.compute_dtype)

    return {"call": normalise}


def _reshape(layer: Any) -> Changes:
    """As Keras does it, without working out the sizes that are open."""
    if all(isinstance(size, int) for size in layer.target_shape):
        return {}
    known = keras_internals.calls_of(layer)[0].outputs[0].shape[1:]
    pairs = zip(layer.target_shape, known, strict=True)
    sizes = [size if place is None or not isinstance(size, int) else place for size, place in pairs]
    return {"call": lambda inputs: keras.ops.reshape(inputs, (keras.ops.shape(inputs)[0], *sizes))}


def _spectral_normalization(layer: Any) -> Changes:
    """The kernel is brought into the shape that it has, not into the one that it was made with."""
    call = layer.call

    def normalise(inputs: Any, training: bool = False) -> Any:
        with keras_internals.overridden("kernel_shape", {layer: tuple(keras.ops.shape(layer.kernel))}):
            return call(inputs, training=training)

    return {"call": normalise}


def _split(operation: Any) -> Changes:
    def split(inputs: Any) -> Any:
        end = keras.ops.shape(inputs)[operation.axis]
        bounds = [0, *keras_internals.read_attribute(operation, "indices_or_sections"), end]
        lengths = [after - before for before, after in pairwise(bounds)]
        return tf.split(inputs, lengths, operation.axis)

    return {"call": split}


_RULES: tuple[tuple[Any, Callable[[Any], Changes]], ...] = (
    (_CONVOLUTIONS, _convolution),
    (keras.layers.BatchNormalization, _batch_normalization),
    (keras.layers.LayerNormalization, _layer_normalization),
    (keras.layers.GroupNormalization, _group_normalization),
    (keras.layers.SpectralNormalization, _spectral_normalization),
    (keras.layers.Reshape, _reshape),
)
