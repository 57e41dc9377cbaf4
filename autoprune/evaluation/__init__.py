"""Scores plans: accuracy on the reward split after batch-norm recalibration, and cost on the target.

`evaluator.py` is the one way to score a plan, whoever proposes it; `journal.py` keeps every evaluation on disk;
`recalibration.py` and `accuracy.py` do the measuring.
"""

from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.journal import Journal

__all__ = ["Evaluator", "Journal"]
