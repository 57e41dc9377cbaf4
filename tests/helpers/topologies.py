"""Small models that between them hold every layer and raw operation of a known kind."""

import keras
import numpy as np
from keras import layers, ops

from autoprune.models.keras_internals import application_class
from autoprune.models.safe_convolutions import safe_convolutions

TOPOLOGIES = {}


def topology(build):
    TOPOLOGIES[build.__name__] = build
    return build


def made(name, seed=0):
    """The topology with random weights everywhere, so that no parameter is neutral by its initial value."""
    keras.utils.set_random_seed(seed)
    model = TOPOLOGIES[name]()
    randomise(model, seed)
    return model


def randomise(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = generator.normal(0, 0.5, tuple(weight.shape))
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path or "stddev" in weight.path else values)


def images_for(model, count=3, seed=1):
    generator = np.random.default_rng(seed)
    arrays = [
        generator.integers(0, 5, (count, *t.shape[1:])).astype("int32")
        if "int" in t.dtype
        else generator.normal(size=(count, *t.shape[1:])).astype(t.dtype)
        for t in model.inputs
    ]
    return arrays[0] if len(arrays) == 1 else arrays


def fitted(model, images, targets, **options):
    """One epoch of Keras' own training, or as many as said, with the gradient avoided that corrupts memory."""
    with safe_convolutions(model):
        return model.fit(images, targets, verbose=0, **options)


def head(x, classes=5):
    return layers.Dense(classes, activation="softmax", name="classifier")(x)


def conv_bn(x, channels, **options):
    x = layers.Conv2D(channels, 3, padding="same", **options)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


@topology
def plain():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 8, name="a")
    x = layers.MaxPooling2D()(x)
    x = layers.ZeroPadding2D(1)(x)
    x = conv_bn(x, 12, use_bias=False, name="b")
    x = layers.AveragePooling2D(2)(x)
    x = layers.Dropout(0.3)(x)
    x = layers.SpatialDropout2D(0.3)(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def flatten_head():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(7, 3, activation="tanh", name="a")(image)
    x = layers.Cropping2D(1)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(9, activation="relu", name="hidden")(x)
    return keras.Model(image, head(layers.GaussianNoise(0.1)(x)))


@topology
def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, name="a"),
            layers.BatchNormalization(scale=False),
            layers.Activation("sigmoid"),
            layers.Conv2D(6, 3, activation="relu", name="b"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(5, name="logits"),
        ]
    )


@topology
def sequential_added_one_by_one():
    model = keras.Sequential([keras.Input((8, 8, 3))])
    for layer in (layers.Conv2D(6, 3, name="a"), layers.BatchNormalization(center=False), layers.Flatten()):
        model.add(layer)
    model.add(layers.Dense(4, name="logits"))
    return model


