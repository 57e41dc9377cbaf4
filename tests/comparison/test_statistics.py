"""What is concluded from figures, against numbers that are known otherwise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autoprune.comparison.statistics import (
    AT_LEAST,
    AT_MOST,
    BETWEEN,
    EXACT,
    Interval,
    Matched,
    best_so_far,
    cost_at_accuracy,
    geometric_interval,
    hypervolume,
    interval_of_pairs,
    joint_bound,
    mean_curve,
    mean_over_time,
    pareto_front,
    real_speed_up,
    student_interval,
)

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False)
SMALL = st.integers(0, 6)
POINTS = st.lists(st.tuples(SMALL, SMALL), max_size=8)


# ------------------------------------------------------------------ intervals


def test_interval_of_known_numbers():
    """s = 1.58114, t(0.975, 4) = 2.77645: any table of Student's t."""
    interval = student_interval([1, 2, 3, 4, 5])
    assert interval.count == 5
    assert interval.mean == 3
    assert interval.high - interval.mean == pytest.approx(2.776445 * 1.5811388 / math.sqrt(5), rel=1e-6)
    assert interval.low == pytest.approx(3 - 1.963243, abs=1e-5)


@given(st.lists(st.integers(-1000, 1000).map(lambda number: number / 7), min_size=2, max_size=12, unique=True))
def test_interval_is_that_of_scipy(values):
    interval = student_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert student_interval([0.5]) == Interval(mean=0.5, low=None, high=None, count=1)
    assert not student_interval([0.5]).excludes(0)
    assert student_interval([0.5]).to_json() == {"mean": 0.5, "low": None, "high": None, "n": 1}
    with pytest.raises(ValueError, match="at least one value"):
        student_interval([])


def test_only_an_interval_without_zero_tells_a_difference():
    assert student_interval([1.0, 1.1, 0.9]).excludes(0)
    assert student_interval([-1.0, -1.1, -0.9]).excludes(0)
    assert not student_interval([1.0, -0.1, 0.2]).excludes(0)
    assert not student_interval([0.0, 0.0]).excludes(0)


@pytest.mark.parametrize("first", [(0.9, 0.8), (0.9444, 0.9417), (1 / 3, 2 / 3)])
def test_equal_differences_tell_nothing_of_their_spread(first):
    """Of two seeds that differ by one image each, the interval would have no width."""
    second = [value - 1 / 360 for value in first]
    interval = interval_of_pairs(first, second)
    assert interval.mean == pytest.approx(1 / 360)
    assert not interval.excludes(0)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_pairs_take_away_what_they_share(pairs):
    first, second = zip(*pairs, strict=True)
    shifts = range(len(pairs))
    plain = interval_of_pairs(first, second)
    moved = interval_of_pairs(
        [a + s for a, s in zip(first, shifts, strict=True)], [b + s for b, s in zip(second, shifts, strict=True)]
    )
    assert (moved.mean, moved.low, moved.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=1e-6)
    turned = interval_of_pairs(second, first)
    assert (turned.mean, turned.low) == pytest.approx((-plain.mean, -plain.high), abs=1e-6)


def test_pairs_are_of_equal_number():
    with pytest.raises(ValueError, match="shorter"):
        interval_of_pairs([1, 2], [1])


def test_geometric_interval_of_known_numbers():
    interval = geometric_interval([1, 4])
    assert interval.mean == pytest.approx(2)
    assert interval.low * interval.high == pytest.approx(4)
    half = 12.7062047 * math.sqrt(0.5) * math.log(4) / math.sqrt(2)
    assert math.log(interval.high) == pytest.approx(math.log(2) + half, rel=1e-6)
    assert geometric_interval([3.0]) == Interval(mean=pytest.approx(3.0), low=None, high=None, count=1)


# ------------------------------------------------------------------ courses


def test_best_so_far_begins_with_the_first_that_counts():
    assert best_so_far([None, 0.3, None, 0.2, 0.5]) == [None, 0.3, 0.3, 0.3, 0.5]
    assert best_so_far([]) == []


