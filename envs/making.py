"""Makes environments for a searcher, and policies of what was learnt in them."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from autoprune import __version__
from autoprune.envs import ENV_ID
from autoprune.envs.action import MEANING, keep_ratio
from autoprune.envs.facts import read_facts
from autoprune.envs.imagined_env import ImaginedPruningEnv, ImaginedTask
from autoprune.envs.observation import FEATURES, Situation, observe, shares
from autoprune.envs.pruning_env import PruningTask
from autoprune.planning import Planner
from autoprune.planning.widths import LegalWidths
from autoprune.records import Target
from autoprune.searchers import Problem, Scorer
from autoprune.searchers.imagination import Imagination
from autoprune.searchers.policy import Policy
from autoprune.settings import BudgetSettings, SearchSettings

LIBRARIES = ("keras", "stable-baselines3", "torch", "gymnasium", "numpy")  # Noted with a policy.
MISSED = 0.3  # Reward that it costs an imagined plan to be certainly no result, besides the reward's own penalty.


class EnvMaker:
    """What `RlSearcher` needs: makes environments of problems of one model around a scorer.

    Args:
        model: the dense model; its facts are read now.
        planner: made for the model.
        target: what the cost is for.
    """

    def __init__(self, model: Any, planner: Planner, target: Target) -> None:
        self._facts = read_facts(model, planner)
        self._target = target

    def __call__(self, problem: Problem, scorer: Scorer) -> gymnasium.Env:
        """An environment in which every episode is an evaluation by the scorer."""
        situation = self._situation(problem, latency_guess(problem, scorer))
        task = PruningTask(situation, problem.legal, problem.objective, scorer.evaluate)
        return gymnasium.make(ENV_ID, task=task)

    def imagined(self, problem: Problem, scorer: Scorer, imagination: Imagination, count: int) -> ImaginedPruningEnv:
        """Episodes side by side that are paid by guesses."""
        return imagined_env(self._situation(problem), problem, scorer, imagination, count)

    def rolled_out(self, problem: Problem, scorer: Scorer, policy: Policy) -> Callable[[float], dict[str, float]]:
        """From the keep ratio that action 0 stands for to the keep ratios that a policy chooses, by group name."""
        situation = self._situation(problem, latency_guess(problem, scorer))
        return lambda anchor: rolled_out(policy, replace(situation, anchor=anchor), problem.legal)

    def _situation(self, problem: Problem, *guess: Callable[[Sequence[float]], float | None]) -> Situation:
        latency, memory = shares(problem.budget, problem.dense)
        minimum = problem.legal.minimum
        return Situation(self._facts, latency, memory, problem.anchor, minimum, self._target, *guess)


def rolled_out(policy: Policy, situation: Situation, legal: LegalWidths) -> dict[str, float]:
    """The keep ratios that a policy chooses, group by group, without exploration; nothing is scored.

    Args:
        policy: a stored one.
        situation: of the episode.
        legal: widths of the groups.
    """
    chosen, previous = {}, 0.0
    for group in situation.facts.groups:
        action = policy.act(observe(situation, list(chosen.values()), previous))
        chosen[group.name] = keep_ratio(action, legal.of(group.name), situation.anchor, situation.minimum)
        previous = float(np.clip(action[0], -1, 1))
    return chosen


def latency_guess(problem: Problem, scorer: Scorer) -> Callable[[Sequence[float]], float | None]:
    """The share of the dense latency that the scorer's surrogate guesses for keep ratios, once it has learnt."""
    guesses = latency_guesses(problem, scorer)

    def guess(keep_ratios: Sequence[float]) -> float | None:
        found = guesses(np.array([keep_ratios]))
        return None if found is None else float(found[0])

    return guess


def latency_guesses(problem: Problem, scorer: Scorer) -> Callable[[np.ndarray], np.ndarray | None]:
    """The same for (m, groups) keep ratios."""
    groups = problem.groups

    def guesses(keep_ratios: np.ndarray) -> np.ndarray | None:
        if scorer.surrogate is None or not scorer.surrogate.ready:
            return None
        widths = [
            [problem.legal.nearest(group.name, ratio) for group, ratio in zip(groups, one, strict=True)]
            for one in keep_ratios
        ]
        return scorer.surrogate.predict_all(np.array(widths, float))[0] / problem.dense.cost.latency

    return guesses


def imagined_env(
    situation: Situation, problem: Problem, scorer: Scorer, imagination: Imagination, count: int
) -> ImaginedPruningEnv:
    """Imagined episodes of a problem: rewards are expected ones, less for plans that may miss the budget or the floor.

    A plan that is guessed to meet the budget, or the floor of the score, only just would be the best place for an
    agent, and half of such plans miss it: what a plan is paid is weighed by how likely it is to be a result.
    """

    def rewards(widths: np.ndarray) -> np.ndarray:
        guesses = imagination.guesses(widths)
        return guesses.rewards - (1 - guesses.able) * MISSED

    task = ImaginedTask(situation, problem.legal, latency_guesses(problem, scorer), rewards)
    return ImaginedPruningEnv(task, count)


def learnt_policy(actor: Mapping[str, Any] | None, record: Mapping[str, Any]) -> Policy | None:
    """What an agent has learnt, ready to be stored; None when nothing was learnt.

    Args:
        actor: what `RlSearcher.actor` holds.
        record: how it was trained, from `training_record`.
    """
    if actor is None:
        return None
    return Policy(**actor, features=FEATURES, meaning=MEANING, environment=ENV_ID, record=record)


def training_record(
    settings: SearchSettings, models: Sequence[str], target: Target, budgets: Sequence[BudgetSettings] | None = None
) -> dict[str, Any]:
    """How a policy was trained: it is stored with the policy, and tells later which agent can go on from it.

    Args:
        settings: of the search.
        models: names of the models.
        target: what their cost was for.
        budgets: on which it was trained; None is that of the settings.
    """
    return {
        "agent": settings.agent.name,
        "evaluations": settings.search.evaluations,
        "seed": settings.seed,
        "models": list(models),
        "data": settings.data.name,
        "target": dataclasses.asdict(target),
        "budgets": [dataclasses.asdict(budget) for budget in budgets or [settings.budget]],
        "constraints": dataclasses.asdict(settings.constraints),
        "evaluation": dataclasses.asdict(settings.evaluation),
        # A source checkout has no metadata.
        "versions": {"autoprune": __version__, **{name: importlib.metadata.version(name) for name in LIBRARIES}},
    }
