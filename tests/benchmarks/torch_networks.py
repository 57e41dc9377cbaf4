"""ResNet-50 and VGG-16 as PyTorch modules, layer for layer those of `keras.applications`.

Unlike torchvision's, every convolution has a bias, and a residual block strides in its first 1x1 convolution.
"""

from collections import OrderedDict

import torch
from torch import nn

RESNET50_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width, convolutions


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which has a convolution where the width changes."""

    def __init__(self, entering: int, width: int, stride: int, convolved_shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *normalised(nn.Conv2d(entering, width, 1, stride)),
            nn.ReLU(),
            *normalised(nn.Conv2d(width, width, 3, padding=1)),
            nn.ReLU(),
            *normalised(nn.Conv2d(width, 4 * width, 1)),
        )
        shortcut = normalised(nn.Conv2d(entering, 4 * width, 1, stride)) if convolved_shortcut else ()
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


def resnet50(size: int, classes: int) -> nn.Module:
    """ResNet-50 v1. Any image size goes."""
    stem = (*normalised(nn.Conv2d(3, 64, 7, 2, padding=3)), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    blocks, entering = [], 64
    for width, count, stride in RESNET50_STAGES:
        for number in range(count):
            first = number == 0
            blocks.append(Bottleneck(entering, width, stride if first else 1, convolved_shortcut=first))
            entering = 4 * width
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return _named(*stem, *blocks, *head, classifier=nn.Linear(entering, classes))


def vgg16(size: int, classes: int) -> nn.Module:
    """VGG-16 with its two dense layers of 4096, for images of `size` x `size`."""
    layers, entering = [], 3
    for width, count in VGG16_STAGES:
        for _ in range(count):
            layers += [nn.Conv2d(entering, width, 3, padding=1), nn.ReLU()]
            entering = width
        layers.append(nn.MaxPool2d(2))
    flat = entering * (size // 2 ** len(VGG16_STAGES)) ** 2
    head = (nn.Flatten(), nn.Linear(flat, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU())
    return _named(*layers, *head, classifier=nn.Linear(4096, classes))


def normalised(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    """A convolution and its batch norm, with the epsilon that Keras uses in ResNet."""
    return convolution, nn.BatchNorm2d(convolution.out_channels, eps=1.001e-5)


def variable_sizes(network: nn.Module) -> list[int]:
    """Sizes of what Keras counts as parameters: running means and variances too, but no counters of batches."""
    variables = [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.ndim)]
    return [variable.numel() for variable in variables]


def _named(*layers: nn.Module, classifier: nn.Module) -> nn.Module:
    numbered = [(f"layer{number}", layer) for number, layer in enumerate(layers)]
    return nn.Sequential(OrderedDict([*numbered, ("classifier", classifier), ("softmax", nn.Softmax(dim=1))]))
