"""Predicts what plans would score, and how sure that is, from the plans that have been scored.

Universal kriging (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, section 2.7) on the logarithms
of the keep ratios. The trend is that of capacity: a plan scores the more, the larger the harmonic mean of its layers'
keep ratios is, in which the narrowest layers weigh most. What is particular to the network is learnt as deviations
from it: a slope of each group's own, and a smooth remainder. With a handful of examples the trend is all there is to
go by, and it is much: of plans of one latency, six examples tell the better ones, where a process of constant mean
needs dozens. A group counts as often as layers make its channels: the channels that the blocks of a residual stage
hand on are as many layers' outputs. Trend and slopes are a sum over dimensions; how much the remainder, which is not,
and noise take part is chosen by the likelihood. A prediction steers a search and chooses among plans that were scored;
it is never reported as a score.

A curve of each dimension's own in the place of the remainder, and terms for neighbouring branches that go together,
were tried: of scores of ResNet-20 without branches 60 examples rank the rest with 0.91 so, and with 0.96 as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg

from autoprune.cost.surrogate.regression import matern, on_one_thread

# What the likelihood chooses from. Variances are shares of the one scale that is fitted.
SLOPES = (1.0, 3.0)  # Standard deviation of a group's own slope, as a multiple of an equal share of all: never nothing.
REMAINDERS = (0.1, 0.3, 1.0)  # Variance of what is neither trend nor slope.
SCALES = (1.0, 2.0, 4.0, 8.0, 32.0)  # Of the remainder, in octaves of all widths together.
# Variance that the plan does not explain. Without 1, two standard deviations of 12 noiseless scores held 80 % of the
# others, with it 94 %.
NOISES = (1e-3, 1e-2, 1e-1, 1.0)
# Deviations are as large as this share of the trend, however well examples that are alike obey it. With 0.5, 93 % of
# scores that had been measured lay within two standard deviations of what 6 to 16 others told, with 0 only 84 %.
UNTOLD = 0.5
SWEEPS = 2  # Times that all are chosen one after the other.


@dataclass(frozen=True)
class _Kernel:
    """How alike deviations from the trend are."""

    slope: float = SLOPES[0]
    remainder: float = REMAINDERS[1]
    scale: float = SCALES[1]
    noise: float = NOISES[1]

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(m, n) covariances of (m, groups) and (n, groups) logarithms of keep ratios, without noise."""
        groups, across = first.shape[1], first @ second.T
        squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * across
        near = matern(np.maximum(squared, 0.0) / (groups * self.scale**2))
        return (self.slope / groups) ** 2 * across + self.remainder * near

    def own(self, points: np.ndarray) -> np.ndarray:
        """(m,) variances of (m, groups) points: the diagonal of their covariances."""
        return (self.slope / points.shape[1]) ** 2 * (points**2).sum(1) + self.remainder


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fitted:
    """A kernel with what follows from it and the examples."""

    kernel: _Kernel
    factor: tuple[np.ndarray, bool]
    trend: np.ndarray  # (k,) level and slopes.
    unsure: np.ndarray  # (k, k) covariance of the trend, before scaling.
    explained: np.ndarray  # (n, k) what the examples' covariances make of the trend's terms.
    weights: np.ndarray  # (n,) of the examples.
    variance: float  # The one scale.
    likelihood: float  # Logarithm, up to a constant.


