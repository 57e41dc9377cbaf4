"""The agents of Stable-Baselines3 that can search, and of sb3-contrib where that is installed.

How each is set up, whether its options can be, and what of its actor a stored policy holds.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES, MEANING
from autoprune.errors import PolicyError, SettingsError
from autoprune.registry import Registry, suggestion
from autoprune.searchers.policy import Policy
from autoprune.searchers.searcher import EXTRA, Log
from autoprune.settings import AgentSettings
from autoprune.settings.extras import extra

EPISODES = 64  # Imagined side by side.
ROLLOUT = 3  # Real episodes, side by side, between two updates of an on-policy agent.
LOG_STD = -0.7  # Of the first actions of an on-policy agent.
_NUMBERS = (int, float, np.integer, np.floating)


@dataclass(frozen=True, kw_only=True)
class AgentKind:
    """An SB3 algorithm and how it is set up for episodes this short and this few.

    Attributes:
        algorithm: gives the SB3 class; a SettingsError where that is of sb3-contrib, which is not installed.
        options: from steps per episode, number of episodes and episodes side by side to keyword arguments of the class.
        actor: from the policy to the modules between observation and mean action, of which linear ones are layers.
        squash: whether the deterministic actor ends in tanh.
        activation: between the actor's layers.
        policy: name of the SB3 policy.
        imagines: whether it learns in imagined episodes, see `autoprune.rl.dyna`.
        side_by_side: real episodes that it plays at a time; 0 is as many as `search.batch` says.
        remembers: whether its actor remembers earlier steps, which a stored policy cannot: then it has no `actor`.
    """

    algorithm: Callable[[], type[BaseAlgorithm]]
    options: Callable[[int, int, int, AgentSettings], dict[str, Any]]
    actor: Callable[[Any], Iterable[torch.nn.Module]] = lambda policy: ()
    squash: bool
    activation: str
    policy: str = "MlpPolicy"
    imagines: bool = False
    side_by_side: int = 0
    remembers: bool = False


def _off_policy(steps: int, episodes: int, side_by_side: int, settings: AgentSettings) -> dict[str, Any]:
    """Learn after every episode, many gradient steps for each step seen: an evaluation costs far more than these."""
    return {
        "learning_rate": 1e-3,
        "buffer_size": max(steps * episodes, 1),
        "learning_starts": max(1, round(settings.warm_up * episodes)) * steps,
        "batch_size": 64,
        # The only reward is at the end: returns over the whole episode, no bootstrapping.
        "gamma": 1.0,
        "n_steps": steps,
        # One episode, of each that are side by side.
        "train_freq": (1, "episode") if side_by_side == 1 else (steps, "step"),
        "gradient_steps": 8 * steps * side_by_side,
        "policy_kwargs": {"net_arch": list(settings.net)},
    }


def _on_policy(steps: int, episodes: int, side_by_side: int, settings: AgentSettings) -> dict[str, Any]:
    return {
        "learning_rate": 1e-3,
        "n_steps": steps,
        "batch_size": side_by_side * steps,
        "n_epochs": 20,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "policy_kwargs": {"net_arch": list(settings.net), "log_std_init": LOG_STD},
    }


AGENTS: Registry[AgentKind] = Registry("agent")
_SAC = AGENTS.add("sac")(
    AgentKind(
        algorithm=lambda: SAC,
        options=lambda *search: {**_off_policy(*search), "ent_coef": "auto_0.1", "target_entropy": -2.0},
        actor=lambda policy: [*policy.actor.latent_pi, policy.actor.mu],
        squash=True,
        activation="relu",
    )
)
_TD3 = AGENTS.add("td3")(
    AgentKind(
        algorithm=lambda: TD3,
        options=lambda *search: {
            **_off_policy(*search),
            "action_noise": NormalActionNoise(mean=np.zeros(1), sigma=np.full(1, 0.3)),
        },
        actor=lambda policy: policy.actor.mu,
        squash=True,
        activation="relu",
    )
)
AGENTS.add("ddpg")(replace(_TD3, algorithm=lambda: DDPG))
_PPO = AGENTS.add("ppo")(
    AgentKind(
        algorithm=lambda: PPO,
        options=_on_policy,
        actor=lambda policy: [*policy.mlp_extractor.policy_net, policy.action_net],
        squash=False,
        activation="tanh",
        side_by_side=ROLLOUT,
    )
)
AGENTS.add("dyna_ppo")(
    replace(
        _PPO,
        # One round of imagined episodes between two updates.
        options=lambda steps, episodes, side_by_side, settings: {
            **_on_policy(steps, episodes, side_by_side, settings),
            "batch_size": side_by_side * steps // 4,
            "n_epochs": 4,
        },
        imagines=True,
    )
)
# Truncated quantile critics (Kuznetsov et al., 2020, arXiv 2005.04269): SAC with a distribution for a critic.
AGENTS.add("tqc")(replace(_SAC, algorithm=lambda: extra("sb3_contrib", "agent=tqc", EXTRA).TQC))
# PPO whose actor and critic each have an LSTM, which carries what was done to earlier groups.
AGENTS.add("recurrent_ppo")(
    AgentKind(
        algorithm=lambda: extra("sb3_contrib", "agent=recurrent_ppo", EXTRA).RecurrentPPO,
        options=lambda *search: {
            **_on_policy(*search),
            "policy_kwargs": {
                "net_arch": list(search[-1].net),
                "log_std_init": LOG_STD,
                "lstm_hidden_size": search[-1].net[0],
            },
        },
        squash=False,
        activation="tanh",
        policy="MlpLstmPolicy",
        side_by_side=ROLLOUT,
        remembers=True,
    )
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
    blank = DummyVecEnv([_Blank] * (EPISODES if kind.imagines else max(kind.side_by_side, 1)))
    build_agent(kind, settings, blank, steps=2, episodes=4, seed=0)
    return kind


class _Blank(gymnasium.Env):
    """Something that an agent can be made for, to see whether its options are understood."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))


