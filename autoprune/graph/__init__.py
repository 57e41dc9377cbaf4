"""Model -> channel groups and branches. Reads the model, never writes to it.

`trace.py` walks the calls and asks the kind of each layer (`autoprune.layers`) what it does to channels, `groups.py`
draws the conclusion. `branches.py` finds what sums and concatenations stay valid without.
"""

from autoprune.graph.branches import find_branches
from autoprune.graph.groups import find_groups

__all__ = ["find_branches", "find_groups"]
