"""What classifiers tell of images, and losses of outputs that no model is at hand for."""

import keras

from autoprune.tasks import CLASSIFICATION, Judge
from autoprune.tasks.judge import TaskLoss


def log_probabilities(model, images, batch_size=256):
    """(n, classes) logarithms of a classifier's probabilities."""
    return Judge(CLASSIFICATION, model).ask(images, batch_size)


def loss_of(classes, *, from_logits, weight=None, temperature=1.0, smoothing=0.0):
    """The loss of a classifier with so many outputs."""
    inputs = keras.Input((classes,))
    activation = "linear" if from_logits else "sigmoid" if classes == 1 else "softmax"
    judge = Judge(CLASSIFICATION, keras.Model(inputs, keras.layers.Activation(activation)(inputs)))
    return TaskLoss(judge, teacher=weight, temperature=temperature, smoothing=smoothing)
