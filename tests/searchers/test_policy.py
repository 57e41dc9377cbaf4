"""Stored policies: what SB3 learnt is what NumPy computes, and foreign ones are refused."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES
from autoprune.errors import PolicyError
from autoprune.records.plain import write_json
from autoprune.rl.agents import AGENTS
from autoprune.rl.searcher import RlSearcher
from autoprune.rl.transfer import roll_outs
from autoprune.searchers.policy import load_policy, save_policy, training_record
from autoprune.settings import AgentSettings, SearchSettings
from helpers import toy


def learn(name, folder, evaluations=6):
    """The history of a search, whose policy is stored in a folder."""
    evaluator = toy.budgeted(evaluations)
    searcher = RlSearcher(evaluator.problem, evaluator, AgentSettings(name), seed=0)
    searcher.run()
    save_policy(replace(searcher.policy, record=training_record(SearchSettings(), ["toy"], toy.TARGET)), folder)
    return evaluator.history


@pytest.mark.parametrize("name", [name for name in AGENTS if not AGENTS.get(name).remembers])
def test_a_stored_policy_acts_as_the_agent_did(name, tmp_path):
    history = learn(name, tmp_path / "policy", 20)
    assert toy.problem().objective.best(history.evaluations[:-1]), "else the last evaluation is not the policy's"
    policy = load_policy(tmp_path / "policy", FEATURES, ENV_ID)
    assert policy.record["seed"] == 0
    assert policy.record["target"]["name"] == toy.TARGET.name
    # The last evaluation of a search is the policy's own plan: rolling the stored one out must give it again.
    assert roll_outs(toy.budgeted(1), policy)(toy.problem().anchor) == history[-1].candidate


def test_files_hold_no_pickle(tmp_path):
    learn("sac", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["actor.safetensors", "policy.json"]
    meta = json.loads((tmp_path / "policy.json").read_text())
    assert (meta["format"], meta["version"], meta["environment"]) == ("autoprune.policy", 2, ENV_ID)


@pytest.fixture
def stored(tmp_path):
    learn("td3", tmp_path)
    return tmp_path


def change(folder, **changes):
    meta = json.loads((folder / "policy.json").read_text())
    del meta["checksum"]
    write_json(folder / "policy.json", {**meta, **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "policy.json").unlink(), "there is no 'policy.json'"),
        (lambda f: (f / "policy.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "policy.json").write_text("[]"), "not a policy of version 2"),
        (lambda f: (f / "actor.safetensors").unlink(), "there is no 'actor.safetensors'"),
        (lambda f: (f / "actor.safetensors").write_bytes(b"\x00" * 40), "cannot be read"),
        (
            lambda f: (f / "actor.safetensors").write_bytes((f / "actor.safetensors").read_bytes()[:200]),
            "cannot be read",
        ),
        (lambda f: change(f, version=3), "not a policy of version 2"),
        (
            lambda f: change(f, environment="autoprune/ChannelPruning-v1"),
            "acts in 'autoprune/ChannelPruning-v1', this version's .*-v2'.*Train it anew with python -m autoprune",
        ),
        (lambda f: change(f, features=[*FEATURES[1:], "mood"]), r"lacks \['position'\] and expects \['mood'\]"),
        (lambda f: change(f, features=list(reversed(FEATURES))), "their order counts too"),
        (lambda f: change(f, feature_bounds=[0, 1]), r"features within \[0, 1\], this version's are"),
        (lambda f: change(f, record="me"), "malformed: ValueError"),
        (lambda f: change(f, layers=9), "malformed: KeyError"),
        (lambda f: change(f, layers=2), "does not end in one action"),
        (lambda f: change(f, activation="exec"), "unknown activation"),
    ],
)
def test_foreign_or_damaged_policies_are_refused(stored, spoil, message):
    spoil(stored)
    with pytest.raises(PolicyError, match=message):
        load_policy(stored, FEATURES, ENV_ID)


def test_actions_stay_within_their_bounds(stored):
    policy = load_policy(stored, FEATURES, ENV_ID)
    for seed in range(20):
        observation = np.random.default_rng(seed).uniform(-1, 1, len(FEATURES)).astype(np.float32)
        assert np.abs(policy.act(observation)).max() <= 1


def test_archives_of_sb3_are_not_read(tmp_path):
    (tmp_path / "best_model.zip").write_bytes(b"PK")
    with pytest.raises(PolicyError, match="archives of Stable-Baselines3 hold pickles and are not read"):
        load_policy(tmp_path / "best_model.zip", FEATURES, ENV_ID)


def test_a_run_folder_stands_for_its_policy(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "run" / "policy")
    assert load_policy(tmp_path / "run", FEATURES, ENV_ID).features == FEATURES


def test_weights_that_are_no_numbers_are_refused(stored):
    tensors = load_file(stored / "actor.safetensors")
    tensors["0.bias"][0] = np.nan
    save_file(tensors, stored / "actor.safetensors")
    with pytest.raises(PolicyError, match="does not hold the weights that policy.json was written with"):
        load_policy(stored, FEATURES, ENV_ID)
    change(stored, weights=hashlib.sha256((stored / "actor.safetensors").read_bytes()).hexdigest()[:16])
    with pytest.raises(PolicyError, match="weights that are no numbers"):
        load_policy(stored, FEATURES, ENV_ID)
