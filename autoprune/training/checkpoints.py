"""States of a training on disk: one safetensors file, which is replaced whole, never a pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import AutopruneError
from autoprune.records.tensors import read_tensors, write_tensors

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
        head = {"format": FORMAT, "version": VERSION, "identity": self.identity, "position": dict(position)}
        write_tensors(self.path, head, tensors)

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
        return read_tensors(path, FORMAT, VERSION)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint '{path}' cannot be read: {error}. Delete it to begin the training anew."
        ) from error
