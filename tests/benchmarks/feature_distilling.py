"""What the weight of feature distillation is worth in fine-tuning, with and without distillation of logits.

    python tests/benchmarks/feature_distilling.py --data-dir FOLDER

For each seed a plain network is trained on few images of Fashion-MNIST, every group of its channels is cut to the same
share, and what is left is fine-tuned by each recipe from the same weights. Told are the accuracies on reward and test
split, and how far similarities of images are from the dense model's, on images that were not trained on: the term of
`autoprune.models.feature_distilling` for batches of 64.

Results go to `tests/benchmarks/results/feature_distilling.json` as they come; a second call goes on where the first one
stopped.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from autoprune import quiet  # noqa: F401 - first: it imports TensorFlow quietly
from autoprune.data import Dataset, load_data
from autoprune.evaluation.accuracy import accuracy
from autoprune.evaluation.recovery import recalibrate
from autoprune.models.feature_distilling import similarity_loss, teachings
from autoprune.planning import make_plan
from autoprune.settings import DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import apply_plan
from autoprune.training import train
from autoprune.training.base_model import base_model

RESULTS = Path(__file__).parent / "results" / "feature_distilling.json"
LOGITS = (0.0, 0.5)
WEIGHTS = (0.0, 10.0, 100.0, 1000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=None, help="folder with the IDX files; by default Keras downloads them")
    parser.add_argument("--model", default="plain_cnn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=4, help="of fine-tuning; three times as many train the model")
    parser.add_argument("--keep-ratio", type=float, default=0.25)
    parser.add_argument("--out", default=str(RESULTS))
    arguments = parser.parse_args()
    path = Path(arguments.out)
    results = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    for seed in range(arguments.seeds):
        if str(seed) not in results["runs"]:
            results["runs"][str(seed)] = compared(seed, arguments)
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(seed, {name: run["test"] for name, run in results["runs"][str(seed)].items()}, flush=True)
    results["arguments"] = {name: value for name, value in vars(arguments).items() if name not in ("out", "data_dir")}
    results["summary"] = summarise(results["runs"])
    path.write_text(json.dumps(results, indent=1) + "\n")
    for name, found in results["summary"].items():
        print(f"{name:32s}", *(f"{what} {value:+.4f}" for what, value in found.items()))


def compared(seed: int, arguments: argparse.Namespace) -> dict:
    """Every recipe, from the same pruned weights."""
    settings = SearchSettings(
        model=ModelSettings(arguments.model, width=0.5),
        data=DataSettings(
            "fashion_mnist", arguments.data_dir, reward_size=2000, train_size=arguments.images, seed=seed
        ),
        training=TrainingSettings(epochs=3 * arguments.epochs, fine_tune_epochs=arguments.epochs),
        seed=seed,
    )
    data = load_data(settings.data)
    model = base_model(settings, data)
    teacher, unseen = (teachings(model, split.images) for split in (data.train, data.reward))
    found = {"dense": judged(model, data, unseen[:, data.classes :])}
    apply_plan(model, make_plan(model, arguments.keep_ratio, multiple_of=4))
    recalibrate(model, data.train.images[:512])
    pruned = model.get_weights()
    found["pruned"] = judged(model, data, unseen[:, data.classes :])
    for logits in LOGITS:
        for weight in WEIGHTS:
            recipe = TrainingSettings(distillation=logits, feature_distillation=weight)
            said = teacher if weight else teacher[:, : data.classes] if logits else None
            model.set_weights(pruned)
            train(model, data, recipe, epochs=arguments.epochs, learning_rate=None, seed=seed, teacher=said)
            found[f"logits {logits:g}, features {weight:g}"] = judged(model, data, unseen[:, data.classes :])
    return found


def judged(model, data: Dataset, teacher: np.ndarray) -> dict[str, float]:
    """Accuracies, and how far the similarities of unseen images are from the teacher's."""
    student = teachings(model, data.reward.images)[:, data.classes :]
    starts = range(0, len(student) - 63, 64)
    far = [float(np.mean(similarity_loss(student[at : at + 64], teacher[at : at + 64]))) for at in starts]
    return {
        "test": accuracy(model, data.test),
        "reward": accuracy(model, data.reward),
        "distance": float(np.mean(far)),
    }


def summarise(runs: dict) -> dict:
    """Means over seeds, and the difference in test accuracy from the same recipe without features, with its error."""
    summary = {}
    for name in runs["0"]:
        values = {what: np.array([run[name][what] for run in runs.values()]) for what in runs["0"][name]}
        summary[name] = {what: float(column.mean()) for what, column in values.items()}
        if "features" in name:
            plain = np.array([run[f"{name.split(',')[0]}, features 0"]["test"] for run in runs.values()])
            gains = values["test"] - plain
            summary[name]["gain"] = float(gains.mean())
            summary[name]["error"] = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    return summary


if __name__ == "__main__":
    main()
