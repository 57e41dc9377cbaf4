"""Works around a defect of TensorFlow 2.21 on CPUs: the gradient of strided 1x1 convolutions corrupts memory.

With oneDNN on, as it is by default, training a residual network whose shortcuts are 1x1 convolutions of stride 2
ends in "double free or corruption" for some widths, and pruning makes all kinds of widths; where TensorFlow has a
single thread (one core, or TF_NUM_INTRAOP_THREADS=1) a pruned one ends so each time. Turning oneDNN off
(TF_ENABLE_ONEDNN_OPTS=0) avoids it and makes training half as fast or slower. Taking every second pixel first and then
convolving with stride 1 is the same operation, uses another gradient, and costs little:
`tests/benchmarks/onednn.py` measures both.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras

from autoprune.models import keras_internals


@contextmanager
def safe_convolutions(model: Any) -> Iterator[int]:
    """Within the block, strided 1x1 convolutions of the model slice first and convolve with stride 1.

    Gives the number of layers changed. Functions that were compiled before or within the block must not outlive it;
    `train` sees to that.
    """
    layers = keras_internals.layers_by_path(model).values() if keras.backend.backend() == "tensorflow" else ()
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    convolutions = [layer for layer in layers if isinstance(layer, kinds)]
    strided = [layer for layer in convolutions if set(layer.kernel_size) == {1} and max(layer.strides) > 1]
    with keras_internals.overridden("convolution_op", {layer: partial(_convolve, layer) for layer in strided}):
        yield len(strided)


def _convolve(layer: Any, inputs: Any, kernel: Any) -> Any:
    """What a layer with a window of one pixel gives: it sees pixels 0, s, 2s, ... with either padding."""
    every = tuple(slice(None, None, stride) for stride in layer.strides)
    index = (..., *every) if layer.data_format == "channels_first" else (..., *every, slice(None))
    return keras.ops.conv(inputs[index], kernel, strides=1, padding="valid", data_format=layer.data_format)
