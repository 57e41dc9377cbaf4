"""A comparison as tables and sentences. Nothing is called a difference whose interval contains none."""

from collections.abc import Mapping, Sequence

from autoprune.comparison import Summary
from autoprune.comparison.conclusions import ALL, UNIFORM, CostRatio, Difference
from autoprune.comparison.matching import TOLERANCE, kind_of
from autoprune.comparison.statistics import Interval
from autoprune.comparison.summary import references_of
from autoprune.records.measure import Measure
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.reporting.tables import seconds
from autoprune.searchers.hand_set import is_hand_set
from autoprune.settings import CompareSettings

NONE = "-"
_DROPPED = "without"  # The header of names of branches.


def comparison_tables(settings: CompareSettings, summary: Summary) -> list[FittingTable]:
    """Results, dropped branches, differences, and costs at equal accuracy."""
    tables = [_results(summary)]
    if any(row.dropped for row in summary.rows):
        rows = []
        for row in summary.rows:
            plans = row.accuracy.count
            names = [name if of == plans else f"{name} ({of} of {plans})" for name, of in row.dropped.items()]
            rows.append((_budget(row.budget), row.searcher, str(plans), ", ".join(names) or NONE))
        caption = (
            "Branches that the plans of the table above are without; in brackets how many of the plans, if not all."
        )
        columns = {"budget": 0, "searcher": 0, "n": 1, _DROPPED: 0}
        tables.append(_make_table("Dropped branches", columns, rows, caption))
    tables.append(_differences(settings, summary))
    return [*tables, _costs(summary)] if summary.ratios or summary.volumes else tables


def _make_table(title: str, headers: Mapping[str, int], rows: Sequence[tuple[str, ...]], caption: str) -> FittingTable:
    """A table of columns with these headers and ranks; rows of the same first cell stand together."""
    columns = [
        Column(header, rank, "prose" if header == _DROPPED else "word" if number < 2 else "figure")
        for number, (header, rank) in enumerate(headers.items())
    ]
    table = FittingTable(columns, title=title, caption=caption)
    for number, row in enumerate(rows):
        table.add_row(*row, end_section=number + 1 < len(rows) and rows[number + 1][0] != row[0])
    return table


def _results(summary: Summary) -> FittingTable:
    rows, measure = [], summary.measure
    for row in summary.rows:
        unmatched = f"{row.unmatched} unmatched" if row.unmatched else NONE
        excess = NONE
        if row.excess is not None:
            least, most = (f"{100 * end:+.1f}%" for end in row.excess)
            excess = least if least == most else f"{least} to {most}"
        rows.append(
            (
                *(_budget(row.budget), row.searcher, str(row.accuracy.count), _quality(row.accuracy, measure)),
                *(f"{row.score:.3f}", f"{row.latency:.1%}", NONE if row.memory is None else f"{row.memory:.1%}"),
                *(unmatched if row.uniform is None else _quality(row.uniform, measure), excess),
                NONE if row.speed_up_kept is None else f"{row.speed_up_kept.mean:.0%}",
            )
        )
    tuned = f", tuned on {_quality(summary.dense_tuned, measure)}" if summary.dense_tuned else ""
    better = ", lower is better" * measure.lower_is_better
    caption = (
        f"Dense: {measure.tell(summary.dense.test_accuracy)} at {seconds(summary.dense.latency)} per batch{tuned}. "
        f"Test {measure.name} after fine-tuning{better}, with 95 % intervals over the n seeds. Score: mean in the "
        "search, before fine-tuning. Latency and memory: of the dense model's. Uniform as fast: the best hand-set plan "
        "that costs at most 1 % more than the searched one, chosen from as many finalists; its cost: by how much it "
        "differs. Of FLOPs': speed-up over what FLOPs promise."
    )
    columns = {"budget": 0, "searcher": 0, "n": 6, f"test {measure.name}": 0, "score": 4, "latency": 0, "memory": 3}
    columns |= {"uniform as fast": 2, "its cost": 5, "of FLOPs'": 7}
    return _make_table("After fine-tuning", columns, rows, caption)


def _differences(settings: CompareSettings, summary: Summary) -> FittingTable:
    references, measure = references_of(settings), summary.measure
    found = {(item.kind, item.budget, item.searcher, item.reference): item for item in summary.differences}
    rows = []
    for kind, budget, searcher in dict.fromkeys(
        (item.kind, item.budget, item.searcher) for item in summary.differences
    ):
        items = [found.get((kind, budget, searcher, reference)) for reference in references]
        count = max(item.interval.count for item in items if item is not None)
        cells = []
        for item in items:
            if item is None:
                cells.append(NONE)
                continue
            interval = item.interval
            told = measure.tell_difference(interval.mean)
            if interval.half is not None:
                told += f" ± {100 * interval.half:.2f}" if measure.is_share else f" ± {interval.half:.3g}"
            told += "*" if interval.excludes(0) else ""
            cells.append(told + (f" ({interval.count})" if interval.count < count else ""))
        rows.append((_budget(budget, kind), searcher, str(count), *cells))
    points = ", in points" * measure.is_share
    caption = (
        f"Test {measure.name} of the row's plans less that of the column's{points}, with 95 % intervals (Student's t) "
        "of the mean over n pairs of one budget and seed; of one base model. * marks intervals without zero: the "
        "others show no difference. Hand-set uniform costs the same, other searchers keep the same budget; from "
        "scratch is the same network. A number in brackets is a smaller n."
    )
    columns = {"budget": 0, "searcher": 0, "n": len(references)}
    columns |= {f"over {reference}": rank for rank, reference in enumerate(references)}  # The first one stays.
    return _make_table("Differences", columns, rows, caption)


