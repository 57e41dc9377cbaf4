"""How much each channel of a group matters: one criterion for every opinion, behind one interface.

`context.py` says what a criterion is and holds the table, `weights.py`, `activations.py` and `taylor.py` hold the
criteria, `combining.py` brings the members of a group together.
"""

from autoprune.planning.importance import (  # noqa: F401 - importing a module of criteria enters them
    activations,
    taylor,
    weights,
)
from autoprune.planning.importance.context import IMPORTANCES, Criterion, CriterionFactory, ImportanceContext

__all__ = ["IMPORTANCES", "Criterion", "CriterionFactory", "ImportanceContext"]
