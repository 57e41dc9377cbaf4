"""Sparse Flows (Liebenwein et al., 2021, arXiv 2106.12718): ODE blocks, pruned in a cascade, against its definition."""

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.cost import open_cost_model
from autoprune.data import load_data
from autoprune.errors import SettingsError
from autoprune.evaluation.accuracy import accuracy
from autoprune.graph import find_groups
from autoprune.models import zoo
from autoprune.models.networks.ode import ODEBlock
from autoprune.planning import Planner, make_plan
from autoprune.records import Evaluation, Target
from autoprune.settings import Constraints, DataSettings, LimitsSettings, SearchSettings, TrainingSettings
from autoprune.surgery import Surgeon, apply_plan
from autoprune.training import finishing, train
from autoprune.training.finishing import Finisher
from autoprune.training.training import Training
from helpers.oracle import outputs_of
from helpers.topologies import randomise

FINE = Constraints(multiple_of=1, min_keep_ratio=0.01)
EPOCHS = 30
RECIPE = TrainingSettings(
    epochs=EPOCHS, fine_tune_epochs=EPOCHS, learning_rate=0.05, warm_up=0, schedule="rewinding", distillation=0
)


@pytest.fixture(scope="module")
def moons():
    return load_data(DataSettings("moons", reward_size=600))


@pytest.fixture(scope="module")
def dense_weights(moons):
    """Of the classifier, trained by the recipe: from some first weights it never leaves a straight border."""
    for seed in range(5):
        keras.utils.set_random_seed(seed)
        model = zoo.build("ode_classifier", None, 2)
        train(model, moons, RECIPE, epochs=EPOCHS, learning_rate=RECIPE.learning_rate, seed=seed)
        if accuracy(model, moons.reward, 400) >= 0.98:
            break
    return model.get_weights()


def block_parameters(model):
    return model.get_layer("ode").count_params()


# ------------------------------------------------------------------ the block


def random_network(**options):
    """Dense layers around a block whose state has three channels, or two and the log-density."""
    keras.utils.set_random_seed(0)
    point = keras.Input((4,))
    x = ODEBlock((7, 6), steps=5, name="ode", **options)(layers.Dense(3, name="before")(point))
    model = keras.Model(point, layers.Dense(2, name="after")(x))
    randomise(model)
    return model


OPTIONS = [
    {},
    {"log_density": True, "time_dependent": True},
    {"activation": "softplus", "log_density": True},
    {"activation": "sigmoid", "time_dependent": True},
]


