"""The page of a fine-tuning, from its run folder."""

from collections.abc import Mapping
from typing import Any

from autoprune.records import CostReport
from autoprune.records.measure import ACCURACY, Measure
from autoprune.records.plain import from_plain
from autoprune.reporting.pages import figures
from autoprune.reporting.pages.evaluations import capital
from autoprune.reporting.pages.headline import device_words
from autoprune.reporting.pages.page import Chart, Figure, Group, Page, Part, Table
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.tables import byte_count, seconds


def training_page(saved: Saved) -> Page:
    """The page of a fine-tuning."""
    metrics = saved.load("metrics.json", "results, as of a fine-tuning that has not ended") or {}
    curves = saved.load("curves.json", "the curves")
    headline = "This fine-tuning has no result that can be read."
    large: list[Figure] = []
    with saved.attempt("the headline"):
        if metrics:
            headline, large = _headline(metrics)
    sections = saved.sections(
        [
            ("result", "Result", lambda: _result_parts(metrics)),
            ("curves", "Curves", lambda: _curve_parts(curves, _measure(metrics)) if curves else []),
        ]
    )
    settings = saved.settings
    named = settings.get("run") or (settings.get("model") or {}).get("path") or saved.path.name
    told = [("took", seconds(metrics["seconds"]))] if "seconds" in metrics else []
    return Page(
        title=f"Fine-tuning of {str(named).rstrip('/').rpartition('/')[2]}",
        kind="fine-tuning",
        headline=headline,
        lead=[metrics["verdict"]] if "verdict" in metrics else [],
        figures=large,
        sections=[*sections, saved.origin_section(told, metrics.get("versions"))],
    )


def _headline(metrics: Mapping[str, Any]) -> tuple[str, list[Figure]]:
    """What came of it, in a sentence and in large figures."""
    before, after, test = (metrics[name] for name in ("reward_accuracy_before", "reward_accuracy", "test_accuracy"))
    measure = _measure(metrics)
    if measure != ACCURACY:
        told = [measure.tell(quality) for quality in (test, after, before)]
        sentence = f"A test {measure.name} of {told[0]}; on the reward split {told[1]}, and {told[2]} before."
    else:
        points, change = 100 * (after - before), "as before"
        if not abs(points) < 0.05:
            change = f"{abs(points):.1f} points {'more' if points > 0 else 'less'} than before"
        sentence = f"{test:.1%} of the test images are classified correctly; on the reward split {after:.1%}, {change}."
        sentence = sentence.replace("%", "\u00a0%")
    record = metrics["training"]
    note = f"of {record['epochs']}" + (f": {record['stopped']}" if record["stopped"] else "")
    return sentence, [
        Figure(value=measure.tell(test, 1), name=f"test {measure.name}", note="taken once"),
        Figure(
            value=measure.tell_difference(after - before, 1),
            name=f"{'points' if measure.is_share else measure.name} on the reward split",
            note=f"{measure.tell(before)} \u2192 {measure.tell(after)}",
        ),
        Figure(value=str(record["best_epoch"]), name="epoch whose weights were kept", note=note),
        Figure(value=f"{metrics['parameters']:,}", name="parameters"),
    ]


def _result_parts(metrics: Mapping[str, Any]) -> list[Part]:
    if not metrics:
        return []
    record, measure = metrics["training"], _measure(metrics)
    rows = [
        (f"reward {measure.name} before", measure.tell(metrics["reward_accuracy_before"])),
        (f"reward {measure.name} after", measure.tell(metrics["reward_accuracy"])),
        (f"test {measure.name}, taken once", measure.tell(metrics["test_accuracy"])),
        ("epochs", f"{record['epochs']}, the best {record['best_epoch'] or '0, before the first step'}"),
        ("parameters", f"{metrics['parameters']:,}"),
    ]
    if metrics["dropped"]:
        rows.append(("without", ", ".join(metrics["dropped"])))
    if metrics["cost"]:
        cost = from_plain(CostReport, metrics["cost"])
        target = cost.target
        where = f"per batch of {target.batch_size} on {device_words(target.name)}, {target.dtype}: {cost.kind}"
        rows.append(("latency", f"{seconds(cost.latency)} {where}"))
        if cost.memory.total:
            rows.append(("HBM", byte_count(cost.memory.total)))
    return [Table(columns=("", ""), rows=rows)]


def _measure(metrics: Mapping[str, Any]) -> Measure:
    return from_plain(Measure, metrics["measure"]) if "measure" in metrics else ACCURACY


def _curve_parts(curves: Mapping[str, Any], measure: Measure) -> list[Part]:
    """Accuracy on the reward split and training loss, by epoch; epoch 0 is the model as it came."""
    best = curves["best_epoch"]
    by_epoch = (
        [(epoch, value) for epoch, value in zip(curves["epochs"], curves[name], strict=True) if value is not None]
        for name in ("reward_accuracies", "losses")
    )
    qualities, losses = by_epoch
    accuracies = [(epoch, measure.draw(value)) for epoch, value in qualities]
    accuracy = figures.new_figure("epoch", measure.label("on the reward split"))
    figures.add_line(accuracy, 0, accuracies)
    figures.add_limit(accuracy, best, "height", "kept", before=2 * best > accuracies[-1][0])
    charts = [
        Chart(
            key="accuracy",
            figure=accuracy,
            title=capital(measure.name),
            summary=f"{capital(measure.name)} on the reward split by epoch: "
            f"from {accuracies[0][1]:.2f} to {accuracies[-1][1]:.2f}{' per cent' * measure.is_share}.",
            caption="The reward split is cut from the training images; epoch 0 is the model as it came. The dashed "
            "line is the epoch whose weights were kept.",
        )
    ]
    if losses:
        loss = figures.new_figure("epoch", "training loss")
        figures.add_line(loss, 1, losses)
        told = f"Training loss by epoch: from {losses[0][1]:.3f} to {losses[-1][1]:.3f}."
        charts.append(Chart(key="loss", figure=loss, title="Loss", summary=told))
    return [Group(parts=charts)]
