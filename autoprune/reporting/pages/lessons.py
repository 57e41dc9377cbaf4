"""The page of a training on several problems, from its run folder."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from autoprune.records import Evaluation
from autoprune.records.plain import from_plain
from autoprune.reporting.lessons import LessonRow, lessons_table
from autoprune.reporting.pages.page import Page, Part, Table
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.pages.search import best_chart, best_within
from autoprune.reporting.tables import seconds
from autoprune.searchers.problem import absolute
from autoprune.settings import LearnSettings, from_config


def lessons_page(saved: Saved) -> Page:
    """The page of a policy that was learnt from several networks and budgets."""
    metrics = saved.load("metrics.json", "what was learnt, as of a training that has not ended") or {}
    rows: list[LessonRow] = []
    courses: list[tuple[LessonRow, Sequence[Evaluation]]] = []
    with saved.attempt("what was learnt"):
        for lesson in metrics.get("lessons", ()):
            row = from_plain(LessonRow, {name: lesson[name] for name in LessonRow.__dataclass_fields__})
            rows.append(row)
            courses.append((row, [from_plain(Evaluation, one) for one in lesson["course"]]))
    score = (saved.settings.get("evaluation") or {}).get("score") or "likelihood"
    sections = saved.sections(
        [
            ("result", "What it makes of each problem", lambda: [Table.of(lessons_table(rows, score))] if rows else []),
            ("curves", "Best so far", lambda: _curve_parts(saved, courses)),
        ]
    )
    told = [("took", seconds(metrics["seconds"]))] if "seconds" in metrics else []
    models = list(dict.fromkeys(row.model for row in rows))
    headline = "This training has no result that can be read."
    if rows:
        above = [row for row in rows if row.policy is not None and row.policy.score > row.uniform.score]
        without = [row for row in rows if row.policy is None]
        headline = (
            f"In {len(above)} of {len(rows)} problem{'s' if len(rows) > 1 else ''} the policy's own plan scores higher "
            f"than the best uniform plan within the budget{f'; in {len(without)} it has none' if without else ''}."
        )
    return Page(
        title=f"One policy from {' and '.join(models)}" if models else "One policy from several networks",
        kind="training",
        headline=headline,
        lead=["Scores are before fine-tuning, from one training with one seed: they tell how a replay would begin."],
        sections=[*sections, saved.origin_section(told, metrics.get("versions"))],
    )


def _curve_parts(saved: Saved, courses: Sequence[tuple[LessonRow, Sequence[Evaluation]]]) -> list[Part]:
    """The best score within the budget, of every problem as a share of its dense network's."""
    curves: dict[str, Any] = {}
    budgets = from_config(OmegaConf.create(dict(saved.settings)), LearnSettings).budgets if courses else {}
    for row, course in courses:
        budget = absolute(budgets[row.budget], row.dense.required_cost)
        points = [(number, score / row.dense.score) for number, score in best_within(course, budget)]
        curves[f"{row.model} {row.budget}"] = (points, ())
    if not any(points for points, _ in curves.values()):
        return []
    told = "; ".join(f"{name} {points[-1][1]:.2f}" for name, (points, _) in curves.items() if points)
    summary = f"Best score so far as a share of the dense network's, at the end: {told}."
    x, y = "evaluations of the problem", "best score so far, of the dense network's"
    return [best_chart(curves, summary, x=x, y=y)]
