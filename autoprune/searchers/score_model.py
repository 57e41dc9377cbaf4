"""Guesses what plans would score, and how sure that is, from the plans that have been scored.

A Gaussian process on the logarithms of the widths, with a length scale of its own for each group: a network is often
sensitive to some of its layers only (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2
and 5.1). Dozens of scored plans are enough to tell good regions from bad ones. A guess steers a search; it is never a
result.
"""

import numpy as np
import scipy.linalg

from autoprune.cost.regression import matern

SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 32.0)  # In octaves of a group's width; the last is as good as none.
NOISES = (1e-3, 1e-2, 1e-1)  # Variance that the widths do not explain, as a share of all.
SWEEPS = 2  # Times that all length scales are chosen one after the other.


class ScoreModel:
    """What a quantity of plans is, learnt from examples.

    Args:
        groups: number of widths of a plan.
    """

    def __init__(self, groups: int) -> None:
        self._scales = np.full(groups, 2.0 * np.sqrt(groups))
        self._noise = NOISES[1]
        self._chosen_at = 0

    def learn(self, widths: np.ndarray, values: np.ndarray) -> None:
        """Forget what was learnt and learn anew.

        Length scales are chosen by the likelihood of the examples, and again once there are a quarter more of them.

        Args:
            widths: (n, groups) channels left.
            values: (n,) of the quantity.
        """
        self._mean, self._spread = float(values.mean()), max(float(values.std()), 1e-9)
        self._points, target = np.log2(widths), (values - values.mean()) / self._spread
        if len(values) >= 1.25 * self._chosen_at:
            self._choose(target)
            self._chosen_at = len(values)
        self._factor = self._factored(self._scales, self._noise)
        self._weights = scipy.linalg.cho_solve(self._factor, target)

    def predict(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) expected values of (m, groups) plans, and (m,) their standard deviations, noise left out."""
        kernel = matern(_squared(np.log2(widths) / self._scales, self._points / self._scales))
        explained = np.einsum("mn,nm->m", kernel, scipy.linalg.cho_solve(self._factor, kernel.T))
        deviation = np.sqrt(np.maximum(1 - explained, 0.0))
        return self._mean + self._spread * kernel @ self._weights, self._spread * deviation

    def _factored(self, scales: np.ndarray, noise: float) -> tuple[np.ndarray, bool]:
        points = self._points / scales
        kernel = matern(_squared(points, points))
        # What rounding adds to the diagonal of equal plans is far below the least noise.
        return scipy.linalg.cho_factor(kernel + noise * np.eye(len(points)), lower=True)

    def _choose(self, target: np.ndarray) -> None:
        """Each length scale, and the noise, one after the other, the value under which the examples are likeliest."""

        def unlikely(scales: np.ndarray, noise: float) -> float:
            factor = self._factored(scales, noise)
            fit = target @ scipy.linalg.cho_solve(factor, target)
            # Each scale below "none" costs a little: with few examples, a sensitivity has to earn its place.
            count = np.sum(scales < SCALES[-1] * root)
            return 0.5 * float(fit) + float(np.log(np.diag(factor[0])).sum()) + 0.25 * float(count)

        root = np.sqrt(len(self._scales))
        for _ in range(SWEEPS):
            for group in range(len(self._scales)):
                tried = [self._with(group, scale * root) for scale in SCALES]
                self._scales = min(tried, key=lambda scales: unlikely(scales, self._noise))
            self._noise = min(NOISES, key=lambda noise: unlikely(self._scales, noise))

    def _with(self, group: int, scale: float) -> np.ndarray:
        scales = self._scales.copy()
        scales[group] = scale
        return scales


def _squared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m, n) squared distances of (m, d) and (n, d) points."""
    across = first @ second.T
    return np.maximum((first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * across, 0.0)
