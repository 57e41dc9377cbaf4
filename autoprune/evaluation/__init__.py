"""Scores plans: accuracy on the reward split after batch-norm recalibration, and cost on the target.

`evaluator.py` is the one way to score a plan, whoever proposes it; `journal.py` keeps every evaluation on disk;
`recovery.py` prepares a pruned model for it, and `accuracy.py` measures; `traced.py` runs both compiled.
`gated.py` trains gates for all options beside the model.
`contributions.py` tells what branches change.
"""

from autoprune.evaluation.contributions import Contribution
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.journal import Journal

__all__ = ["Contribution", "Evaluator", "Journal"]