def test_the_solver_is_of_fourth_order():
    """Of dz/dt = A z, whose solution is a power series, the error falls by about 2^4 as the steps halve."""
    block = ODEBlock((2,), steps=4, activation="linear")
    block.build((None, 2))
    turn = np.array([[-0.4, 1.3], [-1.1, 0.2]])
    z, term, exact = np.array([[1.0, -0.5]]), np.eye(2), np.eye(2)
    for power in range(1, 30):
        term = term @ turn / power
        exact = exact + term
    block.set_weights([np.eye(2), np.zeros(2), turn, np.zeros(2)])
    errors = []
    for steps in (2, 4):
        block.steps = steps
        errors.append(np.abs(keras.ops.convert_to_numpy(block(z)) - z @ exact).max())
    assert 10 < errors[0] / errors[1] < 25


ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_trace_is_that_of_a_numerical_jacobian(activation):
    block = ODEBlock((7, 6), activation=activation, log_density=True, time_dependent=True)
    block.build((None, 4))
    randomise(block)
    for weight in block.trainable_variables:
        weight.assign(2 * weight)  # Slopes of a sigmoid are small: traces are to be far above what is tolerated.
    parts = {weight.name: keras.ops.convert_to_numpy(weight).astype("float64") for weight in block.trainable_variables}

    def slopes_of(z):
        for number in range(3):
            z = z @ parts[f"kernel_{number}"] + parts[f"bias_{number}"] + 0.3 * parts[f"time_{number}"]
            z = ACTIVATIONS[activation](z) if number < 2 else z
        return z

    z, step = np.random.default_rng(1).normal(size=(5, 3)), 1e-5
    sides = [(slopes_of(z + step * unit) - slopes_of(z - step * unit)) / (2 * step) for unit in np.eye(3)]
    numerical = sum(side[:, axis : axis + 1] for axis, side in enumerate(sides))
    assert np.abs(numerical).max() > 0.1
    slopes, trace = map(keras.ops.convert_to_numpy, block.dynamics(z.astype("float32"), 0.3))
    np.testing.assert_allclose(slopes, slopes_of(z), atol=1e-4)
    np.testing.assert_allclose(trace, numerical, atol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_state_stays_and_each_hidden_width_is_a_group(options):
    groups = {group.name: group for group in find_groups(random_network(**options))}
    assert [(groups[name].size, groups[name].prunable) for name in ("ode", "ode#2")] == [(7, True), (6, True)]
    assert not groups["before"].prunable
    assert "is the state of an ODE" in groups["before"].reason


@pytest.mark.parametrize("options", OPTIONS)
def test_removed_units_are_units_that_nothing_reads(options, tmp_path):
    model = random_network(**options)
    points = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    block, before = model.get_layer("ode"), outputs_of(model, points)[0]
    saved = {variable.path: variable.numpy() for variable in model.variables}
    plan = make_plan(model, {"ode": 0.4, "ode#2": 0.5}, multiple_of=1)
    for number, name in enumerate(("ode", "ode#2"), start=1):
        kernel = getattr(block, f"kernel_{number}")
        kernel.assign(kernel.numpy() * np.isin(np.arange(kernel.shape[0]), plan.kept[name])[:, None])
    zeroed = outputs_of(model, points)[0]
    assert np.abs(zeroed - before).max() > 1e-3
    for variable in model.variables:
        variable.assign(saved[variable.path])
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(plan)
    np.testing.assert_allclose(outputs_of(model, points)[0], zeroed, atol=1e-5)
    assert block.hidden == (3, 3)
    assert block.output.shape == block.input.shape == (None, 3)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras", safe_mode=True)
    np.testing.assert_array_equal(outputs_of(loaded, points)[0], outputs_of(model, points)[0])
    surgeon.restore(snapshot)
    assert block.hidden == (7, 6)
    assert all((variable.numpy() == saved[variable.path]).all() for variable in model.variables)
    np.testing.assert_array_equal(outputs_of(model, points)[0], before)


def test_a_shared_block_and_one_on_positions():
    keras.utils.set_random_seed(0)
    image = keras.Input((3, 3, 2))
    block = ODEBlock((8,), steps=3, name="ode")
    x = layers.Conv2D(2, 1, name="conv")(block(block(image)))
    model = keras.Model(image, x)
    images = np.random.default_rng(1).normal(size=(2, 3, 3, 2)).astype("float32")
    plan = make_plan(model, 0.5, multiple_of=1)
    kernel, kept = block.kernel_1.numpy(), plan.kept["ode"]
    block.kernel_1.assign(kernel * np.isin(np.arange(8), kept)[:, None])
    zeroed = outputs_of(model, images)[0]
    apply_plan(model, plan)
    np.testing.assert_allclose(outputs_of(model, images)[0], zeroed, atol=1e-5)


def test_an_activation_across_channels_leaves_the_block_whole():
    point = keras.Input((2,))
    model = keras.Model(point, layers.Dense(2)(ODEBlock((8,), activation="softmax", name="ode")(point)))
    assert "the activation 'softmax' of 'ode'" in find_groups(model)[0].reason


@pytest.mark.parametrize("options", [{"hidden": ()}, {"steps": 0}, {"activation": "gelu", "log_density": True}])
def test_what_no_block_can_be_made_of_is_refused(options):
    with pytest.raises(ValueError, match=r"1 or more|one of elu, linear"):
        ODEBlock(**options)
    with pytest.raises(ValueError, match="known number of channels"):
        ODEBlock(log_density=True).build((None, 1))


# ------------------------------------------------------------------ the cascade


@pytest.mark.slow
def test_ten_of_64_units_are_enough_after_a_cascade(moons, dense_weights, monkeypatch):
    model = zoo.build("ode_classifier", None, 2)
    model.set_weights(dense_weights)
    assert accuracy(model, moons.test, 400) >= 0.97
    whole = block_parameters(model)
    planner = Planner(model, constraints=FINE)
    plan = planner.plan({"ode": 10 / 64})
    assert plan.widths == {"ode": 10}
    evaluation = Evaluation(key="", keep_ratios=plan.keep_ratios, widths=plan.widths, accuracy=0.5, cost=None)
    limits = LimitsSettings(stages=3, cascade=True)
    settings = SearchSettings(training=RECIPE, search=limits, constraints=FINE)
    made, starts, ends = [], [], []
    optimizer, carry_out = Training.optimizer, finishing.carry_out

    def make(training, steps):
        made.append((optimizer(training, steps), steps))
        return made[-1][0]

    def follow(training, on_progress):
        starts.append(model.get_layer("ode").kernel_0.numpy())
        record = carry_out(training, on_progress)
        ends.append(model.get_layer("ode").kernel_0.numpy())
        return record

    monkeypatch.setattr(Training, "optimizer", make)
    monkeypatch.setattr(finishing, "carry_out", follow)
    epochs = []
    finisher = Finisher(model, planner, moons, cost_model=open_cost_model(Target("cpu", 8)), settings=settings)
    done = finisher.finish("uniform", evaluation, lambda epoch, logs: epochs.append(epoch))
    for made_one, steps in made:
        schedule = made_one._learning_rate
        assert float(schedule(0)) == pytest.approx(RECIPE.learning_rate)
        assert int(made_one.iterations) == EPOCHS * steps
        assert float(schedule(EPOCHS * steps)) == pytest.approx(0, abs=1e-6)
    assert len(made) == 3
    assert done.training.epochs == epochs[-1] == 3 * EPOCHS
    assert done.plan.widths == plan.widths
    # Weights are kept, and units chosen by the sum of what their incoming weights are by then.
    assert [start.shape for start in starts] == [(2, 46), (2, 28), (2, 10)]
    for end, start in zip(ends, starts[1:], strict=False):
        largest = np.sort(np.argsort(-np.abs(end).sum(0))[: start.shape[1]])
        np.testing.assert_array_equal(start, end[:, largest])
    assert done.test_accuracy >= 0.95
    assert block_parameters(model) <= 0.2 * whole
    assert model.get_layer("ode").output.shape == (None, 2)
    finisher.undo()
    assert block_parameters(model) == whole
    for now, before in zip(model.get_weights(), dense_weights, strict=True):
        np.testing.assert_array_equal(now, before)


def test_each_stage_chooses_by_the_weights_of_then():
    """The units that were largest when the first stage was chosen are the smallest of those that are left."""
    model = zoo.build("ode_classifier", None, 2, width=0.125)
    kernel = model.get_layer("ode").kernel_0
    kernel.assign(np.arange(1, 9) * np.ones((2, 1)))
    planner = Planner(model, constraints=FINE)
    first, last = planner.plan(0.5), planner.plan(0.25)
    assert first.kept["ode"].tolist() == [4, 5, 6, 7]
    assert last.kept["ode"].tolist() == [6, 7]
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(first)
    kernel.assign([[9, 1, 8, 2], [9, 1, 8, 2]])
    again = planner.choose_again(last, first)
    assert again.kept["ode"].tolist() == [4, 6]
    surgeon.prune_further(again, snapshot)
    np.testing.assert_array_equal(kernel.numpy(), [[9, 8], [9, 8]])


def test_a_cascade_has_stages_and_all_epochs_in_each():
    assert LimitsSettings(stages=3, cascade=True).count_epochs(5) == 15
    assert LimitsSettings(stages=3).count_epochs(5) == 5
    with pytest.raises(SettingsError, match=r"search.cascade must be false, or given with search.stages"):
        LimitsSettings(cascade=True)


# ------------------------------------------------------------------ densities


def test_the_density_of_a_flow_integrates_to_one():
    keras.utils.set_random_seed(0)
    model = zoo.build("ffjord", None, None)
    axis = np.linspace(-7, 7, 71, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)

    def integral():
        (told,) = outputs_of(model, grid)
        assert told.shape == (len(grid), 1)
        return np.exp(told.astype("float64")).sum() * (axis[1] - axis[0]) ** 2

    for weight in model.get_layer("ode").trainable_variables:
        weight.assign(2 * weight)  # No density that is nearly a normal one.
    assert np.abs(outputs_of(model, grid[::25])[0][:, 0] + np.square(grid[::25]).sum(1) / 2 + 1.84).max() > 1
    assert integral() == pytest.approx(1, abs=0.02)
    apply_plan(model, make_plan(model, 0.25, multiple_of=1))
    assert model.get_layer("ode").hidden == (16, 16)
    assert integral() == pytest.approx(1, abs=0.02)
