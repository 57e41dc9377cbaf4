"""What a comparison concludes from its figures: pure functions of numbers.

Every interval is Student's t at 95 % for a mean of n independent differences. It is an interval over what differed
between them (the seeds of searching and of fine-tuning), not over other base models or data. With one value there is
none. One that contains zero is never called a difference, and neither is one without width: accuracies are counts of
images, and two or three differences that happen to be equal know nothing of their spread.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
EXACT, AT_LEAST, AT_MOST, BETWEEN = "", ">=", "<=", "~"

Point = tuple[float, float]  # A cost, which is to be small, and an accuracy, which is to be large.


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: mean of the values, in their unit.
        low: lower end of the interval; None with fewer than two values.
        high: upper end, likewise.
        count: how many values there are.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half(self) -> float | None:
        """Half its width, in the unit of the values; None with fewer than two."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether a value lies outside the interval, and the interval has a width.

        Only where that of a difference excludes zero is there a difference to speak of.
        """
        if self.low is None or self.high is None or self.high - self.low <= 1e-9 * max(abs(self.low), abs(self.high)):
            return False
        return self.low > value or self.high < value

    def to_json(self) -> dict[str, Any]:
        """Plain data; ends that do not exist are null."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.count}


def student_interval(values: Sequence[float]) -> Interval:
    """Mean +- t(0.975, n - 1) * s / sqrt(n), where s is the standard deviation with n - 1.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, float)
    if array.size == 0:
        raise ValueError("an interval needs at least one value")
    # From the first value on: equal values have exactly no spread.
    mean = float(array[0] + (array - array[0]).mean())
    if len(array) == 1:
        return Interval(mean=mean, low=None, high=None, count=1)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1)
    half = float(quantile * (array - array[0]).std(ddof=1) / math.sqrt(len(array)))
    return Interval(mean=mean, low=mean - half, high=mean + half, count=len(array))


def interval_of_pairs(first: Sequence[float], second: Sequence[float]) -> Interval:
    """The mean of first - second, pair by pair.

    Raises:
        ValueError: there are not as many of either, or none.
    """
    return student_interval([a - b for a, b in zip(first, second, strict=True)])


def geometric_interval(ratios: Sequence[float]) -> Interval:
    """The geometric mean of ratios above 0, and the interval of their logarithms' mean, as ratios.

    Such an interval tells a difference when it excludes one, not zero.

    Raises:
        ValueError: there are none.
    """
    logs = student_interval(np.log(np.asarray(ratios, float)))
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Interval(mean=math.exp(logs.mean), low=low, high=high, count=logs.count)


def best_so_far(values: Sequence[float | None]) -> list[float | None]:
    """The largest of the values up to each one; None stands for one that does not count."""
    numbers = (-math.inf if value is None else value for value in values)
    return [None if best == -math.inf else best for best in itertools.accumulate(numbers, max)]


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[tuple[int, float]]:
    """The mean of several best-so-far curves against evaluations, from where all of them have a value.

    A searcher that stopped early keeps what it had.

    Returns:
        Pairs of evaluations, from 1, and the mean.
    """
    return [(number, sum(values) / len(values)) for number, values in gather_values(curves)]


def gather_values(curves: Sequence[Sequence[float | None]]) -> Iterator[tuple[int, list[float]]]:
    """What all curves have reached after so many evaluations, from where all of them have a value."""
    if not curves or not all(curves):
        return
    for number in range(max(map(len, curves))):
        reached = [curve[min(number, len(curve) - 1)] for curve in curves]
        values = [value for value in reached if value is not None]
        if len(values) == len(curves):
            yield number + 1, values


def mean_over_time(
    curves: Sequence[Sequence[float | None]], seconds: Sequence[Sequence[float]]
) -> list[tuple[float, float]]:
    """The same against time: the mean over the curves after each moment at which any of them took a step.

    Args:
        curves: best so far after each evaluation.
        seconds: for each curve, how long each of its evaluations took.

    Returns:
        Pairs of seconds and the mean; up to the last evaluation of the slowest.
    """
    ends = [list(itertools.accumulate(times)) for times in seconds]
    points = []
    for moment in sorted({end for times in ends for end in times}):
        values = []
        for curve, times in zip(curves, ends, strict=True):
            come = [value for value, end in zip(curve, times, strict=True) if end <= moment]
            latest = come[-1] if come else None
            if latest is not None:
                values.append(latest)
        if len(values) == len(curves):
            points.append((moment, sum(values) / len(values)))
    return points


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none costs as little or less at as much accuracy or more.

    Returns:
        By ascending cost, and so by strictly ascending accuracy.
    """
    front: list[Point] = []
    for cost, accuracy in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The exact area that the points dominate within the reference: costs below its cost, accuracies above its own.

    Zitzler & Thiele, 1998 (Multiobjective optimization using evolutionary algorithms); in two dimensions a sum of
    rectangles, one for each point of the front.

    Args:
        points: in any order, dominated ones and ones beyond the reference among them.
        reference: the corner that is worst in both.
    """
    worst_cost, worst_accuracy = reference
    area, below = 0.0, worst_accuracy
    for cost, accuracy in pareto_front(points):
        if cost < worst_cost and accuracy > below:
            area += (worst_cost - cost) * (accuracy - below)
            below = accuracy
    return area


@dataclass(frozen=True)
class Matched:
    """The cost at which a family of plans reaches an accuracy.

    Attributes:
        cost: by interpolation; the end of the front where the accuracy lies beyond it.
        bound: empty when interpolated; `>=` when the family never reached the accuracy, so that it costs at least so
            much; `<=` when all of it is more accurate, so that it costs at most so much.
    """

    cost: float
    bound: str = EXACT


def cost_at_accuracy(points: Sequence[Point], accuracy: float) -> Matched:
    """The cost of a family at an accuracy, from the front of its points: log-cost is linear in accuracy between two.

    The front is monotone: whoever may use a plan may use a cheaper one that is as accurate instead.

    Raises:
        ValueError: there are no points.
    """
    front = pareto_front(points)
    if not front:
        raise ValueError("a front needs at least one point")
    costs, accuracies = (np.array(values, float) for values in zip(*front, strict=True))
    if accuracy > accuracies[-1]:
        return Matched(float(costs[-1]), AT_LEAST)
    if accuracy < accuracies[0]:
        return Matched(float(costs[0]), AT_MOST)
    known = np.flatnonzero(accuracies == accuracy)
    if len(known):
        return Matched(float(costs[known[0]]))
    return Matched(float(np.exp(np.interp(accuracy, accuracies, np.log(costs)))))


def joint_bound(bounds: Sequence[str]) -> str:
    """What a mean of exact values and bounds is: exact, at least, at most, or, with both kinds, neither."""
    kinds = set(bounds) - {EXACT}
    if not kinds:
        return EXACT
    return kinds.pop() if len(kinds) == 1 else BETWEEN


def real_speed_up(dense: Point, pruned: Point) -> float:
    """How much of the speed-up that FLOPs promise is real: (latency before / after) / (FLOPs before / after).

    Args:
        dense: latency and FLOPs before.
        pruned: latency and FLOPs after.
    """
    return (dense[0] / pruned[0]) / (dense[1] / pruned[1])
