"""Seeds, agents and parts that cannot be: refused when the settings are made, before anything is trained."""

import math

import pytest
from omegaconf import OmegaConf

from autoprune.errors import SettingsError
from autoprune.settings import (
    AgentSettings,
    CompareSettings,
    DataSettings,
    FinetuneSettings,
    LearnSettings,
    SearchSettings,
    from_config,
)


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    ("option", "make"),
    [
        ("seed", lambda seed: SearchSettings(seed=seed)),
        ("seed", lambda seed: LearnSettings(seed=seed)),
        ("seed", lambda seed: FinetuneSettings(run="RUN", seed=seed)),
        ("data.seed", lambda seed: DataSettings(seed=seed)),
        ("seeds", lambda seed: CompareSettings(seeds=[0, seed])),
    ],
)
def test_seeds_that_nothing_can_begin_from_are_refused(option, make, seed):
    with pytest.raises(SettingsError, match=f"^{option} must be a whole number from 0 to 4294967295. Received: {seed}"):
        make(seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"warm_up": share}, "agent.warm_up must be a share") for share in (-0.1, 1.1, 5, math.nan, math.inf)),
        (
            {"net": [-1]},
            r"agent.net must be units of each hidden layer, 1 or more, .*Received: \[-1\]",
        ),
        ({"net": [64, 0]}, r"agent.net must be units of each hidden layer, 1 or more"),
        ({"name": "recurrent_ppo", "net": []}, "agent.net must be one layer or more with agent=recurrent_ppo"),
    ],
)
def test_agents_that_cannot_be_are_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        AgentSettings(**options)


def test_agents_without_hidden_layers_can_be():
    """Of a stored policy whose actor is linear."""
    assert AgentSettings("dyna_ppo", net=[]).net == []
    assert [AgentSettings(warm_up=share).warm_up for share in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"budget": 0.5},
            "'budget' has parts: give one or more of budget.latency, budget.memory. Received: .*=0.5",
        ),
        (
            {"search": 60},
            "'search' has parts: give one or more of search.evaluations, search.batch, search.finalists, .*=60",
        ),
        ({"agent": None}, "'agent' has parts: give one or more of agent.name, .*Received: agent=None"),
        ({"reward": [2.0]}, r"'reward' has parts: give one or more of reward.name, .*Received: reward=\[2.0\]"),
    ],
)
def test_a_part_that_is_given_a_value_is_answered_with_its_options(given, message):
    with pytest.raises(SettingsError, match=message):
        from_config(OmegaConf.create(given), SearchSettings)
