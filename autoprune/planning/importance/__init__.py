"""How much each channel of a group matters: one measure for every opinion, behind one interface.

`basis.py` says what a measure is and holds the table, `weights.py`, `activations.py` and `taylor.py` hold the
measures, `combining.py` brings the members of a group together, `gradients.py` takes gradients without changing the
model.
"""

from autoprune.planning.importance import (  # noqa: F401 - importing a module of measures enters them
    activations,
    taylor,
    weights,
)
from autoprune.planning.importance.context import IMPORTANCES, Basis, Maker, Measure

__all__ = ["IMPORTANCES", "Basis", "Maker", "Measure"]
