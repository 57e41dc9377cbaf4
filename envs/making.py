"""Makes environments for a searcher, and policies of what was learnt in them."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.searchers import Problem, Scorer
from autoprune.searchers.policy import Policy
from autoprune.settings import RewardSettings
from envs import ENV_ID
from envs.action import MEANING
from envs.facts import read_facts
from envs.observation import FEATURES, Situation, shares
from envs.pruning_env import PruningTask


def env_maker(
    model: Any, planner: Planner, reward: RewardSettings, target: Target
) -> Callable[[Problem, Scorer], gymnasium.Env]:
    """What `RlSearcher` needs: makes the environment of a problem around a scorer.

    Args:
        model: the dense model; its facts are read now.
        planner: made for the model.
        reward: name and weights of the reward.
        target: what the cost is for.
    """
    facts = read_facts(model, planner)

    def make(problem: Problem, scorer: Scorer) -> gymnasium.Env:
        latency, memory = shares(problem.budget, problem.dense)
        minimum = problem.constraints.min_keep_ratio
        situation = Situation(facts, latency, memory, problem.anchor, minimum, target)
        task = PruningTask(situation, problem.constraints, problem.budget, problem.dense, reward, scorer.evaluate)
        return gymnasium.make(ENV_ID, task=task)

    return make


def as_policy(actor: Mapping[str, Any], record: Mapping[str, Any]) -> Policy:
    """A learnt actor as a policy that can be stored.

    Args:
        actor: what `RlSearcher.actor` holds.
        record: how it was trained.
    """
    return Policy(**actor, features=FEATURES, meaning=MEANING, environment=ENV_ID, record=record)
