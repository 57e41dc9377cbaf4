"""Training and fine-tuning, on real digits and on data made to go wrong."""

import gc

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.cost import open_cost_model
from autoprune.data import Dataset, Split
from autoprune.errors import DataError
from autoprune.evaluation.accuracy import accuracy
from autoprune.models import keras_internals, zoo
from autoprune.models.outputs import loss_for
from autoprune.planning import Planner
from autoprune.records import Evaluation, Target
from autoprune.settings import Constraints, ModelSettings, SearchSettings, TrainingSettings
from autoprune.training import base_model as base_model_module
from autoprune.training import train
from autoprune.training.base_model import base_model
from autoprune.training.batches import Batches
from autoprune.training.finishing import Finisher
from autoprune.training.fit import TrainingError


def small(seed=0):
    keras.utils.set_random_seed(seed)
    return zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)


def test_training_learns_and_keeps_the_best_epoch(digits):
    model, seen = small(), []
    record = train(
        model,
        digits,
        TrainingSettings(),
        epochs=6,
        learning_rate=3e-3,
        seed=0,
        on_progress=lambda epochs, logs: seen.append((epochs, "val_accuracy" in logs)),
    )
    steps = -(-len(digits.train) // TrainingSettings().batch_size)
    np.testing.assert_allclose([epochs for epochs, _ in seen], np.arange(1, 6 * steps + 1) / steps)
    assert [epochs for epochs, is_whole in seen if is_whole] == [1, 2, 3, 4, 5, 6]
    assert record.losses[-1] < record.losses[0] / 3
    assert record.accuracies[record.best_epoch - 1] == max(record.accuracies)
    assert accuracy(model, digits.reward) == pytest.approx(max(record.accuracies), abs=0.005)
    assert accuracy(model, digits.test) > 0.85


def test_training_leaves_no_optimiser_behind(digits, tmp_path):
    model = small()
    train(model, digits, TrainingSettings(), epochs=1, learning_rate=1e-3, seed=0)
    assert keras_internals.optimizer_of(model) is None
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert not loaded.compiled
    loaded.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    loaded.fit(digits.reward.images, digits.reward.labels, verbose=0)


def test_same_seed_same_weights(digits):
    weights = []
    for seed in (0, 0, 1):
        model = small()
        train(model, digits, TrainingSettings(), epochs=1, learning_rate=1e-3, seed=seed)
        weights.append(np.concatenate([w.numpy().ravel() for w in model.weights]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_no_epochs_change_nothing(digits):
    model = small()
    before = model.get_weights()
    record = train(model, digits, TrainingSettings(), epochs=0, learning_rate=1e-3, seed=0)
    assert record.epochs == 0
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_loss_that_is_no_number_is_an_error_and_the_weights_stay_finite(digits):
    model = small()
    with pytest.raises(TrainingError, match="The loss became nan in epoch .*Lower the learning rate: it was 1e\\+30"):
        train(model, digits, TrainingSettings(warm_up=0), epochs=3, learning_rate=1e30, seed=0)


def output_model(kind):
    image = keras.Input((6,))
    last = {
        "softmax": lambda: layers.Dense(3, activation="softmax")(image),
        "softmax layer": lambda: layers.Softmax()(layers.Dense(3)(image)),
        "raw softmax": lambda: keras.ops.softmax(layers.Dense(3)(image)),
        "logits": lambda: layers.Dense(3)(image),
        "sigmoid": lambda: layers.Dense(1, activation="sigmoid")(image),
        "one logit": lambda: layers.Dense(1)(image),
        "mixed precision": lambda: layers.Activation("linear", dtype="float32")(layers.Dense(3, "softmax")(image)),
        "nested": lambda: keras.Sequential([layers.Dense(3, "softmax"), layers.Reshape((3,))])(image),
    }[kind]()
    return keras.Model(image, last)


@pytest.mark.parametrize(
    ("kind", "loss", "from_logits"),
    [
        ("softmax", "SparseCategoricalCrossentropy", False),
        ("softmax layer", "SparseCategoricalCrossentropy", False),
        ("raw softmax", "SparseCategoricalCrossentropy", False),
        ("logits", "SparseCategoricalCrossentropy", True),
        ("sigmoid", "BinaryCrossentropy", False),
        ("one logit", "BinaryCrossentropy", True),
        ("mixed precision", "SparseCategoricalCrossentropy", False),
        ("nested", "SparseCategoricalCrossentropy", False),
    ],
)
def test_loss_fits_what_the_model_puts_out(kind, loss, from_logits):
    made_loss = loss_for(output_model(kind))
    assert type(made_loss).__name__ == loss
    assert made_loss.get_config()["from_logits"] is from_logits


@pytest.mark.parametrize("kind", ["sigmoid", "one logit"])
def test_two_classes_with_one_output_can_be_trained(kind):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(200, 6)).astype("float32")
    labels = (images[:, 0] > 0).astype(int)
    split = Split(images, labels)
    model = output_model(kind)
    data = Dataset("sign", split, split, split, 2)
    record = train(model, data, TrainingSettings(), epochs=60, learning_rate=0.05, seed=0)
    assert accuracy(model, split) > 0.95
    assert accuracy(model, split) == pytest.approx(max(record.accuracies))


# ------------------------------------------------------------------ the base model


def test_base_model_is_trained_once_and_loaded_afterwards(digits, messages):
    settings = SearchSettings(
        model=ModelSettings("plain_cnn", width=0.125), training=TrainingSettings(epochs=1), seed=11
    )
    trained = []
    first = base_model(settings, digits, lambda *a: trained.append(a))
    steps = len(trained)
    assert steps > 0
    again = base_model(settings, digits, lambda *a: trained.append(a))
    assert len(trained) == steps
    assert "loaded, as trained before" in messages()
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_base_model_is_trained_anew(digits, own_cache, messages):
    settings = SearchSettings(
        model=ModelSettings("plain_cnn", width=0.125), training=TrainingSettings(epochs=1), seed=12
    )
    first = base_model(settings, digits)
    (path,) = [p for p in (own_cache / "models").iterdir() if p.stat().st_mtime == newest(own_cache)]
    path.write_bytes(b"damaged")
    again = base_model(settings, digits)
    assert "training it anew" in messages()
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_base_model_is_kept_under_what_it_depends_on_alone(digits):
    """What belongs to fine-tuning, and what is not used, makes no other model."""

    def kept(**changes):
        return base_model_module._cache_path(SearchSettings(training=TrainingSettings(epochs=3, **changes)), digits)

    same = [{"schedule": "rewinding"}, {"distillation": 0.0}, {"feature_distillation": 1.0}, {"fine_tune_epochs": 1}]
    assert {kept(**changes) for changes in same} == {kept()}
    others = [{"label_smoothing": 0.1}, {"early_stop": 2}, {"augmentation": "shift"}, {"batch_size": 32}]
    others.append({"augmentation": "keras", "augmentation_layers": [{"RandomFlip": {}}]})
    assert len({kept(**changes) for changes in others} | {kept()}) == len(others) + 1


def test_base_model_of_few_steps_is_as_good_as_its_weights(digits):
    """After one epoch the moving statistics are far behind: accuracy would be that of guessing."""
    settings = SearchSettings(model=ModelSettings("plain_cnn", width=0.5), training=TrainingSettings(epochs=1), seed=3)
    assert accuracy(base_model(settings, digits), digits.reward) > 0.5


def test_architecture_that_does_not_fit_the_data_is_refused_before_training(digits):
    with pytest.raises(DataError, match="labels of 'digits' go up to 9, but .* tells 5 classes apart"):
        base_model(SearchSettings(model=ModelSettings("plain_cnn", width=0.1, classes=5)), digits)


def newest(cache):
    return max(p.stat().st_mtime for p in (cache / "models").iterdir())


def test_architectures_have_fixed_layer_names():
    from autoprune.models.zoo import ARCHITECTURES

    for name in ARCHITECTURES:
        names = [[layer.name for layer in zoo.build(name, None, None, width=0.1).layers] for _ in range(2)]
        assert names[0] == names[1]


def test_every_architecture_has_a_config():
    from autoprune.models.zoo import ARCHITECTURES
    from autoprune.options import config_groups

    assert set(ARCHITECTURES) | {"file", "application"} == set(config_groups()["model"])


def test_pruned_model_can_be_fine_tuned(digits):
    from autoprune.planning import make_plan
    from autoprune.surgery import apply_plan

    model = small()
    train(model, digits, TrainingSettings(), epochs=4, learning_rate=3e-3, seed=0)
    dense = accuracy(model, digits.reward)
    apply_plan(model, make_plan(model, 0.5))
    before = accuracy(model, digits.reward)
    train(model, digits, TrainingSettings(), epochs=3, learning_rate=2e-3, seed=0)
    assert before < accuracy(model, digits.reward)
    assert accuracy(model, digits.reward) > dense - 0.05


def evaluation_at(planner, keep_ratio):
    """An evaluation of a uniform plan."""
    plan = planner.space.plan(planner.space.nearest(keep_ratio))
    return Evaluation(key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.5, cost=None)


def test_fine_tuning_that_diverges_costs_only_itself(digits, messages):
    """The plan is finished as it was pruned, and the model can be dense again."""
    model = small()
    train(model, digits, TrainingSettings(), epochs=2, learning_rate=3e-3, seed=0)
    dense = model.get_weights()
    settings = SearchSettings(training=TrainingSettings(epochs=2, fine_tune_learning_rate=1e38))
    cost_model = open_cost_model(Target("cpu", 8))
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    finisher = Finisher(model, planner, digits, cost_model=cost_model, settings=settings)
    done = finisher.finish("uniform", evaluation_at(planner, 0.5))
    assert "uniform is shown without fine-tuning, which diverged" in messages()
    assert done.training.epochs == 0
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert done.test_accuracy == accuracy(model, digits.test)
    finisher.undo()
    for now, before in zip(model.get_weights(), dense, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.slow
def test_a_finished_model_is_tested_as_it_is_run_eagerly(digits):
    """Passes are compiled once for the plans of all widths."""
    model = small()
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    settings = SearchSettings(training=TrainingSettings(epochs=2, fine_tune_epochs=1))
    finisher = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    for ratio in (1.0, 0.5, 0.75):
        done = finisher.finish("uniform", evaluation_at(planner, ratio), whole_too=True)
        assert done.test_accuracy == pytest.approx(accuracy(model, digits.test), abs=0.003)
        assert done.reward_accuracy == pytest.approx(accuracy(model, digits.reward), abs=0.003)


def test_a_plan_that_fine_tuning_makes_worse_stays_as_it_was_pruned(digits, messages):
    model = small()
    train(model, digits, TrainingSettings(), epochs=3, learning_rate=3e-3, seed=0)
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    recipe = TrainingSettings(epochs=2, fine_tune_epochs=1, fine_tune_learning_rate=3.0, warm_up=0)
    settings = SearchSettings(training=recipe)
    finisher = Finisher(model, planner, digits, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    done = finisher.finish("rl", evaluation_at(planner, 0.9))
    assert done.training.only_worse
    assert done.training.start == done.reward_accuracy > done.training.accuracies[0]
    assert "rl is shown without fine-tuning. Training only made it worse" in messages()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="graphs of TensorFlow")
def test_no_graph_of_a_training_is_kept(digits):
    from tensorflow import Graph

    def graphs():
        gc.collect()
        return sum(issubclass(type(thing), Graph) for thing in gc.get_objects())

    model = small()
    before = graphs()
    for seed in (0, 1):
        train(model, digits, TrainingSettings(), epochs=1, learning_rate=1e-3, seed=seed)
    assert graphs() <= before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a stream of TensorFlow's")
def test_streamed_batches_are_the_same_ones_in_every_epoch(digits):
    from autoprune.training.tensorflow_batches import stream_batches

    batches = Batches(digits.train.images, digits.train.labels, batch_size=100, seed=3)
    batches.begin(0, step=4)
    stream = stream_batches(batches)
    assert stream.cardinality() == len(batches) == batches.steps - 4
    for epoch in (0, 1):
        batches.begin(epoch, step=4)
        for number, found in enumerate(stream.as_numpy_iterator()):
            for one, other in zip(found, batches[number], strict=True):
                np.testing.assert_array_equal(one, other)
        assert number == len(batches) - 1
