"""Fine-tuning of the result of a search, or of a model of a file, on cpu, gpu or TPU."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from autoprune.data import load_data
from autoprune.errors import SettingsError
from autoprune.models.files import save_model
from autoprune.records.plain import write_json
from autoprune.reporting.console import CONSOLE, training_stage
from autoprune.reporting.costs import CostRow, training_table
from autoprune.reporting.curves import Curves
from autoprune.reporting.finetuning import (
    finetuning_table,
    step_words,
    verdict,
    write_finetuning,
)
from autoprune.reporting.run_folder import RunFolder, read_settings
from autoprune.settings import (
    FinetuneSettings,
    ModelSettings,
    TrainingSettings,
    from_config,
)
from autoprune.training.finetuning import FineTuned, fine_tune, on_device
from autoprune.training.presence import check_images, check_runtime
from autoprune.training.starting import StartFiles, load_start
from autoprune.training.step_check import chip_for, devices_of, does_not_fit, step_report


def run(settings: FinetuneSettings, folder: RunFolder) -> FineTuned | None:
    """The whole command: data and model, the steps, the test, the run folder. A dry run compiles a step; it gives None.

    Raises:
        AutopruneError: model, plan, data or device cannot be used; the message says which and why.
    """
    start = time.perf_counter()
    check_runtime(settings)
    starting = StartFiles(folder.path)
    with on_device(settings):
        data = load_data(settings.data, settings.model, settings.task)
        check_images(settings, len(data.train))
        model = load_start(settings, data, starting)
        if settings.dry_run:
            chip = chip_for(settings)
            report = step_report(model, settings, chip, devices_of(chip.name, settings.slice))
            write_json(folder.training_step, dataclasses.asdict(report))
            row = CostRow(model=model.name, target=report.target.name, answer=report, devices=report.devices)
            CONSOLE.print(training_table([row]))
            if not report.fits:
                raise does_not_fit(report)
            words = step_words(report, len(data.train), settings.training.after_pruning)
            CONSOLE.print(f"{words} No step was taken.", highlight=False)
            return None
        curves = Curves(folder.trackers, "training", "fine-tuning")
        with training_stage("fine-tuning", max(settings.training.after_pruning, 1), curves, data.task.measure) as show:
            done = fine_tune(model, data, settings, starting, show)
    save_model(model, folder.finetuned)
    write_finetuning(done, settings, time.perf_counter() - start, folder)
    return done


def complete_settings(settings: FinetuneSettings, said: Sequence[str]) -> FinetuneSettings:
    """The settings with what they leave open: from the run, where there is one.

    Args:
        settings: what the command line asks for.
        said: names of the options that were given there, such as `training.epochs`.

    Raises:
        SettingsError: the folder holds no run, or something was given that a run has of its own.
    """
    targeted = any(name.split(".")[0] == "target" for name in said)
    cost = bool(settings.run or targeted) if settings.cost is None else settings.cost
    paths = {name: getattr(settings, name) for name in ("run", "plan", "teacher")}
    absolute: dict[str, Any] = {name: str(Path(path).absolute()) if path else None for name, path in paths.items()}
    settings = dataclasses.replace(settings, cost=cost, **absolute)
    if not settings.run:
        return settings
    if any(name.split(".")[0] == "model" for name in said):
        raise SettingsError("model must be left out with run=FOLDER: the run's pruned model is fine-tuned.")
    run_folder = Path(settings.run)
    stored = read_settings(run_folder)
    model = from_config(OmegaConf.create(stored.get("model", {})), ModelSettings)
    if model.name == "file":  # which may have moved since
        model = dataclasses.replace(model, path=str(run_folder / "dense.keras"))
    parts: dict[str, Any] = {"model": model, "seed": settings.seed if "seed" in said else stored.get("seed", 0)}
    for name in ("data", "task", "target", "evaluation", "training"):
        ours = getattr(settings, name)
        theirs = from_config(OmegaConf.create(stored.get(name, {})), type(ours))
        given = [field.name for field in dataclasses.fields(ours) if f"{name}.{field.name}" in said]
        if name == "training":
            # A recipe says what it changes; the rest is the run's.
            usual, fields = TrainingSettings(), [field.name for field in dataclasses.fields(ours)]
            given += [field for field in fields if getattr(ours, field) != getattr(usual, field)]
        elif name in said:  # The whole part was chosen by name.
            theirs = ours
        parts[name] = dataclasses.replace(theirs, **{field: getattr(ours, field) for field in given})
    parts["target"] = dataclasses.replace(parts["target"], also=[], combine="worst", weights=None)
    return dataclasses.replace(settings, **parts)


def show(done: FineTuned, folder: RunFolder) -> None:
    """Print the table and what came of it, and where the model and the report are."""
    CONSOLE.print(finetuning_table(done))
    CONSOLE.print(verdict(done), highlight=False)
    CONSOLE.print(f"Model: {folder.finetuned}\nReport: {folder.report}", soft_wrap=True, highlight=False)
