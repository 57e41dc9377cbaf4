"""Class-aware pruning (CRISP: Aggarwal et al., 2023, arXiv 2311.14272) against what defines it."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import load_data
from autoprune.planning import CalibrationData, Planner
from autoprune.settings import DataSettings, ImportanceSettings
from helpers.brief_training import Trainer, accuracy_on, narrow, pruned

RATIOS = (0.9, 0.8, 0.7)  # Below that neither leaves more than chance, until it is trained.


def test_class_saliency_is_the_product_of_weights_and_mean_absolute_gradients():
    """One layer of logits over another: gradients by hand, of two batches of one image."""
    image = keras.Input((2,))
    hidden = layers.Dense(3, use_bias=False, name="a")(image)
    model = keras.Model(image, layers.Dense(2, use_bias=False, name="logits")(hidden))
    kernel, last = np.array([[1.0, -2, 3], [2, 1, -1]]) / 4, np.array([[1.0, 0], [0, 1], [2, -1]]) / 4
    model.get_layer("a").set_weights([kernel])
    model.get_layer("logits").set_weights([last])
    images, labels = np.array([[1.0, 0.5], [-1, 2]]), np.array([0, 1])
    lengths = 0
    for x, label in zip(images, labels, strict=True):
        odds = np.exp(x @ kernel @ last)
        lengths += np.abs(np.outer(x, (odds / odds.sum() - np.eye(2)[label]) @ last.T)) / 2
    data = CalibrationData(images.astype("float32"), labels, batch_size=1)
    planner = Planner(model, importance=ImportanceSettings("class_saliency", normalisation="none"), data=data)
    np.testing.assert_allclose(planner.scores["a"], np.abs(kernel * lengths).sum(0), rtol=1e-4)


@pytest.mark.slow
def test_saliency_of_some_classes_keeps_them_better_than_that_of_all():
    """Channels removed by what they do for the digits 0, 1 and 2, or for all digits, and nothing trained after that."""
    whole, three = (load_data(DataSettings(reward_size=0.25, classes=classes)) for classes in (None, [0, 1, 2]))
    dense, found = Trainer(narrow(0)), {}
    for seed in range(3):
        weights = dense.train(narrow(seed).get_weights(), whole.train)
        for name, data in (("three", three), ("all", whole)):
            some = data.train.head(256)
            for ratio in RATIOS:
                model = pruned(weights, ratio, "class_saliency", (some.images, some.labels))
                found.setdefault(name, []).append(accuracy_on(model, three.test))
    means = {name: np.mean(values) for name, values in found.items()}
    print(f"accuracy on three classes: by their own saliency {means['three']:.1%}, by that of all {means['all']:.1%}")
    assert means["three"] > means["all"]
