"""Gymnasium environments. Importing this package registers `autoprune/ChannelPruning-v2`.

`episode.py` is the episode itself, pure functions of arrays: what is seen, what an action does. `pruning_env.py` makes
a Gymnasium environment of it, `vector_env.py` many episodes side by side for Stable-Baselines3.
"""

import gymnasium

ENV_ID = "autoprune/ChannelPruning-v2"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="autoprune.envs.pruning_env:ChannelPruningEnv")
