"""The page of a comparison, from its run folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from autoprune.comparison import Record, Summary, summarise
from autoprune.comparison.cells import cell_names
from autoprune.comparison.conclusions import UNIFORM
from autoprune.comparison.matching import LATENCY, kind_of
from autoprune.comparison.statistics import best_so_far, gather_values, mean_curve, pareto_front
from autoprune.comparison.summary import references_of
from autoprune.records.measure import Measure
from autoprune.reporting.comparison import comparison_tables, verdicts
from autoprune.reporting.pages import figures
from autoprune.reporting.pages.evaluations import capital, time_unit
from autoprune.reporting.pages.headline import device_words
from autoprune.reporting.pages.page import Chart, Group, Page, Part, Table, Text
from autoprune.reporting.pages.saved import Saved
from autoprune.searchers.hand_set import is_hand_set
from autoprune.settings import CompareSettings, from_config

_COSTLIER = {"latency": "slower", "memory": "larger"}


def comparison_page(saved: Saved) -> Page:
    """The page of a comparison, of one that has not ended with what it has."""
    stored = saved.load("comparison.json", "everything that was compared") or {}
    saved.settings = saved.settings or stored.get("settings", {})
    title, headline, sections = "Searchers compared", "This comparison has no result that can be read.", []
    lead: list[str] = []
    with saved.attempt("what was compared"):
        settings = from_config(OmegaConf.create(dict(stored.get("settings", saved.settings))), CompareSettings)
        record = Record({}, lambda _: None, stored)
        model = str(settings.model.path or settings.model.name).rpartition("/")[2]
        cost = record.required_dense.required_cost
        title = f"{model} on {' and '.join(cost.parts) or cost.target.name}, searchers compared"
        lead.append(
            f"One base model (seed {settings.seed}), {len(settings.seeds)} seeds of searching and fine-tuning, "
            f"{settings.search.evaluations} evaluations and at most {settings.search.finalists} finalists for each "
            f"search, latency per batch of {cost.target.batch_size} in {cost.target.dtype}: {cost.kind}. Intervals say "
            "nothing of other base models."
        )
        summary = summarise(settings, record) if stored.get("ended") else None
        makers = [("curves", "Best so far", lambda: _curve_parts(settings, record))]
        headline = f"This comparison has not ended: {len(record.runs)} searches so far."
        if summary is not None:
            headline = compare_words(summary)
            lead = [*verdicts(settings, summary), *lead]
            results, first, *others = comparison_tables(settings, summary)
            makers = [
                ("results", results.title or "", lambda: [Table.of(results, title="")]),
                ("accuracy", f"Test {summary.measure.name} against cost", lambda: _accuracy_parts(settings, summary)),
                (
                    "differences",
                    "Differences",
                    lambda: [*_difference_parts(settings, summary), Table.of(first, title=""), *map(Table.of, others)],
                ),
                *makers,
            ]
        sections = saved.sections(makers)
    where = device_words(stored["dense"]["cost"]["target"]["name"]) if stored.get("dense") else ""
    told = [("target", where)] if where else []
    return Page(
        title=title,
        kind="comparison",
        headline=headline,
        lead=lead,
        cautions=stored.get("cautions", ()),
        sections=[*sections, saved.origin_section(told, stored.get("versions"))],
    )


def compare_words(summary: Summary) -> str:
    """One sentence on all searchers against the best hand-set plans that cost the same."""
    ahead: list[str] = []
    level: list[str] = []
    behind: list[str] = []
    few: list[str] = []
    for item in summary.widest_differences:
        if item.reference != UNIFORM or is_hand_set(item.searcher):
            continue
        measure, mean = summary.measure, abs(item.interval.mean)
        points = f"{item.searcher} by {f'{100 * mean:.1f} points' if measure.is_share else f'{mean:.3g}'}"
        if item.interval.low is None:
            few.append(item.searcher)
        elif not item.interval.excludes(0):
            level.append(item.searcher)
        else:
            (ahead if item.interval.mean > 0 else behind).append(points)
    # The hand-set plans that stand against searched ones may be cheaper, and are at most a hair costlier.
    than = f"than the best hand-set plan that is no {' or '.join(_COSTLIER[kind] for kind in summary.uniform)}"
    told = [f"more accurate {than}: {_list(ahead)}"] if ahead else []
    told += [f"less accurate {'than it' if ahead else than}: {_list(behind)}"] if behind else []
    told += [f"no difference beyond chance: {_list(level)}"] if level else []
    told += [f"too few seeds to say anything of {_list(few)}"] if few else []
    if not told:
        return "No searcher stands beside a hand-set plan of the same cost."
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _list(words: Sequence[str]) -> str:
    words = list(dict.fromkeys(words))
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _series(settings: CompareSettings) -> dict[str, int]:
    """The number of every searcher's series; rules that are set by hand come after the first searcher."""
    return {name: number for number, name in enumerate(sorted(settings.searchers, key=is_hand_set))}


