"""The environment: both checkers, what is seen, done and paid for, on the toy and on a real model."""

import dataclasses
import functools
import itertools
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

from autoprune.cost.flops import flops_per_layer
from autoprune.envs import ENV_ID
from autoprune.envs.episode import (
    FEATURES,
    EpisodeContext,
    EpisodeState,
    advance,
    begin,
    observe,
    retrace,
    roll_out,
)
from autoprune.envs.vector_env import PruningVecEnv, pay_by_evaluations
from autoprune.errors import AutopruneError
from autoprune.evaluation.contributions import measure_contributions
from autoprune.planning import Dimension, Planner, SearchSpace
from autoprune.planning.space import legal_widths
from autoprune.records import Budget, Evaluation
from autoprune.searchers import Trial
from autoprune.searchers.features import read_features
from autoprune.settings import Constraints
from helpers import toy
from helpers.topologies import TOPOLOGIES, images_for, made

CONTEXT = EpisodeContext.of(toy.problem())


def toy_env(evaluate_many=None):
    """By its id, as anybody makes it."""
    evaluate_many = evaluate_many or toy.budgeted(1000).evaluate_many
    return gymnasium.make(ENV_ID, context=CONTEXT, objective=toy.problem().objective, evaluate_many=evaluate_many)


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
    assert ENV_ID == "autoprune/ChannelPruning-v2"
    assert gymnasium.spec(ENV_ID).version == 2


def test_an_episode_decides_one_group_after_the_other_and_scores_once():
    evaluator = toy.budgeted(2)
    _, reward, ended, cut, info = play(toy_env(evaluator.evaluate_many), [0, 1, -1, 0])
    (trial,) = evaluator.history
    assert info["trial"] is trial
    assert trial.evaluation.widths == {"a": 32, "b": 64, "c": 8, "d": 32}
    assert (ended, cut) == (True, False)
    assert reward == trial.reward == pytest.approx(sum(info["terms"].values()))


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
        roll_out(CONTEXT, lambda observation: np.array([value]))


# ------------------------------------------------------------------ observation


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_every_model_is_seen_within_the_bounds_and_by_its_own_features(name):
    model = made(name)
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    context = EpisodeContext(
        space=planner.space,
        features=read_features(model, planner),
        latency_budget=0.5,
        memory_budget=1.0,
        anchor=0.6,
        batch_size=8,
        on_tpu=True,
    )
    state, seen = begin(context, 1), []
    while state.step < len(planner.space):
        seen += list(observe(context, state))
        state = advance(context, state, np.array([-0.4]))
    assert not observe(context, state).any()
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
        features, dense, candidate = read_features(model, planner), count_flops(model, 1), planner.space.nearest(0.5)
        expected = features.flops_share(planner.space.keep_ratios(candidate))
        apply_plan(model, planner.space.plan(candidate))
        assert count_flops(model, 1) / dense == pytest.approx(expected, rel=1e-6), name


def test_features_change_with_what_they_name():
    half_way = EpisodeState(2, np.array([toy.SPACE.nearest([0.5, 0.25, 1.0, 1.0])]), np.array([-0.5]))
    first, later = (
        dict(zip(FEATURES, observe(CONTEXT, state)[0], strict=True)) for state in (begin(CONTEXT, 1), half_way)
    )
    assert (first["position"], later["position"]) == (0, pytest.approx(2 / 3))
    assert later["previous_action"] == -0.5
    assert later["flops_kept"] == pytest.approx(0.1 * 0.5 + 0.4 * 0.25 + 0.1 + 0.4)
    assert later["flops_least"] == pytest.approx(0.1 * 0.5 + 0.4 * 0.25 + 0.5 * 0.125)
    assert first["lane_fill"] == 0.5


# ------------------------------------------------------------------ branches


@functools.cache
def branching():
    """Residual blocks: planner, context and model."""
    model = made("residual")
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    contributions = measure_contributions(model, planner.branches, images_for(model, 16))
    seconds = dict.fromkeys(flops_per_layer(model), 1.0)
    cost = toy.cost_report(2.0 * len(seconds), toy.Memory(1, 1, 1, 3), layers=seconds)
    context = EpisodeContext(
        space=planner.space,
        features=read_features(model, planner, cost, contributions),
        latency_budget=0.5,
        memory_budget=1.0,
        anchor=0.6,
        batch_size=8,
        on_tpu=True,
    )
    return planner, context, contributions


def branching_env():
    planner, context, _ = branching()
    count = itertools.count(1)

    def evaluate_many(proposals):
        for proposal in proposals:
            plan = planner.space.plan(proposal.candidate)
            ratios = planner.space.keep_ratios(proposal.candidate).tolist()
            evaluation = Evaluation(
                key=str(proposal.candidate),
                keep_ratios=plan.keep_ratios,
                widths=plan.widths,
                accuracy=0.5,
                cost=toy.cost_report(float(context.features.flops_share(ratios)), toy.Memory(1, 1, 1, 3)),
                dropped=plan.dropped,
            )
            reward = toy.problem().objective.reward(evaluation)
            yield Trial(
                number=next(count),
                candidate=proposal.candidate,
                evaluation=evaluation,
                source="",
                reward=reward,
                seconds=0.0,
            )

    return gymnasium.make(
        ENV_ID,
        context=context,
        objective=toy.problem().objective,
        evaluate_many=lambda proposals: list(evaluate_many(proposals)),
    )


