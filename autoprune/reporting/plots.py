"""The report's plots, as SVG text that stands in the HTML file itself."""

import io
import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from autoprune.records import Budget, Evaluation
from autoprune.reporting.depth import BranchRow

_COLOURS = {"uniform": "#d95f02", "uniform_depth_width": "#e6ab02", "random": "#7570b3", "rl": "#1b9e77"}


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


def widths(
    sizes: Mapping[str, int],
    plans: Mapping[str, Mapping[str, int]],
    gone: Mapping[str, Mapping[str, str]],
) -> str:
    """Channels of every group, dense and for each plan.

    Args:
        sizes: channels before, by group.
        plans: for each plan's name its channels by group.
        gone: for each plan's name the branches with which groups leave, by group.
    """
    bars = {
        plan: [
            (kept[name], str(kept[name])) if name in kept else (0, f"gone with {gone[plan][name]}") for name in sizes
        ]
        for plan, kept in plans.items()
    }
    return _bars(sizes, bars, "channels")


def branches(rows: Sequence[BranchRow], latencies: Mapping[str, float], target: str) -> str:
    """Time that every branch holds, dense and in each result.

    Args:
        rows: of branches whose share of the latency is known.
        latencies: in seconds per batch, of each result by its name, the dense model's first.
        target: its name.
    """
    unit = 1e6
    dense, *others = latencies
    before = {row.name: (row.latency[dense] or 0.0) * latencies[dense] * unit for row in rows}
    bars = {}
    for name in others:
        times = [(row.latency[name] or 0.0) * latencies[name] * unit for row in rows]
        bars[name] = [
            (time, "gone" if name in row.gone else f"{time:.1f}") for row, time in zip(rows, times, strict=True)
        ]
    return _bars(before, bars, f"latency per batch on {target} (us)")


def _bars(before: Mapping[str, float], plans: Mapping[str, Sequence[tuple[float, str]]], label: str) -> str:
    """A bar for each thing by its name, and within it one for each plan, with the text at its end."""
    figure = Figure(figsize=(7.2, max(2.4, 0.42 * len(before) + 0.8)))
    axes = figure.subplots()
    rows = np.arange(len(before))
    axes.barh(rows, list(before.values()), height=0.8, color="#e6e6e6", label="dense")
    height = 0.7 / max(len(plans), 1)
    for number, (plan, bars) in enumerate(plans.items()):
        offset = (number - (len(plans) - 1) / 2) * height
        colour = _COLOURS.get(plan, f"C{number}")
        axes.barh(rows + offset, [value for value, _ in bars], height=height, color=colour, label=plan)
        for row, (value, text) in zip(rows, bars, strict=True):
            # What is gone has no bar: its words have the plan's colour.
            ink, weight = ("black", "normal") if value else (colour, "bold")
            axes.text(value, row + offset, f" {text}", va="center", fontsize=7, color=ink, fontweight=weight)
    axes.set_yticks(rows, list(before), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
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
