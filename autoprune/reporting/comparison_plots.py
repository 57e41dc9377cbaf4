"""The plots of a comparison, as SVG text.

Colours are Okabe and Ito's (Color Universal Design, 2008), which people with any kind of colour vision tell apart;
every searcher has a marker of its own too.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autoprune.comparison import Summary
from autoprune.comparison.conclusions import ALL
from autoprune.comparison.matching import LATENCY, kind_of
from autoprune.comparison.statistics import Interval, pareto_front, student_interval
from autoprune.comparison.summary import references_of
from autoprune.reporting.plots import svg
from autoprune.searchers.uniform import is_hand_set
from autoprune.settings import CompareSettings

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_GREY = "#767676"


def _styles(settings: CompareSettings) -> dict[str, tuple[str, str]]:
    """Colour and marker of every searcher."""
    return {
        name: (_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        for number, name in enumerate(settings.searchers)
    }


def accuracy_against_cost(settings: CompareSettings, summary: Summary, kind: str) -> str:
    """Test accuracy against latency or memory: uniform plans as a curve, what searchers found with intervals."""
    figure = Figure(figsize=(7.2, 4.6))
    axes = figure.subplots()
    unit, label = (1e6, "latency per batch (us)") if kind == LATENCY else (2**-20, "device memory (MiB)")
    _uniform_curve(axes, summary, kind, unit)
    for searcher, (colour, marker) in _styles(settings).items():
        label_left = searcher
        for budget in (name for name in settings.budgets if kind_of(name) == kind):
            plans = [plan for plan in summary.outcomes if (plan.searcher, plan.budget) == (searcher, budget)]
            if not plans:
                continue
            costs = [unit * plan.tested.taken(kind) for plan in plans]
            accuracies = student_interval([100 * plan.tested.test_accuracy for plan in plans])
            bars = None if accuracies.low is None else accuracies.high - accuracies.mean
            style = {"color": colour, "marker": marker, "linestyle": "", "markersize": 7, "capsize": 3}
            axes.errorbar(np.mean(costs), accuracies.mean, yerr=bars, label=label_left, **style)
            axes.scatter(
                costs, [100 * p.tested.test_accuracy for p in plans], s=10, color=colour, alpha=0.5, linewidths=0
            )
            label_left = None
    dense = summary.dense
    axes.scatter(
        [unit * dense.taken(kind)], [100 * dense.test_accuracy], marker="*", s=90, color="black", label="dense"
    )
    for number, budget in enumerate(name for name in settings.budgets if kind_of(name) == kind):
        limit = unit * dense.taken(kind) * (settings.budgets[budget].latency or settings.budgets[budget].memory)
        axes.axvline(limit, color=_GREY, linestyle="--", linewidth=1, label=None if number else "budgets")
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy after fine-tuning (%)")
    axes.set_ylim(*_limits(summary, kind))
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    return svg(figure)


def _limits(summary: Summary, kind: str) -> tuple[float, float]:
    """The accuracies that are shown, in per cent: of all single plans. Intervals of few seeds may leave the picture."""
    seen = [accuracy for points in summary.uniform[kind].values() for _, accuracy in points]
    seen += [plan.tested.test_accuracy for plan in summary.outcomes if kind_of(plan.budget) == kind]
    low, high = 100 * min([*seen, summary.dense.test_accuracy]), 100 * max([*seen, summary.dense.test_accuracy])
    room = 0.08 * (high - low) + 0.05
    return low - room, high + room


def _uniform_curve(axes: Axes, summary: Summary, kind: str, unit: float) -> None:
    """Uniform plans: single seeds as small points, the front of their means as a line."""
    by_cost: dict[float, list[float]] = {}
    for points in summary.uniform[kind].values():
        for cost, accuracy in points:
            by_cost.setdefault(cost, []).append(accuracy)
    means = sorted((cost, float(np.mean(accuracies))) for cost, accuracies in by_cost.items())
    if not means:
        return
    single = [(unit * cost, 100 * accuracy) for cost, accuracies in by_cost.items() for accuracy in accuracies]
    axes.scatter(*zip(*single, strict=True), s=8, color=_GREY, alpha=0.6, linewidths=0)
    front = [(unit * cost, 100 * accuracy) for cost, accuracy in pareto_front(means)]
    axes.plot(*zip(*front, strict=True), color=_GREY, linewidth=1.2, label="hand-set uniform")


def best_so_far(settings: CompareSettings, summary: Summary) -> str:
    """The mean best reward within the budget against evaluations and against time, a row for each budget."""
    budgets, styles = list(settings.budgets), _styles(settings)
    # Courses that coincide are told apart by their dashes.
    dashes = {name: (2 * number, (6, 2)) if number else "-" for number, name in enumerate(settings.searchers)}
    figure = Figure(figsize=(7.2, 2.6 * len(budgets) + 0.6))
    panels = figure.subplots(len(budgets), 2, squeeze=False, sharey="row")
    for (left, right), budget in zip(panels, budgets, strict=True):
        for searcher, curves in summary.curves[budget].items():
            for axes, curve in ((left, curves.evaluations), (right, curves.seconds)):
                if curve:
                    style = {"color": styles[searcher][0], "linestyle": dashes[searcher]}
                    axes.step(*zip(*curve, strict=True), where="post", label=searcher, **style)
        left.set_ylabel(f"best reward so far\n({budget if kind_of(budget) != LATENCY else f'latency {budget}'})")
        for axes in (left, right):
            axes.grid(color="0.92", linewidth=0.6)
    panels[-1][0].set_xlabel("evaluations")
    panels[-1][1].set_xlabel("time (s)")
    panels[0][0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=7, frameon=False)
    return svg(figure)


def differences(settings: CompareSettings, summary: Summary) -> str:
    """Paired differences in test accuracy with their intervals, a panel for each reference; all budgets together."""
    several = {item.kind for item in summary.differences if item.budget == ALL}
    shown = [item for item in summary.differences if item.budget == ALL or item.kind not in several]
    references = [name for name in references_of(settings) if any(item.reference == name for item in shown)]
    kinds = list(dict.fromkeys(item.kind for item in shown))
    names = [(kind, name) for kind in kinds for name in settings.searchers if not is_hand_set(name)]
    columns = min(len(references), 3)
    lines = -(-len(references) // columns)
    figure = Figure(figsize=(7.2, lines * (0.34 * len(names) + 1.2)))
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    styles = _styles(settings)
    for axes, reference in zip(panels.flat, references, strict=False):
        for item in shown:
            if item.reference == reference and (item.kind, item.searcher) in names:
                _forest(axes, names.index((item.kind, item.searcher)), item.interval, styles[item.searcher])
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(f"over {reference}", fontsize=9)
        axes.set_xlabel("points of test accuracy", fontsize=8)
        axes.grid(axis="x", color="0.92", linewidth=0.6)
    for axes in panels.flat[len(references) :]:
        axes.set_axis_off()
    labels = [name if len(kinds) == 1 else f"{name}, {kind}" for kind, name in names]
    panels[0][0].set_yticks(range(len(names)), labels, fontsize=8)
    panels[0][0].set_ylim(len(names) - 0.5, -0.5)
    return svg(figure)


def _forest(axes: Axes, row: int, interval: Interval, style: tuple[str, str]) -> None:
    colour, marker = style
    half = None if interval.low is None else 100 * (interval.high - interval.mean)
    axes.errorbar(100 * interval.mean, row, xerr=half, color=colour, marker=marker, markersize=5, capsize=3)
