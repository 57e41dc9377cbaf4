"""What all uniform plans of a network cost, and how many of them must be compiled to find the widest within a budget.

    python tests/benchmarks/bracketing.py

Every plan of a hand-set rule is costed. For budgets from 10 to 99.5 % of the dense latency the widest plan within is
then found by `autoprune.searchers.bracketing` and by costing from wide to narrow: where they differ, its margin is too
small. Nothing is trained. Latencies go to `tests/benchmarks/results/bracketing.json`, which tests read.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.searchers.bracketing import find_widest
from autoprune.searchers.hand_set import hand_set_candidates
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results" / "bracketing.json"
# Network, image, width factor, target, batch, multiples, rule.
CASES = [
    ("small_resnet", (8, 8, 1), 1.0, "tpu_v5e", 128, 8, "uniform"),
    ("small_resnet", (8, 8, 1), 1.0, "tpu_v5e", 128, 8, "uniform_width"),
    ("plain_cnn", (28, 28, 1), 1.0, "tpu_v5e", 128, 8, "uniform"),
    ("vgg16", (28, 28, 1), 0.25, "tpu_v3", 8, 4, "uniform"),
    ("vgg16", (28, 28, 1), 0.25, "tpu_v3", 128, 4, "uniform"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of CASES; the rest stays"
    )
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    out = Path(arguments.out)
    rows = {row["case"]: row for row in json.loads(out.read_text())} if out.exists() else {}
    for number in arguments.cases:
        name, shape, width, target, batch, multiple, rule = CASES[number]
        with closing(open_cost_model(Target(target, batch))) as cost_model:
            model = zoo.build(name, shape, 10, width=width)
            case = f"{name} {width} {target} {batch} {rule}"
            rows[case] = {"case": case, "latencies": latencies(model, multiple, rule, cost_model)}
        out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    print(
        "| case | plans | budgets met: compiled, from wide to narrow | not met | other answers |\n|---|---|---|---|---|"
    )
    for case, row in rows.items():
        print(line(case, np.array(row["latencies"])))


def latencies(model: object, multiple: int, rule: str, cost_model: CostModel) -> list[float]:
    """Seconds of every plan of a rule, from wide to narrow."""
    planner, surgeon = Planner(model, constraints=Constraints(multiple_of=multiple)), Surgeon(model)
    snapshot, pending = surgeon.snapshot(), []
    for candidate in hand_set_candidates(rule, planner.space):
        with surgeon.pruning(planner.space.plan(candidate), snapshot):
            pending.append(cost_model.submit(model))
    return [answer.result().latency for answer in pending]


def line(case: str, seconds: np.ndarray) -> str:
    """Mean numbers of compilations by both ways, and for how many budgets their answers differ."""
    counts: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    others = 0
    for share in np.arange(0.1, 1, 0.005):
        excesses, costed = seconds / (share * seconds[0]) - 1, []
        found = find_widest(len(seconds), lambda number: costed.append(number) or excesses[number])  # noqa: B023
        first = next((number for number, excess in enumerate(excesses) if excess <= 0), None)
        others += found != first
        counts[first is not None].append((len(costed), len(seconds) if first is None else first + 1))
    means = [" / ".join(f"{mean:.1f}" for mean in np.mean(counts[met], axis=0)) for met in (True, False) if counts[met]]
    return f"| {case} | {len(seconds)} | {' | '.join(means)} | {others} |"


if __name__ == "__main__":
    main()
