"""Distillation and augmentation: what the network learns from."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Dataset, Split
from autoprune.errors import DataError, SettingsError
from autoprune.models import zoo
from autoprune.models.distilling import DistillationLoss, predicted_log_probabilities, taught
from autoprune.settings import TrainingSettings
from autoprune.training import train
from autoprune.training.augmentation import Augmented, shift, shift_flip


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("from_logits", [True, False])
def test_distillation_is_the_formula_of_the_paper(from_logits):
    generator = np.random.default_rng(0)
    student, teacher, labels = (
        generator.normal(size=(6, 4)),
        generator.normal(size=(6, 4)),
        np.array([0, 1, 2, 3, 1, 2]),
    )
    loss = DistillationLoss(0.3, 2.5, from_logits=from_logits)
    rows = taught(labels, np.log(softmax(teacher)))
    found = loss(rows, (student if from_logits else softmax(student)).astype("float32"))
    hard = -np.log(softmax(student))[np.arange(6), labels]
    soft = -np.sum(softmax(teacher / 2.5) * np.log(softmax(student / 2.5)), axis=1)
    assert float(found) == pytest.approx(np.mean(0.7 * hard + 0.3 * 2.5**2 * soft), rel=1e-5)


def test_a_single_output_is_taught_as_two_classes():
    student = np.array([[0.3], [0.8]], "float32")
    rows = taught(np.array([0, 1]), np.log(np.array([[0.6, 0.4], [0.1, 0.9]])))
    found = float(DistillationLoss(0.5, 1.0, from_logits=False)(rows, student))
    hard = -np.log([0.7, 0.8]).mean()
    soft = -(0.6 * np.log(0.7) + 0.4 * np.log(0.3) + 0.1 * np.log(0.2) + 0.9 * np.log(0.8)) / 2
    assert found == pytest.approx(0.5 * hard + 0.5 * soft, rel=1e-4)


def test_a_student_follows_its_teacher(digits):
    """The teacher is right, the labels are shifted by one: with all weight on it, the labels are never learnt."""
    keras.utils.set_random_seed(0)
    wrong = Dataset("wrong", Split(digits.train.images, (digits.train.labels + 1) % 10), digits.reward, digits.test, 10)
    teacher = np.log(
        np.full((len(digits.train), 10), 0.01, np.float32) + 0.9 * np.eye(10, dtype=np.float32)[digits.train.labels]
    )
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
    settings = TrainingSettings(distillation=1.0)
    record = train(model, wrong, settings, epochs=6, learning_rate=3e-3, seed=0, teacher=teacher)
    # The reward split has the right labels, so that its accuracy tells whom the student followed.
    assert max(record.accuracies) > 0.85


def test_binary_students_are_taught_too(digits):
    two = Dataset(
        "two",
        *(Split(s.images, (s.labels > 4).astype(np.int64)) for s in (digits.train, digits.reward, digits.test)),
        2,
    )
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    model = keras.Model(image, layers.Dense(1, activation="sigmoid")(layers.Flatten()(x)))
    settings = TrainingSettings()
    train(model, two, settings, epochs=5, learning_rate=3e-3, seed=0)
    teacher = predicted_log_probabilities(model, two.train.images)
    record = train(model, two, settings, epochs=1, learning_rate=1e-3, seed=0, teacher=teacher)
    assert teacher.shape == (len(two.train), 2)
    assert record.accuracies[-1] > 0.8


# ------------------------------------------------------------------ augmentation


def test_shifted_images_are_the_images_moved():
    images = np.random.default_rng(0).random((40, 16, 8, 2)).astype("float32") + 1
    moved = shift(images, np.random.default_rng(1))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        padded = np.pad(before, [(2, 2), (1, 1), (0, 0)])
        found = [(r, c) for r in range(5) for c in range(3) if (padded[r : r + 16, c : c + 8] == after).all()]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 8


def test_half_of_the_images_are_mirrored():
    images = np.zeros((200, 8, 8, 1), "float32")
    images[:, :, 2] = 1
    flipped = shift_flip(images, np.random.default_rng(0))[:, 4, 4:].sum((1, 2)) > 0
    assert 60 < flipped.sum() < 140


def test_every_epoch_sees_every_image_in_another_order():
    images = np.arange(10, dtype="float32").reshape(10, 1, 1, 1)
    batches = Augmented(images, np.arange(10), lambda part, _: part, batch_size=4, seed=0)
    epochs = []
    for _ in range(2):
        epochs.append(np.concatenate([batches[index][1] for index in range(len(batches))]))
        batches.on_epoch_end()
    assert len(batches) == 3
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_training_on_changed_images_learns_and_is_repeatable(digits):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
        settings = TrainingSettings(augmentation="shift")
        found.append(train(model, digits, settings, epochs=4, learning_rate=3e-3, seed=0))
    assert found[0].losses == found[1].losses
    assert max(found[0].accuracies) > 0.6


def test_augmentation_of_what_is_no_image_is_refused():
    split = Split(np.zeros((20, 5), "float32"), np.zeros(20, np.int64))
    image = keras.Input((5,))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(image))
    settings = TrainingSettings(augmentation="shift")
    with pytest.raises(DataError, match=r"moves images of shape \(height, width, channels\)"):
        train(model, Dataset("flat", split, split, split, 2), settings, epochs=1, learning_rate=1e-3, seed=0)


@pytest.mark.parametrize(("option", "value"), [("distillation", 1.5), ("temperature", 0.0), ("augmentation", "cutmix")])
def test_wrong_recipes_are_refused(option, value):
    with pytest.raises(SettingsError, match=f"training.{option} must be"):
        TrainingSettings(**{option: value})
