"""An interrupted training ends as an uninterrupted one, to the last bit; a wrong checkpoint is refused."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Dataset
from autoprune.reporting.curves import Curves
from autoprune.settings import TrainingSettings
from autoprune.training.checkpoints import CheckpointError, Checkpoints
from autoprune.training.course import TrainingError
from autoprune.training.fit import FitLoop, carry_out
from autoprune.training.training import Training
from helpers.events import curves_in, trackers_in
from helpers.telling import log_probabilities

EPOCHS = 4
PLAIN = TrainingSettings(batch_size=50)
# Everything that draws random numbers, besides the order of the images.
RICH = TrainingSettings(
    batch_size=50,
    label_smoothing=0.1,
    augmentation="keras",
    augmentation_layers=[{"RandomTranslation": {"height_factor": 0.1, "width_factor": 0.1}}, {"RandomFlip": {}}],
)


class Interrupted(BaseException):
    pass


@pytest.fixture(scope="module")
def few(digits):
    return Dataset("few", digits.train.head(330), digits.reward, digits.test, 10)


def network():
    """With batch norm and dropout: more to remember than weights."""
    keras.utils.set_random_seed(5)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10)(x))


def task_for(data, settings, teacher=False):
    model = network()
    # A process that loads the model draws other seeds for its layers.
    keras.utils.set_random_seed(int(np.random.default_rng().integers(1000)))
    taught = log_probabilities(network(), data.train.images) if teacher else None
    return Training(
        model=model, data=data, settings=settings, epochs=EPOCHS, learning_rate=None, seed=3, teacher=taught
    )


def interrupt_at(epochs):
    def progress(done, logs):
        if done >= epochs:
            raise Interrupted

    return progress


def run_interrupted(data, settings, folder, at, every=None, teacher=False, loop=None):
    """Train in several pieces, each with a new model, as new processes do; the last piece's record and weights."""
    for end in (*at, None):
        task = task_for(data, settings, teacher)
        checkpoints = Checkpoints(folder / "state.safetensors", {"seed": 3}, every)
        try:
            record = carry_out(task, interrupt_at(end) if end else None, checkpoints, loop)
        except Interrupted:
            continue
        assert end is None
    return record, task.model.get_weights()


def run_whole(data, settings, teacher=False, loop=None):
    task = task_for(data, settings, teacher)
    return carry_out(task, loop=loop), task.model.get_weights()


@pytest.mark.parametrize(
    ("settings", "at", "every", "teacher"),
    [
        (PLAIN, (1.5, 2.5), None, False),
        (PLAIN, (0.3, 1.8), 2, True),
        pytest.param(RICH, (1.6, 2.0, 3.4), 3, False, marks=pytest.mark.slow),
        pytest.param(RICH, (0.2, 3.9), 1, True, marks=pytest.mark.slow),
    ],
)
def test_interrupted_training_ends_with_the_same_bits(few, tmp_path, settings, at, every, teacher):
    whole, expected = run_whole(few, settings, teacher)
    record, weights = run_interrupted(few, settings, tmp_path, at, every, teacher)
    for value, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert record.accuracies == whole.accuracies
    assert record.best_epoch == whole.best_epoch
    np.testing.assert_allclose(record.losses, whole.losses, rtol=1e-5)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


