"""Everything that `learn` and `replay` read, one class each."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from autoprune.settings.budget import BudgetSettings, name_budgets
from autoprune.settings.checking import check, check_list, check_shares
from autoprune.settings.commands import ScoringSettings, SearchSettings
from autoprune.settings.fields import leave_out
from autoprune.settings.search import AgentSettings, LimitsSettings, SearcherSettings


@dataclass(frozen=True)
class AdaptationSettings:
    """What a replay may do besides rolling the policy out.

    Attributes:
        evaluations (plans): that may be scored to adapt the policy, beside the one of the policy as it is.
        batch (plans): proposed at a time in adapting, see `search.batch`.
        scratch (true or false): also search from scratch, with an agent of the same kind and as many evaluations.
        finalists (plans): the best of each search that are fine-tuned, to choose among them after that.
        stages (stages): in which a plan is removed, see `search.stages`.
    """

    evaluations: int = 0
    batch: int = 1
    scratch: bool = False
    finalists: int = 1
    stages: int = 1

    def __post_init__(self) -> None:
        check(self.stages >= 1, "replay.stages", "1 or more", self.stages)
        check(self.evaluations >= 0, "replay.evaluations", "0 or more", self.evaluations)
        check(self.batch >= 1, "replay.batch", "1 or more", self.batch)
        check(self.finalists >= 1, "replay.finalists", "1 or more", self.finalists)


@dataclass(frozen=True)
class ReplaySettings(ScoringSettings):
    """Everything that `python -m autoprune.replay` reads; the parts are those of a search.

    Attributes:
        policy (folder): of the policy, or a run folder that has one.
        replay: how the policy may be adapted.
    """

    policy: str | None = None
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    replay: AdaptationSettings = field(default_factory=AdaptationSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = bool(self.policy) or self.resume is not None
        check(given, "policy", "the folder of a policy: policy=RUN/policy", "none")

    def search_settings(self) -> SearchSettings:
        """The settings of the searches on the new model, each with as many evaluations as the replay has."""
        return self.of_search(
            budget=self.budget,
            searcher=SearcherSettings("replay"),
            search=LimitsSettings(
                evaluations=1 + self.replay.evaluations,
                batch=self.replay.batch,
                finalists=self.replay.finalists,
                stages=self.replay.stages,
            ),
        )


@dataclass(frozen=True)
class LearnSettings(ScoringSettings):
    """Everything that `python -m autoprune.learn` reads; the parts are those of a search.

    Attributes:
        models: networks that the policy is learnt on: architectures of the zoo, and `.keras` or `.h5` files.
        model: width, input shape and classes of those of the zoo.
        latencies (shares): of a network's dense latency, above 0 and at most 1: budgets, each for every network.
        memories (shares): of a network's device memory: more budgets.
        search: evaluations of each network at each budget.
    """

    models: list[str] = field(default_factory=lambda: ["plain_cnn", "small_resnet"])
    latencies: list[float] = field(default_factory=lambda: [0.6])
    memories: list[float] = field(default_factory=list)
    agent: AgentSettings = field(default_factory=lambda: AgentSettings("dyna_ppo"))
    search: LimitsSettings = field(
        default_factory=LimitsSettings, metadata=leave_out("finalists", "stages", "cascade", "screen")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list("models", self.models, [Path(model).stem for model in self.models])
        check_shares("latencies", self.latencies)
        check_shares("memories", self.memories)
        check(bool(self.latencies or self.memories), "latencies", "given, or else memories: there is no budget", "none")
        check(self.search.evaluations >= 2, "search.evaluations", "2 or more for each problem", self.search.evaluations)

    @property
    def budgets(self) -> dict[str, BudgetSettings]:
        """The budgets by what they are called in names and tables."""
        return name_budgets(self.latencies, self.memories)

    def search_settings(self, model: str | None = None, budget: str | None = None) -> SearchSettings:
        """The settings of one of the problems, or of what all budgets of a model share.

        Args:
            model: as in `models`; None is the first.
            budget: as in `budgets`; None limits what any of the budgets limits.
        """
        name = model or self.models[0]
        file = name.endswith((".keras", ".h5", ".hdf5"))
        tightest = BudgetSettings(min(self.latencies, default=None), min(self.memories, default=None))
        return self.of_search(
            model=replace(self.model, name="file", path=name) if file else replace(self.model, name=name, path=None),
            budget=tightest if budget is None else self.budgets[budget],
            search=self.search,
        )
