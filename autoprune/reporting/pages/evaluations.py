"""Every evaluation on a page: fronts of accuracy against latency and memory, and the plan behind each point."""

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoprune.comparison.statistics import pareto_front
from autoprune.records import Budget, Evaluation
from autoprune.records.measure import ACCURACY, Measure
from autoprune.reporting.pages.figures import MARKERS, add_limit, add_points, new_figure
from autoprune.reporting.pages.page import Chart, Explorer, Part, Table, Text
from autoprune.reporting.tables import byte_count, seconds, share_of

_LISTED = 25  # Plans of the front that the table lists.


@dataclass(frozen=True, eq=False, kw_only=True)
class Course:
    """The evaluations of one searcher in one run.

    Attributes:
        name: in the legend.
        evaluations: in their order.
        unit: latency and memory that shares are of: the dense model's.
    """

    name: str
    evaluations: Sequence[Evaluation]
    dense: Evaluation

    @property
    def scored(self) -> list[tuple[int, Evaluation]]:
        """Those that did not fail, with their numbers from 1."""
        return [(number, one) for number, one in enumerate(self.evaluations, 1) if not one.failed and one.cost]


@dataclass(frozen=True, kw_only=True)
class FinishedPoint:
    """A finished model among the evaluations.

    Attributes:
        name: beside the point.
        series: number of the series whose plan it is; None for the dense model.
        latency: seconds per batch.
        memory: bytes, if known.
        accuracy: on the reward split, after fine-tuning.
    """

    name: str
    series: int | None
    latency: float
    memory: int | None
    accuracy: float


def time_unit(latency: float) -> tuple[str, float]:
    """The unit in which a latency is read best, and the factor from seconds to it."""
    return ("s", 1.0) if latency >= 1 else ("ms", 1e3) if latency >= 1e-3 else ("us", 1e6)


def explore(
    courses: Sequence[Course],
    sizes: Mapping[str, int],
    branches: Sequence[str],
    finished: Sequence[FinishedPoint],
    budget: Budget,
    measure: Measure = ACCURACY,
) -> tuple[list[Part], dict[str, Any]]:
    """The fronts, with what can be pointed at and pinned, and a table of the plans on the front.

    Args:
        courses: a series each; at least one evaluation did not fail.
        sizes: channels of every group in the dense model, in data-flow order.
        branches: the branches that may go.
        finished: models to mark.
        budget: limits to draw, in absolute units.
        measure: how accuracies are told.

    Returns:
        The parts of the section, and the data that the page's script needs.
    """
    dense = courses[0].dense.required_cost
    unit, factor = time_unit(dense.latency)
    with_memory = bool(dense.memory.total) and all(
        one.cost is not None and one.cost.memory.total for course in courses for _, one in course.scored
    )
    several = f", combined share of {len(dense.parts)} targets" if dense.parts else ""
    axes = {"latency": (f"latency per batch ({unit}){several}", factor, budget.latency)}
    if with_memory:
        axes["memory"] = ("device memory (MiB)", 2**-20, budget.memory)
    series = {number: course.name for number, course in enumerate(courses)}
    points = [(one, number) for number, course in enumerate(courses) for _, one in course.scored]
    charts = []
    for kind, (label, scale, limit) in axes.items():
        costs = []
        for one, _ in points:
            cost = one.required_cost
            costs.append((cost.latency if kind == "latency" else float(cost.memory.total or math.nan), one.accuracy))
        front = pareto_front([(taken, accuracy) for taken, accuracy in costs if not math.isnan(accuracy)])
        known = [(done, done.latency if kind == "latency" else done.memory) for done in finished]
        marked = [(done, taken * scale) for done, taken in known if taken is not None]
        charts.append(
            Chart(
                key=f"front-{kind}",
                figure=_front(
                    label,
                    scale=scale,
                    limit=limit,
                    costs=costs,
                    front=front,
                    marked=marked,
                    count=len(courses),
                    measure=measure,
                ),
                title=f"{capital(measure.name)} against {kind}",
                summary=f"{capital(measure.name)} before fine-tuning against {label}: {len(points):,} plans, of which "
                f"{len(front)} are on the front. The table below lists these.",
                explorable=True,
            )
        )
    counts = []
    for course in courses:
        failed = len(course.evaluations) - len(course.scored)
        counts.append(f"{len(course.scored):,}" + (f", {failed:,} failed" if failed else ""))
    explorer = Explorer(series=series, counts=counts, charts=charts)
    caption = (
        "A point is one plan, scored on the reward split without fine-tuning; the line joins those that no other "
        "beats. A large mark is a finished model on the same images, after fine-tuning."
    )
    data = {"evaluations": _pack(courses, sizes, branches, budget, (unit, factor), measure)}
    return [explorer, Text(words=[caption], look="note"), _front_table(courses, measure)], data


