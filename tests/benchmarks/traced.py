"""How much sooner a plan is scored by passes that are traced once for all plans than eagerly.

    python tests/benchmarks/traced.py

For each network, plans of random legal widths are applied one after the other and scored both ways in turns: ten steps
of tuning, batch norms recalibrated on 512 images, the score on 2,000. Prints the ratio of the times, plan by plan, and
after how many plans the tracing has paid. Images are random: only times are taken, and how far the scores differ.

With `--drops` the plans also drop half of the network's branches. Beside them plans of widths alone are scored by a
trace that branches can be dropped from and by one that serves widths alone: what the conditions cost. And plans that
drop half of the branches at full width are scored in turns with the dense network, and with uniform plans of about as
many FLOPs by a trace for widths alone: time for time and FLOP for FLOP.
Results go to `tests/benchmarks/results/traced.json`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost.flops import count_flops
from autoprune.data import Split
from autoprune.errors import PlanError
from autoprune.evaluation.accuracy import Signals, read_signals
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.models import applications, zoo
from autoprune.planning import Planner
from autoprune.records import Branch, Plan
from autoprune.surgery import Surgeon
from helpers.telling import log_probabilities

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
    parser.add_argument("--drops", action="store_true", help="drop branches too")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    path = Path(arguments.out)
    # Rows of networks that are not measured now stay.
    results = {"networks": {}, **(json.loads(path.read_text()) if path.exists() else {}), "plans": arguments.plans}
    rows = results.setdefault("drops", {}) if arguments.drops else results["networks"]
    for name in arguments.networks:
        rows[name] = (measured_with_drops if arguments.drops else measured)(name, arguments.plans)
        print(name, json.dumps(rows[name]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


class Bench:
    """One network, and what plans of it are scored with.

    Args:
        name: of `NETWORKS`.
    """

    def __init__(self, name: str) -> None:
        size, width = NETWORKS[name]
        self.chance = np.random.default_rng(0)
        shape = (size, size, 1 if width else 3)
        images = self.chance.random((2000, *shape), "float32")
        labels = self.chance.integers(0, 10, len(images))
        self.split = Split(images, labels)
        self.model = zoo.build(name, shape, 10, width=width) if width else applications.build(name, shape, 10)
        some = images[: STEPS * BATCH]
        teacher = log_probabilities(self.model, some)
        self.tuning = ShortTuning(Split(some, labels[: STEPS * BATCH]), teacher, steps=STEPS, batch_size=BATCH)
        self.planner, self.surgeon = Planner(self.model), Surgeon(self.model)
        self.snapshot = self.surgeon.snapshot()

    def trace(self, branches: Sequence[Branch] = ()) -> tuple[Any, float]:
        """Passes that branches can be dropped from, and how long tracing takes."""
        start = time.perf_counter()
        few = self.tuning.first(8)
        loss = self.tuning.loss_for(self.model)
        passes = Passes(self.model, self.planner.all_groups, *few, loss, branches=branches)
        compiled = passes.network_for(set())
        if compiled is None:
            raise RuntimeError("These passes cannot be compiled.")
        return compiled, time.perf_counter() - start

    def random_widths(self) -> Plan:
        """A plan of random legal widths."""
        ratios = {group.name: float(self.chance.choice([0.25, 0.5, 0.75])) for group in self.planner.groups}
        return self.planner.plan(ratios)

    def without_half(self, plan: Plan) -> Plan:
        """The plan with half of the branches dropped, drawn anew until they can go together."""
        removable = [branch.name for branch in self.surgeon.branches if branch.removable]
        while True:
            half = set(self.chance.choice(removable, len(removable) // 2, replace=False))
            dropping = replace(plan, dropped=tuple(name for name in removable if name in half))
            try:
                self.surgeon.check(dropping)
                self.surgeon.slices(dropping)
            except PlanError:
                continue
            return dropping

    def time(self, plan: Plan, compiled: Any | None) -> tuple[float, float, float]:
        """Seconds that scoring a plan takes, those of all cores that it computes, and its likelihood."""
        with self.surgeon.pruning(plan, self.snapshot):
            return timed(partial(scored, self.model, self.tuning, self.split, compiled))

    def flops(self, plan: Plan) -> int:
        """Of one image."""
        with self.surgeon.pruning(plan, self.snapshot):
            return count_flops(self.model, 1)

    def compare(self, make: Callable[[], Plan], ways: Mapping[str, Any | None], count: int) -> list[dict[str, float]]:
        """Score plans in each of two ways, which take turns in coming first."""
        runs = []
        for number in range(-1, count):  # The first, which warms up, is not counted.
            plan, run = make(), {}
            for way in sorted(ways, reverse=bool(number % 2)):
                run[way], run[f"{way} computing"], run[f"{way} likelihood"] = self.time(plan, ways[way])
            runs += [run] if number >= 0 else []
        return runs


def measured(name: str, count: int) -> dict[str, Any]:
    """Times and scores of one network's plans of widths, both ways."""
    bench = Bench(name)
    compiled, tracing = bench.trace()
    return summary(bench.compare(bench.random_widths, {"eager": None, "traced": compiled}, count), tracing)


