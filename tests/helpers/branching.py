"""Small models with branches of every sort, beside those of `topologies`."""

import keras
import numpy as np
from keras import layers, ops

from helpers.topologies import TOPOLOGIES, conv_bn, head, randomise, transformer_block

BRANCHING = {}
# Those of the other topologies that have branches which can go.
OLDER = (
    *("concatenation_meets_sum", "concatenation_with_input", "convnext_block", "growing_concatenation"),
    *("input_residual", "one_dimensional", "preactivation_residual", "raw_operations", "reductions", "residual"),
    *("scaled_residual", "shared_layer", "shared_reshape", "shared_with_fixed_channels", "slices"),
    *("three_dimensional", "uneven_split", "unet", "vision_transformer", "words"),
)


def branching(build):
    BRANCHING[build.__name__] = build
    return build


def made_branching(name, seed=0):
    """The model with random weights everywhere."""
    keras.utils.set_random_seed(seed)
    model = (BRANCHING | TOPOLOGIES)[name]()
    randomise(model, seed)
    return model


def conv(x, channels, name, **options):
    return layers.Conv2D(channels, 3, padding="same", name=name, **options)(x)


def with_head(inputs, x):
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def block(channels, name):
    """A model that is a residual block."""
    entry = keras.Input((6, 6, channels))
    inner = conv(conv(entry, 5, f"{name}_a", activation="relu"), channels, f"{name}_b")
    return keras.Model(entry, entry + inner, name=name)


@branching
def nested_blocks():
    """A nested model with a branch, once on the main path, once as a branch itself; one of them called twice."""
    image = keras.Input((6, 6, 2))
    x = conv_bn(image, 8, name="stem")
    twice, branch = block(8, "twice"), block(8, "branch")
    x = layers.ReLU()(twice(x))
    x = layers.Add(name="sum")([x, branch(x)])
    return with_head(image, twice(x))


@branching
def nested_dense_block():
    """A nested model with a concatenation, called twice, as a branch and on the main path."""
    entry = keras.Input((6, 6, 6))
    x = layers.Concatenate(name="join")([conv(entry, 4, "new"), entry, layers.MaxPooling2D(3, 1, "same")(entry)])
    dense = keras.Model(entry, conv(x, 6, "mix"), name="dense")
    image = keras.Input((6, 6, 2))
    x = conv(image, 6, "stem")
    x = layers.Add(name="sum")([x, layers.ReLU()(dense(x))])
    return with_head(image, dense(x))


@branching
def shared_inside_and_outside():
    image = keras.Input((6, 6, 2))
    shared, norm = layers.Conv2D(8, 3, padding="same", name="shared"), layers.BatchNormalization(name="norm")
    x = conv(image, 8, "stem")
    x = layers.Add(name="first")([x, conv(norm(shared(x)), 8, "own")])
    return with_head(image, norm(shared(layers.ReLU()(x))))


@branching
def raw_sums():
    image = keras.Input((6, 6, 2))
    x = conv(image, 8, "stem")
    x = ops.add(x, ops.tanh(conv(x, 8, "raw")) * 0.5)
    x = x + conv(ops.relu(x), 8, "second") + conv(x, 8, "third")
    return with_head(image, ops.concatenate([x, conv(x, 5, "new")], axis=-1))


@branching
def inception():
    image = keras.Input((6, 6, 2))
    x = conv_bn(image, 8, name="stem")
    for number in (1, 2):
        x = layers.Concatenate(name=f"mixed{number}")(
            [
                layers.Conv2D(4, 1, name=f"narrow{number}")(x),
                conv(layers.Conv2D(3, 1, name=f"reduce{number}")(x), 6, f"wide{number}"),
                layers.Conv2D(3, 1, name=f"project{number}")(layers.AveragePooling2D(3, 1, "same")(x)),
            ]
        )
        x = layers.ReLU()(layers.BatchNormalization()(x))
    flat = layers.Flatten()(layers.Conv2D(4, 2, strides=2, name="down")(x))
    return keras.Model(image, head(layers.Dense(6, name="hidden")(flat)))


