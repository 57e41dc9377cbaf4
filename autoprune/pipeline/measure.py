"""What a model costs on one target, or on every TPU generation."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from autoprune.cost import open_cost_model
from autoprune.cost.cache import open_cache
from autoprune.cost.chips import CHIPS
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.compiler.training_step import TrainingStepCosts
from autoprune.cost.flops import flops_per_layer
from autoprune.cost.model import CostModel
from autoprune.cost.sweep import uniform_sweep
from autoprune.errors import AutopruneError, CostError, ModelError, future_of
from autoprune.graph import find_branches, find_groups
from autoprune.models import zoo
from autoprune.models.files import load_model
from autoprune.planning import Planner
from autoprune.planning.gather_scatter import GatherScatterSettings, save_bundles
from autoprune.planning.patterns import (
    NO_LATENCY,
    PatternSettings,
    bundle_kernels,
    find_pattern,
    save_masks,
    unread_channels,
)
from autoprune.records import CostReport, Target, TrainingStepReport
from autoprune.records.plain import write_json
from autoprune.reporting.console import CONSOLE, stage
from autoprune.reporting.costs import CostRow, cost_table, layer_table, notes, training_table
from autoprune.reporting.fitting import FittingTable
from autoprune.reporting.groups import branch_data, branch_table, group_data, group_table, read_branch_shares
from autoprune.reporting.pages.costs import measure_page
from autoprune.reporting.pages.page import write_page
from autoprune.reporting.pages.saved import Saved
from autoprune.reporting.patterns import pattern_data, pattern_table
from autoprune.reporting.sweep import plot_sweep, sweep_table
from autoprune.settings import MeasureSettings, ModelSettings, TargetSettings

R = TypeVar("R", bound=CostReport | TrainingStepReport)
Asked = tuple[str, str, int, Future[R]]  # Model, target, devices of a training step, the answer to come.


def run(settings: MeasureSettings, folder: Path) -> list[CostRow[CostReport]]:
    """Load the models, cost them on every target asked for, print and save the tables.

    Returns:
        A row for each model on each target, whether it could be costed or not.

    Raises:
        CostError: nothing could be costed at all.
        SettingsError: training steps are asked for, and there is no such optimiser.
        TargetError: they are asked for of a target that is not a TPU.
    """
    models = _models(settings.model)
    first = next(iter(models.values()))
    if settings.groups:
        groups = find_groups(first)
        CONSOLE.print(group_table(groups))
        write_json(folder / "groups.json", group_data(groups))
    show_sparsity(first, settings, folder)
    with open_cost_models(settings.target) as (client, cost_models):
        steps = [
            TrainingStepCosts(found.target, open_cache(settings.target.cache), client, settings.optimizer)
            for found in cost_models
            if settings.training_step
        ]
        asked = (
            (name, cost_model.target.name, 0, _submit(cost_model.submit, model))
            for cost_model in cost_models
            for name, model in models.items()
        )
        rows = collect_costs("costs", asked, len(models) * len(cost_models), folder / "costs.json")
        if settings.groups:
            # After the costs, of which it tells the shares.
            costs = [row.report for row in rows if row.model == rows[0].model and not row.failed]
            shares = read_branch_shares(first, find_branches(first, groups), costs)
            CONSOLE.print(branch_table(shares) if shares else f"'{first.name}' has no branches.", highlight=False)
            write_json(folder / "branches.json", branch_data(shares))
        _show(cost_table(rows), rows)
        if settings.layers:
            for row in rows:
                if not row.failed:
                    CONSOLE.print(layer_table(row, flops_per_layer(models[row.model])))
            write_json(folder / "layers.json", {name: flops_per_layer(model) for name, model in models.items()})
        if settings.training_step:
            # Of every model, on one device and on slices.
            devices = {cost.target.name: settings.devices or [1, min(CHIPS[cost.target.name].slices)] for cost in steps}
            asked_steps = (
                (name, cost.target.name, count, _submit(cost.submit, model, count))
                for cost in steps
                for name, model in models.items()
                for count in devices[cost.target.name]
            )
            total = len(models) * sum(map(len, devices.values()))
            training = collect_costs("training", asked_steps, total, folder / "training_steps.json")
            for cost in steps:
                cost.close()
            _show(training_table(training), training)
        if settings.sweep:
            worked = {row.target for row in rows if row.model == rows[0].model and not row.failed}
            sweep(first, [found for found in cost_models if found.target.name in worked], settings, folder)
    write_page(measure_page(Saved(folder)), folder / "report.html")
    CONSOLE.print(f"Figures: {folder}\nReport: {folder / 'report.html'}", soft_wrap=True, highlight=False)
    if all(row.failed for row in rows):
        raise CostError(f"Nothing could be costed. {notes(rows)[0]}")
    return rows


def collect_costs(name: str, asked: Iterator[Asked[R]], total: int, path: Path) -> list[CostRow[R]]:
    """Wait for costs in the order they are asked for; each is written to the file as soon as it is known.

    Args:
        name: of the stage on the terminal.
        asked: gives every question; another is asked while earlier ones are answered.
        total: how many there are.
        path: JSON file with what is known.
    """
    rows: list[CostRow[R]] = []
    waiting: deque[Asked[R]] = deque()
    with stage(name, total, "compilations") as shown:
        for question in itertools.chain(asked, [None]):
            if question is not None:
                waiting.append(question)
            # All that are left are waited for once everything is asked.
            while waiting and (question is None or waiting[0][-1].done()):
                model, target, devices, answer = waiting.popleft()
                error = answer.exception()
                if error is not None and not isinstance(error, AutopruneError):
                    raise error
                rows.append(CostRow(model=model, target=target, answer=error or answer.result(), devices=devices))
                write_json(path, [row.to_json() for row in rows])
                shown.advance(len(rows), f"{model} on {target}" + (f" x {devices}" if devices else ""))
    return rows


def _submit(submit: Callable[..., Future[R]], *arguments: Any) -> Future[R]:
    """The answer to come; a question that is refused at once is answered with that error."""
    try:
        return submit(*arguments)
    except AutopruneError as error:
        return future_of(error)


def show_sparsity(model: Any, settings: MeasureSettings, folder: Path) -> None:
    """Print and save what a sparsity pattern would keep of the model, if one is asked for."""
    wanted: PatternSettings | GatherScatterSettings
    if settings.n_and_m is not None:
        kept, of = settings.n_and_m
        wanted = PatternSettings(kept=kept, of=of, block=settings.block, block_share=settings.block_share)
    elif settings.banks_and_rows is not None:
        banks, rows = settings.banks_and_rows
        wanted = GatherScatterSettings(
            banks=banks, rows=rows, density=settings.density or GatherScatterSettings.density
        )
    else:
        return
    pattern = find_pattern(model, wanted)
    flops: dict[str, int] = {}
    with suppress(ModelError):  # Of a model whose input size is not fixed.
        flops = flops_per_layer(model)
    CONSOLE.print(pattern_table(pattern, unread_channels(model, pattern), flops))
    write_json(folder / "sparsity.json", pattern_data(pattern, flops))
    save_masks(pattern, folder / "masks.safetensors")
    if settings.banks_and_rows is not None:
        save_bundles(bundle_kernels(model, pattern), folder / "bundles.safetensors", note=NO_LATENCY)


def sweep(model: Any, cost_models: Sequence[CostModel], settings: MeasureSettings, folder: Path) -> None:
    """Cost the model at every keep ratio, all groups pruned alike; print, plot and save the staircase."""
    if not cost_models:
        return
    planner = Planner(model, constraints=settings.constraints)
    with stage("sweep", len({1.0, *settings.keep_ratios}), "plans compiled") as shown:
        rows = uniform_sweep(model, cost_models, settings.keep_ratios, planner, lambda done: shown.advance(done, ""))
    CONSOLE.print(sweep_table(model.name, rows))
    write_json(folder / "sweep.json", [dataclasses.asdict(row) for row in rows])
    plot_sweep(model.name, rows, folder / "sweep.png")


def _show(table: FittingTable, rows: Sequence[CostRow[Any]]) -> None:
    CONSOLE.print(table)
    for note in notes(rows):
        CONSOLE.print(note, markup=False, highlight=False)


@contextmanager
def open_cost_models(settings: TargetSettings) -> Iterator[tuple[CompilerPool, list[CostModel]]]:
    """A cost model for the target, or for each TPU generation, and the compiler processes that serve them all."""
    names = list(CHIPS) if settings.name == "all" else [settings.name]
    with ExitStack() as stack:
        client = stack.enter_context(closing(CompilerPool(settings.processes)))
        targets = [Target(name, settings.batch_size, settings.dtype) for name in names]
        opened_models = [
            open_cost_model(target, cache=settings.cache, client=client, route=settings.route) for target in targets
        ]
        yield client, [stack.enter_context(closing(cost_model)) for cost_model in opened_models]


def _models(settings: ModelSettings) -> dict[str, Any]:
    """The models by the names that they have in the tables; of several files, their names."""
    if settings.name != "file":
        shape = tuple(settings.input_shape) if settings.input_shape else None
        model = zoo.build(settings.name, shape, settings.classes, settings.width)
        return {model.name: model}
    if not settings.path:
        raise ModelError("model=file needs model.path=FILE.keras.")
    if not isinstance(settings.path, list) or len(settings.path) == 1:
        model = load_model(settings.path if isinstance(settings.path, str) else settings.path[0], settings)
        return {model.name: model}
    paths = list(dict.fromkeys(settings.path))
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    return {name: load_model(path, settings) for name, path in zip(names, paths, strict=True)}
