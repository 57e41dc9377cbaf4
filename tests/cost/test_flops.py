"""Counting operations, against formulas written out by hand."""

import keras
import pytest
from keras import layers
from topologies import TOPOLOGIES, made

from autoprune.cost.flops import count_flops, flops_per_layer
from autoprune.models import zoo

CASES = {
    "dense": ((12,), layers.Dense(5), 2 * 12 * 5),
    "dense on pixels": ((4, 4, 12), layers.Dense(5), 2 * 16 * 12 * 5),
    "conv1d": ((10, 3), layers.Conv1D(5, 3), 2 * 8 * 3 * 3 * 5),
    "conv2d": ((10, 10, 3), layers.Conv2D(5, 3, strides=2, padding="same"), 2 * 25 * 9 * 3 * 5),
    "grouped": ((10, 10, 4), layers.Conv2D(6, 3, groups=2), 2 * 64 * 9 * 2 * 6),
    "conv3d": ((4, 4, 4, 2), layers.Conv3D(3, 2), 2 * 27 * 8 * 2 * 3),
    "channels first": ((3, 10, 8), layers.Conv2D(5, 3, data_format="channels_first"), 2 * 8 * 6 * 9 * 3 * 5),
    "transposed": ((5, 5, 3), layers.Conv2DTranspose(4, 2, strides=2), 2 * 25 * 4 * 3 * 4),
    "depthwise": ((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2), 2 * 16 * 9 * 3 * 2),
    "separable": ((6, 6, 3), layers.SeparableConv2D(5, 3), 2 * 16 * (9 * 3 + 3 * 5)),
    "every frame": ((7, 6, 6, 3), layers.TimeDistributed(layers.Conv2D(5, 3)), 7 * 2 * 16 * 9 * 3 * 5),
    "spectral": ((6, 6, 3), layers.SpectralNormalization(layers.Conv2D(5, 3)), 2 * 16 * 9 * 3 * 5),
    "pooling": ((6, 6, 3), layers.MaxPooling2D(), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_operations_of_one_layer(case):
    shape, layer, expected = CASES[case]
    image = keras.Input(shape)
    assert count_flops(keras.Model(image, layer(image)), batch_size=3) == 3 * expected


def test_attention_counts_projections_and_products():
    tokens = keras.Input((9, 6))
    layer = layers.MultiHeadAttention(3, 4, value_dim=5, name="attention")
    flops = flops_per_layer(keras.Model(tokens, layer(tokens, tokens)))
    assert flops == {
        "attention": 2 * 9 * 9 * 3 * (4 + 5),
        "attention/query": 2 * 9 * 6 * 3 * 4,
        "attention/key": 2 * 9 * 6 * 3 * 4,
        "attention/value": 2 * 9 * 6 * 3 * 5,
        "attention/attention_output": 2 * 9 * 3 * 5 * 6,
    }


def test_shared_layer_counts_for_every_call():
    image = keras.Input((6, 6, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    assert flops_per_layer(keras.Model(image, shared(shared(image)))) == {"shared": 2 * 2 * 36 * 9 * 9}


def test_nested_layers_are_counted_under_their_path():
    assert "backbone/inner_a" in flops_per_layer(made("nested"))


@pytest.mark.parametrize("name", sorted(TOPOLOGIES))
def test_total_is_the_sum_of_the_layers(name):
    model = made(name)
    assert count_flops(model, 1) == sum(flops_per_layer(model).values())


def test_known_networks():
    assert count_flops(zoo.build("vgg16", None, None), 1) / 2 == pytest.approx(313.7e6, rel=0.001)
    assert count_flops(zoo.build("resnet20", None, None), 1) / 2 == pytest.approx(41e6, rel=0.02)
