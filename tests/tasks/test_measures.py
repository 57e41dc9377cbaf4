"""Which measure a task has, how it is told, what is refused."""

import dataclasses

import keras
import numpy as np
import pytest

from autoprune.data import from_arrays, from_batches
from autoprune.errors import DataError, SettingsError, WorkerError
from autoprune.evaluation.accuracy import accuracy, check_fit, read_signals
from autoprune.evaluation.scoring_pool import ScoringPool
from autoprune.models.outputs import run_joined
from autoprune.planning import Planner
from autoprune.records.measure import Measure, compare_qualities, least_quality
from autoprune.settings import SearchSettings, TaskSettings, TrainingSettings
from autoprune.tasks import Judge, make_task
from autoprune.tasks.own_losses import as_loss
from autoprune.training.training import check_recipe

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(200, 6)).astype("float32"), GENERATOR.normal(size=(200, 2)).astype("float32")
ERROR = Measure(name="error", lower_is_better=True, is_share=False)


def network(*sizes, names=()):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    names = names or [f"out{number}" for number in range(len(sizes))]
    outputs = {name: keras.layers.Dense(size, name=name)(hidden) for name, size in zip(names, sizes, strict=True)}
    return keras.Model(inputs, outputs if len(outputs) > 1 else next(iter(outputs.values())))


def numbers(**options):
    return from_arrays(X[:150], Y[:150], X[150:], Y[150:], task="regression", **options)


# ------------------------------------------------------------------ how it is told


def test_a_figure_is_told_as_people_know_it():
    assert (Measure().tell(0.975), Measure().tell_difference(0.0125)) == ("97.50%", "+1.25")
    assert (ERROR.tell(-2.5), ERROR.tell_difference(0.3)) == ("2.5", "-0.3")


@pytest.mark.parametrize(
    ("quality", "dense", "share"), [(0.4, 0.8, 0.5), (-4, -2, 0.5), (-0.5, 1, 0), (0, 0, 1), (-2, -2, 1)]
)
def test_a_quality_is_a_share_of_the_dense_models(quality, dense, share):
    assert compare_qualities(quality, dense) == share
    assert np.isnan(compare_qualities(float("nan"), dense))


def test_a_floor_of_an_error_is_a_larger_error():
    assert least_quality(0.8, 0.9) == pytest.approx(0.72)
    assert least_quality(-1.8, 0.9) == pytest.approx(-2)


# ------------------------------------------------------------------ which it is


@pytest.mark.parametrize(
    ("asked", "expected", "of"),
    [
        (None, lambda y, p: -np.abs(y - p).mean(), "mean absolute error"),
        ("rmse", lambda y, p: -np.sqrt(((y - p) ** 2).mean()), "root mean square error"),
        ("r2", lambda y, p: np.mean(1 - ((y - p) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)), "R²"),
        ("loss", lambda y, p: -((y - p) ** 2).mean(), "loss"),
        ("mean_squared_error", lambda y, p: -((y - p) ** 2).mean(), "mean squared error"),
        (keras.metrics.LogCoshError(), lambda y, p: -np.log(np.cosh(y - p)).mean(), "logcosh"),
    ],
)
def test_a_measure_is_taken_batch_by_batch_as_if_at_once(asked, expected, of):
    model = network(2)
    data = numbers()
    data = data.for_task(data.task.with_metric(asked))
    found = accuracy(model, data.test, batch_size=7)
    assert found == pytest.approx(float(expected(Y[150:], np.asarray(model(X[150:])))), rel=1e-4)
    assert data.task.measure.name == of
    signals = read_signals(model, data.test, None, batch_size=11)
    assert signals.accuracy == pytest.approx(found, rel=1e-5)


