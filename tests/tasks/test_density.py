"""Outputs that are log-densities: losses, figures, and a search without labels."""

import math

import keras
import numpy as np
import pytest

from autoprune.data import from_arrays
from autoprune.errors import DataError, SettingsError
from autoprune.models import outputs
from autoprune.settings import TaskSettings, TrainingSettings
from autoprune.tasks import Judge, add_teacher, make_task
from autoprune.tasks.density import Density
from autoprune.tasks.heads import Classes
from autoprune.training import train

TOLD = np.array([-3.0, 0.5, 2.0])


class Gaussian(keras.layers.Layer):
    """(n, 1) log-densities of one normal distribution."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), name="mean")
        self.log_scale = self.add_weight(shape=(shape[-1],), name="log_scale", initializer="zeros")

    def call(self, x):
        z = (x - self.mean) * keras.ops.exp(-self.log_scale)
        terms = -0.5 * z**2 - self.log_scale - 0.5 * math.log(2 * math.pi)
        return keras.ops.sum(terms, axis=-1, keepdims=True)


def test_losses_and_what_tells_plans_apart():
    head, labels = Density(), np.zeros(3)
    told = np.asarray(head.tell(keras.ops.convert_to_tensor(TOLD[:, None]), raw=True))
    np.testing.assert_allclose(told, TOLD)
    tensor = keras.ops.convert_to_tensor(told)
    np.testing.assert_allclose(np.asarray(head.own_losses(labels, tensor)), -TOLD)
    np.testing.assert_allclose(np.asarray(head.distillation_losses(tensor + 2, tensor, 4.0)), 4)
    chances = np.exp(-head.surprise(labels, TOLD))
    np.testing.assert_allclose(chances, np.exp(TOLD) / (1 + np.exp(TOLD)))
    np.testing.assert_allclose(head.divergence(TOLD + 1, TOLD), 1)


@pytest.mark.parametrize(("metric", "unit"), [(None, 1.0), ("bits_per_dimension", math.log(2))])
def test_quality_is_told_in_its_unit_and_lower_is_better(metric, unit):
    task = make_task(TaskSettings("density", metric=metric))
    inputs = keras.Input((1,))
    judge = Judge(task, keras.Model(inputs, keras.layers.Identity()(inputs)))
    found = judge.make_metric()
    judge.update_metric(found, np.zeros(3, "float32"), keras.ops.convert_to_tensor(TOLD[:, None].astype("float32")))
    assert float(found.result()) == pytest.approx(-TOLD.mean() / unit, rel=1e-6)
    assert task.measure.lower_is_better
    assert not task.measure.is_share
    loss = judge.loss(teacher=0.5)
    teacher = (TOLD + 3)[:, None].astype("float32")
    rows = keras.ops.convert_to_tensor(add_teacher(np.zeros(3, "float32"), teacher))
    value = loss(rows, keras.ops.convert_to_tensor(TOLD[:, None].astype("float32")))
    assert float(value) == pytest.approx(0.5 * -TOLD.mean() + 0.5 * 9, rel=1e-6)


def test_training_finds_the_distribution_whatever_the_labels():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1200, 2)).astype("float32") * (0.5, 2) + (1, -1)
    x = x.astype("float32")
    data = from_arrays(x[:1000], generator.integers(0, 3, 1000), x[1000:], np.zeros(200), task="density")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, Gaussian()(inputs))
    train(model, data, TrainingSettings(batch_size=50), epochs=40, learning_rate=0.05, seed=0)
    mean, log_scale = model.get_weights()
    np.testing.assert_allclose(mean, (1, -1), atol=0.2)
    np.testing.assert_allclose(np.exp(log_scale), (0.5, 2), rtol=0.1)
    entropy = math.log(2 * math.pi * math.e * 0.5 * 2)
    judge = Judge(data.task, model)
    metric = judge.make_metric()
    judge.update_metric(metric, data.test.labels, outputs.run_joined(model, data.test.images[:]))
    assert float(metric.result()) == pytest.approx(entropy, abs=0.25)


def test_what_does_not_suit_is_refused():
    with pytest.raises(SettingsError, match="null with task=density"):
        TaskSettings("density", loss="huber")
    with pytest.raises(SettingsError, match=r"Those for it: bits_per_dimension, nats"):
        make_task(TaskSettings("density", metric="rmse"))
    assert "logarithm of the density" in Density().complain((10,))
    assert Density().complain((1,)) == ""
    with pytest.raises(DataError):
        Classes().read_labels(np.full(3, 0.5))
    np.testing.assert_array_equal(Density().read_labels(np.full(3, 0.5)), 0)
