"""What a training is of, the same on whatever devices it runs: targets, loss, metric, optimiser, batches."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset
from autoprune.errors import ModelError, SettingsError, words_of
from autoprune.models.feature_distilling import FeatureDistillationLoss, WithFeatures, teachings
from autoprune.models.outputs import run_joined
from autoprune.settings import TrainingSettings
from autoprune.tasks import Judge, add_teacher
from autoprune.tasks.heads import Pixels
from autoprune.tasks.judge import TaskLoss
from autoprune.training.augmentation import change_for
from autoprune.training.batches import Batches, InOrder
from autoprune.training.feedback import Feedback
from autoprune.training.reparameterization import REPARAMETERIZED, Scales, constant_scales, make_optimizer
from autoprune.training.schedules import Cosine, fine_tuning_schedule


@dataclass(frozen=True, eq=False, kw_only=True)
class Training:
    """A network to train, and how.

    Attributes:
        model: carries out the data's task; trained in place.
        data: trained on its training split, judged by its reward split, never by its test split.
        settings: batch size, weight decay, warm-up, augmentation, distillation, label smoothing, early stop.
        epochs: number of passes.
        learning_rate: peak of the cosine schedule; None fine-tunes by `settings.schedule`.
        seed: of the order of images, of their changes and of dropout.
        teacher: what another model tells of the training images, to learn from it too, as `ask_teacher` gives it: (n,
            k) numbers, such as logarithms of probabilities, with `settings.feature_distillation` (n, k + d), features
            behind them; of the images as they are, also where these are changed in training.
        start: accuracy on the reward split of the model as it comes, which is kept when no epoch is as good; None keeps
            the best epoch, however good it is.
        feedback: chooses channels while the model is trained; None chooses none. With it the last epoch is kept.
        scales: of the branches that `settings.optimizer` trains as if they were there, by layer; None takes constant
            ones, of the model as it is.
    """

    model: Any
    data: Dataset
    settings: TrainingSettings
    epochs: int
    learning_rate: float | None
    seed: int
    teacher: np.ndarray | None = None
    start: float | None = None
    feedback: Feedback | None = None
    scales: Scales | None = None

    @cached_property
    def judge(self) -> Judge:
        """What the model's outputs are worth."""
        return Judge(self.data.task, self.model)

    def network(self) -> Any:
        """What the steps run: the model, or one of its variables that gives its features to the loss or masks channels.

        Raises:
            ModelError: features are asked for, and the model has none that can be found, or the teacher tells none.
        """
        if self.teacher is None or self.settings.feature_distillation == 0:
            network = self.judge.network
        else:
            size, told = self.judge.tell_size, self.teacher.shape[1]
            if told <= size:
                raise ModelError(
                    f"training.feature_distillation needs a teacher's features behind its {size} logarithms of "
                    f"probabilities. Received: {told} numbers for each image. Make the teacher's array with "
                    "autoprune.models.feature_distilling.teachings."
                )
            network = WithFeatures(self.model)
        if self.feedback is None:
            return network
        return self.feedback.make_network(network, self.epochs * -(-len(self.data.train) // self.settings.batch_size))

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
        targets = split.labels if self.teacher is None else add_teacher(split.labels, self.teacher)
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
            targets = add_teacher(targets, np.zeros((len(targets), self.teacher.shape[1]), np.float32))
        return InOrder(split.images, targets, batch_size=self.settings.batch_size, padded=padded)

    def loss(self) -> keras.losses.Loss:
        """The task's loss, class labels smoothed if asked for, and with the teacher if there is one; of `network`."""
        settings, teaches = self.settings, self.teacher is not None
        weight = settings.distillation if teaches else None
        loss = self.judge.loss(smoothing=settings.label_smoothing, teacher=weight, temperature=settings.temperature)
        if not teaches or settings.feature_distillation == 0:
            return loss
        return FeatureDistillationLoss(loss, settings.feature_distillation, self.model.outputs[0].shape[-1])

    def metric(self) -> keras.metrics.Metric:
        """The quality, named `accuracy`, with its sign turned where lower is better; of `network`."""
        return self.judge.metric(taught=self.teacher is not None)

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """What `settings.optimizer` names, with its schedule.

        Args:
            steps: number of steps in one epoch.

        Raises:
            ModelError: the optimiser is for 3x3 convolutions, and the model has none.
        """
        settings, by_path = self.settings, None
        if self.learning_rate is None:
            schedule = fine_tuning_schedule(settings, self.epochs, steps)
        else:
            schedule = Cosine(self.learning_rate, self.epochs * steps, settings.warm_up)
        if settings.optimizer in REPARAMETERIZED:
            scales = constant_scales(self.model) if self.scales is None else self.scales
            # Without layers that have left with a branch.
            layers = {layer.name: layer for layer in self.model.layers}
            by_path = {layers[name].kernel.path: found for name, found in scales.items() if name in layers}
        return make_optimizer(settings.optimizer, schedule, settings.weight_decay, by_path)


def check_recipe(model: Any, data: Dataset, settings: TrainingSettings) -> None:
    """Refuse a recipe that does not suit a model and its data, before anything is computed.

    Raises:
        ModelError: features are to be distilled, and the model has none that can be found; or its optimiser is for 3x3
            convolutions, and it has none.
        SettingsError: features are, of a model that is no classifier; or images are to be changed where masks are not.
    """
    if settings.feature_distillation > 0:
        if not data.task.names_classes:
            raise SettingsError(
                "training.feature_distillation is for classifiers, by what enters the classifier. Set it to 0: "
                f"training.distillation teaches task={data.task.name} too."
            )
        WithFeatures(model)
    if settings.optimizer in REPARAMETERIZED:
        constant_scales(model)
    if any(head.loss is not None for head in data.task.heads):
        few = data.train.head(2)
        try:
            TaskLoss(Judge(data.task, model)).call(
                keras.ops.convert_to_tensor(few.labels), run_joined(model, few.images[:])
            )
        except SettingsError:
            raise
        except Exception as error:  # whatever a loss, or a backend below it, raises
            names = ", ".join(head.loss.name for head in data.task.heads if head.loss is not None)
            raise SettingsError(
                f"The loss '{names}' cannot be taken of these labels and outputs: {words_of(error, 300)}. Choose "
                "another (task.loss), or compile the model with another."
            ) from error
    lying = [head for head in data.task.heads if isinstance(head, Pixels) or len(head.shape) > 1]
    if settings.augmentation != "none" and lying:
        raise SettingsError(
            f"training.augmentation={settings.augmentation} changes images and leaves labels alone: masks, and other "
            "labels that lie on the image, would be left where they are. Set training.augmentation=none."
        )


def ask_teacher(model: Any, data: Dataset, batch_size: int, *, features: bool) -> np.ndarray:
    """(n, k) float32 what a model tells of the training images, see `Judge.ask`; with features (n, k + d).

    Raises:
        ModelError: the model has no features that can be found, see `WithFeatures`.
    """
    images = data.train.images
    return teachings(model, images, batch_size) if features else Judge(data.task, model).ask(images, batch_size)