def _costs(summary: Summary) -> FittingTable:
    measure = summary.measure
    cells = {
        (item.kind, item.budget, item.searcher): [
            str(item.interval.count),
            _ratio(item),
            f"{item.bounds} of {item.interval.count}" if item.bounds else NONE,
            NONE,
        ]
        for item in summary.ratios
    }
    for kind, volumes in summary.volumes.items():
        for searcher, volume in volumes.items():
            row = cells.setdefault((kind, ALL, searcher), [str(volume.count), NONE, NONE, NONE])
            row[-1] = _number(volume, "{:.4f}")
    rows = [(_budget(budget, kind), searcher, *row) for (kind, budget, searcher), row in cells.items()]
    corners = "; ".join(
        f"{kind} {corner[0]:.0%} of dense and test {measure.name} {measure.tell(corner[1])}"
        for kind, corner in summary.corners.items()
    )
    caption = (
        "Uniform / searched: what the uniform plans' accuracy-cost front, log-interpolated with the same seed, takes "
        f"at the searched plan's test {measure.name}, over what the searched plan takes; geometric mean with 95 % "
        "interval, * where it excludes 1. The front is the best of several uniform plans, luck in fine-tuning among "
        "it, which favours them. >= and <= where accuracies lie beyond the front, whose end then counts. Hypervolume: "
        f"of a searcher's plans at all budgets, against the reference point {corners}."
    )
    columns = {"budget": 0, "searcher": 0, "n": 3, "uniform / searched": 0, "beyond the curve": 2, "hypervolume": 1}
    return _make_table("Cost at equal accuracy", columns, rows, caption)


def verdicts(settings: CompareSettings, summary: Summary) -> list[str]:
    """One sentence for each searcher that is not set by hand: against uniform plans that cost the same."""
    sentences = []
    ratios = {(item.kind, item.budget, item.searcher): item for item in summary.ratios}
    for item in summary.widest_differences:
        if item.reference == UNIFORM and not is_hand_set(item.searcher):
            ratio = ratios.get((item.kind, item.budget, item.searcher))
            told, word = _verdict(item, ratio, summary.measure), {"latency": "faster", "memory": "smaller"}[item.kind]
            # Where the hand-set plans are not quite as costly, or where there are none.
            plans = [plan for plan in summary.outcomes if plan.searcher == item.searcher]
            plans = [plan for plan in plans if kind_of(plan.budget) == item.kind]
            excesses = [plan.excess for plan in plans if plan.excess is not None]
            if min(excesses) < -TOLERANCE:
                most = f"{-min(excesses):.1%} {word}"
                told += f" The uniform plans that stand against it are up to {most} than the searched ones."
            if len(excesses) < len(plans):
                lacking = f"{len(plans) - len(excesses)} of {len(plans)}"
                told += f" {lacking} searched plans are {word} than every uniform one."
            sentences.append(told)
    missing = [name for name in settings.searchers if not any(row.searcher == name for row in summary.rows)]
    return [*sentences, *(f"{name} found no plan within any budget." for name in missing)]


def _verdict(item: Difference, ratio: CostRatio | None, measure: Measure) -> str:
    interval = item.interval
    gained = f"{measure.tell_difference(interval.mean)}{' points of' * measure.is_share} test {measure.name}"
    where = f"{item.searcher} over the best hand-set uniform plan of the same {item.kind}: {gained}"
    if interval.low is None or interval.high is None:
        return f"{where} in one pair: too few for an interval."
    ends = [measure.tell_difference(end) for end in (interval.low, interval.high)][:: measure.sign]
    told = f"{where} (95 % {ends[0]} to {ends[1]}, n = {interval.count})"
    if not interval.excludes(0):
        told += ": no difference beyond chance."
    else:
        told += ": more accurate." if interval.mean > 0 else ": less accurate."
    if ratio is None:
        return told
    seen = "" if ratio.differs else ", which chance explains too" if not ratio.bounds else ", bounds among them"
    return f"{told} At its accuracy uniform pruning takes {_ratio(ratio, mark=False)} times the {item.kind}{seen}."


def _budget(budget: str, kind: str = "latency") -> str:
    if budget == ALL:
        return f"{ALL} {kind}"
    return budget if budget.startswith("memory") else f"latency {budget}"


def _number(interval: Interval, form: str, factor: float = 1.0) -> str:
    """A mean with half the width of its interval, where there is one."""
    told = form.format(factor * interval.mean)
    return told if interval.half is None else f"{told} ± {form.format(factor * interval.half)}"


def _quality(interval: Interval, measure: Measure) -> str:
    if measure.is_share:
        return _number(interval, "{:.2f}", 100) + "%"
    return measure.tell(interval.mean) + ("" if interval.half is None else f" ± {interval.half:.2g}")


def _ratio(item: CostRatio, *, mark: bool = True) -> str:
    interval = item.interval
    told = f"{item.bound}{interval.mean:.3f}"
    if interval.low is not None:
        told += f" ({interval.low:.3f} to {interval.high:.3f})"
    return f"{told}*" if mark and item.differs else told
