"""A sweep over uniform keep ratios, as a table, a plot and plain data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from autoprune.cost.sweep import SweepRow
from autoprune.reporting.tables import seconds


def sweep_table(model: str, rows: Sequence[SweepRow]) -> Table:
    """Latency on every target, absolute and as a share of the dense model's; slower than wider plans is marked."""
    targets = [report.target.name for report in rows[0].reports]
    caption = (
        f"Per batch of {rows[0].reports[0].target.batch_size} on one device: {rows[0].reports[0].kind}. "
        "'!' marks a plan that is slower than one that keeps more."
    )
    table = Table(title=f"{model}, every group pruned alike", caption=caption, caption_justify="left")
    for header in ("keep", "channels", "FLOPs left", *targets):
        table.add_column(header, justify="right", no_wrap=True)
    fastest = [float("inf")] * len(targets)
    for row in rows:
        flops = row.reports[0].flops / rows[0].reports[0].flops
        cells = [f"{row.keep_ratio:.3g}", f"{row.channels:.0%}", f"{flops:.0%}"]
        for number, (report, dense) in enumerate(zip(row.reports, rows[0].reports, strict=True)):
            slower = "!" if report.latency > fastest[number] else " "
            fastest[number] = min(fastest[number], report.latency)
            cells.append(f"{seconds(report.latency)} {report.latency / dense.latency:4.0%}{slower}")
        table.add_row(*cells)
    return table


def sweep_data(rows: Sequence[SweepRow]) -> list[dict[str, Any]]:
    """The rows as JSON."""
    return [dataclasses.asdict(row) for row in rows]


def plot_sweep(model: str, rows: Sequence[SweepRow], path: Path) -> None:
    """Share of the dense latency against the share of FLOPs left; the diagonal is what FLOPs promise."""
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    dense = rows[0].reports
    for number, report in enumerate(dense):
        left = [row.reports[number].flops / report.flops for row in rows]
        latency = [row.reports[number].latency / report.latency for row in rows]
        axes.plot(left, latency, marker="o", markersize=3, linewidth=1.2, label=report.target.name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1, label="as FLOPs")
    axes.set_xlabel("FLOPs left")
    axes.set_ylabel("latency, of the dense model's")
    axes.set_xlim(1.02, 0)
    axes.set_ylim(bottom=0)
    axes.set_title(
        f"{model}: every group pruned alike, batch {dense[0].target.batch_size}, {dense[0].kind}", fontsize=9
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
