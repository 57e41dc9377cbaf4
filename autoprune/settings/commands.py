"""Everything that `search`, `compare` and `measure` read, one class each."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from autoprune.settings.budget import BudgetSettings, check_budget, name_budgets
from autoprune.settings.checking import check, check_list, check_seed, check_shares
from autoprune.settings.constraints import Constraints
from autoprune.settings.data import DataSettings
from autoprune.settings.evaluation import EvaluationSettings
from autoprune.settings.fields import leave_out
from autoprune.settings.importance import ImportanceSettings
from autoprune.settings.model import ModelSettings
from autoprune.settings.reward import FLOORED, RewardSettings
from autoprune.settings.search import AgentSettings, LimitsSettings, SearcherSettings
from autoprune.settings.target import TargetSettings
from autoprune.settings.task import TaskSettings
from autoprune.settings.tracking import TrackingSettings
from autoprune.settings.training import TrainingSettings
from autoprune.settings.workers import RaySettings


@dataclass(frozen=True)
class ScoringSettings:
    """What every command reads that scores plans; the parts say what they are.

    An `evaluation.score` that is not given is chosen here, by the reward. Whoever replaces the reward of settings that
    are made already gives `evaluation` anew too.

    Attributes:
        workers (processes): that score plans side by side, each with a model of its own; `auto` is one for every two
            cores, as many as fit in memory and in a GPU's, `ray` those of a Ray cluster. Searchers that ask for several
            plans at a time find the same with any number of them.
        seed (seed): of training, of the search and of random importance.
        resume (folder): of an interrupted run to go on with, given alone or with the options that may be extended.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    importance: ImportanceSettings = field(default_factory=ImportanceSettings)
    constraints: Constraints = field(default_factory=Constraints)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    # Settings that differ in these alone are equal: nothing that is found depends on them.
    workers: Any = field(default=1, compare=False)
    ray: RaySettings = field(default_factory=RaySettings, compare=False)
    tracking: TrackingSettings = field(default_factory=TrackingSettings, compare=False)
    seed: int = 0
    resume: str | None = None

    def __post_init__(self) -> None:
        some = isinstance(self.workers, int) and not isinstance(self.workers, bool) and self.workers >= 1
        check(some or self.workers in ("auto", "ray"), "workers", "1 or more, auto or ray", self.workers)
        wanted = "one file here; `python -m autoprune.measure` takes several"
        check(not isinstance(self.model.path, list), "model.path", wanted, self.model.path)
        check_seed("seed", self.seed)
        if self.evaluation.score is None:
            # A floor of the accuracy is held by plans of which the accuracy is looked at.
            score = "accuracy" if self.reward.name in FLOORED else "likelihood"
            object.__setattr__(self, "evaluation", replace(self.evaluation, score=score))

    def of_search(self, **others: Any) -> "SearchSettings":
        """The settings of a search with these parts.

        Args:
            others: what a search has besides, and parts that are others there.
        """
        parts = {part.name: getattr(self, part.name) for part in fields(ScoringSettings) if part.name != "resume"}
        return SearchSettings(**{**parts, **others})


@dataclass(frozen=True)
class SearchSettings(ScoringSettings):
    """Everything that `python -m autoprune.search` reads; the parts say what they are."""

    budget: BudgetSettings = field(default_factory=BudgetSettings)
    searcher: SearcherSettings = field(default_factory=SearcherSettings)
    search: LimitsSettings = field(default_factory=LimitsSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self.budget, self.reward, several=bool(self.target.also))
        at_once = self.search.stages == 1 or self.training.removal != "dpf"
        wanted = "1 with training.removal=dpf, which removes by steps of its own"
        check(at_once, "search.stages", wanted, self.search.stages)
        only_removed = self.search.stages == 1 and self.training.removal != "dpf"
        wanted = "1 or more with search.stages or training.removal=dpf, which remove while the model is trained"
        check(only_removed or self.training.after_pruning > 0, "training.fine_tune_epochs", wanted, 0)


_COMPARED = (
    *("uniform", "uniform_skip", "uniform_width", "uniform_depth_width"),
    *("random", "greedy", "evolution", "rl"),
)


