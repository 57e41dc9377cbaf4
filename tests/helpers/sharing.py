"""Ways in which layers share what they hold."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable("tests")
class Holder(layers.Layer):
    """Without a layer kind. It calls the layer that it was given, wherever it keeps it."""

    def __init__(self, kept, get=lambda kept: kept, **options):
        super().__init__(**options)
        self.kept, self.get = kept, get

    def call(self, x):
        return ops.tanh(self.get(self.kept)(x))

    def get_config(self):
        return {**super().get_config(), "kind": "holder"}


@keras.saving.register_keras_serializable("tests")
class Transposed(layers.Layer):
    """A decoder with the kernel of its encoder."""

    def __init__(self, layer, **options):
        super().__init__(**options)
        self.layer = layer

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.layer.kernel))

    def get_config(self):
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}


def tie(layer, other):
    """Let a layer hold the kernel of another one instead of its own."""
    layer._tracker.unlock()
    layer._untrack_variable(layer._kernel)
    layer._kernel = other._kernel
    layer._tracker.lock()
