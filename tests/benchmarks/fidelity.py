"""Which sign of a pruned plan tells best what fine-tuning will make of it?

    python tests/benchmarks/fidelity.py --data-dir FOLDER

Diverse plans of equal latency are fine-tuned with the whole recipe and tested: within a band of latency only what a
plan removes where can make a difference. Each sign is read before fine-tuning, as a search would read it; the figure
is Spearman's rank correlation with the test accuracy after fine-tuning, within each band, and the seconds that a plan
takes. Operations, parameters, latency and the harmonic mean of the keep ratios cost nothing to know. `predictor` is
what the model-based agent guesses with, taught by the fine-tuned accuracies of the other plans of all bands. `features`
is how alike images are to the pruned network as to the dense one, by what enters the classifier (Tung & Mori, 2019).
Some plans are fine-tuned again with another seed: how well fine-tuning tells what fine-tuning will tell is a ceiling
for all signs.

Results go to `tests/benchmarks/results/fidelity.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scipy.special import logit
from scipy.stats import spearmanr

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.cost import open_cost_model
from autoprune.cost.layers import layer_dependences
from autoprune.cost.surrogate import Surrogate
from autoprune.data import Dataset, load_data
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import read_signals
from autoprune.evaluation.recovery import ShortTuning, recalibrate
from autoprune.evaluation.scoring import Passes
from autoprune.models.feature_distilling import similarity_loss, teachings
from autoprune.planning import Candidate, Planner
from autoprune.records import CostReport, Evaluation, Plan, Target
from autoprune.searchers.quality import QualityModel
from autoprune.settings import Constraints, DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.surgery.reconstruction import apply_with_reconstruction
from autoprune.training.base_model import base_model
from autoprune.training.finishing import Finisher
from helpers.telling import log_probabilities

RESULTS = Path(__file__).parent / "results" / "fidelity.json"
WITHIN = 0.05  # of a band's middle, on either side
STEPS = (10, 30, 100)
FEATURED = 1000  # images that features are compared on
CHEAP = ("none", "reconstruction", "tuning_10")  # recoveries after which features are read of plans that have signs
TAUGHT = 40  # random plans that the surrogate learns from before plans are aimed at the bands


def main() -> None:
    arguments = parse()
    settings = SearchSettings(
        model=ModelSettings(arguments.model, width=arguments.width),
        data=DataSettings("fashion_mnist", dir=arguments.data_dir, reward_size=5000),
        training=TrainingSettings(epochs=arguments.epochs, batch_size=128, fine_tune_epochs=arguments.fine_tune_epochs),
    )
    data = load_data(settings.data)
    model = base_model(settings, data)
    planner = Planner(model, constraints=Constraints(arguments.multiple_of, 0.1))
    path = Path(arguments.out)
    results = json.loads(path.read_text()) if path.exists() else {"plans": {}}
    results["arguments"] = {k: v for k, v in vars(arguments).items() if k not in ("out", "data_dir")}
    results["recipe"] = asdict(settings.training)
    results["sizes"] = {group.name: group.size for group in planner.groups}

    def save() -> None:
        path.write_text(json.dumps(results, indent=1) + "\n")

    with (
        tempfile.TemporaryDirectory() as scratch,
        closing(open_cost_model(Target(arguments.target, 128))) as cost_model,
        closing(Journal(Path(scratch, "journal.sqlite"), {})) as journal,
    ):
        evaluator = Evaluator(model, planner, data, cost_model=cost_model, journal=journal)
        if len(results["plans"]) < len(arguments.bands) * arguments.plans:
            results["plans"] = choose(evaluator, arguments)
            save()
        signs = Signs(model, planner, data)
        results["noise_of_split"] = signs.noise()
        finisher = Finisher(model, planner, data, cost_model=cost_model, settings=settings)
        for name, plan in interleaved(results["plans"]):
            if "features" not in plan.get("signs", {}).get("none", {}):
                finisher.undo()
                complete(plan, signs.of(plan["widths"], CHEAP if "signs" in plan else None))
                save()
            if "tested" not in plan:
                plan["tested"] = tuned(finisher, planner, plan["widths"])
                save()
                print(name, {k: round(v["accuracy"], 3) for k, v in plan["signs"].items()}, plan["tested"], flush=True)
        for name, plan in list(interleaved(results["plans"]))[: arguments.again]:
            if "tested_again" not in plan:
                finisher.undo()
                other = Finisher(model, planner, data, cost_model=cost_model, settings=replace(settings, seed=1))
                plan["tested_again"] = tuned(other, planner, plan["widths"])
                other.undo()
                save()
                print(name, "again", plan["tested"], plan["tested_again"], flush=True)
    results["summary"] = summary(results["plans"], results["sizes"], arguments.bands)
    save()
    print(table(results["summary"], arguments.bands))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--multiple-of", type=int, default=4)
    parser.add_argument("--target", default="tpu_v3")
    parser.add_argument("--bands", type=float, nargs="+", default=[0.6, 0.4, 0.3])
    parser.add_argument("--plans", type=int, default=16)
    parser.add_argument("--again", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--fine-tune-epochs", type=int, default=2)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", default=str(RESULTS))
    return parser.parse_args()


def choose(evaluator: Evaluator, arguments: argparse.Namespace) -> dict[str, dict]:
    """Plans whose compiled latency lies in the bands, as different from each other as random draws are."""
    planner, space, generator = evaluator.planner, evaluator.space, np.random.default_rng(0)
    surrogate = Surrogate(space.sizes, layer_dependences(evaluator.model, planner.parts))

    def cost_of(candidate: Candidate) -> CostReport:
        cost = evaluator.cost(candidate)
        surrogate.observe(space.values(candidate), cost)
        return cost

    dense = cost_of(space.full)
    for _ in range(TAUGHT):
        cost_of(space.around(generator.uniform(0.2, 0.9), generator.uniform(-1, 1, len(space))))
    chosen: dict[str, dict] = {}
    for band in arguments.bands:
        count = 0
        while count < arguments.plans:
            # From nearly uniform to wild.
            draws = generator.uniform(-1, 1, len(space)) * generator.uniform(0.2, 1)
            candidates = [space.around(anchor, draws) for anchor in np.linspace(0.1, 1, 40)]
            guesses = surrogate.predict_all(space.values(candidates))[0] / dense.latency
            nearest = int(np.abs(guesses - band).argmin())
            widths = space.by_name(candidates[nearest])
            if abs(guesses[nearest] / band - 1) > WITHIN or any(widths == c["widths"] for c in chosen.values()):
                continue
            cost = cost_of(candidates[nearest])
            share = cost.latency / dense.latency
            if abs(share / band - 1) <= WITHIN:
                name = f"{band:g}/{count}"
                chosen[name] = {
                    "widths": widths,
                    "latency": share,
                    "flops": cost.flops / dense.flops,
                    "parameters": cost.parameters / dense.parameters,
                }
                count += 1
                print(name, chosen[name], flush=True)
    return chosen


def interleaved(plans: dict[str, dict]) -> Iterator[tuple[str, dict]]:
    """One of each band after the other, so that a part of the work tells something of all bands."""
    return iter(sorted(plans.items(), key=lambda item: int(item[0].split("/")[1])))


def complete(plan: dict, signs: dict[str, dict[str, float]]) -> None:
    """Take over signs of a plan. Those that it has are kept, and how the new ones compare is remembered.

    The dense model of a later call is trained anew from the same seed, and is the same but for rounding that adds up.
    """
    if "signs" not in plan:
        plan["signs"] = signs
        return
    for name, later in signs.items():
        found = plan["signs"][name]
        found["features"], found["likelihood_later"] = later["features"], later["likelihood"]


class Signs:
    """Reads every sign of a plan, each from the dense model anew."""

    def __init__(self, model: object, planner: Planner, data: Dataset) -> None:
        self._model, self._planner, self._data = model, planner, data
        self._surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
        self._snapshot = self._surgeon.snapshot()
        self._dense = log_probabilities(model, data.reward.images)
        self._images = data.train.images[:512]
        self._features = self._shown()
        self._recoveries = {"none": lambda plan: self._surgeon.apply(plan), "reconstruction": self._reconstruct}
        for steps in STEPS:
            some = data.train.head(64 * steps)
            teacher = log_probabilities(model, some.images)
            tuning = ShortTuning(some, teacher, steps=steps)
            self._recoveries[f"tuning_{steps}"] = lambda plan, tuning=tuning: self._tune(plan, tuning)
        self._passes = Passes(model, planner.all_groups, *tuning.first(8), tuning.loss_for(model))

    def of(self, widths: dict[str, int], only: tuple[str, ...] | None = None) -> dict[str, dict[str, float]]:
        """Signals by recovery, all or some, with the seconds from the dense model to the signals."""
        ratios = {group.name: widths[group.name] / group.size for group in self._planner.groups}
        plan, found = self._planner.plan(ratios), {}
        for name, recover in self._recoveries.items():
            if only is not None and name not in only:
                continue
            start = time.perf_counter()
            recover(plan)
            compiled = self._passes.network_for({name for name, ratio in ratios.items() if ratio < 1})
            recalibrate(self._model, self._images, collect=compiled and compiled.collect)
            signals = read_signals(self._model, self._data.reward, self._dense, run=compiled)
            found[name] = {**asdict(signals), "seconds": time.perf_counter() - start}
            found[name]["features"] = -float(np.mean(similarity_loss(self._shown(), self._features)))
            for size in (500, 1000, 2000):
                part = read_signals(self._model, self._data.reward.head(size), self._dense[:size], run=compiled)
                found[name].update({f"{key}_{size}": value for key, value in asdict(part).items()})
            self._surgeon.restore(self._snapshot)
        return found

    def noise(self) -> dict[str, float]:
        """Standard error of the dense model's accuracy on the reward split, by its size."""
        right = self._dense.argmax(1) == self._data.reward.labels
        return {str(size): float(np.std(right) / np.sqrt(size)) for size in (500, 1000, 2000, 5000)}

    def _shown(self) -> np.ndarray:
        """(images, d) what enters the classifier for the first images of the reward split."""
        return teachings(self._model, self._data.reward.images[:FEATURED])[:, self._data.classes :]

    def _reconstruct(self, plan: object) -> None:
        apply_with_reconstruction(self._surgeon, plan, self._images)

    def _tune(self, plan: Plan, tuning: ShortTuning) -> None:
        self._surgeon.apply(plan)
        compiled = self._passes.network_for({name for name, kept in plan.kept.items() if len(kept) < plan.sizes[name]})
        tuning(self._model, compiled and compiled.tune)


