"""How fast is surgery? autoprune beside Torch-Pruning on ResNet-50 and VGG-16, half of every group's channels removed.

    pip install ".[bench]"
    python tests/benchmarks/surgery.py --repetitions 7

Both remove channels of least L1 norm from the same architecture, `keras.applications` on one side and
`torch_networks.py` on the other; the classifier's outputs stay. Torch-Pruning's magnitude importance also reads the
weights that consume a channel, autoprune's `l1` only those that make it. Measured:

- **whole**: from a network to a pruned one. For autoprune twice: `make_plan` and `apply_plan`, as a user calls them,
  and `Planner` and `Surgeon`, which share the groups. For Torch-Pruning: `BasePruner` and its `step`.
- **stages**: tracing finds what must be removed together, planning ranks and chooses channels, surgery removes them.
  They add up to `whole`, shared groups on autoprune's side. `Planner` traces by itself, so that its planning is what it
  takes beyond a trace of the same network.
- **episode**: what each plan of a search costs beside scoring it: `apply` and `restore` of a network, against building
  that network anew, and against a deep copy of it pruned by Torch-Pruning.
- **memory** of the pruned network, against a network built at the pruned widths: bytes of its variables, and what it
  adds to the memory of a fresh process, garbage collected and free heap handed back to the system. oneDNN is off there:
  TensorFlow's allocator for oneDNN keeps what it has freed for later use, so that no process would shrink.

Each side has a process of its own, with equally many threads, and they take turns; every turn starts from a newly built
network. The first repetition warms up and does not count. A busy machine slows the threads of PyTorch many times more
than autoprune, which mostly has one: a turn waits for the machine to be quiet, and is taken again when others took more
than a tenth of it, as long as `--patience` lasts. The results say how much they took.

Parameters are counted with the means and variances of batch norm, before and after: both sides must agree on the size
of every variable. Results go to `tests/benchmarks/results/surgery.json`. `--quick` shows in a minute that everything
runs; its small images say little, and are written only where `--out` says.
"""

import argparse
import copy
import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "surgery.json"
NETWORKS = {"ResNet-50": ("ResNet50", "resnet50"), "VGG-16": ("VGG16", "vgg16")}  # In Keras, in torch_networks.
LIBRARIES = ("autoprune", "keras", "tensorflow", "torch", "torch-pruning", "numpy")
KEEP_RATIO = 0.5
STAGES = ("trace", "planning", "surgery")
BUSY = 0.1  # Share of the machine that other processes may take.
ATTEMPTS = 3  # At a turn, until others are quiet.
# Step, its two sides (process and measured step), and the goal for the ratio.
COMPARISONS = (
    ("whole, make_plan + apply_plan", ("keras", "user/whole"), ("torch", "whole"), 0.5),
    ("whole, Planner + Surgeon", ("keras", "lean/whole"), ("torch", "whole"), 0.5),
    *((f"stage: {stage}", ("keras", f"lean/{stage}"), ("torch", stage), None) for stage in STAGES),
    ("episode, against building anew", ("keras", "episode/whole"), ("keras", "episode/build"), 0.1),
    ("episode, against deep copy + prune", ("keras", "episode/whole"), ("torch", "deepcopy + prune"), None),
)


@dataclass(frozen=True)
class Case:
    """One network, for square images."""

    network: str
    size: int
    classes: int