@pytest.mark.slow
def test_the_start_is_the_best_also_after_an_interruption(few, tmp_path):
    """Where no epoch was as good as it; where one was, nothing is changed by asking for it."""
    begun = network().get_weights()
    path = tmp_path / "state.safetensors"
    for end in (1.5, None):
        task = dataclasses.replace(task_for(few, PLAIN), start=1.1)
        with contextlib.suppress(Interrupted):
            record = carry_out(task, interrupt_at(end) if end else None, Checkpoints(path, {}))
    assert (record.best_epoch, record.start, record.epochs, record.only_worse) == (0, 1.1, EPOCHS, True)
    trained = [variable.path for variable in task.model.trainable_variables]
    for variable, value, wanted in zip(task.model.weights, task.model.get_weights(), begun, strict=True):
        if variable.path in trained:
            np.testing.assert_array_equal(value, wanted)
    usual = run_whole(few, PLAIN)
    task = dataclasses.replace(task_for(few, PLAIN), start=0.0)
    assert dataclasses.replace(carry_out(task), start=None) == usual[0]
    for value, wanted in zip(task.model.get_weights(), usual[1], strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_a_training_that_goes_on_has_its_curve_from_the_start(few, tmp_path):
    """In the file of the process that ends it: each epoch once, as without the interruption."""
    path, found = tmp_path / "state.safetensors", []
    for end in (2.4, None):
        task = dataclasses.replace(task_for(few, PLAIN), start=0.1)
        with contextlib.suppress(Interrupted), Curves(trackers_in(tmp_path), "training", "fine-tuning") as curves:

            def progress(done, logs, curves=curves, end=end):
                curves.add_epoch(done, logs)
                if end is not None and done >= end:
                    raise Interrupted

            record = carry_out(task, progress, Checkpoints(path, {}))
        found.append(curves_in(tmp_path / "training" / "fine-tuning"))
    assert [step for step, _ in found[0]["training/loss"]] == [1, 2]
    losses, accuracies = (found[1][f"training/{name}"] for name in ("loss", "accuracy"))
    assert dict(losses) == pytest.approx(dict(enumerate(record.losses, start=1)))
    assert dict(accuracies) == pytest.approx(dict(enumerate((0.1, *record.accuracies))))
    assert (len(losses), len(accuracies)) == (EPOCHS, EPOCHS + 1)


def test_steps_executed_together_and_of_one_shape_are_resumed_too(few, tmp_path):
    loop = FitLoop(whole=True, steps_per_execution=4)
    expected = run_whole(few, PLAIN, loop=loop)[1]
    weights = run_interrupted(few, PLAIN, tmp_path, (1.1, 2.7), 3, loop=loop)[1]
    for value, wanted in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_batches_of_one_shape_are_judged_alike(few):
    """What fills the last batch of the reward split up counts nothing."""
    padded = carry_out(task_for(few, PLAIN), loop=FitLoop(whole=True)).accuracies
    assert all(round(accuracy * len(few.reward), 3).is_integer() for accuracy in padded)


def test_a_finished_training_is_not_done_again(few, tmp_path):
    record, weights = run_interrupted(few, PLAIN, tmp_path, ())
    before = (tmp_path / "state.safetensors").stat().st_mtime_ns
    again, same = run_interrupted(few, PLAIN, tmp_path, ())
    assert (tmp_path / "state.safetensors").stat().st_mtime_ns == before
    assert again == record
    for value, wanted in zip(same, weights, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_the_test_split_is_not_looked_at(few):
    untested = Dataset("untested", few.train, few.reward, None, 10)
    assert carry_out(task_for(untested, PLAIN)).epochs == EPOCHS


def test_early_stop_ends_a_training_and_stays_ended(few, tmp_path):
    """All that is learnt is a constant, which is right equally often in every epoch."""

    def progress(done, logs):
        accuracies.append(logs.get("val_accuracy"))

    settings, accuracies = TrainingSettings(batch_size=50, early_stop=2), []
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Rescaling(0.0)(image))
    model = keras.Model(image, layers.Dense(10, kernel_initializer="zeros", bias_constraint="non_neg")(x))
    model.layers[-1].bias.assign(np.eye(10)[3] * 9)
    for _ in range(2):
        task = Training(model=model, data=few, settings=settings, epochs=EPOCHS, learning_rate=None, seed=3)
        record = carry_out(task, progress, Checkpoints(tmp_path / "state.safetensors", {}))
        assert (record.epochs, record.best_epoch) == (3, 3)
        assert record.stopped == "no better accuracy on the reward split for 2 epochs"
    assert len(set(accuracies) - {None}) == 1
    # The second time all epochs are told, and no step is taken.
    assert sum(accuracy is not None for accuracy in accuracies) == 6
    assert None not in accuracies[-4:]


def test_loss_that_is_no_number_leaves_the_best_weights(few, tmp_path):
    """Of the checkpoint, when the loss went wrong after an interruption."""
    run_interrupted(few, PLAIN, tmp_path, (1.5,))
    first = task_for(few, PLAIN)
    begun = first.model.get_weights()
    broken = TrainingSettings(batch_size=50, fine_tune_learning_rate=1e38, warm_up=0)
    task = Training(model=first.model, data=few, settings=broken, epochs=EPOCHS, learning_rate=None, seed=3)
    with pytest.raises(TrainingError, match="Lower the learning rate: it was 1e\\+38"):
        carry_out(task)
    for value, wanted in zip(task.model.get_weights(), begun, strict=True):
        np.testing.assert_array_equal(value, wanted)


# ------------------------------------------------------------------ what is no checkpoint of this training


def test_checkpoint_of_another_training_is_refused(few, tmp_path):
    path = tmp_path / "state.safetensors"
    run_interrupted(few, PLAIN, tmp_path, ())
    with pytest.raises(CheckpointError, match="of another training: seed changed since"):
        carry_out(task_for(few, PLAIN), checkpoints=Checkpoints(path, {"seed": 4}))
    image = keras.Input((8, 8, 1))
    other = Training(
        model=keras.Model(image, layers.Dense(10)(layers.Flatten()(image))),
        data=few,
        settings=PLAIN,
        epochs=EPOCHS,
        learning_rate=None,
        seed=3,
    )
    with pytest.raises(CheckpointError, match="is of another model"):
        carry_out(other, checkpoints=Checkpoints(path, {"seed": 3}))


def test_damaged_checkpoint_is_refused(few, tmp_path):
    path = tmp_path / "state.safetensors"
    run_interrupted(few, PLAIN, tmp_path, ())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read: .* Delete it to begin the training anew"):
        carry_out(task_for(few, PLAIN), checkpoints=Checkpoints(path, {"seed": 3}))
