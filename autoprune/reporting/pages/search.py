"""The page of a search or a replay, from its run folder."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoprune.evaluation.journal import read_courses
from autoprune.records import Budget, Evaluation
from autoprune.records.measure import Measure
from autoprune.records.plain import from_plain
from autoprune.reporting.depth import BranchRow
from autoprune.reporting.pages import figures
from autoprune.reporting.pages.evaluations import Course, FinishedPoint, explore, time_unit
from autoprune.reporting.pages.headline import chance_words, headline, large_figures
from autoprune.reporting.pages.network import draw_importance, draw_network, list_frozen
from autoprune.reporting.pages.page import Chart, Page, Part, Table, Text
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.tables import ResultRow, byte_count, result_table, seconds
from autoprune.searchers.hand_set import is_hand_set
from autoprune.searchers.problem import absolute
from autoprune.settings import BudgetSettings, TaskSettings
from autoprune.tasks import make_task

Points = Sequence[tuple[float, float]]
Band = Sequence[tuple[float, float, float]]


class SearchRun:
    """What is saved of a search.

    Args:
        saved: its folder.

    Attributes:
        saved: the folder that all of it is read from.
        metrics: the figures of one that has ended, else empty.
        network: layers, groups, branches, importance; None if that is not saved.
        rows: of the result table, the dense model first; empty for one that has not ended.
        courses: each searcher's evaluations.
        dense: evaluation of the dense model, if it is known.
        budget: in absolute units.
    """

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.metrics: Mapping[str, Any] = saved.load("metrics.json", "results, as of a search that has not ended") or {}
        self.network = saved.load("network.json", "the network as a picture, importance, and what was frozen and why")
        self.rows: list[ResultRow] = []
        self.courses: dict[str, list[Evaluation]] = {}
        self.dense: Evaluation | None = None
        self.budget = Budget()
        with saved.attempt("the table of results"):
            self.rows = [from_plain(ResultRow, row) for row in self.metrics.get("rows", ())]
        with saved.attempt("evaluations"):
            if self.metrics:
                self.courses = {
                    name: [from_plain(Evaluation, one) for one in course]
                    for name, course in self.metrics["courses"].items()
                }
                self.budget = from_plain(Budget, self.metrics["budget"])
            else:
                self.courses = read_courses(self.saved.path / "evaluations.sqlite")
            every = [one for course in self.courses.values() for one in course if one.cost is not None]
            whole = [one for one in every if not one.dropped and all(ratio == 1 for ratio in one.keep_ratios.values())]
            self.dense = next(iter(whole), None)
            if self.dense is None and self.rows:
                row = self.rows[0]
                self.dense = Evaluation(
                    key="", keep_ratios={}, widths={}, accuracy=row.one_shot_accuracy, cost=row.cost, score=math.nan
                )
            if not self.metrics and self.dense is not None and "budget" in self.saved.settings:
                limits = from_plain(BudgetSettings, self.saved.settings["budget"])
                self.budget = absolute(limits, self.dense.required_cost)

    @property
    def measure(self) -> Measure:
        """How accuracies are told; what a search that has not ended is for, its settings say."""
        if "measure" in self.metrics:
            return from_plain(Measure, self.metrics["measure"])
        return make_task(from_plain(TaskSettings, self.saved.settings.get("task") or {})).measure

    @property
    def title(self) -> str:
        """The model and what it shall be fast on."""
        settings = self.saved.settings or self.metrics.get("settings", {})
        model = settings.get("model", {})
        name = model.get("path") or model.get("name") or (self.network or {}).get("model") or self.saved.path.name
        target = self.metrics.get("target") or settings.get("target") or {}
        cost = self.rows[0].cost if self.rows else None
        where = ", ".join(cost.parts) if cost and cost.parts else target.get("name", "")
        return f"{str(name).rpartition('/')[2]}{f' on {where}' if where else ''}"

    @property
    def searcher(self) -> str:
        """The searcher that the run is about, or the last one."""
        named = self.metrics.get("settings", {}).get("searcher", {}).get("name", "")
        return named if named in self.courses else next(reversed(self.courses), "")

    @property
    def kept(self) -> ResultRow | None:
        """The row that the saved model is."""
        return next((row for row in self.rows[1:] if row.name == self.metrics.get("kept")), None)

    def sentence(self) -> str:
        """The headline."""
        kept = self.kept
        if kept is None:
            done = sum(map(len, self.courses.values()))
            return f"This search has not ended: {done:,} evaluations so far." if done else "This search has no result."
        plans = {row.name: self.metrics["plans"].get(row.name, {}) for row in self.rows}
        # As text, which is equal for equal plans.
        keys = {name: repr((plan.get("groups"), plan.get("dropped"))) for name, plan in plans.items()}
        by_hand = [keys[row.name] for row in self.rows[1:] if is_hand_set(row.name)]
        same = self.searcher in keys and keys[self.searcher] in by_hand
        limited = [name for name in ("latency", "memory") if self.metrics["budget"].get(name) is not None]
        limits = "both" if len(limited) == 2 else "".join(limited)
        return headline(self.rows, kept.name, self.searcher, same_plan=same, limits=limits)

    def list_finished(self, places: Mapping[str, int]) -> list[FinishedPoint]:
        """The finished models, each with the number of its searcher's series."""
        return [
            FinishedPoint(
                name=row.name,
                series=places.get(row.name),
                latency=row.cost.latency,
                memory=row.cost.memory.total,
                accuracy=row.reward_accuracy,
            )
            for row in self.rows
        ]

    def evaluation_parts(self, data: dict[str, Any]) -> list[Part]:
        """The fronts; what the page's script needs of them is added to its data."""
        if self.dense is None:
            raise ValueError("the dense model is not among the evaluations")
        # The searcher that the run is about has the first colours.
        names = sorted(self.courses, key=lambda name: name != self.searcher)
        courses = [Course(name=name, evaluations=self.courses[name], dense=self.dense) for name in names]
        sizes, branches = dimensions_of([self])
        places = {name: number for number, name in enumerate(names)}
        parts, found = explore(courses, sizes, branches, self.list_finished(places), self.budget, self.measure)
        data.update(found)
        return parts


