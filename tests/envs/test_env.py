"""The environment: both checkers, what is seen, done and paid for, on the toy and on a real model."""

import warnings

import gymnasium
import numpy as np
import pytest
import toy
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check
from topologies import TOPOLOGIES, made

from autoprune.envs import ENV_ID
from autoprune.envs.action import keep_ratio
from autoprune.envs.facts import read_facts
from autoprune.envs.observation import FEATURES, Situation, observe, shares
from autoprune.errors import AutopruneError
from autoprune.planning import Planner
from autoprune.planning.widths import legal_widths
from autoprune.records import Budget
from autoprune.searchers import Scorer
from autoprune.settings import Constraints

BUDGETED = Budget(latency=toy.BUDGET)


class Evaluating:
    """Whatever the environment needs of a scorer."""

    def __init__(self, evaluate):
        self.evaluate = evaluate


def toy_env(evaluate=toy.evaluation_of):
    return toy.make_env(toy.problem(), Evaluating(evaluate))


def play(env, actions):
    observations = [env.reset(seed=0)[0]]
    for action in actions:
        observation, reward, ended, cut, info = env.step(np.array([action], np.float32))
        observations.append(observation)
    return observations, reward, ended, cut, info


def test_both_checkers_pass_without_a_warning():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        # Gymnasium's checker warns that it was given a wrapped environment: give it the bare one.
        gymnasium_check(toy_env().unwrapped, skip_render_check=True)
        sb3_check(toy_env())
    assert not [str(warning.message) for warning in warned]


def test_the_id_carries_a_version():
    assert ENV_ID == "autoprune/ChannelPruning-v0"
    assert gymnasium.spec(ENV_ID).version == 0


def test_an_episode_decides_one_group_after_the_other_and_scores_once():
    calls = []

    def evaluate(ratios):
        calls.append(ratios)
        return toy.evaluation_of(ratios)

    _, reward, ended, cut, info = play(toy_env(evaluate), [0, 1, -1, 0])
    assert calls == [{"a": 0.5, "b": 1.0, "c": 0.125, "d": 0.5}]
    assert (ended, cut) == (True, False)
    assert reward == pytest.approx(sum(info["terms"].values()))
    assert info["evaluation"].widths == {"a": 32, "b": 64, "c": 8, "d": 32}


def test_rewards_before_the_end_are_zero():
    env = toy_env()
    env.reset()
    for _ in range(3):
        _, reward, ended, _, info = env.step(np.zeros(1, np.float32))
        assert (reward, ended, info) == (0.0, False, {})


def test_same_actions_same_episode():
    first, again = (play(toy_env(), [0.3, -0.2, 0.9, -0.7]) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


def test_step_after_the_end_is_refused():
    env = toy_env().unwrapped
    play(env, [0, 0, 0, 0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused(value):
    env = toy_env().unwrapped
    env.reset()
    with pytest.raises(gymnasium.error.InvalidAction, match=f"number from -1 to 1. Received: {value}"):
        env.step(np.array([value], np.float32))
    env.step(np.zeros(1, np.float32))  # Nothing was decided by it.
    with pytest.raises(AutopruneError, match="has diverged"):  # Which imagined episodes and replays go by too.
        keep_ratio(np.array([value]), (8, 16), 0.5, 0.1)


# ------------------------------------------------------------------ observation


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_model_is_seen_within_the_bounds_and_by_its_own_features(name):
    model = made(name)
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    facts = read_facts(model, planner)
    situation = Situation(facts, 0.5, 1.0, 0.6, 0.1, toy.TARGET)
    seen = [observe(situation, [0.5] * index, 0.2) for index in range(len(planner.groups))]
    for observation in seen:
        assert observation.shape == (len(FEATURES),)
        assert observation.dtype == np.float32
        assert np.isfinite(observation).all()
        assert np.abs(observation).max() <= 1
    by_name = dict(zip(FEATURES, seen[0], strict=True))
    assert by_name["flops_kept"] == pytest.approx(1)
    assert 0 < by_name["flops_share"] <= 1
    assert 0 < by_name["parameter_share"] <= 1


def test_estimated_operations_are_the_real_ones():
    """What the agent is told of the operations left is what the pruned model has."""
    from autoprune.cost.flops import count_flops
    from autoprune.surgery import apply_plan

    for name in ("plain", "residual", "growing_concatenation", "depthwise", "unet", "flatten_head"):
        model = made(name)
        planner = Planner(model, constraints=Constraints(multiple_of=1))
        facts, dense = read_facts(model, planner), count_flops(model, 1)
        plan = planner.plan(0.5)
        expected = facts.flops_share([plan.keep_ratios[group.name] for group in planner.groups])
        apply_plan(model, plan)
        assert count_flops(model, 1) / dense == pytest.approx(expected, rel=1e-6), name


def test_features_change_with_what_they_name():
    base = Situation(toy.facts(), 0.5, 1.0, 0.5, 0.125, toy.TARGET)
    first = dict(zip(FEATURES, observe(base, [], 0.0), strict=True))
    later = dict(zip(FEATURES, observe(base, [0.5, 0.25], -0.5), strict=True))
    assert (first["position"], later["position"]) == (0, pytest.approx(2 / 3))
    assert later["previous_action"] == -0.5
    assert later["flops_kept"] == pytest.approx(0.1 * 0.5 + 0.4 * 0.25 + 0.1 + 0.4)
    assert later["flops_least"] == pytest.approx(0.1 * 0.5 + 0.4 * 0.25 + 0.5 * 0.125)
    assert first["lane_fill"] == 0.5


def test_budget_shares():
    dense = toy.evaluation_of(1.0)
    assert shares(Budget(latency=0.25), dense) == (0.25, 1.0)
    assert shares(Budget(memory=1500), dense) == (1.0, 0.5)


# ------------------------------------------------------------------ action


@given(action=st.floats(-3, 3), size=st.integers(1, 300), anchor=st.floats(0.2, 0.9))
def test_actions_give_legal_widths(action, size, anchor):
    widths = legal_widths(size, Constraints(multiple_of=8, min_keep_ratio=0.1))
    width = keep_ratio(np.array([action], np.float32), widths, anchor, 0.1) * size
    assert width == pytest.approx(round(width))
    assert round(width) == size or round(width) % 8 == 0
    assert width >= 0.1 * size - 1e-6


def test_the_three_points_of_an_action():
    widths = range(8, 65, 8)
    assert [keep_ratio(np.array([a]), widths, 0.5, 0.125) for a in (-1, 0, 1)] == [0.125, 0.5, 1.0]


def test_env_through_a_scorer_counts_evaluations():
    scorer = Scorer(toy.ToyEvaluator(), "rl", 2)
    play(toy_env(scorer.evaluate), [0, 0, 0, 0])
    assert (scorer.used, scorer.left) == (1, 1)