def test_a_function_of_ones_own_may_look_at_all_outputs():
    def both(labels, predicted):
        return keras.ops.mean(keras.ops.abs(labels["a"] - predicted["a"]), axis=-1) + keras.ops.mean(
            predicted["b"], axis=-1
        )

    model = network(2, 3, names=("a", "b"))
    labels = {"a": Y, "b": GENERATOR.integers(0, 3, 200)}
    parts = [{name: part[rows] for name, part in labels.items()} for rows in (slice(150), slice(150, None))]
    data = from_arrays(X[:150], parts[0], X[150:], parts[1], task={"a": "regression", "b": "classification"})
    data = data.for_task(data.task.with_metric(both, lower_is_better=True))
    outputs = model(X[150:])
    expected = np.abs(parts[1]["a"] - np.asarray(outputs["a"])).mean() + 1 / 3
    assert -accuracy(model, data.test, 16) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(WorkerError, match=r"not known to other processes.*workers=1"):
        ScoringPool(2, model, Planner(model), data, SearchSettings(workers=2))._make_worker()


def test_scores_of_numbers_lie_between_none_and_one():
    data = numbers()
    perfect = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    dense = np.zeros((len(data.reward), 2), "float32")
    constant = read_signals(
        perfect, data.reward, dense, run=lambda images, training: np.zeros((len(images), 2), "float32")
    )
    variance = data.task.heads[0].variance
    assert constant.likelihood == pytest.approx(np.exp(-(data.reward.labels**2).mean() / variance), rel=1e-4)
    assert constant.agreement == 1
    assert (
        read_signals(perfect, data.reward, dense, run=lambda i, training: run_joined(perfect, i) * np.nan).broken == 30
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "regression", "metric": "accuracy"},
            "not for an output of task regression. .*: mae, r2, rmse",
        ),
        ({"name": "regression", "metric": "nonsense"}, "no metric 'nonsense'"),
        ({"name": "regression", "loss": "nonsense"}, "no loss 'nonsense'"),
        ({"name": "something"}, "task must be one of"),
        ({"name": "outputs"}, "task.outputs must be a task for each output"),
        ({"name": "outputs", "outputs": {"a": "regression"}, "metric": "mae"}, "task.metric_output must be given"),
        ({"name": "outputs", "outputs": {"a": "regression"}, "weights": {"b": 1.0}}, "task.weights must be given"),
        ({"name": "regression", "ignored_class": 255}, "task.ignored_class must be given with task=segmentation"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        make_task(TaskSettings(**settings))


def test_a_metric_of_which_nobody_knows_what_is_better_is_refused():
    def wiggle(labels, predicted):
        return predicted

    with pytest.raises(SettingsError, match="not known whether a lower 'wiggle' is better"):
        numbers().task.with_metric(wiggle)


# ------------------------------------------------------------------ models that do not fit


def test_outputs_and_labels_that_do_not_fit_are_named():
    with pytest.raises(DataError, match=r"need shape \(n, 2\), as the values have. 'functional.*' gives \(n, 3\)"):
        check_fit(network(3), numbers())
    with pytest.raises(DataError, match=r"has the outputs a, b, and task=regression is for one.*task=outputs"):
        check_fit(network(2, 2, names=("a", "b")), numbers())
    half = from_arrays(*(X, {"a": Y, "c": Y}, X, {"a": Y, "c": Y}), task={"a": "regression", "c": "regression"})
    with pytest.raises(DataError, match="Output 'b' .* has no task, and so no loss: add it to task.outputs"):
        check_fit(network(2, 2, names=("a", "b")), half)
    with pytest.raises(DataError, match="mapping from a, c. Received: ndarray"):
        from_arrays(X, Y, X, Y, task={"a": "regression", "c": "regression"})


# ------------------------------------------------------------------ where data and losses come from


def test_batches_are_what_their_arrays_are():
    import tensorflow as tf

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, number):
            return X[number * 50 : (number + 1) * 50], Y[number * 50 : (number + 1) * 50]

    stream = tf.data.Dataset.from_tensor_slices((X[:150], Y[:150])).batch(40)
    test = [(X[150:180], Y[150:180]), (X[180:], Y[180:])]
    expected = numbers().fingerprint()
    for train in (stream, Sequence()):
        assert from_batches(train, test, task="regression").fingerprint() == expected
    with pytest.raises(DataError, match="a pair of images and labels. Received: 3 parts"):
        from_batches([(X, Y, Y)], test, task="regression")
    with pytest.raises(DataError, match="no test batch"):
        from_batches(stream, [], task="regression")


