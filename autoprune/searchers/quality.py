"""Predicts what plans would score, and how sure that is, from the plans that have been scored.

A Gaussian process (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006) on the logarithms of the keep
ratios, whose prior says what is known of pruning before anything is scored. A score is the sum of

- a level and one slope that all dimensions share: capacity, which is most of what a handful of examples can tell;
- a curve of each dimension's own, a line and what bends it, whose size is its own too;
- for each pair of dimensions the product of such curves: what is lost when both are narrow;
- a smooth remainder of all dimensions together, and noise.

All but the last two are zero for the dense model. How much of each there is, 6 numbers and one of each dimension, is
where their posterior is highest, found by its gradient; their priors are wide. A group counts as often as layers make
its channels: the channels that the blocks of a residual stage hand on are as many layers' outputs. A prediction steers
a search and chooses among plans that were scored; it is never reported as a score.

Tried beside it, on scores of three networks: the harmonic mean of keep ratios as the shared term, in which the
narrowest layers weigh most, and no curves; neither pairs nor remainder; all dimensions of one size. Each was behind on
one of the networks at least, for 4 to 100 examples.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy.linalg
from scipy.optimize import minimize

from autoprune.cost.surrogate.regression import matern, on_one_thread

# Logarithms of variances, of values with a variance of one, as mean and standard deviation of their priors: of the
# slope that all share, of all curves, of what bends a curve beside its line, of the products of two curves, of the
# remainder, and of noise; and the logarithm of the remainder's scale, in octaves of every dimension.
PRIORS = {
    "slope": (0.0, 1.5),
    "curves": (-1.0, 2.0),
    "bends": (-1.0, 1.0),
    "pairs": (-2.0, 1.5),
    "remainder": (-2.0, 1.5),
    "noise": (-1.5, 1.5),
    "scale": (0.7, 0.7),
}
NAMES = tuple(PRIORS)
OWN = 1.0  # Standard deviation of the logarithm of a dimension's own variance around that of all curves.
LEVEL = 4.0  # Variance of the level.
USUAL = 7  # Dimensions for which the prior of `curves` holds: of more, each has less of the whole.
FURTHEST = 4.0  # Standard deviations from the mean of its prior that a number may have.
ROUNDING = 1e-11  # Share of the sum of all variances that is added to each.
STEPS = 40  # Of the search for the highest posterior.

_Part = tuple[np.ndarray, np.ndarray]  # Of one dimension: covariances of lines, and of what bends them.


class QualityModel:
    """What a quantity of plans is, learnt from examples.

    Args:
        sizes: (groups,) channels of the groups when nothing is removed.
        layers: (groups,) how many layers make each group's channels, 1 or more; None is one for each.
        branches: positions among the groups of those that are branches, of size 1 and width 0 where they are gone.
    """

    def __init__(
        self,
        sizes: Sequence[float] | np.ndarray,
        layers: Sequence[float] | None = None,
        branches: Sequence[int] = (),
    ) -> None:
        self._sizes = np.asarray(sizes, float)
        groups = len(self._sizes)
        self._branches = np.isin(np.arange(groups), list(branches))
        counts = np.ones(groups) if layers is None else np.asarray(layers, float)
        self._spread = np.sqrt(counts * groups / counts.sum())
        means, deviations = np.array(list(PRIORS.values())).T
        means[NAMES.index("curves")] -= np.log(groups / USUAL)
        self._means = np.concatenate([means, np.zeros(groups)])
        self._deviations = np.concatenate([deviations, np.full(groups, OWN)])
        self._chosen, self._chosen_at = self._means, 0

    @on_one_thread
    def learn(self, widths: np.ndarray, values: np.ndarray) -> None:
        """Forget what was learnt and learn anew.

        How much of each term there is is chosen again once there are a quarter more examples.

        Args:
            widths: (n, groups) channels left, 1 or more; of branches 0 or 1. One plan may stand there more than once.
            values: (n,) of the quantity.
        """
        self._mean, self._unit = float(values.mean()), max(float(values.std()), 1e-9)
        self._points, target = self._place(widths), (values - values.mean()) / self._unit
        parts = list(_parts(self._points, self._points))
        if len(values) >= 1.25 * self._chosen_at:
            most = FURTHEST * self._deviations
            found = minimize(
                self._improbability,
                self._chosen,
                args=(parts, target),
                jac=True,
                method="L-BFGS-B",
                bounds=np.stack([self._means - most, self._means + most], axis=1),
                options={"maxiter": STEPS},
            )
            self._chosen, self._chosen_at = found.x, len(values)
        curves = _curves(parts, self._chosen)
        self._factor = _factorise(_covariances(curves, self._points, self._points, self._chosen), self._chosen)
        self._weights = scipy.linalg.cho_solve((self._factor, True), target)

    @on_one_thread
    def predict(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) expected values of (m, groups) plans, and (m,) their standard deviations, noise left out."""
        points = self._place(widths)
        curves = _curves(_parts(points, self._points), self._chosen)
        covariances = _covariances(curves, points, self._points, self._chosen)
        explained = scipy.linalg.solve_triangular(self._factor, covariances.T, lower=True)
        # Variances are the diagonal of the plans' own covariances.
        amounts, own = _amounts(self._chosen)
        lost = own * (points**2 + amounts["bends"] * points)
        total = lost.sum(1)
        products = (total**2 - (lost**2).sum(1)) / 2
        shared = amounts["slope"] * points.mean(1) ** 2
        variances = LEVEL + shared + total + amounts["pairs"] * products + amounts["remainder"]
        expected = self._mean + self._unit * (covariances @ self._weights)
        return expected, self._unit * np.sqrt(np.maximum(variances - (explained**2).sum(0), 0.0))

    def _place(self, widths: np.ndarray) -> np.ndarray:
        """(m, groups) octaves that groups have lost, one for a branch that is gone, more for groups of many layers."""
        left = np.where(self._branches, (1.0 + np.asarray(widths, float)) / 2, widths / self._sizes)
        return -np.log2(left) * self._spread

    def _improbability(
        self, chosen: np.ndarray, parts: Sequence[_Part], target: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Minus the logarithm of the posterior of numbers, up to a constant, and its gradient (ibid., equation 5.9)."""
        variance, own = _amounts(chosen)
        points, count = self._points, len(target)
        curves = list(_curves(parts, chosen))
        factor = (_factorise(_covariances(curves, points, points, chosen), chosen), True)
        weights = scipy.linalg.cho_solve(factor, target)
        off = (chosen - self._means) / self._deviations
        value = 0.5 * target @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        # How the first two terms change with each covariance.
        slope = 0.5 * (scipy.linalg.cho_solve(factor, np.eye(count)) - np.outer(weights, weights))
        total = sum(curves)
        # A curve's own covariance, and what it adds to the products.
        with_pairs = [slope * (1 + variance["pairs"] * (total - curve)) for curve in curves]
        of_own = [np.sum(each * curve) for each, curve in zip(with_pairs, curves, strict=True)]
        bends = [np.sum(e * bend) * each for e, each, (_, bend) in zip(with_pairs, own, parts, strict=True)]
        products = (total**2 - sum(curve**2 for curve in curves)) / 2
        means = points.mean(1)
        distances = _distances(points, points) / variance["scale"] ** 2
        changes = {
            "slope": np.sum(slope * np.outer(means, means)) * variance["slope"],
            "curves": sum(of_own),
            "bends": sum(bends) * variance["bends"],
            "pairs": np.sum(slope * products) * variance["pairs"],
            "remainder": np.sum(slope * matern(distances)) * variance["remainder"],
            "noise": np.trace(slope) * variance["noise"],
            "scale": np.sum(slope * 3 * distances * np.exp(-np.sqrt(3 * distances))) * variance["remainder"],
        }
        return float(value), np.array([*(changes[name] for name in NAMES), *of_own]) + off / self._deviations


def _amounts(chosen: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """What `PRIORS` names, no longer as logarithms, and (groups,) variances of the curves."""
    amounts = dict(zip(NAMES, np.exp(chosen[: len(NAMES)]).tolist(), strict=True))
    return amounts, amounts["curves"] * np.exp(chosen[len(NAMES) :])


def _parts(first: np.ndarray, second: np.ndarray) -> Iterator[_Part]:
    """Of each dimension the (m, n) covariances of lines and of Brownian motions from the dense model on."""
    for one, other in zip(first.T, second.T, strict=True):
        yield np.outer(one, other), np.minimum.outer(one, other)


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m, n) mean squared distances over the dimensions of (m, groups) and (n, groups) points."""
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
    return np.maximum(squared, 0.0) / first.shape[1]


def _curves(parts: Iterable[_Part], chosen: np.ndarray) -> Iterator[np.ndarray]:
    """(m, n) covariances of each dimension's own curve."""
    amounts, own = _amounts(chosen)
    for each, (line, bend) in zip(own, parts, strict=True):
        yield each * (line + amounts["bends"] * bend)


def _covariances(curves: Iterable[np.ndarray], first: np.ndarray, second: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(m, n) covariances of (m, groups) and (n, groups) points, without noise."""
    amounts, _ = _amounts(chosen)
    total, squares = np.zeros((2, len(first), len(second)))
    for curve in curves:
        total += curve
        squares += curve**2
    shared = amounts["slope"] * np.outer(first.mean(1), second.mean(1))
    near = amounts["remainder"] * matern(_distances(first, second) / amounts["scale"] ** 2)
    return LEVEL + shared + total + amounts["pairs"] * (total**2 - squares) / 2 + near


def _factorise(covariances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The lower triangular factor of (n, n) covariances with noise, and with what rounding may have taken from them."""
    noise = np.exp(chosen[NAMES.index("noise")]) + ROUNDING * np.trace(covariances)
    return scipy.linalg.cholesky(covariances + noise * np.eye(len(covariances)), lower=True)
