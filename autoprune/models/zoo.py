"""Named model builders: small classifiers that train on a laptop, the networks that papers compare, and a flow.

Layers have fixed names, so that a plan made in one process fits the model built in another.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from autoprune.errors import ModelError, UnknownNameError
from autoprune.models import applications
from autoprune.models.networks import experts, flow_priors, flows
from autoprune.models.networks.ode import ODEBlock
from autoprune.registry import Registry, suggestion

layers = keras.layers
# From input shape, number of classes and width factor to an untrained model.
Builder = Callable[[tuple[int, ...], int, float], Any]


@dataclass(frozen=True)
class Architecture:
    """A builder and what it takes when nothing else is said.

    Attributes:
        build: makes it.
        input_shape: shape of one image that the network is known for.
        classes: its number of classes.
        task: what it is for, see `TaskSettings.name`.
    """

    build: Builder
    input_shape: tuple[int, ...]
    classes: int = 10
    task: str = "classification"


ARCHITECTURES: Registry[Architecture] = Registry("model")


def build(name: str, input_shape: tuple[int, ...] | None, classes: int | None, width: float = 1.0) -> Any:
    """An untrained model.

    Args:
        name: a registered architecture: `small_resnet`, `plain_cnn`, `small_mobilenet`, `small_densenet`, `small_moe`,
            `resnet20`, `resnet56`, `vgg16`, `mobilenet_v2`, `mar_scf`, `ode_classifier`, `ffjord`; or a network of
            `keras.applications`, such as `ResNet50`.
        input_shape: shape of one image, or None for what the network is known for.
        classes: number of classes, or None likewise; a flow has none.
        width: factor on every layer's number of channels, in the zoo; of a flow on hidden channels of its couplings.

    Raises:
        ModelError: the network does not take such images.
        UnknownNameError: there is no such architecture.
    """
    check_known(name)
    if name in applications.names():
        return applications.build(name, input_shape, classes)
    architecture = ARCHITECTURES.get(name)
    return architecture.build(tuple(input_shape or architecture.input_shape), classes or architecture.classes, width)


def check_known(name: str) -> None:
    """Refuse a name that is no architecture's.

    Raises:
        UnknownNameError: there is none of that name, here or in `keras.applications`.
    """
    known = [*ARCHITECTURES, *applications.names()]
    if name not in known:
        raise UnknownNameError(f"There is no {ARCHITECTURES.kind} '{name}'. {suggestion(name, known)}")


def _enter(name: str, input_shape: tuple[int, ...], build: Builder, task: str = "classification") -> Builder:
    """Enter a builder in the table of architectures."""
    ARCHITECTURES.add(name)(Architecture(build, input_shape, task=task))
    return build


def _scale(channels: int, width: float) -> int:
    """The number of channels times the width factor, at least 1."""
    return max(1, round(channels * width))


def _conv_bn(x: Any, channels: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> Any:
    x = layers.Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False, name=name)(x)
    # Keras's momentum of 0.99 needs hundreds of steps to forget its start; small data sets do not have them.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _classifier(image: Any, x: Any, classes: int, name: str) -> Any:
    """A model that ends in a dense layer of as many outputs as classes; before it, positions are averaged."""
    if len(x.shape) > 2:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="classifier")(x), name=name)


def _residual_network(
    name: str, stages: tuple[int, ...], blocks: int, shape: tuple[int, ...], classes: int, width: float
) -> Any:
    image = keras.Input(shape, name="image")
    x = _conv_bn(image, _scale(stages[0], width), "stem")
    for stage, channels in enumerate((_scale(channels, width) for channels in stages), start=1):
        for number in range(1, blocks + 1):
            block, stride = f"stage{stage}_block{number}", 2 if stage > 1 and number == 1 else 1
            inner = _conv_bn(x, channels, f"{block}_conv1", stride=stride)
            inner = _conv_bn(inner, channels, f"{block}_conv2", relu=False)
            if stride != 1 or x.shape[-1] != channels:
                x = _conv_bn(x, channels, f"{block}_shortcut", kernel=1, stride=stride, relu=False)
            x = layers.ReLU(name=f"{block}_relu")(layers.Add(name=f"{block}_add")([x, inner]))
    return _classifier(image, x, classes, name)


# Three residual blocks: six groups, 1.2 million parameters.
_enter("small_resnet", (8, 8, 1), partial(_residual_network, "small_resnet", (64, 128, 256), 1))
# He et al., 2016 (arXiv 1512.03385), with convolutional shortcuts.
for _name, _blocks in {"resnet20": 3, "resnet56": 9}.items():
    _enter(_name, (32, 32, 3), partial(_residual_network, _name, (16, 32, 64), _blocks))


@partial(_enter, "plain_cnn", (28, 28, 1))
def _plain_cnn(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """Six convolutions without shortcuts, 64-64-128-128-256-256, pooled after every second."""
    image = x = keras.Input(shape, name="image")
    for stage, channels in enumerate((64, 128, 256), start=1):
        for number in (1, 2):
            x = _conv_bn(x, _scale(channels, width), f"conv{stage}_{number}")
        if stage < 3:
            x = layers.MaxPooling2D(padding="same", name=f"pool{stage}")(x)
    return _classifier(image, x, classes, "plain_cnn")


@partial(_enter, "vgg16", (32, 32, 3))
def _vgg16(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """VGG-16 with batch norm for small images: 13 convolutions, one hidden dense layer of 512.

    Simonyan & Zisserman, 2015 (arXiv 1409.1556), in the form used on CIFAR: 15.0 million parameters and 313.7
    million multiply-accumulates at 32x32x3. Pooling pads, so that images from 17 to 32 pixels end at one pixel.
    """
    image = x = keras.Input(shape, name="image")
    for stage, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, count + 1):
            x = _conv_bn(x, _scale(channels, width), f"conv{stage}_{number}")
        x = layers.MaxPooling2D(padding="same", name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(_scale(512, width), activation="relu", name="hidden")(x)
    return _classifier(image, x, classes, "vgg16")


def _mobile_network(
    name: str, blocks: Mapping[str, tuple[int, int, int]], head: int, shape: tuple[int, ...], classes: int, width: float
) -> Any:
    """A stem, inverted residuals of (expansion, channels, stride) by their names, and a 1x1 convolution.

    An inverted residual is a 1x1 convolution up, a depthwise one, a 1x1 convolution down; a shortcut where the shape
    stays.
    """
    image = keras.Input(shape, name="image")
    x = _conv_bn(image, _scale(32, width), "stem")
    for block, (expansion, channels, stride) in blocks.items():
        inner = x
        if expansion > 1:
            inner = _conv_bn(inner, expansion * x.shape[-1], f"{block}_expand", kernel=1)
        depthwise = f"{block}_depthwise"
        inner = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=depthwise)(inner)
        inner = layers.BatchNormalization(momentum=0.9, name=f"{depthwise}_bn")(inner)
        inner = layers.ReLU(name=f"{depthwise}_relu")(inner)
        inner = _conv_bn(inner, _scale(channels, width), f"{block}_project", kernel=1, relu=False)
        shortcut = stride == 1 and x.shape[-1] == inner.shape[-1]
        x = layers.Add(name=f"{block}_add")([x, inner]) if shortcut else inner
    x = _conv_bn(x, _scale(head, width), "head", kernel=1)
    return _classifier(image, x, classes, name)


# MobileNetV2 for small images: 2.2 million parameters. Sandler et al., 2018 (arXiv 1801.04381), table 2, with stride 1
# in the stem and in the first two stages and ReLU in the place of ReLU6.
_MOBILE_STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)),
    (6, 320, 1, 1),
)
_MOBILE_BLOCKS = {
    f"stage{stage}_block{number}": (expansion, channels, stride if number == 1 else 1)
    for stage, (expansion, channels, count, stride) in enumerate(_MOBILE_STAGES, start=1)
    for number in range(1, count + 1)
}
_enter("mobilenet_v2", (32, 32, 3), partial(_mobile_network, "mobilenet_v2", _MOBILE_BLOCKS, 1280))
# For very small images.
_SMALL_BLOCKS = {"block1": (6, 32, 1), "block2": (6, 32, 1), "block3": (6, 64, 2), "block4": (6, 64, 1)}
_enter("small_mobilenet", (8, 8, 1), partial(_mobile_network, "small_mobilenet", _SMALL_BLOCKS, 256))


@partial(_enter, "small_densenet", (8, 8, 1))
def _small_densenet(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """Two dense blocks of three convolutions, which read all before them, joined by a 1x1 convolution and pooling.

    After Huang et al., 2017 (arXiv 1608.06993), with normalisation behind the convolutions.
    """
    image = keras.Input(shape, name="image")
    x = _conv_bn(image, _scale(64, width), "stem")
    for block, channels in enumerate((64, 96), start=1):
        if block > 1:
            x = _conv_bn(x, _scale(128, width), f"transition{block - 1}", kernel=1)
            x = layers.AveragePooling2D(2, padding="same", name=f"pool{block - 1}")(x)
        for number in range(1, 4):
            new = _conv_bn(x, _scale(channels, width), f"block{block}_conv{number}")
            x = layers.Concatenate(name=f"block{block}_concat{number}")([x, new])
    return _classifier(image, x, classes, "small_densenet")


@partial(_enter, "small_moe", (8, 8, 1))
def _small_moe(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """Two convolutions, then two residual mixtures of eight experts at every pixel, of which two are chosen.

    There are eight experts at any width.
    """
    image = keras.Input(shape, name="image")
    channels = _scale(64, width)
    x = _conv_bn(_conv_bn(image, _scale(32, width), "stem"), channels, "reduction", stride=2)
    for number in (1, 2):
        inner = layers.BatchNormalization(momentum=0.9, name=f"block{number}_bn")(x)
        inner = experts.MixtureOfExperts(8, 4 * channels, channels, name=f"block{number}_experts")(inner)
        x = layers.Add(name=f"block{number}_add")([x, inner])
    return _classifier(image, x, classes, "small_moe")


@partial(_enter, "mar_scf", (8, 8, 1), task="density")
def _mar_scf(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """mAR-SCF: a normalising flow of two levels with two couplings each, 32 hidden channels. Gives (n, 1) log-density.

    Mahajan et al., 2020, arXiv 2004.03891, who have three levels of 32 couplings with 512 channels, and priors of three
    layers with 32 where these have one with 8. Nats per dimension; images have 17 grey values when they are 8x8x1, as
    scikit-learn's digits are, and 256 otherwise.
    """
    if len(shape) != 3 or any(size is None or size % 4 for size in shape[:2]):
        raise ModelError(f"mar_scf halves height and width twice: both must be multiples of 4. Received: {shape}")
    image = keras.Input(shape, name="image")
    x = flows.Dequantize(17 if shape == (8, 8, 1) else 256, name="dequantize")(image)
    hidden = _scale(32, width)
    for level in (1, 2):
        x = flows.Squeeze(name=f"level{level}_squeeze")(x)
        for step in (1, 2):
            name = f"level{level}_step{step}"
            x = flows.ActNorm(name=f"{name}_actnorm")(x)
            x = flows.InvertibleConvolution(seed=2 * level + step, name=f"{name}_rotation")(x)
            x = layers.Add(name=f"{name}_add")([x, flows.AffineCoupling((hidden, hidden), name=f"{name}_coupling")(x)])
        if level == 1:
            x = flow_priors.AutoregressiveSplit(8, name="level1_split")(x)
    return keras.Model(image, flow_priors.AutoregressivePrior(math.prod(shape), 8, name="prior")(x), name="mar_scf")


@partial(_enter, "ode_classifier", (2,))
def _ode_classifier(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """A neural ODE on the input itself, of 64 hidden units: the toy of Sparse Flows (2021, arXiv 2106.12718)."""
    point = keras.Input(shape, name="point")
    return _classifier(point, ODEBlock((_scale(64, width),), name="ode")(point), classes, "ode_classifier")


@partial(_enter, "ffjord", (2,), task="density")
def _ffjord(shape: tuple[int, ...], classes: int, width: float) -> Any:
    """A continuous normalising flow onto a standard normal, by an ODE of two hidden layers of 64 and the time.

    After Grathwohl et al., 2019 (arXiv 1810.01367), with the exact trace of the dynamics and steps of fixed length. It
    gives (n, 1) log-densities in nats; there are no classes.
    """
    point = keras.Input(shape, name="point")
    x = keras.ops.pad(point, [(0, 0)] * len(shape) + [(0, 1)])
    x = ODEBlock((_scale(64, width),) * 2, log_density=True, time_dependent=True, name="ode")(x)
    normal = -0.5 * keras.ops.square(x[..., :-1]) - 0.5 * math.log(2 * math.pi)
    axes = list(range(1, len(shape) + 1))
    log_density = keras.ops.sum(keras.ops.sum(normal, axis=-1, keepdims=True) + x[..., -1:], axis=axes)
    return keras.Model(point, keras.ops.expand_dims(log_density, -1), name="ffjord")