@topology
def residual():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 8, name="stem")
    for number in (1, 2):
        inner = conv_bn(x, 6, name=f"inner{number}")
        inner = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name=f"outer{number}")(inner))
        x = layers.ReLU()(layers.Add()([x, inner]))
    shortcut = layers.Conv2D(12, 1, strides=2, name="shortcut")(x)
    inner = layers.Conv2D(12, 3, strides=2, padding="same", name="down")(x)
    x = layers.ReLU()(layers.Add()([shortcut, inner]))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def preactivation_residual():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for number in (1, 2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(8, 3, padding="same", name=f"conv{number}")(y)
        x = layers.Add()([x, y])
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def input_residual():
    """The first sum adds the model's own input: its channels are fixed, the others are not."""
    image = keras.Input((8, 8, 3))
    x = layers.Add()([image, layers.Conv2D(3, 3, padding="same", name="fixed")(image)])
    x = layers.Conv2D(8, 3, name="free")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def growing_concatenation():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 8, name="stem")
    for number in (1, 2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(5, 3, padding="same", name=f"grow{number}")(y)
        x = layers.Concatenate()([x, y])
    x = layers.Conv2D(6, 1, name="transition")(x)
    return keras.Model(image, head(layers.Flatten()(x)))


@topology
def concatenation_meets_sum():
    """A concatenation of two producers is added to a third: each half is a group with its part of the third."""
    image = keras.Input((8, 8, 2))
    a = layers.Conv2D(4, 3, padding="same", name="a")(image)
    b = layers.Conv2D(6, 3, padding="same", name="b")(image)
    c = layers.Conv2D(10, 3, padding="same", name="c")(image)
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def spatial_concatenation():
    """Concatenated along the height: the channels are coupled as in a sum."""
    image = keras.Input((4, 4, 2))
    a = layers.Conv2D(5, 3, padding="same", name="a")(image)
    b = layers.Conv2D(5, 3, padding="same", name="b")(image)
    x = layers.Concatenate(axis=1)([a, b])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def concatenation_with_input():
    image = keras.Input((6, 6, 3))
    x = layers.Concatenate()([image, layers.Conv2D(6, 3, padding="same", name="a")(image)])
    x = layers.Conv2D(8, 3, name="b")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def depthwise():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 6, name="expand")
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 1, use_bias=False, name="project")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="multiplied")(layers.BatchNormalization()(x))
    x = layers.LeakyReLU()(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def depthwise_on_input():
    image = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(image)
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def separable():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 6, name="stem")
    x = layers.SeparableConv2D(10, 3, depth_multiplier=2, padding="same", name="separable")(x)
    x = layers.ELU()(x)
    x = layers.SeparableConv2D(7, 3, use_bias=False, name="last")(x)
    return keras.Model(image, head(layers.GlobalMaxPooling2D()(x)))


@topology
def unet():
    image = keras.Input((8, 8, 2))
    high = conv_bn(image, 6, name="down1")
    low = conv_bn(layers.MaxPooling2D()(high), 8, name="down2")
    x = layers.Conv2DTranspose(6, 2, strides=2, name="up1")(low)
    x = layers.Concatenate()([x, high])
    x = conv_bn(x, 6, name="merge")
    x = layers.UpSampling2D()(x)
    x = layers.Conv2DTranspose(4, 3, activation="relu", use_bias=False, name="up2")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def squeeze_excite():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 8, name="stem")
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 8))(gate)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze")(gate)
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, gate])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def spatial_attention():
    """A map with a single channel is broadcast over all: it constrains nothing and cannot shrink."""
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 8, name="features")
    weight = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="map")(x)
    x = layers.Multiply()([x, weight])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def reshapes():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(image)
    x = layers.Reshape((16, 6))(x)
    x = layers.Conv1D(8, 3, padding="same", name="b")(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Reshape((16 * 8,))(x)
    x = layers.Reshape((-1, 8))(x)
    x = layers.GlobalAveragePooling1D(keepdims=True)(x)
    return keras.Model(image, head(layers.Flatten()(x)))


@topology
def merges():
    image = keras.Input((6, 6, 2))
    a, b, c, d, e, f = (layers.Conv2D(5, 3, padding="same", name=name)(image) for name in "abcdef")
    x = layers.Subtract()([a, b])
    x = layers.Average()([x, c])
    x = layers.Maximum()([x, d])
    x = layers.Minimum()([x, e])
    x = layers.Multiply()([x, f])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def raw_operations():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(image)
    y = layers.Conv2D(6, 3, padding="same", name="b")(image)
    x = x + y
    x = ops.maximum(x * 0.5 - y, ops.minimum(x, 2.0)) / 3.0
    x = ops.relu6(x + 3.0) * (1.0 / 6.0) * x
    x = ops.concatenate([x, ops.silu(y)], axis=-1)
    x = layers.Conv2D(8, 3, name="c")(x)
    x = ops.divide(ops.square(ops.abs(x)) ** 0.5, 2.0)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(ops.tanh(x))))


