"""Replays a learnt policy on a problem that it was not trained on, and adapts it if there are evaluations for that.

A policy chooses more or fewer channels than uniform pruning keeps, group by group. Where its plan lands depends on the
network: so it is rolled out around other keep ratios too, until its plan just meets the budget, as uniform pruning is
brought onto the budget for its anchor. That takes compilations, and a single evaluation.
"""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from autoprune.envs.episode import roll_out
from autoprune.planning import Candidate
from autoprune.rl.agents import settings_of
from autoprune.rl.searcher import RlSearcher, context_of
from autoprune.searchers import BudgetedEvaluator, Problem, Proposal
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.policy import Policy
from autoprune.searchers.searcher import Log
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)

REPLAYED, FELL_BACK = "replayed", "anchor"
PATIENCE = 3  # Distinct plans in a row over the budget before wider ones are given up: latency is not monotone.
NARROWER = 16  # Steps from the anchor to the least ratio that may be tried while no plan is within the budget.


class PolicyTransfer:
    """A searcher that replays a policy: one evaluation for its plan, the others to adapt it.

    Args:
        problem: what is searched for.
        evaluator: evaluates its plans.
        replayed: the policy, as it was loaded.
        seed: seed of the agent that adapts.
        settings: warm-up of the adaptation, and options of the agent.
        log: what the agent that adapts tells of what it learns.

    Attributes:
        policy: what was learnt in adapting; None when nothing was.
    """

    def __init__(
        self,
        problem: Problem,
        evaluator: BudgetedEvaluator,
        replayed: Policy,
        *,
        seed: int,
        settings: AgentSettings | None = None,
        log: Log | None = None,
    ) -> None:
        self.policy: Policy | None = None
        self._problem = problem
        self._evaluator = evaluator
        self._replayed = replayed
        self._seed = seed
        self._settings = settings
        self._log = log

    def run(self) -> None:
        """Evaluate the policy's plan, then let its agent go on from there.

        Raises:
            PolicyError: there are evaluations to adapt with, and no agent of this version has such an actor.
        """
        evaluator = self._evaluator
        # Asked before the first evaluation: a policy that cannot be adapted is known by then.
        agent = settings_of(self._replayed, self._settings) if evaluator.left > 1 else None
        candidate = find_widest_within(evaluator, roll_outs(evaluator, self._replayed))
        if candidate is None:
            logger.warning("no plan of the policy meets the budget: the best uniform one stands for it")
            evaluator.evaluate_many([Proposal(self._problem.start, FELL_BACK, project=False)])
        else:
            evaluator.evaluate_many([Proposal(candidate, REPLAYED, project=False)])
        if agent is not None:
            adapting = RlSearcher(self._problem, evaluator, agent, seed=self._seed, log=self._log, start=self._replayed)
            adapting.run()
            self.policy = adapting.policy


def roll_outs(evaluator: BudgetedEvaluator, policy: Policy) -> Callable[[float], Candidate]:
    """From the keep ratio that action 0 stands for to the candidate that a policy decides on, without exploration."""
    context = context_of(evaluator)
    return lambda anchor: roll_out(dataclasses.replace(context, anchor=anchor), policy.act)


def find_widest_within(evaluator: BudgetedEvaluator, rolled_out: Callable[[float], Candidate]) -> Candidate | None:
    """The policy's widest candidate within the budget; None if there is none.

    From the problem's own anchor it goes to wider ones while some of them meet the budget, or, where that one does not,
    to the widest narrower one that does. Without a limit, the one at the anchor.

    Args:
        evaluator: costs candidates.
        rolled_out: from the keep ratio that action 0 stands for to the policy's candidate.
    """
    problem = evaluator.problem
    here, ratios = rolled_out(problem.anchor), list(problem.space.uniform().values())
    excess = evaluator.excess(here)
    if excess is not None and excess <= 0:
        if not problem.budget.limited:
            return here
        best, seen, missed = here, {here}, 0
        for ratio in sorted(ratio for ratio in ratios if ratio > problem.anchor):
            candidate = rolled_out(ratio)
            if candidate in seen:
                continue
            seen.add(candidate)
            if evaluator.meets_budget(candidate):
                best, missed = candidate, 0
            else:
                missed += 1
            if missed == PATIENCE:
                break
        return best
    # Between uniform plans too: where those are few, the policy's plans are more.
    between = np.linspace(problem.anchor, problem.space.minimum, NARROWER + 1).tolist()
    narrower = sorted((ratio for ratio in {*ratios, *between} if ratio < problem.anchor), reverse=True)
    distinct = list(dict.fromkeys([here, *map(rolled_out, narrower)]))
    widest = find_widest(len(distinct), lambda number: evaluator.excess(distinct[number]) if number > 0 else excess)
    return None if widest is None else distinct[widest]
