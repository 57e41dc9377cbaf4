"""The process that trains on a TPU: reads one request from standard input, writes what happens to standard output.

One line of JSON each: it says what devices it has, waits for `begin`, tells its progress, and ends with the record of
the training or an error. The weights are in the checkpoint. It holds Keras on JAX or on TensorFlow, by KERAS_BACKEND;
`device_process.py` is the other end. Started by `python -m autoprune.training.device_worker`.

Neither kind has run on a TPU yet: both have run on simulated devices made of processors.
"""

import dataclasses
import json
import os
import sys
import threading
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO

import keras
import numpy as np

from autoprune.cost.rebuilding import rebuilt
from autoprune.data import load_data
from autoprune.errors import AutopruneError
from autoprune.models.files import load_model
from autoprune.models.own_modules import import_modules
from autoprune.settings import DataSettings, ModelSettings, TrainingSettings
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.fit import Loop, carry_out
from autoprune.training.step_check import shared_batch
from autoprune.training.task import Task


class Devices(Protocol):
    """What a training runs on.

    Attributes:
        count: devices that share a batch.
        kind: what the framework calls them.
    """

    count: int
    kind: str

    def scope(self) -> AbstractContextManager:
        """Within it a model's variables are made on all devices."""

    def loop(self, steps_per_execution: int) -> Loop:
        """Runs the steps, with batches of one shape."""


def opened(request: dict[str, Any]) -> Devices:
    """The devices of this process's backend.

    Args:
        request: `rehearse`: so many simulated devices, or None for a TPU.
    """
    if keras.backend.backend() == "jax":
        from autoprune.training.jax_devices import JaxDevices

        return JaxDevices()
    from autoprune.training.tensorflow_devices import TensorFlowDevices

    return TensorFlowDevices(request["rehearse"])


def trained(request: dict[str, Any], devices: Devices, tell: Any) -> dict[str, Any]:
    """Do the training that a request asks for; its record as plain data.

    Args:
        request: `config` (of the model to train, see `in_precision`), `model` (a `.keras` file with its weights),
            `modules` (that its layers come from), `model_settings`, `data` and `training` (settings),
            `steps_per_execution`, `epochs`, `seed`, `teacher` (a `.npy` file or None), `start` (as for `Task`),
            `checkpoint` (a file), `identity` and `every` (as for `Checkpoints`).
        devices: that share the batches.
        tell: called with what shall be heard of.
    """
    settings = TrainingSettings(**request["training"])
    shared_batch(settings.batch_size, devices.count)
    import_modules(request["modules"])  # which registers a user's own layers
    model_settings = ModelSettings(**request["model_settings"])
    data = load_data(DataSettings(**request["data"]), model_settings)
    teacher = request["teacher"] and np.load(request["teacher"], mmap_mode="r", allow_pickle=False)
    checkpoints = Checkpoints(request["checkpoint"], request["identity"], request["every"])
    with devices.scope():
        model = rebuilt(request["config"], request["modules"])
        model.set_weights(load_model(request["model"], model_settings).get_weights())
        task = Task(model, data, settings, request["epochs"], None, request["seed"], teacher, request["start"])
        record = carry_out(
            task,
            lambda done, logs: tell({"done": done, "logs": {name: float(value) for name, value in logs.items()}}),
            checkpoints,
            devices.loop(request["steps_per_execution"]),
        )
    return dataclasses.asdict(record)


def main() -> None:
    """Answer one request, then end; end at once when the asker is gone."""
    # JAX and TensorFlow print to standard output: keep a private copy of it and send theirs to the log.
    channel: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    request = json.loads(sys.stdin.readline())
    try:
        devices = opened(request)
        tell({"devices": {"count": devices.count, "kind": devices.kind}})
        if sys.stdin.readline():
            threading.Thread(target=end_with_the_asker, daemon=True).start()
            tell({"record": trained(request, devices, tell)})
    except AutopruneError as error:
        tell({"error": str(error), "kind": type(error).__name__})


def end_with_the_asker() -> None:
    """Body of a thread: nobody waits any more when standard input ends."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