@topology
def one_dimensional():
    image = keras.Input((16, 2))
    x = layers.Conv1D(6, 3, padding="causal", name="a")(image)
    x = layers.SpatialDropout1D(0.2)(layers.PReLU(shared_axes=[1])(x))
    x = layers.MaxPooling1D()(layers.ZeroPadding1D(1)(x))
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.AveragePooling1D(2)(layers.UpSampling1D(2)(x))
    x = layers.SeparableConv1D(8, 3, name="separable")(x)
    x = layers.Conv1DTranspose(5, 3, strides=2, name="transposed")(x)
    x = layers.Cropping1D(1)(x)
    y = layers.GlobalMaxPooling1D()(x)
    return keras.Model(image, head(layers.Concatenate()([y, layers.GlobalAveragePooling1D()(x)])))


@topology
def three_dimensional():
    image = keras.Input((8, 8, 8, 1))
    x = layers.Conv3D(4, 3, name="a")(image)
    x = layers.SpatialDropout3D(0.2)(layers.PReLU()(layers.BatchNormalization()(x)))
    x = layers.MaxPooling3D()(layers.ZeroPadding3D(1)(x))
    x = layers.Conv3DTranspose(5, 2, strides=2, name="b")(x)
    x = layers.Cropping3D(1)(layers.UpSampling3D(2)(layers.AveragePooling3D(2)(x)))
    y = layers.GlobalMaxPooling3D()(x)
    return keras.Model(image, head(layers.Add()([y, layers.GlobalAveragePooling3D()(x)])))


@topology
def shared_layer():
    """One convolution called twice: its input channels are coupled, and so are its outputs'."""
    image = keras.Input((6, 6, 2))
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    a = layers.Conv2D(5, 3, padding="same", name="a")(image)
    b = layers.Conv2D(5, 3, padding="same", activation="relu", name="b")(image)
    x = layers.Concatenate()([shared(a), shared(b)])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def nested():
    """A backbone under a new head, and a nested Sequential that reads prunable channels."""
    inner_input = keras.Input((8, 8, 2))
    y = conv_bn(inner_input, 6, name="inner_a")
    backbone = keras.Model(inner_input, conv_bn(y, 8, name="inner_b"), name="backbone")
    neck = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(4, 3, name="neck_conv")], name="neck")
    image = keras.Input((8, 8, 2))
    return keras.Model(image, head(layers.Flatten()(neck(backbone(image)))))


@topology
def several_inputs_and_outputs():
    left, right = keras.Input((6, 6, 2), name="left"), keras.Input((6, 6, 1), name="right")
    a = layers.Conv2D(6, 3, padding="same", name="a")(left)
    b = layers.Conv2D(6, 3, padding="same", name="b")(right)
    x = layers.Add()([a, b])
    features = layers.Conv2D(4, 3, name="feature_map")(x)
    return keras.Model([left, right], [features, head(layers.GlobalAveragePooling2D()(features))])


