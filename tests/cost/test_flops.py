"""Counting operations, against formulas written out by hand."""

import keras
import pytest
from keras import layers, ops

from autoprune.cost.flops import count_flops, flops_per_layer
from autoprune.layers import kind_of, list_kinds
from autoprune.models import keras_internals, zoo
from autoprune.models.networks import flow_priors, flows
from autoprune.models.networks.experts import MixtureOfExperts
from autoprune.models.networks.ode import ODEBlock
from helpers.topologies import TOPOLOGIES, made

CASES = {
    "dense": ((12,), layers.Dense(5), 2 * 12 * 5),
    "dense on pixels": ((4, 4, 12), layers.Dense(5), 2 * 16 * 12 * 5),
    "conv1d": ((10, 3), layers.Conv1D(5, 3), 2 * 8 * 3 * 3 * 5),
    "conv2d": ((10, 10, 3), layers.Conv2D(5, 3, strides=2, padding="same"), 2 * 25 * 9 * 3 * 5),
    "grouped": ((10, 10, 4), layers.Conv2D(6, 3, groups=2), 2 * 64 * 9 * 2 * 6),
    "conv3d": ((4, 4, 4, 2), layers.Conv3D(3, 2), 2 * 27 * 8 * 2 * 3),
    "channels first": ((3, 10, 8), layers.Conv2D(5, 3, data_format="channels_first"), 2 * 8 * 6 * 9 * 3 * 5),
    "transposed": ((5, 5, 3), layers.Conv2DTranspose(4, 2, strides=2), 2 * 25 * 4 * 3 * 4),
    "transposed 1-D": ((6, 3), layers.Conv1DTranspose(4, 2), 2 * 6 * 2 * 3 * 4),
    "transposed 3-D": ((2, 3, 4, 3), layers.Conv3DTranspose(2, 2), 2 * 24 * 8 * 3 * 2),
    "depthwise 1-D": ((6, 3), layers.DepthwiseConv1D(3), 2 * 4 * 3 * 3),
    "separable 1-D": ((6, 3), layers.SeparableConv1D(5, 3), 2 * 4 * (3 * 3 + 3 * 5)),
    "depthwise": ((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=2), 2 * 16 * 9 * 3 * 2),
    "separable": ((6, 6, 3), layers.SeparableConv2D(5, 3), 2 * 16 * (9 * 3 + 3 * 5)),
    "every frame": ((7, 6, 6, 3), layers.TimeDistributed(layers.Conv2D(5, 3)), 7 * 2 * 16 * 9 * 3 * 5),
    "spectral": ((6, 6, 3), layers.SpectralNormalization(layers.Conv2D(5, 3)), 2 * 16 * 9 * 3 * 5),
    "experts": ((6, 5), MixtureOfExperts(4, 7, 3), 2 * 6 * 4 * (5 + 5 * 7 + 7 * 3)),
    "ode": ((5, 3), ODEBlock((8, 7), steps=6), 5 * 4 * 6 * 2 * (3 * 8 + 8 * 7 + 7 * 3)),
    "ode with log-density": (
        (3,),
        ODEBlock((8, 7), steps=6, log_density=True),
        4 * 6 * 2 * (2 * 8 + 8 * 7 + 7 * 2 + 2 * 8 * 7 + 7 * 2),
    ),
    "pooling": ((6, 6, 3), layers.MaxPooling2D(), 0),
    # Of a state's channels the last is the log-density.
    "coupling": ((4, 6, 9), flows.AffineCoupling((5, 7)), 2 * 24 * (9 * 4 * 5 + 5 * 7 + 9 * 7 * 8)),
    "rotation": ((4, 6, 9), flows.InvertibleConvolution(), 2 * 24 * 8 * 8),
    "split": (
        (4, 6, 9),
        flow_priors.AutoregressiveSplit(3),
        2 * 24 * (9 * 4 * 4 + 4 * (9 * (1 + 4 + 3) * 12 + 3 * 2)),
    ),
    "prior": ((4, 6, 9), flow_priors.AutoregressivePrior(192, 3), 2 * 24 * 8 * (9 * (1 + 3) * 12 + 3 * 2)),
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


def test_every_layer_that_multiplies_is_counted_by_hand_above():
    counted = {layer for layer, kind in list_kinds().items() if callable(kind.flops)}
    assert counted == {type(layer) for _, layer, expected in CASES.values() if expected} | {layers.MultiHeadAttention}


def test_layers_with_weights_that_are_no_products_count_nothing_by_choice():
    """Normalisations, slopes, factors per channel, and tables that are looked up."""
    free = {
        type(operation).__name__
        for name in TOPOLOGIES
        for operation in keras_internals.layers_by_path(made(name)).values()
        if (kind := kind_of(operation)) and kind.flops == 0 and keras_internals.has_parameters(operation)
    }
    norms = {f"{name}Normalization" for name in ("Batch", "Group", "Layer", "RMS")}
    assert free == {*norms, "Embedding", "LayerScale", "PReLU"}


class Product(layers.Layer):
    """Multiplies, and nothing is known of it."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)


class Widened(layers.Dense):
    """Of its own class, and counted as what it derives from."""


def test_what_is_not_counted_is_said_once(messages):
    image = keras.Input((5,))
    inner = keras.Model(image, Product(name="odd")(layers.Dense(4, name="known")(image)), name="inner")
    x = layers.TimeDistributed(layers.Dense(2), name="frames")(layers.Reshape((3, 1))(inner(image)))
    x = layers.TimeDistributed(Product(name="framed"), name="others")(x)
    model = keras.Model(image, ops.matmul(x, ops.transpose(x, (0, 2, 1))))
    counted = flops_per_layer(model)
    assert counted == {"inner/known": 2 * 5 * 4, f"frames/{model.get_layer('frames').layer.name}": 2 * 3 * 2}
    assert "FLOPs are counted without those of 'inner/odd' (Product), 'others/framed' (Product), 'matmul" in messages()
    assert "autoprune.layer_kind" in messages()
    said = messages()
    flops_per_layer(model)
    assert messages() == said


def test_all_that_is_counted_is_said_nothing_of(messages):
    image = keras.Input((5,))
    x = ops.relu(layers.BatchNormalization()(Widened(4, name="wide")(image)))
    assert flops_per_layer(keras.Model(image, x)) == {"wide": 2 * 5 * 4}
    assert "FLOPs" not in messages()


def test_known_networks():
    assert count_flops(zoo.build("vgg16", None, None), 1) / 2 == pytest.approx(313.7e6, rel=0.001)
    assert count_flops(zoo.build("resnet20", None, None), 1) / 2 == pytest.approx(41e6, rel=0.02)
