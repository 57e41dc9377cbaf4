"""Training in a process of its own, which has the devices; `device_worker.py` runs in it."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import errors
from autoprune.models import keras_internals
from autoprune.models.config import with_dtype, without_training
from autoprune.settings.runtime import RuntimeSettings
from autoprune.training.checkpoints import CheckpointError
from autoprune.training.course import OnProgress, TrainingError, TrainingRecord
from autoprune.workers import ChildProcess, DeadChildError

# What a TPU may take until it is open.
OPEN_SECONDS = 600
# What the process raises on purpose comes out here as what it is.
_RAISED: dict[str, type[errors.AutopruneError]] = {kind.__name__: kind for kind in (CheckpointError, TrainingError)}


def in_precision(model: Any, precision: str) -> dict[str, Any]:
    """The config of a model that computes in another precision. Its output stays float32, as losses want it.

    It is made here: to make a config, Keras on JAX imports TensorFlow.

    Args:
        model: built, with one output.
        precision: `mixed_bfloat16` or `float32`.
    """
    config = with_dtype(without_training(keras_internals.graph_config(model)), precision)
    last = keras_internals.maker_of(model.outputs[0])
    if not keras_internals.is_graph(last):
        for layer in config["config"]["layers"]:
            if layer["config"].get("name") == last.name:
                layer.update(with_dtype(layer, "float32"))
    return config


class TrainingProcessError(errors.AutopruneError):
    """The training process ended before it had finished."""


@dataclass(frozen=True)
class Devices:
    """What a training process runs on.

    Attributes:
        count: devices that share a batch.
        kind: what the framework calls them.
    """

    count: int
    kind: str


def train_elsewhere(
    request: Mapping[str, Any],
    runtime: RuntimeSettings,
    folder: Path,
    on_devices: Callable[[Devices], None],
    on_progress: OnProgress,
) -> TrainingRecord:
    """Train in a process of its own, on a TPU or on what rehearses one.

    Args:
        request: what `device_worker.train` takes.
        runtime: which devices.
        folder: what the process writes to standard error, and libtpu's logs, are kept there.
        on_devices: called before the first step with what it runs on; what it raises ends the process.
        on_progress: called with the epochs that are done and the metrics so far, as by `train`.

    Raises:
        TrainingProcessError: the process died, or could not open its devices in time; the message has its last words.
        AutopruneError: what it raised on purpose.
    """
    with ChildProcess(
        "autoprune.training.device_worker",
        name="training process",
        environment=functools.partial(environment_for, runtime),
        folder=folder,
    ) as process:

        def ask(step: Mapping[str, Any], task: str, timeout: float | None) -> dict[str, Any]:
            try:
                answer = process.ask(
                    step,
                    task=task,
                    timeout=timeout,
                    on_event=lambda event: on_progress(event["done"], event["logs"]),
                )
            except DeadChildError as error:
                raise TrainingProcessError(str(error)) from None
            if "error" in answer:
                raise _RAISED.get(answer["kind"], getattr(errors, answer["kind"], errors.AutopruneError))(
                    answer["error"]
                )
            result: dict[str, Any] = answer["result"]
            return result

        on_devices(Devices(**ask({"open": runtime.rehearse}, "open its devices", OPEN_SECONDS)))
        # A step may take long, and its compilation longer: only Ctrl-C ends the wait.
        record = ask({"train": dict(request)}, "finish the training", None)
        process.stop(grace=30)  # it lets go of the devices in order
        curves = {name: tuple(record[name]) for name in ("losses", "accuracies")}
        return TrainingRecord(**{**record, **curves})


def environment_for(runtime: RuntimeSettings, scratch: str) -> dict[str, str]:
    """Environment of a training process.

    Args:
        runtime: `tpu` is Keras on JAX, `tpu_tf` on TensorFlow.
        scratch: folder for libtpu's logs.
    """
    # With the variable left out, libtpu keeps two processes from using one TPU.
    inherited = {name: value for name, value in os.environ.items() if name != "ALLOW_MULTIPLE_LIBTPU_LOAD"}
    environment = {
        **inherited,
        "KERAS_BACKEND": "jax" if runtime.name == "tpu" else "tensorflow",
        "TPU_LOG_DIR": scratch,
    }
    if runtime.name == "tpu":
        environment["JAX_PLATFORMS"] = "tpu,cpu" if runtime.rehearse is None else "cpu"
    if runtime.rehearse is not None:
        flags = [flag for flag in inherited.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
        flags.append(f"--xla_force_host_platform_device_count={runtime.rehearse}")
        environment["XLA_FLAGS"] = " ".join(flags)
    return environment
