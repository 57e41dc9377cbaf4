"""Scoring plans: what is measured, what is remembered, what a failure does."""

import sqlite3

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.cost import open_cost_model
from autoprune.data import Dataset, Split
from autoprune.errors import CostError, DataError, JournalError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import accuracy, check_fit, predict_classes, read_signals
from autoprune.evaluation.evaluator import plan_key
from autoprune.evaluation.journal import evaluation_to_json, read_courses
from autoprune.evaluation.recovery import recalibrate
from autoprune.models.activation_hooks import observe_inputs
from autoprune.planning import Planner, make_plan
from autoprune.records import Evaluation, Target
from autoprune.records.plain import from_plain
from autoprune.settings import Constraints, EvaluationSettings
from autoprune.surgery import Surgeon
from helpers.plans import evaluate_at
from helpers.topologies import head, made


def dataset(shape=(8, 8, 2), classes=5, count=60, seed=0):
    generator = np.random.default_rng(seed)

    def split(number):
        images = generator.normal(size=(number, *shape)).astype("float32")
        return Split(images, generator.integers(0, classes, number))

    return Dataset("noise", split(count), split(count // 2), split(count // 2), classes)


class Recorded:
    """A cost model that counts and can be told to fail."""

    def __init__(self, inner):
        self.inner, self.target, self.calls, self.failing = inner, inner.target, 0, False

    def submit(self, model):
        self.calls += 1
        if self.failing:
            raise CostError("told to fail")
        return self.inner.submit(model)

    def close(self):
        self.inner.close()


@pytest.fixture
def cost_model(compiler):
    return Recorded(open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler))


@pytest.fixture
def evaluator(cost_model, tmp_path):
    model = made("residual")
    journal = Journal(tmp_path / "journal.sqlite", {})
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    plain = EvaluationSettings(recovery="none")
    yield Evaluator(model, planner, dataset(), cost_model=cost_model, journal=journal, settings=plain)
    journal.close()


# ------------------------------------------------------------------ accuracy


def test_accuracy_is_the_share_of_right_answers():
    image = keras.Input((3,))
    model = keras.Model(image, layers.Identity()(image))
    split = Split(np.eye(3, dtype="float32")[[0, 1, 2, 0]], np.array([0, 1, 1, 2]))
    assert accuracy(model, split, batch_size=3) == 0.5


def test_a_single_output_is_one_class_or_the_other():
    image = keras.Input((1,))
    model = keras.Model(image, layers.Identity()(image))
    split = Split(np.array([[-0.2], [0.7], [0.1]], "float32"), np.zeros(3, int))
    np.testing.assert_array_equal(predict_classes(model, split), [0, 1, 1])
    odds = keras.Model(image, layers.Activation("sigmoid")(image))
    np.testing.assert_array_equal(predict_classes(odds, split), [0, 1, 1])
    half = keras.Model(image, layers.Activation("sigmoid")(layers.Rescaling(1.0, offset=-0.5)(image)))
    np.testing.assert_array_equal(predict_classes(half, split), [0, 1, 0])


@pytest.mark.parametrize("structure", [lambda image: [image], lambda image: {"image": image}])
def test_a_model_is_called_in_the_structure_that_it_was_built_with(structure):
    """Keras warns otherwise, at every call, which is an error here."""
    image = keras.Input((8, 8, 2), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    model = keras.Model(structure(image), head(layers.GlobalAveragePooling2D()(x)))
    data = dataset()
    assert 0 <= accuracy(model, data.reward) <= 1
    assert np.isfinite(read_signals(model, data.reward, None).likelihood)
    assert recalibrate(model, data.train.images) == 1
    seen = []
    observe_inputs(model, model.layers[-1:], [data.train.images[:3]], lambda layer, tensor: seen.append(tensor.shape))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("plain", dataset((9, 8, 2)), r"have shape \(9, 8, 2\), the model .* takes \(8, 8, 2\)"),
        ("plain", dataset((8, 8)), r"have shape \(8, 8\)"),
        ("plain", dataset(classes=9), "labels of 'noise' go up to 8, but .* tells 5 classes apart.*one-hot columns"),
        ("several_inputs_and_outputs", dataset(), "scores models with one input. .* has 2 inputs"),
    ],
)
def test_data_that_do_not_fit_are_refused(name, data, message):
    with pytest.raises(DataError, match=message):
        check_fit(made(name), data)


