"""How much each channel of a group matters: one criterion for every opinion, behind one interface.

`context.py` says what a criterion is and holds the table, `weights.py`, `activations.py`, `experts.py` and
`gradient_flow.py` hold the criteria, `gradients.py` and `second_order.py` take derivatives, `combining.py` brings the
members of a group together, `rounds.py` scores again without the channels that would go first.
"""

from autoprune.planning.importance import (  # noqa: F401 - importing a module of criteria enters them
    activations,
    experts,
    gradient_flow,
    weights,
)
from autoprune.planning.importance.context import IMPORTANCES, Criterion, CriterionFactory, ImportanceContext

__all__ = ["IMPORTANCES", "Criterion", "CriterionFactory", "ImportanceContext"]
