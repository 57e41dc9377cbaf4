"""Gymnasium environments. Importing this package registers `autoprune/ChannelPruning-v0`.

`pruning_env.py` holds the order of calls; what the agent sees, does and is paid for are pure functions in
`observation.py`, `action.py` and `reward.py`; `facts.py` reads the model once.
"""

import gymnasium

ENV_ID = "autoprune/ChannelPruning-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="envs.pruning_env:ChannelPruningEnv")
