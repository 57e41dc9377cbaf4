"""Trains a classifier: optimiser, warm-up and cosine, the best epoch by the reward split. Steps are Keras's `fit`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.data import Dataset
from autoprune.models import keras_internals
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.settings import TrainingSettings
from autoprune.training.augmentation import renew_seeds
from autoprune.training.batches import Batches
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.course import Course, OnProgress, TrainingError, TrainingRecord
from autoprune.training.training import Training

# Runs the steps of a training, from where its course is to the end.
Loop = Callable[[Training, Course], None]


def train(
    model: Any,
    data: Dataset,
    settings: TrainingSettings,
    *,
    epochs: int,
    learning_rate: float | None,
    seed: int,
    on_progress: OnProgress | None = None,
    teacher: np.ndarray | None = None,
) -> TrainingRecord:
    """Train in place, and keep the weights of the epoch that is best on the reward split (never the test split).

    The model is left without optimiser and losses, so that a saved file holds none.

    Args:
        model: a classifier whose output is probabilities, logits or one probability.
        data: trained on its training split.
        settings: the recipe.
        epochs: number of passes; 0 changes nothing.
        learning_rate: peak of the cosine schedule; None fine-tunes by `settings.schedule`.
        seed: of the order of images and of dropout.
        on_progress: called after each step with the epochs done, a whole number after the last step of one, and the
            logs, which hold `val_accuracy` after whole epochs only.
        teacher: what another model says of the training images, to learn from it too, as for `Training`.

    Raises:
        DataError: the images cannot be changed as the settings ask for.
        ModelError: `settings.feature_distillation` is given, and the model has no features that can be found; or
            `settings.optimizer` is for 3x3 convolutions, and it has none.
        TrainingError: the loss became infinite or not a number. The weights are those of the best epoch before, or
            those that the model came with.
    """
    return carry_out(
        Training(
            model=model,
            data=data,
            settings=settings,
            epochs=epochs,
            learning_rate=learning_rate,
            seed=seed,
            teacher=teacher,
        ),
        on_progress,
    )


def carry_out(
    training: Training,
    on_progress: OnProgress | None = None,
    checkpoints: Checkpoints | None = None,
    loop: Loop | None = None,
) -> TrainingRecord:
    """Do a training, or go on with one that was interrupted.

    Args:
        training: what is trained, and how.
        on_progress: called with epochs done and logs, see `train`.
        checkpoints: where its states are kept; with one there, the training goes on from it, and ends with the same
            weights as without the interruption, where the device computes the same twice. None keeps none.
        loop: runs the steps; None is Keras's `fit` on the devices of this process.

    Raises:
        as `train`.
        CheckpointError: the checkpoint is damaged, or of another training.
    """
    model = training.model
    if training.epochs == 0:
        return TrainingRecord(0, (), (), 0)
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(training.seed)  # on JAX it would import TensorFlow, and nothing here draws by it
    # A layer's seed is drawn when it is made: two processes that load one file have two.
    renew_seeds(model.variables, np.random.default_rng(training.seed))
    course = Course(
        training.network(),
        training.epochs,
        training.settings.early_stop,
        on_progress,
        checkpoints,
        training.start,
        # Channels that are chosen in training are the plan's in the last epoch.
        first_epoch=1 if training.feedback is None else training.epochs,
    )
    try:
        (loop or FitLoop())(training, course)
    finally:
        keras_internals.forget_training(model)
    course.network.set_weights(course.best)
    if course.failure is not None:
        raise TrainingError(
            f"The loss became {course.failure} in epoch {course.position.epoch + 1}. Lower the learning rate: it was "
            f"{training.peak}. The weights are those of the best epoch before."
        )
    return course.position.record()


@dataclass(frozen=True)
class FitLoop:
    """Runs the steps with `model.fit`.

    Attributes:
        whole: every batch has the same shape: a shorter last training batch is left out, the last one of the reward
            split filled up.
        steps_per_execution: steps between two looks at the loss.
    """

    whole: bool = False
    steps_per_execution: int = 1

    def __call__(self, training: Training, course: Course) -> None:
        """Train until the course ends."""
        network = course.network
        batches, reward = training.training_batches(whole=self.whole), training.reward_batches(padded=self.whole)
        steps = batches.steps
        with safe_convolutions(training.model):
            optimizer = training.optimizer(steps)
            # The weights of what only fills a batch up count in weighted metrics alone.
            metrics = {"weighted_metrics" if self.whole else "metrics": [training.metric()]}
            network.compile(
                optimizer,
                training.loss(),
                **metrics,
                # Without, Keras on JAX runs operation by operation; TensorFlow compiles graphs of its own.
                jit_compile=keras.backend.backend() == "jax",
                steps_per_execution=self.steps_per_execution,
            )
            optimizer.build(network.trainable_variables)
            keras_internals.sum_over_no_devices(optimizer)
            course.begin(optimizer, batches)
            while not course.ended:
                epoch, step = course.position.epoch, course.position.step
                batches.begin(epoch, step)
                network.fit(
                    _for_fit(batches),
                    initial_epoch=epoch,
                    # What is left of an epoch is a fit of its own: its length is another one.
                    epochs=epoch + 1 if step else training.epochs,
                    validation_data=_for_fit(reward),
                    shuffle=False,
                    callbacks=[_Watch(course, batches)],
                    verbose=0,
                )
                if (course.position.epoch, course.position.step) == (epoch, step) and not course.ended:
                    raise TrainingError("Keras ended the training before its first step: is KERAS_MAX_EPOCHS set?")


def _for_fit(batches: keras.utils.PyDataset) -> Any:
    if keras.backend.backend() != "tensorflow":
        return batches
    from autoprune.training.tensorflow_batches import stream_batches  # It imports TensorFlow.

    return stream_batches(batches)


class _Watch(keras.callbacks.Callback):
    """Tells the course what `fit` does."""

    def __init__(self, course: Course, batches: Batches) -> None:
        super().__init__()
        self._course = course
        self._batches = batches
        self._first = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Put the batches in the order of the epoch."""
        self._first = self._course.position.step
        self._batches.begin(epoch, self._first)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """One more step, or as many as are executed at once."""
        self._course.step_done(min(self._first + batch + 1, self._course.steps), logs or {"loss": math.nan})
        self._stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """One more epoch."""
        self._course.epoch_done(logs or {})
        self._stop()

    def _stop(self) -> None:
        if self._course.failure is not None or self._course.position.stopped:
            self.model.stop_training = True