def test_the_loss_of_a_compiled_model_is_that_of_its_training():
    model = network(2)
    task = numbers().task
    assert task.with_losses_of(model) is task
    model.compile("sgd", keras.losses.MeanAbsoluteError())
    compiled = task.with_losses_of(model)
    y, p = np.ones((4, 2), "float32"), np.full((4, 2), 3.0, "float32")
    np.testing.assert_allclose(np.asarray(compiled.heads[0].loss(y, p)), 2.0)
    assert compiled.settings is None
    model.compile("sgd", "categorical_crossentropy")
    assert task.with_losses_of(model) is task


# ------------------------------------------------------------------ recipes that do not suit


@pytest.mark.parametrize(
    ("task", "labels", "recipe", "message"),
    [
        ("regression", Y, {"feature_distillation": 1.0}, "is for classifiers"),
        ("segmentation", np.zeros((200, 2, 2), int), {"augmentation": "shift"}, "masks, and other labels that lie on"),
    ],
)
def test_recipes_that_do_not_suit_the_task_are_refused(task, labels, recipe, message):
    data = from_arrays(X, labels, X, labels, task=task)
    with pytest.raises(SettingsError, match=message):
        check_recipe(network(2), data, TrainingSettings(**recipe))


# ------------------------------------------------------------------ losses of one's own


class Dice(keras.losses.Loss):
    """As people write it: of labels in the shape of the outputs, float32."""

    def call(self, y_true, y_pred):
        axes = tuple(range(1, len(y_pred.shape)))
        both = keras.ops.sum(y_true * y_pred, axis=axes)
        return 1 - 2 * both / (keras.ops.sum(y_true, axis=axes) + keras.ops.sum(y_pred, axis=axes))


def segmenting(classes):
    inputs = keras.Input((4, 4, 2))
    activation = "sigmoid" if classes == 1 else "softmax"
    return keras.Model(inputs, keras.layers.Conv2D(classes, 1, activation=activation)(inputs))


