"""What more training makes of the plans that a published comparison found: which of its conclusions stay?

    python tests/benchmarks/longer.py compare_resnet20_v3_25.json --data-dir FOLDER

Comparisons on two cores train briefly and on few images. Here nothing is searched: the dense model is trained anew
with more epochs on all images (or is the given `--base-model`), every plan that the comparison fine-tuned (of
searchers, hand-set rules and the uniform curve) is pruned out of it and fine-tuned with more epochs, and the
comparison's own code concludes. Latencies are those of the comparison: they depend on widths, not on weights; scores
too, which were of the comparison's base model. Runs on whatever Keras runs on (`KERAS_BACKEND=torch` or `jax` on a
GPU), without the TPU compiler; `--processes` fine-tunes several plans at once. Results go to
`tests/benchmarks/results/longer_*.json`, of the format of a comparison, as they come; a second call goes on where the
first one stopped.
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from autoprune.comparison import PlanResult, Record, summarise
from autoprune.comparison.jobs import Job, jobs_of
from autoprune.comparison.record import FINE_TUNED
from autoprune.data import load_data
from autoprune.planning import Planner
from autoprune.planning.calibration import sample_calibration
from autoprune.records import CostReport
from autoprune.reporting.comparison import comparison_tables, verdicts
from autoprune.reporting.console import CONSOLE
from autoprune.settings import CompareSettings
from autoprune.settings.reading import from_config
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finisher

FOLDER = Path(__file__).parent / "results"


def main() -> None:
    arguments = parse()
    path = arguments.out or FOLDER / arguments.comparison.replace("compare_", "longer_")
    compared = json.loads((FOLDER / arguments.comparison).read_text())
    settings = longer(from_config(OmegaConf.create(compared["settings"]), CompareSettings), arguments)
    if settings.search.finalists > 1:
        sys.exit("The comparison chose among finalists by their fine-tuned accuracies: take one of a single finalist.")
    record = opened(path, compared, settings)
    jobs = [job for job in jobs_of(settings, record) if job.name not in record.tested]
    for number, tested in enumerate(finished(jobs, settings, arguments.processes), start=1):
        record.add_tested(tested)
        print(f"{number} of {len(jobs)}: {tested.name} {tested.test_accuracy:.2%}", flush=True)
    summary = summarise(settings, record)
    record.conclusions = summary.to_json()
    record.save()
    for table in comparison_tables(settings, summary):
        CONSOLE.print(table)
    for sentence in verdicts(settings, summary):
        CONSOLE.print(sentence)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", help="a file of tests/benchmarks/results")
    parser.add_argument("--data-dir", default=None, help="folder with the IDX files; by default Keras downloads them")
    parser.add_argument("--base-epochs", type=int, default=15)
    parser.add_argument("--base-model", default=None, help="file of a trained dense model, in place of a new one")
    parser.add_argument("--epochs", type=int, default=8, help="of fine-tuning")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.001, help="of fine-tuning")
    parser.add_argument("--train-size", type=int, default=None, help="images; by default all")
    parser.add_argument("--augmentation", default="shift_flip", choices=("none", "shift", "shift_flip"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    return parser.parse_args()


def longer(settings: CompareSettings, arguments: argparse.Namespace) -> CompareSettings:
    """The settings of the comparison with more training."""
    training = dataclasses.replace(
        settings.training,
        epochs=arguments.base_epochs,
        fine_tune_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        fine_tune_learning_rate=arguments.learning_rate,
        augmentation=arguments.augmentation,
    )
    data = dataclasses.replace(settings.data, dir=arguments.data_dir, train_size=arguments.train_size)
    model = settings.model
    if arguments.base_model:
        model = dataclasses.replace(model, name="file", path=arguments.base_model)
    return dataclasses.replace(settings, model=model, training=training, data=data, controls=[])


def opened(path: Path, compared: dict[str, Any], settings: CompareSettings) -> Record:
    """The comparison with nothing tested, or what was tested before by the same recipe."""
    about = {"settings": dataclasses.asdict(settings), "target": compared["target"]}
    about["settings"]["data"]["dir"] = None  # Where the images lie changes nothing.
    about["settings"]["model"] = compared["settings"]["model"]
    tested = {}
    if path.exists():
        before = json.loads(path.read_text())
        if any(before["settings"][part] != about["settings"][part] for part in ("model", "data", "training")):
            sys.exit(f"'{path}' is of another recipe: move it away.")
        tested = before["tested"]
    kept = {name: compared[name] for name in ("format", "version", "dense", "anchors", "runs", "matches", "curve")}
    return Record(
        about, lambda data: path.write_text(json.dumps(data, indent=1) + "\n"), {**kept, "tested": tested, "seconds": 0}
    )


def finished(jobs: list[Job], settings: CompareSettings, processes: int) -> Iterator[PlanResult]:
    """Every job's result, as they come."""
    begin(settings)  # Trains the dense model, which other processes load from the cache.
    if processes == 1:
        yield from map(finish, jobs)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin, (settings,)) as pool:
        for done in as_completed([pool.submit(finish, job) for job in jobs]):
            yield done.result()


class KnownCost:
    """Stands for the cost model where costs are known already."""

    known: CostReport

    def submit(self, model: Any) -> Future[CostReport]:
        """What was known."""
        future: Future[CostReport] = Future()
        future.set_result(self.known)
        return future


# Of this process: it takes a while to make, and every job needs it.
_finisher: Finisher
_cost = KnownCost()


def begin(settings: CompareSettings) -> None:
    """Train the dense model, or load it as trained before, and make ready to prune and fine-tune it."""
    global _finisher
    shared = settings.search_settings()
    data = load_data(settings.data, settings.model)
    model = base_model(shared, data, report)
    sample = sample_calibration(data.train, shared.importance.images, shared.seed)
    planner = Planner(
        model, importance=shared.importance, constraints=shared.constraints, seed=shared.seed, data=sample
    )
    _finisher = Finisher(model, planner, data, cost_model=_cost, settings=shared)


def report(done: float, logs: dict[str, float]) -> None:
    """Tell of every epoch of the dense model."""
    if "val_accuracy" in logs:
        print(f"base model, epoch {done:g}: {logs['val_accuracy']:.2%}", flush=True)


def finish(job: Job) -> PlanResult:
    """Prune, fine-tune and test what a job asks for."""
    _cost.known = job.evaluation.cost
    finished = _finisher.finish(job.whose, job.evaluation, seed=job.seed, whole_too=job.recipe == FINE_TUNED)
    _finisher.undo()
    return PlanResult.of(finished, job.recipe, job.seed)


if __name__ == "__main__":
    main()
