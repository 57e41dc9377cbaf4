"""Will a step of a fine-tuning fit on the TPU, and what will it take? Asked of the compiler before the first step.

What is compiled is the step of `cost.compiler.training_step`: cross-entropy and AdamW. A teacher's probabilities
and features, an array for each image, and an output layer that stays in float32 are not in it.
"""

import logging
from contextlib import closing
from typing import Any

from autoprune.cost.cache import open_cache
from autoprune.cost.chips import CHIPS, Chip
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.compiler.training_step import TrainingStepCosts, device_counts
from autoprune.cost.model import compiler_available, resolve_target
from autoprune.errors import DoesNotFitError, SettingsError, TargetError
from autoprune.records import Target, TrainingStepReport
from autoprune.settings import FinetuneSettings

logger = logging.getLogger(__name__)


def chip_for(settings: FinetuneSettings, attached: str | None = None) -> Chip:
    """The generation that a step is compiled for: the attached one, or the target.

    Args:
        settings: the target, `auto` for the default generation.
        attached: name of the attached chip, such as `tpu_v5e`, if there is one.

    Raises:
        TargetError: the target is none of the generations, or the compiler is not installed.
    """
    name = attached or settings.target.name
    if name == "auto":
        name = resolve_target(Target("auto")).name
    if name not in CHIPS:
        raise TargetError(
            f"A training step is compiled for a TPU by name, such as target=tpu_v5e. Received: target={name}"
        )
    return CHIPS[name]


def devices_of(name: str, slice_: str | None) -> int:
    """JAX devices of a slice by its shape, such as `2x2`; of one chip for None.

    Args:
        name: of the generation, such as `tpu_v5e`.
        slice_: the shape.

    Raises:
        SettingsError: the compiler describes no such slice.
    """
    chip = CHIPS[name]
    if slice_ is None or set(slice_.split("x")) == {"1"}:
        return chip.devices
    shapes = {name.split(":")[1]: count for count, name in chip.slices.items()}
    found = shapes.get(slice_) or shapes.get(f"{slice_}x1")
    if found is None:
        raise SettingsError(f"There is no slice {slice_} of {chip.name}. Known: 1x1, {', '.join(shapes)}.")
    return found


def split_batch(batch_size: int, devices: int) -> int:
    """Images of a batch on each device.

    Raises:
        SettingsError: they cannot be divided evenly.
    """
    if batch_size % devices:
        near = max(batch_size // devices, 1) * devices
        raise SettingsError(
            f"training.batch_size must be a multiple of the {devices} devices that share it, such as {near} or "
            f"{near + devices}. Received: {batch_size}"
        )
    return batch_size // devices


def step_report(model: Any, settings: FinetuneSettings, chip: Chip, devices: int) -> TrainingStepReport:
    """What a step takes, by the compiler; one that does not fit has a report too.

    A number of devices that is no slice the compiler knows is asked for as one device: its memory is nearly the same.

    Args:
        model: to be trained.
        settings: batch size, precision, cache.
        chip: the generation.
        devices: JAX devices that share a batch.

    Raises:
        SettingsError: the batch cannot be divided among the devices.
        CostError: the compiler refuses the step for another reason than memory.
    """
    per_device = split_batch(settings.training.batch_size, devices)
    dtype = "float32" if settings.runtime.precision == "float32" else "bfloat16"
    asked = devices if devices in device_counts(chip.name) else 1
    with closing(CompilerPool(1)) as pool:
        target = Target(chip.name, per_device, dtype)
        with closing(TrainingStepCosts(target, open_cache(settings.target.cache), pool)) as costs:
            return costs.submit(model, asked).result()


def check_step(model: Any, settings: FinetuneSettings, attached: str | None, devices: int) -> TrainingStepReport | None:
    """Compile a step before the first one is taken; None where the compiler cannot be asked.

    Args:
        model: to be trained.
        settings: what the fine-tuning asks for.
        attached: name of the attached chip; None for a rehearsal, which is checked for the target.
        devices: number of devices that share a batch.

    Raises:
        DoesNotFitError: it would not fit in a device's memory.
        CostError: the compiler refuses the step.
    """
    if not compiler_available():
        logger.warning("the step is not checked before it runs: the TPU compiler is not installed")
        return None
    report = step_report(model, settings, chip_for(settings, attached), devices)
    if not report.fits:
        raise does_not_fit(report)
    return report


def does_not_fit(report: TrainingStepReport) -> DoesNotFitError:
    """The error that a report of a step that is too large stands for."""
    return DoesNotFitError(
        f"A training step does not fit: {report.target.batch_size} images on each device need "
        f"{report.needed / 2**30:.2f} GiB of the {report.capacity / 2**30:.2f} GiB that a program may take on a "
        f"{report.target.name}. Make training.batch_size smaller, or share it among more chips.",
        report.needed,
        report.capacity,
    )
