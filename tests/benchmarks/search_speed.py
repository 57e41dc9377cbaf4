"""What makes a search quick: evaluations per minute with and without each of its devices.

    python tests/benchmarks/search_speed.py

The same random plans of VGG-16 are evaluated in several ways that take turns, plan by plan, so that all see the same
machine: as a search does it (the compiler works while the accuracy is taken), one after the other, with compilations
remembered from an earlier search, with plans brought onto the budget by guesses, and with a surrogate that learns
nothing. Images are random: their content does not change the time. Then the plans are costed, without accuracies, by
one compiler process and by two. Results go to `tests/benchmarks/results/search_speed.json`.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.data import from_arrays
from autoprune.evaluation import Evaluator, Journal
from autoprune.models import zoo
from autoprune.planning import Candidate, Planner
from autoprune.records import Target
from autoprune.searchers import BudgetedEvaluator, Proposal, build_problem
from autoprune.settings import BudgetSettings, EvaluationSettings, LimitsSettings

RESULTS = Path(__file__).parent / "results" / "search_speed.json"
SEARCH, IN_TURN, REMEMBERED, PROJECTED, BLIND = (
    "as a search does it",
    "compiler and accuracy in turn",
    "compilations remembered",
    "with plans projected",
    "without a surrogate",
)


class Waiting:
    """A cost model whose answer is waited for before anything else is done."""

    def __init__(self, inner: CostModel) -> None:
        self.target = inner.target
        self._inner = inner

    def submit(self, model: Any) -> Future:
        answer = self._inner.submit(model)
        answer.exception()
        return answer

    def close(self) -> None:
        self._inner.close()


class Ways:
    """Evaluators for one model, one for each way."""

    def __init__(self, stack: ExitStack, arguments: argparse.Namespace, scratch: Path) -> None:
        self.model = zoo.build("vgg16", None, None)
        self.planner = Planner(self.model)
        generator = np.random.default_rng(0)
        images = generator.random((2 * arguments.images, 32, 32, 3), np.float32)
        labels = np.arange(2 * arguments.images) % 10
        data = from_arrays(images, labels, images[:10], labels[:10], reward_size=arguments.images)
        self.target = Target(arguments.target, 128)
        self.evaluators = {}
        for number, name in enumerate((SEARCH, IN_TURN, REMEMBERED, PROJECTED, BLIND)):
            cache = str(scratch / "remembered.sqlite") if name == REMEMBERED else "off"
            cost_model = stack.enter_context(closing(open_cost_model(self.target, cache=cache, processes=1)))
            journal = stack.enter_context(closing(Journal(scratch / f"{number}.sqlite", {})))
            self.evaluators[name] = Evaluator(
                self.model,
                self.planner,
                data,
                cost_model=Waiting(cost_model) if name == IN_TURN else cost_model,
                journal=journal,
                settings=EvaluationSettings(recovery="none", score="accuracy"),
            )

    def candidates(self, count: int, seed: int) -> Iterator[Candidate]:
        generator = np.random.default_rng(seed)
        for _ in range(count):
            yield self.planner.space.random(generator, 0.6)

    def budgeted(self, evaluations: int) -> dict[str, BudgetedEvaluator]:
        """One for each way, each with a surrogate of its own but for the way without."""
        layers = layer_dependences(self.model, self.planner.parts)
        made = {}
        for name, evaluator in self.evaluators.items():
            problem = build_problem(evaluator, BudgetSettings(latency=0.6))
            surrogate = None if name == BLIND else Surrogate(self.planner.space.sizes, layers)
            made[name] = BudgetedEvaluator(
                evaluator,
                problem,
                name=name,
                limits=LimitsSettings(evaluations, project=name == PROJECTED),
                surrogate=surrogate,
            )
        return made


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def evaluations(ways: Ways, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every plan's evaluation, way by way."""
    budgeted = ways.budgeted(arguments.plans)
    for candidate in ways.candidates(arguments.taught, seed=1):
        budgeted[PROJECTED].cost(candidate)
    seconds: dict[str, list[float]] = {name: [] for name in ways.evaluators}
    for number, candidate in enumerate(ways.candidates(arguments.plans, seed=0)):
        # What is to be remembered is compiled first, outside the clock.
        ways.evaluators[REMEMBERED].cost(candidate)
        names = list(ways.evaluators)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(timed(lambda: budgeted[name].evaluate_many([Proposal(candidate)])))  # noqa: B023
        print(number + 1, {name: round(times[-1], 2) for name, times in seconds.items()}, flush=True)
    return seconds


def throughput(ways: Ways, count: int) -> dict[str, float]:
    """Seconds for costing plans that all wait in line, by one and by two processes."""
    result = {}
    for processes in (1, 2):
        with closing(CompilerPool(processes)) as pool:
            cost_model = open_cost_model(ways.target, cache="off", client=pool)
            cost_model.submit(ways.model).result()
            evaluator = ways.evaluators[SEARCH]
            evaluator._cost_model = cost_model
            plans = list(ways.candidates(count, seed=2))
            result[str(processes)] = timed(lambda: list(evaluator.costs(plans)))  # noqa: B023
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=10)
    parser.add_argument("--taught", type=int, default=14)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        ways = Ways(stack, arguments, Path(scratch))
        seconds = evaluations(ways, arguments)
        processes = throughput(ways, arguments.plans)
    base = np.median(seconds[SEARCH])
    results = {
        "arguments": {name: value for name, value in vars(arguments).items() if name != "out"},
        "cores": os.cpu_count(),
        "evaluations_per_minute": {name: 60 / float(np.median(times)) for name, times in seconds.items()},
        "over_search": {name: float(base / np.median(times)) for name, times in seconds.items()},
        "seconds": seconds,
        "two_processes_over_one": processes["1"] / processes["2"],
    }
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    print("| way | evaluations per minute | ratio |\n|---|---|---|")
    for name, rate in results["evaluations_per_minute"].items():
        print(f"| {name} | {rate:.1f} | {results['over_search'][name]:.2f} |")
    print(f"plans costed by two compiler processes over one: {results['two_processes_over_one']:.2f}")


if __name__ == "__main__":
    main()
