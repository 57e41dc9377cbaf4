"""A comparison as tables, sentences and a page. Nothing is called a difference whose interval contains none."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autoprune.comparison import Record, Summary
from autoprune.comparison.conclusions import ALL, UNIFORM, CostRatio, Difference, Row
from autoprune.comparison.matching import TOLERANCE, kind_of
from autoprune.comparison.statistics import Interval
from autoprune.comparison.summary import references_of
from autoprune.records import Target
from autoprune.reporting import comparison_plots
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.reporting.html import render
from autoprune.reporting.outcome import flat
from autoprune.reporting.run_folder import RunFolder, write_text
from autoprune.reporting.tables import seconds
from autoprune.searchers.uniform import is_hand_set
from autoprune.settings import CompareSettings

NONE = "-"


@dataclass(frozen=True)
class TextTable:
    """A table as text, for the terminal and the page alike.

    Attributes:
        title: above it.
        headers: titles of the columns.
        rows: cells of each row, as many as there are columns.
        caption: what the figures are.
        ranks: of the columns, as `Column.rank`.
    """

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str
    ranks: tuple[int, ...]


def comparison_tables(settings: CompareSettings, summary: Summary) -> list[FittingTable]:
    """The tables for the terminal."""
    tables = []
    for text in text_tables(settings, summary):
        columns = [
            Column(header, rank, "word" if number < 2 else "figure")
            for number, (header, rank) in enumerate(zip(text.headers, text.ranks, strict=True))
        ]
        table = FittingTable(columns, title=text.title, caption=text.caption)
        for number, row in enumerate(text.rows):
            ends = number + 1 < len(text.rows) and text.rows[number + 1][0] != row[0]
            table.add_row(*row, end_section=ends)
        tables.append(table)
    return tables


def text_tables(settings: CompareSettings, summary: Summary) -> list[TextTable]:
    """Results, differences, and costs at equal accuracy."""
    tables = [_results(summary), _differences(settings, summary)]
    return [*tables, _costs(summary)] if summary.ratios or summary.volumes else tables


def _results(summary: Summary) -> TextTable:
    headers = ("budget", "searcher", "n", "test accuracy", "score", "latency", "memory")
    headers += ("uniform as fast", "its cost", "of FLOPs'")
    caption = (
        f"Dense: {summary.dense.test_accuracy:.2%} at {seconds(summary.dense.latency)} per batch"
        + (f", tuned on {_percent(summary.dense_tuned)}" if summary.dense_tuned else "")
        + ". Test accuracy after fine-tuning, with 95 % intervals over the n seeds. Score: mean in the search, before "
        "fine-tuning. Latency and memory: of the dense model's. Uniform as fast: the best hand-set plan that costs at "
        "most 1 % more than the searched one, chosen from as many finalists; its cost: by how much it differs. Of "
        "FLOPs': speed-up over what FLOPs promise."
    )
    ranks = (0, 0, 6, 0, 4, 0, 3, 2, 5, 7)
    return TextTable("After fine-tuning", headers, [_result(row) for row in summary.rows], caption, ranks)


def _result(row: Row) -> tuple[str, ...]:
    unmatched = f"{row.unmatched} unmatched" if row.unmatched else NONE
    return (
        _budget(row.budget),
        row.searcher,
        str(row.accuracy.count),
        _percent(row.accuracy),
        f"{row.score:.3f}",
        f"{row.latency:.1%}",
        NONE if row.memory is None else f"{row.memory:.1%}",
        unmatched if row.uniform is None else _percent(row.uniform),
        NONE if row.excess is None else _range(row.excess),
        NONE if row.speed_up_kept is None else f"{row.speed_up_kept.mean:.0%}",
    )


def _differences(settings: CompareSettings, summary: Summary) -> TextTable:
    references = references_of(settings)
    found = {(item.kind, item.budget, item.searcher, item.reference): item for item in summary.differences}
    rows = []
    for kind, budget, searcher in dict.fromkeys(
        (item.kind, item.budget, item.searcher) for item in summary.differences
    ):
        items = [found.get((kind, budget, searcher, reference)) for reference in references]
        count = max(item.interval.count for item in items if item is not None)
        cells = [NONE if item is None else _points(item, count) for item in items]
        rows.append((_budget(budget, kind), searcher, str(count), *cells))
    caption = (
        "Test accuracy of the row's plans less that of the column's, in points, with 95 % intervals (Student's t) of "
        "the mean over n pairs of one budget and seed; of one base model. * marks intervals without zero: the others "
        "show no difference. Hand-set uniform costs the same, other searchers keep the same budget; from scratch is "
        "the same network. A number in brackets is a smaller n."
    )
    headers = ("budget", "searcher", "n", *(f"over {reference}" for reference in references))
    ranks = (0, 0, len(references), *range(len(references)))  # The first reference stays.
    return TextTable("Differences", headers, rows, caption, ranks)


def _costs(summary: Summary) -> TextTable:
    cells = {
        (item.kind, item.budget, item.searcher): [str(item.interval.count), _ratio(item), _bounds(item), NONE]
        for item in summary.ratios
    }
    for kind, volumes in summary.volumes.items():
        for searcher, volume in volumes.items():
            row = cells.setdefault((kind, ALL, searcher), [str(volume.count), NONE, NONE, NONE])
            row[-1] = _number(volume, "{:.4f}")
    rows = [(_budget(budget, kind), searcher, *row) for (kind, budget, searcher), row in cells.items()]
    corners = "; ".join(
        f"{kind} {corner[0]:.0%} of dense and test accuracy {corner[1]:.2%}" for kind, corner in summary.corners.items()
    )
    caption = (
        "Uniform / searched: what the uniform plans' accuracy-cost front, log-interpolated with the same seed, takes "
        "at the searched plan's test accuracy, over what the searched plan takes; geometric mean with 95 % interval, * "
        "where it excludes 1. The front is the best of several uniform plans, luck in fine-tuning among it, which "
        "favours them. >= and <= where accuracies lie beyond the front, whose end then counts. Hypervolume: of "
        f"a searcher's plans at all budgets, against the reference point {corners}."
    )
    headers = ("budget", "searcher", "n", "uniform / searched", "beyond the curve", "hypervolume")
    return TextTable("Cost at equal accuracy", headers, rows, caption, (0, 0, 3, 0, 2, 1))


def verdicts(settings: CompareSettings, summary: Summary) -> list[str]:
    """One sentence for each searcher that is not set by hand: against uniform plans that cost the same."""
    sentences = []
    ratios = {(item.kind, item.budget, item.searcher): item for item in summary.ratios}
    for item in _widest(summary.differences):
        if item.reference == UNIFORM and not is_hand_set(item.searcher):
            ratio = ratios.get((item.kind, item.budget, item.searcher))
            sentences.append(_verdict(item, ratio) + _mismatch(item, summary))
    missing = [name for name in settings.searchers if not any(row.searcher == name for row in summary.rows)]
    return [*sentences, *(f"{name} found no plan within any budget." for name in missing)]


def _widest(differences: Sequence[Difference]) -> list[Difference]:
    """Those over all budgets of a kind, or over the only one."""
    several = {item.kind for item in differences if item.budget == ALL}
    return [item for item in differences if item.budget == ALL or item.kind not in several]


def _verdict(item: Difference, ratio: CostRatio | None) -> str:
    interval = item.interval
    points = f"{100 * interval.mean:+.2f} points"
    where = f"{item.searcher} over the best hand-set uniform plan of the same {item.kind}: {points} of test accuracy"
    if interval.low is None:
        return f"{where} in one pair: too few for an interval."
    told = f"{where} (95 % {100 * interval.low:+.2f} to {100 * interval.high:+.2f}, n = {interval.count})"
    if not interval.excludes_zero:
        told += ": no difference beyond chance."
    else:
        told += ": more accurate." if interval.mean > 0 else ": less accurate."
    if ratio is None:
        return told
    seen = "" if ratio.differs else ", which chance explains too" if not ratio.bounds else ", bounds among them"
    return f"{told} At its accuracy uniform pruning takes {_ratio(ratio, mark=False)} times the {item.kind}{seen}."


def _mismatch(item: Difference, summary: Summary) -> str:
    """A sentence where the hand-set plans are not quite as costly, or where there are none."""
    word = {"latency": "faster", "memory": "smaller"}[item.kind]
    plans = [plan for plan in summary.outcomes if plan.searcher == item.searcher and kind_of(plan.budget) == item.kind]
    excesses, told = [plan.excess for plan in plans if plan.excess is not None], ""
    if min(excesses) < -TOLERANCE:
        told += (
            f" The uniform plans that stand against it are up to {-min(excesses):.1%} {word} than the searched ones."
        )
    if len(excesses) < len(plans):
        told += f" {len(plans) - len(excesses)} of {len(plans)} searched plans are {word} than every uniform one."
    return told


def write_comparison(
    settings: CompareSettings,
    summary: Summary,
    record: Record,
    target: Target,
    folder: RunFolder,
    cautions: Sequence[str] = (),
) -> None:
    """Write `comparison.html`, with what a reader should know before trusting it."""
    scope = (
        f"One base model (seed {settings.seed}), {len(settings.seeds)} seeds of searching and fine-tuning, "
        f"{settings.search.evaluations} evaluations and at most {settings.search.finalists} finalists for each search, "
        f"latency per batch of {target.batch_size} on {target.name} in {target.dtype}: {record.dense.cost.kind}. "
        "Intervals say nothing of other base models."
    )
    page = render(
        "comparison.html.j2",
        title=f"{settings.model.path or settings.model.name} on {target.name}, searchers compared",
        verdicts=verdicts(settings, summary),
        cautions=cautions,
        scope=scope,
        tables=text_tables(settings, summary),
        figures=_figures(settings, summary),
        settings=flat(dataclasses.asdict(settings)) + flat({"provenance": dict(record.dense.cost.provenance)}),
    )
    write_text(folder.comparison_report, page)


def _figures(settings: CompareSettings, summary: Summary) -> list[dict[str, Any]]:
    figures = []
    for kind in summary.uniform:
        figures.append(
            {
                "title": f"Test accuracy against {kind}",
                "svg": Markup(comparison_plots.accuracy_against_cost(settings, summary, kind)),
                "note": "After fine-tuning. The line joins the means of uniform plans, small points are single seeds; "
                "large points are means over seeds of what a searcher found at a budget, with 95 % intervals.",
            }
        )
    figures.append(
        {
            "title": "Best so far",
            "svg": Markup(comparison_plots.best_so_far(settings, summary)),
            "note": "Means over seeds of the best reward within the budget, before fine-tuning. Time: the searcher's "
            "own, and what each of its evaluations took when it was first scored, by whichever searcher.",
        }
    )
    if summary.differences:
        figures.append(
            {
                "title": "Differences",
                "svg": Markup(comparison_plots.differences(settings, summary)),
                "note": "Means and 95 % intervals of paired differences. An interval that crosses zero shows none.",
            }
        )
    return figures


def _budget(budget: str, kind: str = "latency") -> str:
    if budget == ALL:
        return f"{ALL} {kind}"
    return budget if budget.startswith("memory") else f"latency {budget}"


def _number(interval: Interval, form: str, factor: float = 1.0) -> str:
    """A mean with half the width of its interval, where there is one."""
    told = form.format(factor * interval.mean)
    return told if interval.low is None else f"{told} ± {form.format(factor * (interval.high - interval.low) / 2)}"


def _percent(interval: Interval) -> str:
    return _number(interval, "{:.2f}", 100) + "%"


def _points(item: Difference, count: int) -> str:
    interval = item.interval
    told = f"{100 * interval.mean:+.2f}"
    if interval.low is not None:
        told += f" ± {50 * (interval.high - interval.low):.2f}"
    return told + ("*" if interval.excludes_zero else "") + (f" ({interval.count})" if interval.count < count else "")


def _ratio(item: CostRatio, *, mark: bool = True) -> str:
    interval = item.interval
    told = f"{item.bound}{interval.mean:.3f}"
    if interval.low is not None:
        told += f" ({interval.low:.3f} to {interval.high:.3f})"
    return f"{told}*" if mark and item.differs else told


def _bounds(item: CostRatio) -> str:
    return f"{item.bounds} of {item.interval.count}" if item.bounds else NONE


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{100 * end:+.1f}%" for end in ends)
    return low if low == high else f"{low} to {high}"
