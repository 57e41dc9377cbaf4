"""How well are costs guessed from the costs of other plans? Beside FLOPs, parameters and the sum over layers.

    python tests/benchmarks/surrogate.py
    python tests/benchmarks/surrogate.py --drops

Random plans of each network are compiled whole for each target and batch: hours the first time, since a compilation
takes seconds; those that the cost cache remembers are not done again, and a second call goes on where the first one
stopped. Then the surrogate learns from 50, 100 and 200 of them and guesses others, in turns, until every plan has been
guessed by a surrogate that had not seen it. FLOPs and parameters rank the same plans. For `--layered` of the plans,
every layer is compiled alone, with its normalisation and activation, and the latencies are added up.

Plans are drawn as random search draws them, around keep ratios from 0.4 to 0.9. Results go to
`tests/benchmarks/results/surrogate.json` as they come.

With `--drops` plans drop branches too. The first 80 are what a search sees: a quarter keep one ratio of every group, a
quarter are hand-set depths with and without widths, the rest are random, as are all that follow. From 40 and 80 of them
the surrogate learns; judged are its guesses of those that drop something. Results go to `surrogate_drops.json`.
"""

import argparse
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly

# isort: split
import keras

from autoprune.cost import CostModel, open_cost_model
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.models import keras_internals, zoo
from autoprune.planning import Candidate, Planner
from autoprune.records import CostReport, Target
from autoprune.searchers.hand_set import hand_set_candidates
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon

RESULTS = Path(__file__).parent / "results"
# ResNet-20 has 16 to 64 channels: multiples of 8 would leave it two widths in its first stage.
NETWORKS = {"vgg16": 8, "resnet20": 4}
WITH_DROPS = {"resnet20": 4, "resnet56": 4, "mobilenet_v2": 8}
MIXED = 80  # Plans with drops of which not all are random.
AHEAD = 4  # Plans that wait for a compiler at once.
Costed = list[tuple[np.ndarray, CostReport]]


