"""Does a process that scores a thousand plans grow, or slow down?

    python tests/benchmarks/endurance.py

The small residual network on digits: random plans of branches and widths are scored one after another by one evaluator,
each tuned and looked at as in a search, each written to the journal. No compiler is asked, which works in processes of
its own: every plan is given the same cost. After each plan the memory of the process, its threads and its open files
are noted, and the time it took. The table compares the last two hundred plans with the second hundred: before that
TensorFlow still makes functions and arenas. Then twenty of the plans are scored fifteen times each, which tells what an
evaluation leaves behind from what new shapes do: TensorFlow keeps a kernel for every shape that it has run. Results go
to `tests/benchmarks/results/endurance.json`, and are drawn in `endurance.png` beside it.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

# isort: split
from matplotlib.figure import Figure

from autoprune.data import load_data
from autoprune.evaluation import Evaluator, Journal
from autoprune.planning import Planner
from autoprune.records import CostReport, Memory, Target
from autoprune.settings import SearchSettings
from autoprune.training.base_model import base_model

RESULTS = Path(__file__).parent / "results" / "endurance.json"
WARM, LAST = slice(100, 200), slice(-200, None)
AGAIN, TIMES = 20, 15


class SameCost:
    """A cost model without a compiler."""

    target = Target("tpu_v5e")

    def submit(self, model) -> Future:
        answer: Future = Future()
        answer.set_result(
            CostReport(
                target=self.target,
                kind="compiler estimate",
                latency=1e-4,
                latency_sum=1e-4,
                latency_iqr=None,
                memory=Memory(1, 1, 1, 3),
                flops=1,
                parameters=1,
            )
        )
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settings = SearchSettings()
    data = load_data(settings.data)
    model = base_model(settings, data)
    planner, generator, process = Planner(model), np.random.default_rng(0), psutil.Process()
    rows = {name: [] for name in ("megabytes", "seconds", "threads", "files", "branches")}
    with tempfile.TemporaryDirectory() as folder, closing(Journal(Path(folder, "journal.sqlite"), {})) as journal:
        evaluator = Evaluator(
            model, planner, data, cost_model=SameCost(), journal=journal, settings=settings.evaluation
        )
        candidates = {}
        while len(candidates) < arguments.plans:
            candidate = planner.space.random(generator, generator.uniform(0.3, 0.9))
            begin = time.perf_counter()
            evaluation = evaluator.evaluate(candidate)
            seconds = time.perf_counter() - begin
            if evaluation.key in candidates:
                continue
            candidates[evaluation.key] = candidate
            rows["megabytes"].append(process.memory_info().rss / 2**20)
            rows["seconds"].append(seconds)
            rows["threads"].append(process.num_threads())
            rows["files"].append(process.num_fds())
            rows["branches"].append(len(planner.space.plan(candidate).dropped))
            if len(candidates) % 20 == 0:
                gc.collect()
                print(f"{len(candidates)} plans: {rows['megabytes'][-1]:.0f} MB, {seconds:.2f} s", flush=True)
        again = []
        for number in range(TIMES):
            with closing(Journal(Path(folder, f"again-{number}.sqlite"), {})) as evaluator.journal:
                for candidate in list(candidates.values())[:AGAIN]:
                    evaluator.evaluate(candidate)
                gc.collect()
                again.append(process.memory_info().rss / 2**20)
    growth = {
        name: statistics.median(rows[name][LAST]) / statistics.median(rows[name][WARM])
        for name in ("megabytes", "seconds", "threads", "files")
    }
    repeated = {"plans": AGAIN, "times": TIMES, "megabytes": again}
    arguments.out.write_text(json.dumps({"plans": arguments.plans, "growth": growth, "again": repeated, **rows}) + "\n")
    draw(rows, arguments.out.with_suffix(".png"))
    print(json.dumps(growth))


def draw(rows: dict[str, list[float]], path: Path) -> None:
    """Memory, and seconds a plan, over the plans."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(rows["megabytes"], color="#0b5fa5")
    upper.set_ylim(0)
    upper.set_ylabel("memory (MB)")
    lower.plot(rows["seconds"], ".", markersize=2, color="#999999")
    windows = [statistics.median(rows["seconds"][max(0, n - 25) : n + 25]) for n in range(len(rows["seconds"]))]
    lower.plot(windows, color="#b5450b", label="median of fifty")
    lower.set_ylim(0, 3 * statistics.median(rows["seconds"]))
    lower.set_ylabel("seconds a plan")
    lower.set_xlabel("plans")
    lower.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
