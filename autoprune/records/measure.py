"""What a model's quality is measured by, and how it is told: the name, the direction, the unit."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of quality. Where lower is better, figures are kept with their sign turned: higher is always better.

    So `Evaluation.accuracy` is 0.97 for a share of 97 %, and -2.5 for a mean absolute error of 2.5.

    Attributes:
        name: as people call it, such as `accuracy`, `mean IoU` or `mean absolute error`.
        lower_is_better: whether the smaller figure is the better one.
        is_share: whether it lies between 0 and 1 and is told in percent.
    """

    name: str = "accuracy"
    lower_is_better: bool = False
    is_share: bool = True

    @property
    def sign(self) -> int:
        """What the figure is multiplied by, so that higher is better."""
        return -1 if self.lower_is_better else 1

    @property
    def unit(self) -> str:
        """Of differences: `points`, or the name."""
        return f"points of {self.name}" if self.is_share else self.name

    def draw(self, quality: float) -> float:
        """The figure, or a difference of two, as plots have it: percent or points, or as it is told."""
        return 100 * quality if self.is_share else self.sign * quality

    def label(self, where: str) -> str:
        """What is written beside an axis of `draw`, such as `accuracy on the reward split (%)`.

        Args:
            where: where the figures were taken, such as `on the reward split`.
        """
        return f"{self.name} {where}{' (%)' * self.is_share}{' (lower is better)' * self.lower_is_better}"

    def tell(self, quality: float, digits: int = 2) -> str:
        """The figure: `97.50%`, or `2.5`.

        Args:
            quality: a figure with its sign turned where lower is better.
            digits: behind the point, of a percentage.
        """
        return f"{quality:.{digits}%}" if self.is_share else f"{self.sign * quality:.4g}"

    def tell_difference(self, difference: float, digits: int = 2) -> str:
        """A difference of two figures as they are told: `+1.25` points, or `-0.31` where the error has fallen so far.

        Args:
            difference: of two qualities as they are kept.
            digits: behind the point, of points.
        """
        return f"{100 * difference:+.{digits}f}" if self.is_share else f"{self.sign * difference:+.3g}"


ACCURACY = Measure()


def least_quality(dense: float, share: float) -> float:
    """What keeps a share of a quality: of 0.9, 90 % of an accuracy, or an error that is 1 / 0.9 times as large.

    Args:
        dense: the quality, as it is kept.
        share: above 0 and at most 1.
    """
    return dense * share if dense >= 0 else dense / share


def compare_qualities(quality: float, dense: float) -> float:
    """A quality as a share of the dense model's: 0.9 of an error of 2 is one of 2 / 0.9; not below 0, NaN if one is."""
    if quality == dense:
        return 1.0
    if dense > 0:
        return max(quality / dense, 0.0)
    return dense / quality if quality < 0 else math.nan if math.isnan(quality) else 1.0
