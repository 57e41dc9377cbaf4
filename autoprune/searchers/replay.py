"""Replays a learnt policy on a problem that it was not trained on, and adapts it if there are evaluations for that.

A policy chooses more or fewer channels than uniform pruning keeps, group by group. Where its plan lands depends on the
network: so it is rolled out around other keep ratios too, until its plan just meets the budget, as uniform pruning is
brought onto the budget for its anchor. That takes compilations, and a single evaluation.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.searchers.agents import settings_of
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.policy import Policy
from autoprune.searchers.problem import Problem
from autoprune.searchers.rl import Environments, RlSearcher, RollOut
from autoprune.searchers.scorer import Scorer, meets_budget, overrun
from autoprune.searchers.uniform import distinct_ratios
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)

REPLAYED, FELL_BACK = "replayed", "anchor"
PATIENCE = 3  # Distinct plans in a row over the budget before wider ones are given up: latency is not monotone.
NARROWER = 16  # Steps from the anchor to the least ratio that may be tried while no plan is within the budget.


class Replay:
    """A searcher that replays a policy: one evaluation for its plan, the others to adapt it.

    Args:
        make_env: makes the environments of the problem.
        policy: as it was loaded.
        settings: warm-up of the adaptation, and options of the agent.
        log_folder: where TensorBoard files of the adaptation go, or None.

    Attributes:
        actor: what was learnt in adapting, as `RlSearcher.actor`; None when nothing was.
    """

    def __init__(
        self,
        make_env: Environments,
        policy: Policy,
        settings: AgentSettings | None = None,
        log_folder: str | Path | None = None,
    ) -> None:
        self._make_env = make_env
        self._policy = policy
        self._settings = settings
        self._log_folder = log_folder
        self.actor: Mapping[str, Any] | None = None

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Score the policy's plan, then let its agent go on from there.

        Raises:
            PolicyError: there are evaluations to adapt with, and no agent of this version has such an actor.
        """
        # Asked before the first evaluation: a policy that cannot be adapted is known by then.
        agent = settings_of(self._policy, self._settings) if scorer.left > 1 else None
        plan = widest_within(problem, scorer, self._make_env.rolled_out(problem, scorer, self._policy))
        if plan is None:
            logger.warning("no plan of the policy meets the budget: the best uniform one stands for it")
            scorer.evaluate(problem.anchor, FELL_BACK)
        else:
            scorer.evaluate(plan, REPLAYED, steered=False)
        if agent is not None:
            adapting = RlSearcher(self._make_env, agent, self._log_folder, start=self._policy)
            adapting(problem, scorer, seed)
            self.actor = adapting.actor


def widest_within(problem: Problem, scorer: Scorer, roll_out: RollOut) -> Mapping[str, float] | None:
    """The policy's widest plan within the budget; None if there is none.

    From the problem's own anchor it goes to wider plans while some of them meet the budget, or, where that plan does
    not, to the widest narrower one that does. Without a limit, the plan at the anchor.

    Args:
        problem: groups, budget, anchor.
        scorer: costs plans.
        roll_out: from the keep ratio that action 0 stands for to the policy's keep ratios.
    """
    here = roll_out(problem.anchor)
    excess = overrun(problem, scorer, here)
    if excess is not None and excess <= 0:
        ratios = [ratio for ratio in reversed(distinct_ratios(problem.legal)) if ratio > problem.anchor]
        return _wider(problem, scorer, roll_out, ratios, here) if problem.budget.limited else here
    # Between uniform plans too: where those are few, the policy's plans are more.
    between = np.linspace(problem.anchor, problem.legal.minimum, NARROWER + 1)
    distinct = {_key(problem, here): here}
    for ratio in sorted({*distinct_ratios(problem.legal), *between.tolist()}, reverse=True):
        if ratio < problem.anchor:
            plan = roll_out(ratio)
            distinct.setdefault(_key(problem, plan), plan)
    plans = list(distinct.values())
    widest = find_widest(len(plans), lambda number: overrun(problem, scorer, plans[number]) if number > 0 else excess)
    return None if widest is None else plans[widest]


def _wider(
    problem: Problem, scorer: Scorer, roll_out: RollOut, ratios: Sequence[float], best: Mapping[str, float]
) -> Mapping[str, float]:
    """The last plan that meets the budget, of the policy's at rising ratios, until several in a row do not."""
    seen, missed = {_key(problem, best)}, 0
    for ratio in ratios:
        plan = roll_out(ratio)
        if _key(problem, plan) in seen:
            continue
        seen.add(_key(problem, plan))
        if meets_budget(problem, scorer, plan):
            best, missed = plan, 0
        else:
            missed += 1
        if missed == PATIENCE:
            break
    return best


def _key(problem: Problem, plan: Mapping[str, float]) -> tuple[int, ...]:
    return tuple(problem.legal.all_nearest(plan).values())
