"""What a tracker is told of, and what it has to be able to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class Curve:
    """What figures by step belong to: a searcher's evaluations, a training's epochs, an agent's time steps.

    Attributes:
        kind: `search`, `training` or `agent`.
        name: of the searcher or the training, without signs that part a path.
        hyperparameters: its settings by dotted name.
    """

    kind: str
    name: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Tracker(Protocol):
    """One run of an experiment tracker, under way."""

    @property
    def run_id(self) -> str:
        """By which the tracker knows the run."""
        ...

    def add(
        self, curve: Curve, step: int, figures: Mapping[str, float], distributions: Mapping[str, Sequence[float]]
    ) -> None:
        """Keep finite figures of a step, and shares from 0 to 1."""
        ...

    def conclude(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Keep what came of the run."""
        ...

    def close(self, outcome: Outcome) -> None:
        """End the run."""
        ...
