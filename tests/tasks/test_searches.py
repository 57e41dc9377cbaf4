"""Networks for other tasks than classes of images, pruned from Python and from the command line."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_diabetes, load_digits

import autoprune
from autoprune.data import from_arrays
from autoprune.errors import DataError
from autoprune.evaluation.accuracy import accuracy
from autoprune.models.files import load_model, save_model
from autoprune.settings import (
    EvaluationSettings,
    RewardSettings,
    SearcherSettings,
    SearchSettings,
    TrainingSettings,
)
from autoprune.training.fit import train
from helpers.running import command

pytestmark = pytest.mark.compiler
SETTINGS = SearchSettings(
    searcher=SearcherSettings("random"),
    evaluation=EvaluationSettings(recovery_images=128, recalibration_images=128, tuning_steps=2),
    training=TrainingSettings(fine_tune_epochs=2, distillation=0.5),
)


def draw_shapes(count, seed):
    """Images with a disc and a square, and masks: 0 for neither, 1, 2."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    images, masks = np.zeros((count, 16, 16, 1), "float32"), np.zeros((count, 16, 16), "uint8")
    for image, mask in zip(images, masks, strict=True):
        for kind in (1, 2):
            (row, column), size = generator.integers(3, 13, 2), generator.integers(2, 4)
            away = np.abs(rows - row), np.abs(columns - column)
            inside = away[0] ** 2 + away[1] ** 2 <= size**2 if kind == 1 else np.maximum(*away) <= size
            image[inside], mask[inside] = generator.uniform(0.5, 1), kind
    return images + generator.normal(0, 0.1, images.shape).astype("float32"), masks


def small_unet():
    def twice(tensor, filters):
        for _ in range(2):
            tensor = layers.Conv2D(filters, 3, padding="same", use_bias=False)(tensor)
            tensor = layers.ReLU()(layers.BatchNormalization()(tensor))
        return tensor

    image = keras.Input((16, 16, 1))
    wide = twice(image, 16)
    deep = twice(layers.MaxPooling2D()(wide), 32)
    joined = twice(layers.Concatenate()([layers.UpSampling2D()(deep), wide]), 16)
    return keras.Model(image, layers.Conv2D(3, 1, activation="softmax")(joined), name="unet")


@pytest.fixture(scope="module")
def segmented():
    keras.utils.set_random_seed(0)
    data = from_arrays(*draw_shapes(400, 0), *draw_shapes(100, 1), task="segmentation", reward_size=100)
    model = small_unet()
    train(model, data, TrainingSettings(batch_size=32), epochs=12, learning_rate=3e-3, seed=0)
    assert accuracy(model, data.reward) > 0.5
    return model, data