@dataclass(frozen=True)
class CompareSettings(ScoringSettings):
    """Everything that `python -m autoprune.compare` reads; the parts are those of a search.

    Attributes:
        searchers: what is compared: names of searchers, and `rl:AGENT` for an agent other than that of `agent`.
        latencies (shares): of the dense latency, above 0 and at most 1: budgets, each searched by itself.
        memories (shares): of the dense model's device memory: more budgets.
        seeds (seeds): each searcher searches with each of them, and what it finds is fine-tuned with the same seed.
        controls: `scratch` trains every searched plan from new weights for as many epochs as base model and fine-tuning
            took together, `scratch:SEARCHER` that searcher's plans only; `dense` fine-tunes the dense model.
        uniform_curve (plans): uniform ones that are fine-tuned, with each seed, for the curve of accuracy against
            latency.
        seed (seed): of the base model and of random importance.
    """

    search: LimitsSettings = field(default_factory=LimitsSettings)
    searchers: list[str] = field(default_factory=lambda: list(_COMPARED))
    latencies: list[float] = field(default_factory=lambda: [0.7, 0.5])
    memories: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    controls: list[str] = field(default_factory=lambda: ["scratch", "dense"])
    uniform_curve: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        # One agent that is named in two ways is found.
        named_in_full = [f"rl:{self.agent.name}" if searcher == "rl" else searcher for searcher in self.searchers]
        check_list("searchers", self.searchers, named_in_full)
        for searcher in self.searchers:
            kind, colon, agent = searcher.partition(":")
            named = bool(agent) and kind == "rl" if colon else bool(kind)
            check(named, "searchers", "names of searchers, or rl:AGENT such as rl:ppo", searcher)
        check_shares("latencies", self.latencies)
        check_shares("memories", self.memories)
        check(bool(self.latencies or self.memories), "latencies", "given, or else memories: there is no budget", "none")
        check_list("seeds", self.seeds, self.seeds)
        for seed in self.seeds:
            check_seed("seeds", seed)
        check_list("controls", self.controls, self.controls, empty=True)
        for control in self.controls:
            known = control in ("dense", "scratch", *(f"scratch:{searcher}" for searcher in self.searchers))
            check(known, "controls", "dense, scratch, or scratch: and one of the searchers", control)
        check(self.uniform_curve >= 0, "uniform_curve", "0 or more", self.uniform_curve)

    @property
    def budgets(self) -> dict[str, BudgetSettings]:
        """The budgets by what they are called in names and tables."""
        return name_budgets(self.latencies, self.memories)

    def search_settings(
        self, searcher: str | None = None, budget: str | None = None, seed: int | None = None
    ) -> SearchSettings:
        """The settings of one search of the comparison, or of what all of them share.

        Args:
            searcher: as in `searchers`; None is the first one.
            budget: as in `budgets`; None limits what any of the budgets limits.
            seed: of the search; None is that of the base model.
        """
        kind, _, agent = (searcher or self.searchers[0]).partition(":")
        tightest = BudgetSettings(min(self.latencies, default=None), min(self.memories, default=None))
        return self.of_search(
            budget=tightest if budget is None else self.budgets[budget],
            searcher=SearcherSettings(kind),
            # Options are those of the agent that they were given for.
            agent=self.agent if agent in ("", self.agent.name) else replace(self.agent, name=agent, options={}),
            search=self.search,
            seed=self.seed if seed is None else seed,
        )


@dataclass(frozen=True)
class MeasureSettings:
    """Everything that `python -m autoprune.measure` reads.

    Attributes:
        groups (true or false): also print the channel groups and branches: what can be pruned, and why the rest cannot.
        layers (true or false): also print where the latency goes, layer by layer, as far as the compiler says.
        sweep: `uniform` costs the model pruned alike in every group too, at each of the keep ratios; null does not.
        keep_ratios (shares): of the channels of each group that stay, for the sweep.
        constraints: which widths are legal in the sweep.
        training_step (true or false): also estimate a step of training, with `target.batch_size` images on each device.
        devices (devices): of JAX that share the step, one row for each number, such as `[1,4,16]`; null is one, and a
            slice of four chips.
        optimizer: of the step, by Keras's name, such as `sgd`.
        sparsity: a pattern of kernels, of which it is told what it would keep and take, by the sizes of the weights:
            N:M such as `2:4`, or gather-scatter for memory of B banks, `gsB` such as `gs16`, or `gsBxR` such as
            `gs16x4` where R outputs share a bundle of weights; null looks at none. TPUs gain no latency from it.
        density (share): of the weights that stay with gather-scatter, above 0 and below 1; null is 0.25 of them.
        block (weights): height and width of blocks that go first in a pattern N:M, as many in every row of blocks, a
            multiple of M; null is none.
        block_share (share): of all blocks that go, from 0 to below 1.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    target: TargetSettings = field(default_factory=TargetSettings)
    groups: bool = False
    layers: bool = False
    sweep: str | None = None
    keep_ratios: list[float] = field(default_factory=lambda: [0.95, 0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.25])
    constraints: Constraints = field(
        default_factory=lambda: Constraints(min_keep_ratio=0.01), metadata=leave_out("widths", "staircase_points")
    )
    training_step: bool = False
    devices: list[int] | None = None
    optimizer: str = "adamw"
    sparsity: str | None = None
    density: float | None = None
    block: int | None = None
    block_share: float = 0.5

    def __post_init__(self) -> None:
        self._check_sparsity()
        check(self.sweep in (None, "uniform"), "sweep", "uniform, or null", self.sweep)
        check(not self.target.also, "target.also", "left empty here; target=all costs on every TPU", self.target.also)

    @property
    def n_and_m(self) -> tuple[int, int] | None:
        """N and M of `sparsity=N:M`; None without."""
        numbers = re.fullmatch(r"(\d{1,9}):(\d{1,9})", self.sparsity or "", re.ASCII)
        return (int(numbers[1]), int(numbers[2])) if numbers else None

    @property
    def banks_and_rows(self) -> tuple[int, int] | None:
        """B and R of `sparsity=gsBxR`, where R is 1 if it is not told; None without."""
        numbers = re.fullmatch(r"gs(\d{1,9})(?:x(\d{1,9}))?", self.sparsity or "", re.ASCII)
        return (int(numbers[1]), int(numbers[2] or 1)) if numbers else None

    def _check_sparsity(self) -> None:
        weights, gathers = self.n_and_m, self.banks_and_rows
        if gathers is not None:
            proper = 2 <= gathers[0] <= 256 and 1 <= gathers[1] <= gathers[0]
        else:
            proper = self.sparsity is None or (weights is not None and 1 <= weights[0] <= weights[1])
        wanted = (
            "N:M with N from 1 to M, such as 2:4, gsB or gsBxR with B from 2 to 256 and R from 1 to B, such as gs16, "
            "or null"
        )
        check(proper, "sparsity", wanted, self.sparsity)
        fits = self.density is None or (gathers is not None and 0 < self.density < 1)
        check(fits, "density", "above 0 and below 1, with sparsity=gsB or gsBxR, or null", self.density)
        fits = self.block is None or (weights is not None and self.block >= 1 and self.block % weights[1] == 0)
        check(fits, "block", "a multiple of M, with sparsity=N:M, or null", self.block)
        check(0 <= self.block_share < 1, "block_share", "from 0 to below 1", self.block_share)
