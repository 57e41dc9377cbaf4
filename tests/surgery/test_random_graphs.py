"""Properties that hold for graphs nobody thought of."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from oracle import kept_by_layer, outputs_of, zeroed_outputs
from topologies import images_for, randomise

from autoprune.graph import find_groups
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon


@st.composite
def graphs(draw):
    """A random functional graph: a growing pool of feature maps of one size, combined at random."""
    keras.backend.clear_session()
    image = keras.Input((5, 5, 2))
    pool = [image]
    for _ in range(draw(st.integers(3, 9))):
        x = draw(st.sampled_from(pool))
        same = [t for t in pool if t.shape == x.shape]
        y = draw(st.sampled_from(same))
        channels = draw(st.sampled_from([1, 2, 3, 6]))
        step = draw(st.sampled_from(sorted(STEPS)))
        pool.append(STEPS[step](x, y, channels))
    last = layers.Conv2D(4, 1)(pool[-1])
    flat = layers.Flatten()(last) if draw(st.booleans()) else layers.GlobalAveragePooling2D()(last)
    outputs = [layers.Dense(3)(flat)]
    if draw(st.booleans()):
        outputs.append(layers.GlobalMaxPooling2D()(draw(st.sampled_from(pool[1:]))))
    model = keras.Model(image, outputs)
    randomise(model, draw(st.integers(0, 1000)))
    return model


def squeeze_excite(x, y, channels):
    gate = layers.Dense(channels, activation="relu")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Reshape((1, 1, x.shape[-1]))(layers.Dense(x.shape[-1], activation="sigmoid")(gate))
    return layers.Multiply()([x, gate])


STEPS = {
    "conv": lambda x, y, c: layers.Conv2D(c, 3, padding="same", activation="relu")(x),
    "pointwise": lambda x, y, c: layers.Conv2D(c, 1, use_bias=False)(x),
    "norm": lambda x, y, c: layers.BatchNormalization()(x),
    "activation": lambda x, y, c: layers.Activation("sigmoid")(x),
    "depthwise": lambda x, y, c: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + c % 2)(x),
    "separable": lambda x, y, c: layers.SeparableConv2D(c, 3, padding="same")(x),
    "transpose": lambda x, y, c: layers.Conv2DTranspose(c, 3, padding="same")(x),
    "dense": lambda x, y, c: layers.Dense(c)(x),
    "add": lambda x, y, c: layers.Add()([x, y]),
    "raw_add": lambda x, y, c: x + y * 0.5,
    "multiply": lambda x, y, c: layers.Multiply()([x, y]),
    "concatenate": lambda x, y, c: layers.Concatenate()([x, y]),
    "raw_concatenate": lambda x, y, c: ops.concatenate([y, x], axis=-1),
    "residual": lambda x, y, c: x + layers.Conv2D(x.shape[-1], 3, padding="same")(y),
    "gate": squeeze_excite,
}


# Keras draws seeds of initialisers from `random`; `randomise` then sets every weight.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(model=graphs(), ratio=st.floats(0.2, 0.8), seed=st.integers(0, 1000))
def test_pruned_equals_zeroed_and_comes_back(model, ratio, seed):
    groups = find_groups(model)
    if not any(group.prunable for group in groups):
        return
    images = images_for(model, 2, seed)
    before = outputs_of(model, images)
    plan = make_plan(model, ratio, importance="random", multiple_of=1, seed=seed)
    expected = zeroed_outputs(model, kept_by_layer(groups, plan), images)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(plan)
    for output, wanted in zip(outputs_of(model, images), expected, strict=True):
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(output / scale, wanted / scale, atol=2e-5)
    surgeon.restore(snapshot)
    for output, wanted in zip(outputs_of(model, images), before, strict=True):
        np.testing.assert_array_equal(output, wanted)
