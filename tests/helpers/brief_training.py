"""A narrow plain network on digits, trained for an epoch, and what a criterion leaves of it: compiled twice in all."""

import keras
import numpy as np

from autoprune.models.zoo import build
from autoprune.planning import make_plan
from autoprune.surgery import apply_plan


class Trainer:
    """Trains networks of one architecture for an epoch, each anew, with one compiled step."""

    def __init__(self, model):
        self.model = model
        model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        self._fresh = [variable.numpy() for variable in model.optimizer.variables]

    def train(self, weights, split):
        """The weights after an epoch."""
        self.model.set_weights(weights)
        for variable, value in zip(self.model.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        self.model.fit(split.images, split.labels, batch_size=32, shuffle=False, verbose=0)
        return self.model.get_weights()


def narrow(seed):
    keras.utils.set_random_seed(seed)
    return build("plain_cnn", (8, 8, 1), 10, 0.25)


def pruned(weights, keep_ratio, importance, data, seed=0):
    """A network with these weights, pruned alike in every group."""
    model = narrow(seed)
    model.set_weights(weights)
    apply_plan(model, make_plan(model, keep_ratio, importance=importance, multiple_of=1, seed=seed, data=data))
    return model


def accuracy_on(model, split):
    outputs = keras.ops.convert_to_numpy(model(split.images, training=False))
    return float(np.mean(outputs.argmax(1) == split.labels))
