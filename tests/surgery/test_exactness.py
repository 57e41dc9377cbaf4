"""Surgery is exact, in place and reversible, on every topology."""

import keras
import numpy as np
import pytest
from oracle import kept_by_layer, outputs_of, zeroed_outputs
from plans import uneven_plan
from topologies import TOPOLOGIES, fitted, images_for, made

from autoprune.cost.flops import flops_per_layer
from autoprune.graph import find_groups
from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon, apply_plan

PLAIN = (int, list, tuple)
NAMES = sorted(TOPOLOGIES)
# Trained by a compiled function; the others eagerly, which needs no compilation and takes the same steps.
COMPILED = ("growing_concatenation", "residual", "vision_transformer")


@pytest.mark.parametrize("name", NAMES)
def test_pruned_equals_original_with_removed_channels_zeroed(name):
    model = made(name)
    images = images_for(model)
    groups, plan = find_groups(model), uneven_plan(model)
    expected = zeroed_outputs(model, kept_by_layer(groups, plan), images)
    report = apply_plan(model, plan)
    assert report.parameters_after < report.parameters_before
    for output, wanted in zip(outputs_of(model, images), expected, strict=True):
        np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_group_can_go_alone(name):
    """What one group leaves of a slice, a split or a shuffle is told apart from what the others leave."""
    model = made(name)
    images = images_for(model)
    groups = find_groups(model)
    surgeon = Surgeon(model, groups)
    snapshot = surgeon.snapshot()
    for group in groups:
        if not group.prunable:
            continue
        plan = make_plan(model, {group.name: 0.6}, importance="random", multiple_of=1, seed=len(group.name))
        expected = zeroed_outputs(model, kept_by_layer(groups, plan), images)
        with surgeon.pruned(plan, snapshot):
            outputs = outputs_of(model, images)
        for output, wanted in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, wanted, rtol=2e-5, atol=2e-5, err_msg=group.name)


@pytest.mark.parametrize("name", NAMES)
def test_keeping_everything_changes_no_bit(name):
    model = made(name)
    images = images_for(model)
    before = outputs_of(model, images)
    variables = [id(v) for v in model.variables]
    report = apply_plan(model, make_plan(model, 1.0))
    assert report.changes == ()
    assert [id(v) for v in model.variables] == variables
    for output, wanted in zip(outputs_of(model, images), before, strict=True):
        np.testing.assert_array_equal(output, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_restore_is_bit_exact(name):
    model = made(name)
    images = images_for(model)
    before, summary = outputs_of(model, images), text_of(model)
    config = model.get_config()
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    surgeon.apply(uneven_plan(model))
    for variable in model.variables:  # As recalibration and training do.
        variable.assign(variable + 1) if "seed" not in variable.path else None
    surgeon.restore(snapshot)
    assert text_of(model) == summary
    assert model.get_config() == config
    for output, wanted in zip(outputs_of(model, images), before, strict=True):
        np.testing.assert_array_equal(output, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_model_and_layers_stay_the_same_objects(name):
    model = made(name)
    layers = [id(layer) for layer in model.layers]
    apply_plan(model, uneven_plan(model))
    assert [id(layer) for layer in model.layers] == layers


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_loads_and_gives_the_same(name, tmp_path):
    model = made(name)
    images = images_for(model)
    apply_plan(model, uneven_plan(model))
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    assert loaded.count_params() == model.count_params()
    for output, wanted in zip(outputs_of(loaded, images), outputs_of(model, images), strict=True):
        np.testing.assert_array_equal(output, wanted)


def numbers_of(operation):
    """Every attribute that is made of whole numbers."""
    values = {name: list(v) if type(v).__name__ == "TensorShape" else v for name, v in vars(operation).items()}
    flat = {name: keras.tree.flatten(value) for name, value in values.items() if type(value) in PLAIN}
    return {name: values for name, values in flat.items() if values and all(type(value) is int for value in values)}


@pytest.mark.parametrize("name", NAMES)
def test_everything_derived_from_shapes_is_up_to_date(name):
    """A model built anew from the pruned one's config has the same shapes and numbers in every place it keeps them."""
    model = made(name)
    apply_plan(model, uneven_plan(model))
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
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False, run_eagerly=name not in COMPILED)
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
