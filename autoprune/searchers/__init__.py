"""Everything that proposes plans: one file each, one Protocol, one way to be evaluated.

`problem.py` says what a searcher is given and makes it, `objective.py` what it is paid for and which plan is best,
`searcher.py` what a searcher promises and how one is written, `budgeted.py` what evaluates its proposals and what came
of them, and `projection.py` how predictions of cost change them. `uniform.py`, `random_search.py`, `greedy.py`,
`evolution.py`, `bayes.py`, `rl_pruner.py`, `dais.py` and `exact.py` are searchers; agents are in `autoprune.rl`.
`quality.py` and `reward_model.py` predict what plans are worth, `solving.py` finds the best by that, `choice.py` says
which of a search's plans is its result.
"""

from autoprune.searchers import (  # noqa: F401 - importing a searcher enters it
    bayes,
    dais,
    evolution,
    exact,
    greedy,
    random_search,
    rl_pruner,
    uniform,
)
from autoprune.searchers.budgeted import BudgetedEvaluator, EvaluationsSpent, History, Proposal, Trial
from autoprune.searchers.objective import REWARDS, Objective
from autoprune.searchers.problem import Problem, build_problem
from autoprune.searchers.searcher import SEARCHERS, AskTellSearcher, Searcher, ask_tell

SEARCHERS.add_lazily("rl", "autoprune.rl.searcher:RL")  # Torch and Stable-Baselines3 take seconds to import.

__all__ = [
    "REWARDS",
    "SEARCHERS",
    "AskTellSearcher",
    "BudgetedEvaluator",
    "EvaluationsSpent",
    "History",
    "Objective",
    "Problem",
    "Proposal",
    "Searcher",
    "Trial",
    "ask_tell",
    "build_problem",
]