IMAGES = GENERATOR.normal(size=(40, 4, 4, 2)).astype("float32")


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", [Dice(), keras.losses.Dice(), "sparse_categorical_crossentropy", "mse"])
def test_a_loss_gets_labels_in_the_form_that_it_takes(classes, loss):
    if classes == 1 and loss == "sparse_categorical_crossentropy":
        loss = "binary_focal_crossentropy"
    model, masks = segmenting(classes), GENERATOR.integers(0, max(classes, 2), (40, 4, 4))
    data = from_arrays(IMAGES, masks, IMAGES, masks, task="segmentation")
    head = dataclasses.replace(data.task.heads[0], loss=as_loss(loss))
    data = data.for_task(dataclasses.replace(data.task, heads=(head,)))
    check_recipe(model, data, TrainingSettings())
    given = masks[..., None] if classes == 1 or "sparse" in str(loss) else np.eye(classes)[masks]
    model.compile("sgd", loss)
    expected = model.evaluate(IMAGES, given.astype("float32"), verbose=0, batch_size=40)
    found = Judge(data.task, model).loss()(masks.astype("int32"), model(IMAGES))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_pixels_that_do_not_count_are_left_out_of_a_loss_of_ones_own_too():
    masks = np.where(GENERATOR.random((40, 4, 4)) < 0.3, 255, GENERATOR.integers(0, 3, (40, 4, 4)))
    data = {
        loss: from_arrays(IMAGES, masks, IMAGES, masks, task=TaskSettings("segmentation", loss=loss, ignored_class=255))
        for loss in (None, "sparse_categorical_crossentropy", "dice")
    }
    model = segmenting(3)
    found = [
        float(Judge(one.task, model).loss()(one.test.labels.astype("int32"), model(IMAGES)))
        for one in list(data.values())[:2]
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    with pytest.raises(SettingsError, match="a number for each pixel"):
        check_recipe(model, data["dice"], TrainingSettings())


def test_what_several_outputs_are_compiled_with_is_taken_by_key_or_name():
    model = network(2, 2, names=("z", "a"))
    keyed = keras.Model(model.input, {"first": model.output["z"], "second": model.output["a"]})
    task = from_arrays(X, {"z": Y, "a": Y}, X, {"z": Y, "a": Y}, task={"z": "regression", "a": "regression"}).task
    keyed.compile("sgd", {"first": "mae", "second": "mse"}, loss_weights={"first": 10.0, "second": 0.5})
    by_name = {head.name: head for head in task.with_losses_of(keyed).heads}
    assert (by_name["z"].loss.name, by_name["z"].weight) == ("mae", 10)
    assert (by_name["a"].loss, by_name["a"].weight) == (None, 0.5)


# ------------------------------------------------------------------ which metric it is


def test_a_metric_that_is_called_accuracy_is_itself():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(20, activation="softmax")(inputs))
    labels = GENERATOR.integers(0, 20, 200)
    data = from_arrays(X, labels, X, labels)
    top = data.for_task(data.task.with_metric(keras.metrics.SparseTopKCategoricalAccuracy(10, name="accuracy")))
    best = np.argsort(-np.asarray(model(X)), axis=1)[:, :10]
    assert accuracy(model, top.test) == pytest.approx((best == labels[:, None]).any(1).mean(), abs=1e-6)
    assert accuracy(model, data.test) < accuracy(model, top.test)


def test_metrics_have_their_names_however_often_they_are_made():
    task = make_task(TaskSettings("multi_label"))
    assert {task.with_metric(keras.metrics.Precision()).measure.name for _ in range(3)} == {"precision"}
    told = [task.with_metric(keras.metrics.FBetaScore(average="macro", beta=beta)).describe() for beta in (0.1, 10.0)]
    assert told[0] != told[1]


@pytest.mark.parametrize(
    ("task", "labels", "outputs", "metric", "message"),
    [
        ("classification", GENERATOR.integers(0, 3, 200), 3, "categorical_accuracy", "begins with sparse"),
        ("classification", GENERATOR.integers(0, 3, 200), 3, "mse", "cannot be taken of labels of shape"),
        (
            "multi_label",
            GENERATOR.integers(0, 2, (200, 3)),
            3,
            keras.metrics.F1Score(threshold=0.5),
            "must give one number",
        ),
    ],
)
def test_metrics_that_do_not_suit_are_refused(task, labels, outputs, metric, message):
    data = from_arrays(X, labels, X, labels, task=task)
    with pytest.raises(SettingsError, match=message):
        accuracy(network(outputs), data.for_task(data.task.with_metric(metric)).test)


def test_a_number_for_a_batch_counts_for_its_examples():
    def error(labels, predicted):
        return keras.ops.mean(keras.ops.abs(labels - predicted))

    model, data = network(2), numbers()
    ours = data.for_task(data.task.with_metric(error))
    assert accuracy(model, ours.test, 16) == pytest.approx(accuracy(model, data.test, 16), rel=1e-5)


def test_classes_of_several_outputs_are_looked_at_in_every_split():
    labels = {"a": GENERATOR.integers(0, 3, 200), "b": Y}
    task = {"a": "classification", "b": "regression"}
    more = {**labels, "a": labels["a"] + 4}
    with pytest.raises(DataError, match="go up to 6, but Output 'a' .* tells 3 classes apart"):
        check_fit(network(3, 2, names=("a", "b")), from_arrays(X, labels, X, more, task=task))
    with pytest.raises(DataError, match="Labels of output 'a': class numbers begin at 0. Received: -1"):
        from_arrays(X, {**labels, "a": labels["a"] - 1}, X, labels, task=task)
