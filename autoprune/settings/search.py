"""What proposes plans and how many it may score: the config groups `searcher` and `agent`, the options of `search`."""

from dataclasses import dataclass, field
from typing import Any

from autoprune.settings.checking import check


@dataclass(frozen=True)
class SearcherSettings:
    """What proposes plans.

    Attributes:
        name: `rl`, `exact`, `greedy`, `evolution`, `bayes`, `rl_pruner`, `dais`, `random`, or a rule set by hand:
            `uniform`, `uniform_skip`, `uniform_width`, `uniform_depth`, `uniform_depth_width`.
    """

    name: str = "rl"


@dataclass(frozen=True)
class AgentSettings:
    """The agent of the searcher `rl`.

    Attributes:
        name: `dyna_ppo`; of Stable-Baselines3 `sac`, `td3`, `ddpg` or `ppo`; of sb3-contrib `tqc` or `recurrent_ppo`.
        options: keyword arguments of the agent's class in Stable-Baselines3 or sb3-contrib:
            `+agent.options.learning_rate=3e-4`.
        warm_up (share): of the evaluations in which actions (off-policy agents) or plans (`dyna_ppo`) are random.
        net (units): of each hidden layer of actor and critic.
    """

    name: str = "dyna_ppo"
    options: dict[str, Any] = field(default_factory=dict)
    warm_up: float = 0.25
    net: list[int] = field(default_factory=lambda: [64, 64])

    def __post_init__(self) -> None:
        check(0 <= self.warm_up <= 1, "agent.warm_up", "a share of the evaluations, from 0 to 1", self.warm_up)
        wanted = "units of each hidden layer, 1 or more, such as [64,64]"
        check(all(units >= 1 for units in self.net), "agent.net", wanted, self.net)
        layered = self.name != "recurrent_ppo" or len(self.net) > 0
        wanted = "one layer or more with agent=recurrent_ppo, whose LSTM has as many units as the first"
        check(layered, "agent.net", wanted, self.net)


@dataclass(frozen=True)
class LimitsSettings:
    """How much a search may do.

    Attributes:
        evaluations (plans): that each searcher may score; `learn`: for each network at each budget.
        batch (plans): that searchers which learn from every trial (`exact`, `bayes`, `rl` but with `ppo` and
            `recurrent_ppo`) propose at a time. More keep more workers busy, and each is chosen knowing less.
        finalists (plans): the best of each searcher that are fine-tuned; its result is the one that is best then, on
            the reward split. A score ranks plans as they are before fine-tuning, which is not quite how they end.
        project (true or false): bring every proposed plan onto the budget before it is scored, as far as predicted
            costs allow. Null: where branches may go, whose loss leaves much of the budget.
        stages (stages): in which channels and branches leave, each followed by its share of the epochs after pruning
            with a learning rate that rises and falls, as RL-Pruner does it (2024, arXiv 2411.06463); at most as many as
            there are epochs. With `training.distillation` the dense model teaches in all of them.
        cascade (true or false): in each of the stages choose the channels that go anew, by `importance` of the weights
            as they are by then, and give each all of the epochs after pruning, with the learning rate from the start
            of its schedule (Liebenwein et al., 2021, arXiv 2106.12718). With `training.schedule=rewinding` and as many
            epochs after pruning as `training.epochs` it is the schedule of training from scratch.
        screen (true or false): leave plans unscored that are predicted to miss the budget, where a searcher can propose
            another (`searcher=random`).
    """

    evaluations: int = 24
    batch: int = 1
    finalists: int = 1
    project: bool | None = None
    stages: int = 1
    cascade: bool = False
    screen: bool = False

    def __post_init__(self) -> None:
        check(self.evaluations >= 1, "search.evaluations", "1 or more", self.evaluations)
        check(self.batch >= 1, "search.batch", "1 or more", self.batch)
        check(self.finalists >= 1, "search.finalists", "1 or more", self.finalists)
        check(self.stages >= 1, "search.stages", "1 or more", self.stages)
        staged = not self.cascade or self.stages > 1
        check(staged, "search.cascade", "false, or given with search.stages of 2 or more", self.cascade)

    def count_epochs(self, after_pruning: int) -> int:
        """Epochs of fine-tuning in all stages, of the number that `training` gives."""
        return self.stages * after_pruning if self.cascade else after_pruning