def test_model_that_is_no_classifier_is_refused():
    image = keras.Input((8, 8, 2))
    with pytest.raises(DataError, match=r"has shape \(n, classes\). .* gives \(n, 6, 6, 3\): .*task=segmentation"):
        check_fit(keras.Model(image, layers.Conv2D(3, 3)(image)), dataset())


# ------------------------------------------------------------------ recalibration


def test_recalibration_gives_the_statistics_of_the_images():
    model = made("plain")
    images = dataset().train.images
    first = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    weights = [v.numpy() for v in model.trainable_variables]
    assert recalibrate(model, images, batch_size=30) == 2
    before = keras.Model(model.input, first.input)(images, training=False)
    halves = keras.ops.convert_to_numpy(before).reshape(2, 30, 8, 8, 8)
    means, variances = halves.mean((1, 2, 3)), halves.var((1, 2, 3))
    np.testing.assert_allclose(first.moving_mean.numpy(), means.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance.numpy(), variances.mean(0), rtol=1e-4, atol=1e-5)
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_recalibration_leaves_dropout_off_and_momentum_as_it_was():
    image = keras.Input((6,))
    x = layers.Dropout(0.9)(image)
    x = layers.BatchNormalization(momentum=0.7, name="norm")(x)
    model = keras.Model(image, head(x))
    images = np.random.default_rng(0).normal(3, 1, (64, 6)).astype("float32")
    recalibrate(model, images, batch_size=64)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean.numpy(), images.mean(0), rtol=1e-4)
    assert norm.momentum == 0.7
    assert "call" not in vars(norm)


def test_frozen_batch_norm_keeps_its_statistics():
    model = made("plain")
    first = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    first.trainable = False
    before = first.moving_mean.numpy()
    assert recalibrate(model, dataset().train.images) == 1
    np.testing.assert_array_equal(first.moving_mean.numpy(), before)


# ------------------------------------------------------------------ evaluator


def test_evaluation_is_of_the_really_pruned_model(evaluator, cost_model):
    data = dataset()
    ratios = {"inner1": 0.5, "stem": 0.75}
    evaluation = evaluate_at(evaluator, ratios)
    surgeon = Surgeon(evaluator.model)
    surgeon.apply(evaluator.planner.plan(ratios))
    recalibrate(evaluator.model, data.train.images)
    assert evaluation.accuracy == accuracy(evaluator.model, data.reward)
    assert evaluation.cost == cost_model.inner.submit(evaluator.model).result()
    assert evaluation.widths == {"stem": 6, "inner1": 3, "inner2": 6, "shortcut": 12}
    assert evaluation.cost.parameters == evaluator.model.count_params()


