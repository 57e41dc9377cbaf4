"""What gates (squeeze-and-excitation) cost and are worth: networks with all of them, and with their means instead.

    python tests/benchmarks/gates.py

Compiled latency of networks of `keras.applications` for images of 96x96, with random weights: nothing is trained. Then,
for each seed, a small residual network with gates is trained on a part of scikit-learn's digits and fine-tuned by one
recipe from there: with its gates, without them, and with its gates and so few channels, all groups cut alike, that it
is as fast as without them. Test accuracies are taken once.

Results go to `tests/benchmarks/results/gates.json` as they come; a second call goes on where the first one stopped.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.comparison.statistics import student_interval
from autoprune.cost import CostModel, open_cost_model
from autoprune.data import Dataset, load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recovery import recalibrate
from autoprune.graph import find_branches
from autoprune.planning import make_plan
from autoprune.records import Plan, Target
from autoprune.settings import DataSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.training import train

RESULTS = Path(__file__).parent / "results" / "gates.json"
NETWORKS = ("EfficientNetB0", "MobileNetV3Small")
STAGES, BLOCKS = (32, 64, 128), 2
RATIOS = np.arange(0.95, 0.2, -0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=["tpu_v5e", "tpu_v3"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=96, help="of an image's side, for the networks of applications")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=400, help="of digits to train on")
    parser.add_argument("--epochs", type=int, default=30, help="of training; fine-tuning takes half as many")
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    path = Path(arguments.out)
    found = json.loads(path.read_text()) if path.exists() else {"costs": [], "runs": []}
    found["arguments"] = {name: value for name, value in vars(arguments).items() if name != "out"}
    with ExitStack() as stack:
        opened = {target: open_cost_model(Target(target, arguments.batch)) for target in arguments.targets}
        cost_models = {target: stack.enter_context(closing(cost_model)) for target, cost_model in opened.items()}
        for name in NETWORKS:
            if name not in {row["network"] for row in found["costs"]}:
                found["costs"] += costs(name, arguments.pixels, cost_models)
                path.write_text(json.dumps(found, indent=1) + "\n")
        for seed in range(arguments.seeds):
            if seed not in {run["seed"] for run in found["runs"]}:
                found["runs"].append(compared(seed, cost_models, arguments))
                print(json.dumps(found["runs"][-1]), flush=True)
                path.write_text(json.dumps(found, indent=1) + "\n")
    found["summary"] = summarise(found["runs"], arguments.targets)
    path.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["summary"]:
        print(json.dumps(row))


def gated_resnet(shape: tuple[int, ...], classes: int) -> Any:
    """Residual blocks of two convolutions, each with squeeze-and-excitation of a quarter before the sum."""
    image = keras.Input(shape)
    x = convolved(image, STAGES[0], "stem")
    for stage, channels in enumerate(STAGES, start=1):
        for block in range(1, BLOCKS + 1):
            name, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            inner = convolved(x, channels, f"{name}_conv1", stride=stride)
            inner = convolved(inner, channels, f"{name}_conv2", relu=False)
            gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_pool")(inner)
            gate = layers.Conv2D(channels // 4, 1, activation="relu", name=f"{name}_se_reduce")(gate)
            gate = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_se_expand")(gate)
            inner = layers.Multiply(name=f"{name}_scaled")([inner, gate])
            if stride != 1 or x.shape[-1] != channels:
                x = convolved(x, channels, f"{name}_shortcut", kernel=1, stride=stride, relu=False)
            x = layers.ReLU()(layers.Add(name=f"{name}_add")([x, inner]))
    return keras.Model(image, layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


def convolved(x: Any, channels: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> Any:
    x = layers.Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU()(x) if relu else x


def without_gates(model: Any, images: np.ndarray) -> Plan:
    """The plan that drops every gate, with their means over some images."""
    gates = [branch.name for branch in find_branches(model) if branch.kind == "gate" and branch.removable]
    return make_plan(model, dict.fromkeys(gates, 0), data=images)


def costs(name: str, pixels: int, cost_models: Mapping[str, CostModel]) -> list[dict[str, Any]]:
    """On each target seconds, operations and parameters of a network of applications, with gates and without."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(pixels, pixels, 3), classes=10)
    images = np.random.default_rng(0).normal(size=(8, pixels, pixels, 3)).astype("float32")
    plan, surgeon = without_gates(model, images), Surgeon(model)
    rows = [{"network": name, "target": target, "gates": len(plan.dropped)} for target in cost_models]
    asked = [{"with": cost_model.submit(model)} for cost_model in cost_models.values()]
    with surgeon.pruning(plan, surgeon.snapshot()):
        for answers, cost_model in zip(asked, cost_models.values(), strict=True):
            answers["without"] = cost_model.submit(model)
    for row, answers in zip(rows, asked, strict=True):
        for which, answer in answers.items():
            report = answer.result()
            row[which] = {"latency": report.latency, "flops": report.flops, "parameters": report.parameters}
        print(json.dumps(row), flush=True)
    return rows


