"""Cost on this host, measured: kind `measured`, target `cpu`.

The model runs as a function compiled by XLA, at the target's batch size, timed as `timing.py` says. What is measured is
disturbed by other work on the host: the report has the interquartile range beside the median.
"""

import importlib.metadata
import os
import platform
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import keras
import numpy as np

from autoprune.cost.flops import count_flops
from autoprune.cost.measured.timing import Timing, example_inputs, make_loop, time_loop
from autoprune.errors import CostError
from autoprune.models import keras_internals
from autoprune.records import CostReport, Memory, Target


class CpuCostModel:
    """Times models on the machine it runs on.

    Args:
        target: name `cpu`; batch size; dtype, which must be the model's own.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def submit(self, model: Any) -> Future[CostReport]:
        """Measure a model at once; the future is finished when this returns.

        Returns:
            A future of a `CostReport`; its exception is a `CostError`: the input size of the model is not fixed, or XLA
            refuses one of its layers.
        """
        report: Future[CostReport] = Future()
        try:
            batch = example_inputs([((self.target.batch_size, *t.shape[1:]), t.dtype) for t in model.inputs])
            backend = keras.backend.backend()
            if backend not in _BACKENDS:
                raise CostError(f"The target cpu needs the TensorFlow or JAX backend of Keras. Received: {backend}")
            timing, activations = _BACKENDS[backend](model, batch)
            # NumPy has no bfloat16; its size is float16's.
            sizes = [np.dtype("float16" if w.dtype == "bfloat16" else w.dtype).itemsize for w in model.weights]
            weights = sum(int(np.prod(w.shape)) * size for w, size in zip(model.weights, sizes, strict=True))
            total = None if activations is None else weights + activations
            measured = CostReport(
                target=self.target,
                kind="measured",
                latency=timing.latency,
                latency_sum=None,
                latency_iqr=timing.iqr,
                memory=Memory(weights=weights, activations=activations, code=None, total=total),
                flops=count_flops(model, self.target.batch_size),
                parameters=model.count_params(),
                provenance={
                    "host": platform.machine(),
                    "processors": os.cpu_count() or 0,
                    "backend": backend,
                    **{name: importlib.metadata.version(name) for name in ("keras", _DISTRIBUTIONS[backend])},
                    "runs": timing.runs,
                    "loop_lengths": "{} and {}".format(*timing.lengths),
                },
            )
            report.set_result(measured)
        except Exception as error:  # noqa: BLE001 - what the compiler raises belongs to this candidate alone
            report.set_exception(CostError(f"The model could not be run on this host: {error}"))
        return report

    def close(self) -> None:
        """Nothing to end."""


def _measure_with_tensorflow(model: Any, batch: list[np.ndarray]) -> tuple[Timing, None]:
    """The timing, and no word on memory: TensorFlow does not pass on what XLA says of it."""
    import tensorflow as tf

    structure = keras_internals.input_structure(model)

    def call(_: Any, arrays: list[Any]) -> list[Any]:
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, list(arrays)), training=False))

    forward = tf.function(call, autograph=False)
    inputs = [tf.constant(array) for array in batch]
    outputs = forward.get_concrete_function([], inputs).structured_outputs
    carried = [inputs, [tf.zeros(output.shape, output.dtype) for output in outputs]]
    loop = tf.function(make_loop(forward), jit_compile=True, autograph=False)

    def run(iterations: int) -> None:
        for array in loop(tf.constant(iterations, tf.int32), [], *carried)[1]:
            array.numpy()  # waits

    return time_loop(run), None


def _measure_with_jax(model: Any, batch: list[np.ndarray]) -> tuple[Timing, int | None]:
    """The timing, and the bytes of inputs, outputs and temporaries."""
    import jax

    from autoprune.cost.measured.jax_timing import time_on_jax

    structure = keras_internals.input_structure(model)

    def forward(state: tuple[list[Any], list[Any]], arrays: list[Any]) -> Any:
        return model.stateless_call(*state, keras.tree.pack_sequence_as(structure, list(arrays)), training=False)[0]

    state = tuple([v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables))
    # The processor, also where JAX has something faster.
    result = time_on_jax(forward, state, batch, jax.devices("cpu")[0])
    return result.timing, result.memory.activations


_BACKENDS: dict[str, Callable[[Any, list[np.ndarray]], tuple[Timing, int | None]]] = {
    "tensorflow": _measure_with_tensorflow,
    "jax": _measure_with_jax,
}
_DISTRIBUTIONS = {"tensorflow": "tensorflow", "jax": "jax"}