def test_both_checkers_pass_with_branches():
    assert branching()[0].branches
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(branching_env().unwrapped, skip_render_check=True)
        sb3_check(branching_env())


def test_parts_that_have_left_with_a_branch_have_no_effect():
    planner, context, _ = branching()
    space = planner.space
    branch, inner = space.names.index(planner.branches[0].name), space.names.index("inner1")
    actions = np.where(np.arange(len(space)) == branch, -0.51, 1.0)
    seen = [dict(zip(FEATURES, row, strict=True)) for row in retrace(context, actions.tolist())]
    assert [row["is_branch"] for row in seen] == [float(dimension.is_branch) for dimension in space.dimensions]
    assert seen[branch]["latency_if_middle"] == seen[branch]["latency_kept"] == 1
    assert seen[branch]["latency_if_least"] == pytest.approx(1 - seen[branch]["flops_share"])
    assert seen[inner]["latency_if_least"] == seen[inner]["latency_if_middle"] == seen[inner]["latency_kept"]
    assert seen[inner]["latency_kept"] == seen[branch]["latency_if_least"]
    # With the branch it has one.
    seen = [dict(zip(FEATURES, row, strict=True)) for row in retrace(context, [1.0] * len(space))]
    assert seen[inner]["latency_if_least"] < seen[inner]["latency_if_middle"] < seen[inner]["latency_kept"]
    # Whatever the actions there, the candidate is the same.
    env = branching_env()
    for action in (-1.0, 0.0, 1.0):
        actions[inner] = action
        trial = play(env, actions)[4]["trial"]
        assert trial.evaluation.dropped == (planner.branches[0].name,)
        assert trial.candidate[inner] == space.full[inner]


def test_a_branch_is_seen_with_what_it_holds_and_changes():
    planner, context, contributions = branching()
    for row, part, known in zip(context.fixed, planner.parts, context.features.dimensions, strict=True):
        seen = dict(zip(FEATURES, row, strict=True))
        if known.is_branch:
            assert 0 < seen["branch_change"] < 1
            assert seen["branch_change"] == contributions[part.name].change
            assert seen["branch_similarity"] == contributions[part.name].similarity < 1
        else:
            assert (seen["branch_change"], seen["branch_similarity"]) == (0, 1)
        assert 0 < seen["latency_share"] <= 0.5  # Half of the latency belongs to no layer.


def test_each_candidate_is_predicted_once():
    _, context, _ = branching()
    asked = []

    def predict(candidates):
        asked.append(candidates)
        return np.arange(len(candidates)) / 100

    seen = observe(dataclasses.replace(context, predict=predict), begin(context, 64))
    assert len(asked[0]) == len(np.unique(asked[0], axis=0)) <= 4
    np.testing.assert_array_equal(asked[0], context.space.canonical(asked[0]))
    assert (seen == seen[0]).all()


def test_budget_shares():
    for limits, shares in ((Budget(latency=0.25), (0.25, 1.0)), (Budget(memory=1500), (1.0, 0.5))):
        context = EpisodeContext.of(toy.problem(limits=limits))
        assert (context.latency_budget, context.memory_budget) == shares


# ------------------------------------------------------------------ action


def decide(action, size=64, anchor=0.5, constraints=toy.CONSTRAINTS):
    """What an action makes of a single group."""
    dimension = Dimension("a", tuple(legal_widths(size, constraints)), np.arange(size))
    space = SearchSpace([dimension], constraints.min_keep_ratio)
    context = EpisodeContext(
        space=space,
        features=toy.features(),
        latency_budget=1.0,
        memory_budget=1.0,
        anchor=anchor,
        batch_size=8,
        on_tpu=True,
    )
    return int(space.values(advance(context, begin(context, 1), np.array([action])).candidates[0])[0])


@given(action=st.floats(-3, 3), size=st.integers(1, 300), anchor=st.floats(0.2, 0.9))
def test_actions_give_legal_widths(action, size, anchor):
    width = decide(action, size, anchor, Constraints(multiple_of=8, min_keep_ratio=0.1))
    assert width == size or width % 8 == 0
    assert width >= 0.1 * size - 1e-6


def test_the_three_points_of_an_action():
    assert [decide(action) for action in (-1, 0, 1)] == [8, 32, 64]


# ------------------------------------------------------------------ side by side


def test_real_episodes_side_by_side_are_those_of_the_environment():
    evaluator = toy.budgeted(6)
    episodes = PruningVecEnv(CONTEXT, pay_by_evaluations(toy.problem().objective, evaluator.evaluate_many), 3)
    actions = np.random.default_rng(0).uniform(-1.2, 1.2, (4, 3, 1)).astype(np.float32)
    seen = [episodes.reset()]
    for step in actions:
        observation, rewards, ended, infos = episodes.step(step)
        seen.append(observation)
    assert ended.all()
    assert [info["trial"].number for info in infos] == [1, 2, 3]
    for episode in range(3):
        env = toy_env()
        np.testing.assert_array_equal(env.reset()[0], seen[0][episode])
        for number, step in enumerate(actions):
            observation, reward, over, _, info = env.step(step[episode])
            if not over:
                np.testing.assert_array_equal(observation, seen[number + 1][episode])
        assert info["trial"].candidate == infos[episode]["candidate"] == tuple(episodes.candidates[episode].tolist())
        assert reward == pytest.approx(rewards[episode])
    np.testing.assert_array_equal(seen[-1], seen[0])
