"""Scores that are read from data: what is refused, and that nothing of the model changes."""

import random

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import Split
from autoprune.errors import DataError, PlanError
from autoprune.models import keras_internals
from autoprune.planning import CalibrationData, Planner, make_plan
from autoprune.planning.calibration import sample_calibration
from autoprune.surgery import Surgeon, apply_plan
from helpers.topologies import fitted, head, images_for, made

DATA_DRIVEN = [
    "activation",
    "apoz",
    "hrank",
    "taylor",
    "fisher",
    "loss",
    "loss_biased",
    "grasp",
    "gradient_norm",
    "class_saliency",
    "expert_usage",
]


@keras.saving.register_keras_serializable("tests")
class Block(keras.Layer):
    """A layer of layers whose own call takes no `training` argument."""

    def build(self, shape):
        self.dropout = layers.Dropout(0.5, seed=1)
        self.norm = layers.BatchNormalization()
        self.norm.build(shape)

    def call(self, x):
        return self.norm(self.dropout(x))


def everything():
    """All that a training step could disturb: constraints, penalties, dropout, batch norm, layers within layers."""
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, kernel_constraint=keras.constraints.MaxNorm(0.1), kernel_regularizer="l2", name="a")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ActivityRegularization(l2=0.1)(layers.Dropout(0.3, seed=2)(layers.GaussianNoise(0.1, seed=3)(x)))
    inner = keras.Input((6, 6, 6))
    nested = keras.Model(inner, layers.Conv2D(8, 1, strides=2, activation="relu", name="b")(inner), name="inner")
    x = Block(name="block")(layers.Flatten()(nested(x)))
    model = keras.Model(image, head(x))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.3)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, labels = images_for(model, 8), np.arange(8) % 5
    fitted(model, images, labels, batch_size=4, shuffle=False)
    return model, images, labels


def state_of(model):
    """Everything of a model that can be compared."""
    operations = keras_internals.graph_of(model).operations
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    objects = [model.optimizer, model.train_function, model.test_function, model.loss, *model.metrics, *model.layers]
    return {
        "values": [variable.numpy().tobytes() for variable in variables],
        "shapes": [tuple(variable.shape) for variable in variables],
        "config": model.get_config(),
        "compiled": model.get_compile_config(),
        "calls": [[id(call) for call in keras_internals.calls_of(operation)] for operation in operations],
        "attributes": [sorted(vars(operation)) for operation in [model, *operations]],
        "objects": [id(thing) for thing in objects],
        "trainable": [layer.trainable for layer in model.layers],
        "numpy": np.random.get_state()[1].tobytes(),
        "random": random.getstate(),
    }


@pytest.mark.parametrize("importance", DATA_DRIVEN)
def test_the_model_is_untouched_to_the_bit(importance):
    model, images, labels = everything()
    before = state_of(model)
    Planner(model, importance=importance, data=CalibrationData(images, labels, batch_size=3))
    after = state_of(model)
    assert after.keys() == before.keys()
    for part, value in before.items():
        assert after[part] == value, part


@pytest.mark.parametrize("importance", DATA_DRIVEN)
def test_training_goes_on_as_if_nothing_had_been_scored(importance):
    results = []
    for scored in (False, True):
        model, images, labels = everything()
        if scored:
            Planner(model, importance=importance, data=(images, labels))
        fitted(model, images, labels, batch_size=4, shuffle=False)
        results.append([variable.numpy() for variable in model.variables])
    for plain, scored in zip(*results, strict=True):
        np.testing.assert_array_equal(scored, plain)


@pytest.mark.parametrize("importance", DATA_DRIVEN)
def test_names_that_keras_makes_up_go_on_counting(importance):
    model = made("plain")
    first = [int(kind().name.rsplit("_", 1)[1]) for kind in (layers.ReLU, layers.Flatten, keras.optimizers.Adam)]
    Planner(model, importance=importance, data=(images_for(model, 4), np.arange(4)))
    second = [int(kind().name.rsplit("_", 1)[1]) for kind in (layers.ReLU, layers.Flatten, keras.optimizers.Adam)]
    assert second == [number + 1 for number in first]


def test_dropout_is_off_within_layers_of_layers():
    """Dropout with its rate at 0.5 would give other gradients for other seeds."""
    model, images, labels = everything()
    first = Planner(model, importance="taylor", data=(images, labels)).scores
    for layer in keras_internals.layers_by_path(model).values():
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.99
    second = Planner(model, importance="taylor", data=(images, labels)).scores
    for name, scores in first.items():
        np.testing.assert_array_equal(second[name], scores)


def test_models_that_were_never_compiled_stay_so():
    model = made("sequential")
    Planner(model, importance="taylor", data=(images_for(model, 4), np.arange(4)))
    assert not model.compiled
    assert keras_internals.optimizer_of(model) is None


# ------------------------------------------------------------------ what is given


def test_labels_may_be_one_hot():
    model = made("plain")
    images, labels = images_for(model, 8), np.arange(8) % 5
    numbers = Planner(model, importance="taylor", data=(images, labels)).scores
    one_hot = Planner(model, importance="taylor", data=(images, np.eye(5)[labels])).scores
    for name, scores in numbers.items():
        np.testing.assert_array_equal(one_hot[name], scores)


