"""Branches go in place, exactly and reversibly: each alone, and half of all with half of the channels."""

import zipfile

import keras
import numpy as np
import pytest

from autoprune.errors import PlanError
from autoprune.graph import find_branches, find_groups
from autoprune.models import keras_internals
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.branching import BRANCHING, OLDER, made_branching
from helpers.oracle import dropped_operands, kept_by_layer, means_by_operand, zeroed_outputs
from helpers.plans import dropping, uneven_plan
from helpers.topologies import images_for

NAMES = (*sorted(BRANCHING), *OLDER)


def outputs_of(model, images):
    """As arrays, in the order in which Keras flattens the model's outputs."""
    packed = keras.tree.pack_sequence_as(keras_internals.input_structure(model), keras.tree.flatten(images))
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(model(packed, training=False))]


def text_of(model):
    lines = []
    model.summary(print_fn=lines.append, expand_nested=True, line_length=150)
    return "\n".join(lines)


def connections_of(model):
    """For every call of the model and of those in it what it reads, and for every operation who reads it."""
    found = []
    for graph in keras_internals.graphs_by_path(model).values():
        for node in keras_internals.nodes_of(graph):
            readers = [id(reader) for reader in node.operation._outbound_nodes]
            found.append((id(node), id(node.operation), [id(tensor) for tensor in node.input_tensors], readers))
        found.append([id(tensor) for tensor in graph.outputs])
    return found


class Case:
    """A model, whole whenever a test begins, with a plan that drops half of its branches and half of its channels."""

    def __init__(self, name):
        self.model = made_branching(name)
        self.images = images_for(self.model)
        self.before = outputs_of(self.model, self.images)
        self.groups = find_groups(self.model)
        self.branches = find_branches(self.model, self.groups)
        self.surgeon = Surgeon(self.model, self.groups)
        self.snapshot = self.surgeon.snapshot()
        self.removable = [branch.name for branch in self.branches if branch.removable]
        self.plan = self.without(uneven_plan(self.model), *self.some_that_can_go_together())

    def without(self, plan, *dropped):
        return dropping(self.model, self.branches, plan, dropped)

    def some_that_can_go_together(self):
        dropped = []
        for name in self.removable[::-1]:
            try:
                self.surgeon.check(self.without(make_plan(self.model, 1.0), name, *dropped))
            except PlanError:
                continue
            if len(dropped) < (len(self.removable) + 1) // 2:
                dropped.insert(0, name)
        return dropped

    def expected(self, plan):
        images = keras.tree.flatten(self.images)
        gone, means = dropped_operands(self.branches, plan), means_by_operand(self.branches, plan)
        return keras.tree.flatten(zeroed_outputs(self.model, kept_by_layer(self.groups, plan), images, gone, means))


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


def assert_close(outputs, expected, message=""):
    for output, wanted in zip(outputs, expected, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(output / scale, wanted / scale, rtol=0, atol=2e-5, err_msg=message)


def test_every_branch_can_go_alone(case):
    for name in case.removable:
        plan = case.without(make_plan(case.model, 1.0), name)
        expected = case.expected(plan)
        with case.surgeon.pruning(plan, case.snapshot) as report:
            outputs = outputs_of(case.model, case.images)
        assert report.dropped == (name,)
        assert report.parameters_after <= report.parameters_before
        assert_close(outputs, expected, name)


def test_half_of_the_branches_and_of_the_channels(case, tmp_path):
    """Exact, in place, gone everywhere, saved as plain Keras, and put back to the last bit and connection."""
    model, plan = case.model, case.plan
    assert plan.dropped
    expected = case.expected(plan)
    config, summary, connections = model.get_config(), text_of(model), connections_of(model)
    operations = keras_internals.operations_by_path(model)
    gone = {path for branch in case.branches if branch.name in plan.dropped for path in branch.operations}
    with case.surgeon.pruning(plan, case.snapshot) as report:
        outputs = outputs_of(model, case.images)
        assert_close(outputs, expected)
        assert report.parameters_after == model.count_params() < report.parameters_before
        left = keras_internals.operations_by_path(model)
        assert not gone & left.keys()
        assert all(operations[path] is found for path, found in left.items())
        held = {id(variable) for path in gone for variable in getattr(operations[path], "variables", ())}
        assert not held & {id(variable) for variable in model.variables}
        assert not gone & {layer.name for layer in model.layers}
        # A model that is made anew of it lists the same layers in the same order.
        rebuilt = type(model).from_config(model.get_config())
        assert text_of(rebuilt) == text_of(model)
        model.save(tmp_path / "pruned.keras")
        with zipfile.ZipFile(tmp_path / "pruned.keras") as file:
            written = file.read("config.json").decode()
        assert not [path for path in gone if f'"name": "{path.rpartition("/")[2]}"' in written]
        loaded = keras.saving.load_model(tmp_path / "pruned.keras")
        assert loaded.count_params() == model.count_params()
        for output, wanted in zip(outputs_of(loaded, case.images), outputs, strict=True):
            np.testing.assert_array_equal(output, wanted)
    assert model.get_config() == config
    assert text_of(model) == summary
    assert connections_of(model) == connections
    for output, wanted in zip(outputs_of(model, case.images), case.before, strict=True):
        np.testing.assert_array_equal(output, wanted)
