"""Replaying and adapting policies, and learning one on several problems, on worlds whose best plan is known."""

from dataclasses import replace

import numpy as np
import pytest

from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES
from autoprune.errors import PolicyError, SettingsError
from autoprune.rl.agents import AGENTS
from autoprune.rl.multi_task import MultiTaskTrainer
from autoprune.rl.searcher import RlSearcher
from autoprune.rl.transfer import PolicyTransfer, find_widest_within, roll_outs
from autoprune.searchers import Proposal
from autoprune.searchers.policy import Policy, load_policy, save_policy, training_record
from autoprune.settings import AgentSettings, SearchSettings
from helpers import toy

STORED = [name for name in AGENTS if not AGENTS.get(name).remembers]


def store(policy, folder, agent="dyna_ppo"):
    """A policy as a later process would read it."""
    settings = SearchSettings(agent=AgentSettings(agent))
    save_policy(replace(policy, record=training_record(settings, ["toy"], toy.TARGET)), folder)
    return load_policy(folder, FEATURES, ENV_ID)


def learn(agent, evaluations):
    evaluator = toy.budgeted(evaluations)
    searcher = RlSearcher(evaluator.problem, evaluator, AgentSettings(agent), seed=0)
    searcher.run()
    return searcher.policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return store(learn("dyna_ppo", 30), tmp_path_factory.mktemp("policy"))


def replay(policy, budget, evaluations=1, seed=0):
    evaluator = toy.budgeted(evaluations, to_search=toy.problem(budget))
    searcher = PolicyTransfer(evaluator.problem, evaluator, policy, seed=seed)
    searcher.run()
    return searcher, evaluator


def constant(action):
    """A policy that always does the same."""
    layers = ((np.zeros((1, len(FEATURES)), np.float32), np.full(1, action, np.float32)),)
    return Policy(
        layers=layers,
        activation="tanh",
        squash=False,
        features=FEATURES,
        meaning="",
        environment=ENV_ID,
        record={"agent": "dyna_ppo"},
    )


# ------------------------------------------------------------------ replaying as it is


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.7])
def test_a_replayed_plan_is_within_a_budget_it_was_not_learnt_for_and_beats_uniform(policy, budget):
    _, evaluator = replay(policy, budget)
    problem, history = evaluator.problem, evaluator.history
    (found,) = history.evaluations
    assert history.sources == ["replayed"]
    assert problem.objective.met_by(found)
    uniform = toy.evaluation_of(problem.anchor)
    # At least a third of the way from uniform pruning to the best of all plans.
    assert found.score - uniform.score > (toy.best_accuracy(budget) - uniform.score) / 3


def test_the_plan_uses_the_budget_up(policy):
    """No wider plan of the policy, of those around, would have been within the budget."""
    evaluator = toy.budgeted(1)
    assert find_widest_within(evaluator, roll_outs(evaluator, constant(0.0))) == evaluator.problem.start
    # A policy that keeps more than uniform pruning is brought down, one that keeps less is brought up.
    for action in (0.6, -0.6):
        cost = toy.evaluate(find_widest_within(evaluator, roll_outs(evaluator, constant(action)))).cost
        assert evaluator.problem.budget.met_by(cost)
        assert cost.latency > 0.5 - 0.13
    assert evaluator.used == 0
    assert evaluator.costed > 5


def test_a_policy_without_a_plan_within_the_budget_is_replaced_by_uniform():
    (only,) = replay(constant(1.0), 0.5)[1].history
    assert only.source == "anchor"
    assert only.evaluation.keep_ratios == dict.fromkeys(toy.NAMES, 0.5)


# ------------------------------------------------------------------ adapting


@pytest.mark.parametrize("name", STORED)
def test_every_agent_goes_on_from_its_policy(name, tmp_path):
    policy = store(learn(name, 9), tmp_path, name)
    adapted, evaluator = replay(policy, 0.5, evaluations=8)
    assert evaluator.used == 8
    assert evaluator.history.sources[0] in ("replayed", "anchor")
    assert evaluator.history.best is not None
    assert [w.shape for w, _ in adapted.policy.layers] == [w.shape for w, _ in policy.layers]


