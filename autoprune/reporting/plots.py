"""The report's plots, as SVG text that stands in the HTML file itself."""

import io
import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from autoprune.records import Budget, Evaluation

_COLOURS = {"uniform": "#d95f02", "random": "#7570b3", "rl": "#1b9e77"}


def latency_against_accuracy(
    courses: Mapping[str, Sequence[Evaluation]], dense: Evaluation, budget: Budget, chosen: Evaluation
) -> str:
    """Every evaluation, the uniform plans joined by a line, the budget and the chosen plan marked."""
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    unit = 1e6
    for name, course in courses.items():
        points = sorted({(e.cost.latency * unit, e.score) for e in course if e.cost is not None and not e.failed})
        if not points:
            continue
        x, y = zip(*points, strict=True)
        if name == "uniform":
            # In order of width, not of latency: the line then shows where narrower is slower.
            by_width = sorted(course, key=lambda e: -sum(e.widths.values()))
            curve = [(e.cost.latency * unit, e.score) for e in by_width if e.cost]
            axes.plot(*zip(*curve, strict=True), color=_COLOURS[name], linewidth=1, alpha=0.6)
        axes.scatter(x, y, s=16, label=name, color=_COLOURS.get(name), alpha=0.75)
    whole = dense.required_cost
    axes.scatter([whole.latency * unit], [dense.score], marker="s", color="black", label="dense")
    axes.scatter(
        [chosen.required_cost.latency * unit],
        [chosen.score],
        s=110,
        facecolors="none",
        edgecolors="black",
        label="chosen",
    )
    if budget.latency is not None:
        axes.axvline(budget.latency * unit, color="grey", linestyle="--", linewidth=1, label="budget")
    several = f", combined share of {len(whole.parts)} targets" if whole.parts else ""
    axes.set_xlabel(f"latency per batch on {whole.target.name} (us){several}")
    axes.set_ylabel("score on the reward split\n(before fine-tuning)")
    axes.legend(fontsize=8)
    return svg(figure)


def best_so_far(courses: Mapping[str, Sequence[Evaluation]], budget: Budget) -> str:
    """The best accuracy within the budget against evaluations used."""
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots()
    for name, course in courses.items():
        scores = [e.score if e.cost and not e.failed and budget.met_by(e.cost) else -np.inf for e in course]
        best = np.array(list(itertools.accumulate(scores, max)))
        numbers = np.arange(1, len(best) + 1)
        shown = np.isfinite(best)
        axes.step(numbers[shown], best[shown], where="post", label=name, color=_COLOURS.get(name))
    axes.set_xlabel("evaluations")
    axes.set_ylabel("best within the budget")
    axes.legend(fontsize=8)
    return svg(figure)


def widths(sizes: Mapping[str, int], plans: Mapping[str, Mapping[str, int]]) -> str:
    """Channels of every group, dense and for each plan.

    Args:
        sizes: channels before, by group.
        plans: for each plan's name its channels by group.
    """
    names = list(sizes)
    figure = Figure(figsize=(7.2, max(2.4, 0.42 * len(names) + 0.8)))
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.barh(rows, list(sizes.values()), height=0.8, color="#e6e6e6", label="dense")
    height = 0.7 / max(len(plans), 1)
    for number, (plan, kept) in enumerate(plans.items()):
        offset = (number - (len(plans) - 1) / 2) * height
        values = [kept[name] for name in names]
        axes.barh(rows + offset, values, height=height, color=_COLOURS.get(plan), label=plan)
        for row, value in zip(rows, values, strict=True):
            axes.text(value, row + offset, f" {value}", va="center", fontsize=7)
    axes.set_yticks(rows, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("channels")
    axes.legend(fontsize=8)
    return svg(figure)


def svg(figure: Figure) -> str:
    """The figure as an SVG element; text stays text, and the same figure gives the same file."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "autoprune"}):
        figure.tight_layout()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
