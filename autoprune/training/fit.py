"""Trains a classifier with Keras's `fit`: AdamW, warm-up and cosine, the best epoch by the reward split."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset
from autoprune.errors import AutopruneError, DataError
from autoprune.models import keras_internals
from autoprune.models.distilling import DistillationLoss, taught
from autoprune.models.head import gives_logits, loss_for
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.settings import TrainingSettings
from autoprune.training.augmentation import AUGMENTATIONS, Augmented

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
    on_progress: OnProgress | None = None,
    teacher: np.ndarray | None = None,
) -> TrainingRecord:
    """Train in place, and keep the weights of the epoch that is best on the reward split (never the test split).

    The model is left without optimiser and losses, so that a saved file holds none.

    Args:
        model: a classifier whose output is probabilities, logits or one probability.
        data: trained on its training split.
        settings: batch size, weight decay, warm-up, augmentation, distillation.
        epochs: number of passes; 0 changes nothing.
        learning_rate: peak of the schedule.
        seed: of the order of images and of dropout.
        on_progress: called after each step with the epochs done, a whole number after the last step of one, and the
            logs, which hold `val_accuracy` after whole epochs only.
        teacher: (n, classes) logarithms of another model's probabilities for the training images, to learn from them
            too; they are of the images as they are, also where these are changed in training.

    Raises:
        TrainingError: the loss became infinite or not a number.
    """
    if epochs == 0:
        return TrainingRecord(0, (), (), 0)
    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(data.train) / settings.batch_size)
    best = _BestWeights()
    callbacks = [best, keras.callbacks.TerminateOnNaN(), *([_Progress(on_progress)] if on_progress else [])]
    with safe_convolutions(model):
        model.compile(
            keras.optimizers.AdamW(_schedule(learning_rate, steps, settings), weight_decay=settings.weight_decay),
            loss_for(model) if teacher is None else _distillation(model, settings),
            metrics=[_metric_for(model, taught=teacher is not None)],
            jit_compile=False,
        )
        targets, checked = data.train.labels, data.reward.labels
        if teacher is not None:
            targets = taught(targets, teacher)
            # The loss of the reward split is not looked at: any teacher does there.
            checked = taught(checked, np.zeros((len(checked), teacher.shape[1]), np.float32))
        try:
            history = model.fit(
                **_fed(data.train.images, targets, settings, seed),
                epochs=epochs,
                validation_data=(data.reward.images, checked),
                validation_batch_size=settings.batch_size,
                callbacks=callbacks,
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


def _fed(images: np.ndarray, targets: np.ndarray, settings: TrainingSettings, seed: int) -> dict[str, Any]:
    """What `fit` gets for the training images: arrays, or batches that are made as they are needed."""
    if settings.augmentation == "none":
        return {"x": images, "y": targets, "batch_size": settings.batch_size}
    if images.ndim != 4:
        raise DataError(
            f"training.augmentation={settings.augmentation} moves images of shape (height, width, channels). Received "
            f"{images.shape[1:]}: set training.augmentation=none."
        )
    change = AUGMENTATIONS[settings.augmentation]
    return {"x": Augmented(images, targets, change, batch_size=settings.batch_size, seed=seed)}


def _distillation(model: Any, settings: TrainingSettings) -> DistillationLoss:
    return DistillationLoss(settings.distillation, settings.temperature, from_logits=gives_logits(model))


def _metric_for(model: Any, *, taught: bool) -> str | keras.metrics.Metric:
    """Accuracy by the threshold that belongs to the output."""
    if model.outputs[0].shape[-1] == 1:
        metric = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if gives_logits(model) else 0.5)
        return _OfLabels(metric) if taught else metric
    return _OfLabels(keras.metrics.SparseCategoricalAccuracy("accuracy")) if taught else "accuracy"


class _OfLabels(keras.metrics.Metric):
    """A metric of the labels alone, where a teacher's probabilities stand beside them."""

    def __init__(self, inner: keras.metrics.Metric) -> None:
        super().__init__(name=inner.name)
        self._inner = inner

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        self._inner.update_state(y_true[:, :1], y_pred, sample_weight)

    def result(self) -> Any:
        """The inner metric's."""
        return self._inner.result()

    def reset_state(self) -> None:
        """Start anew."""
        self._inner.reset_state()


class _BestWeights(keras.callbacks.Callback):
    """Remembers the weights of the epoch with the highest validation accuracy, of equal ones the last."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self._best = -1.0
        self._weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare."""
        logs = logs or {}
        if logs.get("val_accuracy", -1.0) >= self._best and math.isfinite(logs.get("loss", math.nan)):
            self.epoch, self._best = epoch + 1, logs["val_accuracy"]
            self._weights = self.model.get_weights()

    def restore(self, model: Any) -> None:
        """Give the model the best weights seen."""
        if self._weights is not None:
            model.set_weights(self._weights)


class _Progress(keras.callbacks.Callback):
    """Tells how far the training is."""

    def __init__(self, on_progress: OnProgress) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._epoch = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """One more step; the last of an epoch is told with the epoch."""
        if batch + 1 < self.params["steps"]:
            self._on_progress(self._epoch + (batch + 1) / self.params["steps"], logs or {})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """One more epoch."""
        self._epoch = epoch + 1
        self._on_progress(float(self._epoch), logs or {})
