"""Asking a teacher what it says of images, with Keras on PyTorch, where tests/surgery/test_backends.py runs this."""

import keras
import numpy as np
import pytest

from autoprune.models.feature_distilling import teachings
from helpers.telling import log_probabilities


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="others keep nothing unless they are told to")
@pytest.mark.parametrize("ask", [log_probabilities, teachings])
def test_asking_a_teacher_keeps_no_activations_for_gradients(ask):
    """On PyTorch every pass of a batch would hold all activations: fine-tuning several plans filled a GPU with them."""
    import torch

    tracked = []

    class Watched(keras.layers.Layer):
        def call(self, inputs):
            tracked.append(torch.is_grad_enabled())
            return inputs

    inputs = keras.Input((4,))
    hidden = Watched()(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    tracked.clear()
    ask(model, np.zeros((5, 4), "float32"), 2)
    assert tracked == [False] * 3
