"""Everything that `finetune` reads."""

import re
from dataclasses import dataclass, field

from autoprune.settings.checking import check, check_seed
from autoprune.settings.data import DataSettings
from autoprune.settings.evaluation import EvaluationSettings
from autoprune.settings.fields import leave_out
from autoprune.settings.model import ModelSettings
from autoprune.settings.runtime import ON_TPU, RuntimeSettings
from autoprune.settings.target import TargetSettings
from autoprune.settings.task import TaskSettings
from autoprune.settings.tracking import TrackingSettings
from autoprune.settings.training import TrainingSettings


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that `python -m autoprune.finetune` reads.

    What is fine-tuned is the result of a run, or `model.path`, pruned by `plan` if there is one.

    Attributes:
        run (folder): of a search: its pruned model is fine-tuned, its dense model teaches, and data, task,
            training, evaluation, target and seed are those of the search unless they are given here.
        plan (file): `plan.json` for the model of `model.path`, which is pruned by it; the whole model teaches.
        model: `file`, with a path; with a run, which network its data were prepared for.
        teacher (file): `.keras` file of a model to learn from besides the labels, with `training.distillation` or
            `training.feature_distillation` above 0. A run and a plan have one.
        slice (chips): that share a step, such as `2x2`, for the check that it fits; null is one chip.
        dry_run (true or false): for `runtime=tpu` and `tpu_tf`: do everything but the steps: compile the step for the
            target and the slice, and say what it takes.
        checkpoint_every (steps): between states within an epoch; null keeps a state at the end of each epoch.
        cost (true or false): whether the finished model is costed on the target; null: when a target or a run is given.
        seed (seed): of the order of images, their changes and dropout.
        resume (folder): of an interrupted fine-tuning to go on with, given alone.
    """

    run: str | None = None
    plan: str | None = None
    model: ModelSettings = field(default_factory=lambda: ModelSettings("file"))
    teacher: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings, metadata=leave_out("removal"))
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    evaluation: EvaluationSettings = field(
        default_factory=EvaluationSettings, metadata=leave_out("recovery", "recovery_images", "tuning_steps", "score")
    )
    task: TaskSettings = field(default_factory=TaskSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings, compare=False)  # No result depends on it.
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
