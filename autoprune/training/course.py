"""How a training goes, whatever runs its steps: its curves, its best weights, when to stop, when to save.

A loop tells its course of every step and every epoch. From what a course keeps, and the variables of model and
optimiser, a training can go on in another process as if nothing had happened.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from autoprune.errors import AutopruneError
from autoprune.training.batches import Batches
from autoprune.training.checkpoints import Checkpoints

OnProgress = Callable[[float, dict[str, float]], None]


class TrainingError(AutopruneError):
    """Training cannot go on: the loss is not a number."""


@dataclass(frozen=True)
class TrainingRecord:
    """What happened in a training.

    Attributes:
        epochs: epochs run.
        losses: training loss of each epoch.
        accuracies: accuracy on the reward split after each epoch.
        best_epoch: the epoch, from 1, whose weights were kept; 0 for those that it began with.
        stopped: why it ended before its last epoch; empty when it did not.
        start: accuracy on the reward split before the first step; None where the start was no candidate.
    """

    epochs: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    best_epoch: int
    stopped: str = ""
    start: float | None = None

    @property
    def only_worse(self) -> bool:
        """Whether no epoch was as good as the start, whose weights were kept therefore."""
        return self.epochs > 0 and self.best_epoch == 0

    def append(self, later: "TrainingRecord") -> "TrainingRecord":
        """This training and one that went on from its end, as one. Of an empty one it is the other."""
        if not self.epochs:
            return later
        # Where no later epoch was as good as this training's end, that end was kept.
        best_epoch = self.epochs + later.best_epoch if later.best_epoch else self.best_epoch
        return TrainingRecord(
            epochs=self.epochs + later.epochs,
            losses=self.losses + later.losses,
            accuracies=self.accuracies + later.accuracies,
            best_epoch=best_epoch,
            stopped="; ".join(filter(None, (self.stopped, later.stopped))),
            start=self.start,
        )

    def shift_progress(self, on_progress: OnProgress | None) -> OnProgress | None:
        """What hears of a later training as of the epochs behind these, but not of its start, which is their end."""
        if on_progress is None or not self.epochs:
            return on_progress
        return lambda done, logs: on_progress(self.epochs + done, logs) if done else None


@dataclass
class Position:
    """Where a training is; plain data, kept in checkpoints.

    Attributes:
        epoch: whole epochs done.
        step: steps done of the next one.
        loss: mean training loss of these steps.
        losses: mean training loss of each whole epoch.
        accuracies: on the reward split after each.
        best_epoch: from 1; 0 for none yet that is as good as the start.
        stopped: why it ended before its last epoch.
        start: as `TrainingRecord.start`.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = ""
    start: float | None = None

    def record(self) -> TrainingRecord:
        """What happened until here, in whole epochs."""
        losses, accuracies = tuple(self.losses), tuple(self.accuracies)
        return TrainingRecord(self.epoch, losses, accuracies, self.best_epoch, self.stopped, self.start)


