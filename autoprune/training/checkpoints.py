"""States of a training on disk: one safetensors file, which is replaced whole, never a pickle."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autoprune.errors import AutopruneError

FORMAT = "autoprune.checkpoint"
VERSION = 2


class CheckpointError(AutopruneError):
    """A checkpoint is damaged, or belongs to another training."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state of a training.

    Attributes:
        best: weights of the best epoch so far, in the order of the model's weights.
        position: where the training was, as plain data.
    """

    best: list[np.ndarray]
    position: dict[str, Any]


class Checkpoints:
    """The newest state of one training.

    Args:
        path: path of the checkpoint file.
        identity: everything that the training depends on besides the weights it began with, as plain data; a
            checkpoint with another one is refused.
        every: steps between states within an epoch; None keeps one at the end of each epoch only.

    Attributes:
        path, identity, every: likewise.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any], every: int | None = None) -> None:
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))  # as it is read from a file
        self.every = every

    def save(self, variables: Sequence[np.ndarray], best: Sequence[np.ndarray], position: Mapping[str, Any]) -> None:
        """Put a state in the place of the last one: a process that dies meanwhile leaves that.

        Args:
            variables: of model and optimiser, in their order.
            best: weights of the best epoch.
            position: where the training is, as plain data.
        """
        tensors = {f"variable.{number}": array for number, array in enumerate(variables)}
        tensors |= {f"best.{number}": array for number, array in enumerate(best)}
        partial = self.path.with_name(f".{self.path.name}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
        head = {"format": FORMAT, "version": VERSION, "identity": self.identity, "position": dict(position)}
        head["checksum"] = _digest(head, contiguous)
        try:
            save_file(contiguous, partial, {"autoprune": json.dumps(head)})
            with open(partial, "rb") as file:
                os.fsync(file.fileno())  # a machine that is taken away does not write what it still holds
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def load(self, variables: Sequence[Any], weights: int) -> Checkpoint | None:
        """Give the variables the values of the newest state; None, and nothing changed, when there is no state.

        Args:
            variables: of model and optimiser, in their order, with their shapes.
            weights: number of the model's weights.

        Raises:
            CheckpointError: the file is damaged, or of another training.
        """
        if not self.path.exists():
            return None
        head, tensors = read(self.path)
        differing = [name for name, value in self.identity.items() if head["identity"].get(name) != value]
        if differing:
            raise CheckpointError(
                f"'{self.path}' is of another training: {', '.join(differing)} changed since. Put back what changed, "
                "or begin anew in another folder."
            )
        names, best = [f"variable.{n}" for n in range(len(variables))], [f"best.{n}" for n in range(weights)]
        shapes = [tensors[name].shape if name in tensors else None for name in names]
        if shapes != [tuple(variable.shape) for variable in variables] or not tensors.keys() >= set(best):
            raise CheckpointError(f"'{self.path}' is of another model. Begin anew in another folder.")
        for variable, name in zip(variables, names, strict=True):
            variable.assign(tensors[name])
        return Checkpoint([tensors[name] for name in best], head["position"])

    def newest(self) -> Checkpoint | None:
        """The newest state, whatever it belongs to; None when there is none.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not self.path.exists():
            return None
        head, tensors = read(self.path)
        best = [tensors[f"best.{number}"] for number in range(sum(name.startswith("best.") for name in tensors))]
        return Checkpoint(best, head["position"])


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A checkpoint's description, and its arrays by name.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            head = json.loads((file.metadata() or {})["autoprune"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"The checkpoint '{path}' cannot be read: {type(error).__name__}: {error}. Delete it to begin the training "
            "anew."
        ) from error
    marks = (head.get("format"), head.get("version")) if isinstance(head, dict) else (None, None)
    if marks != (FORMAT, VERSION):
        raise CheckpointError(
            f"Expected a checkpoint of version {VERSION} in '{path}'. Received: {marks[0]!r} {marks[1]!r}. Delete it "
            "to begin the training anew."
        )
    if head.pop("checksum", None) != _digest(head, tensors):
        raise CheckpointError(f"The checkpoint '{path}' is damaged. Delete it to begin the training anew.")
    return head, tensors


def _digest(head: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"|{name}|{tensors[name].dtype}|{tensors[name].shape}|".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
