"""Trains a classifier with Keras's `fit`: AdamW, warm-up and cosine, the best epoch by the reward split."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from autoprune.data import Dataset
from autoprune.errors import AutopruneError
from autoprune.models import keras_internals
from autoprune.settings import TrainingSettings
from autoprune.training.safe_convolutions import safe_convolutions

OnEpoch = Callable[[int, int, dict[str, float]], None]


class TrainingError(AutopruneError):
    """Training cannot go on: the loss is not a number."""


@dataclass(frozen=True)
class TrainingRecord:
    """What happened in a training.

    Attributes:
        epochs: epochs run.
        losses: training loss of each epoch.
        accuracies: accuracy on the reward split after each epoch.
        best_epoch: the epoch, from 1, whose weights were kept.
    """

    epochs: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    best_epoch: int


def train(
    model: Any,
    data: Dataset,
    settings: TrainingSettings,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> TrainingRecord:
    """Train in place, and keep the weights of the epoch that is best on the reward split (never the test split).

    The model is left without optimiser and losses, so that a saved file holds none.

    Args:
        model: a classifier whose output is probabilities, logits or one probability.
        data: trained on its training split.
        settings: batch size, weight decay, warm-up.
        epochs: number of passes; 0 changes nothing.
        learning_rate: peak of the schedule.
        seed: of the order of images and of dropout.
        on_epoch: called after each epoch with its number, their number and the logs.

    Raises:
        TrainingError: the loss became infinite or not a number.
    """
    if epochs == 0:
        return TrainingRecord(0, (), (), 0)
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(data.train) / settings.batch_size)
    best = _BestWeights(on_epoch, epochs)
    with safe_convolutions(model):
        model.compile(
            keras.optimizers.AdamW(_schedule(learning_rate, steps, settings), weight_decay=settings.weight_decay),
            loss_for(model),
            metrics=["accuracy"],
            jit_compile=False,
        )
        try:
            history = model.fit(
                data.train.images,
                data.train.labels,
                batch_size=settings.batch_size,
                epochs=epochs,
                validation_data=(data.reward.images, data.reward.labels),
                callbacks=[best, keras.callbacks.TerminateOnNaN()],
                verbose=0,
            ).history
        finally:
            keras_internals.forget_training(model)
    if not all(math.isfinite(loss) for loss in history["loss"]):
        best.restore(model)
        raise TrainingError(
            f"The loss became {history['loss'][-1]} in epoch {len(history['loss'])}. Lower the learning rate: it was "
            f"{learning_rate}. The weights are those of the best epoch before."
        )
    best.restore(model)
    return TrainingRecord(
        epochs, tuple(map(float, history["loss"])), tuple(map(float, history["val_accuracy"])), best.epoch
    )


def _schedule(peak: float, steps: int, settings: TrainingSettings) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the peak, then a cosine to zero (Loshchilov & Hutter, 2017, arXiv 1608.03983)."""
    warm_up = round(settings.warm_up * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up else peak,
        decay_steps=max(steps - warm_up, 1),
        warmup_target=peak if warm_up else None,
        warmup_steps=warm_up,
    )


def loss_for(model: Any) -> keras.losses.Loss:
    """Cross-entropy for what the model puts out: probabilities, logits, or one probability."""
    if model.outputs[0].shape[-1] == 1:
        return keras.losses.BinaryCrossentropy(from_logits=not _ends_in(model, "sigmoid"))
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not _ends_in(model, "softmax"))


def _ends_in(model: Any, activation: str) -> bool:
    """Whether the operation that makes the output is, or has, this activation."""
    last = keras_internals.maker_of(model.outputs[0])
    while keras_internals.is_graph(last):
        last = keras_internals.maker_of(last.outputs[0])
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return activation in (name, type(last).__name__.lower())


class _BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the highest validation accuracy, of equal ones the last."""

    def __init__(self, on_epoch: OnEpoch | None, epochs: int) -> None:
        super().__init__()
        self.epoch = 0
        self._best = -1.0
        self._weights: list[Any] | None = None
        self._on_epoch = on_epoch
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare, and pass the figures on."""
        logs = logs or {}
        if logs.get("val_accuracy", -1.0) >= self._best and math.isfinite(logs.get("loss", math.nan)):
            self.epoch, self._best = epoch + 1, logs["val_accuracy"]
            self._weights = self.model.get_weights()
        if self._on_epoch is not None:
            self._on_epoch(epoch + 1, self._epochs, logs)

    def restore(self, model: Any) -> None:
        """Give the model the best weights seen."""
        if self._weights is not None:
            model.set_weights(self._weights)