@branching
def concatenation_flattened():
    """What reads the concatenation reads positions: a dense layer, a slice, layer and group normalisation."""
    image = keras.Input((4, 4, 2))
    paths = [conv(image, 4, "a"), conv(image, 6, "b"), conv(image, 4, "c")]
    x = layers.Concatenate(name="join")(paths)
    normal = layers.LayerNormalization()(layers.PReLU(shared_axes=(1, 2))(x))
    grouped = layers.GroupNormalization(7)(x)
    parts = [layers.Flatten()(normal), ops.mean(grouped, axis=(1, 2)), ops.max(x, axis=(1, 2))]
    return keras.Model(image, head(layers.Concatenate(name="flat")(parts)))


@branching
def inverted_residuals():
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 6, name="stem")
    for number in (1, 2):
        y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(12, 1, name=f"expand{number}")(x)))
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{number}")(y)
        gate = layers.Dense(3, activation="relu", name=f"squeeze{number}")(layers.GlobalAveragePooling2D()(y))
        gate = layers.Reshape((1, 1, 12))(layers.Dense(12, activation="sigmoid", name=f"excite{number}")(gate))
        y = layers.Conv2D(6, 1, name=f"narrow{number}")(layers.Multiply()([y, gate]))
        x = layers.Add(name=f"sum{number}")([x, layers.Dropout(0.2)(layers.BatchNormalization()(y))])
    return with_head(image, x)


def squeezed(x, width, name, **options):
    """The gate of squeeze-and-excitation: dense layers, sigmoid in the second."""
    gate = layers.GlobalAveragePooling2D(name=f"{name}_pool")(x)
    gate = layers.Dense(3, activation="relu", name=f"{name}_squeeze")(gate)
    gate = layers.Dense(width, activation="sigmoid", name=f"{name}_excite", **options)(gate)
    return layers.Reshape((1, 1, width), name=f"{name}_reshape")(gate)


def squeezed_by_convolutions(x, width, name, activation="sigmoid"):
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    gate = layers.Conv2D(3, 1, activation="relu", name=f"{name}_squeeze")(gate)
    return layers.Conv2D(width, 1, activation=activation, name=f"{name}_excite")(gate)


@branching
def gated_residuals():
    """SE-ResNet: the product enters a sum, so that the batch norm before it takes the mean, through a rectifier too."""
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 6, name="stem")
    for number in (1, 2):
        y = conv(x, 5, f"a{number}", activation="relu")
        y = layers.BatchNormalization(name=f"norm{number}")(conv(y, 6, f"b{number}"))
        y = layers.ReLU()(y) if number == 2 else y
        y = layers.Multiply(name=f"scale{number}")([y, squeezed(y, 6, f"se{number}")])
        x = layers.ReLU()(layers.Add(name=f"sum{number}")([x, y]))
    return with_head(image, x)


@branching
def gated_inverted_residuals():
    """As EfficientNet and MobileNetV3 have it: swish before the product, a convolution behind it, relu6(x + 3) / 6."""
    image = keras.Input((8, 8, 2))
    x = conv_bn(image, 6, name="stem")
    for number in (1, 2, 3):
        y = layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(12, 1, name=f"expand{number}")(x)))
        y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{number}")(y))
        y = layers.Activation("hard_swish")(y)
        if number == 1:
            gate = squeezed_by_convolutions(y, 12, "se1", "hard_sigmoid")
        elif number == 2:
            gate = layers.ReLU(6.0)(squeezed_by_convolutions(y, 12, "se2", None) + 3.0) * (1.0 / 6.0)
        else:
            gate = ops.relu6(squeezed_by_convolutions(y, 12, "se3", None) + 3.0) / 6.0
        y = layers.Dropout(0.2)(layers.Multiply()([y, gate] if number == 1 else [gate, y]))
        y = layers.BatchNormalization()(layers.Conv2D(6, 1, name=f"narrow{number}")(y))
        x = layers.Add(name=f"sum{number}")([x, y])
    return with_head(image, x)


