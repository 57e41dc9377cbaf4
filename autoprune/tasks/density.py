"""Outputs that tell how probable the example itself is: normalising flows, which learn without labels."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from autoprune.tasks.heads import Head


@dataclass(frozen=True, kw_only=True)
class Density(Head):
    """The natural logarithm of the density of each example, (n,) or (n, 1): of the whole of it, or per dimension.

    Whatever is given as labels, only their number counts.
    """

    kind: ClassVar[str] = "density"
    softens: ClassVar[bool] = False

    def read_labels(self, array: np.ndarray) -> np.ndarray:
        """(n,) float32 of zeros."""
        return np.zeros(len(array), np.float32)

    def complain(self, outputs: tuple[int | None, ...]) -> str:
        """See `Head.complain`."""
        return "" if outputs in ((), (1,)) else "shape (n, 1), the logarithm of the density of each example"

    def tell(self, outputs: Any, *, raw: bool) -> Any:
        """(n,) the outputs."""
        return keras.ops.reshape(keras.ops.cast(outputs, "float32"), (-1,))

    def own_losses(self, labels: Any, told: Any, smoothing: float = 0.0) -> Any:
        """(n,) negative log-likelihoods; smoothing is for classes."""
        return -told

    def surprise(self, labels: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) log(1 + 1 / density): a density has no upper bound, and what it is turned into here has one."""
        return np.logaddexp(0, -told)

    def divergence(self, dense: np.ndarray, told: np.ndarray) -> np.ndarray:
        """(n,) squared differences of log-densities."""
        return np.square(told - dense)


def nats(labels: Any, told: Any) -> Any:
    """(n,) negative log-densities."""
    return -told


def bits_per_dimension(labels: Any, told: Any) -> Any:
    """(n,) the same in bits, of a model that gives the mean over dimensions (Theis et al., 2016, arXiv 1511.01844)."""
    return -told / math.log(2)
