"""Distillation and augmentation: what the network learns from."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Dataset, Split
from autoprune.errors import DataError, SettingsError
from autoprune.models import zoo
from autoprune.settings import TrainingSettings
from autoprune.tasks import add_teacher
from autoprune.training import train
from autoprune.training.augmentation import change_for, shift, shift_flip
from autoprune.training.batches import Batches, InOrder
from autoprune.training.schedules import Cosine, fine_tuning_schedule
from helpers.telling import log_probabilities, loss_of


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
    loss = loss_of(4, weight=0.3, temperature=2.5, from_logits=from_logits)
    rows = add_teacher(labels, np.log(softmax(teacher)))
    found = loss(rows, (student if from_logits else softmax(student)).astype("float32"))
    hard = -np.log(softmax(student))[np.arange(6), labels]
    soft = -np.sum(softmax(teacher / 2.5) * np.log(softmax(student / 2.5)), axis=1)
    assert float(found) == pytest.approx(np.mean(0.7 * hard + 0.3 * 2.5**2 * soft), rel=1e-5)


def test_a_single_output_is_taught_as_two_classes():
    student = np.array([[0.3], [0.8]], "float32")
    rows = add_teacher(np.array([0, 1]), np.log(np.array([[0.6, 0.4], [0.1, 0.9]])))
    found = float(loss_of(1, weight=0.5, from_logits=False)(rows, student))
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
    teacher = log_probabilities(model, two.train.images)
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
    batches = Batches(images, np.arange(10), batch_size=4, seed=0)
    epochs = []
    for epoch in range(2):
        batches.begin(epoch)
        epochs.append(np.concatenate([batches[index][1] for index in range(len(batches))]))
    assert len(batches) == 3
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_an_epoch_is_the_same_from_its_middle_and_in_another_order_with_another_seed():
    images = np.random.default_rng(0).random((37, 16, 16, 1)).astype("float32")
    whole, rest, other = (
        Batches(images, np.arange(37), batch_size=5, seed=seed, change=shift_flip) for seed in (3, 3, 4)
    )
    whole.begin(2)
    rest.begin(2, step=5)
    other.begin(2)
    assert (len(whole), len(rest)) == (8, 3)
    for index in range(3):
        for here, there in zip(whole[5 + index], rest[index], strict=True):
            np.testing.assert_array_equal(here, there)
    assert (whole[0][1] != other[0][1]).any()


def test_batches_of_one_shape():
    images = np.arange(10, dtype="float32").reshape(10, 1)
    training = Batches(images, np.arange(10), batch_size=4, seed=0, whole=True)
    assert [len(training[index][1]) for index in range(len(training))] == [4, 4]
    judged = InOrder(images, np.arange(10), batch_size=4, padded=True)
    parts = [judged[index] for index in range(len(judged))]
    assert [images.shape for images, _, _ in parts] == [(4, 1)] * 3
    np.testing.assert_array_equal(np.concatenate([weights for _, _, weights in parts]), [1] * 10 + [0] * 2)
    np.testing.assert_array_equal(parts[-1][1], [8, 9, 9, 9])
    with pytest.raises(DataError, match="10 training images, fewer than a batch of 11. Set training.batch_size to 10"):
        Batches(images, np.arange(10), batch_size=11, seed=0, whole=True)


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
    with pytest.raises(DataError, match=r"changes images of shape \(height, width, channels\)"):
        train(model, Dataset("flat", split, split, split, 2), settings, epochs=1, learning_rate=1e-3, seed=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("distillation", 1.5),
        ("temperature", 0.0),
        ("augmentation", "cutmix"),
        ("augmentation_layers", [{"RandomFlip": {}}]),
        ("label_smoothing", 1.0),
        ("early_stop", 0),
        ("schedule", "linear"),
    ],
)
def test_wrong_recipes_are_refused(option, value):
    with pytest.raises(SettingsError, match=f"training.{option} must be"):
        TrainingSettings(**{option: value})


def test_more_epochs_than_can_be_rewound_are_refused():
    with pytest.raises(SettingsError, match=r"fine_tune_epochs must be at most training.epochs \(4\) with"):
        TrainingSettings(epochs=4, fine_tune_epochs=5, schedule="rewinding")


@pytest.mark.parametrize(
    ("layers_named", "message"),
    [
        ([{"RandomFlop": {}}], "Keras has no layer 'RandomFlop' that changes images alone. Did you mean 'RandomFlip'"),
        ([{"MixUp": {}}], "Keras has no layer 'MixUp' that changes images alone"),
        ([{"Dense": {"units": 3}}], "Keras has no layer 'Dense' that changes images alone"),
        (["RandomFlip"], "must be a list of layers with their arguments"),
        ([{"RandomRotation": {"angle": 1}}], "keras.layers.RandomRotation refuses"),
    ],
)
def test_wrong_layers_are_refused(layers_named, message):
    settings = TrainingSettings(augmentation="keras", augmentation_layers=layers_named)
    with pytest.raises(SettingsError, match=message):
        change_for(settings, (8, 8, 1))


def test_layers_that_change_the_shape_are_refused():
    crop = [{"RandomCrop": {"height": 4, "width": 4}}]
    change = change_for(TrainingSettings(augmentation="keras", augmentation_layers=crop), (8, 8, 1))
    with pytest.raises(DataError, match=r"leave images as large as they are. Received: \(8, 8, 1\) became \(4, 4, 1\)"):
        change(np.zeros((2, 8, 8, 1), "float32"), np.random.default_rng(0))


def test_layers_of_keras_draw_anew_for_every_batch_and_alike_for_the_same():
    named = [{"RandomFlip": {"mode": "horizontal"}}, {"RandomBrightness": {"factor": 0.2, "value_range": [0, 1]}}]
    change, other = (change_for(TrainingSettings(augmentation="keras", augmentation_layers=named), (8, 8, 1)),) * 2
    images = np.random.default_rng(0).random((50, 8, 8, 1)).astype("float32")
    one, two = (change(images, np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(other(images, np.random.default_rng(1)), one)
    assert one.dtype == np.float32
    assert (one != two).any()


# ------------------------------------------------------------------ schedules and losses


def test_rewinding_goes_through_the_last_epochs_of_the_base_training_again():
    settings = TrainingSettings(epochs=10, learning_rate=0.02, warm_up=0.2, schedule="rewinding", fine_tune_epochs=4)
    whole = [float(Cosine(0.02, 50, 0.2)(step)) for step in range(50)]
    again = fine_tuning_schedule(settings, 4, 5)
    np.testing.assert_allclose([float(again(step)) for step in range(20)], whole[30:], rtol=1e-6)
    assert whole[9] < whole[10] == max(whole)
    assert whole[49] < 1e-3 * whole[10] + 1e-4


@pytest.mark.parametrize(("peak", "steps", "warm_up"), [(0.02, 50, 0.2), (1e-3, 7, 0.0), (2e-3, 1, 0.5)])
def test_a_cosine_is_that_of_keras(peak, steps, warm_up):
    """To the last bit, also beyond its end."""
    rising = round(warm_up * steps)
    start = {"initial_learning_rate": 0.0, "warmup_target": peak, "warmup_steps": rising}
    start = start if rising else {"initial_learning_rate": peak}
    expected = keras.optimizers.schedules.CosineDecay(decay_steps=max(steps - rising, 1), **start)
    ours = Cosine(peak, steps, warm_up)
    assert [float(ours(step)) for step in range(steps + 3)] == [float(expected(step)) for step in range(steps + 3)]


def test_a_cosine_begins_low_and_ends_at_nothing():
    settings = TrainingSettings(fine_tune_learning_rate=0.01, warm_up=0.1)
    rates = [float(fine_tuning_schedule(settings, 4, 10)(step)) for step in range(41)]
    assert rates[0] == 0
    assert max(rates) == rates[4] == pytest.approx(0.01)
    assert rates[40] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("from_logits", [True, False])
def test_smoothed_labels_are_the_formula_of_the_paper(from_logits):
    generator = np.random.default_rng(0)
    outputs, labels = generator.normal(size=(6, 4)), np.array([0, 1, 2, 3, 1, 2])
    given = (outputs if from_logits else softmax(outputs)).astype("float32")
    target = 0.8 * np.eye(4)[labels] + 0.2 / 4
    expected = -(target * np.log(softmax(outputs))).sum(1).mean()
    assert float(loss_of(4, smoothing=0.2, from_logits=from_logits)(labels, given)) == pytest.approx(expected, rel=1e-5)
    taught_too = loss_of(4, weight=0.0, temperature=2.0, from_logits=from_logits, smoothing=0.2)
    rows = add_teacher(labels, np.zeros((6, 4), "float32"))
    assert float(taught_too(rows, given)) == pytest.approx(expected, rel=1e-5)


def test_smoothing_lowers_the_confidence(digits):
    confidences = []
    for smoothing in (0.0, 0.3):
        keras.utils.set_random_seed(0)
        model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
        train(model, digits, TrainingSettings(label_smoothing=smoothing), epochs=4, learning_rate=3e-3, seed=0)
        confidences.append(float(np.exp(log_probabilities(model, digits.reward.images)).max(1).mean()))
    assert confidences[0] > confidences[1] + 0.1
