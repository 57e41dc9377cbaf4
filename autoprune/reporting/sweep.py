"""A sweep over uniform keep ratios, as a table and a plot."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from autoprune.cost.sweep import SweepRow
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.reporting.tables import seconds

# Up to so many targets a table has room for seconds beside shares.
_WITH_SECONDS = 3


def sweep_table(model: str, rows: Sequence[SweepRow]) -> FittingTable:
    """Latency on every target as a share of the dense model's, up to three targets in seconds too.

    What is slower than a plan that keeps more is marked.
    """
    dense = rows[0].reports
    wide = len(dense) > _WITH_SECONDS
    caption = (
        f"Per batch of {dense[0].target.batch_size} on one device: {dense[0].kind}. "
        f"{'Shares are of the dense latency in the first row. ' if wide else ''}"
        "'!' marks a plan that is slower than one that keeps more."
    )
    # Of many targets the first ones are shown where there is no room for all.
    targets = [Column(report.target.name, int(number > 0)) for number, report in enumerate(dense)]
    columns = (Column("keep"), Column("channels", rank=3), Column("FLOPs left", rank=2), *targets)
    table = FittingTable(columns, title=f"{model}, every group pruned alike", caption=caption)
    slower = [_slower(rows, number) for number in range(len(dense))]
    for position, row in enumerate(rows):
        cells = [f"{row.keep_ratio:.3g}", f"{row.channels:.0%}", f"{row.reports[0].flops / dense[0].flops:.0%}"]
        for number, (report, whole) in enumerate(zip(row.reports, dense, strict=True)):
            share = f"{report.latency / whole.latency:4.0%}{'!' if slower[number][position] else ' '}"
            absolute = seconds(report.latency)
            if wide:
                cells.append(share if position else f"{absolute} ")
            else:
                cells.append(f"{absolute} {share}")
        table.add_row(*cells)
    return table


def _slower(rows: Sequence[SweepRow], number: int) -> list[bool]:
    """For each row, whether it is slower on a target than one that keeps more."""
    fastest, found = float("inf"), []
    for row in rows:
        latency = row.reports[number].latency
        found.append(latency > fastest)
        fastest = min(fastest, latency)
    return found


def plot_sweep(model: str, rows: Sequence[SweepRow], path: Path) -> None:
    """Share of the dense latency against the share of FLOPs left, a panel for each target.

    The diagonal is what FLOPs promise; rings are plans that are slower than one that keeps more.
    """
    dense = rows[0].reports
    columns = min(len(dense), 4)
    lines = math.ceil(len(dense) / columns)
    size = (6.4, 4.4) if len(dense) == 1 else (2.7 * columns + 0.6, 2.6 * lines + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, axes in enumerate(panels):
        if number < len(dense):
            _panel(axes, rows, number)
        else:
            axes.set_axis_off()
        # The panel above a gap is the lowest of its column.
        axes.tick_params(labelbottom=number + columns >= len(dense))
    # All panels share their axes: the highest point of any of them sets the top.
    highest = max(row.reports[n].latency / dense[n].latency for row in rows for n in range(len(dense)))
    panels[0].set_ylim(0, 1.06 * highest)
    figure.suptitle(
        f"{model}: every group pruned alike, batch {dense[0].target.batch_size}, {dense[0].kind}", fontsize=10
    )
    figure.supxlabel("FLOPs left", fontsize=9)
    figure.supylabel("latency, of the dense model's", fontsize=9)
    # In a panel that is left over, or where no curve comes: little is left and it takes long.
    handles, labels = panels[0].get_legend_handles_labels()
    spare = len(panels) > len(dense)
    panels[-1 if spare else 0].legend(
        handles,
        labels,
        loc="center" if spare else "upper right",
        fontsize=8 if spare or columns == 1 else 7,
        frameon=False,
    )
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, rows: Sequence[SweepRow], number: int) -> None:
    """One target."""
    dense = rows[0].reports[number]
    left = [row.reports[number].flops / dense.flops for row in rows]
    latency = [row.reports[number].latency / dense.latency for row in rows]
    rings = [position for position, slower in enumerate(_slower(rows, number)) if slower]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1, label="as FLOPs")
    axes.plot(left, latency, color="C0", marker="o", markersize=3, linewidth=1.2, label="latency")
    axes.plot(
        [left[ring] for ring in rings],
        [latency[ring] for ring in rings],
        color="C3",
        linestyle="",
        marker="o",
        markersize=8,
        markerfacecolor="none",
        label="slower than a wider plan",
    )
    axes.set_title(f"{dense.target.name}, dense {seconds(dense.latency)}", fontsize=9)
    axes.set_xlim(1.04, 0)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.tick_params(labelsize=8)