def _accuracy_parts(settings: CompareSettings, summary: Summary) -> list[Part]:
    charts: list[Part] = []
    measure = summary.measure
    for kind in summary.uniform:
        unit, factor = time_unit(summary.dense.latency) if kind == LATENCY else ("MiB", 2**-20)
        label = "latency per batch" if kind == LATENCY else "device memory"
        plot = figures.new_figure(f"{label} ({unit})", f"test {measure.label('after fine-tuning')}")
        _add_uniform(plot, summary.uniform[kind], factor, measure)
        budgets = [name for name in settings.budgets if kind_of(name) == kind]
        for searcher, number in _series(settings).items():
            for budget in budgets:
                plans = [one.tested for one in summary.outcomes if (one.searcher, one.budget) == (searcher, budget)]
                if plans:
                    costs = [factor * plan.taken(kind) for plan in plans]
                    figures.add_interval(plot, number, costs, [measure.draw(plan.test_accuracy) for plan in plans])
        dense = factor * summary.dense.taken(kind)
        plot.scatter(x=[dense], y=[measure.draw(summary.dense.test_accuracy)], marker="star", size=14, name="ink")
        for number, budget in enumerate(budgets):
            limits = settings.budgets[budget]
            share = limits.latency if kind == LATENCY else limits.memory
            if isinstance(share, float):
                figures.add_limit(plot, dense * share, "height", "" if number else "budget")
        charts.append(
            Chart(
                key=f"accuracy-{kind}",
                figure=plot,
                summary=f"Test {measure.name} after fine-tuning against {label}; the table above has the figures.",
                title=f"Against {kind}" if len(summary.uniform) > 1 else "",
                caption="Small points are single seeds, large ones means over seeds with 95 % intervals; the line "
                "joins the best means of hand-set uniform plans; the star is the dense network.",
                legend={number: name for name, number in _series(settings).items()},
            )
        )
    return [Group(parts=charts)] if len(charts) > 1 else charts


def _add_uniform(
    plot: Any, points: Mapping[int, Sequence[tuple[float, float]]], factor: float, measure: Measure
) -> None:
    """Hand-set plans: single seeds as small points, the front of their means as a line."""
    by_cost: dict[float, list[float]] = {}
    for of_seed in points.values():
        for cost, accuracy in of_seed:
            by_cost.setdefault(cost, []).append(accuracy)
    front = pareto_front([(cost, float(np.mean(accuracies))) for cost, accuracies in by_cost.items()])
    single = [
        (factor * cost, measure.draw(accuracy)) for cost, accuracies in by_cost.items() for accuracy in accuracies
    ]
    if single:
        x, y = zip(*single, strict=True)
        plot.scatter(x=x, y=y, size=3, name="ink", line_alpha=0.4, fill_alpha=0.4)
        x, y = zip(*((factor * cost, measure.draw(accuracy)) for cost, accuracy in front), strict=True)
        plot.line(x=x, y=y, name="ink", line_width=1.2, line_alpha=0.7)


def _difference_parts(settings: CompareSettings, summary: Summary) -> list[Part]:
    """A chart for each reference, over all budgets together."""
    shown = summary.widest_differences
    kinds, places = list(dict.fromkeys(item.kind for item in shown)), _series(settings)
    charts: list[Part] = []
    measure = summary.measure
    for reference in references_of(settings):
        rows = []
        for item in shown:
            if item.reference == reference and not is_hand_set(item.searcher):
                mean, low, high = (
                    None if value is None else measure.draw(value)
                    for value in (item.interval.mean, item.interval.low, item.interval.high)
                )
                if low is not None and high is not None:
                    low, high = sorted((low, high))
                name = item.searcher if len(kinds) == 1 else f"{item.searcher}, {item.kind}"
                rows.append((name, places[item.searcher], mean or 0.0, low, high))
        if rows:
            told = "; ".join(f"{name} {mean:+.2f}" for name, _, mean, _, _ in rows)
            charts.append(
                Chart(
                    key=f"over-{len(charts)}",
                    figure=figures.intervals(rows, f"test: {measure.unit}"),
                    summary=f"{capital(measure.unit)} on the test split over {reference}: {told}.",
                    title=f"Over {reference}",
                )
            )
    note = "Means and 95 % intervals of paired differences. An interval that crosses the dashed line shows none."
    return [Group(parts=charts), Text(words=[note], look="note")] if charts else []


def _curve_parts(settings: CompareSettings, record: Record) -> list[Part]:
    """At equal evaluations, a chart for each budget, with the spread of the seeds."""
    charts: list[Part] = []
    places = _series(settings)
    for budget in settings.budgets:
        plot = figures.new_figure("evaluations", "best reward so far")
        ends = []
        for searcher, number in places.items():
            names = cell_names(settings, searcher, budget)
            best = [best_so_far(record.runs[name].rewards) for name in names if name in record.runs]
            if points := mean_curve(best):
                spread = [(count, min(values), max(values)) for count, values in gather_values(best)]
                figures.add_steps(plot, number, points, spread if len(best) > 1 else ())
                ends.append(f"{searcher} {points[-1][1]:.3f}")
        if ends:
            charts.append(
                Chart(
                    key=f"best-{len(charts)}",
                    figure=plot,
                    summary=f"Mean best reward so far within the budget {budget}, at the end: {'; '.join(ends)}.",
                    title=f"Budget {budget}" if len(settings.budgets) > 1 else "",
                    legend={number: name for name, number in places.items()},
                    shape="both",
                )
            )
    note = (
        "Means over seeds of the best reward within the budget, before fine-tuning, at equal evaluations; the bands "
        "reach from the worst seed to the best."
    )
    return [Group(parts=charts), Text(words=[note], look="note")] if charts else []
