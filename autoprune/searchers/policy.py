"""Stores what an agent has learnt, so that nothing of it has to be unpickled.

A policy is a folder: `actor.safetensors` with the weights of the actor's layers, and `policy.json` with what they
mean, and with checksums of both. The actor is a plain multilayer perceptron from features to one action; `Policy.act`
needs NumPy alone.
"""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from autoprune import __version__
from autoprune.errors import PolicyError
from autoprune.records import Target
from autoprune.records.plain import read_json, write_json
from autoprune.settings import BudgetSettings, SearchSettings

FORMAT = "autoprune.policy"
VERSION = 2
BOUNDS = [-1, 1]  # Of every feature.
LIBRARIES = ("keras", "stable-baselines3", "torch", "gymnasium", "numpy")  # Noted with a policy.
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


@dataclass(frozen=True, eq=False, kw_only=True)
class Policy:
    """A learnt actor.

    Attributes:
        layers: (weights (out, in), bias (out,)) of each layer, input first.
        activation: between the layers, `relu` or `tanh`.
        squash: whether the output goes through tanh; otherwise it is clipped to [-1, 1].
        features: names of the observations, in order; all lie in [-1, 1].
        meaning: what the action stands for.
        environment: id of the environment, with its version.
        record: how it was trained: agent, evaluations, seed, model, target, versions.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...] = field(repr=False)
    activation: str
    squash: bool
    features: tuple[str, ...] = field(repr=False)
    meaning: str
    environment: str
    record: Mapping[str, Any] = field(default_factory=dict)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The deterministic action, (1,) in [-1, 1], for an observation of shape (features,)."""
        values = observation.astype(np.float32)
        for number, (weights, bias) in enumerate(self.layers, start=1):
            values = weights @ values + bias
            if number < len(self.layers):
                values = ACTIVATIONS[self.activation](values)
        return np.tanh(values) if self.squash else np.clip(values, -1, 1)


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write a policy to a folder, which is made when missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for number, (weights, bias) in enumerate(policy.layers):
        tensors[f"{number}.weight"] = np.ascontiguousarray(weights, np.float32)
        tensors[f"{number}.bias"] = np.ascontiguousarray(bias, np.float32)
    weights_file = folder / "actor.safetensors"
    partial = folder / ".actor.partial"
    try:
        save_file(tensors, partial)
        partial.replace(weights_file)
    finally:
        partial.unlink(missing_ok=True)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "environment": policy.environment,
        "features": list(policy.features),
        "feature_bounds": BOUNDS,
        "action": policy.meaning,
        "activation": policy.activation,
        "squash": policy.squash,
        "layers": len(policy.layers),
        "weights": _digest(weights_file),
        "record": dict(policy.record),
    }
    write_json(folder / "policy.json", meta)


def load_policy(folder: str | Path, features: tuple[str, ...], environment: str) -> Policy:
    """Read a policy and check that it speaks of the same things as this version.

    Args:
        folder: written by `save_policy`, or a run folder that has one.
        features: names of the observations that it will be shown.
        environment: id of the environment that it will act in.

    Raises:
        PolicyError: a file is missing or malformed, or features or environment differ.
    """
    folder = _policy_folder(Path(folder))
    try:
        meta = read_json(folder / "policy.json")
        tensors = load_file(folder / "actor.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise PolicyError(f"The policy in '{folder}' cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or meta.get("version") != VERSION:
        raise PolicyError(
            f"'{folder}/policy.json' is not a policy of version {VERSION}, with checksums. Train it anew with python "
            "-m autoprune.learn, or replay it with the version that stored it."
        )
    if meta.get("weights") != _digest(folder / "actor.safetensors"):
        raise PolicyError(
            f"'{folder}/actor.safetensors' does not hold the weights that policy.json was written with: one of the two "
            "was damaged or replaced. Take the folder from where it was stored, or train the policy anew."
        )
    _check_words(meta, features, environment)
    try:
        layers = tuple((tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in range(meta["layers"]))
        policy = Policy(
            layers=layers,
            activation=str(meta["activation"]),
            squash=bool(meta["squash"]),
            features=tuple(meta["features"]),
            meaning=str(meta["action"]),
            environment=meta["environment"],
            record=dict(meta["record"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"The policy in '{folder}' is malformed: {type(error).__name__}: {error}") from error
    # The weights' shapes must chain from the features to one action.
    width = len(policy.features)
    for weights, bias in policy.layers:
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise PolicyError(f"The policy in '{folder}' holds weights that are no numbers.")
        if weights.ndim != 2 or weights.shape[1] != width or bias.shape != weights.shape[:1]:
            raise PolicyError(f"The layers of the policy in '{folder}' do not fit each other.")
        width = len(bias)
    if width != 1 or policy.activation not in ACTIVATIONS:
        raise PolicyError(f"The policy in '{folder}' does not end in one action, or has an unknown activation.")
    return policy


def _policy_folder(folder: Path) -> Path:
    """The folder that holds the files: the one given, or `policy/` in a run folder.

    Raises:
        PolicyError: there is none, or it is something else.
    """
    if folder.is_file():
        raise PolicyError(
            f"'{folder}' is a file. A policy is a folder with policy.json and actor.safetensors, such as RUN/policy; "
            "archives of Stable-Baselines3 hold pickles and are not read."
        )
    if not (folder / "policy.json").exists() and (folder / "policy").is_dir():
        folder = folder / "policy"
    for name in ("policy.json", "actor.safetensors"):
        if not (folder / name).is_file():
            raise PolicyError(f"'{folder}' is not a policy folder: there is no '{name}'.")
    return folder


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _check_words(meta: Mapping[str, Any], features: tuple[str, ...], environment: str) -> None:
    if meta.get("environment") != environment:
        raise PolicyError(
            f"The policy acts in '{meta.get('environment')}', this version's environment is '{environment}': features "
            "or actions mean something else there. Train it anew with python -m autoprune.learn, or replay it with the "
            "version that stored it."
        )
    if meta.get("feature_bounds") != BOUNDS:
        raise PolicyError(
            f"The policy reads features within {meta.get('feature_bounds')}, this version's are {BOUNDS}."
        )
    known = meta.get("features")
    if known != list(features):
        stored = set(map(str, known)) if isinstance(known, list) else set()
        missing, surplus = sorted(set(features) - stored), sorted(stored - set(features))
        raise PolicyError(
            "The policy reads other features than this version shows. "
            f"It lacks {missing or 'none'} and expects {surplus or 'none'} besides; their order counts too."
        )


def training_record(
    settings: SearchSettings, models: Sequence[str], target: Target, budgets: Sequence[BudgetSettings] | None = None
) -> dict[str, Any]:
    """How a policy was trained: it is stored with the policy, and tells later which agent can go on from it.

    Args:
        settings: settings of the search that trained it.
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
