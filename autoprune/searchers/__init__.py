"""Everything that proposes plans: one file each, one Protocol, one way to be scored.

`problem.py` says what a searcher is given, `rewards.py` what it is paid for, `objective.py` which plan is best,
`searcher.py` what it promises, `scorer.py` how its plans are scored and `steering.py` how guesses of their cost change
them; `uniform.py`, `random_search.py`, `greedy.py`, `evolution.py`, `bayes.py` and `rl.py` are searchers; `choices.py`
turns plans into vectors for them, `extras.py` finds libraries that only some need; `policy.py` stores what an agent has
learnt.
"""

from autoprune.searchers import (  # noqa: F401 - importing a searcher enters it
    bayes,
    evolution,
    greedy,
    random_search,
    uniform,
)
from autoprune.searchers.objective import Objective
from autoprune.searchers.problem import Problem
from autoprune.searchers.rewards import REWARDS
from autoprune.searchers.scorer import EvaluationsSpent, Scorer
from autoprune.searchers.searcher import SEARCHERS, Searcher
from autoprune.searchers.steering import Steering

__all__ = ["REWARDS", "SEARCHERS", "EvaluationsSpent", "Objective", "Problem", "Scorer", "Searcher", "Steering"]
