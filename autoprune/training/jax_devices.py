"""All JAX devices of this process, with batches divided among them by Keras."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import keras

from autoprune.training.fit import FitLoop, Loop


class JaxDevices:
    """The TPU chips of this host, or of a rehearsal the devices that XLA_FLAGS makes of its processor.

    Weights are on every device; batch normalisation takes its statistics from the whole batch. Of a slice that spans
    several hosts only one host's chips are used.

    Attributes:
        count: devices that share a batch.
        kind: what JAX calls them.
    """

    def __init__(self) -> None:
        devices = jax.local_devices()
        self.count = len(devices)
        self.kind = devices[0].device_kind
        # Before anything of Keras's is made: what is made earlier lies on one device.
        names = [f"{device.platform}:{device.id}" for device in devices]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=names, auto_shard_dataset=False))

    def scope(self) -> AbstractContextManager[Any]:
        """Nothing to do: the distribution holds for the process."""
        return nullcontext()

    def loop(self, steps_per_execution: int) -> Loop:
        """Keras's `fit`, compiled by XLA, on batches of one shape."""
        return FitLoop(whole=True, steps_per_execution=steps_per_execution)
