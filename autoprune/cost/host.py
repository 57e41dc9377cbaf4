"""Cost on this host, measured: kind `measured`, target `cpu`.

The model runs as a function compiled by XLA, at the target's batch size. What is measured disturbs itself when
other work runs beside it: the median of many runs is reported, with the interquartile range.
"""

import platform
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import keras
import numpy as np

from autoprune.cost.flops import count_flops
from autoprune.errors import CostError
from autoprune.models import keras_internals
from autoprune.records import CostReport, Memory, Target

WARM_UP = 3
RUNS = 30
SECONDS = 2.0  # Stop before RUNS when a slow model has taken this long, but never before 5 runs.


class HostCostModel:
    """Times models on the machine it runs on.

    Args:
        target: name `cpu`; batch size; dtype, which must be the model's own.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    def submit(self, model: Any) -> Future:
        """Measure a model at once; the future is finished when this returns.

        Raises:
            CostError: the input size of the model is not fixed.
        """
        report: Future = Future()
        try:
            report.set_result(self._measure(model))
        except Exception as error:  # noqa: BLE001 - what the compiler raises belongs to this candidate alone
            report.set_exception(CostError(f"The model could not be run on this host: {error}"))
        return report

    def close(self) -> None:
        """Nothing to end."""

    def _measure(self, model: Any) -> CostReport:
        run = compiled_forward(model)
        batch = [
            np.random.default_rng(0).random((self.target.batch_size, *t.shape[1:]), np.float32).astype(t.dtype)
            for t in model.inputs
        ]
        times = _time(lambda: run(batch))
        low, median, high = np.percentile(times, [25, 50, 75])
        weights = sum(int(np.prod(w.shape)) * np.dtype(_numpy_dtype(w.dtype)).itemsize for w in model.weights)
        return CostReport(
            target=self.target,
            kind="measured",
            latency=float(median),
            latency_sum=None,
            latency_iqr=float(high - low),
            memory=Memory(weights=weights, activations=None, code=None, total=None),
            flops=count_flops(model, self.target.batch_size),
            parameters=model.count_params(),
            provenance={
                "host": platform.machine(),
                "runs": len(times),
                "keras": keras.version(),
                "backend": keras.backend.backend(),
            },
        )


def compiled_forward(model: Any) -> Callable[[list[np.ndarray]], Any]:
    """The model's forward pass compiled by XLA, for lists of input arrays; waits for the result.

    Raises:
        CostError: the backend is neither TensorFlow nor JAX.
    """
    structure = keras_internals.input_structure(model)

    def packed(batch: list[Any]) -> Any:
        return keras.tree.pack_sequence_as(structure, list(batch))

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda batch: model(packed(batch), training=False), jit_compile=True)
        return lambda batch: keras.tree.map_structure(lambda t: t.numpy(), function(batch))
    if backend == "jax":
        import jax

        trainable = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        function = jax.jit(lambda t, n, batch: model.stateless_call(t, n, packed(batch), training=False)[0])
        return lambda batch: jax.block_until_ready(function(trainable, others, batch))
    raise CostError(f"The target cpu needs the TensorFlow or JAX backend of Keras. Received: {backend}")


def _time(call: Callable[[], Any]) -> list[float]:
    """Seconds of each run, after warming up."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while len(times) < 5 or (len(times) < RUNS and sum(times) < SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _numpy_dtype(dtype: str) -> str:
    # NumPy has no bfloat16; its size is float16's.
    return "float16" if dtype == "bfloat16" else dtype
