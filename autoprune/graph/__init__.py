"""Model -> channel groups. Reads the model, never writes to it.

`trace.py` walks the calls, `rules/` say what each layer does to channels, `channels.py` keeps the books,
`groups.py` draws the conclusion. To teach autoprune a layer of your own, see `rules.channel_rule`.
"""

from autoprune.graph.groups import find_groups
from autoprune.layers import channel_rule

__all__ = ["channel_rule", "find_groups"]
