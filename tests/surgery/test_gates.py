"""Gates that go: what replaces them, in training too, in files, beside reconstruction; and what is refused, and why."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.errors import DataError, PlanError
from autoprune.graph import find_branches
from autoprune.planning import Planner, make_plan
from autoprune.planning.plan_file import load_plan, plan_from_json, plan_to_json, save_plan
from autoprune.settings import Constraints
from autoprune.surgery import Surgeon, apply_plan, apply_with_reconstruction
from helpers.branching import conv, made_branching, squeezed, squeezed_by_convolutions, with_head
from helpers.oracle import outputs_of
from helpers.topologies import fitted, images_for, randomise

IMAGES = np.random.default_rng(0).normal(size=(40, 6, 6, 3)).astype("float32")
TARGETS = np.zeros((40, 5), "float32")


def gated(first=None, second=None):
    """A gate in front of a sum and one in front of a convolution, or other operands in their places."""
    image = keras.Input((6, 6, 3))
    x = conv(image, 8, "stem")
    y = layers.BatchNormalization(name="norm")(conv(x, 8, "inner"))
    y = layers.Rescaling(first)(y) if first else layers.Multiply(name="scale1")([y, squeezed(y, 8, "se1")])
    x = layers.Activation("swish")(layers.Add(name="sum")([x, y]))
    gate = None if second else squeezed_by_convolutions(x, 8, "se2")
    x = layers.Rescaling(second)(x) if second else layers.Multiply(name="scale2")([x, gate])
    model = with_head(image, layers.BatchNormalization(name="last_norm")(conv(x, 6, "last")))
    randomise(model)
    return model


BOTH = {"se1": 0, "se2": 0}


def test_means_are_those_of_the_gates_over_the_images():
    model = gated()
    plan = make_plan(model, BOTH, data=IMAGES)
    assert plan.dropped == ("se1", "se2")
    outputs = [model.get_layer(name).output for name in ("se1_reshape", "se2_excite")]
    gates = keras.Model(model.input, outputs)(IMAGES)
    for mean, gate in zip(plan.gate_means.values(), gates, strict=True):
        expected = keras.ops.convert_to_numpy(gate).reshape(40, 8).mean(0)
        np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_the_mean_of_a_gate_in_a_model_that_is_called_twice_is_over_both_calls():
    model = made_branching("gates_beside_other_channels")
    images = images_for(model, 9)
    (gate,) = (branch for branch in find_branches(model) if branch.name == "twice/se2")
    found = make_plan(model, {gate.name: 0}, data=images).gate_means[gate.name]
    twice = model.get_layer("twice")
    entering = keras.Model(model.input, [node.input_tensors[0] for node in twice._inbound_nodes[-2:]])(images)
    of_gate = keras.Model(twice.input, twice.get_layer("se2_reshape").output)
    expected = [keras.ops.convert_to_numpy(of_gate(x)).reshape(9, -1).mean(0) for x in entering]
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_what_is_left_is_the_network_with_constants_for_gates(training):
    """In training too, where batch norms look at the batch."""
    model = gated()
    plan = make_plan(model, BOTH, data=IMAGES)
    constant = gated(*(mean.tolist() for mean in plan.gate_means.values()))
    for layer in constant.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    assert apply_plan(model, plan).dropped == ("se1", "se2")
    for layer in (*model.layers, *constant.layers):
        assert "se1" not in layer.name
        assert "se2" not in layer.name
    outputs, wanted = (keras.ops.convert_to_numpy(each(IMAGES, training=training)) for each in (model, constant))
    np.testing.assert_allclose(outputs, wanted, rtol=1e-4, atol=1e-5)
    # And a step of training moves them alike where no weight was scaled.
    for each in (model, constant):
        each.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=keras.backend.backend() == "jax")
        fitted(each, IMAGES, TARGETS, batch_size=40)
    for name in ("stem", "classifier"):
        for weight, other in zip(*(each.get_layer(name).get_weights() for each in (model, constant)), strict=True):
            np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)


def test_training_goes_on_and_everything_comes_back(tmp_path):
    model = gated()
    model.compile("adam", "mse", jit_compile=keras.backend.backend() == "jax")
    fitted(model, IMAGES, TARGETS)
    before, weights, optimizer = outputs_of(model, IMAGES), model.get_weights(), model.optimizer
    state = [keras.ops.convert_to_numpy(value) for value in optimizer.variables]
    plan = make_plan(model, {**BOTH, "stem": 0.5, "last": 0.5}, multiple_of=1, data=IMAGES)
    surgeon = Surgeon(model)
    snapshot = surgeon.snapshot()
    report = surgeon.apply(plan)
    assert (report.optimizer, report.dropped) == ("sliced", ("se1", "se2"))
    outputs = outputs_of(model, IMAGES)
    model.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras")
    np.testing.assert_array_equal(outputs_of(loaded, IMAGES)[0], outputs[0])
    assert not [layer.name for layer in loaded.layers if "se1" in layer.name or "scale" in layer.name]
    for each in (model, loaded):
        fitted(each, IMAGES, TARGETS)
    assert not np.array_equal(outputs_of(model, IMAGES)[0], outputs[0])
    surgeon.restore(snapshot)
    assert model.optimizer is optimizer
    for found, wanted in (
        (outputs_of(model, IMAGES), before),
        (model.get_weights(), weights),
        ([keras.ops.convert_to_numpy(value) for value in optimizer.variables], state),
    ):
        for value, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_a_file_has_the_means(tmp_path):
    plan = make_plan(gated(), BOTH, data=IMAGES)
    save_plan(plan, tmp_path / "plan.json")
    loaded = load_plan(tmp_path / "plan.json")
    assert loaded.dropped == plan.dropped
    for name, mean in plan.gate_means.items():
        np.testing.assert_array_equal(loaded.gate_means[name], mean)
    one, other = gated(), gated()
    apply_plan(one, plan)
    apply_plan(other, loaded)
    np.testing.assert_array_equal(outputs_of(one, IMAGES)[0], outputs_of(other, IMAGES)[0])
    assert "gate_means" not in plan_to_json(make_plan(gated(), 0.5))
    for wrong in ([], {"se1": "half"}, {"se1": [[0.5], []]}):
        data = json.loads(json.dumps(plan_to_json(plan))) | {"gate_means": wrong}
        with pytest.raises(PlanError, match="malformed"):
            plan_from_json(data)


def test_the_mean_of_a_gate_within_a_branch_that_goes_is_not_needed_in_the_weights():
    """The sum's operand goes with its gate, whose mean would scale a layer that goes too."""
    model, other = gated(), gated()
    name = next(branch.name for branch in find_branches(model) if branch.merge == "sum" and branch.operand == 1)
    both = make_plan(model, {name: 0, "se1": 0}, data=IMAGES)
    apply_plan(model, both)
    apply_plan(other, make_plan(other, {name: 0}))
    np.testing.assert_array_equal(outputs_of(model, IMAGES)[0], outputs_of(other, IMAGES)[0])


