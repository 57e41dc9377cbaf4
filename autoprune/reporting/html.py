"""The report: one HTML file that needs nothing else, not even a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from autoprune.records import Budget, Evaluation
from autoprune.records.plain import write_text
from autoprune.reporting import plots
from autoprune.reporting.depth import BranchRow
from autoprune.reporting.tables import ResultRow, result_caption, result_cells, result_columns


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """Everything the report shows.

    Attributes:
        title: heading of the page.
        verdict: one sentence on the outcome.
        cautions: what a reader should know before trusting it.
        rows: of the result table, the dense model first.
        courses: each searcher's evaluations in order.
        dense: evaluation of the dense model.
        chosen: evaluation of the plan that was applied.
        budget: limits in absolute units.
        sizes: channels of every prunable group before.
        plans: channels after, for each plan shown; without groups that leave with a branch.
        gone: for each plan shown the branches with which these leave, by group.
        branches: those that may go, in the dense model and each plan shown.
        left_alone: for groups that were not pruned, why.
        settings: name and value pairs.
    """

    title: str
    verdict: str
    rows: Sequence[ResultRow]
    courses: Mapping[str, Sequence[Evaluation]]
    dense: Evaluation
    chosen: Evaluation
    budget: Budget
    sizes: Mapping[str, int]
    plans: Mapping[str, Mapping[str, int]]
    left_alone: Mapping[str, str]
    settings: Sequence[tuple[str, Any]]
    cautions: Sequence[str] = ()
    gone: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    branches: Sequence[BranchRow] = ()


def write_report(report: Report, path: str | Path) -> None:
    """Render the report to a file."""
    scatter = plots.latency_against_accuracy(report.courses, report.dense, report.budget, report.chosen)
    html = render(
        "report.html.j2",
        title=report.title,
        verdict=report.verdict,
        cautions=report.cautions,
        headers=[column.header for column in result_columns(report.rows)],
        rows=result_cells(report.rows),
        caption=result_caption(report.rows[0].cost),
        scatter=Markup(scatter),
        uniform="uniform" in report.courses,
        widths=Markup(plots.widths(report.sizes, report.plans, report.gone)),
        models=[row.name for row in report.rows],
        branches=[(row.name, row.layers, branch_cells(row)) for row in report.branches],
        times=Markup(_times(report)),
        best=Markup(plots.best_so_far(report.courses, report.budget)),
        left_alone=list(report.left_alone.items()),
        settings=report.settings,
    )
    write_text(Path(path), html)


def branch_cells(row: BranchRow) -> list[str]:
    """For each result what share of its latency the branch holds, or that it is gone."""
    return [
        "gone" if name in row.gone else "-" if share is None else f"{share:.1%}" for name, share in row.latency.items()
    ]


def _times(report: Report) -> str:
    """The plot of the branches' times; nothing where none is known."""
    if all(share is None for row in report.branches for share in row.latency.values()):
        return ""
    latencies = {row.name: row.cost.latency for row in report.rows}
    return plots.branches(report.branches, latencies, report.rows[0].cost.target.name)


def render(template: str, **values: Any) -> str:
    """A page from one of the templates here; what it is given is escaped unless it is `Markup`."""
    folder = files("autoprune.reporting")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    style = Markup(folder.joinpath("style.css.j2").read_text())
    return environment.from_string(folder.joinpath(template).read_text()).render(style=style, **values)
