"""How many more plans do more workers score? On this machine, and with evaluations of fixed cost on many actors of Ray.

    python tests/benchmarks/workers.py

First the small residual network on digits: the same plans scored by one process and by 2 and 4 workers, in turns, each
time with an empty journal, workers that have scored a plan before, and compilations that the cost cache remembers. Then
evaluations that take a second each and no processor: so many actors on a local Ray cluster as machines would be needed
otherwise. What these show is what queue, supervision and Ray cost. Efficiency is the work done over the time that as
many actors had. Results go to `tests/benchmarks/results/workers.json`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "workers.json"
SECONDS = 1.0


def make_handler():
    """Runs in the actors of fixed cost."""

    def handle(request, tell):
        time.sleep(request.get("seconds", 0))
        return {"process": os.getpid()}

    return handle


def measure_fixed(counts: list[int], rounds: int) -> list[dict]:
    """Evaluations of a second each, `rounds` for every actor."""
    from autoprune.errors import WorkerError
    from autoprune.settings import RaySettings
    from autoprune.workers import WorkerPool
    from autoprune.workers.ray_worker import RayWorker, connect

    rows = []
    with connect(RaySettings(resources={"CPU": 0.01})):
        for count in counts:
            begin = time.perf_counter()
            pool = WorkerPool(
                lambda: RayWorker(
                    "workers", name="actor", opening={}, files={}, resources={"CPU": 0.01}, environment={}
                ),
                count,
                bytes_each=0,
                task="wait",
                error=lambda message, task: WorkerError(message),
                read=lambda answer: answer["process"],
            )
            with closing(pool):
                while len(pool.process_ids) < count:
                    for waiting in [pool.submit({"seconds": 0.05}) for _ in range(2 * count)]:
                        waiting.result()
                started = time.perf_counter()
                waiting = [pool.submit({"seconds": SECONDS}) for _ in range(rounds * count)]
                used = len({each.result() for each in waiting})
                wall = time.perf_counter() - started
            row = {
                "actors": count,
                "used": used,
                "evaluations": len(waiting),
                "start_seconds": started - begin,
                "seconds": wall,
                "per_minute": 60 * len(waiting) / wall,
                "efficiency": len(waiting) * SECONDS / (count * wall),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def measure_here(counts: list[int], plans: int, repetitions: int) -> list[dict]:
    """The same plans by so many workers, in turns."""
    from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

    # isort: split
    import numpy as np

    from autoprune.cost.multi_target import open_targets
    from autoprune.data import load_data
    from autoprune.evaluation import Evaluator, Journal
    from autoprune.evaluation.scoring_pool import open_workers
    from autoprune.planning import Planner
    from autoprune.settings import SearchSettings
    from autoprune.training.base_model import base_model

    settings = SearchSettings()
    data = load_data(settings.data)
    model = base_model(settings, data)
    planner, generator = Planner(model), np.random.default_rng(0)
    first, *candidates = (planner.space.random(generator, 0.5) for _ in range(plans + 1))
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder, closing(open_targets(settings.target)) as cost_model:
        for repetition in range(repetitions + 1):
            for count in counts:
                path = Path(folder, f"{repetition}-{count}.sqlite")
                some = SearchSettings(workers=count)
                with (
                    closing(Journal(path, {})) as journal,
                    open_workers(model, planner, data, some) as workers,
                ):
                    evaluator = Evaluator(
                        model,
                        planner,
                        data,
                        cost_model=cost_model,
                        journal=journal,
                        settings=settings.evaluation,
                        workers=workers,
                    )
                    # By every worker: draws other than the first are other evaluations.
                    for draw in range(1, 2 if workers is None else 2 * count + 1):
                        evaluator.evaluate(first, draw) if workers is None else workers.submit(
                            planner.space.plan(first), draw
                        )
                    evaluator.evaluate(first)
                    begin = time.perf_counter()
                    found = [evaluation.score for evaluation in evaluator.evaluate_many(candidates)]
                    wall = time.perf_counter() - begin
                if repetition == 0 and count == counts[0]:
                    expected = found
                    break  # This one compiled them.
                assert found == expected, "workers score as one process does"
                seconds[count].append(wall)
                print(f"{count} workers: {plans} plans in {wall:.1f} s", flush=True)
    alone = statistics.median(seconds[counts[0]])
    return [
        {
            "workers": count,
            "plans": plans,
            "per_minute": 60 * plans / statistics.median(walls),
            "speed_over_one": alone / statistics.median(walls),
            "seconds": walls,
        }
        for count, walls in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--plans", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20, help="evaluations for each actor")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    results = {"cores": len(os.sched_getaffinity(0)), "fixed_seconds": SECONDS}
    results["fixed"] = measure_fixed(arguments.actors, arguments.rounds)
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    results["here"] = measure_here(arguments.workers, arguments.plans, arguments.repetitions)
    Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
