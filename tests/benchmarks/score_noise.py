"""How much of a plan's score is chance: which images tune it, in steps of how many, and which images score it.

    python tests/benchmarks/score_noise.py --comparison compare_resnet20_v3_45_finalists.json --budget 0.45

Scores are there to put plans in order. So the plans are ones that searches of a published comparison ended with, at
one budget: about as good as each other, where chance decides most easily. Each is tuned with several draws of as many
images, in steps of few or many, and scored. `signal` is the standard deviation of the plans' mean scores, less what
chance adds to it; `noise` that of one plan's scores over the draws; `again` how well the order by one draw agrees with
that by another (Spearman's correlation, mean over pairs of draws). Then the reward split is cut into parts: `noise` is
the standard deviation over parts of what a plan has more or less than the other plans on the same part, since all
plans of a search are scored by the same images. Last, how long the reward split takes by images per forward pass. The
dense model is trained anew, as in the comparison. Results go to `tests/benchmarks/results/score_noise.json`, by
comparison.
"""

import argparse
import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.data import Dataset, Split, load_data
from autoprune.evaluation.accuracy import read_signals
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.planning import Planner
from autoprune.settings import Constraints, DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.training.base_model import base_model
from helpers.telling import log_probabilities

FOLDER = Path(__file__).parent / "results"
SCORES = ("likelihood", "accuracy")
LEARNING_STEPS = (16, 32, 64, 128)  # images per step of tuning
PARTS = (250, 500, 1000, 2500)  # images of the reward split
PASSES = (32, 64, 128, 256, 512, 1024)  # images per forward pass


def main() -> None:
    arguments = parse()
    record = json.loads((FOLDER / arguments.comparison).read_text())
    plans = finalists(record, arguments.budget)[: arguments.plans]
    settings = settings_of(record, arguments.data_dir)
    data = load_data(settings.data)
    bench = Bench(base_model(settings, data), data, plans, Constraints(**record["settings"]["constraints"]))
    tuned = {
        f"{images} images in steps of {size}": bench.tuned(images, size, arguments.draws)
        for images, sizes in ((640, LEARNING_STEPS), (6400, (64,)))
        for size in sizes
    }
    path = Path(arguments.out)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[f"{arguments.comparison} {arguments.budget}"] = {
        "plans": len(plans),
        "draws": arguments.draws,
        "tuning": tuned,
        "reward_split": bench.by_part(),
        "seconds_of_a_pass_over_5000_images": bench.by_batch(),
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results[f"{arguments.comparison} {arguments.budget}"], indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--comparison", default="compare_resnet20_v3_45_finalists.json", help="a file of tests/benchmarks/results"
    )
    parser.add_argument("--budget", default="0.45")
    parser.add_argument("--plans", type=int, default=8)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default=str(FOLDER / "score_noise.json"))
    return parser.parse_args()


def finalists(record: dict[str, Any], budget: str) -> list[dict[str, float]]:
    """Keep ratios of the different plans that the searches at a budget sent into fine-tuning."""
    found = {
        evaluation["key"]: evaluation["keep_ratios"]
        for name, run in record["runs"].items()
        for evaluation in run["finalists"]
        if name.split("@")[1].split("/")[0] == budget
    }
    return list(found.values())


def settings_of(record: dict[str, Any], data_dir: str | None) -> SearchSettings:
    """Of the network, the data and the training as in the comparison."""
    asked = record["settings"]
    return SearchSettings(
        model=ModelSettings(asked["model"]["name"], width=asked["model"]["width"]),
        data=DataSettings("fashion_mnist", dir=data_dir, reward_size=5000, train_size=asked["data"]["train_size"]),
        training=TrainingSettings(epochs=asked["training"]["epochs"], batch_size=asked["training"]["batch_size"]),
    )


