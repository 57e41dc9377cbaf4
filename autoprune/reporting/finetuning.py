"""A fine-tuning as figures, a table and sentences."""

import dataclasses

from autoprune.records import TrainingStepReport
from autoprune.records.plain import write_json
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.reporting.pages.page import write_page
from autoprune.reporting.pages.saved import Saved, library_versions
from autoprune.reporting.pages.training import training_page
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import byte_count, seconds
from autoprune.settings import FinetuneSettings
from autoprune.training.finetuning import FineTuned
from autoprune.training.finishing import worse

FORMAT = "autoprune.finetuning"
VERSION = 1


def write_finetuning(done: FineTuned, settings: FinetuneSettings, took: float, folder: RunFolder) -> None:
    """Write `curves.json`, `metrics.json` and, last, `report.html`.

    The curves begin with epoch 0, the model as it came, which has no training loss.
    """
    curves = {
        "epochs": list(range(done.record.epochs + 1)),
        "losses": [None, *done.record.losses],
        "reward_accuracies": [done.before, *done.record.accuracies],
        "best_epoch": done.record.best_epoch,
    }
    write_json(folder.curves, curves)
    metrics = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dataclasses.asdict(settings),
        "measure": dataclasses.asdict(done.measure),
        "reward_accuracy_before": done.before,
        "reward_accuracy": done.after,
        "test_accuracy": done.test_accuracy,
        "training": dataclasses.asdict(done.record),
        "diverged": done.diverged,
        "dropped": list(done.dropped),
        "cost": dataclasses.asdict(done.cost) if done.cost else None,
        "parameters": done.model.count_params(),
        "seconds": took,
        "verdict": verdict(done),
        "versions": library_versions(),
    }
    write_json(folder.metrics, metrics)
    write_page(training_page(Saved(folder.path)), folder.report)


def verdict(done: FineTuned) -> str:
    """One sentence: what came of it, and why it ended."""
    record, tell = done.record, done.measure.tell
    ended = done.diverged or (f"It ended early: {record.stopped}." if record.stopped else "")
    kept = f"The weights are those of epoch {record.best_epoch} of {record.epochs}, the best on the reward split."
    if record.only_worse:
        kept = worse(record, done.measure)
    elif record.best_epoch == 0:
        kept = "No epoch was finished: the weights are those that it began with."
    return (
        f"{tell(done.test_accuracy)} test {done.measure.name}; on the reward split {tell(done.before)} before and "
        f"{tell(done.after)} after. {kept} {ended}"
    ).strip()


def finetuning_table(done: FineTuned) -> FittingTable:
    """The figures for the terminal."""
    rows = [
        ("reward accuracy before", done.measure.tell(done.before)),
        ("reward accuracy after", done.measure.tell(done.after)),
        ("test accuracy, taken once", done.measure.tell(done.test_accuracy)),
        ("epochs", f"{done.record.epochs}, the best {done.record.best_epoch or '0, before the first step'}"),
        ("parameters", f"{done.model.count_params():,}"),
    ]
    if done.dropped:
        rows.append(("without", ", ".join(done.dropped)))
    if done.cost is not None:
        target = done.cost.target
        where = f"per batch of {target.batch_size} on {target.name}, {target.dtype}: {done.cost.kind}"
        rows.append(("latency", f"{seconds(done.cost.latency)} {where}"))
        if done.cost.memory.total:
            rows.append(("HBM", byte_count(done.cost.memory.total)))
    table = FittingTable((Column("", kind="prose"), Column("", kind="prose")), headed=False)
    for name, figure in rows:
        table.add_row(name, figure)
    return table


def step_words(report: TrainingStepReport, images: int, epochs: int) -> str:
    """How long a training would take at least, in words.

    Args:
        report: what one step costs on the target.
        images: in the training split.
        epochs: number of epochs that the training has.
    """
    steps = images // report.global_batch_size
    chips = f"{report.chips:g} chip{'' if report.chips == 1 else 's'} of {report.target.name}"
    if not report.fits or report.latency is None:
        return f"It does not fit on {chips}: make training.batch_size smaller, or share it among more chips."
    return (
        f"It fits. {steps} steps of {report.global_batch_size} images are an epoch, {epochs} epochs take about "
        f"{seconds(epochs * steps * report.latency)} on {chips}, beside reading the images, the exchange between chips "
        "and judging: a compiler estimate, not a measurement."
    )
