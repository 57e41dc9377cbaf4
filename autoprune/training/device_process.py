"""The end of the training process that stays here: starts it, lets it begin, hears of its progress, ends it.

The process is ended when this one lets go of it, also when this one is killed: its standard input closes then.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune import errors
from autoprune.cost.compiler import without_training
from autoprune.cost.process import import_path, last_words, spawned
from autoprune.cost.rebuilding import with_dtype
from autoprune.models import keras_internals
from autoprune.settings.runtime import RuntimeSettings
from autoprune.training.checkpoints import CheckpointError
from autoprune.training.course import OnProgress, TrainingError, TrainingRecord

_WORKER = "autoprune.training.device_worker"
# What the process raises on purpose comes out here as what it is.
_RAISED = {kind.__name__: kind for kind in (CheckpointError, TrainingError)}


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
        request: as `device_worker` takes it.
        runtime: which devices.
        folder: what the process writes to standard error, and libtpu's logs, are kept there.
        on_devices: called before the first step with what it runs on; what it raises ends the process.
        on_progress: as for `train`.

    Raises:
        TrainingProcessError: the process died; the message has its last words.
        AutopruneError: what it raised on purpose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with spawned(_WORKER, environment_for(runtime, str(folder)), str(folder)) as process:
        try:
            _send(process, json.dumps(dict(request)))
            on_devices(Devices(**_answer(process, folder)["devices"]))
            _send(process, "begin")
            while True:
                answer = _answer(process, folder)
                if "record" in answer:
                    return _record(answer["record"])
                on_progress(answer["done"], answer["logs"])
        finally:
            # Also after Ctrl-C: the devices are free again when this function is left.
            process.kill()
            process.wait()


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
        "PYTHONPATH": import_path(),
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


def _send(process: subprocess.Popen, line: str) -> None:
    with contextlib.suppress(OSError):  # it is dead: the answer that does not come says so
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen, folder: Path) -> dict[str, Any]:
    try:
        answer = json.loads(process.stdout.readline())
    except ValueError:
        raise TrainingProcessError(
            f"The training process died. Its last words: {last_words(process, str(folder))} All it wrote is in "
            f"{folder / 'stderr.txt'}"
        ) from None
    if "error" in answer:
        kind = _RAISED.get(answer["kind"]) or getattr(errors, answer["kind"], errors.AutopruneError)
        raise kind(answer["error"])
    return answer


def _record(data: Mapping[str, Any]) -> TrainingRecord:
    return TrainingRecord(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