def capital(name: str) -> str:
    """A measure's name where a sentence begins."""
    return name[:1].upper() + name[1:]


def _front(
    label: str,
    *,
    scale: float,
    limit: float | None,
    costs: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    marked: Sequence[tuple[FinishedPoint, float]],
    count: int,
    measure: Measure,
) -> Any:
    """One chart; the page's script puts the points of the evaluations in, which both charts share.

    `label` is the axis's, `scale` the factor of the cost to its unit, `limit` the budget; finished models are `marked`
    at their costs in that unit.
    """
    from bokeh.models import Range1d

    x = [cost * scale for cost, _ in costs] + [cost for _, cost in marked] + ([limit * scale] if limit else [])
    y = [measure.draw(accuracy) for _, accuracy in costs if not math.isnan(accuracy)]
    y += [measure.draw(done.accuracy) for done, _ in marked]
    ranges = []
    for values in (x, y):
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        ranges.append(Range1d(low - room, high + room))
    title = measure.label("on the reward split")
    plot = new_figure(label, title, tools="box_zoom", x_range=ranges[0], y_range=ranges[1])
    for number in range(count):
        add_points(plot, number, [], [], size=6).tags = [f"points-{number}"]
    if front:
        steps = [(cost * scale, measure.draw(accuracy)) for cost, accuracy in front]
        across, up = zip(*steps, strict=True)
        plot.step(x=across, y=up, mode="after", name="ink", line_width=1.2, line_alpha=0.7)
    if limit:
        add_limit(plot, limit * scale, "height", "budget")
    _mark(plot, marked, (min(x) + max(x)) / 2, measure)
    for tag in ("pins", "cursor"):
        ring = plot.scatter(x=[], y=[], marker="circle", size=16, fill_alpha=0, line_width=2.5, name="ink")
        ring.tags = [tag]
    return plot


def _mark(plot: Any, marked: Sequence[tuple[FinishedPoint, float]], middle: float, measure: Measure) -> None:
    """Finished models, with their costs, as large marks with names that lie towards the middle of the chart."""
    from bokeh.core.properties import value
    from bokeh.models import ColumnDataSource, LabelSet

    for done, cost in marked:
        marker = "star" if done.series is None else MARKERS[done.series % len(MARKERS)]
        name = "ink" if done.series is None else f"series-{done.series}"
        plot.scatter(x=[cost], y=[measure.draw(done.accuracy)], marker=marker, size=14, name=name, fill_alpha=0.9)
    for side, align, offset in ((False, "left", 11), (True, "right", -11)):
        named = [(done, cost) for done, cost in marked if (cost > middle) == side]
        places = {"x": [cost for _, cost in named], "y": [measure.draw(done.accuracy) for done, _ in named]}
        source = ColumnDataSource({**places, "text": [done.name for done, _ in named]})
        font = {
            "text_font": value("system-ui, sans-serif"),
            "text_font_size": value("12px"),
            "text_align": value(align),
        }
        plot.add_layout(
            LabelSet(x="x", y="y", text="text", source=source, x_offset=offset, y_offset=-8, name="ink", **font)
        )