def test_reconstruction_knows_that_the_kernel_takes_the_mean():
    """With gates that give the same for every image it makes no difference whether they go first."""
    plans = []
    for ratios in ({}, BOTH):
        model = gated()
        for name in ("se1_excite", "se2_excite"):
            kernel, bias = model.get_layer(name).get_weights()
            model.get_layer(name).set_weights([0 * kernel, bias])
        plan = make_plan(model, {"stem": 0.5, "last": 0.5, **ratios}, multiple_of=1, data=IMAGES)
        apply_with_reconstruction(Surgeon(model), plan, IMAGES, positions=36)
        plans.append(outputs_of(model, IMAGES)[0])
    np.testing.assert_allclose(plans[0], plans[1], rtol=1e-3, atol=1e-4)


def test_gates_have_to_be_named():
    model = gated()
    (block,) = (branch.name for branch in find_branches(model) if branch.by_default and branch.operand)
    everything = Planner(model)
    assert "se1" not in everything.space.names
    assert block in everything.space.names
    named = Planner(model, constraints=Constraints(depth=["se2"]), data=IMAGES)
    assert [branch.name for branch in named.branches] == ["se2"]
    assert named.space.depth.stages == ()
    plan = named.plan({"se2": 0})
    assert plan.gate_means.keys() == {"se2"}
    assert Surgeon(model).apply(plan).dropped == ("se2",)
    with pytest.raises(PlanError, match="'se1' stays by constraints.depth=True"):
        everything.plan({"se1": 0})


@pytest.mark.parametrize(
    ("ratios", "options", "words"),
    [
        (BOTH, {}, "In place of the gate 'se1' comes its mean over some images: give data=images, about 256"),
        ({"se3": 0}, {}, "no prunable group or branch 'se3'. Did you mean 'se2'"),
        ({"se1": 0.5}, {"data": IMAGES}, "A branch has the keep ratio 0, gone, or 1. Received: 0.5 for 'se1'"),
    ],
)
def test_plans_that_cannot_be_made(ratios, options, words):
    with pytest.raises(PlanError, match=words):
        make_plan(gated(), ratios, **options)


def test_images_have_to_fit():
    with pytest.raises(DataError, match="calibration images"):
        make_plan(gated(), BOTH, data=IMAGES[:, :5])
    assert make_plan(gated(), {"se1": 1}).dropped == ()


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (None, "has no mean to put in its place. Make it with images: make_plan"),
        (np.ones(7), "for each channel: 8 for 'se1'. Received: shape .7,"),
        (np.full(8, np.nan), "a finite number of 0 or more"),
        (-np.ones(8), "a finite number of 0 or more"),
    ],
)
def test_plans_without_a_mean_are_refused(mean, words):
    model = gated()
    plan = make_plan(model, {"se1": 0}, data=IMAGES)
    means = {} if mean is None else {"se1": mean}
    with pytest.raises(PlanError, match=words):
        apply_plan(model, dataclasses.replace(plan, gate_means=means))
