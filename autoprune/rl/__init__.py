"""Searchers that learn a policy: agents of Stable-Baselines3 in the environment of `autoprune.envs`.

`searcher.py` trains one on a problem, `agents.py` knows the algorithms, `dyna.py` lets one learn in imagined episodes,
paid by `reward_model.py`; `multi_task.py` trains one on several problems, `transfer.py` replays a policy on another.
"""
