"""Pruning with feedback (Lin et al., 2020, arXiv 2006.07253) against its formulas."""

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
from helpers.plans import uneven_plan
from helpers.topologies import images_for, made

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
    network = Feedback(model, find_groups(model), half_of(model)).make_network(model, steps)
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
    last = 5 * EVERY - 1  # and no multiple of 16
    share = np.arange(5 * EVERY) // EVERY * EVERY / last
    share[last] = 1
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


def trained(width, digits, epochs=6, seed=0, name="small_resnet"):
    keras.utils.set_random_seed(seed)
    model = zoo.build(name, (8, 8, 1), 10, width=width)
    train(model, digits, TrainingSettings(), epochs=epochs, learning_rate=3e-3, seed=seed)
    return model


def test_the_removed_model_is_the_masked_model(digits):
    model = trained(0.25, digits, epochs=1)
    feedback = Feedback(model, find_groups(model), half_of(model))
    network = feedback.make_network(model, steps=2)
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
    dense, epochs = model.get_weights(), []
    done = finisher.finish("rl", evaluation, lambda epoch, logs: epochs.append(epoch))
    assert done.plan.widths == plan.widths
    assert done.plan.dropped == (branch,)
    assert any((done.plan.kept[name] != kept).any() for name, kept in plan.kept.items())
    # Epochs with more channels than the plan keeps are no candidates, however good they are.
    assert done.training.best_epoch >= 3
    assert done.training.epochs == epochs[-1] == 4
    assert len(set(epochs)) == len(epochs)
    assert done.reward_accuracy == pytest.approx(done.training.accuracies[done.training.best_epoch - 1], abs=0.003)
    finisher.undo()
    for now, before in zip(model.get_weights(), dense, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.slow
def test_with_as_many_epochs_it_is_no_worse_than_removal_at_once(digits):
    """Of seven tenths of the channels, by the mean of three fine-tunings each; a point is more than their spread."""
    model = trained(0.5, digits, name="plain_cnn")
    planner = Planner(model, constraints=FINE)
    plan = planner.space.plan(planner.space.nearest(0.3))
    evaluation = Evaluation(key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.5, cost=None)
    found = {}
    for removal in ("first", "dpf"):
        settings = SearchSettings(training=TrainingSettings(fine_tune_epochs=6, removal=removal))
        finisher = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
        found[removal] = [finisher.finish(removal, evaluation, seed=seed).test_accuracy for seed in range(3)]
        finisher.undo()
    print(found)
    assert np.mean(found["dpf"]) > np.mean(found["first"]) - 0.01


def test_training_that_diverges_leaves_the_plan_as_it_was(digits, messages):
    model = trained(0.25, digits, epochs=1)
    planner = Planner(model, constraints=FINE)
    plan = planner.space.plan(planner.space.nearest(0.5))
    evaluation = Evaluation(key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.5, cost=None)
    recipe = TrainingSettings(fine_tune_epochs=1, removal="dpf", fine_tune_learning_rate=1e38)
    finisher = Finisher(
        model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=SearchSettings(training=recipe)
    )
    done = finisher.finish("rl", evaluation)
    assert "diverged" in messages()
    assert {name: kept.tolist() for name, kept in done.plan.kept.items()} == {
        name: kept.tolist() for name, kept in plan.kept.items()
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_however_few_steps_there_are_the_last_one_chooses(steps):
    model = linear_net()
    network = masked(model, steps)
    network.fit(*batch(), batch_size=16, epochs=steps, verbose=0)
    assert len(network.remaining_channels()["a"]) == CHANNELS / 2


def test_losses_of_weights_count_once():
    image = keras.Input((4,))
    x = layers.Dense(CHANNELS, use_bias=False, kernel_regularizer="l2", name="a")(image)
    model = keras.Model(image, layers.Dense(3, use_bias=False, name="out")(x))
    network = masked(model, steps=3)
    (whole,) = model.losses
    network(batch()[0], training=False)
    assert float(sum(network.losses)) == pytest.approx(float(whole))


def test_several_outputs_are_masked_too():
    """What trains them has not been called before."""
    from autoprune.models.outputs import JoinedOutputs

    image = keras.Input((4,))
    x = layers.Dense(CHANNELS, name="a")(image)
    model = keras.Model(image, [layers.Dense(3, name="one")(x), layers.Dense(2, name="other")(x)])
    feedback = Feedback(model, find_groups(model), half_of(model))
    network = feedback.make_network(JoinedOutputs(model), steps=2)
    network.compile("sgd", "mean_squared_error", jit_compile=False)
    images = batch()[0]
    network.fit(images, np.zeros((16, 5), "float32"), batch_size=8, epochs=1, verbose=0)
    told = network.predict(images, verbose=0)
    apply_plan(model, feedback.plan)
    np.testing.assert_allclose(np.concatenate(model.predict(images, verbose=0), axis=1), told, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["growing_concatenation", "residual", "grouped_convolutions", "squeeze_excite", "depthwise"]
)
def test_the_masks_are_the_removal_on_other_topologies(name):
    model = made(name)
    plan, groups = uneven_plan(model), find_groups(model)
    network = Feedback(model, groups, plan).make_network(model, steps=1)
    for group, mask in network.masks.items():
        mask.assign(np.isin(np.arange(mask.shape[0]), plan.kept[group]).astype("float32"))
    images = images_for(model)
    before = network(images, training=False)
    apply_plan(model, plan)
    np.testing.assert_allclose(model(images, training=False), before, atol=2e-5)
