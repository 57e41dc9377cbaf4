"""What a training is about, the same on whatever devices it runs: targets, loss, metric, optimiser, batches."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset
from autoprune.errors import ModelError
from autoprune.models.distilling import DistillationLoss, SmoothedLoss, taught
from autoprune.models.feature_distilling import FeatureDistillationLoss, WithFeatures
from autoprune.models.head import gives_logits, loss_for
from autoprune.settings import TrainingSettings
from autoprune.training.augmentation import change_for
from autoprune.training.batches import Batches, InOrder
from autoprune.training.schedules import Cosine, fine_tuning_schedule


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A network to train, and how.

    Attributes:
        model: a classifier whose output is probabilities, logits or one probability; trained in place.
        data: trained on its training split, judged by its reward split, never by its test split.
        settings: batch size, weight decay, warm-up, augmentation, distillation, label smoothing, early stop.
        epochs: number of passes.
        learning_rate: peak of the cosine schedule; None fine-tunes by `settings.schedule`.
        seed: of the order of images, of their changes and of dropout.
        teacher: what another model says of the training images, to learn from it too, as `teachings` gives it: (n,
            classes) logarithms of probabilities, with `settings.feature_distillation` (n, classes + d), features
            behind them; of the images as they are, also where these are changed in training.
        start: accuracy on the reward split of the model as it comes, which is kept when no epoch is as good; None keeps
            the best epoch, however good it is.
    """

    model: Any
    data: Dataset
    settings: TrainingSettings
    epochs: int
    learning_rate: float | None
    seed: int
    teacher: np.ndarray | None = None
    start: float | None = None

    def network(self) -> Any:
        """What the steps run: the model, or one of the same variables that gives its features to the loss too.

        Raises:
            ModelError: features are asked for, and the model has none that can be found, or the teacher tells none.
        """
        if self.teacher is None or self.settings.feature_distillation == 0:
            return self.model
        classes, told = max(self.model.outputs[0].shape[-1], 2), self.teacher.shape[1]
        if told <= classes:
            raise ModelError(
                f"training.feature_distillation needs a teacher's features behind its {classes} logarithms of "
                f"probabilities. Received: {told} numbers for each image. Make the teacher's array with "
                "autoprune.models.feature_distilling.teachings(..., features=True)."
            )
        return WithFeatures(self.model)

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        settings = self.settings
        return settings.learning_rate if settings.schedule == "rewinding" else settings.fine_tune_learning_rate

    def training_batches(self, *, whole: bool = False) -> Batches:
        """Batches of the training split.

        Args:
            whole: every batch has the same size.

        Raises:
            DataError: images cannot be changed as asked for, or with `whole` do not fill a batch.
        """
        split, settings = self.data.train, self.settings
        targets = split.labels if self.teacher is None else taught(split.labels, self.teacher)
        change = change_for(settings, tuple(split.images.shape[1:]))
        return Batches(
            split.images, targets, batch_size=settings.batch_size, seed=self.seed, change=change, whole=whole
        )

    def reward_batches(self, *, padded: bool = False) -> InOrder:
        """Batches of the reward split, of the size of training batches."""
        split = self.data.reward
        targets = split.labels
        if self.teacher is not None:
            # The loss of the reward split is not looked at: any teacher does there.
            targets = taught(targets, np.zeros((len(targets), self.teacher.shape[1]), np.float32))
        return InOrder(split.images, targets, batch_size=self.settings.batch_size, padded=padded)

    def loss(self) -> keras.losses.Loss:
        """Cross-entropy with the labels, smoothed if asked for, and with the teacher if there is one; of `network`."""
        settings, from_logits = self.settings, gives_logits(self.model)
        if self.teacher is not None:
            loss = DistillationLoss(
                settings.distillation,
                settings.temperature,
                from_logits=from_logits,
                smoothing=settings.label_smoothing,
            )
            if settings.feature_distillation == 0:
                return loss
            return FeatureDistillationLoss(loss, settings.feature_distillation, self.model.outputs[0].shape[-1])
        if settings.label_smoothing:
            return SmoothedLoss(settings.label_smoothing, from_logits=from_logits)
        return loss_for(self.model)

    def metric(self) -> keras.metrics.Metric:
        """Accuracy, named so, by the threshold that belongs to the output; of `network`."""
        outputs = self.model.outputs[0].shape[-1]
        if outputs == 1:
            threshold = 0.0 if gives_logits(self.model) else 0.5
            metric = keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)
        else:
            metric = keras.metrics.SparseCategoricalAccuracy("accuracy")
        return metric if self.teacher is None else _OfLabels(metric, outputs)

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """AdamW with the task's schedule.

        Args:
            steps: number of steps in one epoch.
        """
        settings = self.settings
        if self.learning_rate is None:
            schedule = fine_tuning_schedule(settings, self.epochs, steps)
        else:
            schedule = Cosine(self.learning_rate, self.epochs * steps, settings.warm_up)
        return keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)


class _OfLabels(keras.metrics.Metric):
    """A metric of labels and outputs alone, where a teacher's probabilities, and features, stand beside them."""

    def __init__(self, inner: keras.metrics.Metric, outputs: int) -> None:
        super().__init__(name=inner.name)
        self._inner = inner
        self._outputs = outputs

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count a batch."""
        self._inner.update_state(y_true[:, :1], y_pred[:, : self._outputs], sample_weight)

    def result(self) -> Any:
        """The inner metric's."""
        return self._inner.result()

    def reset_state(self) -> None:
        """Start anew."""
        self._inner.reset_state()
