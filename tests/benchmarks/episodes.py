"""What does an episode of surgery cost where branches go, and is the network afterwards what it was?

    python tests/benchmarks/episodes.py

For each network random plans are applied and taken back in turns: one of random widths, then the same without half of
the branches, a thousand of them in all. The table has the ratio of the times, and how much the process has grown
between the hundredth and the last plan, beside what the network's variables take. After each plan layers and
connections, at the end all variables and outputs are compared to the bit with what they were; the script fails where
they differ.

Results go to `tests/benchmarks/results/episodes.json`.
"""

import argparse
import gc
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

# isort: split
import keras
import psutil

from autoprune.errors import PlanError
from autoprune.models import applications, zoo
from autoprune.models.fingerprint import architecture_fingerprint, weights_fingerprint
from autoprune.planning import Planner
from autoprune.records import Plan
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results" / "episodes.json"
NETWORKS = ("resnet20", "mobilenet_v2", "ResNet50")
SETTLED = 100  # Plans after which memory is weighed for the first time.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    path = Path(arguments.out)
    # Rows of networks that are not measured now stay.
    results = {**(json.loads(path.read_text()) if path.exists() else {"networks": {}}), "plans": arguments.plans}
    for name in arguments.networks:
        results["networks"][name] = measure(name, arguments.plans)
        print(name, json.dumps(results["networks"][name]), flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


def measure(name: str, count: int) -> dict[str, float]:
    """Times, growth and equality for one network.

    Raises:
        AssertionError: the network is not what it was.
    """
    shape, chance = (32, 32, 3), np.random.default_rng(0)
    network = applications.build(name, shape, 10) if name in applications.names() else zoo.build(name, shape, 10)
    planner = Planner(network, constraints=Constraints(multiple_of=4))
    surgeon = Surgeon(network, planner.all_groups, planner.fingerprint)
    snapshot, images = surgeon.snapshot(), chance.normal(size=(2, *shape)).astype("float32")
    before = state(network, images)
    seconds: dict[str, list[float]] = {"widths": [], "drops": []}
    process, weighed, gone = psutil.Process(), 0, []
    for number in range(count // 2):
        ratios = {group.name: float(chance.choice([0.25, 0.5, 0.75])) for group in planner.groups}
        widths = planner.plan(ratios)
        drops = without_half(surgeon, widths, chance)
        gone.append(len(drops.dropped))
        for kind, plan in (("widths", widths), ("drops", drops)):
            start = time.process_time()
            surgeon.apply(plan)
            surgeon.restore(snapshot)
            seconds[kind].append(time.process_time() - start)
            assert architecture_fingerprint(network) == before[0], f"{name}, plan {number}"
        if number == SETTLED // 2:
            gc.collect()
            weighed = process.memory_info().rss
    gc.collect()
    after = state(network, images)
    assert after[:2] == before[:2]
    np.testing.assert_array_equal(after[2], before[2])
    ratios_of_times = np.divide(seconds["drops"], seconds["widths"])
    return {
        "branches": len(planner.branches),
        "dropped_mean": float(np.mean(gone)),
        "milliseconds_widths": 1000 * float(np.median(seconds["widths"])),
        "milliseconds_drops": 1000 * float(np.median(seconds["drops"])),
        "drops_over_widths_median": float(np.median(ratios_of_times)),
        "drops_over_widths_quartiles": [float(value) for value in np.quantile(ratios_of_times, [0.25, 0.75])],
        "grown_mebibytes": (process.memory_info().rss - weighed) / 2**20,
        "variables_mebibytes": sum(np.prod(variable.shape) for variable in network.variables) * 4 / 2**20,
    }


def state(network: keras.Model, images: np.ndarray) -> tuple[str, str, np.ndarray]:
    """What a network is: layers and connections, the bits of its weights, what it says of images."""
    outputs = keras.ops.convert_to_numpy(network(images))
    return architecture_fingerprint(network), weights_fingerprint(network), outputs


def without_half(surgeon: Surgeon, plan: Plan, chance: np.random.Generator) -> Plan:
    """The plan with half of the branches dropped, one after the other as far as they can go together."""
    removable = [branch.name for branch in surgeon.branches if branch.removable and branch.kind != "gate"]
    dropped: tuple[str, ...] = ()
    for name in map(str, chance.permutation(removable)):
        if len(dropped) == len(removable) // 2:
            break
        try:
            surgeon.check(replace(plan, dropped=(*dropped, name)))
        except PlanError:
            continue
        dropped = (*dropped, name)
    return replace(plan, dropped=tuple(name for name in removable if name in dropped))


if __name__ == "__main__":
    main()
