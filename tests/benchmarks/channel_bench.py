"""Regret of searchers where the best plan is known: Channel-Bench-Macro, 16,384 plans each trained three times.

    python tests/benchmarks/channel_bench.py --data resnet.json

The public benchmark Channel-Bench-Macro holds the CIFAR-10 test accuracies of all width plans of a residual network
(seven groups, four widths each), trained from scratch three times. A search is scored by the accuracies of one
training; its regret is that of the plan that it returns, by the mean of the other two trainings, against the best plan
within the budget by that mean. The mean of two is noise still, of thousands of plans the best by it is a lucky one, and
no search can foresee that. So regret is also told by a regression of all three trainings on widths and pairs of
widths, fitted to the plans within the budget: `expected`.

Latencies: whole networks are compiled for batch 128 (`--compile`; the first time hours, since a compilation takes half
a minute), and the seconds of each layer are kept by the widths that it depends on, in `channel_bench_latency.json`. A
plan's latency is the sum over its layers; `held_out` tells how far it is from whole compilations that it was not made
of. Searchers see it as they would see the compiler's.

Every searcher chooses by the same rule, `autoprune.searchers.choice`, without new scores, which the data do not hold;
`luckiest` is the regret of the plan with the best single score. `--gaps` counts through all plans to see how far the
solver's are from the best by the same predictions. Results go to `channel_bench.json` as they come; a second call goes
on where the first one stopped.
"""

import argparse
import itertools
import json
import lzma
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

# isort: split
import keras

from autoprune.cost import open_cost_model
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.planning import Candidate, Planner
from autoprune.records import CostReport, Evaluation, Memory, Target
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, Problem, Proposal, build_problem
from autoprune.searchers.choice import find_finalists
from autoprune.searchers.hand_set import is_hand_set
from autoprune.searchers.reward_model import RewardModel
from autoprune.searchers.solving import Solver
from autoprune.settings import AgentSettings, BudgetSettings, Constraints, LimitsSettings
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results"
LATENCIES = RESULTS / "channel_bench_latency.json"
BATCH = 128
QUARTERS = (1, 2, 3, 4)
EVERY = np.array(list(itertools.product(range(4), repeat=7)))


def build_network() -> keras.Model:
    """The network of the benchmark: 15.4 million parameters, 1.44 billion multiply-accumulates."""
    layers = keras.layers

    def convolve(x: Any, channels: int, name: str, *, stride: int = 1, relu: bool = True) -> Any:
        x = layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    image = keras.Input((32, 32, 3), name="image")
    x = convolve(image, 256, "stem", stride=2)
    for number, (channels, stride) in enumerate(((256, 1), (256, 1), (512, 2), (512, 1), (512, 1)), start=1):
        inner = convolve(x, channels, f"block{number}_conv1", stride=stride)
        inner = convolve(inner, channels, f"block{number}_conv2", relu=False)
        # The third block has no shortcut.
        merged = layers.Add(name=f"block{number}_add")([x, inner]) if stride == 1 else inner
        x = layers.ReLU(name=f"block{number}_relu")(merged)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, name="classifier")(x), name="channel_bench")


