"""Everything that a command reads, one class each."""

from dataclasses import dataclass, field

from autoprune.settings.checking import check
from autoprune.settings.parts import (
    AgentSettings,
    BudgetSettings,
    Constraints,
    DataSettings,
    EvaluationSettings,
    ImportanceSettings,
    LimitsSettings,
    ModelSettings,
    RewardSettings,
    SearcherSettings,
    TargetSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class SearchSettings:
    """Everything that `python -m autoprune.search` reads; the parts say what they are.

    Attributes:
        seed: of training, of the search and of random importance.
        resume: run folder of an interrupted search to go on with, or null.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    searcher: SearcherSettings = field(default_factory=SearcherSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    constraints: Constraints = field(default_factory=Constraints)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    search: LimitsSettings = field(default_factory=LimitsSettings)
    seed: int = 0
    resume: str | None = None

    def __post_init__(self) -> None:
        wanted = "one file here; `python -m autoprune.measure` takes several"
        check(not isinstance(self.model.path, list), "model.path", wanted, self.model.path)


@dataclass(frozen=True)
class MeasureSettings:
    """Everything that `python -m autoprune.measure` reads.

    Attributes:
        groups: also print the channel groups.
        sweep: `uniform` costs the model pruned alike in every group too, at each of the keep ratios; null does not.
        keep_ratios: of the sweep.
        constraints: which widths are legal in the sweep.
        training_step: also estimate a step of training, `target.batch_size` examples on each device.
        devices: JAX devices that share the step, one row for each number; null is one, and a slice of four chips.
        optimizer: of the step, by Keras's name.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    groups: bool = False
    sweep: str | None = None
    keep_ratios: list[float] = field(default_factory=lambda: [0.95, 0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.25])
    constraints: Constraints = field(default_factory=lambda: Constraints(min_keep_ratio=0.01))
    training_step: bool = False
    devices: list[int] | None = None
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        check(self.sweep in (None, "uniform"), "sweep", "uniform, or null", self.sweep)
