"""How much sooner a plan is scored by passes that are traced once for all widths than eagerly.

    python tests/benchmarks/traced.py

For each network, plans of random legal widths are applied one after the other and scored both ways in turns: ten steps
of tuning, batch norms recalibrated on 512 images, the score on 2,000. Prints the ratio of the times, plan by plan, and
after how many plans the tracing has paid. Images are random: only times are taken, and how far the scores differ.
Results go to `tests/benchmarks/results/traced.json`.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.data import Split
from autoprune.evaluation.accuracy import Signals, read_signals
from autoprune.evaluation.passes import Passes
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.models import applications, zoo
from autoprune.models.distilling import predict_log_probabilities
from autoprune.planning import Planner
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results" / "traced.json"
NETWORKS = {
    "small_resnet": (8, 1.0),
    "plain_cnn": (28, 1.0),
    "resnet20": (28, 0.5),
    "vgg16": (28, 0.25),
    "mobilenet_v2": (28, 0.5),
    # Of keras.applications, at full width.
    **dict.fromkeys(("ResNet50", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny"), (32, None)),
}
STEPS, BATCH = 10, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=6)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    path = Path(arguments.out)
    # Rows of networks that are not measured now stay.
    networks = json.loads(path.read_text())["networks"] if path.exists() else {}
    results = {"plans": arguments.plans, "networks": networks}
    for name in arguments.networks:
        results["networks"][name] = measured(name, arguments.plans)
        print(name, json.dumps(results["networks"][name]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


def measured(name: str, count: int) -> dict[str, Any]:
    """Times and scores of one network's plans, both ways."""
    size, width = NETWORKS[name]
    chance = np.random.default_rng(0)
    shape = (size, size, 1 if width else 3)
    images = chance.random((2000, *shape), "float32")
    labels = chance.integers(0, 10, len(images))
    model = zoo.build(name, shape, 10, width=width) if width else applications.build(name, shape, 10)
    teacher = predict_log_probabilities(model, images[: STEPS * BATCH])
    tuning = ShortTuning(images[: STEPS * BATCH], labels[: STEPS * BATCH], teacher, steps=STEPS, batch_size=BATCH)
    planner, surgeon = Planner(model), Surgeon(model)
    snapshot = surgeon.snapshot()
    start = time.perf_counter()
    passes = Passes(model, planner.all_groups, *tuning.first(8), tuning.loss_for(model))
    compiled = passes.compiled({"any"})
    tracing = time.perf_counter() - start
    ways = {"eager": None, "traced": compiled}
    runs = []
    for number in range(-1, count):  # The first, which warms up, is not counted.
        ratios = {group.name: float(chance.choice([0.25, 0.5, 0.75])) for group in planner.groups}
        run = {}
        for way in sorted(ways, reverse=bool(number % 2)):
            with surgeon.pruning(planner.plan(ratios), snapshot):
                score = partial(scored, model, tuning, Split(images, labels), ways[way])
                run[way], run[f"{way} likelihood"] = timed(score)
        runs += [run] if number >= 0 else []
    faster = [run["eager"] / run["traced"] for run in runs]
    saved = float(np.mean([run["eager"] - run["traced"] for run in runs]))
    return {
        "eager_over_traced_median": float(np.median(faster)),
        "eager_over_traced_range": [min(faster), max(faster)],
        "plans_until_tracing_has_paid": tracing / saved if saved > 0 else None,
        "largest_difference_of_likelihoods": max(abs(r["eager likelihood"] - r["traced likelihood"]) for r in runs),
        "tracing_seconds": tracing,
        "runs": runs,
    }


def scored(model: Any, tuning: ShortTuning, split: Split, compiled: Any | None) -> Signals:
    """As the evaluator scores a plan."""
    tuning(model, compiled and compiled.tune)
    recalibrate(model, split.images[:512], 256, compiled and compiled.collect)
    return read_signals(model, split, None, 256, compiled)


def timed(score: Callable[[], Signals]) -> tuple[float, float]:
    """Seconds, and the likelihood."""
    start = time.perf_counter()
    signals = score()
    return time.perf_counter() - start, signals.likelihood


if __name__ == "__main__":
    main()