@topology
def dense_on_pixels():
    """A dense layer works on the last axis: as a 1x1 convolution."""
    image = keras.Input((5, 5, 2))
    x = layers.Conv2D(6, 3, name="a")(image)
    x = layers.AlphaDropout(0.1)(layers.GaussianDropout(0.1)(layers.Dense(8, activation="gelu", name="mlp")(x)))
    x = layers.Identity()(layers.ActivityRegularization(l2=1e-4)(layers.Rescaling(0.5, offset=0.1)(x)))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def renormalised():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, name="a")(image)
    x = layers.BatchNormalization(renorm=True)(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def channels_first():
    # Wider than any layer has channels: Keras 3.15 adds a channels-first bias along the width when the two are equal.
    image = keras.Input((2, 16, 16))
    options = {"data_format": "channels_first", "padding": "same"}
    x = layers.Conv2D(6, 3, name="a", **options)(image)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.MaxPooling2D(data_format="channels_first")(x)
    x = layers.Conv2D(5, 3, name="b", **options)(x)
    return keras.Model(image, head(layers.Flatten(data_format="channels_first")(x)))


@topology
def shared_with_fixed_channels():
    """Layers that also see the image, whose channels cannot go: what they hold stays whole."""
    image = keras.Input((6, 6, 6))
    norm, slope = layers.BatchNormalization(), layers.PReLU(shared_axes=(1, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(norm(image))
    y = layers.Conv2D(6, 3, padding="same", name="b")(slope(image))
    z = layers.Conv2D(8, 3, name="free")(layers.Add()([norm(x), slope(y)]))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(z)))


@topology
def shared_reshape():
    """One Reshape with its size written out, called on two branches: they can only shrink together."""
    image = keras.Input((6, 6, 2))
    shape = layers.Reshape((1, 1, 8))
    gates = []
    for name in ("a", "b"):
        x = layers.Conv2D(8, 3, name=name)(image)
        gates.append(shape(layers.GlobalAveragePooling2D()(x)))
    x = layers.Conv2D(4, 1, name="after")(layers.Concatenate()(gates))
    return keras.Model(image, head(layers.Flatten()(x)))


@topology
def called_by_keyword():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="a")(inputs=image)
    x = layers.BatchNormalization()(inputs=x)
    x = layers.Conv2D(6, 3, name="b")(inputs=x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def layer_of_an_earlier_model():
    """The first call of `b` belongs to a model that is not pruned."""
    image = keras.Input((6, 6, 2))
    shared = layers.Conv2D(6, 3, name="b")
    shared(layers.Conv2D(8, 3, name="elsewhere")(image))
    x = shared(layers.Conv2D(8, 3, name="a")(image))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


# ------------------------------------------------------------------ groups of channels


@topology
def grouped_convolutions():
    """Many small groups lose whole groups; few large ones lose the same positions in each."""
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 12, name="stem")
    x = layers.Conv2D(18, 3, groups=6, padding="same", name="many")(x)
    x = layers.Conv2D(12, 1, name="between")(layers.BatchNormalization()(x))
    x = layers.Conv2D(10, 3, groups=2, padding="same", activation="relu", name="few")(x)
    x = layers.Conv2D(8, 1, name="last")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def grouped_convolution_on_input():
    """The inputs are fixed, the outputs of every group can lose the same positions."""
    image = keras.Input((6, 6, 4))
    x = layers.Conv2D(12, 3, groups=2, name="grouped")(image)
    return keras.Model(image, head(layers.Flatten()(x)))


@topology
def grouped_as_depthwise():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, name="stem")(image)
    x = layers.Conv2D(12, 3, groups=6, padding="same", name="depthwise")(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def channel_shuffle():
    """As in ShuffleNet: split, shuffle by reshape and transposition, join."""
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    for number in (1, 2):
        left, right = ops.split(x, 2, axis=-1)
        right = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"branch{number}")(right)
        x = layers.Concatenate()([left, right])
        x = layers.Reshape((6, 6, 2, 8))(x)
        x = layers.Permute((1, 2, 4, 3))(x)
        x = layers.Reshape((6, 6, 16))(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def shuffle_by_raw_operations():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(12, 1, name="stem")(image)
    x = layers.Conv2D(12, 3, groups=3, padding="same", name="grouped")(x)
    x = ops.reshape(x, (-1, 6, 6, 3, 4))
    x = ops.transpose(x, (0, 1, 2, 4, 3))
    x = ops.reshape(x, (-1, 6, 6, 12))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def pixels_as_batch():
    """Reshapes that leave the last axis alone mix pixels and batch, or pixels of unknown number."""
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(image)
    x = layers.Dense(8, name="b")(layers.Dropout(0.2, noise_shape=(None, 6))(ops.reshape(x, (-1, 6))))
    x = layers.Reshape((-1, 8))(ops.reshape(x, (-1, 4, 4, 8)))
    return keras.Model(image, head(layers.GlobalAveragePooling1D()(x)))


# ------------------------------------------------------------------ normalisation


@topology
def normalisations():
    image = keras.Input((6, 6, 2))
    x = layers.LayerNormalization()(layers.Conv2D(6, 3, padding="same", name="a")(image))
    x = layers.RMSNormalization()(layers.Conv2D(8, 3, padding="same", name="b")(x))
    x = layers.UnitNormalization()(layers.Conv2D(6, 3, padding="same", name="c")(x))
    x = layers.LayerNormalization(axis=(1, 2, 3), scale=False)(layers.Conv2D(5, 3, name="d")(x))
    x = layers.LayerNormalization(axis=(1, 2), center=False)(layers.Conv2D(7, 1, name="e")(x))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def group_normalisations():
    """Many small groups lose whole groups; few large ones lose the same positions in each; -1 is one each."""
    image = keras.Input((6, 6, 2))
    x = layers.GroupNormalization(4)(layers.Conv2D(8, 3, padding="same", name="whole")(image))
    x = layers.GroupNormalization(2)(layers.Conv2D(12, 3, padding="same", name="within")(x))
    x = layers.GroupNormalization(-1, scale=False)(layers.Conv2D(6, 3, padding="same", name="single")(x))
    x = layers.GroupNormalization(1, center=False)(layers.Conv2D(7, 3, name="all")(x))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def convnext_block():
    image = keras.Input((8, 8, 3))
    stem = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 2, strides=2, name="patches"), layers.LayerNormalization()],
        name="stem",
    )
    x = stem(image)
    y = layers.Conv2D(6, 3, padding="same", groups=6, name="depthwise")(x)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Dense(12, name="wide")(y)
    y = layers.Dense(6, name="narrow")(layers.Activation("gelu")(y))
    y = application_class("convnext", "LayerScale")(1e-1, 6)(y)
    x = x + application_class("convnext", "StochasticDepth")(0.2)(y)
    return keras.Model(image, head(layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))))


