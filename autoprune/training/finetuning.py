"""A fine-tuning from its first step to the tested model, on whatever it runs."""

import contextlib
import dataclasses
import logging
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.cost import open_cost_model
from autoprune.cost.measured.attached_tpu import CHIP_OF_KIND
from autoprune.data import Dataset
from autoprune.errors import SettingsError
from autoprune.evaluation.accuracy import accuracy
from autoprune.models.config import layer_modules
from autoprune.models.fingerprint import weights_fingerprint
from autoprune.planning.plan_file import load_plan
from autoprune.records import CostReport, Target
from autoprune.records.measure import ACCURACY, Measure
from autoprune.records.plain import read_json
from autoprune.settings import FinetuneSettings
from autoprune.settings.runtime import ON_TPU
from autoprune.training.base_model import settle
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.course import OnProgress, Position, TrainingError, TrainingRecord
from autoprune.training.device_process import Devices, in_precision, train_elsewhere
from autoprune.training.finishing import worse
from autoprune.training.fit import carry_out
from autoprune.training.reparameterization import scales_from_json
from autoprune.training.starting import StartFiles
from autoprune.training.step_check import check_step, devices_of
from autoprune.training.training import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A model that has been fine-tuned.

    Attributes:
        model: with the weights of the best epoch, or those that it began with where no epoch was as good.
        record: how the training went.
        before: accuracy on the reward split before the first step.
        after: accuracy on the reward split of the result.
        test_accuracy: the result's accuracy on the test split, taken once.
        cost: of the result on the target, if asked for.
        diverged: why the training stopped, when its loss became no number; empty otherwise.
        dropped: branches that its plan is without, if there is a plan.
        measure: how the accuracies are told.
    """

    model: Any
    record: TrainingRecord
    before: float
    after: float
    test_accuracy: float
    cost: CostReport | None
    diverged: str
    dropped: tuple[str, ...] = ()
    measure: Measure = ACCURACY


def on_device(settings: FinetuneSettings) -> AbstractContextManager[Any]:
    """Within it this process computes on the device of the runtime."""
    name = settings.runtime.name
    return contextlib.nullcontext() if name in ON_TPU else keras.device(f"{name}:0")


def fine_tune(
    model: Any, data: Dataset, settings: FinetuneSettings, files: StartFiles, on_progress: OnProgress
) -> FineTuned:
    """Fine-tune a model in place, or go on with that; estimate its batch-norm statistics anew; test it once.

    When the loss becomes no number, the weights are those of the best epoch before, with a warning.

    Args:
        model: the model that training starts from, as `started` gives it.
        data: trained, judged and tested on its splits.
        settings: recipe and runtime.
        files: what it begins with; checkpoints are kept beside them.
        on_progress: called with epochs done and logs, see `train`.

    Raises:
        AutopruneError: as the runtime raises it; the message says what to do.
    """
    batch_size = settings.evaluation.batch_size
    before = accuracy(model, data.reward, batch_size)
    checkpoints = Checkpoints(
        files.folder / "checkpoint.safetensors", _identity(model, data, settings), settings.checkpoint_every
    )
    diverged, epochs = "", settings.training.after_pruning
    try:
        if settings.runtime.name in ON_TPU:
            record = _train_on_tpu(model, settings, files, checkpoints, before, on_progress)
        else:
            training = Training(
                model=model,
                data=data,
                settings=settings.training,
                epochs=epochs,
                learning_rate=None,
                seed=settings.seed,
                teacher=np.load(files.teacher, mmap_mode="r", allow_pickle=False) if files.teacher.exists() else None,
                scales=scales_from_json(read_json(files.scales)) if files.scales.exists() else None,
                start=before,
            )
            record = carry_out(training, on_progress, checkpoints)
    except TrainingError as error:
        diverged = str(error)
        logger.warning("the fine-tuning has been stopped. %s", diverged)
        record = _restore_best(model, checkpoints)
    if record.only_worse:
        logger.warning(worse(record, data.task.measure))
    if epochs > 0:
        settle(model, data, settings)
    cost = None
    if settings.cost:
        target = settings.target
        described = Target(target.name, target.batch_size, target.dtype)
        with closing(open_cost_model(described, cache=target.cache, route=target.route)) as cost_model:
            cost = cost_model.submit(model).result()
    return FineTuned(
        model=model,
        record=record,
        before=before,
        after=accuracy(model, data.reward, batch_size),
        test_accuracy=accuracy(model, data.test, batch_size),
        cost=cost,
        diverged=diverged,
        dropped=load_plan(files.plan).dropped if files.plan.exists() else (),
        measure=data.task.measure,
    )


def _train_on_tpu(
    model: Any,
    settings: FinetuneSettings,
    files: StartFiles,
    checkpoints: Checkpoints,
    start: float,
    on_progress: OnProgress,
) -> TrainingRecord:
    """Train in a process of its own, once it is known that a step fits; the model gets the weights in the end."""
    if settings.training.after_pruning == 0:
        return TrainingRecord(0, (), (), 0)
    runtime = settings.runtime
    precision = runtime.precision or "float32"  # on a TPU there is always one
    tasks = (settings.task.name, *(settings.task.outputs or {}).values())
    if precision != "float32" and "density" in tasks:
        logger.warning("densities are trained in float32: in half precision the sums of their logarithms mean nothing")
        precision = "float32"
    request = {
        "config": in_precision(model, precision),
        "model": str(files.model),
        "model_settings": dataclasses.asdict(settings.model),
        "data": dataclasses.asdict(settings.data),
        "task": dataclasses.asdict(settings.task),
        "training": dataclasses.asdict(settings.training),
        "steps_per_execution": runtime.steps_per_execution,
        "epochs": settings.training.after_pruning,
        "seed": settings.seed,
        "start": start,
        "teacher": str(files.teacher) if files.teacher.exists() else None,
        "scales": read_json(files.scales) if files.scales.exists() else None,
        "modules": layer_modules(model),
        "checkpoint": str(checkpoints.path),
        "identity": checkpoints.identity,
        "every": checkpoints.every,
    }

    def on_devices(devices: Devices) -> None:
        logger.info("the training process has %d devices (%s)", devices.count, devices.kind)
        chip = CHIP_OF_KIND.get(devices.kind)
        if settings.slice is not None and chip is not None and devices_of(chip, settings.slice) != devices.count:
            raise SettingsError(
                f"slice={settings.slice} is not what is attached to this host: {devices.count} devices of {chip}. "
                "Leave slice out: all chips of this host are used."
            )
        check_step(model, settings, chip, devices.count)

    record = train_elsewhere(request, runtime, files.folder / "training_process", on_devices, on_progress)
    _restore_best(model, checkpoints)
    return record


def _restore_best(model: Any, checkpoints: Checkpoints) -> TrainingRecord:
    """Give the model the best weights that are kept, if there are any, and tell how the training went until then."""
    newest = checkpoints.newest()
    if newest is None:
        return TrainingRecord(0, (), (), 0)
    model.set_weights(newest.best)
    return Position(**newest.position).record()


def _identity(model: Any, data: Dataset, settings: FinetuneSettings) -> dict[str, Any]:
    """What the steps depend on: a checkpoint of others is refused."""
    training = dataclasses.asdict(settings.training)
    del training["removal"]  # which is over
    # What came later counts where it is used only: checkpoints that know nothing of it stay known.
    for name, unused in (("feature_distillation", 0), ("optimizer", "adamw"), ("hyper_search_epochs", 0)):
        if training[name] == unused:
            del training[name]
    return {
        **({} if data.task.classifies else {"task": data.task.describe()}),
        "model": weights_fingerprint(model),
        "data": data.fingerprint(),
        "training": training,
        "runtime": dataclasses.asdict(settings.runtime),
        "seed": settings.seed,
    }