class Network:
    """A network, its random plans, and what the compiler says of them.

    Args:
        name: of the zoo.
        multiple_of: widths are multiples of it.
        drops: whether plans drop branches.
    """

    def __init__(self, name: str, multiple_of: int, *, drops: bool = False) -> None:
        self.name = name
        self.model = zoo.build(name, None, None)
        self.planner = Planner(self.model, constraints=Constraints(multiple_of, depth=drops))
        self.layers = layer_dependences(self.model, self.planner.parts)
        self._surgeon = Surgeon(self.model, self.planner.all_groups, self.planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()

    def plans(self, count: int) -> list[Candidate]:
        """Random ones, the same in every call."""
        generator = np.random.default_rng(0)
        found = []
        for _ in range(count):
            anchor = generator.uniform(0.4, 0.9)
            draws = generator.uniform(-1, 1, len(self.planner.groups))
            found.append(self.planner.space.around(anchor, draws))
        return found

    def plans_with_drops(self, count: int) -> list[Candidate]:
        """Distinct ones, in such an order that the first are as mixed as all before the random ones."""
        space, generator = self.planner.space, np.random.default_rng(0)
        random = (space.random(generator, generator.uniform(0.4, 0.9)) for _ in iter(int, 1))
        uniform = generator.permutation(list(space.uniform()))
        depths = [c for rule in ("uniform_depth", "uniform_depth_width") for c in hand_set_candidates(rule, space)]
        found: dict[Candidate, None] = {}
        for source in itertools.cycle((iter(uniform), iter(generator.permutation(depths)), random, random)):
            if len(found) == count:
                break
            kept = next(source if len(found) < MIXED else random, None)
            if kept is not None:
                found[tuple(int(option) for option in kept)] = None
        return list(found)

    def drops(self, values: np.ndarray) -> bool:
        """Whether a plan that keeps (dimensions,) values is without some branch."""
        depth = self.planner.space.depth
        return depth is not None and not values[list(depth.positions)].all()

    def costs(self, cost_models: dict[str, CostModel], candidates: list[Candidate]) -> dict[str, Costed]:
        """Every plan on every target, compiled whole."""
        found: dict[str, Costed] = {label: [] for label in cost_models}
        space, waiting = self.planner.space, deque()
        for number, candidate in enumerate([*candidates, *[None] * AHEAD], start=1):
            if candidate is not None:
                with self._surgeon.pruning(space.plan(candidate), self._snapshot):
                    answers = {label: cost_model.submit(self.model) for label, cost_model in cost_models.items()}
                waiting.append((candidate, answers))
            if number > AHEAD and waiting:
                done, answers = waiting.popleft()
                for label, answer in answers.items():
                    found[label].append((space.values(done), answer.result()))
                if (number - AHEAD) % 10 == 0:
                    print(f"{self.name}: {number - AHEAD} of {len(candidates)} plans compiled", flush=True)
        return found

    def layer_sums(self, cost_model: CostModel, candidates: list[Candidate]) -> list[float]:
        """For some plans the sum of the latencies of their layers, each compiled alone."""
        sums = []
        for candidate in candidates:
            with self._surgeon.pruning(self.planner.space.plan(candidate), self._snapshot):
                answers = [cost_model.submit(segment) for segment in self._segments()]
            sums.append(sum(answer.result().latency for answer in answers))
        return sums

    def _segments(self) -> Iterator[keras.Model]:
        operations = keras_internals.operations_by_path(self.model)
        for layer in self.layers:
            own = operations[layer.path]
            image = keras.Input(own.input.shape[1:])
            x = own.__class__.from_config(own.get_config())(image)
            if f"{layer.path}_bn" in operations:
                x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
            yield keras.Model(image, x)


def judge(network: Network, costed: Costed, learnt: int, fold: int) -> dict[str, float]:
    """Guesses of every plan by surrogates that learnt from `learnt` others."""
    generator = np.random.default_rng(learnt)
    order = generator.permutation(len(costed))
    guesses, memories = np.zeros(len(costed)), np.zeros(len(costed))
    fitting = asking = 0.0
    for start in range(0, len(order), fold):
        tested = order[start : start + fold]
        others = generator.permutation(np.setdiff1d(order, tested))[:learnt]
        surrogate = Surrogate(network.planner.space.sizes, network.layers)
        for index in others:
            surrogate.observe(*costed[index])
        begin = time.perf_counter()
        surrogate.predict(costed[tested[0]][0])
        fitted = time.perf_counter()
        for index in tested:
            guesses[index], memories[index] = surrogate.predict(costed[index][0])
        asked = time.perf_counter()
        fitting, asking = fitting + fitted - begin, asking + asked - fitted
    true = np.array([cost.latency for _, cost in costed])
    memory = np.array([cost.memory.total for _, cost in costed])
    some = [number for number, (values, _) in enumerate(costed) if network.drops(values)]
    of = np.array(some or range(len(costed)))
    many = np.resize(np.stack([values for values, _ in costed]), (1000, len(costed[0][0])))
    begin = time.perf_counter()
    surrogate.predict_all(many)
    return {
        "learnt": learnt,
        "judged": len(of),
        "spearman": float(spearmanr(guesses[of], true[of])[0]),
        "mean_error": float(np.mean(np.abs(guesses / true - 1)[of])),
        "memory_spearman": float(spearmanr(memories[of], memory[of])[0]),
        "memory_mean_error": float(np.mean(np.abs(memories / memory - 1)[of])),
        "fit_seconds": fitting / len(range(0, len(order), fold)),
        "query_milliseconds": 1e3 * asking / len(costed),
        "thousand_milliseconds": 1e3 * (time.perf_counter() - begin),
    }


def ranked(costed: Costed, sums: list[float]) -> dict[str, float]:
    """Rank correlation with the latency of what needs no learning; sums over layers for the first plans only."""
    latency = [cost.latency for _, cost in costed]
    few = slice(len(sums))
    result = {
        "plans": len(costed),
        "flops": float(spearmanr([cost.flops for _, cost in costed], latency)[0]),
        "parameters": float(spearmanr([cost.parameters for _, cost in costed], latency)[0]),
        "latency_range": max(latency) / min(latency),
    }
    if sums:
        result |= {
            "layered_plans": len(sums),
            "layer_sum": float(spearmanr(sums, latency[few])[0]),
            "layer_sum_mean_error": float(np.mean(np.abs(np.array(sums) / latency[few] - 1))),
            "flops_on_layered": float(spearmanr([cost.flops for _, cost in costed[few]], latency[few])[0]),
        }
    return result


def main() -> None:
    arguments = parse()
    drops = arguments.drops
    path = Path(arguments.out or RESULTS / ("surrogate_drops.json" if drops else "surrogate.json"))
    learnt = arguments.learnt or ([40, 80] if drops else [50, 100, 200])
    known = WITH_DROPS if drops else NETWORKS
    plans = arguments.plans
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}  # Other networks' stay.
    for name in arguments.networks or known:
        network = Network(name, known[name], drops=drops)
        with ExitStack() as stack:
            pool = stack.enter_context(closing(CompilerPool(arguments.processes)))
            batches = arguments.batches or ([128] if drops else [8, 128])
            targets = [Target(chip, batch) for chip in arguments.targets for batch in batches]
            cost_models = {
                f"{target.name} batch {target.batch_size}": stack.enter_context(
                    closing(open_cost_model(target, cache=arguments.cache, client=pool))
                )
                for target in targets
            }
            candidates = network.plans_with_drops(plans) if drops else network.plans(plans)
            for label, costed in network.costs(cost_models, candidates).items():
                sums = [] if drops else network.layer_sums(cost_models[label], candidates[: arguments.layered])
                row = ranked(costed, sums)
                row["surrogate"] = [
                    judge(network, costed, count, max(1, min(len(costed) - count, 30)))
                    for count in learnt
                    if count < len(costed)
                ]
                results["rows"][f"{name}, {label}"] = row
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{name}, {label}: {json.dumps(row)}", flush=True)
    print(table(results["rows"], learnt))


def table(rows: dict, learnt: list[int]) -> str:
    heads = "".join(f" after {count} | error |" for count in learnt)
    lines = [
        f"| network, target | FLOPs | parameters | sum over layers |{heads}",
        "|---|---|---|---|" + "---|---|" * len(learnt),
    ]
    for name, row in rows.items():
        layers = f"{row['layer_sum']:.2f}" if "layer_sum" in row else "-"
        cells = "".join(f" {one['spearman']:.3f} | {one['mean_error']:.1%} |" for one in row["surrogate"])
        lines.append(f"| {name} | {row['flops']:.2f} | {row['parameters']:.2f} | {layers} |{cells}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", action="store_true", help="plans that drop branches too")
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS, *WITH_DROPS])
    parser.add_argument("--targets", nargs="+", default=["tpu_v3", "tpu_v5e"])
    parser.add_argument("--batches", nargs="+", type=int, help="8 and 128, with --drops 128")
    parser.add_argument("--plans", type=int, default=210)
    parser.add_argument("--learnt", nargs="+", type=int, help="50, 100 and 200, with --drops 40 and 80")
    parser.add_argument("--layered", type=int, default=14)
    parser.add_argument("--processes", type=int, help="compilers at once; by default as many as suit the machine")
    parser.add_argument("--cache", default="auto")
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