def tuned(finisher: Finisher, planner: Planner, widths: dict[str, int]) -> float:
    """Test accuracy after the whole recipe."""

    ratios = {group.name: widths[group.name] / group.size for group in planner.groups}
    return finisher.finish(
        "plan", Evaluation(key="", keep_ratios=ratios, widths=widths, accuracy=float("nan"), cost=None)
    ).test_accuracy


def summary(plans: dict[str, dict], sizes: dict[str, int], bands: list[float]) -> dict:
    """For each sign its rank correlation within each band, their mean, and the seconds per plan."""
    done = {name: plan for name, plan in plans.items() if "tested" in plan}
    columns = {name: np.array([plan[name] for plan in done.values()]) for name in ("flops", "parameters", "latency")}
    columns["predictor"], columns["harmonic mean"] = left_out(done, sizes), harmonic_means(done, sizes)
    seconds = dict.fromkeys(columns, 0.0)
    for recovery in ("none", "reconstruction", *(f"tuning_{steps}" for steps in STEPS)):
        for key in set.intersection(*(set(plan["signs"][recovery]) for plan in done.values())):
            if key != "seconds":
                label = f"{recovery} {key}"
                columns[label] = np.array([plan["signs"][recovery][key] for plan in done.values()])
                seconds[label] = float(np.median([plan["signs"][recovery]["seconds"] for plan in done.values()]))
    tested = np.array([plan["tested"] for plan in done.values()])
    band_of = np.array([float(name.split("/")[0]) for name in done])
    rows = {}
    for label, values in columns.items():
        within = {f"{band:g}": float(spearmanr(values[band_of == band], tested[band_of == band])[0]) for band in bands}
        mean = float(np.mean(list(within.values())))
        rows[label] = {"within": within, "mean": mean, "seconds": seconds[label]}
    again = [(plan["tested"], plan["tested_again"]) for plan in done.values() if "tested_again" in plan]
    differences = [first - second for first, second in again]
    spread = {f"{band:g}": float(tested[band_of == band].std(ddof=1)) for band in bands}
    return {
        "signs": rows,
        "spread_of_tested": spread,
        "noise_of_tested": float(np.std(differences) / np.sqrt(2)) if again else None,
    }