def test_models_of_several_inputs_take_several_arrays():
    model = made("several_inputs_and_outputs")
    left, right = images_for(model, 6)
    scores = Planner(model, importance="activation", data=[left, right]).scores
    assert Planner(model, importance="activation", data=([left, right], None)).scores.keys() == scores.keys()


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("plain", None, PlanError, r"give data=\(images, labels\).*Received: data=None"),
        ("plain", np.zeros((4, 8, 8, 2)), PlanError, r"give data=\(images, labels\).*Received: no labels"),
        ("plain", (np.zeros((4, 8, 8, 2)), np.zeros(3)), PlanError, "4 images, 3 labels"),
        ("plain", (np.zeros((0, 8, 8, 2)), np.zeros(0)), PlanError, r"at least one image.*Received: \[0\]"),
        ("plain", (np.zeros((4, 9, 8, 2)), np.zeros(4)), DataError, r"\(9, 8, 2\).*takes \[\(8, 8, 2\)\]"),
        ("plain", (np.zeros((4, 8, 8, 2)), np.full(4, 9)), PlanError, r"5 classes apart \(0 to 4\).*from 9 to 9"),
        ("plain", (np.zeros((4, 8, 8, 2)), np.full(4, 0.5)), DataError, "Labels are class numbers"),
        ("several_inputs_and_outputs", (np.zeros((4, 6, 6, 2)), np.zeros(4)), DataError, "one array for each input"),
    ],
)
def test_data_that_cannot_be_used_are_refused(name, data, error, message):
    with pytest.raises(error, match=message):
        make_plan(made(name), 0.5, importance="taylor", data=data)


def test_models_of_several_outputs_have_no_single_loss():
    model = made("several_inputs_and_outputs")
    with pytest.raises(PlanError, match=r"one output of shape \(n, classes\).* has 2 of shape.*'activation' or 'l1'"):
        make_plan(model, 0.5, importance="taylor", data=(images_for(model, 4), np.zeros(4, int)))


def test_batch_size_below_one_is_refused():
    with pytest.raises(PlanError, match="batch size of calibration data is 1 or more. Received: 0"):
        CalibrationData(np.zeros((4, 2)), batch_size=0)


def test_weights_need_no_data_and_do_not_look_at_them():
    model = made("plain")
    plain, given = (make_plan(model, 0.5, data=data) for data in (None, np.zeros((1, 1))))
    for name, kept in plain.kept.items():
        np.testing.assert_array_equal(given.kept[name], kept)


def test_drawn_images_keep_their_labels():
    images = np.arange(100, dtype="float32").reshape(100, 1)
    numbered = Split(images, np.arange(100))
    one, same, other = (sample_calibration(numbered, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images[:, 0], one.labels)
    np.testing.assert_array_equal(same.labels, one.labels)
    assert len(one) == 10
    assert (other.labels != one.labels).any()
    assert len(sample_calibration(numbered, 500, 0)) == 100


# ------------------------------------------------------------------ after a removal


@pytest.mark.parametrize("importance", ["l1", *DATA_DRIVEN])
def test_scores_are_taken_anew_after_a_removal(importance):
    model = made("residual")
    data = (images_for(model, 8), np.arange(8) % 5)
    old = Planner(model, importance=importance, data=data)
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    with pytest.raises(PlanError, match=r"pruned after this planner.*the \w+ of .*Make a new Planner"):
        old.plan(0.5)
    new = Planner(model, importance=importance, data=data)
    assert {name: len(scores) for name, scores in new.scores.items()} == {
        "stem": 4,
        "inner1": 3,
        "inner2": 3,
        "shortcut": 6,
    }
    before = model.count_params()
    apply_plan(model, make_plan(model, 0.5, importance=importance, multiple_of=1, data=data))
    assert model.count_params() < before


def test_a_planner_goes_on_when_the_model_is_restored():
    model = made("residual")
    planner, surgeon = Planner(model), Surgeon(model)
    plan, snapshot = planner.plan(0.5), surgeon.snapshot()
    with surgeon.pruning(make_plan(model, 0.5, multiple_of=1), snapshot), pytest.raises(PlanError, match="restore"):
        planner.plan(0.5)
    again = planner.plan(0.5)
    for name, kept in plan.kept.items():
        np.testing.assert_array_equal(again.kept[name], kept)


def test_a_search_reads_importance_from_a_seeded_part_of_the_training_split(monkeypatch, digits, tmp_path):
    from autoprune.pipeline import session
    from autoprune.pipeline.search import search_model
    from autoprune.reporting.run_folder import RunFolder
    from autoprune.settings import ImportanceSettings, SearchSettings

    given = []

    def stop(model, **options):
        given.append(options)
        raise PlanError("seen")

    monkeypatch.setattr(session, "Planner", stop)
    model = keras.Sequential([keras.Input(digits.input_shape), layers.Flatten(), layers.Dense(10)])
    settings = SearchSettings(importance=ImportanceSettings("taylor", reduction="max", images=40), seed=3)
    with pytest.raises(PlanError, match="seen"):
        search_model(model, digits, settings, RunFolder.make(tmp_path))
    assert given[0]["importance"] == settings.importance
    data = given[0]["data"]
    assert len(data) == 40
    places = [np.flatnonzero((digits.train.images == image).all((1, 2, 3)))[0] for image in data.images]
    np.testing.assert_array_equal(data.labels, digits.train.labels[places])
    assert places != sorted(places)
