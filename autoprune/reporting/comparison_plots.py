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
from autoprune.comparison.statistics import pareto_front, student_interval
from autoprune.comparison.summary import references_of
from autoprune.reporting.plots import svg
from autoprune.searchers.hand_set import is_hand_set
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
    budgets = [name for name in settings.budgets if kind_of(name) == kind]
    for searcher, (colour, marker) in _styles(settings).items():
        named: str | None = searcher
        for budget in budgets:
            plans = [plan.tested for plan in summary.outcomes if (plan.searcher, plan.budget) == (searcher, budget)]
            costs = [unit * cost for plan in plans if (cost := plan.taken(kind)) is not None]
            if not costs:
                continue
            accuracies = [100 * plan.test_accuracy for plan in plans]
            interval = student_interval(accuracies)
            axes.errorbar(
                float(np.mean(costs)),
                interval.mean,
                yerr=interval.half,
                label=named,
                color=colour,
                marker=marker,
                linestyle="",
                markersize=7,
                capsize=3,
            )
            axes.scatter(costs, accuracies, s=10, color=colour, alpha=0.5, linewidths=0)
            named = None  # Once in the legend.
    dense = unit * (summary.dense.taken(kind) or np.nan)
    accuracy = 100 * summary.dense.test_accuracy
    axes.scatter([dense], [accuracy], marker="*", s=90, color="black", label="dense")
    for number, budget in enumerate(budgets):
        limit = dense * (settings.budgets[budget].latency or settings.budgets[budget].memory)
        axes.axvline(limit, color=_GREY, linestyle="--", linewidth=1, label=None if number else "budgets")
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy after fine-tuning (%)")
    # Of all single plans: intervals of few seeds may leave the picture.
    seen = [100 * accuracy for points in summary.uniform[kind].values() for _, accuracy in points]
    seen += [100 * plan.tested.test_accuracy for plan in summary.outcomes if kind_of(plan.budget) == kind]
    low, high = min([*seen, accuracy]), max([*seen, accuracy])
    room = 0.08 * (high - low) + 0.05
    axes.set_ylim(low - room, high + room)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    return svg(figure)


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
    x, y = zip(*single, strict=True)
    axes.scatter(x, y, s=8, color=_GREY, alpha=0.6, linewidths=0)
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
                    x, y = zip(*curve, strict=True)
                    colour, dash = styles[searcher][0], dashes[searcher]
                    axes.step(x, y, where="post", label=searcher, color=colour, linestyle=dash)
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
                interval, (colour, marker) = item.interval, styles[item.searcher]
                axes.errorbar(
                    100 * interval.mean,
                    names.index((item.kind, item.searcher)),
                    xerr=interval.half and 100 * interval.half,
                    color=colour,
                    marker=marker,
                    markersize=5,
                    capsize=3,
                )
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
