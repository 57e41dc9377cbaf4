"""Cost by the TPU compiler, without a TPU: kind `compiler estimate`."""

import importlib.metadata
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import keras

from autoprune.cost.cache import CostCache, cache_key
from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.flops import flops_per_layer
from autoprune.errors import CostError, RouteError, future_of
from autoprune.models import keras_internals
from autoprune.models.config import layer_modules, without_training
from autoprune.models.fingerprint import inference_fingerprint
from autoprune.records import CostReport, Memory, Target

logger = logging.getLogger(__name__)

# Raised when the meaning of a figure changes; part of every cache key.
ESTIMATE_VERSION = 2
# Raised when a key stands for something else than before: entries of older keys are no longer found.
KEY_VERSION = 2
ROUTES = {
    "keras": "Keras on JAX, compile only",
    "tensorflow": "TensorFlow through StableHLO, compile only",
}


@dataclass(frozen=True)
class _Counts:
    """What is counted of a model when it is submitted; it may have changed when the answer comes.

    Attributes:
        parameters: number of values of all weights.
        flops: operations per image, by path of every layer that has some.
        paths: paths of all operations, in the order in which the worker numbers them.
    """

    parameters: int
    flops: Mapping[str, int]
    paths: tuple[str, ...]

    @classmethod
    def of(cls, model: Any) -> "_Counts":
        """Count a model."""
        return cls(model.count_params(), flops_per_layer(model), tuple(keras_internals.operations_by_path(model)))


class CompilerCostModel:
    """Compiles whole models for a described chip and reads the compiler's own estimates.

    Args:
        target: chip generation, batch size and dtype.
        cache: where compilations are remembered, or None.
        client: compiler processes to share, or None for some of its own.
        route: `keras` rebuilds models on JAX in the compiler's process; `tensorflow` traces them here, for layers that
            exist in TensorFlow only; `auto` is `keras` unless the first model cannot go that way. Figures of two routes
            do not compare: whichever the first model takes, all take.
        processes: how many compiler processes of its own it may have; None chooses by cores and memory.

    Attributes:
        route: the route of all models; None until the first one has shown it.
    """

    def __init__(
        self,
        target: Target,
        cache: CostCache | None,
        client: CompilerPool | None = None,
        route: str = "auto",
        processes: int | None = None,
    ) -> None:
        self.target = target
        self.route = None if route == "auto" else route
        self._chip = CHIPS[target.name]
        self._cache = cache
        self._client = client
        self._owns_client = client is None
        self._processes = processes
        self._versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "keras")}

    def submit(self, model: Any) -> Future[CostReport]:
        """Ask for the cost of a model as it is now; it may change once this has returned.

        The first model of route `auto` is waited for.

        Returns:
            A future of a `CostReport`; its exception is a `CostError`: a `DoesNotFitError` when the device's memory is
            too small, a `RouteError` when the model cannot be brought to the compiler.

        Raises:
            CostError: an input size of the model is unknown.
        """
        check_static(model)
        if self.route is not None:
            return self._ask(model, self.route)
        answer = self._ask(model, "keras")
        if not isinstance(answer.exception(), RouteError) or keras.backend.backend() != "tensorflow":
            self.route = "keras"
            return answer
        other = self._ask(model, "tensorflow")
        if isinstance(other.exception(), RouteError):
            return future_of(RouteError(f"{answer.exception()} By another route: {other.exception()}"))
        logger.info("the compiler is given what TensorFlow traces: %s", answer.exception())
        self.route = "tensorflow"
        return other

    def _ask(self, model: Any, route: str) -> Future[CostReport]:
        """A future of the report, from the cache or the compiler."""
        counts = _Counts.of(model)
        key = self._key(model, route) if self._cache else ""
        report: Future[CostReport] = Future()
        known = self._cache.get(key) if self._cache else None
        if known is not None:
            report.set_result(self._report(known, counts, route))
            return report

        def finish(answer: Future[dict[str, Any]]) -> None:
            error = answer.exception()
            if error is not None:
                report.set_exception(error)
                return
            if self._cache:
                self._cache.put(key, answer.result())
            report.set_result(self._report(answer.result(), counts, route))

        if self._client is None:
            self._client = CompilerPool(self._processes, accelerator_type=self._chip.accelerator_type)
        config, modules = without_training(keras_internals.graph_config(model)), layer_modules(model)
        request = {"program": "inference", "config": config, "modules": modules}
        try:
            if route == "tensorflow":
                # TensorFlow is imported where it is needed only: models may be costed under Keras on JAX.
                from autoprune.cost.compiler.tensorflow_program import export_forward_pass

                request = export_forward_pass(config, modules, self.target.batch_size, self.target.dtype)
            self._client.submit({**request, **self._conditions()}).add_done_callback(finish)
        except RouteError as error:
            return future_of(error)
        return report

    def close(self) -> None:
        """End the compiler processes of its own, and close the cache."""
        if self._client is not None and self._owns_client:
            self._client.close()
            self._client = None
        if self._cache is not None:
            self._cache.close()

    def _key(self, model: Any, route: str) -> str:
        return cache_key(
            key=KEY_VERSION,
            estimate=ESTIMATE_VERSION,
            route=ROUTES[route],
            model=inference_fingerprint(model),
            versions={**self._versions, **self._versions_of(route)},
            **self._conditions(),
        )

    def _versions_of(self, route: str) -> dict[str, str]:
        """What the figures depend on besides, on this route."""
        return {"tensorflow": importlib.metadata.version("tensorflow")} if route == "tensorflow" else {}

    def _conditions(self) -> dict[str, Any]:
        """What a result depends on besides the model and the versions."""
        return {
            "batch_size": self.target.batch_size,
            "dtype": self.target.dtype,
            "topology": self._chip.topology,
            "options": self._chip.options,
            "clock": self._chip.clock,
            "bandwidth": self._chip.bandwidth / self._chip.devices,
        }

    def _report(self, result: dict[str, Any], counts: _Counts, route: str) -> CostReport:
        flops = self.target.batch_size * sum(counts.flops.values())
        # A kernel's time is shared by the layers with FLOPs in it, in proportion to these.
        times: dict[str, float] = {}
        for positions, delay in result["kernels"]:
            within = [path for path in (counts.paths[position] for position in positions) if counts.flops.get(path)]
            together = sum(counts.flops[path] for path in within)
            for path in within:
                times[path] = times.get(path, 0.0) + delay * counts.flops[path] / together
        return CostReport(
            target=self.target,
            kind="compiler estimate",
            latency=result["latency"],
            latency_sum=result["latency_sum"],
            latency_iqr=None,
            memory=Memory(result["weights"], result["activations"], result["code"], result["total"]),
            flops=flops,
            parameters=counts.parameters,
            traffic=result["traffic"],
            utilisation=self._chip.utilisation(flops, result["latency"]),
            bound=self._chip.bound(flops, result["traffic"]),
            layers=times,
            provenance={
                "route": ROUTES[route],
                "estimate_version": ESTIMATE_VERSION,
                "topology": self._chip.topology,
                "device": self._chip.device,
                "clock_hz": self._chip.clock,
                **self._versions,
                **self._versions_of(route),
            },
        )


def check_static(model: Any) -> None:
    """Raise a `CostError` when an input size of a model, besides the batch, is unknown."""
    for tensor in model.inputs:
        if any(size is None for size in tensor.shape[1:]):
            raise CostError(
                f"The cost of '{model.name}' depends on its input size, which is not fixed: {tuple(tensor.shape)}. "
                "Build the model with a static input size, such as keras.Input((32, 32, 3))."
            )
