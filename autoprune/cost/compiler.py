"""Cost by the TPU compiler, without a TPU: kind `compiler estimate`."""

import importlib.metadata
from concurrent.futures import Future
from typing import Any

import keras

from autoprune.cost.cache import CostCache, cache_key
from autoprune.cost.chips import CHIPS
from autoprune.cost.client import CompilerClient
from autoprune.cost.flops import count_flops
from autoprune.errors import CostError
from autoprune.models import keras_internals
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.records import CostReport, Memory, Target

# Raised when the meaning of a figure changes; part of every cache key.
ESTIMATE_VERSION = 2
ROUTE = "Keras on JAX, compile only"


class CompilerCostModel:
    """Compiles whole models for a described chip and reads the compiler's own estimates.

    Args:
        target: chip generation, batch size and dtype.
        cache: where compilations are remembered, or None.
        client: a running compiler process to share, or None for one of its own.
    """

    def __init__(self, target: Target, cache: CostCache | None, client: CompilerClient | None = None) -> None:
        self.target = target
        self._chip = CHIPS[target.name]
        self._cache = cache
        self._client = client
        self._owns_client = client is None
        self._versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "keras")}

    def submit(self, model: Any) -> Future:
        """Ask for the cost of a model as it is now; it may change once this has returned.

        Returns:
            A future of a `CostReport`; its exception is a `CostError`.

        Raises:
            CostError: an input size of the model is unknown.
        """
        _check_static(model)
        flops, parameters = count_flops(model, self.target.batch_size), model.count_params()
        key = self._key(model)
        report: Future = Future()
        known = self._cache.get(key) if self._cache else None
        if known is not None:
            report.set_result(self._report(known, flops, parameters))
            return report

        def finish(answer: Future) -> None:
            error = answer.exception()
            if error is not None:
                report.set_exception(error)
                return
            if self._cache:
                self._cache.put(key, answer.result())
            report.set_result(self._report(answer.result(), flops, parameters))

        self._running_client().submit(self._request(model)).add_done_callback(finish)
        return report

    def close(self) -> None:
        """End the compiler process."""
        if self._client is not None and self._owns_client:
            self._client.close()
            self._client = None

    def _running_client(self) -> CompilerClient:
        if self._client is None:
            self._client = CompilerClient(self._chip.accelerator_type)
        return self._client

    def _key(self, model: Any) -> str:
        return cache_key(
            estimate=ESTIMATE_VERSION,
            route=ROUTE,
            model=architecture_fingerprint(model),
            versions=self._versions,
            **self._conditions(),
        )

    def _request(self, model: Any) -> dict[str, Any]:
        return {
            "program": "inference",
            "config": _without_training(keras.saving.serialize_keras_object(model)),
            "modules": _modules(model),
            **self._conditions(),
        }

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

    def _report(self, result: dict[str, Any], flops: int, parameters: int) -> CostReport:
        return CostReport(
            target=self.target,
            kind="compiler estimate",
            latency=result["latency"],
            latency_sum=result["latency_sum"],
            latency_iqr=None,
            memory=Memory(result["weights"], result["activations"], result["code"], result["total"]),
            flops=flops,
            parameters=parameters,
            traffic=result["traffic"],
            utilisation=self._chip.utilisation(flops, result["latency"]),
            bound=self._chip.bound(flops, result["traffic"]),
            provenance={
                "route": ROUTE,
                "estimate_version": ESTIMATE_VERSION,
                "topology": self._chip.topology,
                "device": self._chip.device,
                "clock_hz": self._chip.clock,
                **self._versions,
            },
        )


def _modules(model: Any) -> list[str]:
    """Modules, besides Keras, in which the classes of the model's layers were defined."""
    names = {type(layer).__module__ for layer in keras_internals.layers_by_path(model).values()}
    return sorted(name for name in names if name.split(".")[0] not in ("keras", "__main__"))


def _without_training(config: Any) -> Any:
    """The config of a model without optimiser and losses, nested models included: only inference is compiled."""
    if isinstance(config, list):
        return [_without_training(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: _without_training(value) for key, value in config.items() if key != "compile_config"}


def _check_static(model: Any) -> None:
    for tensor in model.inputs:
        if any(size is None for size in tensor.shape[1:]):
            raise CostError(
                f"The cost of '{model.name}' depends on its input size, which is not fixed: {tuple(tensor.shape)}. "
                "Build the model with a static input size, such as keras.Input((32, 32, 3))."
            )