def build_agent(
    kind: AgentKind,
    settings: AgentSettings,
    env: VecEnv,
    *,
    steps: int,
    episodes: int,
    seed: int,
    log: Log | None = None,
) -> BaseAlgorithm:
    """The agent for an environment.

    Args:
        kind: which agent.
        settings: its options.
        env: episodes side by side.
        steps: how many one episode has.
        episodes: that the environment is asked for in all.
        seed: what the agent draws by.
        log: what hears of all that the agent records, such as losses; None is nobody.

    Raises:
        SettingsError: SB3 refuses an option.
    """
    options = {**kind.options(steps, episodes, env.num_envs, settings), **settings.options}
    try:
        agent = kind.algorithm()(kind.policy, env, seed=seed, device="cpu", verbose=0, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise SettingsError(f"agent.options do not fit {settings.name}: {error}") from error
    if log is not None:
        agent.set_logger(Logger(None, [_LogWriter(log)]))
    return agent


class _LogWriter(KVWriter):
    """Hands on what an agent records."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Hand on the numbers among the values."""
        self._log(step, {key: float(value) for key, value in key_values.items() if isinstance(value, _NUMBERS)})

    def close(self) -> None:
        """Nothing is open."""


def policy_of(kind: AgentKind, agent: BaseAlgorithm) -> Policy:
    """What an agent has learnt, without a record of its training. Its actor must be one that can be stored."""
    return Policy(
        layers=tuple((m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in _linear(kind, agent)),
        squash=kind.squash,
        activation=kind.activation,
        features=FEATURES,
        meaning=MEANING,
        environment=ENV_ID,
    )


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
    name: Any = policy.record.get("agent")
    settings = settings or AgentSettings()
    kind = AGENTS.get(name) if name in AGENTS else None
    if kind is None or kind.remembers or (kind.squash, kind.activation) != (policy.squash, policy.activation):
        able = [known for known in AGENTS if not AGENTS.get(known).remembers]
        raise PolicyError(
            f"The policy cannot be adapted: it says that the agent {name!r} learnt it, but no agent of that name has "
            f"such an actor ({', '.join(able)} have one that is stored). It can be replayed as it is: "
            "replay.evaluations=0."
        )
    options = settings.options if settings.name == name else {}
    return replace(settings, name=name, options=options, net=[len(bias) for _, bias in policy.layers[:-1]])


def start_from(kind: AgentKind, agent: BaseAlgorithm, policy: Policy) -> None:
    """Let an agent begin as a stored policy: its actor gets the weights. Its critic knows nothing yet.

    It draws no random actions first: what it knows is better.

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
    if isinstance(agent, OffPolicyAlgorithm):
        agent.learning_starts = 0


def attach(agent: BaseAlgorithm, env: gymnasium.Env | VecEnv, steps: int) -> None:
    """Let an agent go on in another environment of the same spaces, from the beginning of an episode.

    Args:
        agent: made for an environment with as many episodes side by side.
        env: where it goes on.
        steps: of one episode: an agent learns when all that are side by side have ended.
    """
    agent.set_env(env)
    if isinstance(agent, OnPolicyAlgorithm):
        # Rollouts that end with an episode need no guess of what would have come.
        agent.n_steps = agent.rollout_buffer.buffer_size = steps
        agent.rollout_buffer.reset()
    elif isinstance(agent, OffPolicyAlgorithm) and agent.n_envs > 1:
        frequency: Any = TrainFreq(steps, TrainFrequencyUnit.STEP)  # As SB3 reads what it is given.
        agent.train_freq = frequency
