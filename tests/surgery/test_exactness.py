"""Surgery is exact, in place and reversible, on every topology."""

import keras
import numpy as np
import pytest

from autoprune.cost.flops import flops_per_layer
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan
from helpers.oracle import kept_by_layer, outputs_of, zeroed_outputs
from helpers.plans import uneven_plan
from helpers.topologies import TOPOLOGIES, fitted, images_for, made

PLAIN = (int, list, tuple)
NAMES = sorted(TOPOLOGIES)
# Trained by a compiled function; the others eagerly, which needs no compilation and takes the same steps. JAX compiles
# either way, a step at once or operation by operation.
COMPILED = ("growing_concatenation", "residual")


class Case:
    """A topology, dense whenever a test begins, with a plan that prunes every group of it."""

    def __init__(self, name):
        self.model = made(name)
        self.images = images_for(self.model)
        self.before = outputs_of(self.model, self.images)
        self.groups, self.plan = find_groups(self.model), uneven_plan(self.model)
        self.surgeon = Surgeon(self.model, self.groups)
        self.snapshot = self.surgeon.snapshot()

    def assert_dense(self):
        for output, wanted in zip(outputs_of(self.model, self.images), self.before, strict=True):
            np.testing.assert_array_equal(output, wanted)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """Built once for the tests that leave it as they found it: all of them run on one topology before the next."""
    return Case(request.param)


@pytest.fixture
def pruned(case):
    with case.surgeon.pruning(case.plan, case.snapshot) as report:
        yield report
    case.assert_dense()


def test_pruned_equals_original_with_removed_channels_zeroed(case):
    expected = zeroed_outputs(case.model, kept_by_layer(case.groups, case.plan), case.images)
    with case.surgeon.pruning(case.plan, case.snapshot) as report:
        assert report.parameters_after < report.parameters_before
        for output, wanted in zip(outputs_of(case.model, case.images), expected, strict=True):
            np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5)


def test_every_group_can_go_alone(case):
    """What one group leaves of a slice, a split or a shuffle is told apart from what the others leave."""
    for group in case.groups:
        if not group.prunable:
            continue
        plan = make_plan(case.model, {group.name: 0.6}, importance="random", multiple_of=1, seed=len(group.name))
        expected = zeroed_outputs(case.model, kept_by_layer(case.groups, plan), case.images)
        with case.surgeon.pruning(plan, case.snapshot):
            outputs = outputs_of(case.model, case.images)
        for output, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5, err_msg=group.name)


def test_keeping_everything_changes_no_bit(case):
    variables = [id(v) for v in case.model.variables]
    report = apply_plan(case.model, make_plan(case.model, 1.0))
    assert report.changes == ()
    assert [id(v) for v in case.model.variables] == variables
    case.assert_dense()


def test_restore_is_bit_exact(case):
    summary, config = text_of(case.model), case.model.get_config()
    case.surgeon.apply(case.plan)
    for variable in case.model.variables:  # As recalibration and training do.
        variable.assign(variable + 1) if "seed" not in variable.path else None
    case.surgeon.restore(case.snapshot)
    assert text_of(case.model) == summary
    assert case.model.get_config() == config
    case.assert_dense()


def test_model_and_layers_stay_the_same_objects(case):
    layers = [id(layer) for layer in case.model.layers]
    with case.surgeon.pruning(case.plan, case.snapshot):
        assert [id(layer) for layer in case.model.layers] == layers


def test_saved_model_loads_and_gives_the_same(case, pruned, tmp_path):
    case.model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert loaded.count_params() == case.model.count_params() == pruned.parameters_after
    for output, wanted in zip(outputs_of(loaded, case.images), outputs_of(case.model, case.images), strict=True):
        np.testing.assert_array_equal(output, wanted)


def numbers_of(operation):
    """Every attribute that is made of whole numbers."""
    values = {name: list(v) if type(v).__name__ == "TensorShape" else v for name, v in vars(operation).items()}
    flat = {name: keras.tree.flatten(value) for name, value in values.items() if type(value) in PLAIN}
    return {name: values for name, values in flat.items() if values and all(type(value) is int for value in values)}


@pytest.mark.usefixtures("pruned")
def test_everything_derived_from_shapes_is_up_to_date(case):
    """A model built anew from the pruned one's config has the same shapes and numbers in every place it keeps them."""
    model = case.model
    rebuilt = type(model).from_config(model.get_config())
    assert rebuilt.count_params() == model.count_params()
    assert [tuple(w.shape) for w in rebuilt.weights] == [tuple(w.shape) for w in model.weights]
    assert text_of(rebuilt) == text_of(model)
    assert flops_per_layer(rebuilt) == flops_per_layer(model)
    ours_by_path, theirs_by_path = (keras_internals.operations_by_path(m) for m in (model, rebuilt))
    for path in ours_by_path.keys() & theirs_by_path.keys():
        ours, theirs = numbers_of(ours_by_path[path]), numbers_of(theirs_by_path[path])
        assert {name: ours[name] for name in theirs if name in ours} == theirs, path
    for ours, theirs in zip(model.layers, rebuilt.layers, strict=True):
        assert ours.get_build_config() == theirs.get_build_config(), ours.name
        ours_axes = getattr(ours.input_spec, "axes", None)
        assert ours_axes == getattr(theirs.input_spec, "axes", None), ours.name


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_with_an_optimiser_that_has_state(name):
    model = made(name)
    images = images_for(model, 4)
    targets = [np.zeros(output.shape, "float32") for output in outputs_of(model, images)]
    targets = targets[0] if len(targets) == 1 else targets
    jax = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=jax, run_eagerly=not jax and name not in COMPILED)
    fitted(model, images, targets)
    optimizer = model.optimizer
    report = apply_plan(model, uneven_plan(model))
    assert report.optimizer == "sliced"
    assert model.optimizer is optimizer
    before = [v.numpy() for v in model.trainable_variables]
    targets = [np.zeros(output.shape, "float32") for output in outputs_of(model, images)]
    history = fitted(model, images, targets[0] if len(targets) == 1 else targets)
    assert np.isfinite(history.history["loss"]).all()
    after = [v.numpy() for v in model.trainable_variables]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def text_of(model):
    lines = []
    model.summary(print_fn=lines.append, expand_nested=True, line_length=150)
    return "\n".join(lines)
