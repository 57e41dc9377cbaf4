"""Searches with an agent of Stable-Baselines3, or of sb3-contrib where that is installed.

The environment is handed in: it scores plans through the same `Scorer` as every searcher, one evaluation per
episode. The last evaluation is spent on the plan of the learnt policy without exploration, or on uniform pruning when
nothing has met the budget.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from autoprune.errors import SettingsError
from autoprune.registry import Registry, suggestion
from autoprune.searchers.dyna import EPISODES, Dyna
from autoprune.searchers.extras import extra
from autoprune.searchers.imagination import Imagination
from autoprune.searchers.problem import Problem
from autoprune.searchers.scorer import EvaluationsSpent, Scorer, needs_anchor
from autoprune.settings import AgentSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentKind:
    """An SB3 algorithm and how it is set up for episodes this short and this few.

    Attributes:
        algorithm: gives the SB3 class.
        options: from steps per episode and number of episodes to keyword arguments of the class.
        actor: from the policy to the modules between observation and mean action, of which linear ones are layers; None
            for an actor that remembers earlier steps, which a stored policy cannot.
        squash: whether the deterministic actor ends in tanh.
        activation: between the actor's layers.
        policy: name of the SB3 policy.
        imagines: whether it learns in imagined episodes, see `autoprune.searchers.dyna`.
    """

    algorithm: Callable[[], type[BaseAlgorithm]]
    options: Callable[[int, int, AgentSettings], dict[str, Any]]
    actor: Callable[[Any], Sequence[torch.nn.Module]] | None
    squash: bool
    activation: str
    policy: str = "MlpPolicy"
    imagines: bool = False


def _off_policy(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    """Learn after every episode, many gradient steps for each step seen: an evaluation costs far more than these."""
    return {
        "learning_rate": 1e-3,
        "buffer_size": max(steps * episodes, 1),
        "learning_starts": max(1, round(settings.warm_up * episodes)) * steps,
        "batch_size": 64,
        # The only reward is at the end: returns over the whole episode, no bootstrapping.
        "gamma": 1.0,
        "n_steps": steps,
        "train_freq": (1, "episode"),
        "gradient_steps": 8 * steps,
        "policy_kwargs": {"net_arch": list(settings.net)},
    }


def _deterministic(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    noise = NormalActionNoise(mean=np.zeros(1), sigma=np.full(1, 0.3))
    return {**_off_policy(steps, episodes, settings), "action_noise": noise}


def _sac(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    return {**_off_policy(steps, episodes, settings), "ent_coef": "auto_0.1", "target_entropy": -2.0}


def _ppo(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    return {
        "learning_rate": 1e-3,
        "n_steps": 3 * steps,
        "batch_size": 3 * steps,
        "n_epochs": 20,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "policy_kwargs": {"net_arch": list(settings.net), "log_std_init": -0.7},
    }


def _dyna_ppo(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    """One round of imagined episodes between two updates."""
    return {
        "learning_rate": 1e-3,
        "n_steps": steps,
        "batch_size": EPISODES * steps // 4,
        "n_epochs": 4,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "policy_kwargs": {"net_arch": list(settings.net), "log_std_init": -0.7},
    }


def _recurrent_ppo(steps: int, episodes: int, settings: AgentSettings) -> dict[str, Any]:
    options = _ppo(steps, episodes, settings)
    return {**options, "policy_kwargs": {**options["policy_kwargs"], "lstm_hidden_size": settings.net[0]}}


def _contributed(name: str, agent: str) -> type[BaseAlgorithm]:
    """A class of sb3-contrib.

    Raises:
        SettingsError: sb3-contrib is not installed.
    """
    return getattr(extra("sb3_contrib", f"agent={agent}"), name)


def _gaussian_actor(policy: Any) -> list[torch.nn.Module]:
    return [*policy.actor.latent_pi, policy.actor.mu]


def _deterministic_actor(policy: Any) -> list[torch.nn.Module]:
    return list(policy.actor.mu)


def _on_policy_actor(policy: Any) -> list[torch.nn.Module]:
    return [*policy.mlp_extractor.policy_net, policy.action_net]


AGENTS: Registry[AgentKind] = Registry("agent")
AGENTS.add("sac")(AgentKind(lambda: SAC, _sac, _gaussian_actor, squash=True, activation="relu"))
AGENTS.add("td3")(AgentKind(lambda: TD3, _deterministic, _deterministic_actor, squash=True, activation="relu"))
AGENTS.add("ddpg")(AgentKind(lambda: DDPG, _deterministic, _deterministic_actor, squash=True, activation="relu"))
AGENTS.add("ppo")(AgentKind(lambda: PPO, _ppo, _on_policy_actor, squash=False, activation="tanh"))
AGENTS.add("dyna_ppo")(
    AgentKind(lambda: PPO, _dyna_ppo, _on_policy_actor, squash=False, activation="tanh", imagines=True)
)
# Truncated quantile critics (Kuznetsov et al., 2020, arXiv 2005.04269): SAC with a distribution for a critic.
TQC = partial(_contributed, "TQC", "tqc")
AGENTS.add("tqc")(AgentKind(TQC, _sac, _gaussian_actor, squash=True, activation="relu"))
# PPO whose actor and critic each have an LSTM, which carries what was done to earlier groups.
RECURRENT = partial(_contributed, "RecurrentPPO", "recurrent_ppo")
AGENTS.add("recurrent_ppo")(
    AgentKind(RECURRENT, _recurrent_ppo, None, squash=False, activation="tanh", policy="MlpLstmPolicy")
)


def check_agent(settings: AgentSettings) -> AgentKind:
    """The kind of agent that is asked for.

    Raises:
        SettingsError: an option is none of the SB3 class's, or its value is refused, or sb3-contrib is missing.
        UnknownNameError: there is no such agent.
    """
    kind = AGENTS.get(settings.name)
    known = set(inspect.signature(kind.algorithm()).parameters) - {"policy", "env", "seed", "device", "verbose"}
    for option in settings.options:
        if option not in known:
            raise SettingsError(f"agent.options do not fit {settings.name}: '{option}'. {suggestion(option, known)}")
    blank = DummyVecEnv([_Blank] * EPISODES) if kind.imagines else _Blank()
    _made(kind, settings, blank, steps=2, episodes=4, seed=0)
    return kind


class _Blank(gymnasium.Env):
    """Something that an agent can be made for, to see whether its options are understood."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))