def test_model_is_the_same_to_the_bit_after_an_evaluation(evaluator):
    before = [w.numpy() for w in evaluator.model.weights]
    evaluate_at(evaluator, 0.5)
    for weight, value in zip(evaluator.model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_nothing_is_evaluated_twice(evaluator, cost_model):
    first = evaluate_at(evaluator, 0.5)
    again = evaluate_at(evaluator, {group.name: 0.5 for group in evaluator.planner.groups})
    assert again == first
    assert cost_model.calls == 1


@pytest.mark.parametrize("recovery", ["tuning", "reconstruction"])
def test_another_draw_recovers_with_other_images_and_is_remembered_apart(cost_model, tmp_path, recovery):
    settings = EvaluationSettings(20, 20, recovery, recovery_images=40, tuning_steps=2)
    model, options = made("residual"), {"cost_model": cost_model, "settings": settings}
    planner = Planner(model, constraints=Constraints(multiple_of=1))
    half = planner.space.nearest(0.5)
    journal = Journal(tmp_path / "journal.sqlite", {})
    evaluator = Evaluator(model, planner, dataset(), journal=journal, **options)
    first, second = (evaluator.evaluate(half, draw) for draw in range(2))
    assert first.key == second.key
    assert first.score != second.score
    assert [evaluator.evaluate(half, draw) for draw in range(2)] == [first, second], "as they are remembered"
    anew = Evaluator(model, planner, dataset(), journal=Journal(tmp_path / "another.sqlite", {}), **options)
    scores = [anew.evaluate(half, draw).score for draw in (1, 0)]
    assert scores == pytest.approx([second.score, first.score], rel=1e-5), "whichever came before"


def test_a_plan_that_fails_is_marked_and_the_next_one_scored(evaluator, cost_model):
    cost_model.failing = True
    failed = evaluate_at(evaluator, 0.5)
    cost_model.failing = False
    assert failed.failed
    assert failed.error == "told to fail"
    assert failed.cost is None
    assert np.isnan(failed.accuracy)
    assert not evaluate_at(evaluator, 0.7).failed
    assert evaluate_at(evaluator, 0.5).failed


def test_failure_of_an_earlier_process_is_not_believed(evaluator, cost_model):
    cost_model.failing = True
    assert evaluate_at(evaluator, 1.0).failed
    cost_model.failing = False
    resumed = Evaluator(evaluator.model, evaluator.planner, dataset(), cost_model=cost_model, journal=evaluator.journal)
    assert not evaluate_at(resumed, 1.0).failed
    assert not evaluator.journal.find(evaluate_at(resumed, 1.0).key).failed


def test_interrupted_evaluation_leaves_the_model_whole(evaluator, cost_model):
    before = [w.numpy() for w in evaluator.model.weights]
    cost_model.submit = lambda model: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate_at(evaluator, 0.5)
    for weight, value in zip(evaluator.model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_plan_keys_tell_plans_apart():
    model = made("residual")
    plans = [make_plan(model, r, multiple_of=1, importance=i) for r in (0.4, 0.5, 1.0) for i in ("l1", "random")]
    # Keeping everything is the same plan whatever ranked the channels.
    assert len({plan_key(plan) for plan in plans}) == 5


# ------------------------------------------------------------------ journal


def test_journal_survives_closing(evaluator, tmp_path):
    evaluation = evaluate_at(evaluator, 0.5)
    journal = evaluator.journal
    journal.add_request("rl", 1, evaluation.key)
    journal.add_request("uniform", 1, evaluation.key)
    journal.close()
    again = Journal(tmp_path / "journal.sqlite", {})
    assert again.find(evaluation.key) == evaluation
    assert again.find("nothing") is None
    assert again.course("rl") == [evaluation]
    again.close()
    courses = read_courses(tmp_path / "journal.sqlite")
    assert list(courses.items()) == [("rl", [evaluation]), ("uniform", [evaluation])]


def test_journal_of_another_search_is_refused_saying_what_differs(tmp_path):
    Journal(tmp_path / "j.sqlite", {"weights": "aa", "target": {"name": "tpu_v3"}}).close()
    with pytest.raises(JournalError, match="belongs to another search .*weights: 'aa' there, 'bb' here"):
        Journal(tmp_path / "j.sqlite", {"weights": "bb", "target": {"name": "tpu_v3"}})


def test_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "j.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(JournalError, match="cannot be opened: file is not a database. Move it away"):
        Journal(tmp_path / "j.sqlite", {})


def test_journal_of_another_version_is_refused(tmp_path):
    Journal(tmp_path / "j.sqlite", {}).close()
    with sqlite3.connect(tmp_path / "j.sqlite") as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    with pytest.raises(JournalError, match="not a journal of version 3"):
        Journal(tmp_path / "j.sqlite", {})


def test_evaluations_survive_json(evaluator, cost_model):
    good = evaluate_at(evaluator, 0.5)
    assert from_plain(Evaluation, evaluation_to_json(good)) == good
    cost_model.failing = True
    bad = from_plain(Evaluation, evaluation_to_json(evaluate_at(evaluator, 0.6)))
    assert bad.failed
    assert np.isnan(bad.accuracy)


def test_settings_are_checked():
    from autoprune.errors import SettingsError

    with pytest.raises(SettingsError, match="evaluation.batch_size must be 1 or more. Received: 0"):
        EvaluationSettings(batch_size=0)