def main() -> None:
    arguments = parse()
    cases = [Case(name, *((32, 10) if arguments.quick else (224, 1000))) for name in arguments.networks]
    results = {
        "keep_ratio": KEEP_RATIO,
        "repetitions": arguments.repetitions,
        "threads": arguments.threads,
        "cpus": os.cpu_count(),
        "versions": {"python": sys.version.split()[0], **{n: importlib.metadata.version(n) for n in LIBRARIES}},
        "networks": {},
    }
    for case in cases:
        results["networks"][case.network] = measure(case, arguments)
        if arguments.out:
            Path(arguments.out).write_text(json.dumps(results, indent=1) + "\n")
    print(speed_table(results), size_table(results), sep="\n\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, help="those that count: 7 if not given, 1 if quick")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="all if not given, the first if quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side")
    parser.add_argument("--memory-repetitions", type=int, help="fresh processes: 3 if not given, 1 if quick")
    parser.add_argument("--patience", type=float, help="seconds for all turns: 900, 0 if quick")
    parser.add_argument("--quick", action="store_true", help="small images, few repetitions")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    arguments.networks = arguments.networks or list(NETWORKS)[: 1 if arguments.quick else None]
    arguments.repetitions = arguments.repetitions or (1 if arguments.quick else 7)
    arguments.memory_repetitions = arguments.memory_repetitions or (1 if arguments.quick else 3)
    if arguments.patience is None:
        arguments.patience = 0 if arguments.quick else 900
    arguments.out = arguments.out or (None if arguments.quick else str(RESULTS))
    return arguments


def measure(case: Case, arguments: argparse.Namespace) -> dict:
    """Everything about one network."""
    seconds, sizes, others = time_both(case, arguments)
    memory = [measure_memory(case, arguments.threads) for _ in range(arguments.memory_repetitions)]
    rows = {name: compared(seconds, mine, other, goal) for name, mine, other, goal in COMPARISONS}
    return {
        "input": [case.size, case.size, 3],
        "classes": case.classes,
        "parameters": {side: {when: sum(sizes[side][when]) for when in ("before", "after")} for side in sizes},
        "summary": rows,
        "memory": weighed(memory),
        "share_of_others": others,
        "seconds": seconds,
    }


# ---------------------------------------------------------------------------------------------- turns


@contextmanager
def process(threads: int, initializer: Callable[..., None]) -> Iterator[Callable[..., Any]]:
    """A fresh process; yields what runs a function of this file there and waits for its result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer, (threads,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def start_keras(threads: int) -> None:
    from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

    import tensorflow as tf  # isort: skip

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def start_keras_that_frees(threads: int) -> None:
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    start_keras(threads)


def start_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def time_both(case: Case, arguments: argparse.Namespace) -> tuple[dict, dict, dict]:
    """Seconds of every step, by side and repetition; sizes of all variables before and after; what others took."""
    seconds: dict[str, dict[str, list[float]]] = {"keras": {}, "torch": {}}
    others: dict[str, list[float]] = {}
    with process(arguments.threads, start_keras) as in_keras, process(arguments.threads, start_torch) as in_torch:
        sizes = {"keras": in_keras(keras_sizes, case), "torch": in_torch(torch_sizes, case)}
        if sizes["keras"] != sizes["torch"]:
            raise AssertionError(f"The two sides of {case.network} differ in their variables: {sizes}")
        patience = Patience(arguments.patience)
        turns = [("keras", in_keras, work) for work in (as_user, as_search, episode)]
        turns.append(("torch", in_torch, with_torch_pruning))
        for repetition in range(arguments.repetitions + 1):
            for side, run, work in turns if repetition % 2 else reversed(turns):
                measured, share = quietly(run, work, case, patience if repetition else Patience(0))
                for step, value in measured.items() if repetition else ():
                    seconds[side].setdefault(step, []).append(value)
                others.setdefault(work.__name__, []).extend([share] if repetition else [])
            print(f"{case.network}: repetition {repetition} of {arguments.repetitions}", flush=True)
    return seconds, sizes, others


class Patience:
    """How long to wait for other processes, in seconds that are used up."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait_for_quiet(self) -> None:
        import psutil

        while self.left > 0 and psutil.cpu_percent(0.5) / 100 > BUSY:
            self.left -= 0.5


def quietly(run: Callable[..., Any], work: Callable[..., Any], case: Case, patience: Patience) -> tuple[dict, float]:
    """Take a turn; returns the seconds of the attempt that other processes disturbed least, and their share of it."""
    attempts = []
    for _ in range(ATTEMPTS):
        patience.wait_for_quiet()
        busy, start = busy_seconds(), time.perf_counter()
        measured, own = run(charged, work, case)
        passed = time.perf_counter() - start
        attempts.append((measured, (busy_seconds() - busy - own) / (passed * os.cpu_count())))
        if attempts[-1][1] <= BUSY or patience.left <= 0:
            break
        patience.left -= passed
    return min(attempts, key=lambda attempt: attempt[1])


def charged(work: Callable[[Case], dict], case: Case) -> tuple[dict[str, float], float]:
    """What the work returns, and the processor time that it took in this process."""
    start = time.process_time()
    return work(case), time.process_time() - start


def busy_seconds() -> float:
    """Processor time that this machine has spent on anything."""
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def compared(seconds: dict, mine: tuple[str, str], other: tuple[str, str], goal: float | None) -> dict:
    """Median and minimum of both sides, and the ratio of the medians."""
    sides = [seconds[side][step] for side, step in (mine, other)]
    medians = [statistics.median(values) for values in sides]
    return {
        "medians": medians,
        "minima": [min(values) for values in sides],
        "ratio": medians[0] / medians[1],
        "goal": goal,
    }


def weighed(runs: list[dict]) -> dict:
    """Bytes of the pruned network over those of the built one: in its variables, and in the process by the medians."""
    result = {}
    for what in ("variables", "process"):
        pruned, built = ([run[kind][what] for run in runs] for kind in ("pruned", "built"))
        ratio = statistics.median(pruned) / statistics.median(built)
        result[what] = {"pruned": pruned, "built": built, "ratio": ratio, "goal": 1.05}
    return result


# ---------------------------------------------------------------------------------------------- autoprune


def as_user(case: Case) -> dict[str, float]:
    import autoprune

    model = build_keras(case)
    clock = Clock()
    plan = autoprune.make_plan(model, KEEP_RATIO, importance="l1", multiple_of=1)
    clock.lap("user/make_plan")
    autoprune.apply_plan(model, plan)
    clock.lap("user/apply_plan")
    return clock.with_sum("user/whole")


def as_search(case: Case) -> dict[str, float]:
    """The same through the classes that a search uses, which find the groups once."""
    from autoprune.graph import find_groups
    from autoprune.planning import Planner
    from autoprune.settings import Constraints
    from autoprune.surgery import Surgeon

    model = build_keras(case)
    clock = Clock()
    find_groups(model)
    clock.lap("lean/trace")
    planner = Planner(model, importance="l1", constraints=Constraints(multiple_of=1))
    plan = planner.plan(KEEP_RATIO)
    clock.lap("lean/planning")
    Surgeon(model, planner.all_groups, planner.fingerprint).apply(plan)
    clock.lap("lean/surgery")
    # The planner has traced the network once more.
    clock.laps["lean/planning"] -= clock.laps["lean/trace"]
    return clock.with_sum("lean/whole")


def episode(case: Case) -> dict[str, float]:
    from autoprune.planning import Planner
    from autoprune.settings import Constraints
    from autoprune.surgery import Surgeon

    clock = Clock()
    model = build_keras(case)
    build = clock.lap("build")
    planner = Planner(model, importance="l1", constraints=Constraints(multiple_of=1))
    plan = planner.plan(KEEP_RATIO)
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    snapshot = surgeon.snapshot()
    clock = Clock()
    with surgeon.pruning(plan, snapshot):
        clock.lap("episode/apply")
    clock.lap("episode/restore")
    return {**clock.with_sum("episode/whole"), "episode/build": build}


def build_keras(case: Case) -> Any:
    import keras

    build = getattr(keras.applications, NETWORKS[case.network][0])
    return build(weights=None, input_shape=(case.size, case.size, 3), classes=case.classes)


def prune_keras(model: Any) -> None:
    import autoprune

    autoprune.apply_plan(model, autoprune.make_plan(model, KEEP_RATIO, importance="l1", multiple_of=1))


def keras_sizes(case: Case) -> dict[str, list[int]]:
    model = build_keras(case)
    before = [variable.numpy().size for variable in model.variables]
    prune_keras(model)
    return {"before": sorted(before), "after": sorted(variable.numpy().size for variable in model.variables)}


# ---------------------------------------------------------------------------------------------- Torch-Pruning


def with_torch_pruning(case: Case) -> dict[str, float]:
    clock = Clock()
    network = build_torch(case)
    build = clock.lap("build")
    clock = Clock()
    duplicate = copy.deepcopy(network)
    copying = clock.lap("deepcopy")
    again = copying + prune_torch(duplicate, case)["whole"]
    del duplicate
    return {**prune_torch(network, case), "deepcopy + prune": again, "build": build}


def build_torch(case: Case) -> Any:
    import torch_networks

    return getattr(torch_networks, NETWORKS[case.network][1])(case.size, case.classes)


def torch_sizes(case: Case) -> dict[str, list[int]]:
    from torch_networks import variable_sizes

    network = build_torch(case)
    before = variable_sizes(network)
    prune_torch(network, case)
    return {"before": sorted(before), "after": sorted(variable_sizes(network))}


def prune_torch(network: Any, case: Case) -> dict[str, float]:
    import torch
    import torch_pruning

    image = torch.rand(1, 3, case.size, case.size)
    clock = Clock()
    pruner = torch_pruning.pruner.BasePruner(
        network,
        example_inputs=image,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=1 - KEEP_RATIO,
        ignored_layers=[network.classifier],
    )
    clock.lap("trace")
    # What `step()` does: it ranks the first time a group is asked for, then names one group after the other.
    for group in pruner.step(interactive=True):
        clock.lap("planning")
        group.prune()
        clock.lap("surgery")
    clock.lap("planning")
    return clock.with_sum("whole")


# ---------------------------------------------------------------------------------------------- memory


def measure_memory(case: Case, threads: int) -> dict:
    """Bytes of the pruned network and of one built at its widths, each in a fresh process."""
    with process(threads, start_keras_that_frees) as run:
        pruned, recipe = run(weigh_pruned, case)
    with process(threads, start_keras_that_frees) as run:
        built = run(weigh_built, recipe)
    return {"pruned": pruned, "built": built}


def weigh_pruned(case: Case) -> tuple[dict[str, int], str]:
    """What the pruned network takes, and its architecture as JSON."""
    base = base_bytes()
    model = build_keras(case)
    prune_keras(model)
    return weigh(model, base), model.to_json()


def weigh_built(recipe: str) -> dict[str, int]:
    """What a network built from JSON takes."""
    import keras

    base = base_bytes()
    return weigh(keras.models.model_from_json(recipe), base)


def weigh(model: Any, base: int) -> dict[str, int]:
    taken = resident_bytes() - base
    return {"process": taken, "variables": sum(variable.numpy().nbytes for variable in model.variables)}


def base_bytes() -> int:
    """Memory of the process once everything has been used on a small network: what the libraries take."""
    import keras

    small = build_keras(Case("ResNet-50", 32, 10))
    prune_keras(small)
    again = keras.models.model_from_json(small.to_json())
    del small, again
    return resident_bytes()


def resident_bytes() -> int:
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


# ---------------------------------------------------------------------------------------------- reporting


class Clock:
    """Adds up seconds by step. Starts on a collected heap: one side's garbage is not the next step's time."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        gc.collect()
        self._since = time.perf_counter()

    def lap(self, step: str) -> float:
        """Charge the time since the last call to a step; returns the step's total."""
        now = time.perf_counter()
        self.laps[step] = self.laps.get(step, 0.0) + now - self._since
        self._since = time.perf_counter()
        return self.laps[step]

    def with_sum(self, name: str) -> dict[str, float]:
        return {**self.laps, name: sum(self.laps.values())}


def speed_table(results: dict) -> str:
    lines = [
        "| network | step | autoprune | compared with | ratio | goal |",
        "|---|---|---|---|---|---|",
    ]
    for network, result in results["networks"].items():
        for step, row in result["summary"].items():
            mine, other = (f"{1000 * seconds:.0f} ms" for seconds in row["medians"])
            goal = f"{row['goal']:g}" if row["goal"] else "-"
            lines.append(f"| {network} | {step} | {mine} | {other} | {row['ratio']:.3f} | {goal} |")
    lines.append(f"\nMedians, threads of each side: {results['threads']}.")
    for network, result in results["networks"].items():
        share = max(statistics.median(run) for run in result["share_of_others"].values())
        verdict = ": disturbed, do not rely on it" if share > BUSY else ""
        lines.append(f"{network}: other processes took {share:.0%} of the machine{verdict}.")
    return "\n".join(lines)


def size_table(results: dict) -> str:
    lines = [
        "| network | parameters | pruned | memory of | pruned | built so | ratio | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, result in results["networks"].items():
        counts = result["parameters"]["keras"]
        for what, row in result["memory"].items():
            pruned, built = (f"{statistics.median(row[kind]) / 2**20:.1f} MiB" for kind in ("pruned", "built"))
            lines.append(
                f"| {network} | {counts['before']:,} | {counts['after']:,} | {what} | {pruned} | {built} "
                f"| {row['ratio']:.3f} | {row['goal']:g} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
