"""Plans and models whose outputs are not finite: they have no score, whatever an argmax makes of them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autoprune.data import Split
from autoprune.evaluation import scoring
from autoprune.evaluation.accuracy import read_signals
from autoprune.evaluation.recovery import ShortTuning
from helpers.plans import evaluate_at
from helpers.topologies import made


@pytest.mark.parametrize("score", ["accuracy", "likelihood", "agreement"])
def test_a_plan_whose_tuning_diverges_has_failed(opened, monkeypatch, score, messages):
    monkeypatch.setattr(scoring, "ShortTuning", partial(ShortTuning, learning_rate=1e30))
    scorer = opened(score=score)
    before = scorer.model.get_weights()
    found = evaluate_at(scorer, 0.5)
    assert found.failed
    assert np.isnan([found.accuracy, found.score]).all()
    assert "not for 32 of the 32 images of the reward split. The short tuning has diverged" in found.error
    assert "fewer steps (evaluation.tuning_steps is 2), or another recovery" in found.error
    assert found.error in messages()
    # What it costs is known, and teaches.
    assert found.cost is not None
    assert scorer.journal.find(found.key).error == found.error
    assert not evaluate_at(scorer, 1.0).failed, "the dense model is not tuned"
    for weight, value in zip(scorer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("recovery", "ratio", "advice"),
    [
        ("none", 0.5, "Try more images for batch-norm statistics (evaluation.recalibration_images is 512)"),
        ("none", 1.0, "Check the weights of the model, and that it gets the pixels it wants (data.preprocessing)"),
    ],
)
def test_a_model_that_is_broken_is_told_what_to_look_at(opened, recovery, ratio, advice):
    model = made("plain")
    model.layers[-1].bias.assign(np.full(5, np.nan, "float32"))
    found = evaluate_at(opened(model, recovery=recovery, score="accuracy"), ratio)
    assert found.failed
    assert advice in found.error


def test_one_output_that_is_no_number_is_enough():
    """The right class of that image may still have a probability."""
    model = made("plain")
    images = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    split = Split(images, np.arange(32) % 5)

    def run(images, training):
        outputs = np.full((len(images), 5), 0.2, "float32")
        outputs[0, (split.labels[0] + 1) % 5] = np.nan
        return outputs

    found = read_signals(model, split, None, batch_size=16, run=run)
    assert found.broken == 2
    assert np.isnan([found.accuracy, found.likelihood, found.agreement]).all()
    assert read_signals(model, split, None, batch_size=16).broken == 0


def test_a_score_of_an_earlier_process_that_is_no_number_is_not_believed(opened):
    scorer = opened(recovery="none")
    found = evaluate_at(scorer, 0.5)
    scorer.journal.add(replace(found, score=np.nan))
    again = evaluate_at(scorer, 0.5)
    assert again.score == found.score
    assert scorer.journal.find(found.key).score == found.score
