"""How the learning rate goes over the steps of a training."""

import math
from typing import Any

import keras

from autoprune.settings import TrainingSettings


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then a cosine to zero (Loshchilov & Hutter, 2017, arXiv 1608.03983).

    What `keras.optimizers.schedules.CosineDecay` computes, without its branch: AdamW on TensorFlow traces the schedule
    anew for every variable that decays, and a branch takes longer to trace than all else that is done with a variable.

    Args:
        peak: the highest learning rate.
        steps: number of steps in the whole training.
        warm_up: share of the steps in which it rises.
    """

    def __init__(self, peak: float, steps: int, warm_up: float) -> None:
        self._peak = peak
        self._steps = steps
        self._warm_up = warm_up
        self._rising = round(warm_up * steps)

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        step = keras.ops.cast(step, "float32")
        rising, falling = self._rising, max(self._steps - self._rising, 1)
        share = (keras.ops.minimum(step, rising + falling) - rising) / falling
        late = self._peak * (0.5 * (1.0 + keras.ops.cos(math.pi * share)))
        return keras.ops.where(step < rising, self._peak * (step / rising), late) if rising else late

    def get_config(self) -> dict[str, Any]:
        """What it is made of."""
        return {"peak": self._peak, "steps": self._steps, "warm_up": self._warm_up}


class Rewound(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from one of its later steps on.

    Args:
        schedule: the whole.
        skipped: steps of it that are left out.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, skipped: int) -> None:
        self._schedule = schedule
        self._skipped = skipped

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        return self._schedule(step + self._skipped)

    def get_config(self) -> dict[str, Any]:
        """What it is made of."""
        return {"schedule": self._schedule, "skipped": self._skipped}


def fine_tuning_schedule(
    settings: TrainingSettings, epochs: int, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The schedule of a fine-tuning.

    With `schedule=rewinding` it is that of the last epochs of training from scratch (Renda et al., 2020, arXiv
    2003.02389): the network goes on as if only so much of its training had been undone.

    Args:
        settings: `schedule` and what belongs to it.
        epochs: number of epochs that fine-tuning takes.
        steps: number of steps in one epoch.
    """
    if settings.schedule == "rewinding":
        whole = Cosine(settings.learning_rate, settings.epochs * steps, settings.warm_up)
        return Rewound(whole, (settings.epochs - epochs) * steps)
    return Cosine(settings.fine_tune_learning_rate, epochs * steps, settings.warm_up)