def clone(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def test_a_unet_is_pruned_by_its_mean_iou(segmented, tmp_path):
    model, data = clone(segmented[0]), segmented[1]
    result = autoprune.prune(
        model, data, target="tpu_v5e", batch_size=8, latency=0.8, evaluations=3, folder=tmp_path, settings=SETTINGS
    )
    assert (result.measure.name, result.measure.is_share) == ("mean IoU", True)
    assert result.kept.cost.latency <= 0.8 * result.finished[0].cost.latency
    again = load_model(tmp_path / "pruned.keras")
    assert accuracy(again, data.test) == pytest.approx(result.kept.test_accuracy, abs=1e-6)
    assert result.kept.test_accuracy > 0.4
    assert "mean IoU" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.subprocess
def test_workers_score_masks_as_one_process_does(segmented, tmp_path):
    found = {}
    for workers in (1, 2):
        settings = SearchSettings(SETTINGS.model, evaluation=SETTINGS.evaluation, workers=workers)
        settings = dataclasses.replace(settings, searcher=SETTINGS.searcher, training=SETTINGS.training)
        result = autoprune.prune(
            *(clone(segmented[0]), segmented[1]),
            **{"target": "tpu_v5e", "batch_size": 8, "latency": 0.8, "evaluations": 3, "settings": settings},
            folder=tmp_path / str(workers),
        )
        found[workers] = [(e.key, e.score, e.accuracy) for e in result.history["random"].evaluations]
    assert found[1] == found[2]


@pytest.mark.slow
@pytest.mark.subprocess
def test_masks_come_from_a_file_of_arrays(segmented, tmp_path):
    (x_train, y_train), (x_test, y_test) = draw_shapes(300, 2), draw_shapes(80, 3)
    np.savez(tmp_path / "shapes.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    save_model(segmented[0], tmp_path / "unet.keras")
    done = command(
        *("model=file", f"model.path={tmp_path / 'unet.keras'}", "data=npz", f"data.path={tmp_path / 'shapes.npz'}"),
        *("task=segmentation", "target=tpu_v5e", "target.batch_size=8", "budget.latency=0.8", "searcher=random"),
        *("search.evaluations=2", "evaluation.tuning_steps=2", "evaluation.recovery_images=128"),
        *("evaluation.recalibration_images=128", "training.fine_tune_epochs=1"),
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test mean IoU" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "run/metrics.json").read_text())["measure"]["name"] == "mean IoU"
    tuned = command(f"run={tmp_path / 'run'}", "training.fine_tune_epochs=1", module="finetune", cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert "mean IoU" in tuned.stdout
    refused = command(
        *("model=file", f"model.path={tmp_path / 'unet.keras'}", "data=npz", f"data.path={tmp_path / 'shapes.npz'}"),
        *("target=tpu_v5e", f"hydra.run.dir={tmp_path / 'other'}"),
    )
    assert refused.returncode != 0
    assert "task=segmentation" in refused.stdout + refused.stderr


@pytest.mark.parametrize("reward", ["accuracy_within_budget", "latency_at_accuracy"])
def test_a_regressor_is_pruned_by_its_error(tmp_path, reward):
    keras.utils.set_random_seed(0)
    x, y = load_diabetes(return_X_y=True)
    x, y = (x * 20).astype("float32"), y.astype("float32")
    model = keras.Sequential([keras.Input((10,)), *(layers.Dense(1024, "relu") for _ in range(2)), layers.Dense(1)])
    model.compile("adam", "huber")
    model.fit(x[:340], y[:340], epochs=30, verbose=0)
    data = from_arrays(x[:340], y[:340], x[340:], y[340:], task="regression")
    settings = dataclasses.replace(
        SearchSettings(SETTINGS.model, evaluation=EvaluationSettings(tuning_steps=2), reward=RewardSettings(reward)),
        searcher=SETTINGS.searcher,
        training=SETTINGS.training,
    )
    result = autoprune.prune(
        *(model, data),
        **{"target": "tpu_v5e", "batch_size": 1024, "latency": 0.9, "evaluations": 3, "settings": settings},
        folder=tmp_path,
    )
    dense, kept = result.finished[0], result.kept
    off = np.abs(model.predict(x[340:], verbose=0) - y[340:, None]).mean()
    assert kept.test_accuracy == pytest.approx(-off, rel=1e-4)
    assert kept.cost.latency <= 0.9 * dense.cost.latency
    if reward == "latency_at_accuracy":
        for evaluation in result.history["random"].evaluations:
            assert evaluation.score == pytest.approx(dense.evaluation.accuracy / evaluation.accuracy, rel=1e-6)


def test_a_net_with_two_heads_is_pruned_by_both(tmp_path):
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x = (digits.images[..., None] / 16).astype("float32")
    labels = {"digit": digits.target, "ink": x.mean((1, 2, 3)) * 10}
    image = keras.Input((8, 8, 1))
    hidden = layers.Flatten()(layers.Conv2D(64, 3, activation="relu")(image))
    digit = layers.Dense(10, "softmax", name="digit")(layers.Dense(512, "relu")(hidden))
    ink = layers.Dense(1, name="ink")(layers.Dense(512, "relu")(hidden))
    model = keras.Model(image, {"digit": digit, "ink": ink})
    parts = [{name: part[rows] for name, part in labels.items()} for rows in (slice(1400), slice(1400, None))]
    data = from_arrays(x[:1400], parts[0], x[1400:], parts[1], task={"digit": "classification", "ink": "regression"})
    record = train(model, data, TrainingSettings(), epochs=6, learning_rate=3e-3, seed=0)
    assert record.accuracies[-1] > record.accuracies[0]
    result = autoprune.prune(
        *(model, data),
        **{"target": "tpu_v5e", "batch_size": 512, "latency": 0.8, "evaluations": 3, "settings": SETTINGS},
        folder=tmp_path,
    )
    said = model.predict(x[1400:], verbose=0)
    right = said["digit"][np.arange(397), parts[1]["digit"]]
    loss = -np.log(right).mean() + ((said["ink"][:, 0] - parts[1]["ink"]) ** 2).mean()
    assert -result.kept.test_accuracy == pytest.approx(loss, rel=1e-3)
    assert (said["digit"].argmax(1) == parts[1]["digit"]).mean() > 0.8


def test_a_dense_model_without_a_quality_is_refused_before_the_search(segmented, tmp_path):
    model, data = clone(segmented[0]), segmented[1]
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(DataError, match="loss of the dense model .* is nan: no plan can be compared"):
        autoprune.prune(model, data, quality="loss", target="tpu_v5e", folder=tmp_path, settings=SETTINGS)
