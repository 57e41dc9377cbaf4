"""Gymnasium environments. Importing this package registers `autoprune/ChannelPruning-v0`.

`pruning_env.py` holds the order of calls; what the agent sees and does are pure functions in
`observation.py` and `action.py`; what it is paid for is the `Objective` that every searcher has; `facts.py` reads the
model once.
"""

import gymnasium

ENV_ID = "autoprune/ChannelPruning-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="autoprune.envs.pruning_env:ChannelPruningEnv")