@topology
def scaled_residual():
    """As in Inception-ResNet."""
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(image)
    y = layers.Conv2D(6, 1, name="up")(layers.Conv2D(4, 3, padding="same", name="b")(x))
    x = application_class("inception_resnet_v2", "CustomScaleLayer")(0.3)([x, y])
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def scaled_per_channel():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="a")(image)
    x = layers.Rescaling([1.0, 2.0, 3.0, 4.0], offset=np.array([0.1, 0.2, 0.3, 0.4]))(x)
    x = layers.Rescaling([[1.0], [2.0], [3.0], [4.0]])(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


# ------------------------------------------------------------------ wrappers, attention, tables


@topology
def wrapped():
    video = keras.Input((3, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(6, 3, name="frame"))(video)
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    x = layers.TimeDistributed(layers.DepthwiseConv2D(3, padding="same"))(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu", name="each"))(x)
    return keras.Model(video, head(layers.Flatten()(x)))


@topology
def spectrally_normalised():
    image = keras.Input((6, 6, 2))
    x = layers.SpectralNormalization(layers.Conv2D(6, 3, name="a"))(image)
    x = layers.SpectralNormalization(layers.Conv2D(8, 3, name="b"), power_iterations=2)(layers.ReLU()(x))
    x = layers.SpectralNormalization(layers.Conv2DTranspose(5, 3, name="c"))(x)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


def transformer_block(x, width, name, **options):
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(4, 3, name=f"{name}_attention", **options)(y, y)
    x = layers.Add()([x, y])
    y = layers.Dense(2 * width, activation="gelu", name=f"{name}_wide")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(width, name=f"{name}_narrow")(y)])


@topology
def vision_transformer():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 4, strides=4, name="patches")(image)
    x = transformer_block(layers.Reshape((4, 6))(x), 6, "block")
    return keras.Model(image, head(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


@topology
def words():
    sentence = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 8, name="table")(sentence)
    # Keras's attention on JAX takes no values narrower than the keys.
    width = 2 if keras.backend.backend() == "tensorflow" else None
    x = transformer_block(x, 8, "block", value_dim=width, use_bias=False)
    return keras.Model(sentence, head(layers.GlobalMaxPooling1D()(x)))


@topology
def attention_of_two():
    """Query and value of other widths, an output width of its own, and the scores as an output."""
    left, right = keras.Input((4, 2), name="left"), keras.Input((4, 2), name="right")
    query = layers.Dense(6, name="query_features")(left)
    value = layers.Dense(8, name="value_features")(right)
    attention = layers.MultiHeadAttention(3, 4, output_shape=10, name="attention")
    x, scores = attention(query, value, return_attention_scores=True)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.Flatten()(scores)])
    return keras.Model([left, right], head(x))


