"""What commands refuse that learn policies and replay them, before anything is trained."""

import pytest

from autoprune.errors import SettingsError
from autoprune.settings import LearnSettings, LimitsSettings, ReplaySettings
from autoprune.settings.policies import AdaptationSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "models must be one value or more"),
        ({"models": ["plain_cnn", "plain_cnn"]}, "models must be different from each other"),
        ({"models": ["a/net.keras", "b/net.keras"]}, "models must be different from each other"),
        ({"latencies": [1.5]}, "latencies must be shares of the dense model's"),
        ({"latencies": [0.5, 0.5]}, "latencies must be different from each other"),
        ({"latencies": []}, "there is no budget"),
        ({"memories": [0.0]}, "memories must be shares of the dense model's"),
        ({"search": LimitsSettings(1)}, "search.evaluations must be 2 or more"),
    ],
)
def test_what_cannot_be_learnt_on_is_refused(options, message):
    with pytest.raises(SettingsError, match=message):
        LearnSettings(**options)


def test_a_replay_needs_a_policy_and_no_negative_evaluations():
    with pytest.raises(SettingsError, match="policy must be the folder of a policy"):
        ReplaySettings()
    with pytest.raises(SettingsError, match="replay.evaluations must be 0 or more"):
        AdaptationSettings(evaluations=-1)


def test_files_and_names_are_told_apart():
    settings = LearnSettings(models=["plain_cnn", "mine/net.keras"], latencies=[0.6, 0.4], memories=[0.5])
    assert settings.search_settings("plain_cnn").model.name == "plain_cnn"
    file = settings.search_settings("mine/net.keras", "0.4")
    assert (file.model.name, file.model.path) == ("file", "mine/net.keras")
    assert (file.budget.latency, file.budget.memory) == (0.4, None)
    assert settings.search_settings(budget="memory 0.5").budget.memory == 0.5
    # What all budgets share limits whatever any of them limits.
    assert settings.search_settings().budget.latency == 0.4


def test_a_replay_has_one_evaluation_more_than_it_adapts_with():
    settings = ReplaySettings(policy="p", replay=AdaptationSettings(7))
    assert settings.search_settings().search.evaluations == 8
