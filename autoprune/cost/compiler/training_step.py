"""What a step of training costs on one chip or a slice, by the TPU compiler, without a TPU."""

import importlib.metadata
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import keras

from autoprune.cost.cache import CostCache, cache_key, open_cache
from autoprune.cost.chips import CHIPS, Chip
from autoprune.cost.compiler.cost_model import check_static
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.model import resolve_target
from autoprune.errors import CostError, DoesNotFitError, SettingsError, TargetError
from autoprune.models import keras_internals
from autoprune.models.config import layer_modules, without_training
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.models.keras_internals import check_model
from autoprune.records import Target, TrainingMemory, TrainingStepReport

# Raised when the meaning of a figure changes; part of every cache key.
STEP_VERSION = 1
_PROGRAM = "training step"
# What a step does and inference does not depend on: part of the key beside the architecture.
_TRAINED_WITH = ("regularizer", "constraint", "trainable")


class TrainingStepCosts:
    """Estimates training steps on one target: forward pass, loss, backward pass, the optimiser's update.

    The loss is cross-entropy as for autoprune's own training. Weights and slots are float32; with bfloat16 the
    computation is mixed. On several devices the batch is divided and every device holds the whole state.

    Args:
        target: chip generation, batch size on one JAX device, dtype; the name may be `auto`.
        cache: where compilations are remembered, or None.
        client: compiler processes to share.
        optimizer: a name that Keras knows, such as `adamw`, `sgd` or `adam`; with Keras's own hyperparameters.

    Raises:
        TargetError: the target is not a TPU, or cannot be used here.
        SettingsError: Keras knows no such optimiser.
    """

    def __init__(self, target: Target, cache: CostCache | None, client: CompilerPool, optimizer: str = "adamw") -> None:
        self.target = resolve_target(target)
        if self.target.name not in CHIPS:
            raise TargetError(
                f"A training step is estimated for a TPU by name, such as tpu_v5e. Received: target={self.target.name}"
            )
        try:
            keras.optimizers.get(optimizer)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"Keras knows no optimizer '{optimizer}'. It says: {str(error)[:300]}") from error
        self._optimizer = optimizer
        self._chip = CHIPS[self.target.name]
        self._cache = cache
        self._client = client
        self._versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu", "keras")}

    def submit(self, model: Any, devices: int = 1) -> Future[TrainingStepReport]:
        """Ask for the cost of a step of a model as it is now; it may change once this has returned.

        Args:
            model: a built Functional or Sequential classifier with one output and static input sizes.
            devices: JAX devices that share the step: 1, those of one chip, or as many as a slice has
                (`device_counts`).

        Returns:
            A future of a `TrainingStepReport`; its exception is a `CostError`. A step that does not fit in a device's
            memory has a report too, which says so.

        Raises:
            SettingsError: there is no slice of so many devices.
            CostError: the model has several outputs, or an input size that is unknown.
        """
        known = device_counts(self._chip.name)
        if devices not in known:
            raise SettingsError(
                f"There is no slice of {devices} devices of {self._chip.name}. Known: {', '.join(map(str, known))}; "
                f"a device is {self._chip.device}."
            )
        # The smallest slice, for what lies within one chip; else the slice of exactly so many devices.
        topology = self._chip.slices.get(devices, self._chip.topology)
        if len(model.outputs) != 1:
            raise CostError(
                f"A training step is estimated for classifiers with one output; '{model.name}' has "
                f"{len(model.outputs)}."
            )
        check_static(model)
        config = without_training(keras_internals.graph_config(model))
        conditions = self._conditions(devices, topology)
        key = cache_key(
            step=STEP_VERSION,
            model=architecture_fingerprint(model),
            trained_with=list(_training_config(config)),
            versions=self._versions,
            **conditions,
        )
        remembered = self._cache.get(key) if self._cache else None
        report: Future[TrainingStepReport] = Future()
        parameters = model.count_params()
        if remembered is not None:
            report.set_result(self._report(remembered, conditions, parameters))
            return report

        def finish(answer: Future[dict[str, Any]]) -> None:
            error = answer.exception()
            if error is not None and not isinstance(error, DoesNotFitError):
                report.set_exception(error)
                return
            figures = _figures(error or answer.result(), self._chip)
            if self._cache:
                self._cache.put(key, figures)
            report.set_result(self._report(figures, conditions, parameters))

        request = {"config": config, "modules": layer_modules(model), **conditions}
        self._client.submit(request).add_done_callback(finish)
        return report

    def close(self) -> None:
        """Close the cache."""
        if self._cache is not None:
            self._cache.close()

    def _conditions(self, devices: int, topology: str) -> dict[str, Any]:
        """What a result depends on besides the model and the versions."""
        return {
            "program": _PROGRAM,
            "batch_size": self.target.batch_size,
            "dtype": self.target.dtype,
            "optimizer": self._optimizer,
            "devices": devices,
            "topology": topology,
            "options": self._chip.options,
            "clock": self._chip.clock,
            "bandwidth": self._chip.bandwidth / self._chip.devices,
        }

    def _report(self, figures: dict[str, Any], conditions: dict[str, Any], parameters: int) -> TrainingStepReport:
        devices = conditions["devices"]
        memory = figures["memory"]
        return TrainingStepReport(
            target=self.target,
            devices=devices,
            chips=devices / self._chip.devices,
            global_batch_size=devices * self.target.batch_size,
            optimizer=self._optimizer,
            kind="compiler estimate",
            parameters=parameters,
            **{**figures, "memory": TrainingMemory(**memory) if memory else None},
            provenance={
                "route": "Keras on JAX, compile only",
                "step_version": STEP_VERSION,
                "topology": conditions["topology"],
                "device": self._chip.device,
                "clock_hz": self._chip.clock,
                "communication": "not in the latency: the compiler estimates no cycles for it",
                **self._versions,
            },
        )