class Network:
    """The network, its planner with the four widths of each group, and how its layers depend on them."""

    def __init__(self) -> None:
        self.model = build_network()
        self.planner = Planner(self.model, constraints=Constraints(64, min_keep_ratio=0.25, depth=False))
        self.planner.restrict({d.name: [d.size * q // 4 for q in QUARTERS] for d in self.planner.space.dimensions})
        self.space = self.planner.space
        self.layers = layer_dependences(self.model, self.planner.parts)
        self.own = {layer.path: sorted({i for axis in layer.axes for i, _ in axis.owners}) for layer in self.layers}

    def around(self, number: int) -> list[int]:
        """The dimensions that a layer's seconds depend on: those of its axes and of its neighbours'."""
        near = self.layers[max(number - 1, 0) : number + 2]
        return sorted({index for layer in near for index in self.own[layer.path]})

    def compile(self, targets: Sequence[str], count: int, stored: dict[str, list[Any]]) -> Iterator[int]:
        """Compile plans until `count` are stored for each target; how many are, whenever there is one more.

        Of random plans always the one that shows most widths of layers and their neighbours that none has shown. A row
        of `stored` holds a plan's options, its latency, and the seconds of each layer.
        """
        surgeon = Surgeon(self.model, self.planner.all_groups, self.planner.fingerprint)
        snapshot, generator = surgeon.snapshot(), np.random.default_rng(len(stored[targets[0]]))
        shown: set[tuple[int, ...]] = set()

        def shows(candidate: Candidate) -> set[tuple[int, ...]]:
            found = set()
            for number, layer in enumerate(self.layers):
                for kind, columns in enumerate((self.own[layer.path], self.around(number))):
                    found.add((number, kind, *(candidate[column] for column in columns)))
            return found

        def news(candidate: Candidate) -> int:
            return sum(1 if kind else 100 for _, kind, *_ in shows(candidate) - shown)

        for row in stored[targets[0]]:
            shown |= shows(tuple(row[0]))
        with closing(CompilerPool(1)) as pool:
            models = {target: open_cost_model(Target(target, BATCH), client=pool) for target in targets}
            for _ in range(count - len(stored[targets[0]])):
                candidate = max((tuple(row) for row in generator.integers(0, 4, (256, 7)).tolist()), key=news)
                shown |= shows(candidate)
                with surgeon.pruning(self.space.plan(candidate), snapshot):
                    answers = {target: model.submit(self.model) for target, model in models.items()}
                for target, answer in answers.items():
                    cost = answer.result()
                    seconds = [round(cost.layers.get(layer.path, 0.0), 10) for layer in self.layers]
                    stored[target].append([list(candidate), round(cost.latency, 10), seconds])
                yield len(stored[target])
            for model in models.values():
                model.close()


class LatencyTable:
    """Latency of every plan: for each layer its mean seconds in the compiled plans that are like it around the layer.

    A layer's seconds are its own and its neighbours' widths' doing, with which it may be fused. Where no compiled plan
    has these neighbours, those of the same own widths stand for them; without such a plan there is no table.

    Args:
        network: whose plans they are.
        rows: of `channel_bench_latency.json`.
    """

    def __init__(self, network: Network, rows: Sequence[Any]) -> None:
        self._network = network
        options, latency = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
        seconds = np.array([row[2] for row in rows])
        self._rest = float(np.mean(latency - seconds.sum(1)))
        self._layers = np.zeros((len(EVERY), len(network.layers)))
        paths = [layer.path for layer in network.layers]
        for number, path in enumerate(paths):
            own = network.own[path]
            for columns in (own, network.around(number)):
                known = defaultdict(list)
                for row, value in zip(options[:, columns].tolist(), seconds[:, number].tolist(), strict=True):
                    known[tuple(row)].append(value)
                means = {key: float(np.mean(values)) for key, values in known.items()}
                found = np.array([means.get(tuple(row), np.nan) for row in EVERY[:, columns].tolist()])
                self._layers[:, number] = (
                    found if columns is own else np.where(np.isnan(found), self._layers[:, number], found)
                )
        if np.isnan(self._layers).any():
            raise SystemExit(f"{len(rows)} compiled plans do not show every pair of widths: compile more (--compile).")
        self.latencies = self._layers.sum(1) + self._rest

    def layers_of(self, row: int) -> dict[str, float]:
        """Seconds of each layer of one of all plans."""
        return {layer.path: float(s) for layer, s in zip(self._network.layers, self._layers[row], strict=True)}


def hold_out(network: Network, rows: Sequence[Any], folds: int = 20) -> dict[str, float]:
    """Mean and largest relative error of latencies of compiled plans by tables that were made without them."""
    errors = []
    for fold in range(folds):
        try:
            table = LatencyTable(network, [row for number, row in enumerate(rows) if number % folds != fold])
        except SystemExit:
            continue
        errors += [abs(table.latencies[index_of(row[0])] / row[1] - 1) for row in rows[fold::folds]]
    return {"plans": len(errors), "mean": float(np.mean(errors or [np.nan])), "most": max(errors, default=np.nan)}


def index_of(candidate: Sequence[int]) -> int:
    """The row of `EVERY`."""
    return int(np.dot(candidate, 4 ** np.arange(6, -1, -1)))


class Known:
    """Stands where an `Evaluator` stands: scores are accuracies of one training.

    Args:
        network: what plans are of.
        table: latencies on the target.
        target: what that is.
        accuracies: (16384,) of one training, shares.
    """

    def __init__(self, network: Network, table: LatencyTable, target: str, accuracies: np.ndarray) -> None:
        self.model, self.planner, self.space = network.model, network.planner, network.space
        self._table = table
        self._target = Target(target, BATCH)
        self._accuracies = accuracies

    def evaluate(self, candidate: Candidate, draw: int = 0) -> Evaluation:
        row, widths = index_of(candidate), self.space.by_name(candidate)
        ratios = dict(zip(self.space.names, self.space.keep_ratios(candidate).tolist(), strict=True))
        accuracy = float(self._accuracies[row])
        return Evaluation(key=str(row), keep_ratios=ratios, widths=widths, accuracy=accuracy, cost=self.cost(candidate))

    def evaluate_many(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        return map(self.evaluate, candidates)

    def cost(self, candidate: Candidate) -> CostReport:
        row = index_of(candidate)
        return CostReport(
            target=self._target,
            kind="compiler estimate",
            latency=float(self._table.latencies[row]),
            latency_sum=None,
            latency_iqr=None,
            memory=Memory(0, None, None, None),
            flops=1,
            parameters=1,
            layers=self._table.layers_of(row),
        )

    def relax(self, seed: int) -> Any:
        raise SystemExit("searchers that train the network, such as dais, need images: the benchmark holds none.")

    def note(self, searcher: str, number: int, evaluation: Evaluation) -> None:
        pass


class Truth:
    """What plans within a budget are worth, by what a search has not seen.

    Args:
        accuracies: (16384, 3) per cent.
        within: (16384,) whether plans are within the budget.
    """

    def __init__(self, accuracies: np.ndarray, within: np.ndarray) -> None:
        self._accuracies = accuracies
        self._within = within
        terms = [np.ones(len(EVERY)), *(EVERY[:, i] == o for i in range(7) for o in range(3))]
        for i, j in itertools.combinations(range(7), 2):
            terms += [(EVERY[:, i] == o) & (EVERY[:, j] == p) for o in range(3) for p in range(3)]
        design = np.stack(terms, axis=1).astype(float)
        weights = np.linalg.lstsq(design[within], accuracies.mean(1)[within], rcond=None)[0]
        self._expected = design @ weights

    def regret(self, row: int, training: int) -> tuple[float, float]:
        """Points that a plan is behind the best: by the mean of the other trainings, and as expected."""
        others = np.delete(self._accuracies, training, axis=1).mean(1)
        return (
            float(others[self._within].max() - others[row]),
            float(self._expected[self._within].max() - self._expected[row]),
        )


def search(name: str, problem: Problem, known: Known, surrogate: Surrogate, evaluations: int, seed: int) -> dict:
    """One search: which plans it returns, by the rule and by the best single score."""
    evaluator = BudgetedEvaluator(known, problem, name=name, limits=LimitsSettings(evaluations), surrogate=surrogate)
    kind, agent = SEARCHERS.get(name if name in SEARCHERS else "rl"), AgentSettings()
    start = time.perf_counter()
    kind.build(problem, evaluator, seed=seed, agent=agent).run()
    (chosen,) = find_finalists(evaluator, 1, hand_set=is_hand_set(name), again=0)
    luckiest = evaluator.history.best
    return {
        "chosen": int(chosen.key),
        "luckiest": int(luckiest.evaluation.key) if luckiest else None,
        "costed": evaluator.costed,
        "seconds": round(time.perf_counter() - start, 2),
    }


def pose(known: Known, budget: float, network: Network) -> tuple[Problem, Surrogate]:
    """The problem, and a surrogate that has learnt from the uniform plans."""
    surrogate = Surrogate(network.space.sizes, network.layers)
    return build_problem(known, BudgetSettings(budget), surrogate=surrogate), surrogate


def measure_gaps(problem: Problem, known: Known, surrogate: Surrogate, seeds: int) -> dict[str, float]:
    """How far the solver's plan is from the best of all 16,384 by the same predictions, in points of the score."""
    gaps = []
    for seed in range(seeds):
        evaluator = BudgetedEvaluator(known, problem, name="gaps", limits=LimitsSettings(99), surrogate=surrogate)
        generator = np.random.default_rng(seed)
        draws = [problem.space.random(generator, problem.anchor) for _ in range(24)]
        evaluator.evaluate_many([Proposal(each) for each in draws])
        model = RewardModel(evaluator)
        model.learn()
        solver = Solver(model, generator)
        found = solver._climb(np.empty((0, 7), int), explore=False)
        most, best = (float(solver._worth(rows, explore=False).max()) for rows in (found, EVERY))
        gaps.append(100 * problem.dense.score * (best - most))
    return {"seeds": seeds, "mean": float(np.mean(gaps)), "most": max(gaps)}


def main() -> None:
    arguments = parse()
    network = Network()
    stored = json.loads(LATENCIES.read_text()) if LATENCIES.exists() else {}
    stored = {target: stored.get(target, []) for target in arguments.targets} | stored
    if arguments.compile:
        for done in network.compile(arguments.targets, arguments.compile, stored):
            LATENCIES.write_text(json.dumps(stored, separators=(",", ":")).replace("]],[[", "]],\n[[") + "\n")
            print(f"{done} of {arguments.compile} plans compiled", flush=True)
        return
    if not arguments.data:
        raise SystemExit("Expected --data resnet.json, the file of Channel-Bench-Macro.")
    opened = lzma.open if arguments.data.endswith(".xz") else open
    with opened(arguments.data) as file:
        read = json.load(file)
    accuracies = np.array([read["".join(str(option + 1) for option in row)]["acc"] for row in EVERY.tolist()])
    path = Path(arguments.out or RESULTS / "channel_bench.json")
    results = json.loads(path.read_text()) if path.exists() else {"held_out": {}, "gaps": {}, "cells": {}}
    for target, budget in itertools.product(arguments.targets, arguments.budgets):
        table = LatencyTable(network, stored[target])
        results["held_out"][target] = hold_out(network, stored[target])
        truth = Truth(accuracies, table.latencies <= budget * table.latencies[-1])
        label = f"{target} {budget:g}"
        if arguments.gaps:
            known = Known(network, table, target, accuracies[:, 0] / 100)
            problem, surrogate = pose(known, budget, network)
            results["gaps"][label] = measure_gaps(problem, known, surrogate, arguments.gaps)
            print(label, "gaps", results["gaps"][label], flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
        cells = itertools.product(arguments.evaluations, range(arguments.seeds), arguments.searchers)
        for evaluations, seed, name in cells:
            runs = results["cells"].setdefault(f"{name}, {label}, {evaluations} evaluations", [])
            if len(runs) > seed or (is_hand_set(name) and seed > 2):
                continue
            known = Known(network, table, target, accuracies[:, seed % 3] / 100)
            problem, surrogate = pose(known, budget, network)
            run = search(name, problem, known, surrogate, evaluations, seed)
            for kind in ("chosen", "luckiest"):
                if run[kind] is not None:
                    run[f"{kind}_regret"], run[f"{kind}_expected"] = truth.regret(run[kind], seed % 3)
            runs.append(run)
            path.write_text(json.dumps(results, indent=1) + "\n")
    print(summarise(results))


def summarise(results: dict) -> str:
    """Mean regrets with their standard errors, in points, one line a cell."""
    lines = []
    for name, runs in results["cells"].items():
        figures = []
        for kind in ("chosen_regret", "chosen_expected", "luckiest_expected"):
            values = [run[kind] for run in runs if kind in run]
            figures.append(f"{kind} {np.mean(values):.3f} +- {np.std(values) / max(len(values), 1) ** 0.5:.3f}")
        lines.append(f"{name}, {len(runs)} seeds: {', '.join(figures)}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="resnet.json of Channel-Bench-Macro, as it is or compressed (.xz)")
    parser.add_argument("--compile", type=int, help="compile so many plans for each target, and end")
    parser.add_argument("--targets", nargs="+", default=["tpu_v3", "tpu_v5e"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.35])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[30, 100])
    parser.add_argument("--searchers", nargs="+", default=["uniform", "random", "greedy", "evolution", "exact", "rl"])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--gaps", type=int, default=0, help="seeds for which the solver is held against all plans")
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
