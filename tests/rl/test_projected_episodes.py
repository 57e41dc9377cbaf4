"""With plans projected onto the budget, an agent learns from the episode of the plan that it is paid for."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from autoprune.envs.episode import retrace, roll_out
from autoprune.rl.agents import build_agent, check_agent
from autoprune.rl.searcher import Relabeling, real_episodes
from autoprune.settings import AgentSettings
from helpers import toy

STEPS = len(toy.NAMES)


class Knowing:
    """Predictions that are always right."""

    ready, error = True, None

    def predict_all(self, values):
        return values / toy.SIZE @ np.array(toy.TIME), None

    def observe(self, values, cost):
        pass


class Rollouts(BaseCallback):
    """Keeps what the buffer of an on-policy agent holds when it learns."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        parts = buffer.observations, buffer.actions, buffer.values, buffer.log_probs, buffer.returns
        # (episodes side by side, steps, ...)
        self.kept.append([part.swapaxes(0, 1).copy() for part in parts])
        observations, actions = (torch.as_tensor(part).flatten(0, 1) for part in self.kept[-1][:2])
        with torch.no_grad():
            self.thought = self.model.policy.evaluate_actions(observations, actions)


def learn(name, episodes, *callbacks, batch=1):
    evaluator = toy.budgeted(episodes + 1, surrogate=Knowing(), project=True)
    settings = AgentSettings(name)
    kind = check_agent(settings)
    real = real_episodes(evaluator, kind.side_by_side or batch)
    agent = build_agent(kind, settings, real, steps=STEPS, episodes=episodes + 1, seed=0)
    agent.learn(episodes * STEPS, callback=[Relabeling(real.context), *callbacks])
    return agent, real.context, evaluator.history


def check_episode(context, trial, observations, actions):
    replayed = iter(actions)
    assert roll_out(context, lambda observation: np.array([next(replayed)])) == trial.candidate
    np.testing.assert_allclose(observations, retrace(context, actions), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["td3", "sac"])
def test_a_replay_buffer_holds_the_episodes_of_the_evaluated_plans(name, batch):
    agent, context, history = learn(name, 9, batch=batch)
    buffer = agent.replay_buffer
    assert len(history) == 9
    for number, trial in enumerate(history):
        played, lane = divmod(number, batch)
        places = slice(played * STEPS, (played + 1) * STEPS)
        check_episode(context, trial, buffer.observations[places, lane], buffer.actions[places, lane, 0].tolist())
        following = buffer.next_observations[places, lane][:-1]
        np.testing.assert_array_equal(following, buffer.observations[places, lane][1:])
        assert buffer.rewards[places, lane].sum() == pytest.approx(trial.reward)
    budget = toy.problem().budget
    assert all(budget.met_by(evaluation.cost) for evaluation in history.evaluations), "they were projected"


def test_an_on_policy_agent_learns_from_three_side_by_side_with_what_it_thinks_of_them():
    rollouts = Rollouts()
    _, context, history = learn("ppo", 6, rollouts)
    assert [len(rollout[0]) for rollout in rollouts.kept] == [3, 3]
    trials = iter(history)
    for rollout in rollouts.kept:
        for observations, actions, *_, returns in zip(*rollout, strict=True):
            trial = next(trials)
            check_episode(context, trial, observations, actions[:, 0].tolist())
            np.testing.assert_allclose(returns, trial.reward, rtol=1e-5)
    values, log_probabilities = rollouts.kept[-1][2:4]
    thought_values, thought_log_probabilities, _ = rollouts.thought  # Of the last rollout.
    np.testing.assert_allclose(values.flatten(), thought_values[:, 0], rtol=1e-4)
    np.testing.assert_allclose(log_probabilities.flatten(), thought_log_probabilities, rtol=1e-4)