def test_mean_curve_waits_for_all_and_keeps_what_stopped_early():
    assert mean_curve([[None, 0.2, 0.4], [0.1, 0.3]]) == [(2, 0.25), (3, pytest.approx(0.35))]
    assert mean_curve([[None, None], [0.1, 0.2]]) == []
    assert mean_curve([[], [0.1]]) == []
    assert mean_curve([]) == []


def test_mean_over_time_steps_when_either_does():
    points = mean_over_time([[0.2, 0.4], [0.1, 0.3]], [[1.0, 1.0], [1.5, 2.0]])
    assert points == [(1.5, pytest.approx(0.15)), (2.0, pytest.approx(0.25)), (3.5, pytest.approx(0.35))]
    assert mean_over_time([[None, 0.4], [0.1]], [[1.0, 1.0], [0.5]]) == [(2.0, 0.25)]


# ------------------------------------------------------------------ fronts


def test_front_of_known_points():
    assert pareto_front([(3, 0.5), (1, 0.5), (2, 0.9), (4, 0.8), (2, 0.7)]) == [(1, 0.5), (2, 0.9)]


@given(POINTS)
def test_no_point_beats_one_of_the_front_and_every_other_is_beaten(points):
    front = pareto_front(points)

    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    assert not any(beats(point, kept) for point in points for kept in front)
    assert all(point in front or any(beats(kept, point) for kept in front) for point in points)


def test_hypervolume_of_known_points():
    assert hypervolume([(1, 0.5), (2, 0.8)], (4, 0.1)) == pytest.approx(3 * 0.4 + 2 * 0.3)
    assert hypervolume([], (4, 0.1)) == 0
    assert hypervolume([(5, 0.9), (1, 0.05)], (4, 0.1)) == 0


@given(POINTS, SMALL, SMALL)
def test_hypervolume_counts_the_squares_that_are_dominated(points, cost, accuracy):
    """On whole numbers the area is a number of unit squares: count them."""
    squares = sum(
        any(point[0] <= left and point[1] >= below + 1 for point in points)
        for left in range(cost)
        for below in range(accuracy, 7)
    )
    assert hypervolume(points, (cost, accuracy)) == squares


# ------------------------------------------------------------------ cost at an accuracy

FAMILY = [(100.0, 0.9), (50.0, 0.8), (70.0, 0.7)]  # The last is slower for nothing.


def test_cost_at_an_accuracy_is_log_interpolated():
    assert cost_at_accuracy(FAMILY, 0.85) == Matched(pytest.approx(math.sqrt(100 * 50)))
    assert cost_at_accuracy(FAMILY, 0.8) == Matched(50.0)
    assert cost_at_accuracy(FAMILY, 0.9) == Matched(100.0)


def test_beyond_the_front_its_end_is_a_bound():
    assert cost_at_accuracy(FAMILY, 0.95) == Matched(100.0, AT_LEAST)
    assert cost_at_accuracy(FAMILY, 0.75) == Matched(50.0, AT_MOST)
    with pytest.raises(ValueError, match="at least one point"):
        cost_at_accuracy([], 0.5)


@given(
    st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=8),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
)
def test_more_accuracy_never_costs_less(points, accuracies):
    costs = [cost_at_accuracy(points, accuracy).cost for accuracy in sorted(accuracies)]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(costs))
    front = [cost for cost, _ in pareto_front(points)]
    assert all(front[0] * (1 - 1e-9) <= cost <= front[-1] * (1 + 1e-9) for cost in costs)


@pytest.mark.parametrize(
    ("bounds", "joint"),
    [
        ([EXACT, EXACT], EXACT),
        ([EXACT, AT_LEAST], AT_LEAST),
        ([AT_MOST, EXACT], AT_MOST),
        ([AT_MOST, AT_LEAST], BETWEEN),
    ],
)
def test_a_mean_with_bounds_is_a_bound(bounds, joint):
    assert joint_bound(bounds) == joint


def test_half_of_the_promised_speed_up():
    assert real_speed_up((100, 10), (50, 2.5)) == 0.5
    assert real_speed_up((100, 10), (100, 10)) == 1


def test_a_large_mean_loses_no_digits():
    values = np.array([1.0, 1.0 + 1e-9]) + 1e3
    assert student_interval(values.tolist()).mean == pytest.approx(1001, abs=1e-8)