def compared(seed: int, cost_models: Mapping[str, CostModel], arguments: argparse.Namespace) -> dict[str, Any]:
    """Test accuracy after the same fine-tuning with gates, without, and narrower with gates; latencies by target."""
    data = load_data(DataSettings("digits", train_size=arguments.images, seed=seed))
    recipe = TrainingSettings(epochs=arguments.epochs, distillation=0.0)
    keras.utils.set_random_seed(seed)
    model = gated_resnet(data.input_shape, data.classes)
    train(model, data, recipe, epochs=recipe.epochs, learning_rate=recipe.learning_rate, seed=seed)
    surgeon, dropping = Surgeon(model), without_gates(model, data.train.images[:256])
    snapshot = surgeon.snapshot()
    found: dict[str, Any] = {"seed": seed, "trained": accuracy(model, data.test)}
    found["with"] = {"latency": latencies(model, cost_models), **tuned(model, data, recipe, seed)}
    surgeon.restore(snapshot)
    with surgeon.pruning(dropping, snapshot):
        found["without"] = {"latency": latencies(model, cost_models), **tuned(model, data, recipe, seed)}
    found["narrow"] = {}
    for target, cost_model in cost_models.items():
        for ratio in RATIOS:
            with surgeon.pruning(make_plan(model, float(ratio), multiple_of=4), snapshot):
                latency = latencies(model, {target: cost_model})
                if latency[target] <= found["without"]["latency"][target]:
                    result = tuned(model, data, recipe, seed)
                    found["narrow"][target] = {"keep_ratio": float(ratio), "latency": latency, **result}
                    break
    return found


def latencies(model: Any, cost_models: Mapping[str, CostModel]) -> dict[str, float]:
    """Seconds on each target."""
    asked = {target: cost_model.submit(model) for target, cost_model in cost_models.items()}
    return {target: answer.result().latency for target, answer in asked.items()}


def tuned(model: Any, data: Dataset, recipe: TrainingSettings, seed: int) -> dict[str, float]:
    """Test accuracy at once and after fine-tuning."""
    recalibrate(model, data.train.images[:512])
    before = accuracy(model, data.test)
    epochs = -(-recipe.epochs // 2)
    train(model, data, recipe, epochs=epochs, learning_rate=recipe.fine_tune_learning_rate, seed=seed)
    return {"before": before, "test": accuracy(model, data.test)}


def summarise(runs: Sequence[dict], targets: Sequence[str]) -> list[dict[str, Any]]:
    """For each target the means over seeds, and how far without gates the accuracy is above that of the others."""
    rows = []
    for target in targets:
        for name in ("with", "without", "narrow"):
            each = [run[name].get(target) if name == "narrow" else run[name] for run in runs]
            row: dict[str, Any] = {"target": target, "network": name}
            if None not in each:
                row["latency"] = float(np.mean([one["latency"][target] for one in each]))
                row |= {key: float(np.mean([one[key] for one in each])) for key in ("before", "test")}
                gains = [run["without"]["test"] - one["test"] for run, one in zip(runs, each, strict=True)]
                row["gain"] = student_interval(gains).to_json() if name != "without" else None
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