class Bench:
    """Scores the plans of one dense model, each from the dense model anew."""

    def __init__(self, model: Any, data: Dataset, plans: list[dict[str, float]], constraints: Constraints) -> None:
        self._model, self._data = model, data
        planner = Planner(model, constraints=constraints)
        self._plans = [planner.plan(ratios) for ratios in plans]
        self._surgeon = Surgeon(model)
        self._snapshot = self._surgeon.snapshot()
        tuning = self._tuning(0, 64, 64)
        self._passes = Passes(model, planner.all_groups, *tuning.first(8), tuning.loss_for(model))
        self._pruned = {
            name for plan in self._plans for name, kept in plan.kept.items() if len(kept) < plan.sizes[name]
        }
        self._compiled = self._passes.network_for(self._pruned)

    def tuned(self, images: int, size: int, draws: int) -> dict[str, Any]:
        """Signal, noise and agreement of the scores over draws of the images, and seconds of one tuning."""
        scores = {name: np.zeros((draws, len(self._plans))) for name in SCORES}
        seconds = []
        for draw in range(draws):
            tuning = self._tuning(draw, images, size)
            for number, plan in enumerate(self._plans):
                with self._surgeon.pruning(plan, self._snapshot):
                    start = time.perf_counter()
                    self._recover(tuning)
                    seconds.append(time.perf_counter() - start)
                    signals = read_signals(self._model, self._data.reward, None, run=self._compiled)
                for name in SCORES:
                    scores[name][draw, number] = getattr(signals, name)
        found = {"seconds": float(np.median(seconds)), **{name: spread(values) for name, values in scores.items()}}
        print(images, size, found, flush=True)
        return found

    def by_part(self) -> dict[str, dict[str, dict[str, float]]]:
        """The same over parts of the reward split: every plan is tuned once, all parts score all plans."""
        tuning = self._tuning(0, 640, 64)
        scores: dict[tuple[int, str], list[list[float]]] = {(size, name): [] for size in PARTS for name in SCORES}
        for plan in self._plans:
            with self._surgeon.pruning(plan, self._snapshot):
                self._recover(tuning)
                for size in PARTS:
                    signals = [read_signals(self._model, part, None, run=self._compiled) for part in self._parts(size)]
                    for name in SCORES:
                        scores[size, name].append([getattr(signal, name) for signal in signals])
        return {str(size): {name: spread(np.array(scores[size, name]).T) for name in SCORES} for size in PARTS}

    def by_batch(self) -> dict[str, float]:
        """Seconds of the dense model, the median of five passes for each number of images per pass."""
        times: dict[int, list[float]] = {size: [] for size in PASSES}
        for _ in range(6):  # In turns: what else the machine does falls on all of them alike.
            for size in PASSES:
                start = time.perf_counter()
                read_signals(self._model, self._data.reward, None, size, self._compiled)
                times[size].append(time.perf_counter() - start)
        return {str(size): float(np.median(values[1:])) for size, values in times.items()}

    def _tuning(self, draw: int, images: int, size: int) -> ShortTuning:
        train = self._data.train
        chosen = np.random.default_rng(draw).permutation(len(train))[:images]
        teacher = log_probabilities(self._model, train.images[chosen])
        return ShortTuning(train.part(chosen), teacher, steps=images // size, batch_size=size)

    def _recover(self, tuning: ShortTuning) -> None:
        tuning(self._model, self._compiled and self._compiled.tune)
        recalibrate(self._model, self._data.train.images[:512], collect=self._compiled and self._compiled.collect)

    def _parts(self, size: int) -> list[Split]:
        images, labels = self._data.reward.images, self._data.reward.labels
        return [Split(images[at : at + size], labels[at : at + size]) for at in range(0, len(labels), size)]


def spread(scores: np.ndarray) -> dict[str, float]:
    """Signal, noise and agreement of (draws, plans) scores. What a draw adds to all plans alike is neither."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    draws, plans = scores.shape
    leftover = centred - centred.mean(axis=0)
    noise = float(np.sum(leftover**2) / ((draws - 1) * (plans - 1)))
    between = float(centred.mean(axis=0).var(ddof=1))
    again = [spearmanr(scores[one], scores[other])[0] for one, other in combinations(range(draws), 2)]
    return {"signal": max(0.0, between - noise / draws) ** 0.5, "noise": noise**0.5, "again": float(np.mean(again))}


if __name__ == "__main__":
    main()
