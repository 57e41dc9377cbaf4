"""Replaying and adapting policies, and learning one on several problems, on worlds whose best plan is known."""

from dataclasses import replace

import numpy as np
import pytest
import toy

from autoprune.envs import ENV_ID
from autoprune.envs.making import learnt_policy, training_record
from autoprune.envs.observation import FEATURES
from autoprune.errors import PolicyError, SettingsError
from autoprune.searchers import Scorer
from autoprune.searchers.agents import AGENTS
from autoprune.searchers.joint import JointLearner, Lesson
from autoprune.searchers.policy import Policy, load_policy, save_policy
from autoprune.searchers.replay import Replay, widest_within
from autoprune.searchers.rl import RlSearcher
from autoprune.settings import AgentSettings, SearchSettings

STORED = [name for name in AGENTS if AGENTS.get(name).actor is not None]


def stored(actor, folder, agent="dyna_ppo"):
    """A policy as a later process would read it."""
    settings = SearchSettings(agent=AgentSettings(agent))
    save_policy(learnt_policy(actor, training_record(settings, ["toy"], toy.TARGET)), folder)
    return load_policy(folder, FEATURES, ENV_ID)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    searcher = RlSearcher(toy.make_env, AgentSettings("dyna_ppo"))
    searcher(toy.problem(), Scorer(toy.ToyEvaluator(), "rl", 30), 0)
    return stored(searcher.actor, tmp_path_factory.mktemp("policy"))


def replayed(policy, budget, evaluations=1, seed=0):
    scorer = Scorer(toy.ToyEvaluator(), "replay", evaluations)
    searcher = Replay(toy.make_env, policy)
    searcher(toy.problem(budget), scorer, seed)
    return searcher, scorer


def constant(action):
    """A policy that always does the same."""
    layers = ((np.zeros((1, len(FEATURES)), np.float32), np.full(1, action, np.float32)),)
    return Policy(layers, "tanh", False, FEATURES, "", ENV_ID, {"agent": "dyna_ppo"})


# ------------------------------------------------------------------ replaying as it is


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.7])
def test_a_replayed_plan_is_within_a_budget_it_was_not_learnt_for_and_beats_uniform(policy, budget):
    _, scorer = replayed(policy, budget)
    (found,) = scorer.course
    problem = toy.problem(budget)
    assert scorer.means == ["replayed"]
    assert problem.objective.met_by(found)
    uniform = toy.evaluation_of(problem.anchor)
    # At least a third of the way from uniform pruning to the best of all plans.
    assert found.score - uniform.score > (toy.best_accuracy(budget) - uniform.score) / 3


def test_the_plan_uses_the_budget_up(policy):
    """No wider plan of the policy, of those around, would have been within the budget."""
    problem, scorer = toy.problem(0.5), Scorer(toy.ToyEvaluator(), "replay", 1)
    plan = widest_within(problem, scorer, toy.make_env.rolled_out(problem, scorer, constant(0.0)))
    assert plan == dict.fromkeys(toy.NAMES, 0.5)
    # A policy that keeps more than uniform pruning is brought down, one that keeps less is brought up.
    for action in (0.6, -0.6):
        plan = widest_within(problem, scorer, toy.make_env.rolled_out(problem, scorer, constant(action)))
        assert problem.budget.met_by(toy.evaluation_of(plan).cost)
        assert toy.evaluation_of(plan).cost.latency > 0.5 - 0.13
    assert scorer.used == 0
    assert scorer.costed > 5


def test_a_policy_without_a_plan_within_the_budget_is_replaced_by_uniform():
    _, scorer = replayed(constant(1.0), 0.5)
    assert scorer.means == ["anchor"]
    assert scorer.course[0].keep_ratios == dict.fromkeys(toy.NAMES, 0.5)


# ------------------------------------------------------------------ adapting


@pytest.mark.parametrize("name", STORED)
def test_every_agent_goes_on_from_its_policy(name, tmp_path):
    searcher = RlSearcher(toy.make_env, AgentSettings(name))
    searcher(toy.problem(), Scorer(toy.ToyEvaluator(), "rl", 9), 0)
    policy = stored(searcher.actor, tmp_path, name)
    adapted, scorer = replayed(policy, 0.5, evaluations=8)
    assert len(scorer.course) == 8
    assert scorer.means[0] in ("replayed", "anchor")
    assert toy.problem().objective.best(scorer.course) is not None
    assert [w.shape for w, _ in adapted.actor["layers"]] == [w.shape for w, _ in policy.layers]