def measured_with_drops(name: str, count: int) -> dict[str, Any]:
    """The same of plans that drop half of the branches; what conditions cost; and time beside FLOPs."""
    bench = Bench(name)
    plain, tracing_plain = bench.trace()
    compiled, tracing = bench.trace(bench.surgeon.branches)
    runs = bench.compare(lambda: bench.without_half(bench.random_widths()), {"eager": None, "traced": compiled}, count)
    widths = bench.compare(bench.random_widths, {"plain": plain, "traced": compiled}, count)
    dense = bench.planner.plan(1.0)
    all_flops, beside_dense = bench.flops(dense), []
    uniform = {bench.flops(plan): plan for plan in map(bench.planner.plan, np.linspace(0.4, 0.95, 23).tolist())}
    for _ in range(count):
        half = bench.without_half(dense)
        flops = bench.flops(half)
        near = min(uniform, key=lambda known: abs(known - flops))
        asked = ((dense, compiled), (half, compiled), (uniform[near], plain))
        whole, rest, narrow = (bench.time(plan, passes)[:2] for plan, passes in asked)
        beside_dense.append(
            {
                "time": rest[0] / whole[0],
                "computing": rest[1] / whole[1],
                "flops": flops / all_flops,
                # Computing per FLOP over that of the uniform plan.
                "over_widths": rest[1] / flops / (narrow[1] / near),
            }
        )
    # Other work on the machine makes the times themselves longer at random.
    costs = [run["traced computing"] / run["plain computing"] for run in widths]
    return {
        **summary(runs, tracing),
        "tracing_seconds_for_widths_alone": tracing_plain,
        "widths_alone_with_over_without_conditions_median": float(np.median(costs)),
        "widths_alone_with_over_without_conditions_range": [min(costs), max(costs)],
        "widths_alone_runs": widths,
        "computing_over_flops_median": float(np.median([row["computing"] / row["flops"] for row in beside_dense])),
        "over_widths_per_flop_median": float(np.median([row["over_widths"] for row in beside_dense])),
        "over_widths_per_flop_range": [extreme(row["over_widths"] for row in beside_dense) for extreme in (min, max)],
        "beside_dense": beside_dense,
    }


def summary(runs: Sequence[Mapping[str, float]], tracing: float) -> dict[str, Any]:
    """Of plans scored eagerly and traced."""
    faster = [run["eager"] / run["traced"] for run in runs]
    saved = float(np.mean([run["eager"] - run["traced"] for run in runs]))
    return {
        "eager_over_traced_median": float(np.median(faster)),
        "eager_over_traced_range": [min(faster), max(faster)],
        "plans_until_tracing_has_paid": tracing / saved if saved > 0 else None,
        "largest_difference_of_likelihoods": max(abs(r["eager likelihood"] - r["traced likelihood"]) for r in runs),
        "tracing_seconds": tracing,
        "runs": list(runs),
    }


def scored(model: Any, tuning: ShortTuning, split: Split, compiled: Any | None) -> Signals:
    """As the evaluator scores a plan."""
    tuning(model, compiled and compiled.tune)
    recalibrate(model, split.images[:512], 256, compiled and compiled.collect)
    return read_signals(model, split, None, 256, compiled)


def timed(score: Callable[[], Signals]) -> tuple[float, float, float]:
    """Seconds, seconds of all cores, and the likelihood."""
    start, computing = time.perf_counter(), time.process_time()
    signals = score()
    return time.perf_counter() - start, time.process_time() - computing, signals.likelihood


if __name__ == "__main__":
    main()
