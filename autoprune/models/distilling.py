"""Distillation: a network learns from another's probabilities besides the labels.

Hinton, Vinyals & Dean, 2015 (arXiv 1503.02531). The teacher is run once over the images; its logarithms of
probabilities travel beside the labels as one array, so that any Keras training loop can take them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.models import keras_internals
from autoprune.models.head import gives_logits


def class_log_probabilities(outputs: Any, *, from_logits: bool) -> Any:
    """Logarithms of a classifier's probabilities, up to rounding.

    Args:
        outputs: (n, classes), or (n, 1) for one number that tells two classes apart.
        from_logits: whether they are logits; otherwise they are probabilities.

    Returns:
        (n, classes), or (n, 2).
    """
    outputs = keras.ops.cast(outputs, "float32")
    if outputs.shape[-1] == 1:
        logit = outputs if from_logits else keras.ops.log(_clip(outputs)) - keras.ops.log(_clip(1 - outputs))
        return keras.ops.concatenate([keras.ops.log_sigmoid(-logit), keras.ops.log_sigmoid(logit)], axis=-1)
    return keras.ops.log_softmax(outputs, axis=-1) if from_logits else keras.ops.log(_clip(outputs))


def _clip(probabilities: Any) -> Any:
    return keras.ops.clip(probabilities, 1e-7, 1.0)


def predict_log_probabilities(
    model: Any, images: Any, batch_size: int = 256, run: Callable[..., Any] | None = None
) -> np.ndarray:
    """(n, classes) float32 logarithms of a model's probabilities for images in inference mode.

    Args:
        model: a classifier.
        images: (n, *input shape), an array or images that are read as needed.
        batch_size: images per forward pass.
        run: called in place of the model, which is run eagerly otherwise.
    """
    from_logits, run = gives_logits(model), run or partial(keras_internals.run_on, model)
    parts = []
    with keras_internals.without_gradients():
        for start in range(0, len(images), batch_size):
            outputs = run(images[start : start + batch_size], training=False)
            parts.append(keras.ops.convert_to_numpy(class_log_probabilities(outputs, from_logits=from_logits)))
    return np.concatenate(parts).astype(np.float32)


def taught(labels: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """(n, 1 + classes) float32: labels, and beside them the teacher's logarithms of probabilities."""
    return np.concatenate([labels[:, None].astype(np.float32), teacher], axis=1)


def hard_loss(labels: Any, log_probabilities: Any, smoothing: float = 0.0) -> Any:
    """(n,) cross-entropies with labels, of which a share is spread evenly over all classes.

    Label smoothing of Szegedy et al., 2016 (arXiv 1512.00567, section 7): (1 - s) * label + s / classes.

    Args:
        labels: (n,) class numbers, of any dtype.
        log_probabilities: (n, classes).
        smoothing: s, from 0 to below 1.
    """
    label = keras.ops.one_hot(keras.ops.cast(labels, "int32"), log_probabilities.shape[-1])
    hard = -keras.ops.sum(label * log_probabilities, axis=-1)
    return hard if smoothing == 0 else (1 - smoothing) * hard - smoothing * keras.ops.mean(log_probabilities, axis=-1)


class SmoothedLoss(keras.losses.Loss):
    """Cross-entropy with smoothed labels, see `hard_loss`.

    Args:
        smoothing: share of a label that is spread over all classes.
        from_logits: what the network puts out.
    """

    def __init__(self, smoothing: float, *, from_logits: bool) -> None:
        super().__init__(name="smoothed_crossentropy")
        self._smoothing = smoothing
        self._from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) losses of (n,) or (n, 1) class numbers and the network's outputs."""
        log_probabilities = class_log_probabilities(y_pred, from_logits=self._from_logits)
        return hard_loss(keras.ops.reshape(y_true, (-1,)), log_probabilities, self._smoothing)


class DistillationLoss(keras.losses.Loss):
    """Cross-entropy with the labels and with a teacher: (1 - weight) * hard + weight * temperature^2 * soft.

    A softmax at a temperature does not mind a constant added to all logits, so that logarithms of probabilities do in
    their place. The square keeps the gradients of the soft term as large as the hard one's (section 2 of the paper).

    Args:
        weight: share of the loss that goes to the teacher, from 0 to 1.
        temperature: above 0; the larger, the more the teacher's small probabilities count.
        from_logits: what the student puts out.
        smoothing: of the labels, see `hard_loss`.
    """

    def __init__(self, weight: float, temperature: float, *, from_logits: bool, smoothing: float = 0.0) -> None:
        super().__init__(name="distillation")
        self._weight = weight
        self._temperature = temperature
        self._from_logits = from_logits
        self._smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) losses of rows made by `taught` and the student's outputs."""
        student = class_log_probabilities(y_pred, from_logits=self._from_logits)
        hard = hard_loss(y_true[:, 0], student, self._smoothing)
        teacher = keras.ops.softmax(y_true[:, 1:] / self._temperature, axis=-1)
        soft = -keras.ops.sum(teacher * keras.ops.log_softmax(student / self._temperature, axis=-1), axis=-1)
        return (1 - self._weight) * hard + self._weight * self._temperature**2 * soft
