"""Gaussian-process regression for the surrogate: fitted in milliseconds, answering in microseconds.

Matérn kernel of smoothness 3/2 with a length scale for each kind of feature, chosen by the leave-one-out error
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, sections 4.2 and 5.4.2). scikit-learn's takes
seconds to fit a network's layers one by one and milliseconds to answer for each; here a fit is closed-form, and the
layers of a network answer together (`Stack`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

# Matrices are small here: on many threads they are no faster if the machine is idle, and much slower if it is not.
on_one_thread = ThreadpoolController().wrap(limits=1, user_api="blas")

# Length scales that are tried, by kind of feature, and the variance of what the features cannot explain.
OWN, NEAR, TILE, PLACE = 0, 1, 2, 3
SCALES = {OWN: (0.5, 1.0, 2.0, 4.0), NEAR: (2.0, 6.0, 1e3), TILE: (1.0, 3.0, 1e3), PLACE: (0.5, 2.0, 6.0, 1e3)}
NOISES = (1e-3, 1e-2, 1e-1)
_INITIAL = (1.0, 6.0, 3.0, 2.0, NOISES[0])


@dataclass(frozen=True, eq=False)
class Fit:
    """What has been learnt of one quantity.

    Attributes:
        points: (n, d), the features of the examples, divided by their length scales.
        weights: (n,) of the examples.
        scales: (d,) length scales.
        mean: mean of the quantity over the examples.
        choice: the length scales by kind, and the noise; for the next fit to keep.
    """

    points: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    mean: float
    choice: tuple[float, ...]


@on_one_thread
def fit(features: np.ndarray, kinds: Sequence[int], values: np.ndarray, choice: tuple[float, ...] | None = None) -> Fit:
    """Learn a quantity from examples.

    Args:
        features: (n, d).
        kinds: (d,) kind of each feature: `OWN`, `NEAR`, `TILE` or `PLACE`.
        values: (n,) of the quantity.
        choice: length scales and noise to use; None chooses them.
    """
    # Of what no example has nothing is known.
    mean, spread = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    if spread <= 1e-9 * abs(mean) or features.shape[1] == 0:
        empty = np.zeros((len(values), features.shape[1]))
        return Fit(empty, np.zeros(len(values)), np.ones(features.shape[1]), mean, choice or _INITIAL)
    target = (values - mean) / spread
    kind_of_each = np.asarray(kinds)
    if not choice:
        errors: dict[tuple[float, ...], float] = {}

        def error(candidate: tuple[float, ...]) -> float:
            if candidate not in errors:
                weights, diagonal = _solve(features / _scales(kind_of_each, candidate), target, candidate[-1])
                errors[candidate] = float(np.mean((weights / diagonal) ** 2))
            return errors[candidate]

        # One kind after the other, twice over, the value of least leave-one-out error.
        choice = _INITIAL
        present = [kind for kind in SCALES if (kind_of_each == kind).any()]
        for _, position in itertools.product(range(2), [*present, len(SCALES)]):
            options = SCALES.get(position, NOISES)
            tried = [(*choice[:position], option, *choice[position + 1 :]) for option in options]
            choice = min(tried, key=error)
    scales = _scales(kind_of_each, choice)
    weights = _solve(features / scales, target, choice[-1])[0]
    return Fit(features / scales, weights * spread, scales, mean, choice)


def _scales(kinds: np.ndarray, choice: tuple[float, ...]) -> np.ndarray:
    """Those of near features count relative to a layer's own."""
    relative = np.array([1.0, choice[1], choice[2] / choice[0], choice[3] / choice[0]])
    return choice[0] * relative[kinds]


def _solve(points: np.ndarray, target: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the examples and diagonal of the inverted kernel matrix; their ratio is the leave-one-out error."""
    squared = (points**2).sum(1)
    kernel = matern(squared[:, None] + squared[None] - 2 * points @ points.T)
    inverse = np.linalg.inv(kernel + noise * np.eye(len(points)))
    return inverse @ target, np.diag(inverse)


def matern(squared: np.ndarray) -> np.ndarray:
    """Matérn covariance of smoothness 3/2 at these squared distances."""
    distance = np.sqrt(3 * np.maximum(squared, 0))
    return (1 + distance) * np.exp(-distance)


class Stack:
    """The sum of several fits, answered at once.

    Args:
        fits: with any numbers of features and examples.
        columns: for each fit, the positions of its features in the vector that is asked for.
    """

    def __init__(self, fits: Sequence[Fit], columns: Sequence[Sequence[int]]) -> None:
        width, count = max(map(len, columns)), max(len(one.weights) for one in fits)
        self._means = np.array([one.mean for one in fits])
        self._weights = np.zeros((len(fits), count))
        self._columns = np.zeros((len(fits), width), int)
        self._inverse = np.zeros((len(fits), width))
        self._points = np.zeros((len(fits), count, width))
        for number, (one, own) in enumerate(zip(fits, columns, strict=True)):
            self._columns[number, : len(own)] = own
            self._inverse[number, : len(own)] = 1 / one.scales
            self._points[number, : len(one.weights), : len(own)] = one.points
            self._weights[number, : len(one.weights)] = one.weights
        self._squared = (self._points**2).sum(2)

    @on_one_thread
    def predict(self, features: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
        """(m,) sums at (m, d) vectors of features: many at once take little longer than one.

        Args:
            features: what is asked for, described as the examples are.
            present: (m, fits) which fits each sum is of; None is all.
        """
        points = np.swapaxes(features[:, self._columns] * self._inverse, 0, 1)
        across = np.matmul(self._points, np.swapaxes(points, 1, 2))
        squared = self._squared[:, :, None] + (points**2).sum(2)[:, None, :] - 2 * across
        if present is None:
            return sum(self._means.tolist()) + np.einsum("fn,fnm->m", self._weights, matern(squared))
        each = self._means[:, None] + np.einsum("fn,fnm->fm", self._weights, matern(squared))
        return (each * present.T).sum(0)
