"""DAIS: its indicators harden within the budget, and the pruned model is the network with its gates rounded."""

import keras
import numpy as np
import pytest
from scipy.optimize import approx_fprime

from autoprune.errors import SettingsError
from autoprune.evaluation import Evaluator, Journal
from autoprune.models.outputs import run_joined
from autoprune.planning import Planner
from autoprune.searchers import SEARCHERS, BudgetedEvaluator, build_problem
from autoprune.searchers.dais import ExpectedCost, Indicators, anneal, widest_within
from autoprune.settings import (
    AgentSettings,
    BudgetSettings,
    Constraints,
    EvaluationSettings,
    LimitsSettings,
    TrainingSettings,
)
from autoprune.surgery import Surgeon
from autoprune.training import train
from helpers import toy
from helpers.small_networks import residual
from helpers.vgg_digits import ChannelTime, KnownTime, channels_of, digits, trained

TARGET = 0.5


class Annealed:
    """A network whose indicators have been trained, and what it was before."""

    def __init__(self, folder):
        self.data = digits()
        self.model = trained(self.data, 6)
        self.before = self.model.get_weights()
        self.planner = Planner(self.model, constraints=Constraints(multiple_of=1, min_keep_ratio=0.1))
        journal = Journal(folder / "journal.sqlite", {})
        settings = EvaluationSettings(recovery="none")
        evaluator = Evaluator(
            self.model, self.planner, self.data, cost_model=ChannelTime(), journal=journal, settings=settings
        )
        self.problem = build_problem(evaluator, BudgetSettings(latency=TARGET))
        limits = LimitsSettings(2)
        self.evaluator = BudgetedEvaluator(evaluator, self.problem, name="dais", limits=limits, surrogate=KnownTime())
        self.indicators = Indicators(self.problem.space)
        self.untrained, network = evaluator.relax(seed=0), evaluator.relax(seed=0)
        self.cost = ExpectedCost(self.evaluator, np.random.default_rng(0))
        anneal(self.indicators, network, self.cost)
        journal.close()


@pytest.fixture(scope="module")
def annealed(tmp_path_factory):
    return Annealed(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_indicators_are_hard_in_the_end(annealed):
    values = annealed.indicators.values
    assert np.abs(values - values.round()).mean() < 0.01


@pytest.mark.slow
def test_the_expected_cost_ends_at_the_budget(annealed):
    assert annealed.cost(annealed.indicators.widths)[0] == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_the_model_keeps_its_weights_to_the_last_bit(annealed):
    for before, after in zip(annealed.before, annealed.model.get_weights(), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.slow
def test_the_pruned_model_is_the_network_with_its_gates_rounded(annealed):
    images = annealed.data.reward.images
    expected = annealed.untrained.outputs(annealed.indicators.gates.round(), images)
    model, plan = annealed.model, annealed.problem.space.plan(annealed.indicators.candidate)
    surgeon = Surgeon(model, annealed.planner.all_groups, annealed.planner.fingerprint)
    dense = run_joined(model, images)
    with surgeon.pruning(plan, surgeon.snapshot()):
        assert np.asarray(run_joined(model, images)) == pytest.approx(expected, abs=1e-5)
    assert np.abs(dense - expected).max() > 0.1


@pytest.mark.slow
def test_it_is_no_worse_than_uniform_pruning_after_the_same_fine_tuning(annealed):
    def finished(candidate):
        model = keras.models.clone_model(annealed.model)
        model.set_weights(annealed.before)
        Surgeon(model, Planner(model).all_groups, annealed.planner.fingerprint).apply(
            annealed.problem.space.plan(candidate)
        )
        train(model, annealed.data, TrainingSettings(batch_size=32), epochs=4, learning_rate=3e-3, seed=0)
        reward = annealed.data.reward
        return channels_of(model), float(np.mean(np.argmax(run_joined(model, reward.images), axis=1) == reward.labels))

    found = widest_within(annealed.evaluator, annealed.indicators.candidate)
    (channels, accuracy), (of_uniform, uniform) = finished(found), finished(annealed.problem.start)
    assert abs(channels - of_uniform) <= 3
    assert accuracy >= uniform


# ------------------------------------------------------------------ its parts


def test_gates_of_a_dimension_never_rise_with_the_option():
    indicators = Indicators(toy.SPACE)
    indicators.alphas = np.random.default_rng(0).normal(size=len(indicators.alphas))
    for gates in np.split(indicators.gates, 4):
        assert (np.diff(gates) <= 0).all()
    kept = np.array(indicators.candidate)
    assert kept.tolist() == [int((gates > 0.5).sum()) for gates in np.split(indicators.gates, 4)]


def test_slopes_by_alphas_are_those_of_finite_differences():
    generator = np.random.default_rng(0)
    indicators = Indicators(toy.SPACE)
    alphas = indicators.alphas = generator.normal(size=len(indicators.alphas))
    indicators.temperature = 0.5
    of_gates, of_widths = generator.normal(size=len(alphas)), generator.normal(size=4)

    def loss(values):
        indicators.alphas = values
        return of_gates @ indicators.gates + of_widths @ indicators.widths + 0.01 * indicators.values.mean()

    expected = approx_fprime(alphas, loss, 1e-6)
    indicators.alphas = alphas
    assert indicators.slope(of_gates, of_widths) == pytest.approx(expected, abs=1e-4)


def test_what_it_finds_first_is_nearly_the_best_plan():
    history = toy.search("dais", 2).history
    assert [trial.source for trial in history] == ["anchor", "indicators"]
    assert toy.best_accuracy() - history[1].evaluation.accuracy < 0.002


def test_another_backend_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(SettingsError, match="dais needs Keras on tensorflow .KERAS_BACKEND.* Received: Keras on jax"):
        SEARCHERS.get("dais").check(AgentSettings())


def test_half_precision_is_refused(tmp_path):
    layers = keras.layers
    half = layers.Conv2D(8, 3, dtype="float16", name="half")
    head = layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), half, layers.GlobalAveragePooling2D(), head])
    journal = Journal(tmp_path / "journal.sqlite", {})
    evaluator = Evaluator(model, Planner(model), digits(), cost_model=ChannelTime(), journal=journal)
    with pytest.raises(SettingsError, match="a layer 'half' in float16"):
        evaluator.relax(seed=0)
    journal.close()


def test_the_gate_of_a_branch_weighs_it(tmp_path):
    """Gates of 0 and 1 give what surgery leaves; between them outputs change."""
    model, images = residual(), digits().reward.images[:20]
    planner = Planner(model)
    journal = Journal(tmp_path / "journal.sqlite", {})
    evaluator = Evaluator(model, planner, digits(), cost_model=ChannelTime(), journal=journal)
    network, space = evaluator.relax(seed=0), planner.space
    without = np.array(space.full)
    without[space.names.index("add[1]")] = 0
    whole = np.ones(sum(space.full))
    dropped = whole.copy()
    dropped[sum(space.full[: space.names.index("add[1]")])] = 0
    assert network.outputs(whole, images) == pytest.approx(np.asarray(run_joined(model, images)), abs=1e-5)
    surgeon = Surgeon(model, planner.all_groups, planner.fingerprint)
    with surgeon.pruning(space.plan(tuple(without)), surgeon.snapshot()):
        expected = np.asarray(run_joined(model, images))
    assert network.outputs(dropped, images) == pytest.approx(expected, abs=1e-5)
    half = network.outputs((whole + dropped) / 2, images)
    assert np.abs(half - expected).max() > 1e-4
    assert network.slope((whole + dropped) / 2).any()
    journal.close()
