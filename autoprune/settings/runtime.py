"""What the steps of a fine-tuning run on: the config group `runtime`."""

from dataclasses import dataclass

from autoprune.settings.checking import check

RUNTIMES = ("cpu", "gpu", "tpu", "tpu_tf")
ON_TPU = ("tpu", "tpu_tf")


@dataclass(frozen=True)
class RuntimeSettings:
    """What the steps run on.

    Attributes:
        name: `cpu` and `gpu`, the first one, run Keras's `fit` in this process; `tpu` runs it in a process of its own,
            on JAX, with the batch divided among all chips of this host (`keras.distribution.DataParallel`); `tpu_tf`,
            for hosts whose TPU is served by TensorFlow, a loop under `TPUStrategy`, in a process of its own too.
        precision: on a TPU `mixed_bfloat16`, which computes in bfloat16 and keeps weights in float32, or `float32`;
            null elsewhere: the model computes as it was saved.
        steps_per_execution (steps): between two looks at the loss, and so between two signs of progress.
        rehearse (devices): for `tpu` and `tpu_tf`, the number of simulated devices, made of this host's processor, to
            rehearse on; null needs a TPU.
    """

    name: str = "cpu"
    precision: str | None = None
    steps_per_execution: int = 1
    rehearse: int | None = None

    def __post_init__(self) -> None:
        check(self.name in RUNTIMES, "runtime.name", f"one of {', '.join(RUNTIMES)}", self.name)
        on_tpu = self.name in ON_TPU
        known = ("mixed_bfloat16", "float32") if on_tpu else (None,)
        wanted = "mixed_bfloat16 or float32" if on_tpu else f"null with runtime={self.name}"
        check(self.precision in known, "runtime.precision", wanted, self.precision)
        check(self.steps_per_execution >= 1, "runtime.steps_per_execution", "1 or more", self.steps_per_execution)
        wanted = "null, or with runtime=tpu and runtime=tpu_tf 1 or more devices"
        fits = self.rehearse is None or (on_tpu and self.rehearse >= 1)
        check(fits, "runtime.rehearse", wanted, self.rehearse)