@branching
def gates_of_raw_operations():
    """Products and gates of raw operations; several readers, among them a depthwise one and a dense one."""
    image = keras.Input((8, 8, 2))
    x = conv(image, 8, "stem", activation="relu")
    pooled = ops.mean(x, axis=(1, 2), keepdims=True)
    x = x * ops.sigmoid(layers.Conv2D(8, 1, name="raw")(pooled))
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    z = layers.SeparableConv2D(16, 3, padding="same", name="separable")(layers.ZeroPadding2D()(x))
    y = ops.tanh(y) + ops.gelu(layers.Cropping2D(1)(layers.BatchNormalization()(z)))
    most, mean = ops.max(y, axis=(1, 2)), ops.mean(y, axis=(1, 2))
    gate = ops.hard_sigmoid(layers.Dense(16, name="of_most")(most) + layers.Dense(16, name="of_mean")(mean))
    y = ops.multiply(ops.reshape(gate, (-1, 1, 1, 16)), y)
    y = layers.Flatten()(layers.MaxPooling2D(2)(layers.LeakyReLU()(y)))
    ends = [layers.Dense(6, name="hidden")(y), layers.Dense(4, name="last")(layers.GlobalMaxPooling2D()(x))]
    return keras.Model(image, head(layers.Concatenate()(ends)))


@branching
def gates_beside_other_channels():
    """A product beside what it scales in a concatenation; a product of a product; a vector; a model in the model."""
    image = keras.Input((6, 6, 2))
    x = conv(image, 6, "stem", activation="relu")
    x = conv(layers.Concatenate(name="join")([x, x * squeezed(x, 6, "se1"), conv(x, 3, "third")]), 7, "mix")
    entry = keras.Input((6, 6, 7))
    y = layers.Conv2D(7, 3, padding="same", groups=7, name="grouped")(entry)
    y = layers.Activation("elu")(layers.GroupNormalization(7, name="norm")(y))
    y = layers.Conv2DTranspose(7, 3, padding="same", name="up")(y * squeezed(y, 7, "se2"))
    twice = keras.Model(entry, entry + y, name="twice")
    x = twice(layers.ReLU()(twice(x)))
    x = x * squeezed(x, 7, "se3")
    x = x * squeezed_by_convolutions(x, 7, "se4")
    pooled = layers.GlobalAveragePooling2D()(conv(x, 5, "wide"))
    hidden = layers.Dense(5, activation="tanh", name="hidden")(pooled)
    hidden = hidden * layers.Dense(5, activation="sigmoid", name="context")(pooled)
    return keras.Model(image, head(hidden))


@branching
def blocks_of_a_transformer():
    sentence = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 8, name="table")(sentence)
    for name in ("one", "two"):
        x = transformer_block(x, 8, name)
    return keras.Model(sentence, head(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


@branching
def several_operands():
    """Sums of three, one of them twice, one of a single channel, one a constant; and a scaled sum."""
    image = keras.Input((6, 6, 2))
    x = conv(image, 6, "stem")
    one = layers.Conv2D(1, 1, name="map")(x)
    x = layers.Add(name="three")([conv(x, 6, "a"), conv(x, 6, "b"), conv(x, 6, "c")])
    x = layers.Add(name="doubled")([x, x, conv(x, 6, "d"), one])
    table = np.linspace(-1, 1, 3, dtype="float32").reshape(1, 1, 1, 3) * np.ones((1, 6, 6, 1), "float32")
    y = conv(x, 3, "narrow")
    y = ops.concatenate([y, conv(y, 3, "e"), ops.zeros_like(y) + table], axis=-1)
    return with_head(image, conv(y, 4, "last"))


@branching
def two_outputs():
    """A branch that ends before one of the outputs, and one output that is a sum."""
    left, right = keras.Input((6, 6, 2), name="left"), keras.Input((6, 6, 2), name="right")
    x = layers.Add(name="meet")([conv(left, 6, "left_a"), conv(right, 6, "right_a")])
    x = layers.Add(name="sum")([x, conv(layers.ReLU()(x), 6, "inner")])
    pooled = layers.GlobalAveragePooling2D()(x)
    features = layers.Add(name="features")([conv(x, 4, "one"), conv(x, 4, "two")])
    return keras.Model({"left": left, "right": right}, {"features": features, "scores": head(pooled)})