def _front_table(courses: Sequence[Course], measure: Measure) -> Table:
    """The plans that no other beats in accuracy and latency, the fastest first."""
    found: dict[tuple[float, float], tuple[Course, int, Evaluation]] = {}
    for course in courses:
        for number, one in course.scored:
            if not math.isnan(one.accuracy):
                place = one.required_cost.latency, one.accuracy
                found.setdefault(place, (course, number, one))
    front = pareto_front(list(found))
    # Of a long front its whole length is shown, not one end.
    count = min(len(front), _LISTED)
    picked = sorted({round(place) for place in np.linspace(0, len(front) - 1, count)}) if front else []
    rows = []
    for course, number, one in (found[front[index]] for index in picked):
        cost, dense = one.required_cost, course.dense.required_cost
        rows.append(
            (
                f"{course.name} {number}",
                measure.tell(one.accuracy),
                seconds(cost.latency),
                share_of(cost.latency, dense.latency),
                byte_count(cost.memory.total),
                share_of(cost.memory.total, dense.memory.total),
                ", ".join(one.dropped) or "-",
            )
        )
    columns = ("plan", measure.name, "latency", "of dense", "memory", "of dense", "without")
    some = f", {len(rows)} of its {len(front)}" if len(rows) < len(front) else ""
    return Table(columns=columns, rows=rows, folded=f"The plans on the front{some}, as a table")


def _pack(
    courses: Sequence[Course],
    sizes: Mapping[str, int],
    branches: Sequence[str],
    budget: Budget,
    unit: tuple[str, float],
    measure: Measure,
) -> dict[str, Any]:
    """All evaluations in little room: columns of numbers, and plans as places in lists of the values that occur."""
    scored = [(series, number, one) for series, course in enumerate(courses) for number, one in course.scored]
    evaluations = [one for _, _, one in scored]
    # A column for each dimension; 0 is a group or branch that is gone.
    plans = np.array(
        [
            [*(one.widths.get(name, 0) for name in sizes), *(int(name not in one.dropped) for name in branches)]
            for one in evaluations
        ],
        np.int64,
    ).reshape(len(evaluations), -1)
    values, places = [], np.zeros(plans.shape, np.uint16)
    for column in range(plans.shape[1]):
        found, places[:, column] = np.unique(plans[:, column], return_inverse=True)
        values.append(found.tolist())
    dense = courses[0].dense.required_cost
    # Dimension by dimension, where neighbours are alike, in one byte each where that is enough.
    wide = any(len(found) > 256 for found in values)
    plans_bytes = zlib.compress(np.ascontiguousarray(places.T, "<u2" if wide else "u1").tobytes(), 9)
    return {
        "series": [course.name for course in courses],
        "measure": {"name": measure.name, "percent": measure.is_share},
        "unit": unit[0],
        "dense": {"latency": dense.latency * unit[1], "memory": (dense.memory.total or 0) / 2**20},
        "budget": {
            "latency": budget.latency and budget.latency * unit[1],
            "memory": budget.memory and budget.memory / 2**20,
        },
        "groups": list(sizes),
        "sizes": list(sizes.values()),
        "branches": list(branches),
        "of": _column([series for series, _, _ in scored], np.uint8),
        "number": _column([number for _, number, _ in scored], np.uint32),
        "latency": _column([one.required_cost.latency * unit[1] for one in evaluations]),
        "memory": _column([(one.required_cost.memory.total or math.nan) / 2**20 for one in evaluations]),
        "accuracy": _column([measure.draw(one.accuracy) for one in evaluations]),
        "score": _column([one.score for one in evaluations]),
        "values": values,
        "wide": wide,
        "plans": base64.b64encode(plans_bytes).decode(),
    }


def _column(values: Sequence[float], kind: type = np.float32) -> str:
    """Numbers, little-endian, in base 64."""
    return base64.b64encode(np.asarray(values, np.dtype(kind).newbyteorder("<")).tobytes()).decode()
