"""Where the time of a search goes: accuracy, compiler, surgery, and what the searcher itself takes.

    python tests/benchmarks/breakdown.py

Each searcher searches on the same problem, with nothing remembered but the uniform plans that all start from. What the
evaluator does is timed part by part; what is left of the wall time is the searcher's own, thinking and learning. The
compiler works beside the accuracy: only the time that is waited for it is the compiler's. Results go to
`tests/benchmarks/results/breakdown.json`.
"""

import argparse
import copy
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from unittest import mock

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.data import load_data
from autoprune.evaluation import Evaluator, Journal, scoring
from autoprune.evaluation.recovery import ShortTuning
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, build_problem
from autoprune.settings import (
    AgentSettings,
    BudgetSettings,
    DataSettings,
    EvaluationSettings,
    LimitsSettings,
    ModelSettings,
    SearchSettings,
)
from autoprune.surgery import Surgeon
from autoprune.training.base_model import base_model

RESULTS = Path(__file__).parent / "results" / "breakdown.json"


class Clock:
    """Adds up seconds by what they were for. What runs within a timed part is not counted twice."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = False

    def timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return function(*arguments, **options)
            self._inside, start = True, time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self._inside = False
                self.seconds[part] += time.perf_counter() - start

        return timed


class Watched:
    """A cost model whose answers are timed when they are waited for."""

    def __init__(self, inner: CostModel, clock: Clock) -> None:
        self.target, self._inner, self._clock = inner.target, inner, clock

    def submit(self, model: Any) -> Future:
        answer = self._clock.timing("compiler", self._inner.submit)(model)
        answer.result = self._clock.timing("compiler", answer.result)
        return answer


def main() -> None:
    arguments = parse()
    settings = SearchSettings(model=ModelSettings(arguments.model), data=DataSettings(arguments.data))
    data = load_data(settings.data)
    model = base_model(settings, data)
    asked = EvaluationSettings(recovery=arguments.recovery)
    rows = {}
    for name in arguments.searchers:
        planner, clock = Planner(model), Clock()
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cost_model = stack.enter_context(
                closing(open_cost_model(Target(arguments.target, 128), cache=str(scratch / "costs.sqlite")))
            )
            journal = stack.enter_context(closing(Journal(scratch / "journal.sqlite", {})))
            scorer = Evaluator(
                model, planner, data, cost_model=Watched(cost_model, clock), journal=journal, settings=asked
            )
            taught = Surrogate(planner.space.sizes, layer_dependences(model, planner.parts))
            problem = build_problem(scorer, BudgetSettings(latency=arguments.latency), surrogate=taught)
            flat = BudgetedEvaluator(scorer, problem, name="uniform", limits=LimitsSettings(10), surrogate=taught)
            SEARCHERS.get("uniform").build(problem, flat, seed=0, agent=AgentSettings()).run()
            budgeted = BudgetedEvaluator(
                scorer,
                problem,
                name=name,
                limits=LimitsSettings(arguments.evaluations),
                surrogate=copy.deepcopy(taught),
            )
            for place, attribute, part in (
                (scoring, "recalibrate", "accuracy"),
                (scoring, "read_signals", "accuracy"),
                (ShortTuning, "__call__", "recovery"),
                (scoring, "apply_with_reconstruction", "recovery"),
                (Surgeon, "apply", "surgery"),
                (Surgeon, "restore", "surgery"),
                (Journal, "add", "journal"),
                (Journal, "add_request", "journal"),
                (Journal, "find", "journal"),
                (Surrogate, "observe", "surrogate"),
            ):
                timed = clock.timing(part, getattr(place, attribute))
                # A plain function in the class: it must be bound as the original is.
                stack.enter_context(mock.patch.object(place, attribute, timed))
            clock.seconds.clear()
            searcher, agent = (name, AgentSettings()) if name in SEARCHERS else ("rl", AgentSettings(name))
            start = time.perf_counter()
            SEARCHERS.get(searcher).build(problem, budgeted, seed=0, agent=agent).run()
            wall = time.perf_counter() - start
        parts = {**clock.seconds, "searcher": wall - sum(clock.seconds.values())}
        different = len({evaluation.key for evaluation in budgeted.history.evaluations})
        rows[name] = {
            "evaluations_per_minute": 60 * budgeted.used / wall,
            "seconds": wall,
            "different_plans": different,
            "costed_only": budgeted.costed,
            "shares": {part: seconds / wall for part, seconds in parts.items()},
        }
        print(name, rows[name], flush=True)
    described = {key: value for key, value in vars(arguments).items() if key != "out"}
    Path(arguments.out).write_text(json.dumps({"arguments": described, "searchers": rows}, indent=1) + "\n")
    print(table(rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = ["random", "greedy", "evolution", "bayes", "td3", "dyna_ppo"]
    parser.add_argument("--searchers", nargs="+", default=known)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--model", default="small_resnet")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--target", default="tpu_v5e")
    parser.add_argument("--latency", type=float, default=0.6)
    parser.add_argument("--recovery", default="tuning", help="as evaluation.recovery of a search")
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def table(rows: dict[str, dict]) -> str:
    parts = ["accuracy", "recovery", "compiler", "surgery", "surrogate", "journal", "searcher"]
    lines = [f"| searcher | evaluations per minute | {' | '.join(parts)} |", "|---" * (len(parts) + 2) + "|"]
    for name, row in rows.items():
        shares = " | ".join(f"{row['shares'].get(part, 0):.0%}" for part in parts)
        lines.append(f"| {name} | {row['evaluations_per_minute']:.0f} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
