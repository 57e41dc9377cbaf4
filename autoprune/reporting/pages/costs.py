"""The page of a measurement, from its run folder."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from autoprune.cost.sweep import SweepRow
from autoprune.records import CostReport, TrainingStepReport
from autoprune.records.plain import from_plain
from autoprune.reporting.costs import CostRow, cost_table, layer_table, notes, read_rows, training_table
from autoprune.reporting.fitting import FittingTable
from autoprune.reporting.pages import figures
from autoprune.reporting.pages.headline import device_words
from autoprune.reporting.pages.page import Chart, Page, Part, Table, Text
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.sweep import sweep_table
from autoprune.reporting.tables import seconds


def measure_page(saved: Saved) -> Page:
    """The page of a measurement: costs, and whatever else was asked for."""
    rows: list[CostRow[CostReport]] = []
    data = saved.load("costs.json", "what the model costs", kind=list)
    with saved.attempt("what the model costs"):
        rows = read_rows(CostReport, data or [])

    def load(name: str, kind: type = list) -> Any:
        """What was asked for beside the costs is there, or was not asked for."""
        return saved.load(name, name, kind=kind) if (saved.path / name).exists() else None

    sections = saved.sections(
        [
            ("costs", "Costs", lambda: _table_parts(cost_table, rows)),
            ("layers", "Layer by layer", lambda: _layer_parts(rows, load("layers.json", dict))),
            ("sweep", "Every group pruned alike", lambda: _sweep_parts(rows, load("sweep.json"))),
            ("groups", "Channel groups", lambda: _group_parts(load("groups.json"))),
            ("branches", "Branches", lambda: _branch_parts(load("branches.json"))),
            (
                "training",
                "A training step",
                lambda: _table_parts(training_table, read_rows(TrainingStepReport, load("training_steps.json") or [])),
            ),
        ]
    )
    models = list(dict.fromkeys(row.model for row in rows))
    headline = "Nothing could be costed." if rows else "This measurement has no figures that can be read."
    if known := [row for row in rows if not row.failed]:
        best = min(known, key=lambda row: row.report.latency)
        report = best.report
        among = "" if len(known) == 1 else f", the fastest of {len(known)}"
        where = f"on {device_words(report.target.name)} at batch {report.target.batch_size}"
        headline = f"{best.model} takes {seconds(report.latency)} per batch {where}{among}: {report.kind}."
    return Page(
        title=f"What {' and '.join(models[:3]) or 'a model'} cost{'s' if len(models) < 2 else ''}",
        kind="measurement",
        headline=headline,
        sections=[*sections, saved.origin_section()],
    )


def _table_parts(tabulate: Callable[..., FittingTable], rows: Sequence[CostRow[Any]]) -> list[Part]:
    """The table of some costs, and what could not be costed."""
    if not rows:
        return []
    told = notes(rows)
    return [Table.of(tabulate(rows), title=""), *([Text(words=told, look="caution")] if told else [])]


def _layer_parts(rows: Sequence[CostRow[CostReport]], flops: Any) -> list[Part]:
    if not flops:
        return []
    known = [row for row in rows if not row.failed and row.model in flops]
    return [Table.of(layer_table(row, flops[row.model])) for row in known]


def _sweep_parts(rows: Sequence[CostRow[CostReport]], data: Any) -> list[Part]:
    """Share of the dense latency against the share of operations left, and the table."""
    if not data:
        return []
    found = [from_plain(SweepRow, row) for row in data]
    dense = found[0].reports
    plot = figures.new_figure("operations left (%)", "latency, of the dense model's (%)")
    plot.line(x=[0, 100], y=[0, 100], line_dash="5 4", name="ink")
    told = []
    for number, whole in enumerate(dense):
        of_target = [row.reports[number] for row in found]
        points = [(100 * one.flops / whole.flops, 100 * one.latency / whole.latency) for one in of_target]
        figures.add_line(plot, number, points, line_dash=figures.DASHES[number % 8])
        least = min(one.latency for one in of_target) / whole.latency
        told.append(f"{whole.target.name} down to {least:.0%}")
    caption = (
        "On the dashed line latency would fall as operations do. Where a line rises to the left, a plan is slower "
        "than one that keeps more."
    )
    chart = Chart(
        key="sweep-chart",
        figure=plot,
        summary=f"Latency of uniform plans as a share of the dense model's: {'; '.join(told)}.",
        caption=caption,
        legend={number: whole.target.name for number, whole in enumerate(dense)},
        shape="both",
    )
    model = rows[0].model if rows else ""
    return [chart, Table.of(sweep_table(model, found), title="")]


def _group_parts(data: Any) -> list[Part]:
    if not data:
        return []
    rows = [
        (
            group["name"],
            str(group["channels"]),
            "yes" if group["prunable"] else f"no: {group['reason']}",
            ", ".join(dict.fromkeys(member["layer"] for member in group["members"])),
        )
        for group in data
    ]
    return [Table(columns=("group", "channels", "prunable", "layers that lose them together"), rows=rows)]


def _branch_parts(data: Any) -> list[Part]:
    if not data:
        return []
    targets = list(data[0]["latency"])
    rows = [
        (
            branch["name"],
            branch["kind"],
            branch["merge"],
            str(len(branch["layers"])),
            "yes" if branch["by_default"] else "if named" if branch["removable"] else f"no: it {branch['reason']}",
            f"{branch['parameters']:.1%}",
            f"{branch['flops']:.1%}",
            *(f"{branch['latency'].get(target, math.nan):.1%}" for target in targets),
        )
        for branch in data
    ]
    columns = ("branch", "kind", "ends in", "layers", "removable", "parameters", "FLOPs")
    caption = "Parameters, FLOPs, latency: what the branch's layers hold of the model's."
    return [Table(columns=(*columns, *(f"latency on {target}" for target in targets)), rows=rows, caption=caption)]