class Course:
    """Follows a training.

    Args:
        network: in training, as a task gives it.
        epochs: asked for.
        early_stop: epochs without a better accuracy after which it stops, or None.
        on_progress: called after each step with the epochs done, a whole number after the last step of one, and the
            logs, which hold `val_accuracy` after whole epochs only. It hears of the start, as epoch 0 without a loss,
            if that is a candidate; of a training that goes on, of all its epochs.
        checkpoints: where states are kept, or None.
        start: accuracy on the reward split of the network as it comes, which is kept when no epoch is as good; None
            keeps the best epoch, however good it is.
        first_epoch: from 1: the first epoch that may be the best.

    Attributes:
        network: in training: what a loop runs.
        position: where it is.
        steps: number of steps in one epoch.
        best: weights of the best epoch, or those that it began with when there is none.
        failure: the loss that is not a number; None while it is one.
    """

    def __init__(
        self,
        network: Any,
        epochs: int,
        early_stop: int | None = None,
        on_progress: OnProgress | None = None,
        checkpoints: Checkpoints | None = None,
        start: float | None = None,
        *,
        first_epoch: int = 1,
    ) -> None:
        self.network = network
        self.position = Position(start=start)
        self.steps = 0
        self.failure: float | None = None
        self._epochs = epochs
        self._early_stop = early_stop
        self._earlier = first_epoch - 1  # Epochs before it.
        self._on_progress = on_progress
        self._checkpoints = checkpoints
        self._variables: Sequence[Any] = ()
        self._seen: Callable[[int], int] = int
        self.best = network.get_weights()
        self._resumed = Position()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.failure is not None or bool(self.position.stopped) or self.position.epoch >= self._epochs

    def begin(self, optimizer: Any, batches: Batches) -> None:
        """Take up a training whose optimiser has been built, where its last checkpoint left it.

        Args:
            optimizer: of the model's trainable variables.
            batches: number of batches in an epoch.

        Raises:
            CheckpointError: the checkpoint cannot be read, or is of another training.
        """
        self.steps = batches.steps
        self._seen = batches.seen
        self._variables = [*self.network.variables, *optimizer.variables]
        found = self._checkpoints.load(self._variables, len(self.best)) if self._checkpoints else None
        if found is not None:
            self.best = found.best
            self.position = Position(**found.position)
            self._resumed = dataclasses.replace(self.position)
        if self._on_progress is None:
            return
        # Of the model as it came, and of the epochs that were done before an interruption.
        position = self.position
        if position.start is not None:
            self._on_progress(0.0, {"val_accuracy": position.start})
        for number, (loss, accuracy) in enumerate(zip(position.losses, position.accuracies, strict=True), start=1):
            self._on_progress(float(number), {"loss": loss, "val_accuracy": accuracy})

    def step_done(self, step: int, logs: dict[str, Any]) -> None:
        """Note steps of an epoch that is under way.

        Args:
            step: steps of the epoch done so far.
            logs: `loss`, the mean of the steps that this process did of the epoch.
        """
        position = self.position
        before = position.step
        # The mean over all images of the epoch, those before an interruption too.
        loss, earlier, now = float(logs["loss"]), self._seen(self._resumed.step), self._seen(step)
        position.loss = loss if earlier == 0 else (self._resumed.loss * earlier + loss * (now - earlier)) / now
        position.step = step
        if not math.isfinite(position.loss):
            self.failure = position.loss
            return
        if step < self.steps:
            every = self._checkpoints.every if self._checkpoints else None
            if every and before // every != step // every:
                self._save()
            if self._on_progress is not None:
                self._on_progress(position.epoch + step / self.steps, {**logs, "loss": position.loss})

    def epoch_done(self, logs: dict[str, float]) -> None:
        """Note the end of an epoch: keep the weights if they are the best, of equal ones the last.

        How long an early stop waits is counted from the best epoch, not from the start: training may fall before it
        rises.

        Args:
            logs: `val_accuracy` on the reward split, and others to show.
        """
        position = self.position
        if self.failure is not None:
            return
        accuracy = float(logs["val_accuracy"])
        if math.isnan(accuracy):  # Of a measure that these weights have none of.
            accuracy = -math.inf
        # The start was judged otherwise than epochs are, and may be rounded otherwise.
        start = position.start
        rivals = position.accuracies[self._earlier :]
        rivals += [] if start is None else [start - 1e-6 * max(1, abs(start))]
        if position.epoch >= self._earlier and accuracy >= max(rivals, default=-math.inf):
            self.best = self.network.get_weights()
            position.best_epoch = position.epoch + 1
        position.epoch += 1
        position.losses.append(position.loss)
        position.accuracies.append(accuracy)
        loss, position.step, position.loss = position.loss, 0, 0.0
        self._resumed = Position()
        late = position.accuracies[self._earlier :]
        waited = len(late) - 1 - int(np.argmax(late)) if late else 0
        if self._early_stop is not None and waited >= self._early_stop and position.epoch < self._epochs:
            position.stopped = f"no better accuracy on the reward split for {waited} epochs"
        self._save()
        if self._on_progress is not None:
            self._on_progress(float(position.epoch), {**logs, "loss": loss})

    def _save(self) -> None:
        if self._checkpoints is not None:
            if hasattr(self.network, "jax_state_sync"):
                self.network.jax_state_sync()  # on JAX the variables are empty while an epoch runs
            arrays = [keras.ops.convert_to_numpy(variable) for variable in self._variables]
            self._checkpoints.save(arrays, self.best, dataclasses.asdict(self.position))
