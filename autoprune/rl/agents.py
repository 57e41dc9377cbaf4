"""The agents of Stable-Baselines3 that can search, and of sb3-contrib where that is installed.

How each is set up, whether its options can be, and what of its actor a stored policy holds.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from autoprune.errors import PolicyError, SettingsError
from autoprune.registry import Registry, suggestion
from autoprune.searchers.policy import Policy
from autoprune.searchers.searcher import EXTRA
from autoprune.settings import AgentSettings
from autoprune.settings.extras import extra

EPISODES = 64  # Imagined side by side.


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
        imagines: whether it learns in imagined episodes, see `autoprune.rl.dyna`.
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


def _contrib(name: str, agent: str) -> type[BaseAlgorithm]:
    """A class of sb3-contrib.

    Raises:
        SettingsError: sb3-contrib is not installed.
    """
    return getattr(extra("sb3_contrib", f"agent={agent}", EXTRA), name)


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
TQC = partial(_contrib, "TQC", "tqc")
AGENTS.add("tqc")(AgentKind(TQC, _sac, _gaussian_actor, squash=True, activation="relu"))
# PPO whose actor and critic each have an LSTM, which carries what was done to earlier groups.
RECURRENT = partial(_contrib, "RecurrentPPO", "recurrent_ppo")
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
    build_agent(kind, settings, blank, steps=2, episodes=4, seed=0)
    return kind


class _Blank(gymnasium.Env):
    """Something that an agent can be made for, to see whether its options are understood."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))


def build_agent(
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


def write_events(agent: BaseAlgorithm, folder: str | Path | None) -> None:
    """Let an agent write TensorBoard files to a folder, or to none.

    Those that are there go: an agent whose search was interrupted learns everything again.
    """
    if folder is not None:
        for path in Path(folder).glob("events.out.tfevents.*"):
            path.unlink()
        agent.set_logger(configure(str(folder), ["tensorboard"]))


def read_actor(kind: AgentKind, agent: BaseAlgorithm) -> dict[str, Any] | None:
    """The linear layers from observation to mean action and how to read them; None for an actor with a memory."""
    if kind.actor is None:
        return None
    layers = tuple((m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in _linear(kind, agent))
    return {"layers": layers, "squash": kind.squash, "activation": kind.activation}


def _linear(kind: AgentKind, agent: BaseAlgorithm) -> list[torch.nn.Linear]:
    return [module for module in kind.actor(agent.policy) if isinstance(module, torch.nn.Linear)]


def settings_of(policy: Policy, settings: AgentSettings | None = None) -> AgentSettings:
    """The agent that can go on from a stored policy: of the kind and with the layers that it was learnt with.

    Args:
        policy: a loaded policy, whose record names its agent.
        settings: warm-up, and the options where it is the same agent; None is the default.

    Raises:
        PolicyError: no agent of this version has such an actor.
    """
    name, settings = policy.record.get("agent"), settings or AgentSettings()
    kind = AGENTS.get(name) if name in AGENTS else None
    if kind is None or kind.actor is None or (kind.squash, kind.activation) != (policy.squash, policy.activation):
        able = [known for known in AGENTS if AGENTS.get(known).actor is not None]
        raise PolicyError(
            f"The policy cannot be adapted: it says that the agent {name!r} learnt it, but no agent of that name has "
            f"such an actor ({', '.join(able)} have one that is stored). It can be replayed as it is: "
            "replay.evaluations=0."
        )
    options = settings.options if settings.name == name else {}
    return replace(settings, name=name, options=options, net=[len(bias) for _, bias in policy.layers[:-1]])


def start_from(kind: AgentKind, agent: BaseAlgorithm, policy: Policy) -> None:
    """Let an agent begin as a stored policy: its actor gets the weights. Its critic knows nothing yet.

    Raises:
        PolicyError: the agent's actor has other layers.
    """
    linear = _linear(kind, agent)
    there = [tuple(module.weight.shape) for module in linear]
    given = [weights.shape for weights, _ in policy.layers]
    if there != given:
        raise PolicyError(f"The agent's actor has layers of {there}, the policy's are {given}.")
    with torch.no_grad():
        for module, (weights, bias) in zip(linear, policy.layers, strict=True):
            module.weight.copy_(torch.as_tensor(np.array(weights)))
            module.bias.copy_(torch.as_tensor(np.array(bias)))
    target = getattr(agent.policy, "actor_target", None)
    if target is not None:
        target.load_state_dict(agent.policy.actor.state_dict())


def attach(agent: BaseAlgorithm, env: gymnasium.Env | VecEnv, steps: int) -> None:
    """Let an agent go on in another environment of the same spaces, from the beginning of an episode.

    Args:
        agent: made for an environment with as many episodes side by side.
        env: where it goes on.
        steps: for an on-policy agent, those of each episode that it sees before it learns.
    """
    agent.set_env(env)
    if isinstance(agent, OnPolicyAlgorithm):
        # Rollouts that end with an episode need no guess of what would have come.
        agent.n_steps = agent.rollout_buffer.buffer_size = steps
        agent.rollout_buffer.reset()
