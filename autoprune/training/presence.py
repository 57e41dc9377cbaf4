"""What a runtime needs on this host, and what to say when it is not there."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras

from autoprune.cost.measured.attached_tpu import DEVICE_FILES, MARKS, find_attached_tpu
from autoprune.errors import DataError, TargetError
from autoprune.settings import FinetuneSettings
from autoprune.settings.runtime import ON_TPU


def check_runtime(
    settings: FinetuneSettings, folder: Path = Path("/dev"), environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse a runtime whose device is not here, before anything is computed.

    Args:
        settings: what the fine-tuning asks for.
        folder: where device files lie.
        environment: variables, some of which only a TPU VM sets.

    Raises:
        TargetError: saying what was looked for, and what can be done without it.
    """
    runtime = settings.runtime
    if runtime.name == "gpu" and not keras.distribution.list_devices("gpu"):
        raise TargetError(
            f"runtime=gpu needs a GPU that Keras on {keras.backend.backend()} can use, and it sees none. Use "
            "runtime=cpu."
        )
    needs_tpu = runtime.name in ON_TPU and runtime.rehearse is None and not settings.dry_run
    if needs_tpu and not find_attached_tpu(folder, environment):
        raise TargetError(
            f"runtime={runtime.name} needs a TPU attached to this host, and there is none: no device file "
            f"{' or '.join(f'{folder}/{pattern}' for pattern in DEVICE_FILES)}, and neither {' nor '.join(MARKS)} is "
            f"set. runtime={runtime.name} dry_run=true does everything but the steps, and says what a step takes on "
            "target=tpu_v5e slice=2x2, or another; runtime.rehearse=4 runs the steps on simulated devices of this "
            "host's processor; runtime=cpu trains here."
        )
    if needs_tpu and keras.backend.backend() == "jax" and environment.get("JAX_PLATFORMS") != "cpu":
        raise TargetError(
            f"runtime={runtime.name} trains in a process of its own, and Keras on JAX in this one would keep the TPU "
            "from it. Start it with JAX_PLATFORMS=cpu, or with KERAS_BACKEND=tensorflow."
        )


def check_images(settings: FinetuneSettings, images: int) -> None:
    """Refuse too few training images where all batches have one size, before a process is started for them.

    Args:
        settings: runtime and batch size.
        images: in the training split.

    Raises:
        DataError: they do not fill a batch.
    """
    batch_size = settings.training.batch_size
    if settings.runtime.name in ON_TPU and images < batch_size:
        raise DataError(
            f"There are {images} training images, fewer than a batch of {batch_size}. Set training.batch_size to "
            f"{images} or less."
        )
