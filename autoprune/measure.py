"""`python -m autoprune.measure`: what a model costs on one target, or on every TPU generation."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from autoprune import cli
from autoprune.cost import open_cost_model
from autoprune.cost.chips import CHIPS
from autoprune.cost.client import CompilerClient
from autoprune.cost.model import CostModel
from autoprune.cost.sweep import uniform_sweep
from autoprune.errors import ModelError
from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.models.files import load_model
from autoprune.planning import Planner
from autoprune.records import CostReport, Target
from autoprune.reporting.console import CONSOLE, stage
from autoprune.reporting.groups import group_data, group_table
from autoprune.reporting.run_folder import write_json
from autoprune.reporting.sweep import plot_sweep, sweep_data, sweep_table
from autoprune.reporting.tables import cost_table
from autoprune.settings import MeasureSettings, ModelSettings, TargetSettings, from_config


def run(settings: MeasureSettings, folder: Path) -> list[CostReport]:
    """Load the model, cost it on every target asked for, print and save the table."""
    model = _model(settings.model)
    if settings.groups:
        groups = find_groups(model)
        CONSOLE.print(group_table(groups))
        write_json(folder / "groups.json", group_data(groups))
    with opened(settings.target) as cost_models:
        reports = [cost_model.submit(model).result() for cost_model in cost_models]
        CONSOLE.print(cost_table(model.name, reports))
        write_json(folder / "costs.json", [dataclasses.asdict(report) for report in reports])
        if settings.sweep:
            sweep(model, cost_models, settings, folder)
    return reports


def sweep(model: Any, cost_models: Sequence[CostModel], settings: MeasureSettings, folder: Path) -> None:
    """Cost the model at every keep ratio, all groups pruned alike; print, plot and save the staircase."""
    planner = Planner(model, constraints=settings.constraints)
    with stage("sweep", len({1.0, *settings.keep_ratios})) as shown:
        rows = uniform_sweep(
            model, cost_models, settings.keep_ratios, planner, lambda done: shown.advance(done, "plans compiled")
        )
    CONSOLE.print(sweep_table(model.name, rows))
    write_json(folder / "sweep.json", sweep_data(rows))
    plot_sweep(model.name, rows, folder / "sweep.png")
    CONSOLE.print(f"plot: {folder / 'sweep.png'}")


@contextmanager
def opened(settings: TargetSettings) -> Iterator[list[CostModel]]:
    """A cost model for the target, or for each TPU generation; one compiler process serves them all."""
    names = list(CHIPS) if settings.name == "all" else [settings.name]
    with ExitStack() as stack:
        client = stack.enter_context(closing(CompilerClient()))
        targets = [Target(name, settings.batch_size, settings.dtype) for name in names]
        opened_models = [open_cost_model(target, cache=settings.cache, client=client) for target in targets]
        yield [stack.enter_context(closing(cost_model)) for cost_model in opened_models]


def _model(settings: ModelSettings) -> Any:
    if settings.name == "file":
        if not settings.path:
            raise ModelError("model=file needs model.path=FILE.keras.")
        return load_model(settings.path)
    shape = tuple(settings.input_shape) if settings.input_shape else None
    return zoo.build(settings.name, shape, settings.classes, settings.width)


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="measure")
def main(config: DictConfig) -> None:
    """The command."""
    cli.guarded(lambda: run(from_config(config, MeasureSettings), cli.run_folder()))


if __name__ == "__main__":
    cli.run_command("measure")