def training_step_cost(
    model: Any,
    target: str = "tpu_v5e",
    batch_size: int = 128,
    dtype: str = "bfloat16",
    *,
    devices: int = 1,
    optimizer: str = "adamw",
    cache: str | Path | None = "auto",
    client: CompilerPool | None = None,
) -> TrainingStepReport:
    """What one step of training a model costs on a TPU: seconds, and the memory of a device.

    Args:
        model: a built Functional or Sequential classifier with one output and static input sizes.
        target: `tpu_v2`, `tpu_v3`, `tpu_v4`, `tpu_v5e`, `tpu_v5p`, `tpu_v6e` or `tpu7x`.
        batch_size: examples per step on one JAX device: a chip, or one of two cores on v2, v3 and tpu7x.
        dtype: `bfloat16` computes in mixed precision; `float32` does not. Weights and slots are float32.
        devices: JAX devices that share the step (`device_counts`), each with a batch of its own.
        optimizer: a name that Keras knows.
        cache: where compilations are remembered: `auto`, `ro`, `off` or a path, see `open_cost_model`.
        client: compiler processes to share; they stay open.

    Returns:
        The report; a step that does not fit has one too, with `fits` false.

    Raises:
        ModelError: it is no model, such as the path of one.
        TargetError: the target is not a TPU, or cannot be used here.
        SettingsError: there is no such optimiser, or no slice of so many devices.
        CostError: the compiler refuses the step for another reason than memory, in its own words.
    """
    check_model(model)
    with ExitStack() as stack:
        client = client or stack.enter_context(closing(CompilerPool(1)))
        costs = TrainingStepCosts(Target(target, batch_size, dtype), open_cache(cache), client, optimizer)
        return stack.enter_context(closing(costs)).submit(model, devices).result()


def device_counts(target: str) -> list[int]:
    """Numbers of JAX devices that a step can be estimated for: one, those of one chip, and those of slices.

    Args:
        target: `tpu_v2` and so on.
    """
    chip = CHIPS[target]
    return sorted({1, chip.devices, *chip.slices})


def _training_config(config: Any) -> Iterator[tuple[str, Any]]:
    """Every regulariser, constraint and `trainable` flag of a config, in order."""
    if isinstance(config, list):
        for item in config:
            yield from _training_config(item)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key.endswith(_TRAINED_WITH):
                yield key, value
            else:
                yield from _training_config(value)


def _figures(result: dict[str, Any] | DoesNotFitError, chip: Chip) -> dict[str, Any]:
    """The figures of a report, from a worker's answer or from the compiler's refusal of a step for its size."""
    if isinstance(result, DoesNotFitError):
        unknown = dict.fromkeys(("latency", "latency_sum", "memory", "communicated"))
        return {"fits": False, "needed": round(result.needed), "capacity": round(result.available), **unknown}
    memory = {"state": result["weights"], **{name: result[name] for name in ("activations", "code", "total")}}
    capacity = result["available"] or int(chip.hbm / chip.devices)
    return {
        "fits": result["total"] <= capacity,
        "latency": result["latency"],
        "latency_sum": result["latency_sum"],
        "memory": memory,
        "needed": result["total"],
        "capacity": capacity,
        "communicated": result["communicated"],
    }