class QualityModel:
    """What a quantity of plans is, learnt from examples; it is thought not to fall with capacity.

    Args:
        sizes: (groups,) channels of the groups when nothing is removed.
        layers: (groups,) how many layers make each group's channels, 1 or more; None is one for each.
        branches: positions among the groups of those that are branches, of size 1 and width 0 where they are gone. They
            have no part in the harmonic mean; the share of their layers that is gone is another term of the trend.
    """

    def __init__(
        self,
        sizes: Sequence[float] | np.ndarray,
        layers: Sequence[float] | None = None,
        branches: Sequence[int] = (),
    ) -> None:
        self._sizes = np.asarray(sizes, float)
        self._branches = np.isin(np.arange(len(self._sizes)), list(branches))
        counts = np.ones(len(self._sizes)) if layers is None else np.asarray(layers, float)
        self._shares = counts / counts.sum()
        self._kernel = _Kernel()
        self._chosen_at = 0

    @on_one_thread
    def learn(self, widths: np.ndarray, values: np.ndarray) -> None:
        """Forget what was learnt and learn anew.

        The kernel is chosen by the likelihood of the examples, and again once there are a quarter more of them.

        Args:
            widths: (n, groups) channels left, 1 or more; of branches 0 or 1. One plan may stand there more than once.
            values: (n,) of the quantity.
        """
        self._mean, self._spread = float(values.mean()), max(float(values.std()), 1e-9)
        self._points, self._terms = self._describe(widths)
        self._target = (values - values.mean()) / self._spread
        if len(values) >= 1.25 * self._chosen_at:
            # Each part of the kernel, one after the other, is the one under which the examples are likeliest.
            choices: dict[str, Sequence[Any]] = {
                "slope": SLOPES,
                "remainder": REMAINDERS,
                "noise": NOISES,
                "scale": SCALES,
            }
            self._kernel = _Kernel()
            for _ in range(SWEEPS):
                for name, options in choices.items():
                    tried = [replace(self._kernel, **{name: value}) for value in options]
                    self._kernel = max(tried, key=lambda kernel: self._fit(kernel).likelihood)
            self._chosen_at = len(values)
        self._fitted = self._fit(self._kernel)

    @on_one_thread
    def predict(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) expected values of (m, groups) plans, and (m,) their standard deviations, noise left out."""
        fitted = self._fitted
        points, terms = self._describe(widths)
        kernel = fitted.kernel(points, self._points)
        expected = terms @ fitted.trend + kernel @ fitted.weights
        told = np.einsum("mn,nm->m", kernel, scipy.linalg.cho_solve(fitted.factor, kernel.T))
        # That the trend is only estimated adds to the variance.
        untold = terms - kernel @ fitted.explained
        variances = fitted.kernel.own(points) - told + np.einsum("mi,ij,mj->m", untold, fitted.unsure, untold)
        deviations = np.sqrt(fitted.variance * np.maximum(variances, 0.0))
        return self._mean + self._spread * expected, self._spread * deviations

    def _describe(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m, groups) points among which deviations are alike, and (m, k) the terms of the trend, of (m, groups) plans.

        Points are octaves of every group, one for a branch that is gone, farther apart for groups of many layers. The
        trend is made of a level, the logarithm of the harmonic mean of the keep ratios, and where there are branches
        minus the share of their layers that is gone.
        """
        widths = np.asarray(widths, float)
        spread, branches = np.sqrt(self._shares * len(self._sizes)), self._branches
        if not branches.any():
            points = np.log2(widths / self._sizes) * spread
            mean = 1 / ((self._sizes / widths) @ self._shares)
            return points, np.stack([np.ones(len(mean)), np.log2(mean)], axis=1)
        gone = widths == 0
        points = np.where(gone, -1.0, np.log2(np.where(gone, 1.0, widths) / self._sizes)) * spread
        shares = np.where(branches, 0.0, self._shares)
        inverse = (self._sizes / np.where(gone, self._sizes, widths)) @ shares / max(shares.sum(), 1e-9)
        lost = gone @ np.where(branches, self._shares, 0.0) / self._shares[branches].sum()
        return points, np.stack([np.ones(len(lost)), -np.log2(np.maximum(inverse, 1.0)), -lost], axis=1)

    def _fit(self, kernel: _Kernel) -> _Fitted:
        """The trend by generalised least squares, and the rest given it."""
        points, target, count = self._points, self._target, len(self._points)
        # What rounding adds to the diagonal of equal plans is far below the least noise.
        factor = scipy.linalg.cho_factor(kernel(points, points) + kernel.noise * np.eye(count), lower=True)
        terms = self._terms
        explained = scipy.linalg.cho_solve(factor, terms)
        unsure = np.linalg.inv(terms.T @ explained + 1e-6 * np.eye(terms.shape[1]))
        trend = unsure @ (explained.T @ target)
        if (trend[1:] < 0).any():  # Then the best there is without the terms that would fall with capacity.
            rising = np.array([True, *(trend[1:] >= 0)])
            trend = np.zeros(len(trend))
            inner = terms[:, rising].T @ explained[:, rising]
            trend[rising] = np.linalg.solve(inner, explained[:, rising].T @ target)
            trend[1:] = np.maximum(trend[1:], 0.0)
        weights = scipy.linalg.cho_solve(factor, target - terms @ trend)
        fit = float((target - terms @ trend) @ weights)
        variance = max(fit / max(count - 2, 1), (UNTOLD * trend[1:].max()) ** 2, 1e-9)
        likelihood = -0.5 * count * float(np.log(max(fit, 1e-9))) - float(np.log(np.diag(factor[0])).sum())
        return _Fitted(
            kernel=kernel,
            factor=factor,
            trend=trend,
            unsure=unsure,
            explained=explained,
            weights=weights,
            variance=variance,
            likelihood=likelihood,
        )
