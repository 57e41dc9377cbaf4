"""The run folder of a search as far as a page needs it, with invented figures of a real network: made in a second."""

import dataclasses
import random

from omegaconf import OmegaConf

from autoprune.cost.flops import flops_per_layer
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.graph.branches import is_within
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.planning.plan_file import plan_to_json
from autoprune.records import Evaluation, Memory
from autoprune.records.plain import write_json
from autoprune.reporting.network import describe_network
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import SearcherSettings, SearchSettings
from helpers import toy

BUDGET = 40e-6


def saved_search(path, evaluations=24, seed=0, **changes):
    """The folder: `rl` against `uniform`, each with so many evaluations, of which rl's plan was saved.

    Args:
        path: of the folder.
        evaluations: of each searcher.
        seed: of the figures; the dense model and the hand-set plans are the same for all.
        changes: to what `metrics.json` holds.
    """
    folder = RunFolder.make(path)
    model = zoo.build("small_resnet", (8, 8, 1), 10, width=0.25)
    planner = Planner(model)
    times = {path: 2e-6 + 1e-12 * flops for path, flops in flops_per_layer(model).items()}
    plans = {
        "dense": planner.plan(1.0),
        "uniform": planner.plan(0.5),
        "rl": planner.plan({"stage1_block1": 0, "stem": 0.5}),
    }
    lost = [path for branch in planner.branches if branch.name == "stage1_block1" for path in branch.layers]

    def cost(share, gone=()):
        layers = {path: share * time for path, time in times.items() if not is_within(path, gone)}
        return toy.cost_report(100e-6 * share, Memory(4000, 2000, 1000, int(2**22 * share)), layers=layers)

    def row(name, share, accuracy, gone=()):
        return {
            "name": name,
            "test_accuracy": accuracy,
            "reward_accuracy": accuracy,
            "one_shot_accuracy": accuracy - 0.1,
            "cost": dataclasses.asdict(cost(share, gone)),
            "keep_ratio": share,
            "branches": [5 - bool(gone), 5],
        }

    sizes = plans["dense"].sizes

    def course(generator):
        found = []
        for number in range(evaluations):
            share = generator.uniform(0.1, 1.0)
            dropped = ("stage1_block1",) if generator.random() < 0.3 else ()
            kept = {name for name in sizes if not (dropped and name == "stage1_block1_conv1")}
            widths = {name: generator.choice(range(1, sizes[name] + 1)) for name in sorted(kept)}
            evaluation = Evaluation(
                key=f"{share}",
                keep_ratios={name: width / sizes[name] for name, width in widths.items()},
                widths=widths,
                accuracy=min(0.97, 0.3 + 0.7 * share + generator.uniform(-0.1, 0.1)),
                cost=cost(share),
                seconds=1.0,
                dropped=dropped,
            )
            if number == 3:
                evaluation = dataclasses.replace(evaluation, error="it <ran> out of memory", cost=None)
            found.append(evaluation_to_json(evaluation))
        return found

    settings = dataclasses.asdict(SearchSettings(searcher=SearcherSettings("rl"), seed=seed))
    metrics = {
        "format": "autoprune.metrics",
        "version": 1,
        "settings": settings,
        "target": dataclasses.asdict(toy.TARGET),
        "budget": {"latency": BUDGET, "memory": None},
        "rows": [row("dense", 1.0, 0.95), row("uniform", 0.4, 0.90), row("rl", 0.4, 0.94, lost)],
        "branches": [
            {
                "name": "stage1_block1",
                "layers": len(lost),
                "latency": {"dense": 0.4, "uniform": 0.4, "rl": None},
                "gone": ["rl"],
            }
        ],
        "kept": "rl",
        "cautions": ["There are <few> images."],
        "plans": {name: plan_to_json(plan) for name, plan in plans.items()},
        "courses": {"uniform": course(random.Random(-1)), "rl": course(random.Random(seed))},
        "seconds": 61.0,
        "guesses": {"count": 9, "latency": 0.05, "memory": None, "spearman": 0.9},
        "predictions": [[50e-6, 52e-6], [30e-6, 29e-6], [80e-6, 85e-6]],
        "verdict": "The saved model holds the rl plan.",
        "gone": {"uniform": {}, "rl": {"stage1_block1_conv1": "stage1_block1"}},
        "left_alone": {"stage2_block1_conv1": "is kept whole by the plan"},
        "images": {"training": 1000, "reward": 300, "test": 400},
        "versions": {"python": "3.12", "keras": "3.15"},
        "ended": "2026-01-02 03:04",
    }
    write_json(folder.network, describe_network(model, planner))
    write_json(folder.metrics, metrics | changes)
    write_json(folder.origin, {"format": "autoprune.run", "version": 1, "command": "search", "files": {}})
    write_json(folder.settings, settings)
    (folder.path / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(
        OmegaConf.create(["budget.latency=0.4", "model.path='a b.keras'"]), folder.path / ".hydra/overrides.yaml"
    )
    return folder
