"""What a fine-tuning reads, and on what devices it runs."""

import re
from dataclasses import dataclass, field

from autoprune.settings.checking import check, check_seed
from autoprune.settings.parts import DataSettings, EvaluationSettings, ModelSettings, TrainingSettings
from autoprune.settings.target import TargetSettings

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
        steps_per_execution: steps between two looks at the loss, and so between two signs of progress.
        rehearse: for `tpu` and `tpu_tf`, run on so many make-believe devices made of this host's processor, as a
            rehearsal; null needs a TPU.
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


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that `python -m autoprune.finetune` reads.

    What is fine-tuned is the result of a run, or `model.path`, pruned by `plan` if there is one.

    Attributes:
        run: run folder of a search: its pruned model is fine-tuned, its dense model teaches, and what is not given
            here of data, training, evaluation, target and seed is as it was there.
        plan: plan for the model of `model.path`, which is pruned by it; the whole model teaches.
        model: `file`, with a path; with a run, which network its data were prepared for.
        teacher: `.keras` file of a model to learn from besides the labels, with `training.distillation` or
            `training.feature_distillation` above 0.
        slice: chips that share a step, such as `2x2`, for the check that it fits; null is one chip.
        dry_run: for `runtime=tpu` and `tpu_tf`: everything but the steps; the step is compiled for the target and the
            slice, and what it takes is told.
        checkpoint_every: steps between states within an epoch; null keeps a state at the end of each epoch.
        cost: whether the finished model is costed on the target; null: when a target or a run is given.
        seed: of the order of images, their changes and dropout.
        resume: run folder of an interrupted fine-tuning to go on with, or null.
    """

    run: str | None = None
    plan: str | None = None
    model: ModelSettings = field(default_factory=lambda: ModelSettings("file"))
    teacher: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    slice: str | None = None
    dry_run: bool = False
    checkpoint_every: int | None = None
    cost: bool | None = None
    seed: int = 0
    resume: str | None = None

    def __post_init__(self) -> None:
        given = bool(self.run or self.model.path or self.resume)
        check(given, "run", "the folder of a search, or else model=file model.path=FILE.keras given", "neither")
        check(not (self.run and self.plan), "plan", "given with model.path; a run has its own", self.plan)
        check(not (self.run and self.teacher), "teacher", "given with model.path; a run has its own", self.teacher)
        check(not isinstance(self.model.path, list), "model.path", "one file here", self.model.path)
        on_tpu = self.runtime.name in ON_TPU
        check(on_tpu or not self.dry_run, "dry_run", "given with runtime=tpu or runtime=tpu_tf", self.dry_run)
        check(on_tpu or self.slice is None, "slice", "given with runtime=tpu or runtime=tpu_tf", self.slice)
        shaped = self.slice is None or re.fullmatch(r"\d+(x\d+)*", self.slice)
        check(bool(shaped), "slice", "a shape such as 2x2, or null", self.slice)
        often = self.checkpoint_every is None or self.checkpoint_every >= 1
        check(often, "checkpoint_every", "1 step or more, or null", self.checkpoint_every)
        check(not self.target.also, "target.also", "left empty here", self.target.also)
        check_seed("seed", self.seed)