def _made(
    kind: AgentKind, settings: AgentSettings, env: gymnasium.Env | VecEnv, *, steps: int, episodes: int, seed: int
) -> BaseAlgorithm:
    """The agent for an environment.

    Raises:
        SettingsError: SB3 refuses an option.
    """
    options = {**kind.options(steps, episodes, settings), **settings.options}
    try:
        return kind.algorithm()(kind.policy, env, seed=seed, device="cpu", verbose=0, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise SettingsError(f"agent.options do not fit {settings.name}: {error}") from error


class Environments(Protocol):
    """Makes environments for the agents of a model."""

    def __call__(self, problem: Problem, scorer: Scorer) -> gymnasium.Env:
        """The environment of a problem, in which every episode is an evaluation by the scorer."""
        ...

    def imagined(self, problem: Problem, scorer: Scorer, imagination: Imagination, count: int) -> Any:
        """Episodes side by side that are paid by guesses: a `VecEnv` with `Episodes.plans`."""
        ...


class RlSearcher:
    """A searcher that trains an agent on the environment.

    Args:
        make_env: makes the environment around a scorer, and imagined ones.
        settings: which agent, its options.
        log_folder: where TensorBoard files go, or None.

    Attributes:
        actor: after the search, the layers of the learnt actor as `policy.Policy` wants them, and how to read them;
            None where it has a memory and cannot be stored so.
    """

    def __init__(
        self,
        make_env: Environments,
        settings: AgentSettings,
        log_folder: str | Path | None = None,
    ) -> None:
        self._make_env = make_env
        self._settings = settings
        self._kind = check_agent(settings)
        self._log_folder = log_folder
        self.actor: Mapping[str, Any] | None = None

    def __call__(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Train for all evaluations but one, then score the policy's own plan, or the anchor if none met the budget."""
        # One thread is fastest for networks this small, and makes the course the same on every machine.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if self._kind.imagines:
                self._imagine(problem, scorer, seed)
            else:
                self._try(problem, scorer, seed)
        except EvaluationsSpent:
            return
        finally:
            torch.set_num_threads(threads)

    def _try(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Every episode is an evaluation."""
        env = self._make_env(problem, scorer)
        agent = self._make_agent(env, len(problem.groups), scorer.left, seed)
        if scorer.left > 1:
            episodes = scorer.left - 1
            agent.learn(episodes * len(problem.groups), callback=_Watch(scorer))
        self._conclude(agent, env, problem, scorer)

    def _imagine(self, problem: Problem, scorer: Scorer, seed: int) -> None:
        """Hundreds of imagined episodes for each evaluation."""
        imagination = Imagination(problem, scorer)
        episodes = self._make_env.imagined(problem, scorer, imagination, EPISODES)
        agent = self._make_agent(episodes, len(problem.groups), scorer.left, seed)
        Dyna(problem, scorer, imagination, episodes, agent, warm_up=self._settings.warm_up, seed=seed).run()
        self._conclude(agent, self._make_env(problem, scorer), problem, scorer)

    def _conclude(self, agent: BaseAlgorithm, env: gymnasium.Env, problem: Problem, scorer: Scorer) -> None:
        """Hold on to what has been learnt, and score its plan, or the anchor if nothing has met the budget."""
        self.actor = stored_actor(self._kind, agent)
        if self.actor is None:
            logger.info("%s has a memory: its policy is not stored, its plans are", self._settings.name)
        if needs_anchor(problem, scorer):
            scorer.evaluate(problem.anchor)
        else:
            _roll_out(agent, env)

    def _make_agent(self, env: gymnasium.Env | VecEnv, steps: int, episodes: int, seed: int) -> BaseAlgorithm:
        agent = _made(self._kind, self._settings, env, steps=steps, episodes=episodes, seed=seed)
        if self._log_folder is not None:
            agent.set_logger(configure(str(self._log_folder), ["tensorboard"]))
        return agent


class _Watch(BaseCallback):
    """Logs each plan, and ends the training when one evaluation is left: on-policy agents learn in whole batches."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "terms" in info:
                for name, value in info["terms"].items():
                    self.logger.record(f"reward/{name}", value)
                evaluation = info["evaluation"]
                self.logger.record("plan/score", evaluation.score)
                if evaluation.cost is not None:
                    self.logger.record("plan/latency", evaluation.cost.latency)
                self.logger.dump(self.num_timesteps)
        return self._scorer.left > 1


def _roll_out(agent: BaseAlgorithm, env: gymnasium.Env) -> None:
    """One episode without exploration."""
    observation, _ = env.reset()
    ended, memory, begins = False, None, np.ones(1, bool)
    while not ended:
        action, memory = agent.predict(observation, state=memory, episode_start=begins, deterministic=True)
        observation, _, ended, _, _ = env.step(action)
        begins = np.zeros(1, bool)


def stored_actor(kind: AgentKind, agent: BaseAlgorithm) -> dict[str, Any] | None:
    """The linear layers from observation to mean action and how to read them; None for an actor with a memory."""
    if kind.actor is None:
        return None
    linear = [module for module in kind.actor(agent.policy) if isinstance(module, torch.nn.Linear)]
    layers = tuple((m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear)
    return {"layers": layers, "squash": kind.squash, "activation": kind.activation}
