"""How many experts of a mixture a task needs: factors by which they are cut, by use and by chance.

    python tests/benchmarks/experts.py

`small_moe` learns all ten digits. For some of them its eight experts are then cut to a half, a quarter, one: those stay
that images of these digits use most, or as many at random. What is left is fine-tuned on these digits. The factor above
which accuracy falls is what Sarkar et al. (2024, arXiv 2409.01483) call the threshold; here it is the largest whose
mean accuracy, trained, is within a point of the dense network's.

Means over seeds, each with a network of its own, and latencies by the TPU compiler. They are kept in
`tests/benchmarks/results/experts.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import open_cost_model
from autoprune.data import Dataset, load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.planning import Planner
from autoprune.planning.calibration import sample_calibration
from autoprune.records import Target
from autoprune.settings import Constraints, DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.training import train
from autoprune.training.base_model import base_model

FACTORS = (1, 2, 4, 8)
MIXTURES = ("block1_experts", "block2_experts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--fine-tune-epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/experts.json")
    arguments = parser.parse_args()
    asked = {name: value for name, value in vars(arguments).items() if name not in ("out", "seeds")}
    command = "python tests/benchmarks/experts.py"
    results = {"command": command, "arguments": asked, "cells": {}}
    if arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    if results["arguments"] != asked:
        raise SystemExit(f"{arguments.out} holds results of {results['arguments']}: give another --out")
    for seed in arguments.seeds:
        if any(f"{name}/{FACTORS[-1]}/{seed}" not in results["cells"] for name in ("expert_usage", "random")):
            measure(seed, arguments, results)


def measure(seed: int, arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """Fill in the cells of a seed."""
    settings = SearchSettings(
        model=ModelSettings("small_moe"), training=TrainingSettings(epochs=arguments.epochs), seed=seed
    )
    model = base_model(settings, load_data(DataSettings(reward_size=0.25)))
    data = load_data(DataSettings(reward_size=0.25, classes=arguments.classes))
    snapshot = Surgeon(model).snapshot()
    with closing(open_cost_model(Target("tpu_v5e"))) as cost_model:
        for importance in ("expert_usage", "random"):
            snapshot.restore()
            calibration = sample_calibration(data.train, 256, seed)
            planner = Planner(
                model, importance=importance, constraints=Constraints(1, depth=False), seed=seed, data=calibration
            )
            surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
            for factor in FACTORS:
                plan = planner.plan(dict.fromkeys(MIXTURES, 1 / factor))
                with surgeon.pruning(plan, snapshot):
                    cell = {"latency": cost_model.submit(model).result().latency, "at once": right(model, data)}
                    train(
                        model,
                        data,
                        settings.training,
                        epochs=arguments.fine_tune_epochs,
                        learning_rate=settings.training.fine_tune_learning_rate,
                        seed=seed,
                    )
                    cell["trained"] = right(model, data)
                name = f"{importance}/{factor}/{seed}"
                results["cells"][name] = cell
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")
                print(name, cell, flush=True)


def right(model: Any, data: Dataset) -> float:
    """Share of the test images whose class is named."""
    return accuracy(model, data.test, 128)


if __name__ == "__main__":
    main()
