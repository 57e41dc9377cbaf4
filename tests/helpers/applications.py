"""Every constructor of `keras.applications` without half of its channels and branches, with a proof for each."""

import collections
import dataclasses
import inspect
import tempfile
from pathlib import Path

import keras
import numpy as np

from autoprune.errors import PlanError
from autoprune.graph import find_groups
from autoprune.models.safe_convolutions import safe_convolutions
from autoprune.planning import make_plan
from autoprune.surgery import Surgeon
from helpers.oracle import dropped_operands, kept_by_layer, means_by_operand, outputs_of, zeroed_outputs
from helpers.plans import dropping

# Only VGG's number of parameters depends on the size of the image; NASNet and Inception need at least 75 pixels.
PIXELS = 96
VGG_PIXELS = 224


def constructors():
    """Names of all constructors, in alphabetical order."""
    found = vars(keras.applications).items()
    return sorted(name for name, entry in found if inspect.isfunction(entry) and not name.startswith("_"))


def prove(name, pixels=None, kinds=("sum", "concatenation")):
    """Prune one application and check it; returns the figures of its row in the table.

    Half of every group's channels go and, at once, half of the branches of some kinds, drawn at random of those that
    can go together. The largest difference is between the pruned model's logits and those of the original with the
    removed channels and the contributions of the branches zeroed, relative to the largest logit.
    """
    model = build(name, pixels)
    image = np.random.default_rng(0).normal(size=(1, *model.inputs[0].shape[1:])).astype("float32")
    groups = find_groups(model)
    surgeon = Surgeon(model, groups)
    plan = without_half_of_the_branches(surgeon, make_plan(model, 0.5, importance="random", multiple_of=1), kinds)
    gone, means = dropped_operands(surgeon.branches, plan), means_by_operand(surgeon.branches, plan)
    expected = zeroed_outputs(model, kept_by_layer(groups, plan), image, gone, means)[0]
    dense = outputs_of(model, image)[0]
    snapshot = surgeon.snapshot()
    report = surgeon.apply(plan)
    pruned = outputs_of(model, image)[0]
    scale = float(np.abs(expected).max())
    row = {
        "model": name,
        "groups": len(groups),
        "frozen": dict(collections.Counter(group.reason for group in groups if not group.prunable)),
        "branches": sum(branch.removable and branch.kind in kinds for branch in surgeon.branches),
        "dropped": len(report.dropped),
        "parameters": report.parameters_before,
        "parameters_pruned": report.parameters_after,
        "max_difference": float(np.abs(pruned - expected).max()) / scale,
        "change_by_pruning": float(np.abs(pruned - dense).max()) / scale,
        "saved_equals": _saved_equals(model, image, pruned),
        "loss_is_finite": _trains(model, image, pruned.shape),
    }
    surgeon.restore(snapshot)
    row["restored_equals"] = bool(np.array_equal(outputs_of(model, image)[0], dense))
    return row


def without_half_of_the_branches(surgeon, plan, kinds):
    """The plan, which then also drops half of the branches of these kinds that can go."""
    branches = [branch for branch in surgeon.branches if branch.removable and branch.kind in kinds]
    names = [branch.name for branch in branches]
    plan = dropping(surgeon.model, branches, plan, names)  # Measures the means of all gates.
    plan = dataclasses.replace(plan, dropped=())
    for name in np.random.default_rng(0).permutation(names):
        more = dataclasses.replace(plan, dropped=(*plan.dropped, str(name)))
        try:
            surgeon.check(more)
            surgeon.slices(more)
        except PlanError:
            continue
        plan = more if len(more.dropped) <= len(names) // 2 else plan
    return plan


def build(name, pixels=None):
    """An application with random weights whose batch normalisation is not the identity that it starts as."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    size = pixels or (VGG_PIXELS if name.startswith("VGG") else PIXELS)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        # Normalisation of the image keeps what it was built with, and a copy of it.
        if len(weight.shape) == 1 and not weight.path.endswith(("/mean", "/variance")):
            noise = 0.1 * generator.standard_normal(tuple(weight.shape))
            weight.assign(np.abs(weight.numpy() + noise) if "variance" in weight.path else weight.numpy() + noise)
    return model


def _saved_equals(model, image, outputs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    return bool(np.array_equal(outputs_of(loaded, image)[0], outputs))


def _trains(model, image, shape):
    # Eagerly: a step is a step, and compiling one for each of 40 networks takes an hour.
    model.compile(keras.optimizers.SGD(1e-6), "mse", run_eagerly=True)
    with safe_convolutions(model):
        loss = model.train_on_batch(image, np.zeros(shape, "float32"))
    return bool(np.isfinite(loss))