# ------------------------------------------------------------------ raw operations on axes


@topology
def slices():
    """Parts of one tensor with readers of their own, and a part that nobody reads."""
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(12, 3, name="a")(image)
    first = layers.Conv2D(4, 1, name="first")(x[..., :5])
    second = layers.Conv2D(4, 1, name="second")(x[:, 1:3, :, 5:9])
    third = layers.Dense(4, name="third")(x[:, 0, -1, -6:-2])
    three = [layers.GlobalAveragePooling2D()(y) for y in (first, second)]
    return keras.Model(image, head(layers.Concatenate()([*three, third])))


@topology
def uneven_split():
    image = keras.Input((6, 6, 2))
    a, b, c = ops.split(layers.Conv2D(10, 3, name="a")(image), [3, 7], axis=-1)
    rows = ops.split(layers.Conv2D(6, 3, name="rows")(image), 2, axis=1)
    x = layers.Concatenate()(
        [b, layers.Conv2D(4, 1, name="d")(a), c, *[layers.ZeroPadding2D(((0, 2), (0, 0)))(r) for r in rows]]
    )
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def moved_axes():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 1, name="a")(image)
    x = ops.swapaxes(ops.moveaxis(x, -1, 1), 1, 3)
    x = ops.squeeze(ops.expand_dims(x, 3), 3)[:, None]
    x = ops.squeeze(x, 1)
    x = layers.Conv2D(5, 1, name="b")(x)
    x = ops.stack([x, layers.Conv2D(5, 1, name="c")(image)], axis=1)
    x = ops.transpose(ops.reshape(x, (-1, 2 * 4 * 4, 5)), (0, 2, 1))
    x = ops.transpose(x, (0, 2, 1))
    return keras.Model(image, head(layers.GlobalAveragePooling1D()(x)))


@topology
def reductions():
    image = keras.Input((4, 4, 2))
    a = layers.Conv2D(5, 1, name="a")(image)
    parts = [ops.mean(a, axis=(1, 2)), ops.max(a, axis=[1, 2]), ops.min(ops.sum(a, axis=1, keepdims=True), axis=(1, 2))]
    parts += [ops.amax(ops.amin(a, axis=1), axis=1), ops.std(a, axis=(1, 2)), ops.var(a, axis=(1, 2))]
    total = ops.sum(layers.Conv2D(4, 1, name="summed")(image), axis=-1, keepdims=True)
    x = layers.Conv2D(6, 1, name="b")(layers.Multiply()([a, total]))
    return keras.Model(image, head(layers.Concatenate()([*parts, layers.GlobalMaxPooling2D()(x)])))


@topology
def rearranged():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(5, 1, name="a")(image)
    x = ops.concatenate([ops.flip(x, axis=-1), ops.repeat(x, 2, axis=-1), ops.tile(x, (1, 1, 1, 2))], axis=-1)
    x = ops.flip(ops.repeat(layers.Conv2D(6, 1, name="b")(x), 2, axis=1), axis=1)
    x = ops.pad(x, ((0, 0), (1, 1), (0, 0), (2, 1)))
    x = layers.Conv2D(4, 1, name="c")(layers.BatchNormalization()(x))
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))


@topology
def raw_spatial_operations():
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, padding="same", name="a")(image)
    # Strides are written out: on JAX Keras takes them wrongly from the window.
    x = ops.max_pool(x, 2, strides=2) + ops.average_pool(x, 2, strides=2)
    x = layers.CenterCrop(3, 3)(layers.Resizing(6, 6)(ops.image.resize(x, (5, 5))))
    x = ops.where(x > 0.1, x, x * 0.2) * layers.Conv2D(6, 1, name="b")(ops.where(x < 0.0, x, 0.5 * x))
    attention = ops.softmax(ops.log_softmax(x, axis=1), axis=2)
    x = x * layers.Softmax(axis=[1, 2])(attention)
    return keras.Model(image, head(layers.GlobalAveragePooling2D()(x)))
