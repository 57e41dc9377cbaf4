"""How the learning rate goes over the steps of a training."""

from typing import Any

import keras

from autoprune.settings import TrainingSettings


def cosine(peak: float, steps: int, warm_up: float) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up to the peak, then a cosine to zero (Loshchilov & Hutter, 2017, arXiv 1608.03983).

    Args:
        peak: the highest learning rate.
        steps: number of steps in the whole training.
        warm_up: share of the steps in which it rises.
    """
    rising = round(warm_up * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rising else peak,
        decay_steps=max(steps - rising, 1),
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )


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
        whole = cosine(settings.learning_rate, settings.epochs * steps, settings.warm_up)
        return Rewound(whole, (settings.epochs - epochs) * steps)
    return cosine(settings.fine_tune_learning_rate, epochs * steps, settings.warm_up)
