"""How far pruning can take the latency of a network: every layer cut alike, by network, target and batch.

    python tests/benchmarks/floors.py

For each network as large as told, images of 28x28 as in Fashion-MNIST, the compiled latency of uniform plans as a share
of the dense one. Where even the narrowest plan is nearly as slow as the dense network, its time is not spent on
channels, and no budget below is met by removing them. Nothing is trained. Results go to
`tests/benchmarks/results/floors.json`.
"""

import argparse
import json
from contextlib import closing
from pathlib import Path

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import CostModel, open_cost_model
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results" / "floors.json"
NETWORKS = {"plain_cnn": 1.0, "resnet20": 1.0, "vgg16": 0.25, "mobilenet_v2": 0.5}
RATIOS = (0.75, 0.5, 0.25, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=["tpu_v3", "tpu_v5e"])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--width", type=float, default=None, help="of all networks; by default each has its own")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    rows = []
    for target in arguments.targets:
        for batch in arguments.batches:
            with closing(open_cost_model(Target(target, batch))) as cost_model:
                for name in arguments.networks:
                    width = arguments.width or NETWORKS[name]
                    rows.append(
                        {"network": name, "width": width, "target": target, "batch": batch}
                        | shares(name, width, cost_model)
                    )
                    print(json.dumps(rows[-1]), flush=True)
    Path(arguments.out).write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def shares(name: str, width: float, cost_model: CostModel) -> dict[str, float]:
    """Seconds of the dense network, and the latency of uniform plans as shares of it."""
    model = zoo.build(name, (28, 28, 1), 10, width=width)
    planner, surgeon = Planner(model, constraints=Constraints(multiple_of=4)), Surgeon(model)
    snapshot = surgeon.snapshot()
    dense = cost_model.submit(model)
    pending = {}
    for ratio in RATIOS:
        with surgeon.pruning(planner.plan({group.name: ratio for group in planner.groups}), snapshot):
            pending[ratio] = cost_model.submit(model)
    seconds = dense.result().latency
    return {"dense_seconds": seconds} | {
        f"{ratio:g}": answer.result().latency / seconds for ratio, answer in pending.items()
    }


def table(rows: list[dict]) -> str:
    lines = [f"| network | target, batch | dense | {' | '.join(f'keep {ratio:g}' for ratio in RATIOS)} |"]
    lines.append("|---" * (3 + len(RATIOS)) + "|")
    for row in rows:
        cells = " | ".join(f"{row[f'{ratio:g}']:.0%}" for ratio in RATIOS)
        name = f"{row['network']}, width {row['width']:g}"
        lines.append(f"| {name} | {row['target']}, {row['batch']} | {row['dense_seconds'] * 1e6:.0f} µs | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
