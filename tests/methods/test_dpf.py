"""Pruning with feedback (Lin et al., 2020, arXiv 2006.07253) against its formulas, and against pruning at once."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.cost import open_cost_model
from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.records import Evaluation, Target
from autoprune.settings import Constraints, SearchSettings, TrainingSettings
from autoprune.surgery import apply_plan
from autoprune.training import train
from autoprune.training.feedback import EVERY, Feedback
from autoprune.training.finishing import Finisher

FINE = Constraints(multiple_of=1)
CHANNELS = 8


def linear_net():
    """A product of two matrices, whose squared error is a quadratic of each of them."""
    image = keras.Input((4,))
    x = layers.Dense(CHANNELS, use_bias=False, name="a")(image)
    return keras.Model(image, layers.Dense(3, use_bias=False, name="out")(x))


def half_of(model):
    planner = Planner(model, constraints=FINE)
    return planner.space.plan(planner.space.nearest(0.5))


def masked(model, steps):
    """What is trained, compiled with plain gradient descent."""
    network = Feedback(model, find_groups(model), half_of(model)).around(model, steps)
    network.compile(keras.optimizers.SGD(0.1), "mean_squared_error", jit_compile=keras.backend.backend() == "jax")
    return network


def batch(count=16, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 4)).astype("float32"), generator.normal(size=(count, 3)).astype("float32")


def test_a_step_takes_the_gradient_at_the_mask_and_changes_the_weights_without_it():
    model = linear_net()
    images, targets = batch()
    network = masked(model, steps=4)  # the last choice is after three
    network.fit(images, targets, batch_size=16, epochs=3, verbose=0, shuffle=False)
    before = [weight.astype("float64") for weight in model.get_weights()]
    network.fit(images, targets, batch_size=16, epochs=1, verbose=0, shuffle=False)
    mask = np.zeros(CHANNELS)
    mask[network.remaining_channels()["a"]] = 1
    assert mask.sum() == CHANNELS / 2
    last = before[1] * mask[:, None]
    wrong = 2 * (images @ before[0] @ last - targets) / targets.size
    expected = before[0] - 0.1 * images.T @ (wrong @ last.T), before[1] - 0.1 * (images @ before[0]).T @ wrong
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    # What reads a masked channel learns too.
    assert not np.isclose(model.get_weights()[1][mask == 0], before[1][mask == 0], atol=1e-5).all(1).any()


@pytest.mark.parametrize("at_once", [1, 5])
def test_the_schedule_begins_with_all_and_ends_with_what_the_plan_keeps(at_once):
    model = linear_net()
    images, targets = batch(5 * EVERY * 4)
    network = masked(model, steps=5 * EVERY)
    network.compile(keras.optimizers.SGD(1e-3), "mean_squared_error", steps_per_execution=at_once, jit_compile=False)
    counts = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            counts.append(len(network.remaining_channels()["a"]))

    network.fit(images, targets, batch_size=4, verbose=0, shuffle=False, callbacks=[Count()])
    assert len(counts) == 5 * EVERY / at_once
    share = np.minimum(np.arange(5 * EVERY) // EVERY * EVERY / 60, 1)
    share[60:] = 1  # 60 steps are three quarters of 80, and no multiple of 16
    wanted = CHANNELS - np.round(CHANNELS / 2 * (1 - (1 - share) ** 3))
    assert counts == wanted[at_once - 1 :: at_once].tolist()
    assert counts[-1] == CHANNELS / 2
    assert counts[0] == CHANNELS or at_once > 1


def test_a_channel_that_is_needed_comes_back():
    """Four channels read the images and are hardly read, four read nothing and are read: the wrong ones go first."""
    model = linear_net()
    generator = np.random.default_rng(0)
    images = generator.normal(size=(4 * EVERY * 16, 4)).astype("float32")
    targets = images @ generator.normal(size=(4, 3)).astype("float32")
    network = masked(model, steps=4 * EVERY)
    kernel = np.concatenate([np.eye(4), np.zeros((4, 4))], axis=1)
    model.set_weights([kernel, np.repeat([[0.02], [0.3]], 4, axis=0) * np.ones(3)])
    network.compile(keras.optimizers.SGD(0.02), "mean_squared_error", jit_compile=False)
    kept = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, step, logs=None):
            kept.append(set(network.remaining_channels()["a"].tolist()))

    network.fit(images, targets, batch_size=16, verbose=0, shuffle=False, callbacks=[Look()])
    assert len(kept[EVERY] & {0, 1, 2, 3}) < 4
    assert kept[-1] == {0, 1, 2, 3}


def trained(width, digits, epochs=6, seed=0):
    keras.utils.set_random_seed(seed)
    model = zoo.build("small_resnet", (8, 8, 1), 10, width=width)
    train(model, digits, TrainingSettings(), epochs=epochs, learning_rate=3e-3, seed=seed)
    return model


def test_the_removed_model_is_the_masked_model(digits):
    model = trained(0.25, digits, epochs=1)
    feedback = Feedback(model, find_groups(model), half_of(model))
    network = feedback.around(model, steps=2)
    network.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    network.fit(digits.train.images[:96], digits.train.labels[:96], batch_size=32, verbose=0)
    images = digits.test.images[:64]
    before = network.predict(images, verbose=0)
    assert feedback.plan.widths == half_of(model).widths
    apply_plan(model, feedback.plan)
    np.testing.assert_allclose(model.predict(images, verbose=0), before, atol=1e-5)


@pytest.mark.slow
def test_finishing_with_feedback_keeps_widths_and_chooses_channels(digits):
    model = trained(0.25, digits)
    planner = Planner(model, constraints=FINE)
    branch = planner.branches[0].name
    plan = planner.plan({branch: 0} | {group.name: 0.5 for group in planner.groups})
    evaluation = Evaluation(
        key="", keep_ratios=plan.keep_ratios, widths=plan.widths, dropped=plan.dropped, accuracy=0.5, cost=None
    )
    settings = SearchSettings(training=TrainingSettings(fine_tune_epochs=4, removal="dpf"))
    finisher = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    done = finisher.finish("rl", evaluation)
    assert done.plan.widths == plan.widths
    assert done.plan.dropped == (branch,)
    # Epochs with more channels than the plan keeps are no candidates, however good they are.
    assert done.training.best_epoch == 4
    assert done.reward_accuracy == pytest.approx(done.training.accuracies[-1], abs=0.03)
    finisher.undo()
    assert model.count_params() == trained(0.25, digits, epochs=1).count_params()
