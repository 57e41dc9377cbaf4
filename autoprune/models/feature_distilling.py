"""Distillation of features: a network keeps for its own what a teacher finds alike and unlike.

Tung & Mori, 2019 (arXiv 1907.09682): compared are not features but how similar the images of a batch are by them.
Student and teacher may have any numbers of features, so that removed channels need no projection that is learnt beside
the network. The features are what enters the classifier. The teacher's travel behind its probabilities in one array,
the student's behind its outputs, so that any Keras training loop can take them.
"""

import math
from typing import Any

import keras
import numpy as np

from autoprune.errors import ModelError
from autoprune.models import keras_internals
from autoprune.models.outputs import class_log_probabilities, classifier_input, gives_logits

# Below it the length of a row counts as none.
_TINY = 1e-12


class WithFeatures(keras.Model):
    """A classifier that gives its features behind its outputs, to be trained in its place.

    It holds the very layers and variables of the model, in the same order, and calls them in other combinations:
    nothing is added to the model's graph, and nothing of this is left when it is no longer used.

    Args:
        model: a classifier with a graph and one output (n, classes). The classifier may lie in a model that is nested
            in it, where that gives the output.

    Raises:
        ModelError: what enters the classifier cannot be found, or has no fixed size.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(name="with_features", dtype="float32")
        self._parts: list[Any] = []
        inner = model
        while keras_internals.is_graph(last := keras_internals.maker_of(inner.outputs[0])):
            entering = keras_internals.call_of(inner.outputs[0]).input_tensors
            if len(entering) != 1 or len(last.outputs) != 1:
                break  # which `classifier_input` refuses
            self._parts.append(keras.Model(keras_internals.input_structure(inner), entering[0]))
            inner = last
        features = classifier_input(inner)
        self._size = math.prod(features.shape[1:])
        self._parts.append(keras.Model(keras_internals.input_structure(inner), [inner.outputs[0], features]))
        for name in ("variables", "trainable_variables", "weights"):
            ours, theirs = ([id(variable) for variable in getattr(owner, name)] for owner in (self, model))
            if ours != theirs:
                raise ModelError(
                    f"Feature distillation trains '{model.name}' by the same variables in the same order, and its "
                    f"{name} come in another one. Set training.feature_distillation=0."
                )

    def call(self, images: Any, training: bool | None = None) -> Any:
        """(n, classes + d) float32 outputs and features of images."""
        value = images
        for part in self._parts:
            value = part(value, training=training)
        outputs, features = (keras.ops.cast(tensor, "float32") for tensor in value)
        return keras.ops.concatenate([outputs, keras.ops.reshape(features, (-1, self._size))], axis=-1)


def teachings(model: Any, images: Any, batch_size: int = 256) -> np.ndarray:
    """What a teacher says of images, and its features: a row for each, made eagerly in inference mode.

    Args:
        model: the teacher, a classifier of c classes, or with one output for two.
        images: (n, *input shape).
        batch_size: images per forward pass.

    Returns:
        (n, c + d) float32 logarithms of probabilities, and behind them what enters its classifier, flattened.

    Raises:
        ModelError: the model has no features that can be found, see `WithFeatures`.
    """
    network, outputs, from_logits = WithFeatures(model), model.outputs[0].shape[-1], gives_logits(model)
    told = np.empty((0, 0), np.float32)
    for start in range(0, len(images), batch_size):
        with keras_internals.without_gradients():
            said = network(images[start : start + batch_size], training=False)
        logarithms = class_log_probabilities(said[:, :outputs], from_logits=from_logits)
        both = keras.ops.convert_to_numpy(keras.ops.concatenate([logarithms, said[:, outputs:]], axis=-1))
        if start == 0:  # Of many images that is much: it lies in memory once.
            told = np.empty((len(images), both.shape[1]), np.float32)
        told[start : start + len(both)] = both
    return told


def similarities(features: Any) -> Any:
    """(b, b) products of a batch's features (b, d), every row divided by its Euclidean length.

    Section 3 of the paper, for one layer. The row of an image whose features are all zero stays zero.
    """
    products = keras.ops.matmul(features, keras.ops.transpose(features))
    squares = keras.ops.sum(keras.ops.square(products), axis=-1, keepdims=True)
    return products * keras.ops.rsqrt(keras.ops.maximum(squares, _TINY**2))


def similarity_loss(student: Any, teacher: Any) -> Any:
    """(b,) losses whose mean is the squared Frobenius norm of the difference of `similarities`, over b^2.

    So the paper defines the term. Loss i is the sum of squares of row i, over b: it falls as batches grow.

    Args:
        student: (b, d) features.
        teacher: (b, e) features of the same images.
    """
    difference = similarities(student) - similarities(teacher)
    return keras.ops.mean(keras.ops.square(difference), axis=-1)


class FeatureDistillationLoss(keras.losses.Loss):
    """Another loss of outputs and targets, plus a weight times `similarity_loss` of the features behind them.

    A batch's rows are compared with each other: on JAX those of the whole batch, under a TensorFlow strategy those of
    each device's share, so that the term is as many times larger there as there are devices.

    Args:
        of_outputs: gives (b,) losses of labels and the teacher's logarithms of probabilities, and of outputs.
        weight: gamma of the paper, which takes 3000.
        outputs: number of the student's outputs; one stands for two classes.
    """

    def __init__(self, of_outputs: keras.losses.Loss, weight: float, outputs: int) -> None:
        super().__init__(name="feature_distillation")
        self._of_outputs = of_outputs
        self._weight = weight
        self._outputs = outputs

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(b,) losses.

        Args:
            y_true: (b, 1 + classes + e): label, the teacher's logarithms of probabilities and its features.
            y_pred: (b, outputs + d): the student's, as of `WithFeatures`.
        """
        outputs, told = self._outputs, 1 + max(self._outputs, 2)
        losses = self._of_outputs.call(y_true[:, :told], y_pred[:, :outputs])
        return losses + self._weight * similarity_loss(y_pred[:, outputs:], y_true[:, told:])
