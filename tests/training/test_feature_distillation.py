"""Distillation of features: what a network keeps of what its teacher finds alike."""

import dataclasses

import numpy as np
import pytest

from autoprune import find_groups
from autoprune.comparison.controls import ScratchTrainer
from autoprune.data import Dataset, load_data
from autoprune.errors import ModelError, SettingsError
from autoprune.evaluation.accuracy import accuracy
from autoprune.models.feature_distilling import (
    similarity_loss,
    teachings,
)
from autoprune.models.files import load_model, save_model
from autoprune.pipeline import finetune
from autoprune.pipeline.session import open_session
from autoprune.planning import Planner, make_plan
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import (
    Constraints,
    DataSettings,
    FinetuneSettings,
    ImportanceSettings,
    ModelSettings,
    RuntimeSettings,
    SearchSettings,
    TrainingSettings,
)
from autoprune.surgery import apply_plan
from autoprune.training import finetuning, train
from autoprune.training.checkpoints import Checkpoints
from autoprune.training.finishing import Finisher
from autoprune.training.fit import carry_out
from autoprune.training.training import Training
from helpers.featured_network import featured, gram, summed, traces
from helpers.finished_search import finished_search
from helpers.processes import UNOPTIMISED
from helpers.telling import log_probabilities
from helpers.toy import cost_of, evaluation_of

FEATURES = TrainingSettings(batch_size=50, distillation=0.0, feature_distillation=100.0)


@pytest.fixture(scope="module")
def few(digits):
    return Dataset("few", digits.train.head(330), digits.reward, digits.test, 10)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    return finished_search(tmp_path_factory.mktemp("search") / "run")


def features_of(model, images):
    return teachings(model, images)[:, 10:]


def test_images_stay_as_alike_as_the_teacher_finds_them(few):
    """With it a pruned network's similarities come closer to the teacher's than the same training brings them."""
    settings = dataclasses.replace(FEATURES, batch_size=32)
    model = featured(16)
    train(model, few, TrainingSettings(batch_size=32), epochs=8, learning_rate=5e-3, seed=0)
    teacher, images = teachings(model, few.train.images), few.train.images
    apply_plan(model, make_plan(model, 0.5, multiple_of=4))
    pruned, wanted, distances = model.get_weights(), gram(teacher[:, 10:]), []
    for weight in (0.0, 100.0):
        model.set_weights(pruned)
        recipe = dataclasses.replace(settings, feature_distillation=weight)
        said = teacher if weight else teacher[:, :10]
        train(model, few, recipe, epochs=6, learning_rate=3e-3, seed=0, teacher=said)
        distances.append(np.linalg.norm(gram(features_of(model, images)) - wanted))
    assert distances[1] < 0.6 * distances[0]


def test_a_model_is_as_free_after_it_as_before(few, tmp_path):
    """It can be trained so, pruned, trained so again and saved; the file knows nothing of it."""
    model = featured(16)
    teacher = teachings(model, few.train.images)
    groups, before = str(find_groups(model)), traces(model)
    train(model, few, FEATURES, epochs=1, learning_rate=3e-3, seed=0, teacher=teacher)
    assert traces(model) == before
    assert str(find_groups(model)) == groups
    assert model.optimizer is None
    apply_plan(model, make_plan(model, 0.5, multiple_of=4))
    train(model, few, FEATURES, epochs=1, learning_rate=3e-3, seed=0, teacher=teacher)
    apply_plan(model, make_plan(model, 0.5, multiple_of=4))
    assert model.layers[1].filters == 4
    save_model(model, tmp_path / "saved.keras")
    images = few.reward.images[:9]
    np.testing.assert_array_equal(load_model(tmp_path / "saved.keras")(images), model(images))
    assert "autoprune" not in (tmp_path / "saved.keras").read_bytes().decode("latin-1")


class Costs:
    """Stands where a cost model stands: everything costs the same."""

    def submit(self, model):
        return self

    def result(self):
        return cost_of([1.0] * 4)


def test_searches_and_comparisons_teach_features(few):
    """The dense model's, though its probabilities are not learnt from."""
    recipe = dataclasses.replace(FEATURES, epochs=1, fine_tune_epochs=1)
    model, settings = featured(16), SearchSettings(training=recipe)
    planner = Planner(model, importance=ImportanceSettings(), constraints=Constraints(multiple_of=4), seed=0)
    plan = planner.plan(dict.fromkeys((group.name for group in planner.groups), 0.5))
    evaluation = dataclasses.replace(evaluation_of(0.5), keep_ratios=dict(plan.keep_ratios), widths=dict(plan.widths))
    expected = teachings(model, few.train.images)
    for kind in (Finisher, ScratchTrainer):
        finisher = kind(model, planner, few, cost_model=Costs(), settings=settings)
        finished = finisher.finish("uniform", evaluation, seed=1)
        np.testing.assert_array_equal(finisher._teacher, expected)
        if kind is Finisher:
            assert finished.training.losses[0] > 0
            finisher.undo()


