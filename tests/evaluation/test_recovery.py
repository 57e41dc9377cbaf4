"""What is done to a plan before it is scored, and what tells plans apart."""

import keras
import numpy as np
import pytest

from autoprune.cost import open_cost_model
from autoprune.data import Split
from autoprune.errors import SettingsError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.accuracy import read_signals
from autoprune.evaluation.recovery import ShortTuning
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.records import Target
from autoprune.settings import EvaluationSettings, TrainingSettings
from autoprune.surgery import Surgeon
from autoprune.training import train
from helpers.plans import evaluate_at
from helpers.telling import log_probabilities


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)
    train(model, digits, TrainingSettings(), epochs=6, learning_rate=3e-3, seed=0)
    return model


@pytest.fixture
def evaluator(trained, digits, compiler, tmp_path):
    """Makes an evaluator that scores as the settings say."""
    opened = []

    def make(**settings):
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler)
        journal = Journal(tmp_path / f"{len(opened)}.sqlite", {})
        opened.append(journal)
        asked = EvaluationSettings(**settings)
        return Evaluator(trained, Planner(trained), digits, cost_model=cost_model, journal=journal, settings=asked)

    yield make
    for journal in opened:
        journal.close()


def test_signals_are_what_they_are_called(trained, digits):
    dense = log_probabilities(trained, digits.reward.images)
    found = read_signals(trained, digits.reward, dense, batch_size=100)
    outputs = keras.ops.convert_to_numpy(trained(digits.reward.images, training=False)).astype(float)
    right = outputs[np.arange(len(digits.reward)), digits.reward.labels]
    assert found.accuracy == np.mean(outputs.argmax(1) == digits.reward.labels)
    assert found.likelihood == pytest.approx(np.exp(np.mean(np.log(np.maximum(right, 1e-7)))), rel=1e-4)
    assert found.agreement == pytest.approx(1.0, abs=1e-6)
    other = np.log(np.full_like(dense, 0.1))
    against = np.exp(-np.mean(np.sum(0.1 * (np.log(0.1) - np.log(np.maximum(outputs, 1e-7))), axis=1)))
    assert read_signals(trained, digits.reward, other).agreement == pytest.approx(against, rel=1e-3)


@pytest.mark.parametrize("recovery", ["reconstruction", "tuning"])
def test_recovery_helps_and_leaves_the_model_as_it_was(evaluator, trained, recovery):
    before = trained.get_weights()
    plain = evaluate_at(evaluator(recovery="none"), 0.5)
    recovered = evaluate_at(evaluator(recovery=recovery, tuning_steps=20), 0.5)
    assert recovered.accuracy > plain.accuracy + 0.05
    assert recovered.cost == plain.cost
    for weight, value in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not trained.compiled


@pytest.mark.parametrize(
    "settings",
    [
        *({"recovery": "none"}, {"recovery": "tuning", "tuning_steps": 3}),
        pytest.param({"recovery": "reconstruction"}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("score", ["accuracy", "likelihood", "agreement"])
def test_same_plan_same_score(evaluator, settings, score):
    """Whatever was scored between; and every kind of score lies between 0 and 1."""
    first = evaluator(score=score, **settings)
    found = evaluate_at(first, 0.5)
    evaluate_at(first, 0.3)
    again = evaluator(score=score, **settings)
    evaluate_at(again, 0.3)
    assert evaluate_at(again, 0.5).score == found.score
    assert 0 < found.score < 1
    assert (found.score == found.accuracy) == (score == "accuracy")


def test_the_dense_model_is_not_tuned(evaluator):
    """It has nothing to recover from; what plans are compared with is the model as it is."""
    plain, tuned = (evaluator(recovery=recovery, score="likelihood") for recovery in ("none", "tuning"))
    assert evaluate_at(tuned, 1.0).score == evaluate_at(plain, 1.0).score
    assert evaluate_at(tuned, 0.5).score > evaluate_at(plain, 0.5).score


def test_the_dense_model_agrees_with_itself(evaluator):
    assert evaluate_at(evaluator(score="agreement"), 1.0).score == pytest.approx(
        1.0, abs=0.01
    )  # Its batch norms are recalibrated.


def test_tuning_learns_from_the_teacher(trained, digits):
    """From the teacher alone: the labels are wrong on purpose."""
    surgeon = Surgeon(trained)
    snapshot = surgeon.snapshot()
    some = digits.train.head(256)
    teacher = log_probabilities(trained, some.images)
    dense = log_probabilities(trained, digits.reward.images)
    agreements = []
    for weight in (1.0, 0.0):
        tuning = ShortTuning(Split(some.images, (some.labels + 1) % 10), teacher, steps=20, weight=weight)
        with surgeon.pruning(Planner(trained).plan(0.5), snapshot):
            tuning(trained)
            agreements.append(read_signals(trained, digits.reward, dense).agreement)
    assert agreements[0] > 2 * agreements[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recovery": "magic"}, "evaluation.recovery must be one of none, reconstruction, tuning"),
        ({"score": "luck"}, "evaluation.score must be one of accuracy, likelihood, agreement"),
        ({"tuning_steps": 0}, "evaluation.tuning_steps must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        EvaluationSettings(**settings)
