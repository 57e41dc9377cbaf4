"""Makes environments for a searcher, and policies of what was learnt in them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.searchers import Problem, Scorer
from autoprune.searchers.policy import Policy
from autoprune.settings import SearchSettings
from envs import ENV_ID
from envs.action import MEANING
from envs.facts import read_facts
from envs.observation import FEATURES, Situation, shares
from envs.pruning_env import PruningTask


def env_maker(model: Any, planner: Planner, target: Target) -> Callable[[Problem, Scorer], gymnasium.Env]:
    """What `RlSearcher` needs: makes the environment of a problem around a scorer.

    Args:
        model: the dense model; its facts are read now.
        planner: made for the model.
        target: what the cost is for.
    """
    facts = read_facts(model, planner)

    def make(problem: Problem, scorer: Scorer) -> gymnasium.Env:
        latency, memory = shares(problem.budget, problem.dense)
        minimum = problem.legal.minimum
        guess = latency_guess(problem, scorer)
        situation = Situation(facts, latency, memory, problem.anchor, minimum, target, guess)
        task = PruningTask(situation, problem.legal, problem.objective, scorer.evaluate)
        return gymnasium.make(ENV_ID, task=task)

    return make


def latency_guess(problem: Problem, scorer: Scorer) -> Callable[[Sequence[float]], float | None]:
    """The share of the dense latency that the scorer's surrogate guesses for keep ratios, once it has learnt."""

    def guess(keep_ratios: Sequence[float]) -> float | None:
        if scorer.surrogate is None or not scorer.surrogate.ready:
            return None
        names = (group.name for group in problem.groups)
        widths = problem.legal.all_nearest(dict(zip(names, keep_ratios, strict=True)))
        return scorer.surrogate.predict(widths).latency / problem.dense.cost.latency

    return guess


def learnt_policy(
    actor: Mapping[str, Any] | None, settings: SearchSettings, model: str, target: Target
) -> Policy | None:
    """What an agent has learnt, ready to be stored, with how it was trained; None when nothing was learnt.

    Args:
        actor: what `RlSearcher.actor` holds.
        settings: of the search.
        model: name of the model.
        target: what its cost was for.
    """
    if actor is None:
        return None
    record = {
        "agent": settings.agent.name,
        "evaluations": settings.search.evaluations,
        "seed": settings.seed,
        "model": model,
        "data": settings.data.name,
        "target": dataclasses.asdict(target),
        "budget": dataclasses.asdict(settings.budget),
        "constraints": dataclasses.asdict(settings.constraints),
    }
    return Policy(**actor, features=FEATURES, meaning=MEANING, environment=ENV_ID, record=record)
