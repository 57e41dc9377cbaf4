"""Plain SGD against RepOptimizer's SGD, of a plain network and of what pruning leaves of it, at equal epochs.

    python tests/benchmarks/rep_optimizer.py
    python tests/benchmarks/rep_optimizer.py --data cifar10 --epochs 60 --latencies 0.6 0.45

VGG-16 is trained from new weights, pruned to shares of its compiled latency, alike in each group, and fine-tuned, all
with one optimiser: `sgd`, `rep_sgd` with searched scales, `rep_sgd` with constant ones (`rep_sgd_constant`), and `sgd`
with the epochs of the search of scales on top (`sgd_longer`). The learning rate is the optimiser's own best of several,
by the reward split: multipliers make steps longer, and a longer step is no merit of theirs. Labels alone teach. On
8x8 images seven tenths of the latency are there whatever the widths are: shares are small ones by default.

Figures are accuracies on the test split. They are kept in
`tests/benchmarks/results/rep_optimizer_DATA.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.data import Dataset, load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.planning import Planner
from autoprune.records import CostReport, Evaluation, Plan, Target
from autoprune.settings import Constraints, DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finisher

OPTIMIZERS = ("sgd", "sgd_longer", "rep_sgd_constant", "rep_sgd")
DENSE = "dense"


def main() -> None:
    arguments = parse()
    path = Path(arguments.out or Path(__file__).parent / "results" / f"rep_optimizer_{arguments.data}.json")
    free = ("out", "data_dir", "seeds", "optimizers", "latencies", "learning_rates")
    asked = {name: value for name, value in vars(arguments).items() if name not in free}
    results = json.loads(path.read_text()) if path.exists() else {"arguments": asked, "cells": {}}
    if results["arguments"] != asked:
        raise SystemExit(f"{path} holds results of {results['arguments']}: give another --out")
    data = load_data(DataSettings(arguments.data, dir=arguments.data_dir, train_size=arguments.train_size))
    with closing(open_cost_model(Target(arguments.target, arguments.batch_size))) as cost_model:
        for seed, name, rate in itertools.product(arguments.seeds, arguments.optimizers, arguments.learning_rates):
            measure(
                seed,
                name,
                rate,
                arguments,
                data,
                cost_model,
                results["cells"],
                lambda: path.write_text(json.dumps(results, indent=1) + "\n"),
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--multiple-of", type=int, default=4)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--train-size", type=int, default=None)
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--fine-tune-epochs", type=int, default=6)
    parser.add_argument("--hyper-search-epochs", type=int, default=6)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.85, 0.75])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=None)
    return parser.parse_args()


def measure(
    seed: int,
    name: str,
    rate: float,
    arguments: argparse.Namespace,
    data: Dataset,
    cost_model: CostModel,
    cells: dict[str, dict[str, float]],
    save: Callable[[], object],
) -> None:
    """Fill in the cells of a seed, optimiser and learning rate that are missing."""
    keys = {share: f"{name}/{rate:g}/{share}/{seed}" for share in (DENSE, *(f"{s:g}" for s in arguments.latencies))}
    if cells.keys() >= set(keys.values()):
        return
    settings = SearchSettings(
        model=ModelSettings("vgg16", width=arguments.width),
        data=DataSettings(arguments.data, dir=arguments.data_dir, train_size=arguments.train_size),
        training=TrainingSettings(
            optimizer=name.split("_constant")[0] if name.startswith("rep") else "sgd",
            hyper_search_epochs=arguments.hyper_search_epochs if name == "rep_sgd" else 0,
            epochs=arguments.epochs + (arguments.hyper_search_epochs if name == "sgd_longer" else 0),
            fine_tune_epochs=arguments.fine_tune_epochs,
            learning_rate=rate,
            fine_tune_learning_rate=rate / 5,
            weight_decay=arguments.weight_decay,
            distillation=0.0,
        ),
        seed=seed,
    )
    model = base_model(settings, data)
    size = settings.evaluation.batch_size
    cells[keys[DENSE]] = {"reward": accuracy(model, data.reward, size), "test": accuracy(model, data.test, size)}
    print(keys[DENSE], cells[keys[DENSE]], flush=True)
    save()
    planner = Planner(model, constraints=Constraints(arguments.multiple_of, 0.05, depth=False), seed=seed)
    whole = cost_model.submit(model).result()
    finisher = Finisher(model, planner, data, cost_model=cost_model, settings=settings)
    for share in arguments.latencies:
        key = keys[f"{share:g}"]
        if key in cells:
            continue
        finisher.undo()
        plan, cost = plan_within(share * whole.latency, model, planner, cost_model)
        evaluation = Evaluation(key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.0, cost=cost)
        done = finisher.finish(name, evaluation)
        cells[key] = {
            "reward": done.reward_accuracy,
            "test": done.test_accuracy,
            "latency": cost.latency / whole.latency,
            "parameters": cost.parameters / whole.parameters,
        }
        print(key, cells[key], flush=True)
        save()


def plan_within(latency: float, model: Any, planner: Planner, cost_model: CostModel) -> tuple[Plan, CostReport]:
    """The plan of the largest keep ratio, in steps of a twentieth, that is as fast."""
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    for twentieths in range(20, 0, -1):
        plan = planner.plan(twentieths / 20)
        with surgeon.pruning(plan, snapshot):
            cost = cost_model.submit(model).result()
        if cost.latency <= latency:
            return plan, cost
    raise SystemExit(f"{latency * 1e6:.1f} us cannot be reached: keeping 5 % takes {cost.latency * 1e6:.1f} us")


if __name__ == "__main__":
    main()
