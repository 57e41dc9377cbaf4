"""Searchers and agents of the extra `search`: always in the tables, refused at once where a library is missing."""

import sys

import numpy as np
import pytest

from autoprune.errors import SettingsError, UnknownNameError
from autoprune.pipeline.session import validate_choices
from autoprune.rl.agents import AGENTS
from autoprune.rl.searcher import RlSearcher, play, real_episodes
from autoprune.searchers import SEARCHERS
from autoprune.settings import AgentSettings, SearcherSettings, SearchSettings, TargetSettings
from helpers import toy

INSTALL = r'pip install "\.\[search\]"'
SETTINGS = {
    "evolution": ("cmaes", {"searcher": SearcherSettings("evolution")}),
    "bayes": ("optuna", {"searcher": SearcherSettings("bayes")}),
    "tqc": ("sb3_contrib", {"agent": AgentSettings("tqc")}),
    "recurrent_ppo": ("sb3_contrib", {"agent": AgentSettings("recurrent_ppo")}),
}


def settings(**options):
    return SearchSettings(target=TargetSettings("cpu"), **options)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_library_is_named_before_anything_is_trained(name, monkeypatch):
    library, options = SETTINGS[name]
    monkeypatch.setitem(sys.modules, library, None)
    assert name in SEARCHERS or name in AGENTS
    with pytest.raises(SettingsError, match=f"={name} needs {library}, which cannot be imported .*{INSTALL}"):
        validate_choices(settings(**options))


@pytest.mark.parametrize("name", ["evolution", "bayes"])
def test_a_missing_library_costs_no_evaluation(name, monkeypatch):
    monkeypatch.setitem(sys.modules, SETTINGS[name][0], None)
    evaluator = toy.ToyEvaluator()
    with pytest.raises(SettingsError, match=INSTALL):
        toy.search(name, 5, evaluator=evaluator)
    assert evaluator.calls == 0


def evaluations_of(name):
    """How many plans of the toy a searcher, or an agent by its name, has evaluated."""
    evaluator = toy.ToyEvaluator()
    toy.search(name, 2, evaluator=evaluator)
    return evaluator.calls


@pytest.mark.parametrize("name", ["uniform", "uniform_skip", "uniform_width", "random", "greedy"])
def test_a_searcher_that_needs_no_library_runs_without_any(name, monkeypatch):
    for library, _ in SETTINGS.values():
        monkeypatch.setitem(sys.modules, library, None)
    validate_choices(settings(searcher=SearcherSettings(name)))
    assert evaluations_of(name) > 0


@pytest.mark.parametrize("name", ["td3", "ddpg", "sac", "ppo"])
def test_an_agent_that_needs_no_library_runs_without_any(name, monkeypatch):
    for library, _ in SETTINGS.values():
        monkeypatch.setitem(sys.modules, library, None)
    validate_choices(settings(agent=AgentSettings(name)))
    assert evaluations_of(name) == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_installed_is_not_refused(name):
    validate_choices(settings(**SETTINGS[name][1]))
    assert evaluations_of(name) == 2


def test_unknown_searcher_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="no searcher 'greedi'. Did you mean 'greedy'"):
        validate_choices(settings(searcher=SearcherSettings("greedi")))


def test_a_policy_with_a_memory_is_not_stored(messages):
    evaluator = toy.budgeted(4)
    searcher = RlSearcher(evaluator.problem, evaluator, AgentSettings("recurrent_ppo"), seed=0)
    searcher.run()
    assert searcher.policy is None
    assert "recurrent_ppo has a memory: its policy is not stored" in messages()


def test_the_last_plan_is_made_with_the_memory_of_the_earlier_groups():
    told = []

    class Remembering:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            told.append((state, bool(episode_start[0]), deterministic))
            return np.zeros((1, 1)), len(told)

    play(Remembering(), real_episodes(toy.budgeted(1)))
    assert told == [(None, True, True), (1, False, True), (2, False, True), (3, False, True)]