def left_out(plans: dict[str, dict], sizes: dict[str, int]) -> np.ndarray:
    """What the model-based agent's guesses say of each plan, taught by all others."""
    widths, tested = widths_of(plans, sizes), np.array([plan["tested"] for plan in plans.values()])
    guesses = np.zeros(len(widths))
    for number in range(len(widths)):
        others = np.arange(len(widths)) != number
        model = QualityModel(list(sizes.values()))
        model.learn(widths[others], logit(tested[others]))
        guesses[number] = model.predict(widths[number : number + 1])[0][0]
    return guesses


def harmonic_means(plans: dict[str, dict], sizes: dict[str, int]) -> np.ndarray:
    """Of each plan's keep ratios."""
    return 1 / (np.array(list(sizes.values())) / widths_of(plans, sizes)).mean(axis=1)


def widths_of(plans: dict[str, dict], sizes: dict[str, int]) -> np.ndarray:
    """(plans, groups) channels left."""
    return np.array([[plan["widths"][name] for name in sizes] for plan in plans.values()], float)


def table(found: dict, bands: list[float]) -> str:
    head = " | ".join(f"{band:.0%}" for band in bands)
    lines = [f"| sign | {head} | mean | s per plan |", "|---" * (len(bands) + 3) + "|"]
    ranked = sorted(found["signs"].items(), key=lambda item: -item[1]["mean"])
    for label, row in ranked:
        within = " | ".join(f"{value:.2f}" for value in row["within"].values())
        lines.append(f"| {label} | {within} | {row['mean']:.2f} | {row['seconds']:.1f} |")
    lines.append(f"spread {found['spread_of_tested']}, noise {found['noise_of_tested']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
