"""Charts, with Bokeh: what they draw, not in which colours. Those are the page's, of its light or its dark scheme.

A renderer is named for its colours: `series-3` is the fourth series', `ink` that of text. Each series has a marker and
a dash of its own too, so that none is told by its colour alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.comparison.statistics import student_interval

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "cross", "x")
DASHES = ("solid", "6 3", "2 2", "8 2 2 2", "4 4", "1 3", "10 3", "3 1")
_HEIGHT = 360


def new_figure(x: str, y: str, *, height: int = _HEIGHT, tools: str = "", **options: Any) -> Any:
    """An empty figure as wide as its place, with names for its axes, and without a toolbar."""
    from bokeh.plotting import figure

    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        min_width=240,
        toolbar_location=None,
        tools=tools,
        x_axis_label=x,
        y_axis_label=y,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        output_backend="canvas",
        **options,
    )
    for axis in plot.axis:
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "13px", "12px"
        axis.minor_tick_line_color = None
    plot.min_border_right = 16
    return plot


def add_points(plot: Any, number: int, x: Sequence[float], y: Sequence[float], *, size: float = 7) -> Any:
    """Points of a series; of markers with points of their own, which look smaller, larger ones."""
    marker = MARKERS[number % len(MARKERS)]
    return plot.scatter(
        x=np.asarray(x, np.float32),
        y=np.asarray(y, np.float32),
        marker=marker,
        size=size if marker in ("circle", "square") else 1.4 * size,
        name=f"series-{number}",
        fill_alpha=0.35,
        line_alpha=0.9,
    )


def add_interval(plot: Any, number: int, costs: Sequence[float], accuracies: Sequence[float]) -> None:
    """Results of single seeds as small points, their mean as a large one with its 95 % interval."""
    add_points(plot, number, costs, accuracies, size=4)
    interval, cost = student_interval(accuracies), float(np.mean(costs))
    if interval.low is not None and interval.high is not None:
        # Those of few seeds may leave the picture, which is of the plans.
        room = max(max(accuracies) - min(accuracies), 0.05 * abs(interval.mean))
        ends = [max(interval.low, min(accuracies) - room), min(interval.high, max(accuracies) + room)]
        plot.segment(x0=[cost], y0=ends[:1], x1=[cost], y1=ends[1:], line_width=2, name=f"series-{number}")
    add_points(plot, number, [cost], [interval.mean], size=11)


def add_line(plot: Any, number: int, points: Sequence[tuple[float, float]], **look: Any) -> None:
    """A line through the points of a series."""
    x, y = zip(*points, strict=True)
    plot.line(x=x, y=y, name=f"series-{number}", line_width=2, **look)
    add_points(plot, number, x, y, size=6)


def add_steps(
    plot: Any,
    number: int,
    points: Sequence[tuple[float, float]],
    band: Sequence[tuple[float, float, float]] = (),
) -> None:
    """A curve that keeps its value until the next, with a band around it.

    Args:
        plot: the figure.
        number: which series it is, for colour and marker.
        points: x and y.
        band: x, lower end and upper end.
    """
    if band:
        x, low, high = (np.asarray(column, np.float32) for column in zip(*band, strict=True))
        plot.varea_step(x=x, y1=low, y2=high, step_mode="after", name=f"series-{number}", fill_alpha=0.15)
    if points:
        x, y = (np.asarray(column, np.float32) for column in zip(*points, strict=True))
        dash = DASHES[number % len(DASHES)]
        plot.step(x=x, y=y, mode="after", name=f"series-{number}", line_width=2, line_dash=dash)
        plot.scatter(x=x[-1:], y=y[-1:], marker=MARKERS[number % len(MARKERS)], size=7, name=f"series-{number}")


def add_limit(plot: Any, value: float, dimension: str, words: str = "", *, before: bool = False) -> None:
    """A dashed line across the figure: a budget, or the number that says no difference.

    Args:
        plot: the figure.
        value: where.
        dimension: `height` for a vertical line, `width` for a horizontal one.
        words: beside it.
        before: whether they stand on its left.
    """
    from bokeh.models import Label, Span

    plot.add_layout(Span(location=value, dimension=dimension, line_dash="5 4", line_width=1.5, name="ink"))
    if words:
        places = {"x": value, "y": 4, "y_units": "screen", "x_offset": -4 if before else 4}
        places["text_align"] = "right" if before else "left"
        plot.add_layout(
            Label(text=words, text_font="system-ui, sans-serif", text_font_size="12px", name="ink", **places)
        )


def intervals(rows: Sequence[tuple[str, int, float, float | None, float | None]], x: str) -> Any:
    """Means with intervals, a line each, and no difference as a dashed line at 0.

    Args:
        rows: name, number of the series, mean, and ends of the interval, None where there is none.
        x: name of the axis.
    """
    names = [row[0] for row in rows]
    ends = [end for _, _, *values in rows for end in values if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    room = 0.05 * (high - low) or 1.0
    plot = new_figure(
        x, "", height=90 + 30 * len(rows), x_range=(low - room, high + room), y_range=list(reversed(names))
    )
    plot.yaxis.axis_label = None
    plot.ygrid.visible = False
    for name, number, mean, lower, upper in rows:
        if lower is not None and upper is not None:
            plot.segment(x0=[lower], y0=[name], x1=[upper], y1=[name], line_width=2.5, name=f"series-{number}")
        plot.scatter(
            x=[mean], y=[name], size=10, marker=MARKERS[number % len(MARKERS)], name=f"series-{number}", fill_alpha=1.0
        )
    add_limit(plot, 0, "height")
    return plot


def predictions(pairs: Sequence[tuple[float, float]], unit: str, factor: float) -> Any:
    """Guessed against compiled latencies, and the line on which a guess is right.

    Args:
        pairs: guessed and true latency in seconds.
        unit: such as `us`.
        factor: from seconds to the unit.
    """
    guessed, true = (np.asarray(column, float) * factor for column in zip(*pairs, strict=True))
    ends = [float(min(guessed.min(), true.min())), float(max(guessed.max(), true.max()))]
    plot = new_figure(f"compiled ({unit})", f"predicted ({unit})")
    plot.line(x=ends, y=ends, line_dash="5 4", name="ink")
    add_points(plot, 0, true.tolist(), guessed.tolist())
    return plot
