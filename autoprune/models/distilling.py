"""Logarithms of a classifier's probabilities, and cross-entropies of them."""

from typing import Any

import keras


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
