"""Everything that proposes plans: one file each, one Protocol, one way to be scored.

`problem.py` says what a searcher is given and promises; `uniform.py`, `random_search.py` and `rl.py` are searchers;
`policy.py` stores what an agent has learnt.
"""

from autoprune.searchers import random_search, uniform  # noqa: F401 - importing a searcher enters it
from autoprune.searchers.problem import SEARCHERS, EvaluationsSpent, Problem, Scorer, Searcher, best_within

__all__ = ["SEARCHERS", "EvaluationsSpent", "Problem", "Scorer", "Searcher", "best_within"]