def test_adapting_begins_as_the_policy(policy):
    """With no time to learn, the agent's own plan at the end is the policy's."""
    settings = replace(AgentSettings("ppo"), net=[len(bias) for _, bias in policy.layers[:-1]])
    # An evaluation is left, and a plan has met the budget: the last one is the policy's own.
    evaluator = toy.budgeted(2)
    evaluator.evaluate_many([Proposal(evaluator.problem.start)])
    RlSearcher(evaluator.problem, evaluator, settings, seed=0, start=policy).run()
    assert evaluator.history[-1].candidate == roll_outs(evaluator, policy)(0.5)


def test_adapting_finds_better_plans_than_the_replayed_one(policy):
    for seed in range(2):
        history = replay(policy, 0.35, evaluations=15, seed=seed)[1].history
        best = history.best.evaluation
        assert best.score >= history[0].evaluation.score
        assert toy.best_accuracy(0.35) - best.score < 0.015


def test_the_same_seed_adapts_alike(policy):
    found = [[t.candidate for t in replay(policy, 0.4, evaluations=8)[1].history] for _ in range(2)]
    assert found[0] == found[1]


def test_a_policy_of_an_unknown_agent_can_only_be_replayed():
    unknown = replace(constant(0.0), record={"agent": "oracle"})
    assert replay(unknown, 0.5)[1].used == 1
    with pytest.raises(PolicyError, match=r"'oracle' learnt it.*replay.evaluations=0"):
        replay(unknown, 0.5, evaluations=2)


def test_a_policy_of_another_form_than_its_agent_says_is_not_adapted(policy):
    with pytest.raises(PolicyError, match="no agent of that name has such an actor"):
        replay(replace(policy, record={"agent": "td3"}), 0.5, evaluations=2)


# ------------------------------------------------------------------ several problems


def tasks(evaluations, budgets=(0.35, 0.7), **limits):
    return [toy.budgeted(evaluations, to_search=toy.problem(budget), **limits) for budget in budgets]


@pytest.mark.parametrize("name", STORED)
def test_one_policy_is_learnt_on_several_problems(name):
    learned_on = tasks(7)
    policy = MultiTaskTrainer(AgentSettings(name)).train(learned_on, 0)
    for task in learned_on:
        assert task.used == 7
        assert task.history.best is not None or name != "dyna_ppo"
    assert policy.layers[-1][0].shape[0] == 1


def test_episodes_of_several_problems_are_played_side_by_side():
    learned_on = tasks(8, batch=3)
    MultiTaskTrainer(AgentSettings("td3")).train(learned_on, 0)
    assert [task.used for task in learned_on] == [8, 8]


@pytest.mark.slow
def test_a_policy_of_several_budgets_serves_those_between(tmp_path):
    policy = store(MultiTaskTrainer(AgentSettings("dyna_ppo")).train(tasks(20), 0), tmp_path)
    for budget in (0.35, 0.5, 0.7):
        (found,) = replay(policy, budget)[1].history.evaluations
        problem = toy.problem(budget)
        assert problem.objective.met_by(found)
        assert found.score > toy.evaluation_of(problem.anchor).score


@pytest.mark.slow
def test_joint_learning_repeats_itself():
    found = [MultiTaskTrainer(AgentSettings("dyna_ppo")).train(tasks(6), 3).layers for _ in range(2)]
    for (weights, bias), (again, bias_again) in zip(*found, strict=True):
        np.testing.assert_array_equal(weights, again)
        np.testing.assert_array_equal(bias, bias_again)


def test_an_agent_with_a_memory_has_nothing_to_replay():
    pytest.importorskip("sb3_contrib")
    with pytest.raises(SettingsError, match="has a memory"):
        MultiTaskTrainer(AgentSettings("recurrent_ppo"))