def test_interrupted_it_ends_with_the_same_bits(few, tmp_path):
    teacher = teachings(featured(12, seed=1), few.train.images)

    def done(checkpoints=None, stop_at=None):
        def stop(epochs, logs):
            if stop_at and epochs >= stop_at:
                raise KeyboardInterrupt

        task = Training(
            model=featured(), data=few, settings=FEATURES, epochs=2, learning_rate=None, seed=3, teacher=teacher
        )
        carry_out(task, stop, checkpoints)
        return task.model.get_weights()

    checkpoints = Checkpoints(tmp_path / "state.safetensors", {"seed": 3}, 2)
    with pytest.raises(KeyboardInterrupt):
        done(checkpoints, 1.6)
    assert (checkpoints.newest().position["epoch"], checkpoints.newest().position["step"]) == (1, 4)
    for value, wanted in zip(done(checkpoints), done(), strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.slow
def test_every_runtime_has_the_loss_of_its_batches(search, tmp_path, monkeypatch):
    """With steps of no length. Under a strategy each of two devices compares the images of its share."""
    monkeypatch.setattr(finetuning, "check_step", lambda *_: None)  # which compiles for seconds
    monkeypatch.setenv("XLA_FLAGS", UNOPTIMISED)
    training = dataclasses.replace(FEATURES, fine_tune_epochs=1, fine_tune_learning_rate=1e-12)
    shared = FinetuneSettings(
        run=str(search.path),
        model=ModelSettings("plain_cnn"),
        data=DataSettings(reward_size=0.25, train_size=200),
        training=dataclasses.replace(training, feature_distillation=1000.0),
        checkpoint_every=2,
        cost=False,
    )
    runtimes = {
        RuntimeSettings("cpu"): (1, 1e-4),
        RuntimeSettings("tpu", "mixed_bfloat16", 2, 2): (1, 5e-3),
        RuntimeSettings("tpu_tf", "float32", 2, 2): (2, 1e-4),
    }
    for runtime, (shares, tolerance) in runtimes.items():
        folder = RunFolder.make(tmp_path / runtime.name)
        found = finetune.run(dataclasses.replace(shared, runtime=runtime), folder).record.losses[0]
        expected, without = expected_loss(search, shared, np.load(folder.path / "teacher.npy"), shares)
        assert found == pytest.approx(expected, rel=tolerance)
        assert expected > without + 0.2


def expected_loss(search, settings, teacher, shares):
    """Mean loss of the steps of an epoch that changes no weight, and what it is without the features' term."""
    model = load_model(search.pruned)
    task = Training(
        model=model,
        data=load_data(settings.data),
        settings=settings.training,
        epochs=1,
        learning_rate=None,
        seed=settings.seed,
        teacher=teacher,
    )
    network, batches, losses = task.network(), task.training_batches(whole=True), []
    batches.begin(0)
    for index in range(len(batches)):
        images, targets = batches[index]
        for part, said in zip(np.split(images, shares), np.split(targets, shares), strict=True):
            given = network(part, training=True)
            term = np.mean(similarity_loss(given[:, 10:], said[:, 11:]))
            losses.append((float(task.loss()(said, given)), settings.training.feature_distillation * float(term)))
    whole, term = np.mean(losses, axis=0)
    return whole, whole - term


# ------------------------------------------------------------------ what goes wrong


def test_a_negative_weight_is_refused():
    with pytest.raises(SettingsError, match="training.feature_distillation must be 0 or more. Received: -1"):
        TrainingSettings(feature_distillation=-1.0)


def test_each_kind_of_distillation_needs_a_teacher():
    needs = [TrainingSettings(distillation=a, feature_distillation=b).needs_teacher for a in (0, 1) for b in (0, 1)]
    assert needs == [False, True, True, True]


def test_a_teacher_that_tells_no_features_is_refused(few):
    model = featured()
    said = log_probabilities(model, few.train.images)
    with pytest.raises(ModelError, match="behind its 10 logarithms of probabilities. Received: 10 numbers"):
        train(model, few, FEATURES, epochs=1, learning_rate=1e-3, seed=0, teacher=said)


def test_a_model_without_features_is_refused_before_its_teacher_is_asked(few, search, tmp_path):
    save_model(summed(), tmp_path / "summed.keras")
    settings = FinetuneSettings(
        model=ModelSettings("file", path=str(tmp_path / "summed.keras")),
        teacher=str(search.dense),
        data=DataSettings(reward_size=0.25, train_size=200),
        training=FEATURES,
        cost=False,
    )
    with pytest.raises(ModelError, match="Feature distillation needs what enters the classifier"):
        finetune.run(settings, RunFolder.make(tmp_path / "out"))
    assert not (tmp_path / "out/teacher.npy").exists()


def test_a_search_is_refused_before_it_begins(few, tmp_path):
    settings = SearchSettings(training=FEATURES)
    with (
        pytest.raises(ModelError, match="Set training.feature_distillation=0, or give the model its classifier"),
        open_session(summed(), few, settings, RunFolder.make(tmp_path)),
    ):
        pass
    assert not (tmp_path / "evaluations.sqlite").exists()


def test_epochs_are_judged_by_the_classes_alone(few):
    """Features stand behind the outputs: no class is one of them."""
    model = featured()
    teacher = teachings(featured(12, seed=1), few.train.images)
    record = train(model, few, FEATURES, epochs=3, learning_rate=3e-3, seed=0, teacher=teacher)
    assert max(record.accuracies) == pytest.approx(accuracy(model, few.reward), abs=1e-6)
