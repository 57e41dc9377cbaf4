"""`python -m autoprune.measure`: what a model costs on one target, or on every TPU generation."""

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from autoprune import cli
from autoprune.cost import open_cost_model
from autoprune.cost.chips import CHIPS
from autoprune.cost.client import CompilerClient
from autoprune.errors import ModelError
from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.models.files import load_model
from autoprune.records import CostReport, Target
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.groups import group_data, group_table
from autoprune.reporting.run_folder import write_json
from autoprune.reporting.tables import cost_table
from autoprune.settings import MeasureSettings, ModelSettings, TargetSettings, from_config


def run(settings: MeasureSettings, folder: Path) -> list[CostReport]:
    """Load the model, cost it on every target asked for, print and save the table."""
    model = _model(settings.model)
    if settings.groups:
        groups = find_groups(model)
        CONSOLE.print(group_table(groups))
        write_json(folder / "groups.json", group_data(groups))
    reports = costs(model, settings.target)
    CONSOLE.print(cost_table(model.name, reports))
    write_json(folder / "costs.json", [dataclasses.asdict(report) for report in reports])
    return reports


def costs(model: Any, settings: TargetSettings) -> list[CostReport]:
    """The cost of a model on one target, or on all TPU generations; one compiler process serves them all."""
    names = list(CHIPS) if settings.name == "all" else [settings.name]
    reports = []
    with closing(CompilerClient()) as client:
        for name in names:
            target = Target(name, settings.batch_size, settings.dtype)
            with closing(open_cost_model(target, cache=settings.cache, client=client)) as cost_model:
                reports.append(cost_model.submit(model).result())
    return reports


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
