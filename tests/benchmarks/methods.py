"""Criterion, scope and schedule of pruning by hand, each with each, at equal latency.

    python tests/benchmarks/methods.py
    python tests/benchmarks/methods.py --model vgg16 --width 0.25 --data cifar10 --data-dir FOLDER --epochs 20
    python tests/benchmarks/methods.py --model vgg16 ... --chips tpu_v2 tpu_v6e

A trained network is pruned to shares of its compiled latency: alike in each group (`local`), or by one threshold on the
scores of all channels (`global`). The keep ratio is the largest whose plan is fast enough, so that all plans of a share
cost the same to within one width. Each is then fine-tuned for the same number of epochs: pruned before the first of
them, in three stages, or with feedback while it learns. It is the experiment of Chen, Franko and Sang (2021, arXiv
2107.04191), whose own tables are published in part only, with the criteria of later works beside theirs.

With `--chips` nothing is trained: the networks of the cells that are there, of the criteria and shares asked for, are
compiled for other chips.

Figures are accuracies on the test split, of a dense network of its own for each seed. They are kept in
`tests/benchmarks/results/methods_MODEL_DATA.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import itertools
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.cost.chips import CHIPS
from autoprune.data import load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.models.building import build_model
from autoprune.planning import Planner
from autoprune.planning.calibration import sample_calibration
from autoprune.records import CostReport, Evaluation, Plan, Target
from autoprune.settings import (
    Constraints,
    DataSettings,
    ImportanceSettings,
    LimitsSettings,
    ModelSettings,
    SearchSettings,
    TrainingSettings,
)
from autoprune.surgery import Surgeon
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finisher
from autoprune.training.training import ask_teacher

CRITERIA = ("l1", "l2", "loss", "loss_biased", "fisher", "grasp", "gradient_norm", "random")
SCOPES = ("local", "global")
# When channels leave, and in how many stages.
SCHEDULES = {
    "at once": ("first", LimitsSettings()),
    "3 stages": ("first", LimitsSettings(stages=3)),
    "feedback": ("dpf", LimitsSettings()),
}
# Options that tell which cells are measured and not how.
WHICH = ("out", "data_dir", "seeds", "criteria", "scopes", "schedules", "latencies", "chips")


def main() -> None:
    arguments = parse()
    path = Path(arguments.out or Path(__file__).parent / "results" / f"methods_{arguments.model}_{arguments.data}.json")
    asked = {k: v for k, v in vars(arguments).items() if k not in WHICH}
    results = json.loads(path.read_text()) if path.exists() else {"arguments": asked, "cells": {}}
    if results["arguments"] != asked:
        raise SystemExit(f"{path} holds results of {results['arguments']}: give another --out")
    if arguments.chips:
        compile_elsewhere(arguments, results, path)
        return
    for seed in arguments.seeds:
        measure(seed, arguments, results, path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--multiple-of", type=int, default=4)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--train-size", type=int, default=None, help="images that train; all of them by default")
    parser.add_argument("--reward-size", type=float, default=0.2, help="images or share that an epoch is chosen by")
    parser.add_argument("--augmentation", default="none")
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--fine-tune-epochs", type=int, default=6)
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=CRITERIA)
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=SCOPES)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.7, 0.6, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--chips", nargs="+", choices=CHIPS, default=[], metavar="CHIP")
    parser.add_argument("--out", default=None)
    return parser.parse_args()


def measure(seed: int, arguments: argparse.Namespace, results: dict[str, Any], path: Path) -> None:
    """Fill in the cells of a seed that are missing."""
    settings = SearchSettings(
        model=ModelSettings(arguments.model, width=arguments.width),
        data=DataSettings(
            arguments.data,
            dir=arguments.data_dir,
            train_size=arguments.train_size,
            reward_size=arguments.reward_size,
        ),
        training=TrainingSettings(
            epochs=arguments.epochs,
            fine_tune_epochs=arguments.fine_tune_epochs,
            augmentation=arguments.augmentation,
        ),
        seed=seed,
    )
    missing = [
        cell
        for cell in itertools.product(arguments.criteria, arguments.scopes, arguments.latencies, arguments.schedules)
        if name_of(*cell, seed) not in results["cells"]
    ]
    if not missing:
        return
    data = load_data(settings.data)
    model = base_model(settings, data)
    snapshot = Surgeon(model).snapshot()
    teacher = ask_teacher(model, data, settings.evaluation.batch_size, features=False)
    with closing(open_cost_model(Target(arguments.target, arguments.batch_size))) as cost_model:
        whole = cost_model.submit(model).result()
        results["cells"][f"dense/{seed}"] = {"accuracy": accuracy(model, data.test, 256), "latency": whole.latency}
        for (criterion, scope), cells in itertools.groupby(missing, key=lambda cell: cell[:2]):
            snapshot.restore()
            importance = ImportanceSettings(criterion)
            calibration = sample_calibration(data.train, importance.images, seed)
            constraints = Constraints(arguments.multiple_of, 0.05, depth=False)
            planner = Planner(model, importance=importance, constraints=constraints, seed=seed, data=calibration)
            plans = Plans(model, planner, scope, cost_model)
            finishers = {
                schedule: Taught(
                    teacher,
                    model,
                    planner,
                    data,
                    cost_model=cost_model,
                    settings=replace(settings, training=replace(settings.training, removal=removal), search=limits),
                )
                for schedule, (removal, limits) in SCHEDULES.items()
            }
            for _, _, share, schedule in cells:
                plan, cost = plans.within(share * whole.latency)
                name = name_of(criterion, scope, share, schedule, seed)
                # Feedback chooses channels itself: a criterion only says how many of each group.
                same = (
                    cell
                    for other, cell in results["cells"].items()
                    if other.endswith(f"/feedback/{seed}") and cell["widths"] == plan.widths
                )
                if schedule == "feedback" and (known := next(same, None)) is not None:
                    results["cells"][name] = known
                    save(results, path)
                    continue
                evaluation = Evaluation(
                    key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.0, cost=cost
                )
                done = finishers[schedule].finish(criterion, evaluation)
                snapshot.restore()
                results["cells"][name] = {
                    "accuracy": done.test_accuracy,
                    "start": done.training.start,
                    "latency": cost.latency / whole.latency,
                    "memory": cost.memory.total / whole.memory.total if whole.memory.total else None,
                    "parameters": cost.parameters / whole.parameters,
                    "widths": dict(plan.widths),
                }
                save(results, path)
                print(name, f"{done.test_accuracy:.4f}", flush=True)


def compile_elsewhere(arguments: argparse.Namespace, results: dict[str, Any], path: Path) -> None:
    """Fill in what the networks of cells cost on other chips."""
    data = load_data(DataSettings(arguments.data, dir=arguments.data_dir))
    model = build_model(ModelSettings(arguments.model, width=arguments.width), data.input_shape, data.classes)
    planner = Planner(model, constraints=Constraints(arguments.multiple_of, 0.05, depth=False))
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    networks = {"dense": planner.space.full}
    for cell in itertools.product(
        arguments.criteria, arguments.scopes, arguments.latencies, arguments.schedules, arguments.seeds
    ):
        if found := results["cells"].get(name_of(*cell)):
            networks[name_of(*cell)] = planner.space.find(found["widths"])
    for chip in arguments.chips:
        costs = results.setdefault("chips", {}).setdefault(chip, {})
        with closing(open_cost_model(Target(chip, arguments.batch_size))) as cost_model:
            for name, candidate in networks.items():
                if name not in costs:
                    with surgeon.pruning(planner.space.plan(candidate), snapshot):
                        cost = cost_model.submit(model).result()
                    costs[name] = {"latency": cost.latency, "memory": cost.memory.total}
                    save(results, path)
        print(chip, f"{len(costs)} networks", flush=True)


def name_of(criterion: str, scope: str, share: float, schedule: str, seed: int) -> str:
    """What a cell is kept by."""
    return f"{criterion}/{scope}/{share:g}/{schedule}/{seed}"


class Taught(Finisher):
    """A finisher whose teacher, the dense network of all cells of a seed, was asked before."""

    def __init__(self, answers: np.ndarray, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._answers = answers

    def ask_teacher(self) -> np.ndarray:
        return self._answers


class Plans:
    """Plans of one criterion and scope, by the latency that they may have."""

    def __init__(self, model: Any, planner: Planner, scope: str, cost_model: CostModel) -> None:
        self._model, self._planner, self._scope, self._cost_model = model, planner, scope, cost_model
        self._surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()
        self._known: dict[tuple[int, ...], CostReport] = {}

    def within(self, latency: float) -> tuple[Plan, CostReport]:
        """The plan of the largest keep ratio, in steps of a hundredth, that is as fast."""
        low, high = 5, 100
        if (least := self._cost(self._plan(low)).latency) > latency:
            raise SystemExit(f"{latency * 1e6:.1f} us cannot be reached: keeping 5 % takes {least * 1e6:.1f} us")
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(self._plan(middle)).latency <= latency:
                low = middle
            else:
                high = middle - 1
        return self._plan(low), self._cost(self._plan(low))

    def _plan(self, hundredths: int) -> Plan:
        return self._planner.plan(hundredths / 100, ranking=self._scope)

    def _cost(self, plan: Plan) -> CostReport:
        key = tuple(plan.widths.values())
        if key not in self._known:
            with self._surgeon.pruning(plan, self._snapshot):
                self._known[key] = self._cost_model.submit(self._model).result()
        return self._known[key]


def save(results: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
