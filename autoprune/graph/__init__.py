"""Model -> channel groups. Reads the model, never writes to it.

`trace.py` walks the calls and asks the kind of each layer (`autoprune.layers`) what it does to channels, `groups.py`
draws the conclusion.
"""

from autoprune.graph.groups import find_groups

__all__ = ["find_groups"]