def dimensions_of(runs: Sequence[SearchRun]) -> tuple[dict[str, int], list[str]]:
    """Groups with their sizes, and branches, of the plans of some searches of one network."""
    sizes: dict[str, int] = {}
    branches: dict[str, None] = {}
    for run in runs:
        if run.network:
            sizes |= {group["name"]: group["channels"] for group in run.network["groups"] if group["prunable"]}
            branches |= dict.fromkeys(one["name"] for one in run.network["branches"] if one["may_go"])
        for course in run.courses.values():
            for one in course:
                for name, width in one.widths.items():
                    if name not in sizes:
                        sizes[name] = round(width / one.keep_ratios.get(name, 1.0))
                branches |= dict.fromkeys(one.dropped)
    return sizes, list(branches)


def search_page(saved: Saved) -> Page:
    """The page of a search, or of a replay."""
    run = SearchRun(saved)
    data: dict[str, Any] = {}
    metrics, kept = run.metrics, run.kept
    sections = saved.sections(
        [
            ("result", "Result", lambda: [Table.of(result_table(run.rows))] if run.rows else []),
            ("evaluations", "Every evaluation", lambda: run.evaluation_parts(data)),
            ("network", "The network, before and after", lambda: _network_parts(run)),
            ("curves", "Best so far", lambda: _curve_parts(run)),
            (
                "importance",
                "Importance, and the cut",
                lambda: draw_importance(run.network, metrics["plans"][kept.name]) if run.network and kept else [],
            ),
            ("predictions", "Predicted and compiled cost", lambda: _prediction_parts(run)),
            ("frozen", "What stays, and why", lambda: list_frozen(run.network, metrics.get("left_alone", {}))),
            ("exports", "Exports", lambda: export_parts(saved)),
        ]
    )
    sentence, lead, large = "This search has no result that can be read.", [], []
    with saved.attempt("the headline"):
        sentence = run.sentence()
        if kept is not None:
            images = metrics.get("images", {}).get("test")
            found = [metrics.get("verdict", ""), chance_words(run.rows[0], kept, images)]
            lead = [told for told in found if told]
            large = large_figures(run.rows[0], kept, images)
    told = [("seed", str(saved.settings["seed"]))] if "seed" in saved.settings else []
    told += [("ended", str(metrics["ended"]))] if "ended" in metrics else []
    told += [("took", seconds(metrics["seconds"]))] if "seconds" in metrics else []
    if run.rows:
        cost = run.rows[0].cost
        told += [(f"cost: {name}", str(value)) for name, value in cost.provenance.items()]
    title = saved.path.name
    with saved.attempt("its title"):
        title = run.title
    return Page(
        title=title,
        kind=saved.command if saved.command.isidentifier() else "search",
        headline=sentence,
        lead=lead,
        figures=large,
        cautions=metrics.get("cautions", ()),
        sections=[*sections, saved.origin_section(told, metrics.get("versions"))],
        data=data,
    )


