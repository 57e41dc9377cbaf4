"""Runs in the process that trains on a TPU: opens the devices, then trains, as `device_process.py` asks.

It holds Keras on JAX or on TensorFlow, by KERAS_BACKEND. The trained weights are in the checkpoint.

Neither kind has run on a TPU yet: both have run on simulated devices, made of a host's processor.
"""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import keras
import numpy as np

from autoprune.data import load_data
from autoprune.errors import AutopruneError
from autoprune.models.config import import_modules, rebuild
from autoprune.models.files import load_model
from autoprune.settings import DataSettings, ModelSettings, TaskSettings, TrainingSettings
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.fit import Loop, carry_out
from autoprune.training.reparameterization import scales_from_json
from autoprune.training.step_check import split_batch
from autoprune.training.training import Training

Tell = Callable[[dict[str, Any]], None]


class Devices(Protocol):
    """What a training runs on.

    Attributes:
        count: devices that share a batch.
        kind: what the framework calls them.
    """

    count: int
    kind: str

    def scope(self) -> AbstractContextManager[Any]:
        """Within it a model's variables are made on all devices."""

    def loop(self, steps_per_execution: int) -> Loop:
        """Runs the steps, with batches of one shape."""


def train(request: dict[str, Any], devices: Devices, tell: Tell) -> dict[str, Any]:
    """Do the training that a request asks for; its record as plain data.

    Args:
        request: `config` (of the model to train, see `in_precision`), `model` (a `.keras` file with its weights),
            `modules` (that its layers come from), `model_settings`, `data`, `task` and `training` (settings),
            `steps_per_execution`, `epochs`, `seed`, `teacher` (a `.npy` file or None), `scales` (of `scales_to_json`,
            or None), `start` (as for `Training`), `checkpoint` (a file), `identity` and `every` (as for `Checkpoints`).
        devices: the devices that share the batches.
        tell: sends an event; called with the progress of the training.
    """
    settings = TrainingSettings(**request["training"])
    split_batch(settings.batch_size, devices.count)
    import_modules(request["modules"])  # which registers a user's own layers
    model_settings = ModelSettings(**request["model_settings"])
    data = load_data(DataSettings(**request["data"]), model_settings, TaskSettings(**request["task"]))
    teacher = request["teacher"] and np.load(request["teacher"], mmap_mode="r", allow_pickle=False)
    scales = request["scales"]
    checkpoints = Checkpoints(request["checkpoint"], request["identity"], request["every"])
    with devices.scope():
        model = rebuild(request["config"], request["modules"])
        model.set_weights(load_model(request["model"], model_settings).get_weights())
        training = Training(
            model=model,
            data=data,
            settings=settings,
            epochs=request["epochs"],
            learning_rate=None,
            seed=request["seed"],
            teacher=teacher,
            start=request["start"],
            scales=scales and scales_from_json(scales),
        )
        record = carry_out(
            training,
            lambda done, logs: tell({"done": done, "logs": {name: float(value) for name, value in logs.items()}}),
            checkpoints,
            devices.loop(request["steps_per_execution"]),
        )
    return dataclasses.asdict(record)


def make_handler() -> Callable[[dict[str, Any], Tell], dict[str, Any]]:
    """What answers requests in this process: first `open`, then `train`. What is raised on purpose is an answer.

    `open` is the number of devices to simulate on this host's processor; None opens the TPU.
    """
    devices: Devices | None = None

    def handle(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
        nonlocal devices
        try:
            if devices is None:
                if keras.backend.backend() == "jax":
                    from autoprune.training.jax_devices import JaxDevices

                    devices = JaxDevices()
                else:
                    from autoprune.training.tensorflow_devices import TensorFlowDevices

                    devices = TensorFlowDevices(request["open"])
                return {"result": {"count": devices.count, "kind": devices.kind}}
            return {"result": train(request["train"], devices, tell)}
        except AutopruneError as error:
            return {"error": str(error), "kind": type(error).__name__}

    return handle