def test_adapting_begins_as_the_policy(policy):
    """With no time to learn, the agent's own plan at the end is the policy's."""
    problem = toy.problem()
    settings = replace(AgentSettings("ppo"), net=[len(bias) for _, bias in policy.layers[:-1]])
    # An evaluation is left, and a plan has met the budget: the last one is the policy's own.
    scorer = Scorer(toy.ToyEvaluator(), "replay", 2)
    scorer.evaluate(0.5)
    RlSearcher(toy.make_env, settings, start=policy)(problem, scorer, 0)
    alone = toy.make_env.rolled_out(problem, scorer, policy)(0.5)
    assert scorer.course[-1].widths == problem.legal.all_nearest(alone)


def test_adapting_finds_better_plans_than_the_replayed_one(policy):
    for seed in range(2):
        _, scorer = replayed(policy, 0.35, evaluations=15, seed=seed)
        best = toy.problem(0.35).objective.best(scorer.course)
        assert best.score >= scorer.course[0].score
        assert toy.best_accuracy(0.35) - best.score < 0.015


def test_the_same_seed_adapts_alike(policy):
    courses = [[e.key for e in replayed(policy, 0.4, evaluations=8)[1].course] for _ in range(2)]
    assert courses[0] == courses[1]


def test_a_policy_of_an_unknown_agent_can_only_be_replayed():
    unknown = replace(constant(0.0), record={"agent": "oracle"})
    _, scorer = replayed(unknown, 0.5)
    assert len(scorer.course) == 1
    with pytest.raises(PolicyError, match=r"'oracle' learnt it.*replay.evaluations=0"):
        replayed(unknown, 0.5, evaluations=2)


def test_a_policy_of_another_form_than_its_agent_says_is_not_adapted(policy):
    with pytest.raises(PolicyError, match="no agent of that name has such an actor"):
        replayed(replace(policy, record={"agent": "td3"}), 0.5, evaluations=2)


# ------------------------------------------------------------------ several problems


def lessons(evaluations, budgets=(0.35, 0.7)):
    return [
        Lesson(toy.problem(budget), Scorer(toy.ToyEvaluator(), f"joint@{budget}", evaluations), toy.make_env)
        for budget in budgets
    ]


@pytest.mark.parametrize("name", STORED)
def test_one_policy_is_learnt_on_several_problems(name):
    learner, taught = JointLearner(AgentSettings(name)), lessons(7)
    learner(taught, 0)
    for lesson in taught:
        assert len(lesson.scorer.course) == 7
        assert lesson.problem.objective.best(lesson.scorer.course) is not None or name != "dyna_ppo"
    assert learner.actor["layers"][-1][0].shape[0] == 1


def test_a_policy_of_several_budgets_serves_those_between(tmp_path):
    learner = JointLearner(AgentSettings("dyna_ppo"))
    learner(lessons(20), 0)
    policy = stored(learner.actor, tmp_path)
    for budget in (0.35, 0.5, 0.7):
        _, scorer = replayed(policy, budget)
        problem = toy.problem(budget)
        uniform = toy.evaluation_of(problem.anchor)
        assert problem.objective.met_by(scorer.course[0])
        assert scorer.course[0].score > uniform.score


def test_joint_learning_repeats_itself():
    actors = []
    for _ in range(2):
        learner = JointLearner(AgentSettings("dyna_ppo"))
        learner(lessons(6), 3)
        actors.append(learner.actor["layers"])
    for (weights, bias), (again, bias_again) in zip(*actors, strict=True):
        np.testing.assert_array_equal(weights, again)
        np.testing.assert_array_equal(bias, bias_again)


def test_an_agent_with_a_memory_has_nothing_to_replay():
    pytest.importorskip("sb3_contrib")
    with pytest.raises(SettingsError, match="has a memory"):
        JointLearner(AgentSettings("recurrent_ppo"))