def _network_parts(run: SearchRun) -> list[Part]:
    """The picture, and what share of its latency each branch holds in every result."""
    parts: list[Part] = []
    if run.network is not None and run.kept is not None:
        gone = run.metrics.get("gone", {}).get(run.kept.name, {})
        plan = run.metrics["plans"][run.kept.name]
        parts += draw_network(run.network, plan, gone, run.rows[0].cost, run.kept.cost)
    branches = [from_plain(BranchRow, row) for row in run.metrics.get("branches", ())]
    if branches:
        names = list(branches[0].latency)
        rows = [(row.name, str(row.layers), *row.cells()) for row in branches]
        caption = (
            "What share of each model's latency the layers of a branch hold, by the times of layers with operations; "
            "gone: the model is without it."
        )
        words = "What every branch holds of the latency, in every result"
        parts.append(Table(columns=("branch", "layers", *names), rows=rows, caption=caption, folded=words))
    widths = {row.name: run.metrics["plans"][row.name]["groups"] for row in run.rows}
    if widths:
        rows = [
            (
                name,
                *(
                    "gone" if groups[name]["kept"] is None else str(len(groups[name]["kept"]))
                    for groups in widths.values()
                ),
            )
            for name in next(iter(widths.values()))
        ]
        words = "Channels of every group, in every result"
        parts.append(Table(columns=("group", *widths), rows=rows, folded=words))
    return parts


def _curve_parts(run: SearchRun) -> list[Part]:
    names = sorted(run.courses, key=lambda name: name != run.searcher)
    curves = {name: best_within(run.courses[name], run.budget) for name in names}
    if not any(curves.values()):
        return [Text(words=["No plan met the budget."])]
    summary = "; ".join(
        f"{name}: {curve[-1][1]:.3f} after {len(run.courses[name])} evaluations" if curve else f"{name}: none"
        for name, curve in curves.items()
    )
    caption = (
        "The best score within the budget, before fine-tuning, after so many evaluations: every searcher is charged "
        "one for each plan that it asks for."
    )
    return [best_chart({name: (curve, ()) for name, curve in curves.items()}, f"Best score. {summary}.", caption)]


def best_chart(
    curves: Mapping[str, tuple[Points, Band]],
    summary: str,
    caption: str = "",
    *,
    x: str = "evaluations",
    y: str = "best score so far",
) -> Chart:
    """Step curves by evaluations, a series each, in their order.

    Args:
        curves: points and band by name, see `figures.add_steps`.
        summary: what it shows, for those who do not see it.
        caption: how it is read.
        x: what is counted.
        y: what has risen.
    """
    plot = figures.new_figure(x, y)
    for number, (points, band) in enumerate(curves.values()):
        figures.add_steps(plot, number, points, band)
    legend = dict(enumerate(curves))
    return Chart(key="best", figure=plot, summary=summary, caption=caption, legend=legend, shape="both")


def best_within(course: Sequence[Evaluation], budget: Budget) -> list[tuple[float, float]]:
    """Evaluations and the best score within the budget after so many, from the first that is; to the last."""
    scores = [one.score if one.cost and not one.failed and budget.met_by(one.cost) else -math.inf for one in course]
    best = itertools.accumulate(scores, max)
    return [(float(number), score) for number, score in enumerate(best, 1) if math.isfinite(score)]


def _prediction_parts(run: SearchRun) -> list[Part]:
    pairs, error = run.metrics.get("predictions") or [], run.metrics.get("guesses")
    if not error:
        return []
    memory = f", of memory {error['memory']:.1%}" if error["memory"] is not None else ""
    told = (
        f"A search steers by predictions and reports what was compiled. The mean error of the latest {error['count']} "
        f"predictions of latency was {error['latency']:.1%}{memory}, on plans that nothing had been learnt from; rank "
        f"correlation of latencies {error['spearman']:.2f}."
    )
    if not pairs:
        return [Text(words=[told])]
    unit, factor = time_unit(pairs[0][1])
    plot = figures.predictions(pairs, unit, factor)
    caption = "On the dashed line a prediction is what the compiler says."
    summary = f"Predicted against compiled latency of {len(pairs):,} plans. {told}"
    return [Text(words=[told]), Chart(key="predicted", figure=plot, summary=summary, caption=caption)]


def export_parts(saved: Saved) -> list[Part]:
    """What was exported of the run's result."""
    if not (saved.path / "exports.json").exists():
        return []
    entries = (saved.load("exports.json", "what was exported") or {}).get("exports", [])
    rows = [
        (
            one["format"],
            entry["when"],
            one.get("path", "-"),
            "-" if "error" in one else byte_count(one["bytes"]),
            one.get("error") or f"{one['difference'] / one['largest'] if one['largest'] else 0.0:.1e}",
        )
        for entry in entries
        for one in entry["formats"]
    ]
    caption = "Difference: the largest between an output and the Keras model's, as a share of the largest output."
    return [Table(columns=("format", "when", "file", "size", "difference"), rows=rows, caption=caption)] if rows else []
